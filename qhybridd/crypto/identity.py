"""A gateway's identity: Ed25519 (RFC 8032) and ML-DSA-65 (FIPS 204) together.

Both sign, both must verify, so a signature stands while either algorithm does. Each signature is bound to its purpose
by a label of the tree in `crypto/kdf.py`: ML-DSA takes it as its context string (FIPS 204 section 5.2); Ed25519 has no
context string, so the label stands before the length-prefixed message.
"""

import base64
import secrets
from dataclasses import dataclass, field
from typing import Final, Protocol

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.mldsa import MLDSA65PrivateKey, MLDSA65PublicKey

from qhybridd.crypto.kdf import HASH_BYTES, Label, lp, sha384
from qhybridd.errors import PeerError, ProgramError
from qhybridd.secret import Secret

# RFC 8032 section 5.1.5
ED25519_SEED_BYTES: Final = 32
ED25519_PUBLIC_BYTES: Final = 32
ED25519_SIGNATURE_BYTES: Final = 64
# FIPS 204 table 2 and algorithm 1
MLDSA65_SEED_BYTES: Final = 32
MLDSA65_PUBLIC_BYTES: Final = 1952
MLDSA65_SIGNATURE_BYTES: Final = 3309
# ours
FINGERPRINT_BYTES: Final = HASH_BYTES
"""The pin: the full SHA-384."""
PUBLIC_BYTES: Final = ED25519_PUBLIC_BYTES + MLDSA65_PUBLIC_BYTES
SIGNATURE_BYTES: Final = ED25519_SIGNATURE_BYTES + MLDSA65_SIGNATURE_BYTES
SHORT_BYTES: Final = 10
"""80 bits of the fingerprint for eyes: 16 letters and digits, never compared by the program."""


@dataclass(frozen=True, slots=True)
class PublicIdentity:
    """The public half: what a peer's config pins."""

    ed25519: bytes
    """RFC 8032 public key, 32 bytes."""
    mldsa65: bytes
    """FIPS 204 public key, 1952 bytes."""
    fingerprint: bytes = field(init=False, compare=False, repr=False)
    """SHA-384 over label and both keys, 48 bytes: the identity's name everywhere."""

    def __post_init__(self) -> None:
        if (len(self.ed25519), len(self.mldsa65)) != (ED25519_PUBLIC_BYTES, MLDSA65_PUBLIC_BYTES):
            raise ProgramError("program.argument", "a public key of a wrong length")
        fingerprint = sha384(Label.FINGERPRINT.encoded, lp(self.ed25519, self.mldsa65))
        object.__setattr__(self, "fingerprint", fingerprint)

    @property
    def short(self) -> str:
        """The first 80 bits of the fingerprint for eyes, `xxxx-xxxx-xxxx-xxxx` in base32 (RFC 4648)."""
        text = base64.b32encode(self.fingerprint[:SHORT_BYTES]).decode().lower()
        return "-".join(text[at : at + 4] for at in range(0, len(text), 4))

    def __repr__(self) -> str:
        return f"<PublicIdentity {self.short}>"

    def verify(self, label: Label, message: bytes, signature: bytes) -> None:
        """Check both signatures over `message` for the purpose `label`. Raises `PeerError` (peer.signature)."""
        if len(signature) != SIGNATURE_BYTES:
            raise PeerError("peer.signature", f"a signature of {len(signature)} bytes instead of {SIGNATURE_BYTES}")
        classical, lattice = signature[:ED25519_SIGNATURE_BYTES], signature[ED25519_SIGNATURE_BYTES:]
        try:
            Ed25519PublicKey.from_public_bytes(self.ed25519).verify(classical, label.encoded + lp(message))
            MLDSA65PublicKey.from_public_bytes(self.mldsa65).verify(lattice, message, label.encoded)
        except InvalidSignature:
            raise PeerError("peer.signature", "a signature does not verify") from None

    def encode(self) -> bytes:
        """Both keys run together, 1984 bytes."""
        return self.ed25519 + self.mldsa65

    @classmethod
    def decode(cls, data: bytes) -> "PublicIdentity":
        """The inverse of `encode`. Raises `PeerError` (peer.malformed)."""
        if len(data) != PUBLIC_BYTES:
            raise PeerError("peer.malformed", f"a public identity of {len(data)} bytes instead of {PUBLIC_BYTES}")
        return cls(bytes(data[:ED25519_PUBLIC_BYTES]), bytes(data[ED25519_PUBLIC_BYTES:]))


