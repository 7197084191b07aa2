/* LdpcCode: a quasi-cyclic code as a Python object. */
#include "binding.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "ldpc.h"

typedef struct {
    PyObject_HEAD
    struct ldpc_code code; /* zero until initialised, immutable from then on */
} LdpcCode;

static int LdpcCode_init(PyObject *self, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"table", NULL};
    LdpcCode *ldpc = (LdpcCode *)self;
    PyObject *table;
    Py_buffer view;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "O:LdpcCode", names, &table))
        return -1;
    if (binding_read(table, &view, 0, "table"))
        return -1;
    if (ldpc->code.rows) { /* after the last call that may run Python code */
        PyBuffer_Release(&view);
        PyErr_SetString(PyExc_RuntimeError, "already initialised");
        return -1;
    }
    const char *refusal = ldpc_parse(view.buf, (size_t)view.len, &ldpc->code);
    PyBuffer_Release(&view);
    if (refusal)
        PyErr_SetString(refusal == ldpc_no_memory ? PyExc_MemoryError : PyExc_ValueError, refusal);
    return refusal ? -1 : 0;
}

static void LdpcCode_dealloc(PyObject *self)
{
    PyTypeObject *type = Py_TYPE(self);
    ldpc_free(&((LdpcCode *)self)->code);
    freefunc release = (freefunc)PyType_GetSlot(type, Py_tp_free);
    release(self);
    Py_DECREF(type);
}

static PyObject *LdpcCode_bits(PyObject *self, void *Py_UNUSED(closure))
{
    return PyLong_FromSize_t(ldpc_bits(&((LdpcCode *)self)->code));
}

static PyObject *LdpcCode_checks(PyObject *self, void *Py_UNUSED(closure))
{
    return PyLong_FromSize_t(ldpc_checks(&((LdpcCode *)self)->code));
}

/* The code, or NULL with an exception: for one that was not initialised, or a number of frames that no buffer holds. */
static const struct ldpc_code *usable(PyObject *self, Py_ssize_t frames)
{
    const struct ldpc_code *code = &((LdpcCode *)self)->code;
    if (!code->rows) {
        PyErr_SetString(PyExc_RuntimeError, "not initialised");
        return NULL;
    }
    if (frames < 0 || frames > PY_SSIZE_T_MAX >> 22) {
        PyErr_Format(PyExc_ValueError, "%zd frames", frames);
        return NULL;
    }
    return code;
}

static PyObject *LdpcCode_syndromes(PyObject *self, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"words", "out", "frames", NULL};
    PyObject *words_object, *out_object;
    Py_ssize_t frames;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "OOn:syndromes", names, &words_object, &out_object, &frames))
        return NULL;
    const struct ldpc_code *code = usable(self, frames);
    Py_buffer words, out;
    if (!code || binding_read(words_object, &words, (size_t)frames * ldpc_bits(code) / 8, "words"))
        return NULL;
    if (binding_write(out_object, &out, (size_t)frames * ldpc_checks(code) / 8, "out")) {
        PyBuffer_Release(&words);
        return NULL;
    }
    int failed = binding_apart(&out, &words, 1);
    if (!failed) {
        int error;
        Py_BEGIN_ALLOW_THREADS
        failed = ldpc_syndromes(code, words.buf, out.buf, (size_t)frames);
        error = errno;
        Py_END_ALLOW_THREADS
        if (failed)
            PyErr_Format(PyExc_MemoryError, "cannot lock memory: %s", strerror(error));
    }
    PyBuffer_Release(&words);
    PyBuffer_Release(&out);
    if (failed)
        return NULL;
    Py_RETURN_NONE;
}

/* Numbers out of a decoding, as a list. */
static PyObject *list_of(const uint32_t *used, Py_ssize_t frames)
{
    PyObject *list = PyList_New(frames);
    for (Py_ssize_t frame = 0; list && frame < frames; frame++) {
        PyObject *number = PyLong_FromUnsignedLong(used[frame]);
        if (!number || PyList_SetItem(list, frame, number))
            Py_CLEAR(list);
    }
    return list;
}

/* Every frame's `known`, which stands between `noisy` and the end of the word: ValueError and -1 otherwise. Copied, so
 * that what was checked is what is used. */
