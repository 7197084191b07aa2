"""Clicks without light of the link: dark counts, continuous light, afterpulses, at the cost of those that come."""

import math
from typing import Final

import numpy as np
from numpy.typing import NDArray

GATES_MOST: Final = (1 << 32) - 1


def draw_places(
    noise: np.random.Generator, probability: float, trials: int, most: int | None = None
) -> NDArray[np.uint64]:
    """Which of `trials` independent trials succeed, ascending: their gaps are geometric. The first `most` at least."""
    if probability <= 0 or not trials:
        return np.empty(0, np.uint64)
    parts: list[NDArray[np.int64]] = []
    last, drawn, enough = -1, 0, trials if most is None else most
    while last < trials - 1 and drawn < enough:
        expected = probability * (trials - 1 - last)
        draws = min(int(expected + 6.0 * math.sqrt(expected) + 16), enough - drawn)
        drawn += draws
        gaps = np.minimum(noise.geometric(probability, draws), trials + 1)  # beyond the end, and no overflow
        parts.append(last + np.cumsum(gaps))
        last = int(parts[-1][-1])
    places = np.concatenate(parts)
    return places[: np.searchsorted(places, trials)].astype(np.uint64)


def draw_darks(
    noise: np.random.Generator, probabilities: tuple[float, float], gates: int, most: int
) -> tuple[NDArray[np.uint64], NDArray[np.uint8]]:
    """Live gates in which a detector clicks without light, and which does: bit d for detector d.

    Of each detector no more than `most`: so many clicks fit into the frame with their dead times.
    """
    first, second = (draw_places(noise, probability, gates, most) for probability in probabilities)
    both: NDArray[np.uint64] = np.union1d(first, second)
    masks = np.isin(both, first, assume_unique=True) + 2 * np.isin(both, second, assume_unique=True)
    return both, masks.astype(np.uint8)


def draw_traps(
    noise: np.random.Generator, probability: float, decay_gates: float, avalanches: int
) -> tuple[NDArray[np.uint64], NDArray[np.uint32]]:
    """Which of the next `avalanches` fill a trap, and how many whole gates after the dead time each lets go.

    Exponential (Cova, Lacaita, Ripamonti, IEEE Electron Device Letters 12 (1991) 685: one trap level).
    """
    places = draw_places(noise, probability, avalanches)
    gates = noise.exponential(decay_gates, len(places))
    return places, np.minimum(gates, GATES_MOST).astype(np.uint32)
