"""X25519 (RFC 7748) with the shared secret as a `Secret`."""

from typing import Final

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey

from qhybridd.errors import PeerError
from qhybridd.secret import Secret

PUBLIC_BYTES: Final = 32
"""A public key's u-coordinate (RFC 7748 section 5)."""
SECRET_BYTES: Final = 32
"""The shared secret (RFC 7748 section 6.1)."""


def generate() -> tuple[X25519PrivateKey, bytes]:
    """A fresh key pair: the private key object and the public key, 32 bytes."""
    private = X25519PrivateKey.generate()
    return private, private.public_key().public_bytes_raw()


def exchange(private: X25519PrivateKey, peer_public: bytes) -> Secret:
    """The shared secret with the owner of `peer_public`, 32 bytes.

    Raises `PeerError` (peer.malformed) for a wrong length and for a point of low order, which would make the secret
    all zero whatever the private key is (RFC 7748 section 6.1).
    """
    if len(peer_public) != PUBLIC_BYTES:
        raise PeerError("peer.malformed", f"an X25519 share has {PUBLIC_BYTES} bytes, not {len(peer_public)}")
    try:
        return Secret.adopt(private.exchange(X25519PublicKey.from_public_bytes(peer_public)))
    except ValueError:
        raise PeerError("peer.malformed", "the X25519 share is a point of low order") from None
