#include "cpu.h"

#include <stdatomic.h>
#include <string.h>

#include "binding.h"

static const char *const names[] = {"portable", "avx2", "avx512"};
#define SETS ((int)(sizeof names / sizeof *names))
#define UNKNOWN (-1)

static atomic_int chosen = UNKNOWN;

static enum cpu_set best(void)
{
#if defined(__x86_64__)
    __builtin_cpu_init();
    int avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("bmi") && __builtin_cpu_supports("bmi2") &&
               __builtin_cpu_supports("popcnt") && __builtin_cpu_supports("pclmul");
    int avx512 = avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                 __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
                 __builtin_cpu_supports("avx512vbmi") && __builtin_cpu_supports("avx512vpopcntdq") &&
                 __builtin_cpu_supports("vpclmulqdq");
    return avx512 ? CPU_AVX512 : avx2 ? CPU_AVX2 : CPU_PORTABLE;
#else
    return CPU_PORTABLE;
#endif
}

enum cpu_set cpu_set(void)
{
    int set = atomic_load_explicit(&chosen, memory_order_relaxed);
    if (set == UNKNOWN) {
        set = (int)best();
        atomic_store_explicit(&chosen, set, memory_order_relaxed);
    }
    return (enum cpu_set)set;
}

static PyObject *instruction_sets(PyObject *Py_UNUSED(module), PyObject *Py_UNUSED(ignored))
{
    PyObject *list = PyList_New(0);
    for (int set = 0; list && set <= (int)best(); set++) {
        PyObject *name = PyUnicode_FromString(names[set]);
        if (!name || PyList_Append(list, name))
            Py_CLEAR(list);
        Py_XDECREF(name);
    }
    return list;
}

static PyObject *instruction_set(PyObject *Py_UNUSED(module), PyObject *Py_UNUSED(ignored))
{
    return PyUnicode_FromString(names[cpu_set()]);
}

static PyObject *use_instruction_set(PyObject *Py_UNUSED(module), PyObject *argument)
{
    PyObject *utf8 = PyUnicode_AsUTF8String(argument);
    if (!utf8)
        return NULL;
    const char *name = PyBytes_AsString(utf8);
    int set = 0;
    while (set < SETS && strcmp(name, names[set]) != 0)
        set++;
    Py_DECREF(utf8);
    if (set > (int)best()) {
        PyErr_Format(PyExc_ValueError, "this processor has no instruction set %R", argument);
        return NULL;
    }
    atomic_store_explicit(&chosen, set, memory_order_relaxed);
    Py_RETURN_NONE;
}

#define CHAIN_CYCLES 16

/* Rotations and exclusive ors of one register, each of which waits for the one before: one cycle each on x86-64. */
#define CHAIN_LINK(value, key) (value) = ((value) << 13 | (value) >> 51) ^ (key)

static uint64_t chain(uint64_t value, uint64_t key, uint64_t rounds)
{
    while (rounds--) {
        CHAIN_LINK(value, key);
        CHAIN_LINK(value, key);
        CHAIN_LINK(value, key);
        CHAIN_LINK(value, key);
        CHAIN_LINK(value, key);
        CHAIN_LINK(value, key);
        CHAIN_LINK(value, key);
        CHAIN_LINK(value, key);
    }
    return value;
}

static PyObject *run_chain(PyObject *Py_UNUSED(module), PyObject *argument)
{
    unsigned long rounds = PyLong_AsUnsignedLong(argument);
    if (rounds == (unsigned long)-1 && PyErr_Occurred())
        return NULL;
    volatile uint64_t sink;
    Py_BEGIN_ALLOW_THREADS
    sink = chain(rounds, 0x9e3779b97f4a7c15u, rounds);
    Py_END_ALLOW_THREADS
    (void)sink;
#if defined(__x86_64__)
    return PyLong_FromUnsignedLongLong((unsigned long long)rounds * CHAIN_CYCLES);
#else
    return PyLong_FromLong(0);
#endif
}

static PyMethodDef methods[] = {
    {"instruction_sets", instruction_sets, METH_NOARGS, "Those that this processor has, the least first."},
    {"instruction_set", instruction_set, METH_NOARGS, "The one in use."},
    {"use_instruction_set", use_instruction_set, METH_O, "Choose one of `instruction_sets()`, for tests and benchmarks."},
    {"run_chain", run_chain, METH_O, "Run a chain of dependent instructions; the cycles that it takes."},
    {NULL, NULL, 0, NULL},
};

int cpu_add(PyObject *module)
{
    return PyModule_AddFunctions(module, methods);
}
