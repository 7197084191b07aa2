"""What the daemon tells of itself, and the lines that its control socket speaks.

One JSON object a line, in either direction: a request with a `verb`, an answer with `ok`. The daemon fills the records,
the command line renders them; nothing in them is secret. Times are seconds, counted so that the reader needs no clock.
"""

from collections.abc import Iterable
from typing import TYPE_CHECKING, Annotated, Final, Literal

import msgspec
from msgspec import Meta, Struct

if TYPE_CHECKING:
    from qhybridd.guard import GuardState

MAX_REQUEST_BYTES: Final = 64 * 1024
MAX_ANSWER_BYTES: Final = 1 << 24
"""16 MiB: the status of ten thousand tunnels."""

Name = Annotated[str, Meta(min_length=1, max_length=63)]
Fingerprint = Annotated[str, Meta(pattern=r"^[0-9a-f]{96}$")]
"""The full fingerprint, hexadecimal."""


# ---- requests


class StatusRequest(Struct, frozen=True, tag_field="verb", tag="status"):
    """Answered by `Status`."""


class RotateRequest(Struct, frozen=True, tag_field="verb", tag="rotate", forbid_unknown_fields=True):
    """Begin a rotation of `tunnel`; with `reset` force the handshake too. Answered by null as soon as it has begun."""

    tunnel: Name
    reset: bool = False


class ReloadRequest(Struct, frozen=True, tag_field="verb", tag="reload"):
    """Read the configuration again. Answered by `Reloaded`."""


class RevokeRequest(Struct, frozen=True, tag_field="verb", tag="revoke", forbid_unknown_fields=True):
    """End the session under this pin and close the peer's tunnels. Answered by null once that is done."""

    peer: Name
    fingerprint: Fingerprint


class GuardRequest(Struct, frozen=True, tag_field="verb", tag="guard"):
    """Answered by `GuardReport`."""


class CloseRequest(Struct, frozen=True, tag_field="verb", tag="close"):
    """Shut every tunnel: the machine is about to sleep. Answered by `Closed` once the kernel lets nothing pass."""


FaultKind = Literal["cut", "loss", "degradation", "misalignment", "efficiency", "dark", "clock", "eve"]


class FaultRequest(Struct, frozen=True, tag_field="verb", tag="fault", forbid_unknown_fields=True):
    """Break a simulated link, or mend it. Answered by `FaultReport`; refused on a link that is not simulated."""

    link: Name
    kind: FaultKind | None = None
    """None: change nothing, only tell."""
    value: float = 0.0
    """loss: dB; degradation: dB an hour; misalignment: radian; efficiency, dark: factor on both detectors; clock: ps;
    eve: fraction of pulses. cut: ignored."""
    attack: str = ""
    """eve: which attack, a name of `optics.eve.ATTACKS`."""
    mend: bool = False
    """Take this fault away; with no kind, all of them."""


Request = StatusRequest | RotateRequest | ReloadRequest | RevokeRequest | GuardRequest | CloseRequest | FaultRequest


# ---- answers


class ErrorRecord(Struct, frozen=True, omit_defaults=True):
    """An error as it goes over the socket: the fields of `QhybriddError`."""

    code: str
    message: str
    where: str = ""
    hint: str = ""


class Answer(Struct, frozen=True):
    """`result` where `ok`, else `error`."""

    ok: bool
    result: msgspec.Raw = msgspec.Raw(b"null")
    error: ErrorRecord | None = None


class GatewayStatus(Struct, frozen=True):
    """This gateway."""

    fingerprint: str
    """Hexadecimal, 96 digits."""
    short: str
    """The short form, for eyes."""
    version: str
    uptime_s: float


class PeerStatus(Struct, frozen=True):
    """One peer."""

    name: str
    fingerprint: str
    """Of the pin in use; of the first one while there is no session; empty for a peer without a pin."""
    session: Literal["up", "down"]
    since_s: float | None
    """How long it has been up or down; None: down since the daemon started."""
    endpoint: str
    """Where the session goes, or where it was dialled last."""
    suite: str
    why: str
    """Why it is down; empty when it is up."""
    hint: str = ""
    """The way out, where there is one."""


class LastError(Struct, frozen=True):
    """What went wrong last."""

    code: str
    message: str
    hint: str
    age_s: float | None = None
    """How long ago."""


class EspStatus(Struct, frozen=True):
    """What a tunnel over XFRM is made of."""

    local: str
    remote: str
    """Outer addresses."""
    mode: Literal["tunnel", "transport"]
    cipher: str
    reqid: int
    encapsulation: int = 0
    """UDP port; 0: plain ESP."""
    if_id: int = 0


class ExposureStatus(Struct, frozen=True):
    """For how long traffic can still pass if something is lost right now, at worst (docs/exposure.md)."""

    peer_gone_s: float
    """When no key can be agreed any more, whichever daemon died."""
    qkd_gone_s: float | None = None
    """Under keys with a QKD part, when no QKD key comes any more; None: it takes none at all."""
    qkd_keys: int = 0
    """That lie in store for it and others."""
    falls_back: bool = False
    """Without QKD keys it goes on with `pqc`; else it closes."""


