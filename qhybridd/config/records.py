"""What a configuration file says, checked and typed. Records only; nothing here reads a file."""

import hashlib
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from pathlib import Path
from typing import Final, Literal

from qhybridd.crypto.levels import Level
from qhybridd.distill.authenticate import Role
from qhybridd.distill.terms import Bound, Protocol
from qhybridd.errors import OperatorError
from qhybridd.optics.parameters import Optics

Prefix = IPv4Network | IPv6Network
Address = IPv4Address | IPv6Address
Renew = Literal["wait", "reset", "seamless"]
"""How a new key comes into use. `wait`: at WireGuard's next handshake; `reset`: at a forced one; `seamless`: beside the
old one, which is taken away once both ends use the new one (XFRM, always)."""
EspMode = Literal["tunnel", "transport"]
EspCipher = Literal["aes-256-gcm", "chacha20-poly1305"]

DEFAULT_CONFIG: Final = Path("/etc/qhybridd/qhybridd.toml")
PEER_SUFFIX: Final = ".peer"
REVOKED: Final = "revoked"
"""Directory beside the peer files that holds the revoked ones, as `FINGERPRINT.NAME.peer`."""
DEFAULT_PORT: Final = 7420
PROBE_PORT: Final = DEFAULT_PORT
"""UDP port of the probes that XFRM tunnels send between their outer addresses."""
DEFAULT_PHOTON_PORT: Final = 7421
KEY_BITS: Final = 256
"""Of one key in a link's store: what one rotation takes."""
DEFAULT_MARK: Final = 0x7148
"""SO_MARK of the control sockets: `qH`, so that rules can tell them from the traffic that they key."""
REQID_LEAST: Final = 0x51000000
REQID_MOST: Final = 0x51FFFFFF
"""IKE daemons count their reqids up from small numbers: in this range (`Q`) everything is ours."""


def default_reqid(tunnel: str) -> int:
    """The reqid of an XFRM tunnel that names none: 24 bits of a hash of its name, so that it outlives restarts."""
    return REQID_LEAST | int.from_bytes(hashlib.sha256(tunnel.encode()).digest()[:3])


class ConfigError(OperatorError):
    """A file was refused; `problems` holds everything that is wrong with it, in the order of the file."""

    def __init__(self, problems: tuple[OperatorError, ...]) -> None:
        first = problems[0]
        message, hint = first.message, first.hint
        if len(problems) > 1:
            message, hint = f"{message} (and {len(problems) - 1} more)", f"{hint} `qhybridd check` shows all."
        super().__init__(first.code, message, where=first.where, hint=hint)
        self.problems = problems


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where a gateway listens or can be reached."""

    host: str
    """An IPv4 or IPv6 address without brackets, or a DNS name."""
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@dataclass(frozen=True, slots=True)
class GatewayConfig:
    """The `[gateway]` table: this host."""

    identity: Path = Path("/etc/qhybridd/identity.key")
    """The secret identity file."""
    peers: Path = Path("/etc/qhybridd/peers")
    """Directory of peer files, `NAME.peer` and `NAME.ANYTHING.peer`."""
    listen: tuple[Endpoint, ...] = (Endpoint("0.0.0.0", DEFAULT_PORT), Endpoint("::", DEFAULT_PORT))  # noqa: S104 - a gateway listens on all its underlays unless told otherwise
    """Where peers may dial; empty for a gateway that only dials."""
    runtime: Path = Path("/run/qhybridd")
    """Control socket and the state of this boot."""
    state: Path = Path("/var/lib/qhybridd")
    """State that outlives a boot."""
    suites: tuple[str, ...] = ("x25519-mlkem768", "x25519-mlkem1024")
    """Handshake suites, the preferred one first."""
    mark: int = DEFAULT_MARK
    """SO_MARK of the control sockets; 0 sets none."""

    @property
    def socket(self) -> Path:
        """The control socket."""
        return self.runtime / "control.sock"


@dataclass(frozen=True, slots=True)
class PeerConfig:
    """A peer: its optional `[peer.NAME]` table, and its files in the peers directory."""

    name: str
    endpoints: tuple[Endpoint, ...] = ()
    """Where to dial it; empty: the endpoints in its peer file, and if there are none, it has to dial."""
    bootstrap_psk: Path | None = None
    """File of a PSK that both ends add to the handshake; None: the peer must not use one either."""
    files: tuple[Path, ...] = ()
    """Its peer files, one pin each, `NAME.peer` first; more than one while its identity is rolled over."""


@dataclass(frozen=True, slots=True)
class WireGuardConfig:
    """A tunnel over WireGuard: one peer of one interface."""

    interface: str
    peer: bytes
    """The WireGuard public key of the peer on that interface, 32 bytes (key `wireguard_peer`)."""


@dataclass(frozen=True, slots=True)
class XfrmConfig:
    """A tunnel over ESP in the kernel (`target = "xfrm"`): one pair of security associations between two addresses."""

    local: Address
    """This gateway's outer address."""
    remote: Address
    """The other gateway's."""
    reqid: int
    """Ties policies, security associations and the guard together, between `REQID_LEAST` and `REQID_MOST`: by default
    from the tunnel's name (`default_reqid`). The two gateways' numbers need not be the same."""
    behind: tuple[Prefix, ...] = (IPv4Network("0.0.0.0/0"), IPv6Network("::/0"))
    """What on this side may use the tunnel: the local traffic selectors. What it protects are the remote ones."""
    mode: EspMode = "tunnel"
    cipher: EspCipher = "aes-256-gcm"
    replay_window: int = 1024
    """Packets; with extended sequence numbers (RFC 4303 section 2.2.1), always."""
    interface: str = ""
    """An XFRM interface that the traffic is routed to; empty: the policies alone choose it."""
    if_id: int = 0
    """The XFRM interface's `if_id`; 0 where there is none."""
    encapsulation: int = 0
    """UDP port at both ends for ESP in UDP (RFC 3948); 0: plain ESP."""
    offload: str = ""
    """The network device that is to encrypt in hardware; empty: none."""


