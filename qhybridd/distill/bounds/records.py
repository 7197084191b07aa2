"""What goes into a bound and what comes out of it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol as Interface


class Tallies(Interface):
    """Clicks and errors, one entry for each intensity: `sift.Counts`, or expected ones, which are no whole numbers."""

    @property
    def key_clicks(self) -> Sequence[float]: ...
    @property
    def key_errors(self) -> Sequence[float]: ...
    @property
    def test_clicks(self) -> Sequence[float]: ...
    @property
    def test_errors(self) -> Sequence[float]: ...


@dataclass(frozen=True, slots=True)
class Photons:
    """What the decoys tell of one basis; each holds but with the probability that the bound budgets for it."""

    vacuum: float
    """s_0, clicks of vacuum pulses, at least."""
    single: float
    """s_1, clicks of single photons, at least."""
    single_errors: float
    """v_1, errors among those, at most."""


@dataclass(frozen=True, slots=True)
class Estimates:
    """What the counts of a block prove about it."""

    vacuum: float
    """s_X0: clicks of the key basis that came from vacuum pulses, at least."""
    single: float
    """s_X1: those that came from single photons, at least."""
    test_single: float
    """s_Z1: clicks of the test basis that came from single photons, at least."""
    test_single_errors: float
    """v_Z1: errors among those, at most."""
    phase_error: float
    """φ_X1: the phase error rate of the single photons in the key basis, at most; never above 1/2."""


@dataclass(frozen=True, slots=True)
class Shares:
    """How often a proof spends the common ε = ε_sec / total: the composition of ε_sec."""

    estimation: int
    """Concentration inequalities of the decoy statistics."""
    smoothing: int
    """Smoothing of the min-entropy, twice: the phase error's sampling and the chain rules."""
    amplification: int
    """The leftover hash."""

    @property
    def total(self) -> int:
        return self.estimation + self.smoothing + self.amplification
