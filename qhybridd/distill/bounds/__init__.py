"""Finite-key bounds of decoy-state BB84, one module a paper; the bound of a link is chosen here.

Every bound gives lower bounds s_X0, s_X1 and an upper bound φ_X1 from counts, which together fail with at most its
share of ε_sec, and a penalty in bits. The length of the key is ⌊s_X0 + s_X1 (1 − h(φ_X1)) − leakage − penalty⌋.
"""

import math

from qhybridd.distill.bounds import lim, rusca, wiesemann
from qhybridd.distill.bounds.concentration import entropy
from qhybridd.distill.bounds.records import Estimates, Shares, Tallies
from qhybridd.distill.terms import Bound, Protocol
from qhybridd.errors import ProgramError

__all__ = ["Estimates", "Shares", "Tallies", "estimate", "key_length", "penalty_bits", "shares"]


def estimate(protocol: Protocol, tallies: Tallies) -> Estimates:
    """What these counts prove, by the bound of `protocol`. Raises `ProgramError` for counts that cannot be."""
    for clicks, errors in ((tallies.key_clicks, tallies.key_errors), (tallies.test_clicks, tallies.test_errors)):
        if not len(clicks) == len(errors) == len(protocol.intensities):
            raise ProgramError("program.argument", "counts have one entry for each intensity")
        if not all(0 <= wrong <= count < math.inf for count, wrong in zip(clicks, errors, strict=True)):
            raise ProgramError("program.argument", "errors are at least 0 and no more than clicks")
    match protocol.bound:
        case Bound.LIM:
            return lim.estimate(protocol, tallies)
        case Bound.RUSCA:
            return rusca.estimate(protocol, tallies)
        case Bound.WIESEMANN_ONE:
            return wiesemann.estimate_one(protocol, tallies)
        case Bound.WIESEMANN_TWO:
            return wiesemann.estimate_two(protocol, tallies)


def shares(bound: Bound) -> Shares:
    """How the bound spends ε_sec."""
    match bound:
        case Bound.LIM:
            return lim.SHARES
        case Bound.RUSCA:
            return rusca.SHARES
        case Bound.WIESEMANN_ONE:
            return wiesemann.SHARES_ONE
        case Bound.WIESEMANN_TWO:
            return wiesemann.SHARES_TWO


def penalty_bits(protocol: Protocol) -> float:
    """What secrecy and correctness cost, in bits."""
    match protocol.bound:
        case Bound.LIM:
            return lim.penalty_bits(protocol)
        case Bound.RUSCA:
            return rusca.penalty_bits(protocol)
        case Bound.WIESEMANN_ONE | Bound.WIESEMANN_TWO:
            return wiesemann.penalty_bits(protocol, shares(protocol.bound))


def key_length(protocol: Protocol, vacuum: float, single: float, phase_error: float, leakage: float) -> int:
    """ℓ in bits, 0 where nothing is left: Lim et al. equation (1), Rusca et al. (A25), Wiesemann et al. section 6.2.

    In double precision each of the five terms is good to 10^-3 bits for up to 10^12 clicks; a hundredth of a bit is
    kept back, so that rounding never gives a bit that the proof does not.
    """
    if not (vacuum >= 0 and single >= 0 and phase_error >= 0 and leakage >= 0):
        raise ProgramError("program.argument", "a key length needs numbers of at least 0")
    left = math.fsum((vacuum, single * (1 - entropy(phase_error)), -leakage, -penalty_bits(protocol)))
    return max(0, math.floor(left - 0.01))
