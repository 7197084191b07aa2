"""Builds the native module for the stable ABI; everything else stands in pyproject.toml.

`QHYBRIDD_SANITIZE=1` builds it for AddressSanitizer and UndefinedBehaviorSanitizer (`make sanitize`).
"""

import os
from pathlib import Path

from setuptools import Extension, setup

ABI = 0x030B0000  # Python 3.11: the first limited API with the buffer protocol
SANITIZE = ["-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=undefined", "-fno-omit-frame-pointer"]
sanitizing = SANITIZE if os.environ.get("QHYBRIDD_SANITIZE") == "1" else []

setup(
    ext_modules=[
        Extension(
            "qhybridd._native",
            sources=sorted(str(path) for path in Path("csrc").glob("*.c")),
            depends=sorted(str(path) for path in Path("csrc").glob("*.h")),
            define_macros=[("Py_LIMITED_API", hex(ABI))],
            extra_compile_args=[
                "-std=c11",
                "-O2",
                "-Wall",
                "-Wextra",
                "-Werror=implicit-function-declaration",
                *sanitizing,
            ],
            extra_link_args=sanitizing,
            py_limited_api=True,
        )
    ],
    options={"bdist_wheel": {"py_limited_api": "cp311"}},
)
