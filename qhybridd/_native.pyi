"""The C11 kernels (csrc/).

Packed bits are little-endian 64-bit words: bit i is bit i % 64 of word i / 64; unused bits of the last word are zero.
Buffers may have any alignment. A buffer that is too short is a ValueError, and so is one to write to that overlaps
another argument. Kernels that do work release the GIL: no other thread may write to their buffers meanwhile.
"""

from typing import final

@final
class LockedBuffer:
    """Zeroed memory that is mlocked, left out of dumps and wiped when freed. Supports the buffer protocol, writable."""

    def __init__(self, size: int) -> None: ...
    def wipe(self) -> None: ...
    def __len__(self) -> int: ...
    def __buffer__(self, flags: int, /) -> memoryview: ...

# instruction sets (cpu.c)

def instruction_sets() -> list[str]:
    """Those that this processor has, the least first: `portable`, `avx2`, `avx512`."""

def instruction_set() -> str:
    """The one that the kernels use: the best, unless another was chosen."""

def use_instruction_set(name: str, /) -> None:
    """Choose one of `instruction_sets()`, for tests and benchmarks. ValueError for one that the processor lacks."""

def run_chain(rounds: int, /) -> int:
    """Run a chain of dependent instructions; how many cycles of the core it takes, 0 where that is not known.

    Timed, it tells the true frequency, which no counter does where a processor changes its speed.
    """
