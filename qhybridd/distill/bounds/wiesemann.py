"""One and two decoys: Wiesemann, Krause, Tupkary, Lütkenhaus, Rusca, Walenta, arXiv:2405.16578; Quantum 10, 2037.

The decoy statistics are those of Rusca et al. and Lim et al.; what the paper mends is around them: the length is fixed
before the block, the acceptance test is part of the proof, one chain rule is saved, and the phase errors are sampled
by Serfling's inequality, which is exact. Sections are cited as the authors' published simulation names them.
"""

import math
from typing import Final

from qhybridd.distill.bounds import lim, rusca
from qhybridd.distill.bounds.concentration import serfling
from qhybridd.distill.bounds.records import Estimates, Photons, Shares, Tallies
from qhybridd.distill.terms import Protocol

SHARES_ONE: Final = Shares(estimation=10, smoothing=4, amplification=1)
"""One decoy: 2[α1 + α2] + ν + 6ε1 + 4ε2, all of one size: 15 ε. One chain rule, between single photons and the rest."""
SHARES_TWO: Final = Shares(estimation=12, smoothing=4, amplification=1)
"""Two decoys: 2[α1 + α2] + ν + 10ε1 + 2ε2, all of one size: 17 ε. Two more inequalities than with one decoy."""


def estimate_one(protocol: Protocol, tallies: Tallies) -> Estimates:
    """One decoy, sections 4.1 and 4.2, with ε = ε_sec / 15. Needs the errors of the key basis: after reconciliation."""
    epsilon = protocol.epsilon_sec / SHARES_ONE.total
    key = rusca.photons(protocol, tallies.key_clicks, tallies.key_errors, epsilon)
    test = rusca.photons(protocol, tallies.test_clicks, tallies.test_errors, epsilon)
    return Estimates(key.vacuum, key.single, test.single, test.single_errors, _phase_error(epsilon, key, test))


def estimate_two(protocol: Protocol, tallies: Tallies) -> Estimates:
    """Two decoys, sections 4.1 and 4.2, with ε = ε_sec / 17."""
    epsilon = protocol.epsilon_sec / SHARES_TWO.total
    key = lim.photons(protocol, tallies.key_clicks, tallies.key_errors, epsilon)
    test = lim.photons(protocol, tallies.test_clicks, tallies.test_errors, epsilon)
    return Estimates(key.vacuum, key.single, test.single, test.single_errors, _phase_error(epsilon, key, test))


def _phase_error(epsilon: float, key: Photons, test: Photons) -> float:
    """φ_X1 ≤ v_Z1 / s_Z1 + γ with Serfling's γ, section 4.2; the test basis is the sample."""
    if test.single < 1 or key.single < 1:
        return 0.5
    return min(0.5, test.single_errors / test.single + serfling(epsilon, test.single, key.single))


def penalty_bits(protocol: Protocol, shares: Shares) -> float:
    """4 log2(15 / (ε_sec 2^(1/4))) + log2(2/ε_cor) in bits, section 6.2; 17 in place of 15 with two decoys.

    The 2^(1/4) is what the chain rule (−1 bit) and the leftover hash lemma (+2 bits) leave together.
    """
    return 4 * math.log2(shares.total / protocol.epsilon_sec) - 1 + math.log2(2 / protocol.epsilon_cor)
