/* Sifting for Python: sizes checked, the GIL released. */
#include "binding.h"

#include <string.h>

#include "sift.h"

/* A number of clicks from Python. -1 with ValueError for a negative or an excessive one. */
static int check_count(Py_ssize_t count)
{
    if (count >= 0 && (uint64_t)count <= SIFT_CLICKS_MOST)
        return 0;
    PyErr_Format(PyExc_ValueError, "%zd clicks", count);
    return -1;
}

/* Planes of `count` bits each; on failure those taken before are released. */
static int read_planes(PyObject *const *objects, Py_buffer *views, int number, Py_ssize_t count)
{
    if (check_count(count))
        return -1;
    for (int i = 0; i < number; i++) {
        if (binding_read(objects[i], &views[i], packed_bytes((size_t)count), "a plane")) {
            while (i--)
                PyBuffer_Release(&views[i]);
            return -1;
        }
    }
    return 0;
}

static void release(Py_buffer *views, int number)
{
    while (number--)
        PyBuffer_Release(&views[number]);
}

/* A buffer to write behind the `number` that were taken, apart from them; on failure all are released. */
static int write_behind(PyObject *object, Py_buffer *views, int number, size_t least, const char *what)
{
    if (binding_write(object, &views[number], least, what)) {
        release(views, number);
        return -1;
    }
    if (binding_apart(&views[number], views, number)) {
        release(views, number + 1);
        return -1;
    }
    return 0;
}

/* The tuple of four counts. */
static PyObject *counts(const uint64_t classes[4])
{
    return Py_BuildValue("KKKK", (unsigned long long)classes[0], (unsigned long long)classes[1],
                         (unsigned long long)classes[2], (unsigned long long)classes[3]);
}

static PyObject *match_planes(PyObject *Py_UNUSED(module), PyObject *args)
{
    PyObject *planes[2], *out;
    Py_buffer views[3];
    Py_ssize_t count;
    if (!PyArg_ParseTuple(args, "OOnO:match_planes", &planes[0], &planes[1], &count, &out))
        return NULL;
    if (read_planes(planes, views, 2, count))
        return NULL;
    if (write_behind(out, views, 2, packed_bytes((size_t)count), "out"))
        return NULL;
    Py_BEGIN_ALLOW_THREADS
    sift_match(views[0].buf, views[1].buf, (size_t)count, views[2].buf);
    Py_END_ALLOW_THREADS
    release(views, 3);
    Py_RETURN_NONE;
}

static PyObject *count_classes(PyObject *Py_UNUSED(module), PyObject *args)
{
    PyObject *planes[2];
    Py_buffer views[2];
    Py_ssize_t count;
    uint64_t classes[4];
    if (!PyArg_ParseTuple(args, "OOn:count_classes", &planes[0], &planes[1], &count))
        return NULL;
    if (read_planes(planes, views, 2, count))
        return NULL;
    Py_BEGIN_ALLOW_THREADS
    sift_count(views[0].buf, views[1].buf, (size_t)count, classes);
    Py_END_ALLOW_THREADS
    release(views, 2);
    return counts(classes);
}

static PyObject *count_differences(PyObject *Py_UNUSED(module), PyObject *args)
{
    PyObject *planes[4];
    Py_buffer views[4];
    Py_ssize_t count;
    uint64_t classes[4];
    if (!PyArg_ParseTuple(args, "OOOOn:count_differences", &planes[0], &planes[1], &planes[2], &planes[3], &count))
        return NULL;
    if (read_planes(planes, views, 4, count))
        return NULL;
    Py_BEGIN_ALLOW_THREADS
    sift_count_errors(views[0].buf, views[1].buf, views[2].buf, views[3].buf, (size_t)count, classes);
    Py_END_ALLOW_THREADS
    release(views, 4);
    return counts(classes);
}

static PyObject *select_bits(PyObject *Py_UNUSED(module), PyObject *args)
{
    PyObject *planes[2], *out;
    Py_buffer views[3];
    Py_ssize_t count;
    uint64_t classes[4];
    if (!PyArg_ParseTuple(args, "OOnO:select_bits", &planes[0], &planes[1], &count, &out))
        return NULL;
    if (read_planes(planes, views, 2, count))
        return NULL;
    Py_BEGIN_ALLOW_THREADS
    sift_count(views[0].buf, views[0].buf, (size_t)count, classes);
    Py_END_ALLOW_THREADS
    if (write_behind(out, views, 2, packed_bytes((size_t)classes[3]), "out"))
        return NULL;
    Py_BEGIN_ALLOW_THREADS
    sift_select(views[0].buf, views[1].buf, (size_t)count, views[2].buf);
    Py_END_ALLOW_THREADS
    release(views, 3);
    return PyLong_FromUnsignedLongLong(classes[3]);
}

