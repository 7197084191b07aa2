"""The accounts of a block at one end: what was counted, what was disclosed, what the terms say to it.

Both ends keep them from the same messages by the same rules, so they come to the same numbers; `Amplify` compares.
"""

import math
from collections.abc import Collection
from dataclasses import replace

from qhybridd.distill import bounds, estimate, rates
from qhybridd.distill.record import Counted, Disclosed, Estimates, Reconciliation, Sizes
from qhybridd.distill.sift import Counts, Sifted, count_clicks
from qhybridd.distill.terms import Terms
from qhybridd.errors import HostError, PeerError


def assume_qber(errors: int, bits: int) -> float:
    """The error rate to reconcile for, after `errors` among `bits` of the test basis.

    Laplace's estimate, (errors + 1)/(bits + 2), and one standard deviation of it for the chance of the sample: with few
    test bits a code for the bare estimate would fail every other block, and a further round costs more than the margin.
    Within the range of the codes.
    """
    rate = (errors + 1) / (bits + 2)
    return min(rates.QBER_MOST, max(rates.QBER_LEAST, rate + math.sqrt(rate * (1 - rate) / (bits + 2))))


class Accounts:
    """Filled as the block goes on; what was not reached stays None."""

    def __init__(self, terms: Terms) -> None:
        self.terms = terms
        self.sizes = Sizes(terms.pulses)
        self.counted = Counted()
        self.reconciliation: Reconciliation | None = None
        self.disclosed = Disclosed()
        self.estimates: Estimates | None = None

    @property
    def intensities(self) -> int:
        """How many the protocol has."""
        return len(self.terms.protocol.intensities)

    @property
    def key_clicks(self) -> tuple[int, ...]:
        """Sifted clicks of the key basis for each intensity."""
        assert self.counted.key_clicks is not None
        return self.counted.key_clicks

    @property
    def test_clicks(self) -> tuple[int, ...]:
        """Those of the test basis."""
        assert self.counted.test_clicks is not None
        return self.counted.test_clicks

    # ---- clicks and errors

    def note_clicks(self, clicks: int) -> None:
        """Before sifting."""
        self.sizes = replace(self.sizes, clicks=clicks)

    def count_sifted(self, sifted: Sifted) -> None:
        """After sifting. Raises `PeerError` (link.malformed) where a click has an intensity that there is not."""
        key, test = sifted.key.length, sifted.test.length
        self.sizes = replace(self.sizes, key_bits=key, test_bits=test)
        self.counted = Counted(
            key_clicks=count_clicks(sifted.key_intensities, key, self.intensities),
            test_clicks=count_clicks(sifted.test_intensities, test, self.intensities),
        )

    def judge_early(self, test_errors: tuple[int, ...]) -> estimate.Refused | None:
        """Whether the test basis alone refuses the block already."""
        self.counted = replace(self.counted, test_errors=test_errors)
        return estimate.judge_early(self.terms, sum(self.test_clicks), sum(test_errors), sum(self.key_clicks))

    def judge(self, key_errors: tuple[int, ...]) -> estimate.Refused | None:
        """Hold the block to its terms, now that everything is counted."""
        self.counted = replace(self.counted, key_errors=key_errors)
        if self.reconciliation is not None:
            self.reconciliation = replace(self.reconciliation, efficiency=self._efficiency(sum(key_errors)))
        assert self.counted.test_errors is not None
        counts = Counts(self.key_clicks, key_errors, self.test_clicks, self.counted.test_errors)
        proven = bounds.estimate(self.terms.protocol, counts)
        self.estimates = Estimates(proven.vacuum, proven.single, proven.phase_error)
        verdict = estimate.judge(self.terms, counts, self.disclosed.total)
        return verdict if isinstance(verdict, estimate.Refused) else None

    # ---- reconciliation

    def choose_framing(self) -> tuple[rates.Framing, float]:
        """The framing that the rule gives, and the error rate that it is for."""
        errors = self.counted.test_errors
        assert errors is not None
        key_bits = sum(self.key_clicks)
        qber = assume_qber(sum(errors), sum(self.test_clicks))
        framing = rates.choose_framing(key_bits, qber)
        rate = 1 - framing.disclosed / key_bits
        self.reconciliation = Reconciliation(
            framing.code, framing.record.bits, framing.frame_bits, framing.frames, rate, qber
        )
        return framing, qber

    def note_frames(self, *, failed: int = 0, undecoded: int = 0, differing: int = 0) -> None:
        """Add frames that did not decode at first, did not at last, or decoded to something else."""
        note = self.reconciliation
        assert note is not None
        self.reconciliation = replace(
            note,
            failed=note.failed + failed,
            undecoded=note.undecoded + undecoded,
            differing=note.differing + differing,
        )

    def spend(self, **bits: int) -> None:
        """Count bits that are disclosed now, by their kind in `Disclosed`.

        Raises `HostError` (link.leakage) when the terms do not allow so many; they are not counted then.
        """
        so_far = self.disclosed
        spent = replace(so_far, **{kind: getattr(so_far, kind) + more for kind, more in bits.items()})
        if spent.total > self.terms.leakage_most:
            raise HostError("link.leakage", f"{spent.total} bits would be disclosed, of {self.terms.leakage_most}")
        self.disclosed = spent

    def spend_more(self, step: int, frames: int, bits: int) -> None:
        """So many bits more of frames that failed: the step of `REVEAL_STEPS`, counted from 1; at the last the frames
        were disclosed whole."""
        last = step == len(rates.REVEAL_STEPS)
        self.spend(**{"whole" if last else "reveals": bits})
        if last:
            self.note_frames(undecoded=frames)

    def spend_verdict(self) -> None:
        """Bob said that the keys are equal, and how many errors of each intensity he corrected."""
        self.spend(answers=1 + sum(clicks.bit_length() for clicks in self.key_clicks))

    def _efficiency(self, errors: int) -> float | None:
        bits = sum(self.key_clicks)
        if not 0 < errors < bits / 2:
            return None
        spent = self.disclosed.syndromes + self.disclosed.reveals + self.disclosed.whole
        return spent / (bits * rates.entropy(errors / bits))


def check_errors(errors: tuple[int, ...], clicks: tuple[int, ...]) -> None:
    """What the peer counted. Raises `PeerError` (link.malformed) for more errors than clicks."""
    if len(errors) != len(clicks) or any(wrong > all_ for wrong, all_ in zip(errors, clicks, strict=True)):
        raise PeerError("link.malformed", f"{errors} errors among {clicks} clicks")


def check_frames(frames: tuple[int, ...], asked: Collection[int]) -> None:
    """Frames that the peer names. Raises `PeerError` (link.malformed) unless ascending and among those in question."""
    if not set(frames) <= set(asked) or list(frames) != sorted(set(frames)):
        raise PeerError("link.malformed", "frames that were not in question, or not in order")
