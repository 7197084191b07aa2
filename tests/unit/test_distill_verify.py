"""Tags of blocks and frames: equal for equal keys, different for any other, each frame by itself."""

import random
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qhybridd._native import PolyHash
from qhybridd.bits import Bits, packed_bytes
from qhybridd.distill import verify
from qhybridd.distill.codes import FrameSize
from qhybridd.distill.rates import choose_framing
from qhybridd.errors import ProgramError

SEED = bytes(range(16))


def bits(number: int, length: int) -> Bits:
    return Bits.adopt(number.to_bytes(packed_bytes(length), "little"), length)


@given(st.integers(0, 700), st.data())
def test_one_bit_changes_the_tag(length: int, data: st.DataObject) -> None:
    number = data.draw(st.integers(0, (1 << length) - 1))
    tag = verify.block_tag(SEED, bits(number, length))
    assert len(tag) * 8 == verify.TAG_BITS
    assert verify.block_tag(SEED, bits(number, length)) == tag
    assert verify.block_tag(SEED[::-1], bits(number, length)) != tag
    assert verify.block_tag(SEED, bits(number, length + 1)) != tag
    if length:
        flipped = number ^ 1 << data.draw(st.integers(0, length - 1))
        assert verify.block_tag(SEED, bits(flipped, length)) != tag


@pytest.mark.parametrize("length", [1, 63, 5_000, 30_001, 40_000])
def test_frame_tags_name_the_frames_that_differ(length: int) -> None:
    framing = choose_framing(length, 0.02, FrameSize.SMALL)
    source = random.Random(length)
    key = source.getrandbits(length)
    tags = verify.frame_tags(SEED, framing, bits(key, length))
    size = verify.FRAME_TAG_BITS // 8
    assert len(tags) == framing.frames * size
    for frame in range(framing.frames):
        part = key >> frame * framing.frame_bits & (1 << framing.bits_of(frame)) - 1
        alone = PolyHash(SEED)
        alone.absorb(part.to_bytes(packed_bytes(framing.frame_bits), "little"), framing.bits_of(frame))
        assert tags[frame * size : (frame + 1) * size] == alone.value()[:size]
        for at in {0, framing.bits_of(frame) - 1}:
            flipped = key ^ 1 << (frame * framing.frame_bits + at)
            others = verify.frame_tags(SEED, framing, bits(flipped, length))
            differing = [i for i in range(framing.frames) if others[i * size :][:size] != tags[i * size :][:size]]
            assert differing == [frame]


def test_what_does_not_fit_is_refused() -> None:
    framing = choose_framing(1000, 0.02)
    with pytest.raises(ProgramError):
        verify.frame_tags(SEED, framing, bits(0, 999))
    with pytest.raises(ValueError, match="point"):
        verify.block_tag(SEED[1:], bits(0, 8))


def test_epsilon() -> None:
    assert verify.epsilon(0, 128) == Fraction(1, 2**128)
    assert verify.epsilon(128, 128) == Fraction(2, 2**128)
    assert verify.epsilon(129, 64) == Fraction(3, 2**64)
    assert verify.epsilon(10**8, verify.TAG_BITS) < Fraction(1, 2**108)
    assert verify.epsilon(10**6, verify.FRAME_TAG_BITS) < Fraction(1, 2**51)
    for wrong in ((-1, 64), (8, 0), (8, 129)):
        with pytest.raises(ProgramError):
            verify.epsilon(*wrong)


def test_the_bound_holds_in_small() -> None:
    """How many of a sample of seeds let two keys collide in one byte of the tag: not more than the bound allows."""
    source, hits, tries = random.Random(3), 0, 20_000
    for _ in range(tries):
        one, other = PolyHash(seed := source.randbytes(16)), PolyHash(seed)
        one.absorb(b"a" * 32, 256)
        other.absorb(b"b" * 32, 256)
        hits += one.value()[:1] == other.value()[:1]
    assert 0 < hits / tries < verify.epsilon(256, 8)
