"""The boundary to what gives QKD keys."""

from dataclasses import dataclass
from typing import Protocol

from qhybridd.protocol.actions import QkdKey
from qhybridd.protocol.messages import QkdRef


@dataclass(frozen=True, slots=True)
class Supply:
    """What a key source can give now."""

    available_bits: int
    """Bits that this end may reserve."""
    simulated: bool
    """True for simulated optics: such keys never pass as QKD unless the tunnel allows it by name."""


class KeySource(Protocol):
    """Secrets by key ID, each given out once. Each verb raises `HostError`, `source.empty` or `source.lost`."""

    async def reserve(self, bits: int) -> QkdKey:
        """Take `bits` of fresh key and say by which IDs the peer finds them."""

    async def fetch(self, ref: QkdRef) -> QkdKey:
        """The key that the peer reserved; its IDs are burnt here whether this succeeds or not."""

    async def burn(self, ref: QkdRef) -> None:
        """Throw away a reserved key that no rotation will use."""

    def supply(self) -> Supply:
        """How much there is, without I/O."""
