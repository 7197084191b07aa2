"""Secrets as a type: locked, out of core dumps, wiped, redacted, never copied by accident.

A `Secret` lives in memory of the native module that is mlocked, excluded from dumps and wiped when it is freed or
`wipe()` is called. What Python cannot promise: wherever a library takes or returns `bytes`, a copy exists that cannot
be wiped, only dropped. Those places are, and a new one is added to this list:

* `crypto/kem.py`, `crypto/x25519.py`: shared secrets and private keys inside `cryptography`;
* `crypto/kdf.py`: the output of each HMAC step before it is moved into a `Secret`;
* `crypto/aead.py`: traffic keys while the cipher object is built;
* `crypto/identity.py`: the identity's private seeds while the key objects are built;
* `keyfiles.py`: the base64 and the body of an identity or PSK file while it is read or written;
* `optics/source.py`: the key of a simulated source's choices inside `cryptography`; its bits as light;
* `distill/reconcile.py`: the random bits of frames as they are drawn;
* `targets/uapi.py`: the device's private key while its public key is computed inside `cryptography`.
"""

import hmac
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final, NoReturn

from qhybridd import _native
from qhybridd.errors import HostError, ProgramError

MAX_SECRET_BYTES: Final = 1 << 26
"""Bound of one allocation: 64 MiB, more than the largest distilled block."""


@contextmanager
def locked_memory() -> Iterator[None]:
    """Around calls of kernels that lock memory: raises `HostError` (host.memory) where none is left."""
    try:
        yield
    except MemoryError as error:
        raise HostError("host.memory", str(error)) from None


class Secret:
    """A fixed-length secret in locked memory.

    `expose()` is the only way to the bytes, so that every use can be found by searching for it.
    """

    __slots__ = ("_buffer",)

    def __init__(self, size: int) -> None:
        """Allocate `size` zero bytes. Raises `HostError` (host.memory) where no locked memory is left."""
        if not 0 < size <= MAX_SECRET_BYTES:
            raise ProgramError("program.argument", f"a secret of {size} bytes")
        with locked_memory():
            self._buffer = _native.LockedBuffer(size)

    @classmethod
    def adopt(cls, data: bytes | bytearray | memoryview) -> "Secret":
        """Copy `data` into locked memory; a mutable source is wiped."""
        secret = cls(len(data))
        with memoryview(secret._buffer) as view:
            view[:] = data
        if isinstance(data, bytearray) or (isinstance(data, memoryview) and not data.readonly):
            data[:] = bytes(len(data))
        return secret

    def expose(self) -> memoryview:
        """A writable view of the bytes; release it soon."""
        return memoryview(self._buffer)

    def wipe(self) -> None:
        """Overwrite with zeros. The secret stays usable as an all-zero one, which every consumer refuses."""
        self._buffer.wipe()

    @property
    def is_zero(self) -> bool:
        """True for an all-zero secret; constant time."""
        with self.expose() as view:
            return hmac.compare_digest(view, bytes(len(view)))

    def __len__(self) -> int:
        return len(self._buffer)

    def __eq__(self, other: object) -> bool:
        """Constant-time comparison with another secret."""
        if not isinstance(other, Secret):
            return NotImplemented
        with self.expose() as mine, other.expose() as theirs:
            return hmac.compare_digest(mine, theirs)

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"<Secret {len(self)} bytes>"

    def __reduce__(self) -> NoReturn:
        raise ProgramError("program.argument", "a secret cannot be pickled or copied")
