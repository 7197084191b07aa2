"""Verification: do the two keys agree? Tags of the whole block, and of each frame to find out which one differs.

A tag is the polynomial hash of `csrc/polyhash.h` under a fresh public seed that was drawn after reconciliation, so an
enemy cannot fit errors to it. The tag of a frame is the first half of its hash. Tags go over the line in clear: each of
their bits counts as disclosed.
"""

from fractions import Fraction
from typing import Final

from qhybridd._native import PolyHash
from qhybridd.bits import Bits
from qhybridd.distill.rates import Framing
from qhybridd.errors import ProgramError
from qhybridd.secret import locked_memory

SEED_BYTES: Final = 16
TAG_BITS: Final = 128
"""Of the whole block."""
FRAME_TAG_BITS: Final = 64
_FRAME_TAG_BYTES: Final = FRAME_TAG_BITS // 8


def block_tag(seed: bytes, key: Bits) -> bytes:
    """The tag of a whole key, 16 bytes, under a seed of 16 bytes."""
    with locked_memory():
        hash_ = PolyHash(seed)
    with key.expose() as words:
        hash_.absorb(words, key.length)
    return hash_.value()


def frame_tags(seed: bytes, framing: Framing, key: Bits) -> bytes:
    """The tags of all frames under one seed of 16 bytes: 8 bytes for each."""
    if key.length != framing.key_bits:
        raise ProgramError("program.argument", f"a key of {key.length} bits in frames for {framing.key_bits}")
    tags = bytearray()
    with locked_memory():
        hash_ = PolyHash(seed)
    with key.expose() as words:
        for frame in range(framing.frames):
            start = frame * framing.frame_bits
            bits = min(framing.frame_bits, key.length - start)
            with words[start // 8 :] as part:
                hash_.restart()
                hash_.absorb(part, bits)
            tags += hash_.value()[:_FRAME_TAG_BYTES]
    return bytes(tags)


def epsilon(bits: int, tag_bits: int) -> Fraction:
    """Upper bound of the probability that two different keys of `bits` bits have the same tag of `tag_bits`.

    They are polynomials of n = ⌈bits/128⌉ + 1 blocks: their difference takes each of its 2^128 values at n points at
    most, and 2^(128 − tag_bits) of these values are zero in the bits of the tag.
    """
    if bits < 0 or not 0 < tag_bits <= TAG_BITS:
        raise ProgramError("program.argument", f"a tag of {tag_bits} bits over {bits}")
    return Fraction((bits + 127) // 128 + 1, 1 << tag_bits)
