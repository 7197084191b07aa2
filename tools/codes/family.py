"""The family of codes: their sizes, how many rows each code has, and the degrees of its columns."""

import json
import math
from dataclasses import dataclass
from pathlib import Path

from qhybridd.distill.rates import entropy
from tools.codes.evolution import Profile

PROFILES = Path(__file__).with_name("profiles.json")
"""What `python -m tools.codes design` found: for each size a list of profiles by leak."""

DEGREES = (2, 3, 4, 6, 10)
"""Degrees below the highest."""
PUNCTURED_LEAST = 0.02
"""Of the syndrome bits: fewer punctured bits are never used, so that a frame that fails can be helped by them."""
PUNCTURED_MOST = 0.10
"""More are not used, but the next code of the family."""
ANCHORS = (0.055, 0.1, 0.17, 0.32, 0.45, 0.6)
"""Leaks for which degrees are designed; between two of them shares are interpolated."""


@dataclass(frozen=True, slots=True)
class Size:
    """One size of frames."""

    name: str
    columns: int
    lifting: int
    highest: tuple[int, ...]
    """For each of `ANCHORS` the highest degree: more rows and larger circulants leave room for more edges."""
    margin: float
    """Added to the finite-length limit of the efficiency, at which degrees have to converge fast; below 2 % more."""
    frames: int
    """To simulate for each of four error rates of a point, when the codes are measured."""
    failing: float
    """The share of frames that fail at the error rate which a code is measured for."""
    leaks: tuple[float, float]
    """The least and the greatest leak that the codes have to reach by puncturing."""

    def degrees(self, anchor: int) -> list[int]:
        """Degrees that columns may have at `ANCHORS[anchor]`."""
        highest = self.highest[anchor]
        return [degree for degree in DEGREES if degree < highest - 1] + [highest]

    @property
    def bits(self) -> int:
        """n."""
        return self.columns * self.lifting

    def rows(self) -> list[int]:
        """Base rows of each code, ascending: neighbours meet where one has few punctured bits and the other many."""
        least, most = self.leaks
        rows: list[int] = []
        wanted = most
        while wanted > least:
            count = next(
                r for r in range(3, self.columns) if punctured_leak(r / self.columns, PUNCTURED_LEAST) >= wanted
            )
            rows.append(min(count, rows[-1] - 1) if rows else count)
            wanted = punctured_leak(rows[-1] / self.columns, PUNCTURED_MOST)
        return rows[::-1]

    def efficiency(self, qber: float) -> float:
        """The efficiency to design for: the finite-length limit for frame errors of 1 %, and a margin for speed."""
        return limit(qber, self.bits) + self.margin * max(1.0, 0.02 / qber) ** 0.7


def limit(qber: float, bits: int, quantile: float = 2.326) -> float:
    """The least efficiency with frame errors of 1 % (Tomamichel, Martinez-Mateo, Pacher, Elkouss, arXiv:1401.5194)."""
    variance = qber * (1 - qber) * math.log2((1 - qber) / qber) ** 2
    h = entropy(qber)
    return 1 + math.sqrt(variance / bits) * quantile / h - math.log2(bits) / (2 * bits * h)


def punctured_leak(leak: float, share: float) -> float:
    """(m − p)/(n − p) for m/n = `leak` and p/m = `share`."""
    return leak * (1 - share) / (1 - leak * share)


SIZES = (
    Size("small", 200, 64, (6, 8, 10, 10, 10, 10), 0.05, 400, 0.002, (0.062, 0.60)),
    Size("medium", 400, 256, (16, 24, 20, 16, 16, 16), 0.055, 100, 0.01, (0.053, 0.56)),
    Size("large", 400, 2560, (20, 24, 30, 40, 40, 30), 0.06, 12, 0.002, (0.050, 0.54)),
)


def profile(size: Size, leak: float) -> Profile:
    """The designed degrees for a leak, interpolated."""
    stored = json.loads(PROFILES.read_text())[size.name]
    points = [(entry["leak"], {int(d): share for d, share in entry["columns"].items()}) for entry in stored]
    below = max((point for point in points if point[0] <= leak), key=lambda p: p[0], default=points[0])
    above = min((point for point in points if point[0] >= leak), key=lambda p: p[0], default=points[-1])
    weight = (leak - below[0]) / (above[0] - below[0]) if above[0] > below[0] else 0.0
    shares = {d: (1 - weight) * below[1].get(d, 0) + weight * above[1].get(d, 0) for d in {*below[1], *above[1]}}
    return Profile(dict(sorted(shares.items())), leak)
