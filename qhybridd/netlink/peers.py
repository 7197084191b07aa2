"""WireGuard peers as records: what every WireGuard backend, kernel or userspace, gives and takes."""

from dataclasses import dataclass
from ipaddress import ip_address
from typing import Final

from qhybridd.errors import ProgramError
from qhybridd.secret import Secret

KEY_BYTES: Final = 32
"""A Curve25519 key, and a PSK."""


@dataclass(frozen=True, slots=True)
class AllowedIp:
    """One prefix of a peer's allowed IPs."""

    address: bytes
    """4 or 16 bytes."""
    prefix: int

    def __str__(self) -> str:
        return f"{ip_address(self.address)}/{self.prefix}"


@dataclass(frozen=True, slots=True)
class PeerState:
    """A peer as the device tells it."""

    public_key: bytes
    psk: Secret
    """32 bytes; all zero where there is none."""
    endpoint: str
    """`host:port`, `[host%scope]:port`; empty where it is not known."""
    keepalive_s: int
    """0 where it is off."""
    last_handshake_ns: int
    """Wall-clock time; 0 if never."""
    rx_bytes: int
    tx_bytes: int
    allowed_ips: tuple[AllowedIp, ...]


@dataclass(frozen=True, slots=True)
class DeviceState:
    """What was asked about a device."""

    public_key: bytes
    """Empty where the device has no key."""
    peers: dict[bytes, PeerState]
    """The peers asked for that are there, by public key."""


@dataclass(frozen=True, slots=True)
class PeerChange:
    """One change to one peer. None leaves a value as it is."""

    public_key: bytes
    psk: Secret | None = None
    keepalive_s: int | None = None
    remove: bool = False
    """Remove the peer; nothing else of the record counts."""
    create: bool = False
    """Add the peer if it is not there; the backends carry out any other change on an existing peer only."""
    endpoint: str = ""
    allowed_ips: tuple[AllowedIp, ...] | None = None
    """Replaces those that are there."""


def set_psk(public_key: bytes, psk: Secret) -> PeerChange:
    """Give a peer another PSK; its sessions live on. Raises `ProgramError` for an all-zero one, which means none."""
    if len(psk) != KEY_BYTES or psk.is_zero:
        raise ProgramError("program.argument", "a WireGuard PSK has 32 bytes, not all of them zero")
    return PeerChange(public_key, psk=psk)


def set_keepalive(public_key: bytes, keepalive_s: int) -> PeerChange:
    """Set the persistent keepalive; going from 0 to another value sends a packet at once."""
    return PeerChange(public_key, keepalive_s=keepalive_s)


def remove_and_add(peer: PeerState, psk: Secret) -> tuple[PeerChange, ...]:
    """End all sessions of a peer: remove it and add it as it was, with another PSK."""
    add = set_psk(peer.public_key, psk)
    return (
        PeerChange(peer.public_key, remove=True),
        PeerChange(
            peer.public_key,
            psk=add.psk,
            keepalive_s=peer.keepalive_s,
            create=True,
            endpoint=peer.endpoint,
            allowed_ips=peer.allowed_ips,
        ),
    )