class TunnelStatus(Struct, frozen=True):
    """One tunnel. What it says of the key is of the key that is live in the tunnel, not of the configuration."""

    name: str
    peer: str
    interface: str
    """Empty for an XFRM tunnel without one."""
    state: Literal["open", "closed"]
    why: str
    """Why it is closed; empty when it is open."""
    level: Literal["hybrid", "pqc", "classical"] | None
    """Of the live key; None when there is none."""
    simulated: bool
    """Whether its QKD part came out of a simulation: such a key is told apart wherever it is shown."""
    epoch: int
    """Of the live key; 0 when there is none."""
    phase: str
    """What the rotation does now; `idle` between rotations."""
    key_age_s: float | None
    expires_in_s: float | None
    last_handshake_s: float | None
    """Age of the last handshake that the device tells of."""
    renew: Literal["wait", "reset", "seamless"]
    period_s: float
    expiry_s: float
    rotations: int
    """Epochs that became live since the daemon started."""
    failures: int
    """Attempts that failed since then."""
    rx_bytes: int
    tx_bytes: int
    last_error: LastError | None = None
    qkd: str = ""
    """The link whose keys it takes; empty: none. A live key below `hybrid` is a fallback where there is one."""
    esp: EspStatus | None = None
    """None: it is a WireGuard tunnel."""
    exposure: ExposureStatus | None = None


class StoreStatus(Struct, frozen=True):
    """A link's key store at this end. `distilled` is the sum of the other bits, to the bit."""

    mark: Literal["ready", "warning", "charging", "empty"]
    distilled_bits: int
    used_bits: int
    """Given to rotations here or at the peer."""
    expired_bits: int
    """Too old, or pushed out by newer keys."""
    burnt_bits: int
    """Of failed rotations, and what the two ends did not agree on."""
    authentication_bits: int
    """Kept back as pads for the link's own tags."""
    own_bits: int
    """In store, for this end to reserve."""
    peer_bits: int
    """In store, for the peer to reserve."""
    waiting_bits: int
    """Of blocks that the peer has not confirmed yet."""
    own_keys: int = 0
    """For this end to reserve, with those that wait."""
    own_left_s: float = 0.0
    """Until the youngest of them is too old."""
    peer_keys: int = 0
    """For the peer to reserve, with those that wait, as far as this end knows."""
    peer_left_s: float = 0.0


class LinkStatus(Struct, frozen=True):
    """One QKD link at this end."""

    name: str
    peer: str
    role: Literal["alice", "bob"]
    simulated: bool
    state: Literal["up", "starting", "down"]
    """up: the last block gave a key."""
    why: str
    """Why it is not up; empty when it is."""
    code: str
    """The error code of that."""
    hint: str
    photons: Literal["connected", "waiting"]
    """The photon stream."""
    faults: list[str]
    """Faults that were injected here, one line of text each."""
    block: int
    """Number of the last block; 0 before the first."""
    kept: int
    dropped: int
    """Blocks since the daemon started."""
    qber_key: float | None
    """Of the last block that was looked at."""
    qber_test: float | None
    clicks_per_s: float
    """Of the last block, in time of the link."""
    key_bits_per_s: float
    """Net, over the last minute."""
    block_age_s: float | None
    """Since a block was kept last."""
    angle_rad: float | None
    """Misalignment after compensation; known to Bob."""
    current_a: float | None
    """The larger photocurrent; known to Bob."""
    synchronised: bool | None
    """Known to Bob."""
    store: StoreStatus


class FaultReport(Struct, frozen=True):
    """Result of the verb `fault`: what is broken on purpose now."""

    faults: list[str] = []


class Status(Struct, frozen=True):
    """Result of the verb `status`."""

    gateway: GatewayStatus
    peers: list[PeerStatus]
    tunnels: list[TunnelStatus]
    links: list[LinkStatus] = []


class Reloaded(Struct, frozen=True):
    """Result of the verb `reload`: what changed, one line of text each; empty where nothing did."""

    changes: list[str] = []
    needs_restart: list[str] = []
    """Gateway keys that differ and take effect at the next start."""


class Closed(Struct, frozen=True):
    """Result of the verb `close`."""

    tunnels: int
    """That were shut, open before or not."""


class GuardTunnel(Struct, frozen=True):
    """What the kernel does for one tunnel, read from the kernel."""

    tunnel: str
    interface: str
    protects: list[str]
    """After exceptions, and without what more specific prefixes of other tunnels take."""
    open_for_s: float | None
    """How long traffic still passes if nothing renews it; None: blocked now."""
    dropped_out: int
    """Packets to protected addresses that were dropped since the table was made."""
    dropped_in: int
    """Packets from protected addresses that were dropped."""


class GuardReport(Struct, frozen=True):
    """Result of the verb `guard`; no tunnel means that nothing is guarded."""

    tunnels: list[GuardTunnel]


def report_guard(states: "Iterable[GuardState]") -> GuardReport:
    """What `Guard.show` read, as a record for the socket."""
    return GuardReport(
        [
            GuardTunnel(
                tunnel=state.name,
                interface=state.interface,
                protects=[str(prefix) for prefix in state.prefixes],
                open_for_s=state.left_s if state.open else None,
                dropped_out=state.dropped_out,
                dropped_in=state.dropped_in,
            )
            for state in states
        ]
    )


_requests: Final[msgspec.json.Decoder[Request]] = msgspec.json.Decoder(Request)


def encode_line(record: Struct) -> bytes:
    """One line with its end."""
    return msgspec.json.encode(record) + b"\n"


def decode_request(line: bytes) -> Request:
    """A request from one line. Raises `msgspec.DecodeError` or `UnicodeDecodeError`, with a text for its author."""
    return _requests.decode(line)


def answer(result: Struct | None = None) -> Answer:
    """A good answer."""
    return Answer(ok=True, result=msgspec.Raw(msgspec.json.encode(result)))


def refusal(code: str, message: str, where: str, hint: str) -> Answer:
    """A bad one."""
    return Answer(ok=False, error=ErrorRecord(code, message, where, hint))
