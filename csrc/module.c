/* The extension module qhybridd._native, for the stable ABI of Python 3.11. */
#include "binding.h"

static int module_exec(PyObject *module)
{
    int (*const parts[])(PyObject *) = {
        locked_add, cpu_add, sift_add, ldpc_add, toeplitz_add, polyhash_add,
        emit_add, detect_add,
    };
    for (size_t i = 0; i < sizeof parts / sizeof *parts; i++) {
        if (parts[i](module))
            return -1;
    }
    return 0;
}

static PyModuleDef_Slot module_slots[] = {
    {Py_mod_exec, module_exec},
    {0, NULL},
};

static struct PyModuleDef module_def = {
    PyModuleDef_HEAD_INIT,
    .m_name = "qhybridd._native",
    .m_doc = "The C11 kernels.",
    .m_slots = module_slots,
};

PyMODINIT_FUNC PyInit__native(void)
{
    return PyModuleDef_Init(&module_def);
}
