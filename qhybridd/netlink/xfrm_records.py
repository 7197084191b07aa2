"""What is said to and by XFRM: security associations, policies, events (linux/xfrm.h, RFC 4301). Records only."""

from dataclasses import dataclass
from enum import IntEnum
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import Final

from qhybridd.secret import Secret

Address = IPv4Address | IPv6Address
Prefix = IPv4Network | IPv6Network

SPI_LEAST: Final = 0x100
"""SPIs below are reserved (RFC 4303 section 2.1)."""
SPI_MOST: Final = 0xFFFFFFFF


class Direction(IntEnum):
    """Where a policy applies (XFRM_POLICY_IN, _OUT, _FWD)."""

    IN = 0
    OUT = 1
    FORWARD = 2


class Mode(IntEnum):
    """XFRM_MODE_TRANSPORT, XFRM_MODE_TUNNEL."""

    TRANSPORT = 0
    TUNNEL = 1


class Cipher(IntEnum):
    """The AEADs of ESP that are used: kernel name, key with salt 36 bytes, ICV 16 bytes each (`netlink/xfrm.py`)."""

    AES_256_GCM = 1
    """`rfc4106(gcm(aes))` (RFC 4106 section 8.1)."""
    CHACHA20_POLY1305 = 2
    """`rfc7539esp(chacha20,poly1305)` (RFC 7634)."""


@dataclass(frozen=True, slots=True)
class SaId:
    """Names one ESP security association in the kernel: it is unique by these."""

    destination: Address
    spi: int


@dataclass(frozen=True, slots=True)
class SecurityAssociation:
    """One direction of ESP, without its key."""

    source: Address
    destination: Address
    spi: int
    reqid: int
    mode: Mode
    cipher: Cipher
    replay_window: int
    """Packets, a power of two up to 4096; extended sequence numbers are always on."""
    hard_expiry_s: int
    """The kernel deletes it so long after it was added, by the wall clock; 0: never."""
    if_id: int = 0
    encapsulation: int = 0
    """UDP port of ESP in UDP at both ends (RFC 3948); 0: none."""
    offload: str = ""
    """Network device that encrypts; empty: none."""

    @property
    def id(self) -> SaId:
        """Its name."""
        return SaId(self.destination, self.spi)


@dataclass(frozen=True, slots=True)
class SaState:
    """A security association as the kernel holds it."""

    id: SaId
    source: Address
    reqid: int
    mode: int
    valid: bool
    """False for one that only holds an SPI (larval) or is expired."""
    if_id: int
    packets: int
    """That went through it."""
    bytes: int
    cipher: str
    """Kernel name; empty for one without a key."""
    key: Secret | None
    """Key and salt, in locked memory; None where there is none, it was not asked for, or a kernel in lockdown does not
    tell it."""
    replay_window: int = 0
    """Packets; 0 without extended sequence numbers."""
    encapsulation: int = 0
    """UDP port at both ends; 0 where there is none or they differ."""
    offload_index: int = 0
    """Index of the network device that encrypts; 0: none does."""


@dataclass(frozen=True, slots=True)
class Selector:
    """Which packets a policy is about."""

    source: Prefix
    destination: Prefix
    protocol: int = 0
    """0: any."""
    source_port: int = 0
    destination_port: int = 0


@dataclass(frozen=True, slots=True)
class Template:
    """What a policy requires of a packet: one ESP association."""

    source: Address
    """Outer addresses; with transport mode those of the packet."""
    destination: Address
    reqid: int
    mode: Mode
    spi: int = 0
    """0: any association of this reqid."""


@dataclass(frozen=True, slots=True)
class SecurityPolicy:
    """What happens to packets of a selector: ESP by the template, or, with none, they pass as they are."""

    direction: Direction
    selector: Selector
    priority: int
    """The lowest number that fits a packet decides."""
    template: Template | None
    if_id: int = 0
    mark: int = 0
    """Only packets with exactly this mark; 0: whatever their mark."""
    block: bool = False
    """Drop them; `template` is None then."""
    foreign: bool = False
    """Read only: it says more than this record can (several templates, another protocol than ESP, a user, …), so it is
    none of ours; `template` is None then."""


@dataclass(frozen=True, slots=True)
class SaExpired:
    """An association reached a lifetime."""

    id: SaId
    reqid: int
    hard: bool


@dataclass(frozen=True, slots=True)
class SaChanged:
    """Somebody added, updated or deleted an association."""

    id: SaId
    deleted: bool
    reqid: int = 0


@dataclass(frozen=True, slots=True)
class PolicyChanged:
    """Somebody added, updated or deleted a policy, or its lifetime ended."""

    deleted: bool
    policy: SecurityPolicy | None = None
    """As it is or was; its `template` tells the reqid."""


@dataclass(frozen=True, slots=True)
class Acquire:
    """The kernel has a packet for a template and no association."""

    reqid: int
    destination: Address


@dataclass(frozen=True, slots=True)
class Flushed:
    """Somebody flushed all associations, or all policies."""

    policies: bool


@dataclass(frozen=True, slots=True)
class Lost:
    """Events came faster than they were read (ENOBUFS): look at everything."""


Event = SaExpired | SaChanged | PolicyChanged | Acquire | Flushed | Lost
