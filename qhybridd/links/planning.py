"""What Alice plans: how the pulses are cut into frames and blocks, and the terms that each block is held to.

A block's terms are fixed before its first pulse is emitted, from the link's data sheet or from earlier blocks. So they
never depend on the block that they judge, and a bad plan costs key, not secrecy: see `docs/links.md`.
"""

import math
from collections import deque
from typing import Final

from qhybridd.distill.accounts import assume_qber
from qhybridd.distill.authenticate import TAG_BYTES
from qhybridd.distill.messages import MAX_MESSAGE_BYTES
from qhybridd.distill.pads import BLOCK_BYTES
from qhybridd.distill.plan import Expected, average, plan
from qhybridd.distill.rates import QBER_MOST, choose_framing
from qhybridd.distill.record import BlockRecord
from qhybridd.distill.sift import Counts
from qhybridd.distill.terms import Protocol, Terms
from qhybridd.errors import OperatorError
from qhybridd.optics.parameters import Optics
from qhybridd.optics.records import Layout
from qhybridd.optics.theory import expected_counts

FRAME_S: Final = 0.05
"""Time of the link that a frame takes: faults and drift hold for a frame."""
FRAME_CLICKS_LEAST: Final = 400
"""Sifted clicks to expect of a frame, however long it takes: Bob's clock follows the times of a frame's clicks, and his
monitors judge by them, only where noise cannot be most of them (`optics.monitors.light_spread`)."""
FRAME_PULSES_MOST: Final = 1 << 31
FRAME_ARRIVALS_MOST: Final = 1 << 18
"""What a frame may take of memory, about: four megabytes."""
BLOCK_PULSES_MOST: Final = 1 << 52
PROBE_PULSES: Final = 1 << 40
"""Expectations per pulse are taken from so many."""

LEAKAGE_MARGIN: Final = 1.15
"""Over what the framing for the expected error rate discloses: further bits of frames that fail."""
LEAKAGE_EXTRA: Final = 1000
"""Tags and answers."""
MESSAGE_BYTES_LEAST: Final = 1 << 20
MESSAGE_BYTES_A_CLICK: Final = 16
"""The longest message tells the gaps between clicks, 1.3 bytes each at 50 km and 2.5 at 200 km."""
AGAIN: Final = 2
"""Kept blocks whose average is planned from: on a link that slowly gets worse, older ones promise too much."""
REFUSED_MOST: Final = 3
"""Refusals in a row after which the last refused block is planned from."""
TAGS_BITS: Final = 2 * 8 * BLOCK_BYTES
"""What a block may take of both ends' pads: one that pays for less only spends them."""
_REPLANNED: Final = frozenset({"link.attack", "link.outage", "link.leakage"})