static PyObject *split_bits(PyObject *Py_UNUSED(module), PyObject *args)
{
    PyObject *planes[3], *key, *tested;
    Py_buffer views[5];
    Py_ssize_t count;
    uint64_t classes[4];
    if (!PyArg_ParseTuple(args, "OOOnOO:split_bits", &planes[0], &planes[1], &planes[2], &count, &key, &tested))
        return NULL;
    if (read_planes(planes, views, 3, count))
        return NULL;
    Py_BEGIN_ALLOW_THREADS
    sift_count(views[0].buf, views[1].buf, (size_t)count, classes);
    Py_END_ALLOW_THREADS
    if (write_behind(key, views, 3, packed_bytes((size_t)classes[1]), "the key bits") ||
        write_behind(tested, views, 4, packed_bytes((size_t)classes[3]), "the test bits"))
        return NULL;
    Py_BEGIN_ALLOW_THREADS
    sift_split(views[0].buf, views[1].buf, views[2].buf, (size_t)count, views[3].buf, views[4].buf);
    Py_END_ALLOW_THREADS
    release(views, 5);
    return Py_BuildValue("KK", (unsigned long long)classes[1], (unsigned long long)classes[3]);
}

static PyObject *encode_gaps(PyObject *Py_UNUSED(module), PyObject *args)
{
    PyObject *object, *result = NULL;
    Py_buffer gaps;
    Py_ssize_t count;
    struct sift_code code;
    int failed;
    if (!PyArg_ParseTuple(args, "On:encode_gaps", &object, &count) || check_count(count))
        return NULL;
    if (binding_read(object, &gaps, 4 * (size_t)count, "the gaps"))
        return NULL;
    Py_BEGIN_ALLOW_THREADS
    failed = sift_measure_gaps(gaps.buf, (size_t)count, &code);
    Py_END_ALLOW_THREADS
    if (failed)
        PyErr_SetString(PyExc_ValueError, "two clicks in one pulse");
    else
        result = PyBytes_FromStringAndSize(NULL, (Py_ssize_t)code.bytes);
    if (result) {
        uint8_t *out = (uint8_t *)PyBytes_AsString(result);
        Py_BEGIN_ALLOW_THREADS
        memset(out, 0, code.bytes);
        sift_encode_gaps(gaps.buf, (size_t)count, &code, out);
        Py_END_ALLOW_THREADS
    }
    PyBuffer_Release(&gaps);
    return result;
}

static PyObject *decode_gaps(PyObject *Py_UNUSED(module), PyObject *args)
{
    PyObject *object, *pulses_object, *out_object;
    Py_buffer views[2];
    Py_ssize_t count;
    int failed;
    if (!PyArg_ParseTuple(args, "OnOO:decode_gaps", &object, &count, &pulses_object, &out_object) || check_count(count))
        return NULL;
    unsigned long long pulses = PyLong_AsUnsignedLongLong(pulses_object); /* the format "K" would not refuse -1 */
    if (PyErr_Occurred() || binding_read(object, &views[0], 1, "the code of the gaps"))
        return NULL;
    if (write_behind(out_object, views, 1, 4 * (size_t)count, "out"))
        return NULL;
    Py_BEGIN_ALLOW_THREADS
    failed = sift_decode_gaps(views[0].buf, (size_t)views[0].len, (size_t)count, pulses, views[1].buf);
    Py_END_ALLOW_THREADS
    release(views, 2);
    if (failed) {
        PyErr_SetString(PyExc_ValueError, "not the gaps of so many clicks within the block");
        return NULL;
    }
    Py_RETURN_NONE;
}

static PyMethodDef methods[] = {
    {"match_planes", match_planes, METH_VARARGS, "Where two planes agree."},
    {"count_classes", count_classes, METH_VARARGS, "Clicks by two planes."},
    {"count_differences", count_differences, METH_VARARGS, "Clicks where two strings differ, by two planes."},
    {"select_bits", select_bits, METH_VARARGS, "The bits where a mask is set."},
    {"split_bits", split_bits, METH_VARARGS, "The bits of matching bases, by basis."},
    {"encode_gaps", encode_gaps, METH_VARARGS, "The Rice code of gaps between clicks."},
    {"decode_gaps", decode_gaps, METH_VARARGS, "The gaps of a Rice code."},
    {NULL, NULL, 0, NULL},
};

int sift_add(PyObject *module)
{
    return PyModule_AddFunctions(module, methods);
}
