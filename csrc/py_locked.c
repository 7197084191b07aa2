/* LockedBuffer: locked memory as a Python object. */
#include "binding.h"

#include <errno.h>
#include <string.h>

#include "locked.h"

typedef struct {
    PyObject_HEAD
    void *memory;
    Py_ssize_t size;
} LockedBuffer;

static int LockedBuffer_init(PyObject *self, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"size", NULL};
    LockedBuffer *buffer = (LockedBuffer *)self;
    Py_ssize_t size;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "n:LockedBuffer", names, &size))
        return -1;
    if (buffer->memory) {
        PyErr_SetString(PyExc_RuntimeError, "already initialised");
        return -1;
    }
    if (size < 1) {
        PyErr_SetString(PyExc_ValueError, "size must be at least 1");
        return -1;
    }
    buffer->memory = locked_alloc((size_t)size);
    if (!buffer->memory) {
        PyErr_Format(PyExc_MemoryError, "cannot lock %zd bytes: %s", size, strerror(errno));
        return -1;
    }
    buffer->size = size;
    return 0;
}

static void LockedBuffer_dealloc(PyObject *self)
{
    LockedBuffer *buffer = (LockedBuffer *)self;
    PyTypeObject *type = Py_TYPE(self);
    locked_free(buffer->memory, (size_t)buffer->size);
    freefunc release = (freefunc)PyType_GetSlot(type, Py_tp_free);
    release(self);
    Py_DECREF(type);
}

static int LockedBuffer_getbuffer(PyObject *self, Py_buffer *view, int flags)
{
    LockedBuffer *buffer = (LockedBuffer *)self;
    if (!buffer->memory) {
        PyErr_SetString(PyExc_BufferError, "not initialised");
        view->obj = NULL;
        return -1;
    }
    return PyBuffer_FillInfo(view, self, buffer->memory, buffer->size, 0, flags);
}

static Py_ssize_t LockedBuffer_length(PyObject *self)
{
    return ((LockedBuffer *)self)->size;
}

static PyObject *LockedBuffer_wipe(PyObject *self, PyObject *Py_UNUSED(ignored))
{
    LockedBuffer *buffer = (LockedBuffer *)self;
    if (buffer->memory)
        locked_wipe(buffer->memory, (size_t)buffer->size);
    Py_RETURN_NONE;
}

static PyMethodDef LockedBuffer_methods[] = {
    {"wipe", LockedBuffer_wipe, METH_NOARGS, "Overwrite with zeros."},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot LockedBuffer_slots[] = {
    {Py_tp_doc, "Zeroed memory that is mlocked, left out of dumps and wiped when freed."},
    {Py_tp_init, LockedBuffer_init},
    {Py_tp_dealloc, LockedBuffer_dealloc},
    {Py_tp_methods, LockedBuffer_methods},
    {Py_sq_length, LockedBuffer_length},
    {Py_bf_getbuffer, LockedBuffer_getbuffer},
    {0, NULL},
};

static PyType_Spec LockedBuffer_spec = {
    .name = "qhybridd._native.LockedBuffer",
    .basicsize = sizeof(LockedBuffer),
    .flags = Py_TPFLAGS_DEFAULT,
    .slots = LockedBuffer_slots,
};

int locked_add(PyObject *module)
{
    PyObject *type = PyType_FromModuleAndSpec(module, &LockedBuffer_spec, NULL);
    if (!type)
        return -1;
    int failed = PyModule_AddObjectRef(module, "LockedBuffer", type);
    Py_DECREF(type);
    return failed;
}
