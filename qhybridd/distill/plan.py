"""Choosing the terms of a block beforehand: what a healthy link will meet almost always, and the key that it pays.

Nothing here touches secrecy: a bad plan gives a short key or blocks that are refused, never a key that is not secret.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Final

from qhybridd.distill import bounds
from qhybridd.distill.bounds.concentration import entropy
from qhybridd.distill.bounds.records import Tallies
from qhybridd.distill.sift import Counts
from qhybridd.distill.terms import Protocol, Terms
from qhybridd.errors import ProgramError

TESTS: Final = 5
"""Thresholds that a healthy block may miss by chance: clicks of two bases, vacuum, single photons, phase error."""
PHASE_ERROR_GRAIN: Final = 1e-6
"""Thresholds are round numbers, so that both ends come to the same ones."""


@dataclass(frozen=True, slots=True)
class Expected:
    """Clicks and errors to expect of a block, one entry for each intensity: no whole numbers."""

    key_clicks: tuple[float, ...]
    key_errors: tuple[float, ...]
    test_clicks: tuple[float, ...]
    test_errors: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class LinkModel:
    """A link in closed form: the channel of Wiesemann et al.'s simulation, without dead time."""

    transmission: float
    """η: how many of the photons arrive and are detected."""
    dark_probability: float
    """Of a click without light in one pulse, all detectors together."""
    misalignment: float
    """Error rate of the clicks that light makes."""

    def expect(self, protocol: Protocol, pulses: int) -> Expected:
        """Clicks with 1 − (1 − p_dc) e^(−ημ), errors with (1 − e^(−ημ)) e + p_dc/2 in each pulse."""
        light = [-math.expm1(-intensity * self.transmission) for intensity in protocol.intensities]
        clicks = [shine + self.dark_probability * (1 - shine) for shine in light]
        errors = [shine * self.misalignment + self.dark_probability / 2 for shine in light]
        key = pulses * protocol.key_basis_probability**2
        test = pulses * (1 - protocol.key_basis_probability) ** 2

        def share(basis: float, rates: list[float]) -> tuple[float, ...]:
            return tuple(basis * p * rate for p, rate in zip(protocol.intensity_probabilities, rates, strict=True))

        return Expected(share(key, clicks), share(key, errors), share(test, clicks), share(test, errors))


def average(blocks: Sequence[Counts]) -> Expected:
    """What to expect after these blocks of the same protocol and as many pulses each. At least one block."""

    def mean(pick: Callable[[Counts], tuple[int, ...]]) -> tuple[float, ...]:
        return tuple(math.fsum(column) / len(blocks) for column in zip(*map(pick, blocks), strict=True))

    if not blocks:
        raise ProgramError("program.argument", "no block to average")
    return Expected(
        mean(lambda block: block.key_clicks),
        mean(lambda block: block.key_errors),
        mean(lambda block: block.test_clicks),
        mean(lambda block: block.test_errors),
    )


def reconciliation_bits(tallies: Tallies, efficiency: float) -> float:
    """f n h(q): what reconciliation discloses when it takes f times Shannon's limit at the key basis' error rate."""
    clicks = math.fsum(tallies.key_clicks)
    return efficiency * clicks * entropy(math.fsum(tallies.key_errors) / clicks) if clicks else 0.0


def plan(
    protocol: Protocol, pulses: int, expected: Expected, leakage_most: int, pass_probability: float = 0.999
) -> Terms:
    """Terms that a block of what is `expected` meets with at least `pass_probability`, the QBER and leakage aside.

    `leakage_most` is all that the block may disclose about its key. The thresholds stand as many standard deviations
    from the estimates as the normal distribution asks for, the miss shared among them; Poissonian clicks. `key_bits`
    is 0 where the block cannot pay for a key.
    """
    if not (0 < pass_probability < 1 and pulses > 0 and leakage_most >= 0):
        raise ProgramError("program.argument", "a plan needs pulses, and a probability between 0 and 1")
    deviations = NormalDist().inv_cdf(1 - (1 - pass_probability) / TESTS)
    likely = bounds.estimate(protocol, expected)
    vacuum_spread, single_spread, phase_spread = _spreads(protocol, expected, likely)
    vacuum = _at_least(likely.vacuum, deviations * vacuum_spread)
    single = _at_least(likely.single, deviations * single_spread)
    phase_error = likely.phase_error + deviations * phase_spread
    phase_error = min(0.5, math.ceil(phase_error / PHASE_ERROR_GRAIN) * PHASE_ERROR_GRAIN)
    key_clicks, test_clicks = math.fsum(expected.key_clicks), math.fsum(expected.test_clicks)
    return Terms(
        protocol=protocol,
        pulses=pulses,
        key_clicks_least=_at_least(key_clicks, deviations * math.sqrt(key_clicks)),
        test_clicks_least=_at_least(test_clicks, deviations * math.sqrt(test_clicks)),
        vacuum_least=float(vacuum),
        single_least=float(single),
        phase_error_most=phase_error,
        leakage_most=leakage_most,
        key_bits=bounds.key_length(protocol, vacuum, single, phase_error, leakage_most),
    )


def _at_least(likely: float, margin: float) -> int:
    return max(0, math.floor(likely - margin))


def _spreads(protocol: Protocol, expected: Expected, likely: bounds.Estimates) -> tuple[float, float, float]:
    """Standard deviations of s_X0, s_X1 and φ_X1 over blocks, by the delta method.

    Right clicks and wrong clicks of each basis and intensity are independent Poissonian counts; each in turn is moved
    by its own standard deviation, up and down, and the larger answer counts: clipped estimates are not smooth.
    """
    variances = [0.0, 0.0, 0.0]
    for index in range(len(protocol.intensities)):
        for basis in ("key", "test"):
            for wrong in (False, True):
                answers = [0.0, 0.0, 0.0]
                for way in (-1, 1):
                    moved = bounds.estimate(protocol, _moved(expected, basis, index, wrong, way))
                    for at, (there, here) in enumerate(zip(_watched(moved), _watched(likely), strict=True)):
                        answers[at] = max(answers[at], abs(there - here))
                for at, answer in enumerate(answers):
                    variances[at] += answer * answer
    return math.sqrt(variances[0]), math.sqrt(variances[1]), math.sqrt(variances[2])


def _watched(estimates: bounds.Estimates) -> tuple[float, float, float]:
    return estimates.vacuum, estimates.single, estimates.phase_error


def _moved(expected: Expected, basis: str, index: int, wrong: bool, way: int) -> Expected:
    """`expected` with the right or the wrong clicks of one basis and intensity a standard deviation up or down."""
    clicks, errors = list(getattr(expected, f"{basis}_clicks")), list(getattr(expected, f"{basis}_errors"))
    count = errors[index] if wrong else clicks[index] - errors[index]
    step = max(way * math.sqrt(count), -count)
    clicks[index] += step
    errors[index] = min(clicks[index], errors[index] + step) if wrong else min(clicks[index], errors[index])
    if basis == "key":
        return Expected(tuple(clicks), tuple(errors), expected.test_clicks, expected.test_errors)
    return Expected(expected.key_clicks, expected.key_errors, tuple(clicks), tuple(errors))
