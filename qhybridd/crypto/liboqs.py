"""KEMs beside ML-KEM from the C library liboqs, through `liboqs-python` (module `oqs`).

Imported without the C library, `oqs` clones and builds code from the internet, and it logs to the standard output. So
the library is looked for here first, without starting a process; `oqs` is imported only when one of its KEMs is to be
used, and is then made to take the library that was found, to say nothing, and to be unable to install anything.

Keys and secrets are written by the C code straight into locked memory, through `oqs.native()`: the module's own
`KeyEncapsulation` would leave them in `bytes`, and it cannot tell a rejected ciphertext from a failure.

A name is not enough to know a KEM: liboqs 0.16 calls the salted FrodoKEM what 0.15 calls the ephemeral one. So a row
of the table is offered only if the library's sizes are the row's.
"""

import ctypes
import ctypes.util
import functools
import importlib
import logging
import os
import sysconfig
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from qhybridd.errors import HostError, PeerError, ProgramError
from qhybridd.secret import Secret


@dataclass(frozen=True, slots=True)
class Scheme:
    """A row of the table: a KEM with the wire code that it keeps for ever."""

    code: int
    name: str
    mechanisms: tuple[str, ...]
    """What versions of liboqs call it."""
    ek_bytes: int
    ct_bytes: int
    secret_bytes: int
    slow: bool = True
    """Everything but ML-KEM: between 0.3 and 150 ms a step where AVX2 and AES-NI help, and a multiple elsewhere."""
    reports_rejection: bool = False
    """Its decapsulation calls a forged ciphertext an error although it gives the secret of the implicit rejection."""


_FRODO: Final = (
    # size, public key, ciphertext without salt, salt, secret (FrodoKEM, ISO/IEC 18033-2 amendment 2, annex)
    (640, 9616, 9720, 32, 16),
    (976, 15632, 15744, 48, 24),
    (1344, 21520, 21632, 64, 32),
)
_MCELIECE: Final = (
    # size, public key, ciphertext (Classic McEliece: cryptosystem specification, 2022-10-23, section 7)
    (348864, 261120, 96),
    (460896, 524160, 156),
    (6688128, 1044992, 208),
    (6960119, 1047319, 194),
    (8192128, 1357824, 208),
)


def _schemes() -> Iterator[Scheme]:
    # ML-KEM is here only for the tests that hold both providers against each other: the registry asks
    # `cryptography` first.
    yield Scheme(0x0201, "ML-KEM-768", ("ML-KEM-768",), 1184, 1088, 32, slow=False)
    yield Scheme(0x0202, "ML-KEM-1024", ("ML-KEM-1024",), 1568, 1568, 32, slow=False)
    # HQC, 0x10xx: as submitted in round 4 (2023-04-30), and as specified on 2025-08-22.
    yield Scheme(0x1001, "HQC-128", ("HQC-128",), 2249, 4433, 64, reports_rejection=True)
    yield Scheme(0x1002, "HQC-192", ("HQC-192",), 4522, 8978, 64, reports_rejection=True)
    yield Scheme(0x1003, "HQC-256", ("HQC-256",), 7245, 14421, 64, reports_rejection=True)
    yield Scheme(0x1011, "HQC-1", ("HQC-1",), 2241, 4433, 32, reports_rejection=True)
    yield Scheme(0x1012, "HQC-3", ("HQC-3",), 4514, 8978, 32, reports_rejection=True)
    yield Scheme(0x1013, "HQC-5", ("HQC-5",), 7237, 14421, 32, reports_rejection=True)
    # FrodoKEM, 0x11xx: salted, and ephemeral (for keys that are used once, as all of ours are).
    for row, (size, ek, ct, salt, secret) in enumerate(_FRODO):
        for column, generator in enumerate(("AES", "SHAKE")):
            name = f"FrodoKEM-{size}-{generator}"
            yield Scheme(0x1101 + 2 * row + column, name, (name,), ek, ct + salt, secret)
            yield Scheme(0x1181 + 2 * row + column, f"e{name}", (f"e{name}", name), ek, ct, secret)
    # Classic McEliece, 0x12xx: each size with the plain and the fast key generation.
    for row, (size, ek, ct) in enumerate(_MCELIECE):
        for column, suffix in enumerate(("", "f")):
            name = f"Classic-McEliece-{size}{suffix}"
            yield Scheme(0x1201 + 2 * row + column, name, (name,), ek, ct, 32)
    # Streamlined NTRU Prime, 0x13xx.
    yield Scheme(0x1301, "sntrup761", ("sntrup761",), 1158, 1039, 32)


