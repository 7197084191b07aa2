/* Emission for Python: sizes checked, the GIL released. */
#include "binding.h"

#include "emit.h"

#define PULSES_MOST ((uint64_t)1 << 63)
#define COUNT_MOST ((size_t)1 << 40)

/* Views that are taken one after the other, and released together. */
struct views {
    Py_buffer view[10];
    int number;
};

static void release(struct views *views)
{
    while (views->number)
        PyBuffer_Release(&views->view[--views->number]);
}

static int take_read(struct views *views, PyObject *object, size_t least, const char *what)
{
    if (binding_read(object, &views->view[views->number], least, what))
        return -1;
    views->number++;
    return 0;
}

/* A buffer to write, apart from all that were taken before it. */
static int take_write(struct views *views, PyObject *object, size_t least, const char *what)
{
    Py_buffer *view = &views->view[views->number];
    if (binding_write(object, view, least, what))
        return -1;
    const int overlaps = binding_apart(view, views->view, views->number);
    views->number++;
    return overlaps;
}

static int check_count(size_t count)
{
    if (count <= COUNT_MOST)
        return 0;
    PyErr_Format(PyExc_ValueError, "%zu pulses at once", count);
    return -1;
}

/* Numbers of pulses; the format "K" would not refuse -1. */
static int take_pulses(PyObject *object, PyObject *end_object, uint64_t *number, uint64_t *end)
{
    *number = PyLong_AsUnsignedLongLong(object);
    if (PyErr_Occurred())
        return -1;
    *end = PyLong_AsUnsignedLongLong(end_object);
    if (PyErr_Occurred())
        return -1;
    if (*number <= *end && *end <= PULSES_MOST)
        return 0;
    PyErr_SetString(PyExc_ValueError, "pulses are counted upwards and below 2^63");
    return -1;
}

static PyObject *emit_candidates_(PyObject *Py_UNUSED(module), PyObject *args)
{
    PyObject *words, *number_object, *end_object, *numbers, *blocks;
    struct views taken = {.number = 0};
    double scale;
    uint64_t number, end, next = 0;
    size_t found = 0;
    if (!PyArg_ParseTuple(args, "OdOOOO:emit_candidates", &words, &scale, &number_object, &end_object, &numbers, &blocks))
        return NULL;
    if (take_pulses(number_object, end_object, &number, &end))
        return NULL;
    if (!(scale >= 0)) {
        PyErr_SetString(PyExc_ValueError, "a mean distance below 0");
        return NULL;
    }
    if (take_read(&taken, words, 0, "the words"))
        return NULL;
    const size_t count = (size_t)taken.view[0].len / 8;
    const int failed = take_write(&taken, numbers, 8 * count, "the numbers") ||
                       take_write(&taken, blocks, EMIT_BLOCK_BYTES * count, "the blocks");
    if (!failed) {
        Py_BEGIN_ALLOW_THREADS
        found = emit_candidates(taken.view[0].buf, count, scale, number, end, taken.view[1].buf, taken.view[2].buf, &next);
        Py_END_ALLOW_THREADS
    }
    release(&taken);
    return failed ? NULL : Py_BuildValue("nK", (Py_ssize_t)found, (unsigned long long)next);
}

static PyObject *emit_places_(PyObject *Py_UNUSED(module), PyObject *args)
{
    PyObject *gaps, *number_object, *end_object, *numbers, *blocks;
    struct views taken = {.number = 0};
    int ascending, outside = 0;
    uint64_t number, end, next = 0;
    if (!PyArg_ParseTuple(args, "OpOOOO:emit_places", &gaps, &ascending, &number_object, &end_object, &numbers, &blocks))
        return NULL;
    if (take_pulses(number_object, end_object, &number, &end) || take_read(&taken, gaps, 0, "the gaps"))
        return NULL;
    const size_t count = (size_t)taken.view[0].len / 4;
    const int failed = take_write(&taken, numbers, 8 * count, "the numbers") ||
                       take_write(&taken, blocks, EMIT_BLOCK_BYTES * count, "the blocks");
    if (!failed) {
        Py_BEGIN_ALLOW_THREADS
        outside = emit_places(taken.view[0].buf, count, ascending, number, end, taken.view[1].buf, taken.view[2].buf, &next);
        Py_END_ALLOW_THREADS
    }
    release(&taken);
    if (outside)
        PyErr_SetString(PyExc_ValueError, "pulses that do not ascend, or lie outside");
    return failed || outside ? NULL : PyLong_FromUnsignedLongLong(next);
}

