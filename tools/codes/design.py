"""Finds degrees that converge fast: differential evolution over what density evolution says.

The cost of a profile is edges times iterations at the wanted efficiency, which is what decoding a bit costs; a
threshold that is closer to the limit than that needs more of both. Differential evolution: Storn and Price, J. Global
Optim. 11, 341 (1997); for degrees Shokrollahi and Storn (ISIT 2000), Richardson, Shokrollahi, Urbanke (2001).
"""

import math
from collections.abc import Sequence

import numpy as np

from tools.codes.evolution import Profile, iterations, qber_at

TREE = 0.95
"""Columns of degree 2 for each check, at most: below 1 they can stand in a tree, without a cycle of their own."""


def profile_from(point: np.ndarray, degrees: Sequence[int], leak: float) -> Profile:
    """A profile from any point of the search space: shares are made positive, of sum 1, and few enough of degree 2."""
    shares = np.abs(point)
    shares /= shares.sum()
    most = TREE * leak
    if degrees[0] == 2 and shares[0] > most:
        shares[1:] *= (1 - most) / (1 - shares[0])
        shares[0] = most
    return Profile(dict(zip(degrees, shares.tolist(), strict=True)), leak)


def design(
    leak: float,
    efficiency: float,
    degrees: Sequence[int],
    seed: int,
    population: int = 14,
    generations: int = 25,
    near: Profile | None = None,
) -> tuple[Profile, float]:
    """The cheapest profile found whose `leak` is `efficiency` times h(q), and its iterations. It starts from `near`."""
    random = np.random.default_rng(seed)
    qber = qber_at(leak, efficiency)

    def cost(point: np.ndarray, bound: float = math.inf) -> float:
        """Exact below `bound`; one that cannot decode at all costs more than any that can."""
        profile = profile_from(point, degrees, leak)
        most = min(200, math.floor(bound / profile.mean)) if bound < 1e4 else 200
        needed = iterations(profile, qber, most)
        return needed * profile.mean if needed <= most else 1e4 + needed

    start = np.array([0.75 * leak, 0.6, *([0.4 / (len(degrees) - 2)] * (len(degrees) - 2))])
    points = [start * np.exp(random.normal(0, 0.7, len(degrees))) for _ in range(population)]
    if near:
        known = np.array([near.columns.get(degree, 0.0) for degree in degrees])
        known[-1] = near.columns[max(near.columns)]
        points[: population // 2] = [
            np.maximum(known, 0.003) * np.exp(random.normal(0, 0.5, len(degrees))) for _ in range(population // 2)
        ]
        points[0] = known
    points = [point / point.sum() for point in points]
    costs = [cost(point) for point in points]
    for _ in range(generations):
        for index in range(population):
            best = points[int(np.argmin(costs))]
            a, b = (points[i] for i in random.choice(population, 2, replace=False))
            trial = points[index] + 0.7 * (best - points[index]) + random.uniform(0.4, 0.9) * (a - b)
            keep = random.random(len(degrees)) > 0.85
            trial = np.abs(np.where(keep, points[index], trial))
            trial /= trial.sum()
            if (got := cost(trial, costs[index])) <= costs[index]:
                points[index], costs[index] = trial, got
    best = points[int(np.argmin(costs))]
    profile = profile_from(best, degrees, leak)
    return profile, min(costs) / profile.mean
