"""How fast Bob's errors are corrected, and what that discloses."""

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

import numpy as np

from qhybridd.apps.bench.options import Options
from qhybridd.apps.bench.readings import Goal, Reading, fastest
from qhybridd.bits import Bits, packed_bytes
from qhybridd.distill.codes import FrameSize
from qhybridd.distill.rates import Framing, choose_framing, entropy
from qhybridd.distill.reconcile import Receiver, Sender

FRAME_ERRORS_GOAL: Final = Goal(0.01, at_most=True)
EFFICIENCY_GOALS: Final = {
    (FrameSize.MEDIUM, 0.02): Goal(1.16, at_most=True),
    (FrameSize.MEDIUM, 0.05): Goal(1.13, at_most=True),
    (FrameSize.LARGE, 0.02): Goal(1.09, at_most=True),
    (FrameSize.LARGE, 0.05): Goal(1.07, at_most=True),
}
SPEED_GOALS: Final = {FrameSize.MEDIUM: Goal(60), FrameSize.LARGE: Goal(30)}
"""Mb/s of sifted key, where the efficiency has a goal too."""
BITS: Final = {FrameSize.SMALL: 4_000_000, FrameSize.MEDIUM: 30_000_000, FrameSize.LARGE: 60_000_000}
"""Hundreds of frames, so that 1 % of failures shows; of the large ones some sixty."""
QUICK_BITS: Final = {FrameSize.SMALL: 400_000, FrameSize.MEDIUM: 3_000_000, FrameSize.LARGE: 6_000_000}
NAMES: Final = {FrameSize.SMALL: "10^4", FrameSize.MEDIUM: "10^5", FrameSize.LARGE: "10^6"}


def reconciliation(options: Options) -> Iterator[Reading]:
    """Frames of 10^5 bits, as blocks use them by default."""
    for qber in options.qbers:
        yield from correct(FrameSize.MEDIUM, qber, options)


def large_frames(options: Options) -> Iterator[Reading]:
    """Frames of 10^6 bits: they disclose less and take longer."""
    for qber in options.qbers:
        yield from correct(FrameSize.LARGE, qber, options)


def small_frames(options: Options) -> Iterator[Reading]:
    """Frames of 10^4 bits, for small blocks."""
    for qber in options.qbers:
        yield from correct(FrameSize.SMALL, qber, options)


@dataclass(slots=True)
class _Run:
    """One block under correction; every run begins with the same errors."""

    framing: Framing
    alice: bytes
    bob: bytes
    qber: float
    failed: int = 0
    """Frames that the syndrome alone did not correct."""
    disclosed: int = 0
    """Bits, retries included."""
    _sender: Sender = field(init=False)
    _receiver: Receiver = field(init=False)
    _syndromes: bytes = field(init=False)

    def __post_init__(self) -> None:
        self.prepare()

    def prepare(self) -> None:
        """Fresh keys, and Alice's part."""
        self._sender = Sender(self.framing, Bits.adopt(self.alice, self.framing.key_bits), os.urandom)
        self._receiver = Receiver(self.framing, Bits.adopt(self.bob, self.framing.key_bits), self.qber)
        self._syndromes = self._sender.syndromes()

    def encode(self) -> None:
        """Alice's part alone."""
        self._sender.syndromes()

    def decode(self) -> None:
        """Bob's part, with what Alice tells him of frames that failed."""
        failed = self._receiver.take(self._syndromes)
        self.failed = len(failed)
        while failed:
            failed = self._receiver.take_more(failed, self._sender.more(failed))
        self.disclosed = self._receiver.disclosed


def correct(size: FrameSize, qber: float, options: Options) -> Iterator[Reading]:
    """Both ends at one error rate."""
    bits = (QUICK_BITS if options.quick else BITS)[size]
    alice, bob, errors = noisy_keys(bits, qber)
    run = _Run(choose_framing(bits, qber, size), alice, bob, qber)
    encoded = fastest(run.encode)
    decoded = fastest(run.decode, prepare=run.prepare)
    goals = EFFICIENCY_GOALS.get((size, round(qber, 6)))
    stage = f"reconciliation, frames of {NAMES[size]} bits"
    yield Reading(
        stage,
        f"Bob corrects {run.framing.frames} frames",
        bits / decoded.seconds / 1e6,
        "Mb/s",
        SPEED_GOALS.get(size) if goals else None,
        qber,
        decoded.cycles(bits),
        run.disclosed / (bits * entropy(errors / bits)),
        goals,
        run.failed / run.framing.frames,
        FRAME_ERRORS_GOAL if goals else None,
        decoded.seconds,
    )
    rate = bits / encoded.seconds / 1e6
    yield Reading(
        stage, "Alice tells syndromes", rate, "Mb/s", None, qber, encoded.cycles(bits), seconds=encoded.seconds
    )


def noisy_keys(bits: int, qber: float) -> tuple[bytes, bytes, int]:
    """Packed: a random key, the same with errors; and how many these are."""
    rng = np.random.default_rng(round(qber * 1e6) + bits)
    errors = np.zeros(packed_bytes(bits) * 8, bool)
    errors[:bits] = rng.random(bits, np.float32) < qber
    flips = np.packbits(errors, bitorder="little")
    key = np.frombuffer(rng.bytes(len(flips)), np.uint8).copy()
    valid = np.zeros(packed_bytes(bits) * 8, bool)
    valid[:bits] = True
    key &= np.packbits(valid, bitorder="little")
    return key.tobytes(), (key ^ flips).tobytes(), int(errors.sum())