@dataclass(frozen=True, slots=True)
class TunnelConfig:
    """A `[tunnel.NAME]` table."""

    name: str
    """The same at both gateways."""
    peer: str
    """Name of the peer gateway."""
    target: WireGuardConfig | XfrmConfig
    """What holds its keys."""
    protects: tuple[Prefix, ...]
    """Traffic to and from these leaves through the open tunnel or not at all."""
    excepts: tuple[Prefix, ...] = ()
    """Parts of `protects` that the guard leaves alone (key `except`)."""
    renew: Renew = "wait"
    period_s: int = 120
    """From one rotation to the next."""
    expiry_s: int = 300
    """Hard expiry of a key, counted from the moment of combining."""
    least: Level = Level.HYBRID
    """The lowest level of key that may carry traffic."""
    kems: tuple[str, ...] = ("ml-kem-768",)
    """KEMs of the rotation; the first is built in, each further one is an additional input."""
    qkd: str | None = None
    """The link whose keys it takes; None: it never gets above `pqc`."""
    simulated: bool = False
    """Whether keys of a simulated link count as QKD for this tunnel: only where the operator wrote so."""

    @property
    def interface(self) -> str:
        """The device that its packets enter and leave by; empty for an XFRM tunnel without an interface."""
        return self.target.interface


@dataclass(frozen=True, slots=True)
class LinkConfig:
    """A `[link.NAME]` table: a QKD link to a peer. So far every link is simulated, and says so."""

    name: str
    """The same at both gateways."""
    peer: str
    role: Role
    """Which end of the fibre this gateway has."""
    psk: Path
    """File of the link's PSK, the same at both gateways: what its first tags rest on."""
    photons: Endpoint
    """alice: where she listens for the other end of the fibre; bob: where he finds hers."""
    simulation: Optics = field(default_factory=Optics)
    """`[link.NAME.simulation]`: source, fibre and receiver; the same at both gateways."""
    bound: Bound = Bound.WIESEMANN_ONE
    epsilon_sec: float = 1e-10
    epsilon_cor: float = 1e-15
    qber_most: float = 0.08
    block_clicks: int = 2_000_000
    """Sifted clicks in the key basis that a block is to have."""
    capacity_bits: int = 1 << 20
    """What the key store holds for each of the two directions; beyond that the oldest keys go."""
    max_age_s: int = 3600
    """Keys that nobody used for so long go too."""

    @property
    def protocol(self) -> Protocol:
        """What the key length is proven for. Raises `OperatorError` (config.value) where the proof would not hold."""
        source = self.simulation.source
        return Protocol(
            source.intensities,
            source.intensity_probabilities,
            source.key_basis_probability,
            self.bound,
            self.epsilon_sec,
            self.epsilon_cor,
            self.qber_most,
        )


@dataclass(frozen=True, slots=True)
class Config:
    """One configuration file."""

    gateway: GatewayConfig = field(default_factory=GatewayConfig)
    peers: dict[str, PeerConfig] = field(default_factory=dict)
    tunnels: dict[str, TunnelConfig] = field(default_factory=dict)
    links: dict[str, LinkConfig] = field(default_factory=dict)
