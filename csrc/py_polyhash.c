/* PolyHash: the polynomial hash as a Python object, its state in locked memory. */
#include "binding.h"

#include <errno.h>
#include <string.h>

#include "locked.h"
#include "polyhash.h"

typedef struct {
    PyObject_HEAD
    struct polyhash *hash;
    int busy; /* a thread absorbs without the GIL; read and written under it */
    int wiped; /* the point is 0: a tag would be the bare pad */
} PolyHash;

static int read_sixteen(PyObject *object, Py_buffer *view, const char *what)
{
    if (binding_read(object, view, POLYHASH_BYTES, what))
        return -1;
    if (view->len == (Py_ssize_t)POLYHASH_BYTES)
        return 0;
    PyErr_Format(PyExc_ValueError, "%s has %zd bytes, not %u", what, view->len, POLYHASH_BYTES);
    PyBuffer_Release(view);
    return -1;
}

/* The state, if it may be touched now. */
static struct polyhash *state(PyObject *self)
{
    PolyHash *object = (PolyHash *)self;
    if (object->hash && !object->busy && !object->wiped)
        return object->hash;
    PyErr_SetString(PyExc_RuntimeError, object->busy    ? "in use by another thread"
                                        : object->wiped ? "wiped"
                                                        : "not initialised");
    return NULL;
}

static int PolyHash_init(PyObject *self, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"point", NULL};
    PolyHash *object = (PolyHash *)self;
    PyObject *point;
    Py_buffer view;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "O:PolyHash", names, &point))
        return -1;
    if (read_sixteen(point, &view, "point"))
        return -1;
    if (object->hash) { /* after the last call that may run Python code */
        PyBuffer_Release(&view);
        PyErr_SetString(PyExc_RuntimeError, "already initialised");
        return -1;
    }
    object->hash = locked_alloc(sizeof *object->hash);
    if (object->hash)
        polyhash_start(object->hash, view.buf);
    else
        PyErr_Format(PyExc_MemoryError, "cannot lock %zu bytes: %s", sizeof *object->hash, strerror(errno));
    PyBuffer_Release(&view);
    return object->hash ? 0 : -1;
}

static void PolyHash_dealloc(PyObject *self)
{
    PyTypeObject *type = Py_TYPE(self);
    locked_free(((PolyHash *)self)->hash, sizeof(struct polyhash));
    freefunc release = (freefunc)PyType_GetSlot(type, Py_tp_free);
    release(self);
    Py_DECREF(type);
}

static PyObject *PolyHash_absorb(PyObject *self, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"data", "bits", "mark", NULL};
    PyObject *data;
    Py_ssize_t bits;
    long long mark = 0;
    Py_buffer view;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "On|L:absorb", names, &data, &bits, &mark))
        return NULL;
    if (bits < 0 || mark < 0) {
        PyErr_SetString(PyExc_ValueError, "bits and mark are not negative");
        return NULL;
    }
    if (binding_read(data, &view, (size_t)bits / 8 + (bits % 8 != 0), "data"))
        return NULL;
    struct polyhash *hash = state(self); /* after the last call that may run Python code */
    if (!hash) {
        PyBuffer_Release(&view);
        return NULL;
    }
    ((PolyHash *)self)->busy = 1;
    Py_BEGIN_ALLOW_THREADS
    polyhash_absorb(hash, view.buf, (size_t)bits, (uint64_t)mark);
    Py_END_ALLOW_THREADS
    ((PolyHash *)self)->busy = 0;
    PyBuffer_Release(&view);
    Py_RETURN_NONE;
}

static PyObject *PolyHash_value(PyObject *self, PyObject *Py_UNUSED(ignored))
{
    struct polyhash *hash = state(self);
    return hash ? PyBytes_FromStringAndSize((const char *)hash->value, POLYHASH_BYTES) : NULL;
}

static PyObject *PolyHash_tag(PyObject *self, PyObject *pad)
{
    Py_buffer view;
    if (read_sixteen(pad, &view, "pad"))
        return NULL;
    uint8_t tag[POLYHASH_BYTES];
    const uint8_t *bytes = view.buf;
    struct polyhash *hash = state(self);
    if (hash) {
        memcpy(tag, hash->value, sizeof tag);
        for (size_t i = 0; i < sizeof tag; i++)
            tag[i] ^= bytes[i];
    }
    PyBuffer_Release(&view);
    return hash ? PyBytes_FromStringAndSize((const char *)tag, sizeof tag) : NULL;
}

static PyObject *PolyHash_restart(PyObject *self, PyObject *Py_UNUSED(ignored))
{
    struct polyhash *hash = state(self);
    if (!hash)
        return NULL;
    locked_wipe(hash->value, sizeof hash->value);
    Py_RETURN_NONE;
}

static PyObject *PolyHash_wipe(PyObject *self, PyObject *Py_UNUSED(ignored))
{
    PolyHash *object = (PolyHash *)self;
    struct polyhash *hash = object->wiped ? object->hash : state(self); /* twice is no error */
    if (!hash)
        return NULL;
    locked_wipe(hash, sizeof *hash);
    object->wiped = 1;
    Py_RETURN_NONE;
}

static PyMethodDef PolyHash_methods[] = {
    {"absorb", (PyCFunction)(void (*)(void))PolyHash_absorb, METH_VARARGS | METH_KEYWORDS, "Absorb one string of bits."},
    {"value", PolyHash_value, METH_NOARGS, "The hash of what was absorbed, 16 bytes."},
    {"tag", PolyHash_tag, METH_O, "The hash plus a pad of 16 bytes."},
    {"restart", PolyHash_restart, METH_NOARGS, "Forget what was absorbed, and keep the point."},
    {"wipe", PolyHash_wipe, METH_NOARGS, "Overwrite with zeros."},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot PolyHash_slots[] = {
    {Py_tp_doc, "A polynomial hash over GF(2^128) in locked memory."},
    {Py_tp_init, PolyHash_init},
    {Py_tp_dealloc, PolyHash_dealloc},
    {Py_tp_methods, PolyHash_methods},
    {0, NULL},
};

static PyType_Spec PolyHash_spec = {
    .name = "qhybridd._native.PolyHash",
    .basicsize = sizeof(PolyHash),
    .flags = Py_TPFLAGS_DEFAULT,
    .slots = PolyHash_slots,
};

int polyhash_add(PyObject *module)
{
    PyObject *type = PyType_FromModuleAndSpec(module, &PolyHash_spec, NULL);
    if (!type)
        return -1;
    int failed = PyModule_AddObjectRef(module, "PolyHash", type);
    Py_DECREF(type);
    return failed;
}
