"""Random numbers of the simulated link: AES-256 in counter mode, keyed by the system, or by a trial's seed."""

import hashlib
import os

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from numpy.typing import NDArray

BLOCK_BYTES = 16
UNIFORM_BITS = 53


class Randomness:
    """One stream. A daemon's comes from `from_system`; the same seed and purpose give the same stream."""

    def __init__(self, key: bytes) -> None:
        """A 32-byte key."""
        self._key = key
        self._stream = Cipher(algorithms.AES(key), modes.CTR(bytes(BLOCK_BYTES))).encryptor()

    @classmethod
    def from_system(cls) -> "Randomness":
        """Keyed by the operating system: nobody can repeat it."""
        return cls(os.urandom(32))

    @classmethod
    def from_seed(cls, seed: int) -> "Randomness":
        """For trials, which must be repeatable. Never for keys of a tunnel."""
        return cls(hashlib.sha256(b"qhybridd trial %d" % seed).digest())

    def child(self, purpose: str) -> "Randomness":
        """Another stream, independent of this one and of how far it is used."""
        return Randomness(self.key(purpose))

    def key(self, purpose: str) -> bytes:
        """32 bytes for a generator of their own."""
        return hashlib.sha256(b"qhybridd stream " + self._key + purpose.encode()).digest()

    def take(self, size: int) -> bytes:
        """The next `size` bytes."""
        return self._stream.update(bytes(size))

    def words(self, count: int) -> NDArray[np.uint64]:
        """The next `count` 64-bit words."""
        return np.frombuffer(self.take(8 * count), np.uint64)

    def uniform(self, count: int) -> NDArray[np.float64]:
        """Numbers in [0, 1), multiples of 2^-53."""
        words: NDArray[np.uint64] = self.words(count) >> np.uint64(64 - UNIFORM_BITS)
        return words.astype(np.float64) * np.float64(2.0**-UNIFORM_BITS)

    def generator(self, purpose: str) -> np.random.Generator:
        """numpy's distributions over a generator keyed from here: for what nature does, never for secret choices."""
        return np.random.Generator(np.random.Philox(key=int.from_bytes(self.key(purpose)[:16], "little")))
