"""What the rotation core asks for, and what comes back.

An action with an `id` is answered by exactly one `Done` or `Failed` with that id, or dropped after a `Cancel`. Actions
without an id need no answer. The records can be written down: nothing in them but plain data and secrets, so that a
privileged process can stand behind the target later.
"""

from dataclasses import dataclass
from typing import Literal

from qhybridd.crypto.levels import Level
from qhybridd.errors import QhybriddError
from qhybridd.protocol.messages import Held, KemReply, KemShare, Message, QkdRef
from qhybridd.secret import Secret

# ---- records that travel in actions and results


@dataclass(frozen=True, slots=True)
class EpochKeys:
    """The keys of one epoch, for a target to install."""

    epoch: int
    psk: Secret
    """WireGuard's preshared key, 32 bytes."""
    esp_out: Secret
    """ESP keying material from this end to the peer, 36 bytes (RFC 4106: key and salt)."""
    esp_in: Secret
    """ESP keying material from the peer to this end, 36 bytes."""
    tag: bytes
    """Public tag of the key (`kdf.key_tag` of the PSK), 16 bytes: tells keys apart without showing them."""
    offer: bytes = b""
    """What this end's target offered for the epoch (`Reserved.offer`)."""
    peer_offer: bytes = b""
    """What the peer's target offered; it was held against `Reserved.expected`."""

    def wipe(self) -> None:
        """Overwrite all three secrets."""
        self.psk.wipe()
        self.esp_out.wipe()
        self.esp_in.wipe()


@dataclass(frozen=True, slots=True)
class Reserved:
    """What a target can offer for a new epoch."""

    offer: bytes
    """This end's part, bound into the key: a WireGuard public key, or addresses, SPI and algorithm."""
    expected: bytes | None
    """What the peer's offer must equal; None where the peer is free to choose."""
    free: int = 0
    """Bytes that the peer adds behind that and chooses itself: 4 for an SPI."""
    hint: str = ""
    """What to correct where the peer's offer is another one."""


@dataclass(frozen=True, slots=True)
class Shares:
    """Fresh public keys, a nonce, and an opaque handle to the private halves (`crypto.shares.PrivateShares`)."""

    nonce: bytes
    x25519: bytes
    kems: tuple[KemShare, ...]
    private: object


@dataclass(frozen=True, slots=True)
class Exchanged:
    """The secrets of one exchange. `kems` follows the order of the proposal."""

    x25519: Secret
    kems: tuple[Secret, ...]


@dataclass(frozen=True, slots=True)
class Encapsulated:
    """The answerer's side of one exchange: what is sent, and the secrets."""

    nonce: bytes
    x25519: bytes
    kems: tuple[KemReply, ...]
    secrets: Exchanged


@dataclass(frozen=True, slots=True)
class QkdKey:
    """A reserved or fetched QKD key."""

    ref: QkdRef
    secret: Secret


# ---- actions


@dataclass(frozen=True, slots=True)
class Send:
    """Send `message` on the rotation channel of the session with hash `session`."""

    session: bytes
    message: Message


@dataclass(frozen=True, slots=True)
class MakeShares:
    """Draw a nonce, an X25519 pair and one pair for each KEM code. Result: `Shares`."""

    id: int
    kems: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Encapsulate:
    """Answer the peer's shares. Result: `Encapsulated`."""

    id: int
    x25519: bytes
    kems: tuple[KemShare, ...]


@dataclass(frozen=True, slots=True)
class Decapsulate:
    """Open the peer's answer with the private halves. Result: `Exchanged`."""

    id: int
    private: object
    x25519: bytes
    kems: tuple[KemReply, ...]


@dataclass(frozen=True, slots=True)
class ReserveQkd:
    """Take a QKD key from this end's supply. Result: `QkdKey`."""

    id: int
    bits: int


@dataclass(frozen=True, slots=True)
class FetchQkd:
    """Fetch the key that the peer reserved. Result: `QkdKey`."""

    id: int
    ref: QkdRef


@dataclass(frozen=True, slots=True)
class ReserveTarget:
    """Target verb `reserve`. Result: `Reserved`."""

    id: int


@dataclass(frozen=True, slots=True)
class Stage:
    """Target verb `stage`. Result: None."""

    id: int
    keys: EpochKeys


@dataclass(frozen=True, slots=True)
class Activate:
    """Target verb `activate`: install, read back, compare. With `reset` the guard is shut first. Result: None."""

    id: int
    keys: EpochKeys
    reset: bool


