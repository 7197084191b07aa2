/* What the bindings of the kernels share: buffers in and out of Python, with their bounds checked once, here. */
#ifndef QHYBRIDD_BINDING_H
#define QHYBRIDD_BINDING_H

#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <stddef.h>
#include <stdint.h>

#if defined(__BYTE_ORDER__) && __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "packed bits are little-endian 64-bit words: a big-endian host is not supported"
#endif

_Static_assert(sizeof(size_t) == 8, "products of sizes that were checked apart must not wrap around");

/* Take a C-contiguous view of at least `least` bytes. ValueError names `what` and the sizes; -1 then, nothing to release.
 * Buffers need not be aligned: kernels read and write them with unaligned loads and stores. What a kernel reads
 * it may read twice, so no other thread may write there meanwhile. */
int binding_read(PyObject *object, Py_buffer *view, size_t least, const char *what);
int binding_write(PyObject *object, Py_buffer *view, size_t least, const char *what);

/* 0 where `out` shares no byte with any of `number` other views. ValueError and -1 otherwise; nothing is released: a
 * kernel that counted what it will write must not change, by writing, what it counted. */
int binding_apart(const Py_buffer *out, const Py_buffer *others, int number);

/* Bytes of the 64-bit words that hold `bits` packed bits: bit i is bit i % 64 of word i / 64; unused bits are zero. */
static inline size_t packed_bytes(size_t bits)
{
    return (bits + 63) / 64 * 8;
}

/* Each adds what one kernel offers to the module; -1 with an exception set when it cannot. */
int locked_add(PyObject *module);
int cpu_add(PyObject *module);
int sift_add(PyObject *module);
int ldpc_add(PyObject *module);
int toeplitz_add(PyObject *module);
int polyhash_add(PyObject *module);
int emit_add(PyObject *module);
int detect_add(PyObject *module);

#endif
