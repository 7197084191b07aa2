"""What is fixed before a block: the terms that both ends hold it to, and so the length of its key."""

import math
from dataclasses import dataclass
from enum import Enum
from typing import Final

from qhybridd.errors import OperatorError

PROBABILITY_SLACK: Final = 1e-9
"""How far probabilities may be from summing to 1: decimal fractions in a config do not sum exactly."""
PHOTONS_MOST: Final = 10.0
"""No link prepares brighter pulses; it keeps e^μ tame."""


class Bound(Enum):
    """Which finite-key bound gives the length."""

    LIM = "lim"
    """Two decoys, Lim et al., Phys. Rev. A 89, 022307 (2014)."""
    RUSCA = "rusca"
    """One decoy, Rusca et al., Appl. Phys. Lett. 112, 171104 (2018)."""
    WIESEMANN_ONE = "wiesemann-1"
    """One decoy, Wiesemann et al., arXiv:2405.16578: the default."""
    WIESEMANN_TWO = "wiesemann-2"
    """Two decoys, Wiesemann et al., arXiv:2405.16578."""

    @property
    def decoys(self) -> int:
        """How many intensities it takes besides the signal."""
        return 1 if self in (Bound.RUSCA, Bound.WIESEMANN_ONE) else 2


@dataclass(frozen=True, slots=True)
class Protocol:
    """How Alice prepares and how secret the key has to be: fixed for a link.

    Raises `OperatorError` (config.value) where its bound would not hold: intensities not ordered as the proof needs
    them, probabilities that do not sum to 1, a number out of range.
    """

    intensities: tuple[float, ...]
    """Mean photon numbers of the pulses, the brightest first: signal, decoy, and for two decoys the weakest."""
    intensity_probabilities: tuple[float, ...]
    """With which probability each is chosen; they sum to 1."""
    key_basis_probability: float
    """With which probability each end chooses the key basis X."""
    bound: Bound
    epsilon_sec: float
    """Secrecy: trace distance of the key from an ideal one."""
    epsilon_cor: float
    """Correctness: probability that the two keys differ and nobody notices."""
    qber_most: float
    """An error rate above this, in either basis, is taken for an attack."""

    def __post_init__(self) -> None:
        _check_intensities(self.intensities, self.bound)
        if len(self.intensity_probabilities) != len(self.intensities):
            raise _wrong("intensity_probabilities", f"{len(self.intensities)} of them, one for each intensity")
        if not all(0 < probability < 1 for probability in self.intensity_probabilities):
            raise _wrong("intensity_probabilities", "each above 0 and below 1")
        if not abs(math.fsum(self.intensity_probabilities) - 1) <= PROBABILITY_SLACK:
            raise _wrong("intensity_probabilities", "a sum of 1")
        if not 0 < self.key_basis_probability < 1:
            raise _wrong("key_basis_probability", "a number above 0 and below 1")
        for name, epsilon in (("epsilon_sec", self.epsilon_sec), ("epsilon_cor", self.epsilon_cor)):
            if not 1e-100 <= epsilon < 1:
                raise _wrong(name, "a number from 1e-100 to below 1")
        if not 0 < self.qber_most < 0.5:
            raise _wrong("qber_most", "a number above 0 and below 0.5")


def _check_intensities(intensities: tuple[float, ...], bound: Bound) -> None:
    """What makes every denominator of the bound positive: Lim et al. section II, Rusca et al. equation (A7)."""
    if len(intensities) != 1 + bound.decoys:
        raise _wrong("intensities", f"{1 + bound.decoys} of them for the bound {bound.value}")
    if not all(0 <= intensity <= PHOTONS_MOST for intensity in intensities):
        raise _wrong("intensities", f"mean photon numbers from 0 to {PHOTONS_MOST:g}")
    if bound.decoys == 1:
        signal, decoy = intensities
        if not signal > decoy > 0:
            raise _wrong("intensities", "a signal brighter than the decoy, and a decoy above 0")
    else:
        signal, decoy, weakest = intensities
        if not decoy > weakest or not signal > decoy + weakest:
            raise _wrong("intensities", "μ1 above μ2 + μ3, and μ2 above μ3")


def _wrong(name: str, wanted: str) -> OperatorError:
    return OperatorError("config.value", f"{name}: wanted is {wanted}")


@dataclass(frozen=True, slots=True)
class Terms:
    """The acceptance test of one block and the length that it pays, agreed before the first pulse is looked at.

    A block is accepted when every estimate is at least as good as its term; its key has `key_bits` then, whatever the
    estimates were (fixed length).
    """

    protocol: Protocol
    pulses: int
    """Pulses that Alice emits in the block."""
    key_clicks_least: int
    """Sifted clicks in the key basis."""
    test_clicks_least: int
    """Sifted clicks in the test basis."""
    vacuum_least: float
    """s_X0: clicks of the key basis that came from vacuum pulses."""
    single_least: float
    """s_X1: those that came from single photons."""
    phase_error_most: float
    """φ_X1: the phase error rate of the single photons."""
    leakage_most: int
    """Bits about the key that may be disclosed: by reconciliation, by verification, and by telling its errors."""
    key_bits: int
    """ℓ, the length of the secret key."""