@dataclass(frozen=True, slots=True)
class Observe:
    """Target verb `observe`: wait for proof under traffic since the activation of `epoch`. Result: None."""

    id: int
    epoch: int
    kick_after_s: float | None
    """Start a handshake when none came after so long (both ends hold the key now); None: only when one is overdue."""


@dataclass(frozen=True, slots=True)
class Straddle:
    """The commit is in doubt and the peer unreachable: try the key on the device and `keys` in turn.

    Result: the epoch number that works, `keys.epoch` or `old`.
    """

    id: int
    old: int
    keys: EpochKeys


@dataclass(frozen=True, slots=True)
class Retire:
    """Target verb `retire`: what is older than `epoch` may go. Result: None."""

    id: int
    epoch: int


@dataclass(frozen=True, slots=True)
class Close:
    """Shut the guard, then target verb `close`: no session survives, none can begin. Result: None."""

    id: int
    reason: str


@dataclass(frozen=True, slots=True)
class Open:
    """Let traffic pass until `deadline` (CLOCK_BOOTTIME seconds) under `epoch`. Result: None."""

    id: int
    epoch: int
    deadline: float


@dataclass(frozen=True, slots=True)
class Cancel:
    """The result of action `id` is not awaited any longer; stop it and release what it reserved."""

    id: int


ReportEvent = Literal["attempt", "installed", "live", "resetting", "closed", "failed", "in-doubt", "settled", "refused"]


@dataclass(frozen=True, slots=True)
class Report:
    """Something for the log, the status and the record under `/run`. `error` is given when something went wrong."""

    event: ReportEvent
    epoch: int
    level: Level | None = None
    error: QhybriddError | None = None


Action = (
    Send
    | MakeShares
    | Encapsulate
    | Decapsulate
    | ReserveQkd
    | FetchQkd
    | ReserveTarget
    | Stage
    | Activate
    | Observe
    | Straddle
    | Retire
    | Close
    | Open
    | Cancel
    | Report
)


# ---- events


@dataclass(frozen=True, slots=True)
class SessionKeys:
    """What the rotation needs of an established session."""

    hash: bytes
    """SHA-384 of the handshake transcript, 48 bytes: names the session."""
    local: bytes
    """This end's identity fingerprint, 48 bytes."""
    peer: bytes
    """The peer's identity fingerprint, 48 bytes."""
    exporter: Secret
    """48 bytes, for `kdf.export_chain_key`."""

    @property
    def proposes(self) -> bool:
        """The lower fingerprint proposes."""
        return self.local < self.peer


@dataclass(frozen=True, slots=True)
class SessionUp:
    """A session is up and is the one to use from now on."""

    session: SessionKeys


@dataclass(frozen=True, slots=True)
class SessionDown:
    """The session with this hash is gone."""

    session: bytes


@dataclass(frozen=True, slots=True)
class Received:
    """A message came on the session with this hash."""

    session: bytes
    message: Message


@dataclass(frozen=True, slots=True)
class Done:
    """Action `id` succeeded."""

    id: int
    result: object = None


@dataclass(frozen=True, slots=True)
class Failed:
    """Action `id` failed."""

    id: int
    error: QhybriddError


@dataclass(frozen=True, slots=True)
class LiveEpoch:
    """An epoch under which traffic may pass."""

    epoch: int
    level: Level
    tag: bytes
    """Public tag of its key, 16 bytes."""
    combined_at: float
    """When its key was combined, CLOCK_BOOTTIME seconds."""
    deadline: float
    """Its hard expiry, CLOCK_BOOTTIME seconds."""
    peer: bytes = b""
    """Fingerprint of the identity that it was agreed with, 48 bytes; empty where that is not known."""


@dataclass(frozen=True, slots=True)
class Adopt:
    """At start: the guard still holds the tunnel open, and the device holds `installed`."""

    live: LiveEpoch
    installed: Held
    """The key on the device: that of `live`, or of a later epoch that was not live yet."""


@dataclass(frozen=True, slots=True)
class QkdSupply:
    """Whether the tunnel's key source can give a key now."""

    ready: bool


@dataclass(frozen=True, slots=True)
class RotateNow:
    """The operator asks for a new epoch; with `reset` for a forced handshake too."""

    reset: bool


@dataclass(frozen=True, slots=True)
class CloseNow:
    """Close at once for this reason, and rotate anew as soon as it can be."""

    error: QhybriddError


@dataclass(frozen=True, slots=True)
class Revoke:
    """The peer was revoked: close at once and stay closed."""


@dataclass(frozen=True, slots=True)
class Tick:
    """`now` reached the machine's deadline."""


Event = SessionUp | SessionDown | Received | Done | Failed | Adopt | QkdSupply | RotateNow | CloseNow | Revoke | Tick
