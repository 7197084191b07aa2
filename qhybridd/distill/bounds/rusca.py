"""One decoy: Rusca, Boaron, Grünenfelder, Martin, Zbinden, Appl. Phys. Lett. 112, 171104 (2018), appendix A.

The paper makes its key in Z and tests in X; here it is the other way round, as everywhere in this program. As printed
(A18) lacks the factor e^k / p_k and the deviation in (A16) is that of (A2); they are taken as (A10) and (A4) have them.
"""

import math
from collections.abc import Sequence
from typing import Final

from qhybridd.distill.bounds.concentration import clip, deviation, emitted
from qhybridd.distill.bounds.lim import phase_error
from qhybridd.distill.bounds.records import Estimates, Photons, Shares, Tallies
from qhybridd.distill.terms import Protocol

SHARES: Final = Shares(estimation=10, smoothing=8, amplification=1)
"""Equation (A24), with α1 and α2 as in Lim et al.: 2[2α1 + α2 + α3] + ν + 6ε1 + 4ε2, all of one size: 19 ε.

The least over both intensities in (A16) costs no more: n1* + n2* = n, so that n1 is not above its bound unless n2 is
below its own. A basis then has one such event in its clicks, two in its errors, one in its vacuum: 8 of the 10.
"""


def photons(protocol: Protocol, clicks: Sequence[float], errors: Sequence[float], epsilon: float) -> Photons:
    """Equations (A16), (A17), (A19) and (A22) for one basis, each inequality at `epsilon`; needs μ1 > μ2 > 0."""
    first, second = protocol.intensities
    p1, p2 = protocol.intensity_probabilities
    total, wrong = math.fsum(clicks), math.fsum(errors)
    stray, stray_errors = deviation(total, epsilon), deviation(wrong, epsilon)
    n1_most = math.exp(first) / p1 * clip(clicks[0] + stray, total)
    n2_least = math.exp(second) / p2 * clip(clicks[1] - stray, total)
    m1_most = math.exp(first) / p1 * clip(errors[0] + stray_errors, wrong)
    m2_most = math.exp(second) / p2 * clip(errors[1] + stray_errors, wrong)
    m2_least = math.exp(second) / p2 * clip(errors[1] - stray_errors, wrong)
    none, one = emitted(protocol, 0), emitted(protocol, 1)
    apart = first - second

    vacuum = none / apart * (first * n2_least - second * n1_most)  # (A19)
    vacuum_most = clip(2 * (none * min(m1_most, m2_most) + stray), total)  # (A16): half of the vacuum clicks err
    ratio = second * second / (first * first)
    rest = n2_least - ratio * n1_most - (1 - ratio) * vacuum_most / none
    single = one * first / (second * apart) * rest  # (A17)
    single_errors = one / apart * (m1_most - m2_least)  # (A22)
    return Photons(clip(vacuum, total), clip(single, total), clip(single_errors, total))


def estimate(protocol: Protocol, tallies: Tallies) -> Estimates:
    """Equations (A16) to (A23), with ε = ε_sec / 19."""
    epsilon = protocol.epsilon_sec / SHARES.total
    key = photons(protocol, tallies.key_clicks, tallies.key_errors, epsilon)
    test = photons(protocol, tallies.test_clicks, tallies.test_errors, epsilon)
    return Estimates(key.vacuum, key.single, test.single, test.single_errors, phase_error(epsilon, key, test))


def penalty_bits(protocol: Protocol) -> float:
    """6 log2(19/ε_sec) + log2(2/ε_cor), equation (A25), in bits."""
    return 6 * math.log2(SHARES.total / protocol.epsilon_sec) + math.log2(2 / protocol.epsilon_cor)
