/* The detectors for Python: sizes checked, the GIL released. */
#include "binding.h"

#include <string.h>

#include "detect.h"

/* In the order of the arguments. */
enum {
    GAPS, STATES, PHOTONS, DARK_PLACES, DARK_MASKS, TRAPS_0, TRAP_DELAYS_0, TRAPS_1, TRAP_DELAYS_1, BASES, WORDS,
    PHYSICS, QUANTILES, DELAYS, GATES, STATE, OUT_GAPS, OUT_BASES, OUT_BITS, VIEWS
};

static void release(Py_buffer *views, int number)
{
    while (number--) {
        if (views[number].obj)
            PyBuffer_Release(&views[number]);
    }
}

/* All views or none. The sizes of the arrays that count the others are taken as they come. */
static int take_views(PyObject *const *objects, Py_buffer *views)
{
    /* an array that tells how many there are comes before those that hold as many */
    static const uint8_t order[VIEWS] = {
        STATES, GAPS, PHOTONS, DELAYS, DARK_MASKS, DARK_PLACES, TRAPS_0, TRAP_DELAYS_0, TRAPS_1, TRAP_DELAYS_1,
        WORDS, BASES, PHYSICS, QUANTILES, GATES, STATE, OUT_BITS, OUT_BASES, OUT_GAPS,
    };
    size_t arrivals = 0, darks = 0, traps[2] = {0, 0}, words = 0, room = 0;
    memset(views, 0, VIEWS * sizeof *views);
    for (int i = 0; i < VIEWS; i++) {
        const int which = order[i];
        size_t least = 0;
        int failed;
        if ((which == DELAYS || which == GATES) && objects[which] == Py_None)
            continue;
        switch (which) {
        case GAPS: case PHOTONS: least = 4 * arrivals; break;
        case DELAYS: least = 2 * arrivals; break;
        case DARK_PLACES: least = 8 * darks; break;
        case TRAP_DELAYS_0: least = 4 * traps[0]; break;
        case TRAP_DELAYS_1: least = 4 * traps[1]; break;
        case BASES: least = 4 * words; break;
        case PHYSICS: least = sizeof(struct detect_physics); break;
        case QUANTILES: least = 8 * DETECT_QUANTILES; break;
        case GATES: least = 2 * 8 * DETECT_DELAYS; break;
        case STATE: least = sizeof(struct detect_state); break;
        case OUT_BASES: least = room; break;
        case OUT_GAPS: least = 4 * room; break;
        default: break;
        }
        if (which >= STATE) {
            failed = binding_write(objects[which], &views[which], least, "an array to write");
        } else {
            failed = binding_read(objects[which], &views[which], least, "an array of the frame");
        }
        if (failed) {
            views[which].obj = NULL;
            release(views, VIEWS);
            return -1;
        }
        const size_t size = (size_t)views[which].len;
        switch (which) {
        case STATES: arrivals = size; break;
        case DARK_MASKS: darks = size; break;
        case TRAPS_0: traps[0] = size / 8; break;
        case TRAPS_1: traps[1] = size / 8; break;
        case WORDS: words = size / 8; break;
        case OUT_BITS: room = size; break;
        default: break;
        }
    }
    for (int which = STATE; which < VIEWS; which++) {
        if (binding_apart(&views[which], views, which)) {
            release(views, VIEWS);
            return -1;
        }
    }
    return 0;
}

static PyObject *detect_frame(PyObject *Py_UNUSED(module), PyObject *args)
{
    PyObject *objects[VIEWS], *numbers[3];
    uint64_t values[3];
    Py_buffer views[VIEWS];
    if (!PyArg_ParseTuple(args, "OOOOOOOOOOOOOOOOOOOOOO:detect", &numbers[0], &numbers[1], &numbers[2], &objects[GAPS],
                          &objects[STATES], &objects[PHOTONS], &objects[DARK_PLACES], &objects[DARK_MASKS],
                          &objects[TRAPS_0], &objects[TRAP_DELAYS_0], &objects[TRAPS_1], &objects[TRAP_DELAYS_1],
                          &objects[BASES], &objects[WORDS], &objects[PHYSICS], &objects[QUANTILES], &objects[DELAYS],
                          &objects[GATES], &objects[STATE], &objects[OUT_GAPS], &objects[OUT_BASES],
                          &objects[OUT_BITS]))
        return NULL;
    for (int i = 0; i < 3; i++) {
        values[i] = PyLong_AsUnsignedLongLong(numbers[i]);
        if (PyErr_Occurred())
            return NULL;
        if (values[i] > DETECT_PULSES_MOST || (i == 1 && values[i] > UINT32_MAX)) {
            PyErr_SetString(PyExc_ValueError, "too many pulses");
            return NULL;
        }
    }
    if ((objects[DELAYS] == Py_None) != (objects[GATES] == Py_None)) {
        PyErr_SetString(PyExc_ValueError, "delays and the curves of the gates come together");
        return NULL;
    }
    if (take_views(objects, views))
        return NULL;

    const struct detect_frame frame = {
        .first = values[0],
        .pulses = values[1],
        .dead = values[2],
        .arrivals = (size_t)views[STATES].len,
        .gaps = views[GAPS].buf,
        .states = views[STATES].buf,
        .photons = views[PHOTONS].buf,
        .delays = views[DELAYS].buf,
        .darks = (size_t)views[DARK_MASKS].len,
        .dark_places = views[DARK_PLACES].buf,
        .dark_masks = views[DARK_MASKS].buf,
        .traps = {(size_t)views[TRAPS_0].len / 8, (size_t)views[TRAPS_1].len / 8},
        .trap_avalanches = {views[TRAPS_0].buf, views[TRAPS_1].buf},
        .trap_delays = {views[TRAP_DELAYS_0].buf, views[TRAP_DELAYS_1].buf},
        .words_count = (size_t)views[WORDS].len / 8,
        .bases = views[BASES].buf,
        .words = views[WORDS].buf,
        .quantiles = views[QUANTILES].buf,
        .gates = views[GATES].buf,
        .room = (size_t)views[OUT_BITS].len,
        .out_gaps = views[OUT_GAPS].buf,
        .out_bases = views[OUT_BASES].buf,
        .out_bits = views[OUT_BITS].buf,
    };
    struct detect_physics physics;
    struct detect_state state;
    struct detect_tally tally;
    int failed;
    memcpy(&physics, views[PHYSICS].buf, sizeof physics);
    memcpy(&state, views[STATE].buf, sizeof state);
    failed = state.waiting > DETECT_TRAPS;
    if (!failed) {
        Py_BEGIN_ALLOW_THREADS
        failed = detect(&frame, &physics, &state, &tally);
        Py_END_ALLOW_THREADS
    }
    if (!failed)
        memcpy(views[STATE].buf, &state, sizeof state);
    release(views, VIEWS);
    if (failed) {
        PyErr_SetString(PyExc_ValueError, "too few random words, too little room, or no state of detectors");
        return NULL;
    }
    return Py_BuildValue("nKKKKKdd", (Py_ssize_t)tally.count, (unsigned long long)tally.clicks[0],
                         (unsigned long long)tally.clicks[1], (unsigned long long)tally.doubles,
                         (unsigned long long)tally.avalanches[0], (unsigned long long)tally.avalanches[1], tally.sum,
                         tally.squares);
}

static PyMethodDef methods[] = {
    {"detect", detect_frame, METH_VARARGS, "What two gated detectors make of one frame of light."},
    {NULL, NULL, 0, NULL},
};

int detect_add(PyObject *module)
{
    return PyModule_AddFunctions(module, methods);
}
