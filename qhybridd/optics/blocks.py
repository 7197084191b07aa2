"""The frames of a block become one list of clicks, with Bob's bits in locked memory."""

from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from qhybridd.bits import Bits, packed_bytes
from qhybridd.errors import HostError, ProgramError
from qhybridd.optics.records import Clicks, Detections

GAP_MOST: Final = (1 << 32) - 1


def assemble(detections: Sequence[Detections], layout_block_pulses: int) -> Clicks:
    """The clicks of one block from all its frames, in their order. Bob's bits are wiped where they were.

    Raises `ProgramError` (program.argument) for frames that are not contiguous or not the block's, `HostError`
    (link.outage) where 2^32 pulses pass without a click: gaps have 32 bits.
    """
    pulses = 0
    for frame in detections:
        if frame.first != detections[0].first + pulses:
            raise ProgramError("program.argument", "the frames of a block are not contiguous")
        pulses += frame.pulses
    if pulses != layout_block_pulses:
        raise ProgramError("program.argument", f"frames of {pulses} pulses for a block of {layout_block_pulses}")
    try:
        count = sum(len(frame.gaps) for frame in detections)
        gaps = _join_gaps(detections)
        bases = _pack([frame.bases for frame in detections], count)
        bits = _pack([frame.bits for frame in detections], count)
    finally:
        for frame in detections:
            frame.bits.fill(0)
    return Clicks(pulses, count, gaps.tobytes(), bytes(bases), Bits.adopt(bits, count))


def _join_gaps(detections: Sequence[Detections]) -> NDArray[np.uint32]:
    """The gaps since the block began: only the first one of a frame is another than within the frame."""
    gaps = np.concatenate([np.empty(0, np.uint32), *(frame.gaps for frame in detections)]).astype("<u4", copy=False)
    at, since = 0, 0
    for frame in detections:
        if not len(frame.gaps):
            since += frame.pulses
            continue
        joined = int(frame.gaps[0]) + since
        if joined > GAP_MOST:
            raise HostError("link.outage", f"{joined} pulses passed without a click")
        gaps[at] = joined
        at += len(frame.gaps)
        since = frame.pulses - int(frame.gaps.sum(dtype=np.uint64))
    return gaps


def _pack(parts: Sequence[NDArray[np.uint8]], count: int) -> bytearray:
    """Elements of 0 and 1 as packed bits; nothing of them is left elsewhere."""
    whole = np.concatenate([np.empty(0, np.uint8), *parts])
    packed = np.packbits(whole, bitorder="little")
    whole.fill(0)
    words = bytearray(packed_bytes(count))
    np.frombuffer(words, np.uint8)[: len(packed)] = packed
    packed.fill(0)
    return words
