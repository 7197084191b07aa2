"""The bytes of the handshake's three messages; `docs/handshake.md` draws them.

Every field has a fixed length once the suite is known, so there is one way to encode a message and nothing to guess.
"""

import hmac
from dataclasses import dataclass
from enum import Enum, IntEnum
from typing import Final

from qhybridd.crypto import kdf, kem
from qhybridd.crypto.aead import TAG_BYTES
from qhybridd.crypto.ephemeral import NONCE_BYTES
from qhybridd.crypto.identity import FINGERPRINT_BYTES, SIGNATURE_BYTES
from qhybridd.crypto.kdf import HASH_BYTES, Label
from qhybridd.errors import PeerError
from qhybridd.secret import Secret

VERSION: Final = 1
"""What this program speaks best."""
OLDEST_VERSION: Final = 1
"""The oldest version still spoken: N-1 from version 2 on."""
HEADER_BYTES: Final = 3
"""Kind (one byte) and length of the body (two bytes, big-endian)."""
MAX_HELLO_BYTES: Final = 4096
"""A whole `Hello`: what a stranger can make this gateway hold."""
MAX_MESSAGE_BYTES: Final = 16384
"""A whole `Reply` or `Finish`: three times what the largest takes."""
MAX_SUITES: Final = 16
X25519_BYTES: Final = 32
"""RFC 7748 section 5."""
MAC_BYTES: Final = HASH_BYTES


class Kind(IntEnum):
    """First byte of a message."""

    HELLO = 1
    REPLY = 2
    FINISH = 3


class Suite(Enum):
    """What a handshake can be keyed with: wire code, name in configs, code of the KEM."""

    X25519_MLKEM768 = (0x0001, "x25519-mlkem768", 0x0201)
    X25519_MLKEM1024 = (0x0002, "x25519-mlkem1024", 0x0202)

    @property
    def code(self) -> int:
        """Wire code."""
        return self.value[0]

    @property
    def label(self) -> str:
        """Name in configs and surfaces."""
        return self.value[1]

    @property
    def kem(self) -> int:
        """Wire code of its KEM."""
        return self.value[2]


SUITES: Final = {suite.code: suite for suite in Suite}
"""Every suite by wire code."""


@dataclass(frozen=True, slots=True)
class Hello:
    """I→R: what the initiator speaks, in order of preference, and key shares for one suite of it."""

    version: int
    suites: tuple[int, ...]
    """Wire codes in order; codes unknown here are kept, they count for the downgrade check of others."""
    keyed: int
    """Index in `suites` of the one that the shares are for."""
    nonce: bytes
    x25519: bytes
    ek: bytes


@dataclass(frozen=True, slots=True)
class Reply:
    """R→I: the part in clear, and the sealed proof behind it."""

    version: int
    nonce: bytes
    x25519: bytes
    ct: bytes


@dataclass(frozen=True, slots=True)
class Proof:
    """Inside both sealed parts: who it is, its signatures and its finished MAC."""

    fingerprint: bytes
    signature: bytes
    finished: bytes


PROOF_BYTES: Final = FINGERPRINT_BYTES + SIGNATURE_BYTES + MAC_BYTES


class _Reader:
    """Takes fields from the front; raises `PeerError` (peer.malformed) where one is cut."""

    __slots__ = ("_at", "_data")

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def take(self, size: int) -> bytes:
        field = self._data[self._at : self._at + size]
        if len(field) != size:
            raise PeerError("peer.malformed", "a handshake message is shorter than its fields")
        self._at += size
        return field

    def number(self, size: int) -> int:
        return int.from_bytes(self.take(size), "big")

    def end(self) -> None:
        if self._at != len(self._data):
            raise PeerError("peer.malformed", "a handshake message is longer than its fields")


def kind_of(frame: bytes) -> Kind:
    """The kind of a message, from its header. Raises peer.malformed."""
    try:
        return Kind(frame[0])
    except (ValueError, IndexError):
        raise PeerError("peer.malformed", "not a handshake message of any known kind") from None


def frame_size(header: bytes) -> int:
    """Bytes of the whole message that begins with these three. Raises peer.malformed, peer.oversized."""
    size = HEADER_BYTES + int.from_bytes(header[1:HEADER_BYTES], "big")
    if size > (MAX_HELLO_BYTES if kind_of(header) is Kind.HELLO else MAX_MESSAGE_BYTES):
        raise PeerError("peer.oversized", f"a handshake message of {size} bytes")
    return size