class Signer(Protocol):
    """What the handshake needs of the own identity, so that a separate process or a token can hold the keys."""

    @property
    def public(self) -> PublicIdentity:
        """The public half."""

    def sign(self, label: Label, message: bytes) -> bytes:
        """Ed25519's signature and ML-DSA-65's run together, 64 + 3309 bytes."""


class Identity:
    """The secret half. Seeds stay in locked memory; key objects are built from them for each signature and dropped."""

    __slots__ = ("_ed25519_seed", "_mldsa65_seed", "_public")

    def __init__(self, ed25519_seed: Secret, mldsa65_seed: Secret) -> None:
        """Take both 32-byte seeds over."""
        if (len(ed25519_seed), len(mldsa65_seed)) != (ED25519_SEED_BYTES, MLDSA65_SEED_BYTES):
            raise ProgramError("program.argument", "the seeds of an identity have 32 bytes each")
        self._ed25519_seed = ed25519_seed
        self._mldsa65_seed = mldsa65_seed
        self._public = PublicIdentity(
            self._ed25519().public_key().public_bytes_raw(), self._mldsa65().public_key().public_bytes_raw()
        )

    @classmethod
    def generate(cls) -> "Identity":
        """A new identity from the operating system's random generator."""
        return cls(
            Secret.adopt(secrets.token_bytes(ED25519_SEED_BYTES)), Secret.adopt(secrets.token_bytes(MLDSA65_SEED_BYTES))
        )

    @classmethod
    def from_seeds(cls, ed25519_seed: Secret, mldsa65_seed: Secret) -> "Identity":
        """The identity that was written down as these two seeds of 32 bytes (RFC 8032 5.1.5, FIPS 204 algorithm 6)."""
        return cls(ed25519_seed, mldsa65_seed)

    @property
    def public(self) -> PublicIdentity:
        """The public half."""
        return self._public

    @property
    def seeds(self) -> tuple[Secret, Secret]:
        """Ed25519's and ML-DSA-65's seed, for writing the identity's file."""
        return self._ed25519_seed, self._mldsa65_seed

    def sign(self, label: Label, message: bytes) -> bytes:
        """Ed25519's signature and ML-DSA-65's run together, 64 + 3309 bytes. ML-DSA's is the hedged variant."""
        classical = self._ed25519().sign(label.encoded + lp(message))
        return classical + self._mldsa65().sign(message, label.encoded)

    def wipe(self) -> None:
        """Overwrite both seeds."""
        self._ed25519_seed.wipe()
        self._mldsa65_seed.wipe()

    def _ed25519(self) -> Ed25519PrivateKey:
        _refuse_wiped(self._ed25519_seed)
        with self._ed25519_seed.expose() as seed:
            return Ed25519PrivateKey.from_private_bytes(seed)

    def _mldsa65(self) -> MLDSA65PrivateKey:
        _refuse_wiped(self._mldsa65_seed)
        with self._mldsa65_seed.expose() as seed:
            return MLDSA65PrivateKey.from_seed_bytes(seed)

    def __repr__(self) -> str:
        return f"<Identity {self._public.short}>"


def _refuse_wiped(seed: Secret) -> None:
    if seed.is_zero:
        raise ProgramError("program.argument", "an all-zero seed: it was wiped, or never filled")
