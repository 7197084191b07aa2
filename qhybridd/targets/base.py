"""The boundary to what holds a tunnel's keys. One target instance stands for one tunnel."""

from dataclasses import dataclass
from typing import Protocol

from qhybridd.protocol.actions import EpochKeys, Reserved


@dataclass(frozen=True, slots=True)
class Observation:
    """What the device says of a tunnel now."""

    tag: bytes
    """Public tag of the key on the device (`kdf.key_tag`); empty when it holds none."""
    last_handshake_ns: int
    """Wall-clock time of the last handshake in nanoseconds as the device tells it; 0 if never. Only compared."""
    endpoint: str
    """Where the peer was last heard, `host:port`; empty if unknown."""
    rx_bytes: int
    tx_bytes: int


class Target(Protocol):
    """Verbs on one tunnel. Each raises `HostError`; each may be cancelled at any await without a half-made change."""

    async def reserve(self) -> Reserved:
        """Check that the tunnel can take a key, and say what this end offers."""

    async def stage(self, keys: EpochKeys) -> None:
        """Prepare to receive under `keys`."""

    async def activate(self, keys: EpochKeys) -> None:
        """Install `keys` beside the running session, read back, compare in constant time."""

    async def reset(self, keys: EpochKeys) -> None:
        """Install `keys` and drop every running session, so that the next packet needs a handshake under them."""

    async def observe(self, epoch: int, *, kick: bool) -> None:
        """Return once the device proves that both ends use `epoch`; with `kick` start a handshake at once."""

    async def straddle(self, old: int, keys: EpochKeys) -> int:
        """Try the key that the device holds (`old`) and `keys` in turn; return the epoch that works."""

    async def retire(self, epoch: int) -> None:
        """Remove what is older than `epoch`."""

    async def close(self) -> None:
        """End every session and let none begin. The guard is shut before this is called."""

    async def inspect(self) -> Observation:
        """Read the device."""

    async def check(self, tag: bytes) -> str | None:
        """What another program changed, where the key of `tag` should be on the device; None if nothing."""
