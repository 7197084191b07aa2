"""The rotation channel's messages: typed, bounded, MessagePack arrays with a tag.

Fields are only ever appended, so that version N reads N-1 and the other way round (MessagePack arrays ignore a longer
tail, and a shorter one takes the defaults). Every field has a bound; `decode` refuses anything else.
"""

from typing import Annotated, Final

import msgspec
from msgspec import Meta, Struct

from qhybridd.crypto.levels import MAX_KEMS, Level
from qhybridd.errors import PeerError

MAX_EK_BYTES: Final = 1_400_000
"""Largest KEM public key taken: Classic McEliece 8192128 has 1,357,824 bytes (its specification, section 7)."""
MAX_CT_BYTES: Final = 32_768
"""Largest KEM ciphertext taken: FrodoKEM-1344 has 21,696 bytes, HQC-256 14,421."""
MAX_EPOCH: Final = (1 << 63) - 1
MAX_KEY_IDS: Final = 16

TunnelName = Annotated[str, Meta(min_length=1, max_length=63, pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")]
Epoch = Annotated[int, Meta(ge=0, le=MAX_EPOCH)]
Nonce = Annotated[bytes, Meta(min_length=32, max_length=32)]
Tag = Annotated[bytes, Meta(max_length=16)]
Confirm = Annotated[bytes, Meta(min_length=48, max_length=48)]
X25519Share = Annotated[bytes, Meta(min_length=32, max_length=32)]
Offer = Annotated[bytes, Meta(max_length=256)]
Seconds = Annotated[int, Meta(ge=0, lt=1 << 32)]


class KemShare(Struct, frozen=True, array_like=True):
    """One KEM's public key."""

    code: Annotated[int, Meta(ge=1, lt=1 << 16)]
    ek: Annotated[bytes, Meta(min_length=1, max_length=MAX_EK_BYTES)]


class KemReply(Struct, frozen=True, array_like=True):
    """One KEM's ciphertext."""

    code: Annotated[int, Meta(ge=1, lt=1 << 16)]
    ct: Annotated[bytes, Meta(min_length=1, max_length=MAX_CT_BYTES)]


class QkdRef(Struct, frozen=True, array_like=True):
    """Which QKD keys were reserved: never the keys. Names in ETSI GS QKD 014 terms."""

    source: Annotated[str, Meta(min_length=1, max_length=64)]
    """Kind and name of the key source, for instance `sim:link-1`."""
    kme_ids: Annotated[tuple[Annotated[str, Meta(max_length=128)], ...], Meta(max_length=2)]
    sae_ids: Annotated[tuple[Annotated[str, Meta(max_length=128)], ...], Meta(max_length=2)]
    key_ids: Annotated[
        tuple[Annotated[bytes, Meta(min_length=16, max_length=16)], ...],
        Meta(min_length=1, max_length=MAX_KEY_IDS),
    ]
    bits: Annotated[int, Meta(ge=256, le=1 << 16)]


class WirePolicy(Struct, frozen=True, array_like=True):
    """The proposer's policy as PREPARE carries it; it is bound into the key."""

    least: Level
    period_s: Seconds
    expiry_s: Seconds


class Held(Struct, frozen=True, array_like=True):
    """An epoch that one end knows of: its number and the public tag of its key (empty: none)."""

    epoch: Epoch = 0
    tag: Tag = b""


class Ask(Struct, frozen=True, array_like=True, tag=1):
    """p→a: tell me your `State`. Opens every attempt, so that nothing is reserved for a peer that does not answer."""

    tunnel: TunnelName


class State(Struct, frozen=True, array_like=True, tag=2):
    """Where one end stands. Sent when a session begins and in answer to `Ask`."""

    tunnel: TunnelName
    last: Epoch
    """The highest epoch ever used here; the next one is one more than the higher of both ends'."""
    live: Held
    """The live epoch; epoch 0 when the tunnel is closed."""
    installed: Held
    """The epoch whose key is on the device (as far as known), live or not."""
    observed: Epoch
    """The epoch of which this end saw proof under traffic; 0 if none."""
    chain: Tag
    """Tag of the chain key; empty when there is none."""


class Want(Struct, frozen=True, array_like=True, tag=3):
    """a→p: please rotate. `reset` asks for a forced handshake."""

    tunnel: TunnelName
    reset: bool


class Prepare(Struct, frozen=True, array_like=True, tag=4):
    """p→a: the proposal of an epoch."""

    tunnel: TunnelName
    epoch: Epoch
    level: Level
    policy: WirePolicy
    reset: bool
    """Whether both ends force a handshake at the cost of the packets in flight."""
    nonce: Nonce
    chain: Tag
    """Tag of the proposer's chain key; the session's export is used when it is not also the answerer's."""
    x25519: X25519Share
    kems: Annotated[tuple[KemShare, ...], Meta(max_length=MAX_KEMS)]
    offer: Offer
    """The target's part: a public key, or addresses, SPI and algorithm."""
    qkd: QkdRef | None = None


class Prepared(Struct, frozen=True, array_like=True, tag=5):
    """a→p: the answer; `confirm` proves that the answerer holds the key."""

    tunnel: TunnelName
    epoch: Epoch
    nonce: Nonce
    x25519: X25519Share
    kems: Annotated[tuple[KemReply, ...], Meta(max_length=MAX_KEMS)]
    offer: Offer
    confirm: Confirm


class Commit(Struct, frozen=True, array_like=True, tag=6):
    """p→a: the proposer checked `confirm`, staged, and proves that it holds the key too."""

    tunnel: TunnelName
    epoch: Epoch
    confirm: Confirm


class Installed(Struct, frozen=True, array_like=True, tag=7):
    """Either way: this end's device holds the key and it was read back."""

    tunnel: TunnelName
    epoch: Epoch


class Live(Struct, frozen=True, array_like=True, tag=8):
    """Either way: this end saw proof under traffic."""

    tunnel: TunnelName
    epoch: Epoch


class Abort(Struct, frozen=True, array_like=True, tag=9):
    """Either way: the attempt at `epoch` is given up; `code` is an error code of `errors.CODES`."""

    tunnel: TunnelName
    epoch: Epoch
    code: Annotated[str, Meta(max_length=64)]
    text: Annotated[str, Meta(max_length=256)] = ""


Message = Ask | State | Want | Prepare | Prepared | Commit | Installed | Live | Abort

_encoder: Final = msgspec.msgpack.Encoder()
_decoder: Final[msgspec.msgpack.Decoder[Message]] = msgspec.msgpack.Decoder(Message)


def encode(message: Message) -> bytes:
    """The message as bytes for the rotation channel."""
    return _encoder.encode(message)


def decode(data: bytes | memoryview) -> Message:
    """A message from the rotation channel's bytes. Raises `PeerError` (peer.malformed) on anything else."""
    try:
        return _decoder.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise PeerError("peer.malformed", f"a rotation message does not parse: {error}") from None
