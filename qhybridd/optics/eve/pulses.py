"""Picking among the pulses of a frame, and losing photons of them."""

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from qhybridd.optics.records import Arrivals, State

Mask = NDArray[np.bool_]


def pick(chance: np.random.Generator, count: int, share: float) -> Mask:
    """`count` independent answers that are yes with probability `share`."""
    if share >= 1:
        return np.ones(count, np.bool_)
    return chance.random(count, np.float32) < share


def keep(arrivals: Arrivals, kept: Mask) -> Arrivals:
    """The frame with the pulses that are not `kept` dark."""
    if kept.all():
        return arrivals
    places = arrivals.places()[kept]
    gaps = np.diff(places, prepend=places.dtype.type(0)).astype(np.uint32)
    delays = arrivals.delays_ps
    return replace(
        arrivals,
        gaps=gaps,
        states=arrivals.states[kept],
        photons=arrivals.photons[kept],
        delays_ps=None if delays is None else delays[kept],
    )


def survive(
    photons: NDArray[np.uint32], shares: NDArray[np.float64] | float, chance: np.random.Generator
) -> NDArray[np.uint32]:
    """How many photons of each pulse are left when every one survives by itself with the probability in `shares`."""
    return chance.binomial(photons, shares).astype(np.uint32)


def polarised(states: NDArray[np.uint8]) -> Mask:
    """Which pulses are Alice's, and no noise."""
    alices: Mask = (states & np.uint8(State.UNPOLARISED)) == 0
    return alices
