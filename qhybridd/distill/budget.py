"""The epsilon of one block, term by term: the table of docs/security.md in numbers."""

import math
from dataclasses import dataclass

from qhybridd.distill import bounds
from qhybridd.distill.terms import Protocol
from qhybridd.errors import ProgramError


@dataclass(frozen=True, slots=True)
class EpsilonBudget:
    """What may go wrong with one block; the sum bounds its distance from an ideal key at both ends."""

    estimation: float
    """ε_sec: a decoy estimate is on the wrong side."""
    smoothing: float
    """ε_sec: smoothing of the min-entropy, with the sampling of the phase errors in it."""
    amplification: float
    """ε_sec: the leftover hash."""
    verification: float
    """ε_cor: different keys have equal tags. What the tags really give; no more than the protocol's ε_cor."""
    authentication: float
    """Somebody forges one of the block's messages."""
    inherited: float
    """What the blocks that the pads and the hash key came from had left to chance."""

    @property
    def secrecy(self) -> float:
        """ε_sec."""
        return math.fsum((self.estimation, self.smoothing, self.amplification))

    @property
    def own(self) -> float:
        """What this block adds: all but what it inherited."""
        return math.fsum((self.secrecy, self.verification, self.authentication))

    @property
    def total(self) -> float:
        """All of it."""
        return self.own + self.inherited


def budget_of(
    protocol: Protocol, *, verification: float, authentication: float, inherited: float = 0.0
) -> EpsilonBudget:
    """The budget of a block: what `verify.epsilon` leaves for its comparisons of the key, and `Authenticator.epsilon`.

    Raises `ProgramError` when the comparisons together leave more than ε_cor.
    """
    if not verification <= protocol.epsilon_cor:
        raise ProgramError("program.argument", f"the tags leave {verification:.1e} of {protocol.epsilon_cor:.1e}")
    spent = bounds.shares(protocol.bound)
    epsilon = protocol.epsilon_sec / spent.total
    return EpsilonBudget(
        estimation=spent.estimation * epsilon,
        smoothing=spent.smoothing * epsilon,
        amplification=spent.amplification * epsilon,
        verification=verification,
        authentication=authentication,
        inherited=inherited,
    )