SCHEMES: Final[dict[int, Scheme]] = {scheme.code: scheme for scheme in _schemes()}
"""Every KEM that a liboqs could offer here, by wire code."""


class PrivateKey:
    """A private key of one of the library's KEMs, in locked memory."""

    __slots__ = ("mechanism", "secret")

    def __init__(self, mechanism: str, secret: Secret) -> None:
        """Own `secret`, the key in the library's encoding."""
        self.mechanism = mechanism
        self.secret = secret

    def __repr__(self) -> str:
        return f"<PrivateKey {self.mechanism}>"


@dataclass(frozen=True, slots=True)
class LiboqsKem:
    """One KEM that the installed library offers; see `crypto.kem.Kem`."""

    scheme: Scheme
    mechanism: str
    """What this library calls it."""
    provider: str
    """Library and version, for instance `liboqs 0.13.0`."""
    key_bytes: int
    """Size of a private key in the library's encoding."""
    _native: ctypes.CDLL = field(repr=False, compare=False)

    @property
    def code(self) -> int:
        """See `Kem.code`."""
        return self.scheme.code

    @property
    def name(self) -> str:
        """See `Kem.name`."""
        return self.scheme.name

    @property
    def ek_bytes(self) -> int:
        """See `Kem.ek_bytes`."""
        return self.scheme.ek_bytes

    @property
    def ct_bytes(self) -> int:
        """See `Kem.ct_bytes`."""
        return self.scheme.ct_bytes

    @property
    def secret_bytes(self) -> int:
        """See `Kem.secret_bytes`."""
        return self.scheme.secret_bytes

    @property
    def slow(self) -> bool:
        """See `Kem.slow`."""
        return self.scheme.slow

    def generate(self) -> tuple[object, bytes]:
        """See `Kem.generate`."""
        key, ek = Secret(self.key_bytes), ctypes.create_string_buffer(self.ek_bytes)
        with _address(key) as key_address:
            status = self._call("OQS_KEM_keypair", ek, key_address)
        if status != 0:
            raise HostError("host.liboqs", f"liboqs makes no {self.name} key: status {status}")
        return PrivateKey(self.mechanism, key), ek.raw

    def encapsulate(self, ek: bytes) -> tuple[Secret, bytes]:
        """See `Kem.encapsulate`."""
        if len(ek) != self.ek_bytes:
            raise PeerError("peer.malformed", f"a key of {self.name} has {self.ek_bytes} bytes, not {len(ek)}")
        secret, ct = Secret(self.secret_bytes), ctypes.create_string_buffer(self.ct_bytes)
        with _address(secret) as secret_address:
            status = self._call("OQS_KEM_encaps", ct, secret_address, bytes(ek))
        if status != 0:
            raise PeerError("peer.malformed", f"liboqs refuses the {self.name} key")
        return secret, ct.raw

    def decapsulate(self, private: object, ct: bytes) -> Secret:
        """See `Kem.decapsulate`. Classic McEliece 6960119 also refuses set padding bits."""
        if not isinstance(private, PrivateKey) or private.mechanism != self.mechanism:
            raise ProgramError("program.argument", f"not a private key of {self.name}")
        if private.secret.is_zero:
            raise ProgramError("program.argument", "this private key is wiped")
        if len(ct) != self.ct_bytes:
            raise PeerError("peer.malformed", f"a ciphertext of {self.name} has {self.ct_bytes} bytes, not {len(ct)}")
        secret = Secret(self.secret_bytes)
        with _address(secret) as secret_address, _address(private.secret) as key_address:
            status = self._call("OQS_KEM_decaps", secret_address, bytes(ct), key_address)
        if status != 0 and (secret.is_zero or not self.scheme.reports_rejection):
            raise PeerError("peer.malformed", f"liboqs refuses the {self.name} ciphertext")
        return secret

    def wipe(self, private: object) -> None:
        """See `Kem.wipe`. The memory stays until the last thread that decapsulates with it is done."""
        if isinstance(private, PrivateKey):
            private.secret.wipe()

    def _call(self, function: str, *arguments: object) -> int:
        """Call a function of `oqs/kem.h` on a method table of its own; 0 is success."""
        kem = self._native.OQS_KEM_new(self.mechanism.encode())
        try:
            status: int = getattr(self._native, function)(kem, *arguments)
        finally:
            self._native.OQS_KEM_free(kem)
        return status


@contextmanager
def _address(secret: Secret) -> Iterator[ctypes.c_void_p]:
    """Where `secret` lies, for C code; valid inside the `with` only."""
    with secret.expose() as view:
        array = (ctypes.c_ubyte * len(view)).from_buffer(view)
        try:
            yield ctypes.c_void_p(ctypes.addressof(array))
        finally:
            # The array holds the view, which could not be released before it.
            del array


