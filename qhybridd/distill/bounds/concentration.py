"""What the bounds of all papers are made of: concentration inequalities, photon statistics, entropy."""

import math

from qhybridd.distill.terms import Protocol


def deviation(count: float, epsilon: float) -> float:
    """δ(n, ε) = √(n/2 · ln(1/ε)): how far `count` trials stray from their mean, one side, but with probability ε.

    Hoeffding's inequality: each click keeps its photon number and draws its intensity on its own, by p(k|n). Lim et al.
    equation (A1), Rusca et al. (A2).
    """
    return math.sqrt(count / 2 * math.log(1 / epsilon))


def emitted(protocol: Protocol, photons: int) -> float:
    """τ_n = Σ p_k e^-k k^n / n!: the probability that a pulse has `photons` photons. Lim et al., below equation (2)."""
    return math.fsum(
        probability * math.exp(-intensity) * intensity**photons / math.factorial(photons)
        for intensity, probability in zip(protocol.intensities, protocol.intensity_probabilities, strict=True)
    )


def clip(value: float, most: float) -> float:
    """`value` moved into [0, most]: what is counted is never negative and never more than all."""
    return min(max(value, 0.0), most)


def entropy(probability: float) -> float:
    """h(p) in bits, and 1 for all p ≥ 1/2: an error rate beyond a half is worth no more than a half."""
    if probability <= 0:
        return 0.0
    if probability >= 0.5:
        return 1.0
    return -probability * math.log2(probability) - (1 - probability) * math.log1p(-probability) / math.log(2)


def serfling(epsilon: float, sample: float, rest: float) -> float:
    """γ = √((c + d)(d + 1) / (c d²) · ln(1/ε)): the error rate of the `rest` d over that of the `sample` c, at most.

    Serfling's inequality (Ann. Stat. 2, 39 (1974), corollary 1.1) for a sample without replacement: fails with
    probability exp(−2 c d² γ² / ((c + d)(d + 1))) = ε², of which the smoothing takes the root. Wiesemann et al. section
    4.2; Tomamichel et al., Nat. Commun. 3, 634 (2012), have c + 1 over c by exchanging the two sets, which holds too.
    """
    return math.sqrt((sample + rest) * (rest + 1) / (sample * rest * rest) * math.log(1 / epsilon))


def fung(epsilon: float, rate: float, sample: float, rest: float) -> float:
    """γ = √((c + d)(1 − b)b / (c d ln 2) · log2[(c + d) / (c d (1 − b) b ε²)] ), Lim et al. equation (B2).

    From Fung, Ma, Chau, Phys. Rev. A 81, 012318 (2010). It rests on Stirling's approximation, which breaks down at a
    rate of 0, where it would promise no deviation at all: a rate below one error in the sample is taken for one error.
    """
    rate = min(max(rate, 1 / sample), 0.5)
    spread = (1 - rate) * rate
    both = 1 / sample + 1 / rest
    return math.sqrt(both * spread / math.log(2) * max(1.0, math.log2(both / spread) - 2 * math.log2(epsilon)))
