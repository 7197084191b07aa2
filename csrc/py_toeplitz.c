#include "binding.h"

#include <errno.h>
#include <string.h>

#include "toeplitz.h"

static PyObject *toeplitz(PyObject *Py_UNUSED(module), PyObject *args)
{
    PyObject *key_object, *seed_object, *out_object, *result = NULL;
    Py_ssize_t bits, key_bits;
    if (!PyArg_ParseTuple(args, "OnOnO:toeplitz", &key_object, &bits, &seed_object, &key_bits, &out_object))
        return NULL;
    if (key_bits < 1 || key_bits > bits || bits > PY_SSIZE_T_MAX - 64) {
        PyErr_Format(PyExc_ValueError, "%zd bits from %zd", key_bits, bits);
        return NULL;
    }
    Py_buffer key, seed, out;
    if (binding_read(key_object, &key, packed_bytes((size_t)bits), "key"))
        return NULL;
    if (binding_read(seed_object, &seed, packed_bytes((size_t)bits - 1), "seed"))
        goto release_key;
    if (binding_write(out_object, &out, packed_bytes((size_t)key_bits), "out"))
        goto release_seed;
    if (binding_apart(&out, &key, 1) || binding_apart(&out, &seed, 1))
        goto release_out;
    int failed, error;
    Py_BEGIN_ALLOW_THREADS
    failed = toeplitz_hash(out.buf, key.buf, seed.buf, (size_t)bits, (size_t)key_bits);
    error = errno;
    Py_END_ALLOW_THREADS
    if (failed)
        PyErr_Format(PyExc_MemoryError, "cannot lock the scratch of a hash: %s", strerror(error));
    else
        result = Py_NewRef(Py_None);
release_out:
    PyBuffer_Release(&out);
release_seed:
    PyBuffer_Release(&seed);
release_key:
    PyBuffer_Release(&key);
    return result;
}

static PyMethodDef methods[] = {
    {"toeplitz", toeplitz, METH_VARARGS, "toeplitz(key, bits, seed, key_bits, out): the modified Toeplitz hash."},
    {NULL, NULL, 0, NULL},
};

int toeplitz_add(PyObject *module)
{
    return PyModule_AddFunctions(module, methods);
}
