"""What a key rests on."""

from enum import IntEnum
from typing import Final

MAX_KEMS: Final = 4
"""KEMs of one key: bounds what a peer can make this end compute."""


class Level(IntEnum):
    """The level of a key, ordered: a higher one is stronger. The number is the wire code."""

    CLASSICAL = 1
    """X25519 alone."""
    PQC = 2
    """X25519 and at least one KEM."""
    HYBRID = 3
    """X25519, at least one KEM and a QKD key."""

    @property
    def label(self) -> str:
        """The name in configs and surfaces: `classical`, `pqc`, `hybrid`."""
        return self.name.lower()

    @property
    def needs_kem(self) -> bool:
        """Whether a key of this level takes KEM secrets."""
        return self >= Level.PQC

    @property
    def needs_qkd(self) -> bool:
        """Whether a key of this level takes a QKD key."""
        return self >= Level.HYBRID
