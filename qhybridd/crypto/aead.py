"""AES-256-GCM (NIST SP 800-38D) under counters that only go up: no nonce is ever used twice with a key.

The nonce is the 96-bit record number (the deterministic construction of SP 800-38D section 8.2.1; one sender per key).
One sealer and one opener live for one key; neither can be copied, rewound or given a nonce from outside.
"""

from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from qhybridd.errors import PeerError, ProgramError
from qhybridd.secret import Secret

KEY_BYTES: Final = 32
TAG_BYTES: Final = 16
_NONCE_BYTES: Final = 12
MAX_RECORDS: Final = 1 << 24
"""Records under one key. RFC 8446 section 5.5 allows 2^24.5 full records of 16 KiB for a safety margin of 2^-57."""


class _Counted:
    """A cipher and the number of the next record."""

    __slots__ = ("_cipher", "_limit", "_next")

    def __init__(self, key: Secret, limit: int = MAX_RECORDS) -> None:
        """Take the 32-byte key over: it is wiped here and lives on in the cipher object only."""
        if len(key) != KEY_BYTES or key.is_zero:
            raise ProgramError("program.argument", f"a cipher needs a key of {KEY_BYTES} bytes that is not wiped")
        with key.expose() as view:
            self._cipher: AESGCM | None = AESGCM(view)
        key.wipe()
        self._next = 0
        self._limit = limit

    def wipe(self) -> None:
        """Drop the cipher object; its library clears the key schedule when it is freed."""
        self._cipher = None

    @property
    def remaining(self) -> int:
        """Records that this key may still protect."""
        return self._limit - self._next

    def _take_nonce(self) -> tuple[AESGCM, bytes]:
        if self._cipher is None:
            raise ProgramError("program.state", "a cipher that was wiped")
        if not self.remaining:
            raise ProgramError("program.state", f"a record beyond the {self._limit} of one key")
        number = self._next
        self._next += 1
        return self._cipher, number.to_bytes(_NONCE_BYTES, "big")


class Sealer(_Counted):
    """Seals records in order."""

    __slots__ = ()

    def seal(self, plaintext: bytes, header: bytes) -> bytes:
        """Ciphertext and tag, 16 bytes longer; `header` is authenticated."""
        cipher, nonce = self._take_nonce()
        return cipher.encrypt(nonce, plaintext, header)


class Opener(_Counted):
    """Opens records in the order in which they were sealed; any other order fails like any other forgery."""

    __slots__ = ()

    def open(self, ciphertext: bytes, header: bytes) -> bytes:
        """The plaintext. Raises `PeerError` (peer.mac, peer.oversized); nothing can be opened after peer.mac."""
        if not self.remaining:
            raise PeerError("peer.oversized", "the peer sent more records than one key may protect")
        cipher, nonce = self._take_nonce()
        try:
            return cipher.decrypt(nonce, ciphertext, header)
        except InvalidTag:
            self.wipe()
            raise PeerError("peer.mac", "a message does not authenticate") from None
