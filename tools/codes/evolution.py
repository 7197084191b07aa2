"""Discretised density evolution over the binary symmetric channel.

The ensemble average of belief propagation on a graph without cycles (Richardson, Shokrollahi, Urbanke, IEEE Trans. Inf.
Theory 47, 619 (2001)), on a grid of log-likelihood ratios (Chung, Forney, Richardson, Urbanke, IEEE Commun. Lett. 5, 58
(2001)). Decoding a syndrome with side information is decoding a word of the channel, so the same holds for it.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

from qhybridd.distill.rates import entropy

LEVELS = 120
"""Magnitudes of the grid."""
STEP = 0.15
"""Between two of them, in nats: the largest ratio is 17.9."""
SLOWEST = 5e-4
"""Of the error rate, in an iteration: it is taken to stand still when less of it vanishes."""
SETTLED = 1e-6
"""An error rate of the messages below this counts as decoded."""

Density = NDArray[np.float64]


def qber_at(leak: float, efficiency: float) -> float:
    """The error rate at which `leak` is `efficiency` times the entropy."""
    low, high = 0.0, 0.5
    while high - low > 1e-9:
        middle = (low + high) / 2
        low, high = (middle, high) if efficiency * entropy(middle) < leak else (low, middle)
    return low


@dataclass(frozen=True, slots=True)
class Profile:
    """The degrees of an ensemble: shares of the columns, checks as equal as they can be."""

    columns: Mapping[int, float]
    """Degree to share of the columns; they sum to 1."""
    leak: float
    """Checks for each column (syndrome bits for each bit of a word)."""

    @property
    def mean(self) -> float:
        """Edges for each column."""
        return sum(degree * share for degree, share in self.columns.items())

    def checks(self) -> dict[int, float]:
        """Degree to share of the edges: two neighbouring degrees."""
        mean = self.mean / self.leak
        low = math.floor(mean)
        high_share = mean - low
        return {low: low * (1 - high_share) / mean, low + 1: (low + 1) * high_share / mean}


@cache
def _box_plus() -> NDArray[np.intp]:
    """Grid level of 2 artanh(tanh(a/2) tanh(b/2)) for levels a, b."""
    half = np.tanh(np.arange(LEVELS) * STEP / 2)
    product = np.minimum(np.outer(half, half), 1 - 1e-15)
    return np.rint(2 * np.arctanh(product) / STEP).astype(np.intp).clip(0, LEVELS - 1).ravel()


def _join(a: tuple[Density, Density], b: tuple[Density, Density]) -> tuple[Density, Density]:
    """Two messages that enter a check, as one. Each is (P₊ + P₋, P₊ − P₋) over the magnitudes."""
    table = _box_plus()
    return (
        np.bincount(table, np.outer(a[0], b[0]).ravel(), LEVELS),
        np.bincount(table, np.outer(a[1], b[1]).ravel(), LEVELS),
    )


def _through_checks(density: Density, checks: Mapping[int, float]) -> Density:
    """What checks send when `density` enters them; the two degrees of `checks` are neighbours."""
    right, wrong = density[LEVELS - 1 :].copy(), density[LEVELS - 1 :: -1].copy()
    right[0] /= 2
    wrong[0] /= 2
    one = (right + wrong, right - wrong)
    low = min(checks)
    power, joined, square = low - 1, None, one
    while True:
        if power & 1:
            joined = square if joined is None else _join(joined, square)
        power >>= 1
        if not power:
            break
        square = _join(square, square)
    assert joined is not None
    more = _join(joined, one)
    total, difference = (checks[low] * x + checks[low + 1] * y for x, y in zip(joined, more, strict=True))
    out = np.concatenate(((total - difference)[:0:-1] / 2, (total + difference) / 2))
    out[LEVELS - 1] = total[0]
    return out


def _channel(qber: float, erased: float) -> Density:
    ratio = math.log((1 - qber) / qber) / STEP
    density = np.zeros(2 * LEVELS - 1)
    low = math.floor(ratio)
    for level, share in ((low, low + 1 - ratio), (low + 1, ratio - low)):
        density[LEVELS - 1 + level] += (1 - erased) * (1 - qber) * share
        density[LEVELS - 1 - level] += (1 - erased) * qber * share
    density[LEVELS - 1] += erased
    return density


def iterations(profile: Profile, qber: float, most: int = 400, punctured: float = 0.0, at: int = 3) -> float:
    """Iterations (all checks at once; by layers it takes about half) until decoded; above `most` when it never is.

    A share `punctured` of all columns is erased, and they have degree `at`. What is above `most` says how far it came.
    """
    widest = max(profile.columns) * (LEVELS - 1)
    length = 1 << math.ceil(math.log2(2 * widest + 1))
    mean, checks = profile.mean, profile.checks()
    channel = {
        degree: _channel(qber, min(1.0, punctured / share) if degree == at else 0.0)
        for degree, share in profile.columns.items()
        if share > 0
    }
    edges = {degree: degree * profile.columns[degree] / mean for degree in channel}
    spectra = {degree: np.fft.rfft(_around(channel[degree], length)) * edges[degree] for degree in channel}
    density = sum((edges[degree] * channel[degree] for degree in channel), np.zeros(2 * LEVELS - 1))
    middle = LEVELS - 1
    before = error = 1.0
    for done in range(1, most + 1):
        incoming = np.fft.rfft(_around(_through_checks(density, checks), length))
        power, last, outgoing = np.ones_like(incoming), 1, np.zeros_like(incoming)
        for degree in sorted(spectra):
            for _ in range(degree - last):
                power = power * incoming
            last = degree
            outgoing += power * spectra[degree]
        whole = np.roll(np.fft.irfft(outgoing, length), length // 2)
        centre = length // 2
        density = whole[centre - middle : centre + middle + 1].copy()
        density[0] += whole[: centre - middle].sum()
        density[-1] += whole[centre + middle + 1 :].sum()
        density = np.maximum(density, 0)
        density /= density.sum()
        error = float(density[:middle].sum() + density[middle] / 2)
        if error < SETTLED:
            return done
        if done > 10 and error > before * (1 - SLOWEST):
            break
        before = error
    return most + 1 + 100 * error


def _around(density: Density, length: int) -> Density:
    """The density on a circle of `length`, ratio 0 at index 0."""
    out = np.zeros(length)
    out[:LEVELS] = density[LEVELS - 1 :]
    out[-(LEVELS - 1) :] = density[: LEVELS - 1]
    return out


def threshold(profile: Profile, punctured: float = 0.0, at: int = 3) -> float:
    """The largest error rate that density evolution decodes."""
    low, high = 1e-4, 0.2
    while high - low > 1e-4 * high:
        middle = (low + high) / 2
        if iterations(profile, middle, 1000, punctured, at) <= 1000:
            low = middle
        else:
            high = middle
    return low
