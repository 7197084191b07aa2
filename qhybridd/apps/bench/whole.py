"""How fast whole blocks become keys, how that grows with their size, and with a second core."""

import os
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Final

from qhybridd.apps.bench.blocks import Block, block_of
from qhybridd.apps.bench.options import Options
from qhybridd.apps.bench.pipeline import Times, make_keys, run_sessions, run_stages, terms_for
from qhybridd.apps.bench.readings import Goal, Reading, frequency_hz

GOALS: Final = {0.02: Goal(45), 0.03: Goal(45)}
"""Mb/s of sifted key, both ends' work on one core."""
TWO_CORES_GOAL: Final = Goal(1.8)
BITS: Final = 10_000_000
QUICK_BITS: Final = 1_000_000
GROWTH_QBER: Final = 0.02
GROWTH_SIZES: Final = (10**4, 10**5, 10**6, 10**7)
RUNS: Final = 3
GROWTH_BLOCKS: Final = 20


def whole(options: Options) -> Iterator[Reading]:
    """Both ends in turn on one core, and each end's share."""
    for qber in options.qbers:
        block = block_of(QUICK_BITS if options.quick else BITS, qber, seed=2)
        run, what = _way(block, qber)
        times = min((run() for _ in range(RUNS)), key=lambda one: one.both_s)
        hertz, bits = frequency_hz(), times.sifted_bits
        share = f"{times.key_bits / bits:.2f} of a bit each"
        for case, seconds, goal in (
            (f"both ends, {what}, {share}", times.both_s, GOALS.get(round(qber, 6))),
            ("Alice alone", times.alice_s, None),
            ("Bob alone", times.bob_s, None),
        ):
            cycles = seconds * hertz / bits if hertz else None
            yield Reading("whole", case, bits / seconds / 1e6, "Mb/s", goal, qber, cycles, seconds=seconds)


def growth(options: Options) -> Iterator[Reading]:
    """Time of both ends against the size of the block: stages alone, since small blocks pay no key."""
    sizes = GROWTH_SIZES[:3] if options.quick else GROWTH_SIZES
    for size in (*sizes, 10**8) if options.full else sizes:
        # Of small blocks several: a frame that fails is dear, and they have few.
        blocks = [block_of(size, GROWTH_QBER, seed=seed) for seed in range(min(GROWTH_BLOCKS, max(1, 10**7 // size)))]
        repeats = RUNS if size < 10**7 else 1
        runs = [
            min((run_stages(block, GROWTH_QBER) for _ in range(repeats)), key=lambda one: one.both_s)
            for block in blocks
        ]
        seconds, bits = sum(run.both_s for run in runs), sum(run.sifted_bits for run in runs)
        case, cycles = f"{size:.0e} bits of sifted key", seconds * frequency_hz() / bits or None
        mean_s = seconds / len(runs)
        yield Reading("growth", case, seconds / bits * 1e9, "ns a bit", None, GROWTH_QBER, cycles, seconds=mean_s)


def two_cores(options: Options) -> Iterator[Reading]:
    """Two blocks in two threads against one block in one."""
    if len(os.sched_getaffinity(0)) < 2:
        return
    qber = options.qbers[0] if GROWTH_QBER not in options.qbers else GROWTH_QBER
    blocks = [block_of(QUICK_BITS if options.quick else BITS, qber, seed=seed) for seed in (4, 5)]
    runs = [_way(block, qber)[0] for block in blocks]
    alone = min(_elapsed(runs[0]) + _elapsed(runs[1]) for _ in range(RUNS))
    with ThreadPoolExecutor(2) as pool:
        together = min(_elapsed(lambda: list(pool.map(lambda run: run(), runs))) for _ in range(RUNS))
    case = "two blocks in two threads against one after the other"
    yield Reading("two cores", case, alone / together, "times as fast", TWO_CORES_GOAL, qber, seconds=together)


def _way(block: Block, qber: float) -> tuple[Callable[[], Times], str]:
    """How a block is run, and what to call it."""
    terms = terms_for(block, qber)
    if terms.key_bits > 0:
        keys = [make_keys() for _ in range(2 * RUNS)]
        return lambda: run_sessions(block, terms, keys.pop()), "sessions"
    return lambda: run_stages(block, qber), "stages (too many errors for a key)"


def _elapsed(work: Callable[[], object]) -> float:
    begun = time.perf_counter()
    work()
    return time.perf_counter() - begun
