"""How fast one end sifts and counts."""

from collections.abc import Iterator
from typing import Final

from qhybridd.apps.bench.blocks import Block, block_of
from qhybridd.apps.bench.options import Options
from qhybridd.apps.bench.readings import Goal, Reading, Timed, fastest
from qhybridd.distill.sift import (
    Sifted,
    count_clicks,
    count_errors,
    decode_gaps,
    encode_gaps,
    match,
    select,
    sort_clicks,
)
from qhybridd.optics.records import Plane

GOAL: Final = Goal(200)
GOAL_WITHOUT_GAPS: Final = Goal(400)
QBER: Final = 0.02


def sifting(options: Options) -> Iterator[Reading]:
    """Alice and Bob, with the code of the gaps and without."""
    block = block_of(1_000_000 if options.quick else 8_000_000, QBER, seed=1)
    clicks, prepared = block.clicks, block.emissions.recall(block.gaps)
    code = encode_gaps(block.gaps, block.count)
    matching = match(prepared.bases, block.bases, block.count)
    low, high = prepared.intensities
    sent = select(matching, low, block.count), select(matching, high, block.count)
    kinds = len(block.protocol.intensities)
    hers = sort_clicks(matching, prepared.bases, prepared.bits, sent, block.count)

    def alice() -> None:
        mine = match(prepared.bases, block.bases, block.count)
        intensities = select(mine, low, block.count), select(mine, high, block.count)
        _count(sort_clicks(mine, prepared.bases, prepared.bits, intensities, block.count), kinds)

    def alice_with_gaps() -> None:
        decode_gaps(code, block.count, block.pulses)
        alice()

    def bob() -> None:
        his = sort_clicks(matching, block.bases, clicks.bits, sent, block.count)
        _count(his, kinds)
        for mine, theirs, planes in (
            (his.test, hers.test, his.test_intensities),
            (his.key, hers.key, his.key_intensities),
        ):
            count_errors(mine, theirs, planes, mine.length, kinds)

    def bob_with_gaps() -> None:
        encode_gaps(block.gaps, block.count)
        bob()

    bits = 8 * len(code) / block.count
    yield _reading("Alice, everything", block, fastest(alice_with_gaps), GOAL)
    yield _reading(f"Bob, everything; {bits:.2f} bits a gap", block, fastest(bob_with_gaps), GOAL)
    yield _reading("Alice, without the gaps", block, fastest(alice), GOAL_WITHOUT_GAPS)
    yield _reading("Bob, without the gaps", block, fastest(bob), GOAL_WITHOUT_GAPS)


def _count(sifted: Sifted, kinds: int) -> None:
    planes: tuple[tuple[tuple[Plane, Plane], int], ...] = (
        (sifted.key_intensities, sifted.key.length),
        (sifted.test_intensities, sifted.test.length),
    )
    for intensities, count in planes:
        count_clicks(intensities, count, kinds)


def _reading(case: str, block: Block, timed: Timed, goal: Goal) -> Reading:
    cycles = timed.cycles(block.count)
    rate = block.count / timed.seconds / 1e6
    return Reading("sifting", case, rate, "Mclicks/s", goal, cycles=cycles, seconds=timed.seconds)
