"""The registry of KEMs by wire code, and ML-KEM (FIPS 203) from `cryptography`.

The suites of the handshake use ML-KEM only; whatever an installed liboqs adds (`crypto/liboqs.py`) runs inside the
session, in the rotation. A code is never given twice and never changes its meaning; `docs/kems.md` lists all of them.
"""

from dataclasses import dataclass
from typing import Final, Protocol

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.mlkem import (
    MLKEM768PrivateKey,
    MLKEM768PublicKey,
    MLKEM1024PrivateKey,
    MLKEM1024PublicKey,
)

from qhybridd.crypto import liboqs
from qhybridd.errors import HostError, OperatorError, PeerError, ProgramError
from qhybridd.secret import Secret

ML_KEM_768: Final = 0x0201
"""The code of the TLS named group MLKEM768 (draft-ietf-tls-mlkem)."""
ML_KEM_1024: Final = 0x0202
"""The code of the TLS named group MLKEM1024 (draft-ietf-tls-mlkem)."""


class Kem(Protocol):
    """One KEM of one provider. Private keys are opaque: what `generate` gives, `decapsulate` and `wipe` take."""

    @property
    def code(self) -> int:
        """The wire code, 16 bits."""

    @property
    def name(self) -> str:
        """The standard's name, as the config and the status write it."""

    @property
    def provider(self) -> str:
        """The library that computes it."""

    @property
    def ek_bytes(self) -> int:
        """Size of an encapsulation (public) key."""

    @property
    def ct_bytes(self) -> int:
        """Size of a ciphertext."""

    @property
    def secret_bytes(self) -> int:
        """Size of the shared secret."""

    @property
    def slow(self) -> bool:
        """Whether a step may take longer than a few milliseconds, so that it belongs in a thread."""

    def generate(self) -> tuple[object, bytes]:
        """A fresh key pair: the opaque private key and the encapsulation key."""

    def encapsulate(self, ek: bytes) -> tuple[Secret, bytes]:
        """A fresh secret and its ciphertext for the owner of `ek`. Raises `PeerError` (peer.malformed)."""

    def decapsulate(self, private: object, ct: bytes) -> Secret:
        """The secret inside `ct`. A forged ciphertext gives another secret, not an error (implicit rejection).

        Raises `PeerError` (peer.malformed) for a wrong length or set padding bits, which anybody could see.
        """

    def wipe(self, private: object) -> None:
        """Overwrite a private key as far as the provider can; it is not used again."""


@dataclass(frozen=True, slots=True)
class MlKem:
    """ML-KEM from `cryptography`, which frees and cleanses a private key when its object goes."""

    code: int
    name: str
    ek_bytes: int
    ct_bytes: int
    _private: type[MLKEM768PrivateKey] | type[MLKEM1024PrivateKey]
    _public: type[MLKEM768PublicKey] | type[MLKEM1024PublicKey]
    secret_bytes: int = 32
    provider: str = "cryptography"
    slow: bool = False

    def generate(self) -> tuple[object, bytes]:
        """See `Kem.generate`; FIPS 203 section 7.1."""
        try:
            private = self._private.generate()
        except UnsupportedAlgorithm as error:
            raise HostError("host.crypto", str(error)) from None
        return private, private.public_key().public_bytes_raw()

    def encapsulate(self, ek: bytes) -> tuple[Secret, bytes]:
        """See `Kem.encapsulate`; FIPS 203 section 7.2 with both of its input checks (type and modulus)."""
        if len(ek) != self.ek_bytes:
            raise PeerError("peer.malformed", f"an {self.name} key has {self.ek_bytes} bytes, not {len(ek)}")
        try:
            secret, ct = self._public.from_public_bytes(ek).encapsulate()
        except ValueError:
            raise PeerError("peer.malformed", f"the {self.name} key holds a coefficient over the modulus") from None
        except UnsupportedAlgorithm as error:
            raise HostError("host.crypto", str(error)) from None
        return Secret.adopt(secret), ct

    def decapsulate(self, private: object, ct: bytes) -> Secret:
        """See `Kem.decapsulate`; FIPS 203 section 7.3."""
        if not isinstance(private, self._private):
            raise ProgramError("program.argument", f"not a private key of {self.name}")
        if len(ct) != self.ct_bytes:
            raise PeerError("peer.malformed", f"an {self.name} ciphertext has {self.ct_bytes} bytes, not {len(ct)}")
        return Secret.adopt(private.decapsulate(ct))

    def wipe(self, private: object) -> None:
        """Nothing to do but drop it: OpenSSL cleanses a private key when its object is freed."""


_BUILT_IN: Final[dict[int, Kem]] = {
    ML_KEM_768: MlKem(ML_KEM_768, "ML-KEM-768", 1184, 1088, MLKEM768PrivateKey, MLKEM768PublicKey),
    ML_KEM_1024: MlKem(ML_KEM_1024, "ML-KEM-1024", 1568, 1568, MLKEM1024PrivateKey, MLKEM1024PublicKey),
}
"""Sizes from FIPS 203 table 3."""


def by_code(code: int) -> Kem:
    """The KEM with this wire code.

    Raises `PeerError` (peer.suite) for a code that this version does not know, `HostError` (host.liboqs) for one that
    needs a library which is not here.
    """
    if code in _BUILT_IN:
        return _BUILT_IN[code]
    if code in liboqs.SCHEMES:
        return liboqs.by_code(code)
    raise PeerError("peer.suite", f"no KEM has the code 0x{code:04x} here")


def by_name(name: str) -> Kem:
    """The KEM of this name, in any case of letters.

    Raises `OperatorError` (config.value) for an unknown name, `HostError` (host.liboqs) for a KEM that needs a library
    which is not here.
    """
    names = {kem.name: kem.code for kem in _BUILT_IN.values()}
    names.update((scheme.name, scheme.code) for scheme in liboqs.SCHEMES.values())
    for known, code in names.items():
        if known.lower() == name.lower():
            return by_code(code)
    raise OperatorError("config.value", f"no KEM is called {name!r}", hint=f"Known are {', '.join(names)}.")


def name_of(code: int) -> str:
    """The name of the KEM with this wire code, for messages; the code itself where this version knows none."""
    known: dict[int, str] = {kem.code: kem.name for kem in _BUILT_IN.values()}
    known.update((scheme.code, scheme.name) for scheme in liboqs.SCHEMES.values())
    return known.get(code, f"0x{code:04x}")


def available() -> tuple[Kem, ...]:
    """Every KEM that can be used here, by code. Loads liboqs if it is installed."""
    kems = {kem.code: kem for kem in liboqs.available()} | _BUILT_IN
    return tuple(kems[code] for code in sorted(kems))