def lay_out(optics: Optics, block_clicks: int) -> Layout:
    """Blocks in which `block_clicks` sifted clicks in the key basis are expected, in frames of about `FRAME_S`, or more
    where fewer than `FRAME_CLICKS_LEAST` would come in that time.

    Raises `OperatorError` (config.value) for a link on which nothing arrives.
    """
    rate = math.fsum(expected_counts(optics, PROBE_PULSES).key_clicks) / PROBE_PULSES
    pulses = math.ceil(block_clicks / rate) if rate > 0 else BLOCK_PULSES_MOST + 1
    if pulses > BLOCK_PULSES_MOST:
        raise OperatorError("config.value", f"no light arrives for blocks of {block_clicks} clicks")
    repetition_hz = optics.source.repetition_hz
    frame = int(bound_frame(optics, max(FRAME_S * repetition_hz, FRAME_CLICKS_LEAST / rate)))
    frames = -(-pulses // max(1, frame))
    return Layout(repetition_hz, -(-pulses // frames), frames)


def bound_frame(optics: Optics, pulses: float) -> float:
    """So many pulses, or as many as a frame of this link may have."""
    arrivals = optics.source.intensities[0] * optics.fibre.transmission * optics.receiver.thinning
    return min(pulses, FRAME_PULSES_MOST, FRAME_ARRIVALS_MOST / max(arrivals, 1e-12))


def message_bytes_most(optics: Optics, block_clicks: int) -> int:
    """Of a message about a block of such a link: ten times what its clicks take, so that a peer fills no memory."""
    clicks = math.ceil(block_clicks / optics.source.key_basis_probability**2)
    return min(MAX_MESSAGE_BYTES + TAG_BYTES, MESSAGE_BYTES_LEAST + MESSAGE_BYTES_A_CLICK * clicks)


class Planner:
    """Alice's plans, from the data sheet first, then from what blocks were like."""

    def __init__(self, protocol: Protocol, optics: Optics, pulses: int) -> None:
        self._protocol, self._pulses = protocol, pulses
        self._kept: deque[Counts] = deque(maxlen=AGAIN)
        self._refusals = 0
        """In a row, of blocks that can be planned from."""
        found = expected_counts(optics, pulses)
        sheet = Expected(found.key_clicks, found.key_errors, found.test_clicks, found.test_errors)
        # A link that pays for little has no room for a margin: some of its blocks fail then, and the others give keys.
        plans = (self._plan(sheet, clicks, errors) for clicks, errors in ((0.95, 1.2), (0.98, 1.1), (1.0, 1.02)))
        self.terms = next((terms for terms in plans if terms is not None), None)
        """What the next block is to meet; None where no block of this link pays for a key."""

    def note(self, record: BlockRecord) -> bool:
        """Learn of a block, kept or dropped. True when `terms` changed."""
        counts = _counts_of(record)
        before = self.terms
        if record.outcome.kept:
            assert counts is not None
            self._refusals = 0
            self._kept.append(counts)
            self.terms = self._plan(average(self._kept)) or self.terms
        elif record.outcome.code in _REPLANNED and counts is not None:
            self._refusals += 1
            if self._refusals >= REFUSED_MOST:
                planned = self._plan(average([counts]))
                if planned is not None:
                    self._kept.clear()
                    self.terms = planned
                self._refusals = 0
        else:
            self._refusals = 0
        return self.terms != before

    def _plan(self, expected: Expected, clicks: float = 0.97, errors: float = 1.1) -> Terms | None:
        """Terms that a somewhat worse block still meets: a link drifts. None where they pay for no key."""
        key, test = (tuple(clicks * n for n in counts) for counts in (expected.key_clicks, expected.test_clicks))
        worse = Expected(
            key,
            tuple(min(n, errors * wrong) for n, wrong in zip(key, expected.key_errors, strict=True)),
            test,
            tuple(min(n, errors * wrong) for n, wrong in zip(test, expected.test_errors, strict=True)),
        )
        if min(math.fsum(worse.key_clicks), math.fsum(worse.test_clicks)) < 1:
            return None
        leakage = leakage_budget(expected, errors)
        if leakage is None:
            return None
        terms = plan(self._protocol, self._pulses, worse, leakage)
        return terms if terms.key_bits > TAGS_BITS else None


def leakage_budget(expected: Expected, errors: float) -> int | None:
    """Bits that a block with so many times the expected errors may disclose; None where no code corrects them."""
    key, test = math.fsum(expected.key_clicks), math.fsum(expected.test_clicks)
    wrong = max(math.fsum(expected.test_errors) / test, math.fsum(expected.key_errors) / key) * errors
    if wrong > QBER_MOST:
        return None
    qber = assume_qber(math.ceil(wrong * test), math.ceil(test))
    clicks = math.ceil(key / 0.97)
    return round(choose_framing(clicks, qber).disclosed * LEAKAGE_MARGIN) + LEAKAGE_EXTRA


def _counts_of(record: BlockRecord) -> Counts | None:
    """What the block counted; where it did not come to the errors of the key basis, as many as in the other one.

    None for what cannot be planned from: not counted, nothing in a basis, or more errors than any block may have.
    """
    counted, most = record.counted, record.terms.protocol.qber_most
    key, test, test_errors = counted.key_clicks, counted.test_clicks, counted.test_errors
    if key is None or test is None or test_errors is None or not sum(key) or not sum(test):
        return None
    rate = sum(test_errors) / sum(test)
    key_errors = counted.key_errors or tuple(math.ceil(clicks * rate) for clicks in key)
    if max(rate, sum(key_errors) / sum(key)) > most:
        return None
    return Counts(key, key_errors, test, test_errors)