static PyObject *emit_keep_(PyObject *Py_UNUSED(module), PyObject *args)
{
    PyObject *numbers, *choices, *words, *thresholds, *table, *last_object, *gaps, *states, *photons;
    struct views taken = {.number = 0};
    Py_ssize_t number, levels_signed;
    unsigned int least;
    size_t kept = 0;
    if (!PyArg_ParseTuple(args, "OnOOOOnIOOOO:emit_keep", &numbers, &number, &choices, &words, &thresholds, &table,
                          &levels_signed, &least, &last_object, &gaps, &states, &photons))
        return NULL;
    uint64_t last = PyLong_AsUnsignedLongLong(last_object);
    if (PyErr_Occurred())
        return NULL;
    const size_t count = (size_t)number, levels = (size_t)levels_signed;
    if (!levels || levels > EMIT_LEVELS_MOST || (levels & (levels - 1)) || least > UINT32_MAX / 2) {
        PyErr_SetString(PyExc_ValueError, "levels that are no power of two up to 2048, or too many photons");
        return NULL;
    }
    if (check_count(count))
        return NULL;
    const int failed = take_read(&taken, numbers, 8 * count, "the numbers") ||
                       take_read(&taken, choices, EMIT_BLOCK_BYTES * count, "the choices") ||
                       take_read(&taken, words, 8 * count, "the words") ||
                       take_read(&taken, thresholds, EMIT_THRESHOLDS_BYTES, "the thresholds") ||
                       take_read(&taken, table, EMIT_INTENSITIES * levels * EMIT_ENTRY_BYTES, "the table") ||
                       take_write(&taken, gaps, 4 * count, "the gaps") ||
                       take_write(&taken, states, count, "the states") ||
                       take_write(&taken, photons, 4 * count, "the photons");
    if (!failed) {
        Py_buffer *view = taken.view;
        Py_BEGIN_ALLOW_THREADS
        kept = emit_keep(view[0].buf, count, view[1].buf, view[2].buf, view[3].buf, view[4].buf, levels, least, &last,
                         view[5].buf, view[6].buf, view[7].buf);
        Py_END_ALLOW_THREADS
    }
    release(&taken);
    return failed ? NULL : Py_BuildValue("nK", (Py_ssize_t)kept, (unsigned long long)last);
}

static PyObject *emit_merge_(PyObject *Py_UNUSED(module), PyObject *args)
{
    PyObject *object[6], *gaps, *states, *photons;
    struct views taken = {.number = 0};
    struct emit_list list[2] = {{.count = 0}, {.count = 0}};
    size_t count = 0;
    if (!PyArg_ParseTuple(args, "OOOOOOOOO:emit_merge", &object[0], &object[1], &object[2], &object[3], &object[4],
                          &object[5], &gaps, &states, &photons))
        return NULL;
    int failed = 0;
    for (int i = 0; i < 2 && !failed; i++) {
        failed = take_read(&taken, object[3 * i + 1], 0, "the states");
        if (failed)
            break;
        list[i].count = (size_t)taken.view[taken.number - 1].len;
        failed = check_count(list[i].count) || take_read(&taken, object[3 * i], 4 * list[i].count, "the gaps") ||
                 take_read(&taken, object[3 * i + 2], 4 * list[i].count, "the photons");
        if (failed)
            break;
        list[i].states = taken.view[3 * i].buf;
        list[i].gaps = taken.view[3 * i + 1].buf;
        list[i].photons = taken.view[3 * i + 2].buf;
        count += list[i].count;
    }
    failed = failed || take_write(&taken, gaps, 4 * count, "the gaps") || take_write(&taken, states, count, "the states") ||
             take_write(&taken, photons, 4 * count, "the photons");
    if (!failed) {
        Py_BEGIN_ALLOW_THREADS
        count = emit_merge(&list[0], &list[1], taken.view[6].buf, taken.view[7].buf, taken.view[8].buf);
        Py_END_ALLOW_THREADS
    }
    release(&taken);
    return failed ? NULL : PyLong_FromSize_t(count);
}

static PyObject *emit_recall_(PyObject *Py_UNUSED(module), PyObject *args)
{
    PyObject *numbers, *choices, *thresholds, *out[4];
    struct views taken = {.number = 0};
    Py_ssize_t number;
    if (!PyArg_ParseTuple(args, "OnOOOOOO:emit_recall", &numbers, &number, &choices, &thresholds, &out[0], &out[1],
                          &out[2], &out[3]))
        return NULL;
    const size_t count = (size_t)number;
    if (check_count(count))
        return NULL;
    int failed = take_read(&taken, numbers, 8 * count, "the numbers") ||
                 take_read(&taken, choices, EMIT_BLOCK_BYTES * count, "the choices") ||
                 take_read(&taken, thresholds, EMIT_THRESHOLDS_BYTES, "the thresholds");
    for (int i = 0; i < 4 && !failed; i++)
        failed = take_write(&taken, out[i], packed_bytes(count), "a plane");
    if (!failed) {
        Py_buffer *view = taken.view;
        Py_BEGIN_ALLOW_THREADS
        emit_recall(view[0].buf, count, view[1].buf, view[2].buf, view[3].buf, view[4].buf, view[5].buf, view[6].buf);
        Py_END_ALLOW_THREADS
    }
    release(&taken);
    if (failed)
        return NULL;
    Py_RETURN_NONE;
}

static PyMethodDef methods[] = {
    {"emit_candidates", emit_candidates_, METH_VARARGS, "Pulses that may be lit."},
    {"emit_places", emit_places_, METH_VARARGS, "Pulses by the gaps between them."},
    {"emit_keep", emit_keep_, METH_VARARGS, "The candidates that hold photons."},
    {"emit_merge", emit_merge_, METH_VARARGS, "One list of arrivals out of two."},
    {"emit_recall", emit_recall_, METH_VARARGS, "What was chosen for pulses, as planes."},
    {NULL, NULL, 0, NULL},
};

int emit_add(PyObject *module)
{
    return PyModule_AddFunctions(module, methods);
}
