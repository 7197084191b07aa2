"""Time-shift: send each pulse a little early or late, to where one detector sees it better than the other.

Qi, Fung, Lo, Ma, Quantum Inf. Comput. 7, 73 (2007); Zhao, Fung, Qi, Chen, Lo, Phys. Rev. A 78, 042333 (2008). No state
changes and no error shows; a click then tells her which bit it probably is. The clicks' times tell Bob.
"""

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Final

import numpy as np

from qhybridd.optics.eve.attack import Tally
from qhybridd.optics.eve.pulses import keep, pick, polarised, survive
from qhybridd.optics.parameters import GATE_FWHM_TO_SIGMA, Detector, Optics
from qhybridd.optics.randomness import Randomness
from qhybridd.optics.records import Arrivals, Request

GATES: Final = 0.5
"""How far she shifts beyond the outer gate's middle, in widths of a gate: to where it sees half."""
DELAY_MOST_PS: Final = 32_767


class TimeShift:
    """At the fibre's beginning, with a fibre that loses nothing: shifted pulses need more light to click as often."""

    name = "time-shift"

    def __init__(self, optics: Optics, fraction: float, randomness: Randomness) -> None:
        """On a `fraction` of the pulses. What she knows of the detectors is their data sheet."""
        detectors = optics.receiver.detectors
        offsets = [detector.gate_offset_ps for detector in detectors]
        middle = sum(offsets) / len(offsets)  # where the receiver's clock puts the light
        reach = GATES * max(detector.gate_ps for detector in detectors)
        early, late = (min(offsets) - middle - reach, max(offsets) - middle + reach)
        self._delays_ps = (round(max(early, -DELAY_MOST_PS)), round(min(late, DELAY_MOST_PS)))
        seen = [[_sees(detector, at, middle) for detector in detectors] for at in self._delays_ps]
        self._early_share = _balance(seen[0], seen[1])
        shares = (self._early_share, 1 - self._early_share)
        clicks = sum(share * sum(pair) for share, pair in zip(shares, seen, strict=True))
        told = sum(share * sum(pair) * _told(*pair) for share, pair in zip(shares, seen, strict=True))
        self._bits_a_click = told / clicks
        self._boost = len(detectors) / clicks
        self._transmission = optics.fibre.transmission
        self._fraction = fraction
        self._chance = randomness.generator("time-shift")
        self._tally = Tally()

    def request(self, below: Request) -> Request:
        """Light from before the fibre, as much more than came through it as the shift makes the detectors lose."""
        return replace(below, fibre=False, thinning=below.thinning * self._passing(below, self._fraction))

    def act(self, arrivals: Arrivals, below: Request) -> Arrivals:
        """The pulses of which photons are left, with other times."""
        touched = pick(self._chance, arrivals.count, self._fraction)
        others = self._passing(below, 0) / self._passing(below, self._fraction)
        photons = survive(arrivals.photons, np.where(touched, 1.0, others), self._chance)
        left = keep(replace(arrivals, photons=photons), photons > 0)
        touched = touched[photons > 0]
        early, late = self._delays_ps
        shifts = np.where(pick(self._chance, left.count, self._early_share), early, late) * touched
        came = np.zeros(left.count, np.int16) if left.delays_ps is None else left.delays_ps
        self._tally += Tally(
            pulses=arrivals.pulses,
            passed=left.count,
            touched=int(np.count_nonzero(touched)),
            stopped=arrivals.count - left.count,
            bits=self._bits_a_click * int(np.count_nonzero(touched & polarised(left.states))),
        )
        return replace(left, delays_ps=np.clip(came + shifts, -DELAY_MOST_PS, DELAY_MOST_PS).astype(np.int16))

    @property
    def tally(self) -> Tally:
        """What it came to."""
        return self._tally

    def _passing(self, below: Request, fraction: float) -> float:
        """Share of the photons that go on, from before the fibre to Bob, where the shift is at work on some."""
        transmission = self._transmission if below.fibre else 1.0
        return min(1.0, transmission * self._boost) if fraction else transmission


def _sees(detector: Detector, delay_ps: float, middle_ps: float) -> float:
    """How much it sees of a pulse that comes so late over what it sees of one on time: its gate, blurred by jitter."""
    square = (detector.gate_ps / GATE_FWHM_TO_SIGMA) ** 2 + detector.jitter_ps**2
    offset_ps = detector.gate_offset_ps - middle_ps
    return math.exp((offset_ps**2 - (delay_ps - offset_ps) ** 2) / (2 * square))


def _balance(early: Sequence[float], late: Sequence[float]) -> float:
    """Share of early pulses with which both detectors click equally often; 1/2 where any share does."""
    lead, lag = early[0] - early[1], late[1] - late[0]
    return lag / (lead + lag) if lead + lag else 0.5


def _told(one: float, other: float) -> float:
    """1 - h(p): what a click tells of its bit, where the detectors see so much of the light."""
    p = one / (one + other)
    return 1 + sum(x * math.log2(x) for x in (p, 1 - p) if x > 0)
