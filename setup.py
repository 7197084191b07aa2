"""Builds the native module for the stable ABI; everything else stands in pyproject.toml."""

from setuptools import Extension, setup

ABI = 0x030B0000  # Python 3.11: the first limited API with the buffer protocol

setup(
    ext_modules=[
        Extension(
            "qhybridd._native",
            sources=["csrc/module.c", "csrc/locked.c"],
            depends=["csrc/locked.h"],
            define_macros=[("Py_LIMITED_API", hex(ABI))],
            extra_compile_args=[
                "-std=c11",
                "-O2",
                "-Wall",
                "-Wextra",
                "-Werror=implicit-function-declaration",
            ],
            py_limited_api=True,
        )
    ],
    options={"bdist_wheel": {"py_limited_api": "cp311"}},
)
