"""How a block is cut into frames: within what was measured, for every size of block and every error rate."""

from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qhybridd.distill import codes
from qhybridd.distill.codes import FrameSize
from qhybridd.distill.rates import (
    KEY_BITS_MOST,
    PUNCTURED_LEAST,
    PUNCTURED_MOST,
    QBER_LEAST,
    QBER_MOST,
    REVEAL_STEPS,
    Framing,
    check_framing,
    choose_framing,
    entropy,
    leak,
    revealed,
)
from qhybridd.errors import PeerError, ProgramError

RATES = [0.005, 0.0075, 0.01, 0.015, 0.02, 0.03, 0.04, 0.05, 0.065, 0.08, 0.09, 0.1]


def efficiency(framing: Framing, qber: float) -> float:
    return framing.disclosed / (framing.key_bits * entropy(qber))


@pytest.mark.parametrize("qber", RATES)
@pytest.mark.parametrize("key_bits", [60_000, 102_400, 150_000, 1_000_000, 3_333_333, 10**7, 10**8])
def test_blocks_disclose_at_most_so_much(key_bits: int, qber: float):
    bound = 1.35 if qber >= 0.01 or key_bits > 200_000 else 2.0  # one frame and a bit: two halves
    assert 1.0 < efficiency(choose_framing(key_bits, qber), qber) <= bound


@pytest.mark.parametrize("qber", RATES)
@pytest.mark.parametrize("key_bits", [10_000, 12_800, 15_000, 30_000, 49_999])
def test_small_blocks_disclose_more(key_bits: int, qber: float):
    assert 1.0 < efficiency(choose_framing(key_bits, qber), qber) <= (1.6 if qber >= 0.01 else 2.8)


@given(st.integers(1, 3_000_000), st.floats(0, QBER_MOST), st.sampled_from(list(FrameSize)))
def test_at_most_half_of_a_frame_is_shortened_where_a_smaller_one_would_do(key_bits: int, qber: float, size: FrameSize):
    framing = choose_framing(key_bits, qber, size)
    if framing.record.size is not FrameSize.SMALL:
        assert framing.frame_bits >= (framing.record.bits - framing.punctured) / 2


@pytest.mark.parametrize("qber", RATES)
def test_large_frames_disclose_less(qber: float):
    asked, default = choose_framing(10**7, qber, FrameSize.LARGE), choose_framing(10**7, qber)
    assert asked.record.size is FrameSize.LARGE
    assert default.record.size is FrameSize.MEDIUM
    assert asked.disclosed < default.disclosed


@given(st.integers(1, KEY_BITS_MOST), st.floats(0, QBER_MOST), st.sampled_from(list(FrameSize)))
def test_a_framing_fits_its_block(key_bits: int, qber: float, size: FrameSize):
    framing = choose_framing(key_bits, qber, size)
    check_framing(framing)
    record, k = framing.record, framing.frame_bits
    assert framing == choose_framing(key_bits, qber, size)
    assert k + framing.punctured <= record.bits
    assert PUNCTURED_LEAST * record.checks <= framing.punctured <= PUNCTURED_MOST * record.checks
    lengths = [framing.bits_of(frame) for frame in {0, framing.frames // 2, framing.frames - 1}]
    assert all(0 < length <= k for length in lengths)
    assert (framing.frames - 1) * k + framing.bits_of(framing.frames - 1) == key_bits
    assert framing.disclosed == framing.frames * (framing.syndrome_bits - framing.punctured)


@given(st.sampled_from(list(FrameSize)), st.floats(QBER_LEAST, QBER_MOST), st.floats(QBER_LEAST, QBER_MOST))
def test_more_errors_need_more_bits(size: FrameSize, low: float, high: float):
    low, high = sorted((low, high))
    assert entropy(low) < leak(low, size) <= leak(high, size) + 1e-12


def test_what_was_measured_rises_and_covers_the_range():
    for size in FrameSize:
        points = codes.leaks(size)
        assert list(points) == sorted(points)
        assert all(a[1] < b[1] for a, b in pairwise(points))
        assert points[-1][1] >= QBER_MOST
        assert all(leaked > entropy(qber) for leaked, qber in points)


def test_errors_below_the_range_are_taken_for_the_least():
    assert choose_framing(10**6, 0.0) == choose_framing(10**6, QBER_LEAST)


@pytest.mark.parametrize(
    ("key_bits", "qber"), [(0, 0.02), (-1, 0.02), (KEY_BITS_MOST + 1, 0.02), (9, 0.1001), (9, -0.1)]
)
def test_out_of_range(key_bits: int, qber: float):
    with pytest.raises(ProgramError):
        choose_framing(key_bits, qber)


def test_the_last_step_is_the_whole_frame():
    assert REVEAL_STEPS[-1] is None
    told = [revealed(1001, step) for step in range(len(REVEAL_STEPS))]
    assert told == [500, 1001, 1001]


small = st.integers(-2, 1 << 40)


@given(small, small, small, small)
def test_a_peers_framing_is_refused_or_sound(code: int, punctured: int, frames: int, key_bits: int):
    framing = Framing(code, punctured, frames, key_bits)
    try:
        check_framing(framing)
    except PeerError as error:
        assert error.code == "link.malformed"
    else:
        assert 0 < framing.bits_of(framing.frames - 1) <= framing.frame_bits


@given(st.data())
def test_a_framing_near_a_good_one(data: st.DataObject):
    good = choose_framing(data.draw(st.integers(1, 10**7)), data.draw(st.floats(0.005, 0.1)))
    field = data.draw(st.sampled_from(["code", "punctured", "frames", "key_bits"]))
    framing = replace(good, **{field: data.draw(st.integers(-1, 2 * getattr(good, field) + 2))})
    try:
        check_framing(framing)
    except PeerError as error:
        assert error.code == "link.malformed"
    else:
        assert 0 < framing.bits_of(framing.frames - 1) <= framing.frame_bits
        assert framing.frame_bits + framing.punctured <= framing.record.bits


def test_a_framing_that_needs_too_many_frames():
    good = choose_framing(10**6, 0.03)
    for wrong in (
        replace(good, frames=good.frames - 1),
        replace(good, code=len(codes.catalogue())),
        replace(good, frames=0),
    ):
        with pytest.raises(PeerError):
            check_framing(wrong)
    short = choose_framing(5_000, 0.03)
    for punctured in (-1, short.syndrome_bits // 5):
        with pytest.raises(PeerError, match="punctured"):
            check_framing(replace(short, punctured=punctured))
