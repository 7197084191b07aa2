"""What the receiver's own instruments say of a block: blinding, a lost clock, shifted pulses, unequal detectors."""

import math
from collections.abc import Sequence
from typing import Final

from qhybridd.optics.detectors import click_spread_ps, follow_of, gate_sigma_ps, middle_ps
from qhybridd.optics.parameters import Receiver
from qhybridd.optics.records import Health

SIGMAS: Final = 6.0
"""Standard deviations of statistics that every threshold leaves: once in 10^9 blocks."""
UNSYNCHRONISED_MOST: Final = 0.1
"""Share of a block's frames that may be out of sync before it is no block of the link."""
NOISE_MOST: Final = 0.5
"""Share of dark counts and afterpulses among the clicks up to which times tell something of the light."""
NOISE_CLICKS: Final = 10.0
"""So many more than a normal distribution has are granted to a few expected ones, whose number is Poissonian."""


def light_spread(square_ps2: float, noise_square_ps2: float, clicks: int, noise: float) -> float:
    """Standard deviation of the times of clicks of light, from the variance of all times.

    `noise` of the clicks are expected to be dark counts and afterpulses. A mixture's variance is the mean of those of
    its parts, so the light's is (V - f V_noise) / (1 - f). 0 where noise could be most of it: nothing is told then.
    """
    if noise + SIGMAS * math.sqrt(noise) + NOISE_CLICKS > NOISE_MOST * clicks:
        return 0.0
    share = noise / clicks
    return math.sqrt(max(0.0, (square_ps2 - share * noise_square_ps2) / (1.0 - share)))


def expected_square_ps2(receiver: Receiver) -> float:
    """Variance of the times of clicks of light, both detectors together."""
    first, second = receiver.detectors
    middle = middle_ps(receiver)
    means = [(1.0 - follow_of(detector)) * (detector.gate_offset_ps - middle) for detector in receiver.detectors]
    return (click_spread_ps(first) ** 2 + click_spread_ps(second) ** 2) / 2.0 + ((means[0] - means[1]) / 2.0) ** 2


def noise_square_ps2(receiver: Receiver) -> float:
    """The same of dark counts and afterpulses, which come whenever a gate is open."""
    first, second = receiver.detectors
    apart = (first.gate_offset_ps - second.gate_offset_ps) / 2.0
    return (gate_sigma_ps(first) ** 2 + gate_sigma_ps(second) ** 2) / 2.0 + apart**2


def judge(receiver: Receiver, healths: Sequence[Health]) -> tuple[str, str] | None:
    """Whether a block's frames give a key as far as the instruments tell: None, or an error's code and the reason.

    `link.blinding`, `link.sync`, `link.timing` or `link.mismatch`, the gravest first. A threshold is exceeded only
    beyond what `SIGMAS` standard deviations of statistics explain.
    """
    return (
        _judge_currents(receiver, healths)
        or _judge_clock(healths)
        or _judge_times(receiver, healths)
        or _judge_balance(receiver, healths)
    )


def _judge_currents(receiver: Receiver, healths: Sequence[Health]) -> tuple[str, str] | None:
    current, which = max(
        ((each, which) for health in healths for which, each in enumerate(health.current_a)), default=(0.0, 0)
    )
    if current <= receiver.current_most_a:
        return None
    return (
        "link.blinding",
        f"detector {which} draws {current:.2g} A, and at most {receiver.current_most_a:.2g} A are fine",
    )


def _judge_clock(healths: Sequence[Health]) -> tuple[str, str] | None:
    lost = sum(not health.synchronised for health in healths)
    if lost <= UNSYNCHRONISED_MOST * len(healths):
        return None
    return "link.sync", f"the clock was not locked in {lost} of {len(healths)} frames"


def _judge_times(receiver: Receiver, healths: Sequence[Health]) -> tuple[str, str] | None:
    telling = [health for health in healths if health.timing_std_ps > 0]
    weights = [sum(health.clicks) - health.doubles - 1 for health in telling]
    total = sum(weights)
    if total <= 0:
        return None
    square = math.fsum(w * health.timing_std_ps**2 for w, health in zip(weights, telling, strict=True)) / total
    expected = expected_square_ps2(receiver)
    statistics = SIGMAS * math.sqrt(2.0 / total) * max(expected, noise_square_ps2(receiver))
    if square <= receiver.timing_spread_most**2 * expected + statistics:
        return None
    return (
        "link.timing",
        f"clicks spread over {math.sqrt(square):.0f} ps, and {math.sqrt(expected):.0f} ps are explained",
    )


def _judge_balance(receiver: Receiver, healths: Sequence[Health]) -> tuple[str, str] | None:
    telling = [health for health in healths if health.timing_std_ps > 0]
    first, second = (sum(health.clicks[which] for health in telling) for which in (0, 1))
    total = first + second
    if not total:
        return None
    difference = abs(first - second) / total
    if difference <= receiver.imbalance_most + SIGMAS / math.sqrt(total):
        return None
    return "link.mismatch", f"the detectors clicked {first} and {second} times, which is {difference:.1%} apart"
