"""How fast keys are hashed down, and what memory that takes."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from qhybridd.apps.bench.options import Options
from qhybridd.apps.bench.readings import Goal, Reading, fastest
from qhybridd.bits import Bits, packed_bytes
from qhybridd.distill.amplify import amplify, seed_bytes

GOALS: Final = {10**6: Goal(800), 10**7: Goal(600), 10**8: Goal(450)}
MEMORY_GOAL: Final = Goal(2, at_most=True)
"""Bytes for each bit of the input."""


def amplification(options: Options) -> Iterator[Reading]:
    """Half of the bits come out."""
    for bits, goal in GOALS.items():
        if options.quick and bits > 10**6:
            return
        key = random_bits(bits)
        seed = os.urandom(seed_bytes(bits, bits // 2))
        timed = fastest(lambda key=key, seed=seed, bits=bits: amplify(key, seed, bits // 2).wipe())  # type: ignore[misc]
        case = f"{bits:.0e} bits to half as many"
        rate = bits / timed.seconds / 1e6
        yield Reading("amplification", case, rate, "Mb/s", goal, cycles=timed.cycles(bits), seconds=timed.seconds)
        if bits > 10**6:
            yield _memory(key, seed)
        key.wipe()


def random_bits(bits: int) -> Bits:
    """A key of whole words or nearly so: the last word is zero."""
    data = bytearray(os.urandom(packed_bytes(bits)))
    data[-8:] = bytes(8)
    return Bits.adopt(data, bits)


def _memory(key: Bits, seed: bytes) -> Reading:
    """The most that was resident meanwhile beyond what was before, and the key and its seed, which were."""
    before, top = resident_bytes()
    amplify(key, seed, key.length // 2).wipe()
    _, top = resident_bytes(reset=False)
    used = (top - before + len(key.secret) + len(seed)) / key.length
    case = f"{key.length:.0e} bits: memory with key, seed and result"
    return Reading("amplification", case, used, "bytes a bit", MEMORY_GOAL)


def resident_bytes(*, reset: bool = True) -> tuple[int, int]:
    """Resident now, and at the most since the last reset (proc(5), clear_refs 5)."""
    if reset:
        Path("/proc/self/clear_refs").write_text("5")
    fields = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    now, top = (int(fields[name].split()[0]) * 1024 for name in ("VmRSS", "VmHWM"))
    return now, top
