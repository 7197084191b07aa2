"""Two decoys: Lim, Curty, Walenta, Xu, Zbinden, Phys. Rev. A 89, 022307 (2014)."""

import math
from collections.abc import Sequence
from typing import Final

from qhybridd.distill.bounds.concentration import clip, deviation, emitted, fung
from qhybridd.distill.bounds.records import Estimates, Photons, Shares, Tallies
from qhybridd.distill.terms import Protocol

SHARES: Final = Shares(estimation=12, smoothing=8, amplification=1)
"""Equation (B4): ε_sec = 2[2α1 + α2 + α3] + ν + 10ε1 + 2ε2, all of one size: 21 ε."""


def photons(protocol: Protocol, clicks: Sequence[float], errors: Sequence[float], epsilon: float) -> Photons:
    """Equations (2), (3) and (4) for one basis, each inequality at `epsilon`; needs μ1 > μ2 + μ3 and μ2 > μ3 ≥ 0."""
    first, second, third = protocol.intensities
    p1, p2, p3 = protocol.intensity_probabilities
    total, wrong = math.fsum(clicks), math.fsum(errors)
    stray, stray_errors = deviation(total, epsilon), deviation(wrong, epsilon)
    # n± and m± of the text below equations (2) and (4).
    n1_most = math.exp(first) / p1 * clip(clicks[0] + stray, total)
    n2_most = math.exp(second) / p2 * clip(clicks[1] + stray, total)
    n2_least = math.exp(second) / p2 * clip(clicks[1] - stray, total)
    n3_most = math.exp(third) / p3 * clip(clicks[2] + stray, total)
    n3_least = math.exp(third) / p3 * clip(clicks[2] - stray, total)
    m2_most = math.exp(second) / p2 * clip(errors[1] + stray_errors, wrong)
    m3_least = math.exp(third) / p3 * clip(errors[2] - stray_errors, wrong)
    none, one = emitted(protocol, 0), emitted(protocol, 1)

    vacuum = clip(none * (second * n3_least - third * n2_most) / (second - third), total)  # (2)
    squares = second * second - third * third
    multiple = squares / (first * first) * (n1_most - vacuum / none)
    single = one * first * (n2_least - n3_most - multiple) / (first * (second - third) - squares)  # (3)
    single_errors = one * (m2_most - m3_least) / (second - third)  # (4)
    return Photons(vacuum, clip(single, total), clip(single_errors, total))


def estimate(protocol: Protocol, tallies: Tallies) -> Estimates:
    """Equations (2) to (5), with ε = ε_sec / 21."""
    epsilon = protocol.epsilon_sec / SHARES.total
    key = photons(protocol, tallies.key_clicks, tallies.key_errors, epsilon)
    test = photons(protocol, tallies.test_clicks, tallies.test_errors, epsilon)
    return Estimates(key.vacuum, key.single, test.single, test.single_errors, phase_error(epsilon, key, test))


def phase_error(epsilon: float, key: Photons, test: Photons) -> float:
    """φ_X ≤ v_Z1 / s_Z1 + γ, equation (5); 1/2 where there is nothing to learn it from."""
    if test.single < 1 or key.single < 1:
        return 0.5
    rate = test.single_errors / test.single
    return 0.5 if rate >= 0.5 else min(0.5, rate + fung(epsilon, rate, test.single, key.single))


def penalty_bits(protocol: Protocol) -> float:
    """6 log2(21/ε_sec) + log2(2/ε_cor), equation (1): what the key loses for being secret and correct, in bits."""
    return 6 * math.log2(SHARES.total / protocol.epsilon_sec) + math.log2(2 / protocol.epsilon_cor)
