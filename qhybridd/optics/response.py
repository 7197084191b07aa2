"""What the light of one frame does to two detectors, as the numbers that csrc/detect.h takes."""

import math
from statistics import NormalDist
from typing import Final

import numpy as np
from numpy.typing import NDArray

from qhybridd.optics.detectors import (
    click_spread_ps,
    follow_of,
    gate_efficiency,
    gate_sigma_ps,
    kept_shares,
    middle_ps,
)
from qhybridd.optics.parameters import Receiver
from qhybridd.optics.records import State

QUANTILES: Final = 4096
CLASSES: Final = 16
"""A state of the light, and `ON_TEST` where he measures in the test basis."""
ON_TEST: Final = 8
DELAYS: Final = range(-(1 << 15), 1 << 15)
"""What `Arrivals.delays_ps` can tell, ps."""


def normal_quantiles() -> NDArray[np.float64]:
    """Equally likely values with the mean and the standard deviation of the standard normal distribution."""
    normal = NormalDist()
    values = np.array([normal.inv_cdf((index + 0.5) / QUANTILES) for index in range(QUANTILES)])
    scaled: NDArray[np.float64] = values / np.sqrt(np.mean(values**2))
    return scaled


def light_shares(angle_rad: float, visibility: float) -> NDArray[np.float64]:
    """Share of the light on either detector for each class, shape (16, 2).

    sin²(s + θ - m) on detector 1, where the states s are 0, π/2 (X), π/4, 3π/4 (Z) and he measures with m = 0 (X) or
    π/4 (Z); a share (1 - visibility) / 2 goes to the wrong one. Light in no state is halved.
    """
    shares = np.full((CLASSES, 2), 0.5)
    for kind in range(CLASSES):
        if kind & State.UNPOLARISED:
            continue
        prepared = (math.pi / 2 if kind & State.BIT else 0.0) + (math.pi / 4 if kind & State.TEST_BASIS else 0.0)
        measured = math.pi / 4 if kind & ON_TEST else 0.0
        one = math.sin(prepared + angle_rad - measured) ** 2
        shares[kind, 1] = visibility * one + (1.0 - visibility) / 2.0
        shares[kind, 0] = 1.0 - shares[kind, 1]
    return shares


def gate_factors(receiver: Receiver, error_ps: float) -> tuple[float, float]:
    """`gate_efficiency` of each detector for light that comes `error_ps` later than the receiver's clock expects."""
    at_ps = middle_ps(receiver) + error_ps
    first, second = receiver.detectors
    return gate_efficiency(first, at_ps), gate_efficiency(second, at_ps)


def gate_curves(receiver: Receiver, error_ps: float) -> NDArray[np.float64]:
    """The same for light with each of `DELAYS` on top, shape (2, 65536)."""
    times = np.arange(DELAYS.start, DELAYS.stop, dtype=np.float64) + (middle_ps(receiver) + error_ps)
    curves = np.empty((2, len(times)))
    for curve, detector in zip(curves, receiver.detectors, strict=True):
        both = gate_sigma_ps(detector) ** 2 + detector.jitter_ps**2
        np.exp((times - detector.gate_offset_ps) ** 2 / (-2.0 * both), out=curve)
        curve *= gate_efficiency(detector, detector.gate_offset_ps)
    return curves


def frame_physics(
    receiver: Receiver,
    test_probability: float,
    *,
    shares: NDArray[np.float64],
    chances: tuple[float, float],
    linear: tuple[float, float],
    error_ps: float,
) -> NDArray[np.float64]:
    """`struct detect_physics`, from what one photon has as a chance on either detector and the photons that a detector
    in linear mode needs (infinite where it is not)."""
    detectors = receiver.detectors
    follow = [follow_of(detector) for detector in detectors]
    offsets = [detector.gate_offset_ps - middle_ps(receiver) for detector in detectors]
    means = [moves * error_ps + (1.0 - moves) * offset for moves, offset in zip(follow, offsets, strict=True)]
    spreads = [click_spread_ps(detector) for detector in detectors]
    noise = [gate_sigma_ps(detector) for detector in detectors]
    rest = [*linear, *means, *follow, *spreads, *offsets, *noise, *kept_shares(receiver), test_probability]
    return np.concatenate([(shares * np.array(chances)).ravel(), shares.ravel(), np.array(rest)])