static int take_known(const uint8_t *known, Py_ssize_t frames, uint32_t noisy, size_t bits, uint32_t *to)
{
    for (Py_ssize_t frame = 0; frame < frames; frame++, known += 4) {
        uint32_t end = (uint32_t)known[0] | (uint32_t)known[1] << 8 | (uint32_t)known[2] << 16 | (uint32_t)known[3] << 24;
        if (end < noisy || end > bits) {
            PyErr_Format(PyExc_ValueError, "known[%zd] is %u, not between %u and %zu", frame, end, noisy, bits);
            return -1;
        }
        to[frame] = end;
    }
    return 0;
}

static PyObject *LdpcCode_decode(PyObject *self, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"words", "syndromes", "frames", "noisy", "known", "qber", "iterations", NULL};
    PyObject *words_object, *syndromes_object, *known_object, *list = NULL;
    Py_ssize_t frames, noisy, iterations;
    double qber;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "OOnnOdn:decode", names, &words_object, &syndromes_object, &frames,
                                     &noisy, &known_object, &qber, &iterations))
        return NULL;
    const struct ldpc_code *code = usable(self, frames);
    if (!code)
        return NULL;
    const size_t bits = ldpc_bits(code);
    if (noisy < 0 || (size_t)noisy > bits)
        return PyErr_Format(PyExc_ValueError, "noisy is %zd, not between 0 and %zu", noisy, bits);
    if (!(qber > 0 && qber < 0.5))
        return PyErr_Format(PyExc_ValueError, "qber is not between 0 and 0.5");
    if (iterations < 1 || iterations > 1000000)
        return PyErr_Format(PyExc_ValueError, "iterations is %zd, not between 1 and 1000000", iterations);
    Py_buffer words, syndromes, known;
    if (binding_write(words_object, &words, (size_t)frames * bits / 8, "words"))
        return NULL;
    if (binding_read(syndromes_object, &syndromes, (size_t)frames * ldpc_checks(code) / 8, "syndromes"))
        goto release_words;
    if (binding_read(known_object, &known, (size_t)frames * 4, "known"))
        goto release_syndromes;
    if (binding_apart(&words, &syndromes, 1))
        goto release_known;
    uint32_t *used = calloc(2 * (size_t)frames + 1, sizeof *used);
    if (!used) {
        PyErr_NoMemory();
        goto release_known;
    }
    uint32_t *ends = used + frames;
    if (take_known(known.buf, frames, (uint32_t)noisy, bits, ends))
        goto free_used;
    int failed, error;
    Py_BEGIN_ALLOW_THREADS
    failed = ldpc_decode(code, words.buf, syndromes.buf, (size_t)frames, (uint32_t)noisy, ends, qber,
                         (uint32_t)iterations, used);
    error = errno;
    Py_END_ALLOW_THREADS
    if (failed)
        PyErr_Format(PyExc_MemoryError, "cannot lock memory: %s", strerror(error));
    else
        list = list_of(used, frames);
free_used:
    free(used);
release_known:
    PyBuffer_Release(&known);
release_syndromes:
    PyBuffer_Release(&syndromes);
release_words:
    PyBuffer_Release(&words);
    return list;
}

static PyMethodDef LdpcCode_methods[] = {
    {"syndromes", (PyCFunction)(void (*)(void))LdpcCode_syndromes, METH_VARARGS | METH_KEYWORDS,
     "The syndromes of packed words."},
    {"decode", (PyCFunction)(void (*)(void))LdpcCode_decode, METH_VARARGS | METH_KEYWORDS,
     "Correct packed words in place towards their syndromes."},
    {NULL, NULL, 0, NULL},
};

static PyGetSetDef LdpcCode_getset[] = {
    {"bits", LdpcCode_bits, NULL, "Bits of a word.", NULL},
    {"checks", LdpcCode_checks, NULL, "Bits of a syndrome.", NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyType_Slot LdpcCode_slots[] = {
    {Py_tp_doc, "A quasi-cyclic LDPC code."},
    {Py_tp_init, LdpcCode_init},
    {Py_tp_dealloc, LdpcCode_dealloc},
    {Py_tp_methods, LdpcCode_methods},
    {Py_tp_getset, LdpcCode_getset},
    {0, NULL},
};

static PyType_Spec LdpcCode_spec = {
    .name = "qhybridd._native.LdpcCode",
    .basicsize = sizeof(LdpcCode),
    .flags = Py_TPFLAGS_DEFAULT,
    .slots = LdpcCode_slots,
};

int ldpc_add(PyObject *module)
{
    PyObject *type = PyType_FromModuleAndSpec(module, &LdpcCode_spec, NULL);
    if (!type)
        return -1;
    int failed = PyModule_AddObjectRef(module, "LdpcCode", type);
    Py_DECREF(type);
    return failed;
}
