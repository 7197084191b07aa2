#include "binding.h"

static int take(PyObject *object, Py_buffer *view, int flags, size_t least, const char *what)
{
    if (PyObject_GetBuffer(object, view, flags))
        return -1;
    if ((size_t)view->len >= least)
        return 0;
    PyErr_Format(PyExc_ValueError, "%s has %zd bytes and needs %zu", what, view->len, least);
    PyBuffer_Release(view);
    return -1;
}

int binding_read(PyObject *object, Py_buffer *view, size_t least, const char *what)
{
    return take(object, view, PyBUF_C_CONTIGUOUS, least, what);
}

int binding_write(PyObject *object, Py_buffer *view, size_t least, const char *what)
{
    return take(object, view, PyBUF_C_CONTIGUOUS | PyBUF_WRITABLE, least, what);
}

int binding_apart(const Py_buffer *out, const Py_buffer *others, int number)
{
    const uintptr_t start = (uintptr_t)out->buf, end = start + (size_t)out->len;
    for (int i = 0; i < number; i++) {
        const uintptr_t other = (uintptr_t)others[i].buf, other_end = other + (size_t)others[i].len;
        if (out->len && others[i].len && start < other_end && other < end) {
            PyErr_SetString(PyExc_ValueError, "what is written overlaps another buffer");
            return -1;
        }
    }
    return 0;
}