def _header(kind: Kind, body_bytes: int) -> bytes:
    return bytes([kind]) + body_bytes.to_bytes(2, "big")


# ---- Hello


def _hello_mac(responder: bytes, message: bytes) -> bytes:
    return kdf.mac(Secret.adopt(responder), Label.HELLO_MAC, message)


def encode_hello(hello: Hello, responder: bytes) -> bytes:
    """The message, its MAC keyed by the responder's fingerprint."""
    body = b"".join(
        (
            bytes([hello.version, len(hello.suites)]),
            *(code.to_bytes(2, "big") for code in hello.suites),
            bytes([hello.keyed]),
            hello.nonce,
            hello.x25519,
            hello.ek,
        )
    )
    message = _header(Kind.HELLO, len(body) + MAC_BYTES) + body
    return message + _hello_mac(responder, message)


def check_hello_mac(frame: bytes, responder: bytes) -> None:
    """Refuse whoever does not know this gateway's public identity. Looks at no field. Raises peer.mac."""
    message, mac = frame[:-MAC_BYTES], frame[-MAC_BYTES:]
    if not hmac.compare_digest(mac, _hello_mac(responder, message)):
        raise PeerError("peer.mac", "a Hello from a stranger, or for another gateway")


def decode_hello(frame: bytes) -> Hello:
    """The fields of a Hello whose MAC was checked. Raises peer.version, peer.suite, peer.malformed.

    Version N+1 speaks N too and may append fields: they are left unread here, but stand in the transcript.
    """
    reader = _Reader(frame[HEADER_BYTES:-MAC_BYTES])
    version = reader.number(1)
    if not OLDEST_VERSION <= version <= VERSION + 1:
        raise PeerError("peer.version", f"the peer speaks version {version}, this gateway {VERSION}")
    count = reader.number(1)
    if not 0 < count <= MAX_SUITES:
        raise PeerError("peer.malformed", f"a Hello with {count} suites")
    suites = tuple(reader.number(2) for _ in range(count))
    keyed = reader.number(1)
    if keyed >= count:
        raise PeerError("peer.malformed", "a Hello keyed with a suite outside its list")
    suite = SUITES.get(suites[keyed])
    if suite is None:
        raise PeerError("peer.suite", f"the peer keyed the unknown suite {suites[keyed]:#06x}")
    ek_bytes = kem.by_code(suite.kem).ek_bytes
    hello = Hello(version, suites, keyed, reader.take(NONCE_BYTES), reader.take(X25519_BYTES), reader.take(ek_bytes))
    if version <= VERSION:
        reader.end()
    return hello


# ---- Reply and Finish


def encode_reply(reply: Reply) -> bytes:
    """Header and clear part; the header counts the sealed part that follows."""
    body = bytes([reply.version]) + reply.nonce + reply.x25519 + reply.ct
    return _header(Kind.REPLY, len(body) + PROOF_BYTES + TAG_BYTES) + body


def decode_reply(frame: bytes, suite: Suite) -> tuple[Reply, bytes, bytes]:
    """The fields in clear, the bytes that they stand in, and the sealed part. Raises peer.version, peer.malformed."""
    reader = _Reader(frame[HEADER_BYTES:])
    version = reader.number(1)
    if not OLDEST_VERSION <= version <= VERSION:
        raise PeerError("peer.version", f"the peer answered with version {version}, this gateway speaks {VERSION}")
    ct_bytes = kem.by_code(suite.kem).ct_bytes
    reply = Reply(version, reader.take(NONCE_BYTES), reader.take(X25519_BYTES), reader.take(ct_bytes))
    sealed = reader.take(PROOF_BYTES + TAG_BYTES)
    reader.end()
    return reply, frame[: -len(sealed)], sealed


def finish_header() -> bytes:
    """Header of a Finish; everything behind it is sealed."""
    return _header(Kind.FINISH, 1 + PROOF_BYTES + TAG_BYTES)


def encode_proof(proof: Proof) -> bytes:
    """The proof's fields run together."""
    return proof.fingerprint + proof.signature + proof.finished


def decode_proof(data: bytes) -> Proof:
    """The inverse of `encode_proof`. Raises peer.malformed."""
    reader = _Reader(data)
    proof = Proof(reader.take(FINGERPRINT_BYTES), reader.take(SIGNATURE_BYTES), reader.take(MAC_BYTES))
    reader.end()
    return proof