def by_code(code: int) -> LiboqsKem:
    """The KEM of a code in `SCHEMES`. Raises `HostError` (host.liboqs) where the library or the KEM is missing."""
    offers = _offers()
    if code not in offers:
        raise HostError("host.liboqs", f"the installed liboqs does not offer {SCHEMES[code].name}")
    return offers[code]


def available() -> tuple[LiboqsKem, ...]:
    """What the installed library offers, by code; nothing where there is no usable library."""
    try:
        offers = _offers()
    except HostError:
        return ()
    return tuple(offers[code] for code in sorted(offers))


def find_library() -> Path | None:
    """The shared library that would be used, or None. Starts no process, unlike `ctypes.util.find_library`."""
    return next((path for path in _candidates() if _loads(path)), None)


def _candidates() -> Iterator[Path]:
    """Where a library may lie: under OQS_INSTALL_PATH if that is set, else in the places where `oqs` and we install."""
    named, home = os.environ.get("OQS_INSTALL_PATH"), os.environ.get("HOME")
    roots = [Path(named)] if named else [*([Path(home, "_oqs")] if home else []), Path("/usr/local"), Path("/usr")]
    multiarch = sysconfig.get_config_var("MULTIARCH")
    for root in roots:
        for folder in ("lib", "lib64", *([f"lib/{multiarch}"] if multiarch else [])):
            # A runtime package has the versioned names only.
            yield root / folder / "liboqs.so"
            yield from sorted((root / folder).glob("liboqs.so.*"), reverse=True)


def _loads(path: Path) -> bool:
    """Whether `path` is a liboqs for this machine: what does not load would send `oqs` to the internet."""
    if not path.is_file():
        return False
    try:
        return hasattr(ctypes.CDLL(str(path)), "OQS_KEM_new")
    except OSError:
        return False


_loading: Final = threading.Lock()


def _import_oqs(path: Path) -> Any:
    """Import `oqs` on the library at `path`: no process, no output, no installation."""
    # Said at import, and by the logger's own handler on the standard output. `oqs` sets its level, not this.
    logging.getLogger("oqs.oqs").disabled = True
    with _loading, _confined(path), warnings.catch_warnings():
        # Its version and the library's differ where the system has another one; the sizes decide here.
        warnings.simplefilter("ignore")
        try:
            return importlib.import_module("oqs")
        except (Exception, SystemExit) as error:
            raise HostError("host.liboqs", f"liboqs-python cannot use {path}: {error}") from None


@contextmanager
def _confined(path: Path) -> Iterator[None]:
    """While `oqs` is imported: it finds `path` first, and its installer refuses to run.

    Its search would start ldconfig, gcc and ld. Its installer takes the version from PYOQS_VERSION and raises on one
    that is none, before anything else.
    """
    search, version = ctypes.util.find_library, os.environ.get("PYOQS_VERSION")

    def pinned(name: str) -> str | None:
        return str(path) if name in {"oqs", "liboqs"} else search(name)

    ctypes.util.find_library = pinned
    os.environ["PYOQS_VERSION"] = "never"
    try:
        yield
    finally:
        ctypes.util.find_library = search
        if version is None:
            del os.environ["PYOQS_VERSION"]
        else:
            os.environ["PYOQS_VERSION"] = version


@functools.cache
def _offers() -> dict[int, LiboqsKem]:
    """What the installed library offers of `SCHEMES`. Raises `HostError` (host.liboqs); only success is remembered."""
    path = find_library()
    if path is None:
        raise HostError("host.liboqs", "the C library liboqs is not installed")
    oqs = _import_oqs(path)
    provider = f"liboqs {oqs.oqs_version()}"
    offers = {}
    for scheme in SCHEMES.values():
        offer = _match(oqs, scheme, provider)
        if offer is not None:
            offers[scheme.code] = offer
    return offers


def _match(oqs: Any, scheme: Scheme, provider: str) -> LiboqsKem | None:
    """The library's KEM for `scheme`, if it has one of a right name and the right sizes."""
    for mechanism in scheme.mechanisms:
        if mechanism in oqs.get_enabled_kem_mechanisms():
            with oqs.KeyEncapsulation(mechanism) as kem:
                sizes = (kem.length_public_key, kem.length_ciphertext, kem.length_shared_secret)
                key_bytes = kem.length_secret_key
            if sizes == (scheme.ek_bytes, scheme.ct_bytes, scheme.secret_bytes):
                return LiboqsKem(scheme, mechanism, provider, key_bytes, oqs.native())
    return None
