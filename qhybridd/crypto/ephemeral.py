"""The fresh secrets of one handshake: a nonce, an X25519 pair, a KEM pair or a ciphertext.

The handshake takes an `Ephemeral` as an argument, so that it has no random generator of its own.
"""

import secrets
from dataclasses import dataclass
from typing import Final, Protocol

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from qhybridd.crypto import kem, x25519
from qhybridd.errors import ProgramError
from qhybridd.secret import Secret

NONCE_BYTES: Final = 32
"""256 bits: no two handshakes share one (RFC 8446 section 4.1.2 takes as many)."""


@dataclass(frozen=True, slots=True)
class KeyShares:
    """The initiator's public keys and the private halves, opaque to the handshake."""

    x25519: bytes
    ek: bytes
    private: object


@dataclass(frozen=True, slots=True)
class SharedSecrets:
    """What both ends hold after the exchange."""

    x25519: Secret
    kem: Secret

    def wipe(self) -> None:
        """Overwrite both."""
        self.x25519.wipe()
        self.kem.wipe()


@dataclass(frozen=True, slots=True)
class KeyAnswer:
    """The responder's public key and ciphertext, and the secrets."""

    x25519: bytes
    ct: bytes
    secrets: SharedSecrets


class Ephemeral(Protocol):
    """Draws and opens the fresh secrets. `code` is a KEM's wire code; raises `PeerError` (peer.malformed)."""

    def nonce(self) -> bytes:
        """32 fresh bytes."""

    def shares(self, code: int) -> KeyShares:
        """The initiator's fresh key pairs."""

    def answer(self, code: int, peer_x25519: bytes, ek: bytes) -> KeyAnswer:
        """The responder's answer to the initiator's public keys."""

    def open(self, code: int, private: object, peer_x25519: bytes, ct: bytes) -> SharedSecrets:
        """The secrets, from the initiator's private halves and the responder's answer."""


@dataclass(frozen=True, slots=True)
class _Private:
    x25519: X25519PrivateKey
    kem: object


class OsEphemeral:
    """An `Ephemeral` on the operating system's random generator."""

    __slots__ = ()

    def nonce(self) -> bytes:
        """32 fresh bytes."""
        return secrets.token_bytes(NONCE_BYTES)

    def shares(self, code: int) -> KeyShares:
        """Fresh key pairs."""
        private_kem, ek = kem.by_code(code).generate()
        private_x25519, public = x25519.generate()
        return KeyShares(public, ek, _Private(private_x25519, private_kem))

    def answer(self, code: int, peer_x25519: bytes, ek: bytes) -> KeyAnswer:
        """A fresh X25519 pair and an encapsulation."""
        private, public = x25519.generate()
        shared = x25519.exchange(private, peer_x25519)
        kem_secret, ct = kem.by_code(code).encapsulate(ek)
        return KeyAnswer(public, ct, SharedSecrets(shared, kem_secret))

    def open(self, code: int, private: object, peer_x25519: bytes, ct: bytes) -> SharedSecrets:
        """The secrets of the answer."""
        if not isinstance(private, _Private):
            raise ProgramError("program.argument", "private halves that `shares` did not make")
        shared = x25519.exchange(private.x25519, peer_x25519)
        return SharedSecrets(shared, kem.by_code(code).decapsulate(private.kem, ct))
