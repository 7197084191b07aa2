"""The generator of blocks: its counts are those of the closed form, and both ends remember one block."""

import math

import numpy as np
import pytest

from qhybridd.apps.bench.blocks import (
    CLICK_CHUNK,
    STANDARD,
    Block,
    block_of,
    make_block,
    make_link,
)
from qhybridd.bits import Bits
from qhybridd.distill.plan import LinkModel
from qhybridd.distill.sift import Counts, count_clicks, count_errors, match, select, sort_clicks
from qhybridd.distill.terms import Bound, Protocol
from qhybridd.errors import PeerError, ProgramError
from qhybridd.optics.records import Prepared

TWO_DECOYS = Protocol((0.6, 0.2, 0.001), (0.6, 0.3, 0.1), 0.7, Bound.WIESEMANN_TWO, 1e-10, 1e-15, 0.11)


def count(block: Block) -> Counts:
    clicks, prepared = block.clicks, block.emissions.recall(block.gaps)
    matching = match(prepared.bases, clicks.bases, block.count)
    low, high = (select(matching, plane, block.count) for plane in prepared.intensities)
    alice = sort_clicks(matching, prepared.bases, prepared.bits, (low, high), block.count)
    bob = sort_clicks(matching, clicks.bases, clicks.bits, (low, high), block.count)
    kinds = len(block.protocol.intensities)
    keys, tests = alice.key.length, alice.test.length
    return Counts(
        count_clicks(alice.key_intensities, keys, kinds),
        count_errors(alice.key, bob.key, alice.key_intensities, keys, kinds),
        count_clicks(alice.test_intensities, tests, kinds),
        count_errors(alice.test, bob.test, alice.test_intensities, tests, kinds),
    )


@pytest.mark.parametrize("protocol", [STANDARD, TWO_DECOYS])
@pytest.mark.parametrize("qber", [0.01, 0.08])
def test_counts_are_those_of_the_closed_form(protocol: Protocol, qber: float) -> None:
    block = block_of(300_000, qber, seed=1, protocol=protocol)
    counts, means = count(block), block.link.expect(protocol, block.pulses)
    for name in ("key_clicks", "key_errors", "test_clicks", "test_errors"):
        for seen, mean in zip(getattr(counts, name), getattr(means, name), strict=True):
            assert abs(seen - mean) < 5 * math.sqrt(mean) + 3, name
    assert sum(counts.key_clicks) == pytest.approx(300_000, rel=0.01)
    assert sum(counts.key_errors) / sum(counts.key_clicks) == pytest.approx(qber, rel=0.1)


def test_clicks_stay_within_the_block_and_spread_over_it() -> None:
    block = make_block(STANDARD, make_link(0.02), 4 * 10**9, seed=3)
    assert block.count > 3 * CLICK_CHUNK  # in several chunks
    gaps = np.frombuffer(block.gaps, "<u4")
    places = np.cumsum(gaps, dtype=np.uint64)
    assert len(gaps) == block.count == block.clicks.count and gaps[1:].min() == 1
    assert 4 * 10**9 - 10**5 < places[-1] < 4 * 10**9
    quarters = np.histogram(places, 4, (0, 4e9))[0]
    assert quarters == pytest.approx(block.count / 4, rel=0.005)


def test_every_pulse_may_click() -> None:
    link = LinkModel(transmission=1, dark_probability=1 - 1e-12, misalignment=0)
    for pulses in (1, 2, 65, 1000):
        block = make_block(STANDARD, link, pulses, seed=1)
        assert block.count == pulses and np.frombuffer(block.gaps, "<u4").tolist() == [0] + [1] * (pulses - 1)
    assert make_block(STANDARD, LinkModel(0, 1e-9, 0), 10, seed=1).count == 0


def test_a_seed_gives_the_block_again() -> None:
    blocks = [block_of(1000, 0.02, seed=seed) for seed in (5, 5, 6)]
    assert blocks[0].gaps == blocks[1].gaps != blocks[2].gaps
    assert blocks[0].bits == blocks[1].bits != blocks[2].bits
    first = blocks[0].clicks
    first.bits.wipe()
    assert not blocks[0].clicks.bits.secret.is_zero  # fresh each time


def bits_of(data: bytes | Bits, length: int) -> list[int]:
    if isinstance(data, Bits):
        with data.expose() as words:
            data = bytes(words)
    return np.unpackbits(np.frombuffer(data, np.uint8), bitorder="little")[:length].tolist()


def test_other_pulses_than_those_that_clicked_are_remembered_too() -> None:
    block = block_of(5000, 0.02, seed=5)
    whole = block.emissions.recall(block.gaps)
    gaps = np.frombuffer(block.gaps, "<u4").copy()
    gaps[100] += 1
    gaps[101] -= 1
    other = block.emissions.recall(gaps.tobytes())

    def columns(prepared: Prepared) -> list[tuple[int, ...]]:
        planes = (prepared.bases, prepared.bits, *prepared.intensities)
        return list(zip(*(bits_of(plane, block.count) for plane in planes), strict=True))

    seen, expected = columns(other), columns(whole)
    assert [*seen[:100], *seen[101:]] == [*expected[:100], *expected[101:]]
    gaps[-1] += block.pulses
    with pytest.raises(PeerError):
        block.emissions.recall(gaps.tobytes())


def test_an_error_rate_that_no_channel_has() -> None:
    for qber in (0.0, 0.7):
        with pytest.raises(ProgramError):
            make_link(qber)
