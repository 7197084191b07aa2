"""Intercept and resend: measure every pulse in a basis picked at random, and send on what was found.

Bennett and Brassard, Proc. IEEE Int. Conf. Computers, Systems and Signal Processing, Bangalore 1984: where her basis is
wrong, which is every other time, her result is worthless and Bob's in the right basis wrong with probability 1/2, so
that the error rate is 1/4 of the pulses that she touches.
"""

from dataclasses import replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from qhybridd.optics.eve.attack import Tally
from qhybridd.optics.eve.pulses import Mask, pick, polarised
from qhybridd.optics.randomness import Randomness
from qhybridd.optics.records import Arrivals, Request, State


class Found(NamedTuple):
    """What a measurement of a frame gave."""

    states: NDArray[np.uint8]
    """In which she found each pulse: what she sends on."""
    sure: Mask
    """Where that is what Alice had prepared, because the basis was hers."""


def measure(states: NDArray[np.uint8], chance: np.random.Generator) -> Found:
    """Measure each pulse in X or Z with probability 1/2, aligned with the light and without an error of her own."""
    coins = np.frombuffer(chance.bytes(len(states)), np.uint8)
    chosen = (coins & 1) * np.uint8(State.TEST_BASIS)
    sure = ((states ^ chosen) & np.uint8(State.TEST_BASIS | State.UNPOLARISED)) == 0
    guess = (coins >> 1) & np.uint8(State.BIT)
    return Found(np.where(sure, states, chosen | guess).astype(np.uint8), sure)


class InterceptResend:
    """At the fibre's end, on a share of the pulses.

    She sends on as many photons as came, each in the state that she found: so Bob's rate of clicks stays as it was for
    each intensity, and what he need not be sent (`Request.thinning`) need not come to her either.
    """

    name = "intercept-resend"

    def __init__(self, fraction: float, randomness: Randomness) -> None:
        """On a `fraction` of the pulses, picked at random."""
        self._fraction = fraction
        self._chance = randomness.generator("intercept-resend")
        self._tally = Tally()

    def request(self, below: Request) -> Request:
        """The same."""
        return below

    def act(self, arrivals: Arrivals, below: Request) -> Arrivals:  # noqa: ARG002 - the protocol's signature
        """Other states; photons and times as they came."""
        touched = pick(self._chance, arrivals.count, self._fraction)
        found = measure(arrivals.states, self._chance)
        self._tally += Tally(
            pulses=arrivals.pulses,
            passed=arrivals.count,
            touched=int(np.count_nonzero(touched)),
            bits=float(np.count_nonzero(touched & found.sure & polarised(arrivals.states))),
        )
        return replace(arrivals, states=np.where(touched, found.states, arrivals.states))

    @property
    def tally(self) -> Tally:
        """What it came to."""
        return self._tally
