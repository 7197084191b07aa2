"""One exchange of a rotation: X25519 and any number of KEMs side by side.

The proposer makes `Shares`, the answerer answers with ciphertexts, the proposer opens them; both hold the same
`Exchanged` secrets in the order of the proposal. Nothing is combined here: `crypto/combiner.py` does that.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, NoReturn

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from qhybridd.crypto import kem, x25519
from qhybridd.crypto.kem import Kem
from qhybridd.crypto.levels import MAX_KEMS
from qhybridd.errors import PeerError, ProgramError, QhybriddError
from qhybridd.secret import Secret

NONCE_BYTES: Final = 32


class PrivateShares:
    """The private halves of one proposal, for one `open_answer`. Opaque: nothing in it is to be read or sent."""

    __slots__ = ("_kems", "_x25519")

    def __init__(self, x25519_private: X25519PrivateKey, kems: tuple[tuple[Kem, object], ...]) -> None:
        """Own the X25519 key and the KEMs' private keys."""
        self._x25519: X25519PrivateKey | None = x25519_private
        self._kems = kems

    @property
    def codes(self) -> tuple[int, ...]:
        """The KEMs' wire codes in the order of the proposal."""
        return tuple(scheme.code for scheme, _ in self._kems)

    def wipe(self) -> None:
        """Wipe what the providers can wipe and drop the rest. Safe to call twice and from another thread."""
        kems, self._kems, self._x25519 = self._kems, (), None
        for scheme, private in kems:
            scheme.wipe(private)

    def __repr__(self) -> str:
        return f"<PrivateShares {len(self._kems)} KEMs>"

    def __reduce__(self) -> NoReturn:
        raise ProgramError("program.argument", "private keys cannot be pickled or copied")


@dataclass(frozen=True, slots=True)
class Shares:
    """What the proposer sends, and what it keeps."""

    nonce: bytes
    """Fresh randomness, 32 bytes."""
    x25519: bytes
    """X25519 public key, 32 bytes."""
    kems: tuple[tuple[int, bytes], ...]
    """Wire code and encapsulation key of each KEM."""
    private: PrivateShares


@dataclass(frozen=True, slots=True)
class Exchanged:
    """The secrets of one exchange."""

    x25519: Secret
    kems: tuple[Secret, ...]
    """One for each KEM, in the order of the proposal."""

    def wipe(self) -> None:
        """Overwrite all of them."""
        for secret in (self.x25519, *self.kems):
            secret.wipe()


@dataclass(frozen=True, slots=True)
class Answer:
    """What the answerer sends, and the secrets that it holds."""

    nonce: bytes
    """Fresh randomness, 32 bytes."""
    x25519: bytes
    """X25519 public key, 32 bytes."""
    kems: tuple[tuple[int, bytes], ...]
    """Wire code and ciphertext of each KEM, in the order of the proposal."""
    secrets: Exchanged


def is_slow(codes: Sequence[int]) -> bool:
    """Whether one of these KEMs needs a thread. False for a code that is not available here: that fails at once."""
    try:
        return any(kem.by_code(code).slow for code in codes)
    except QhybriddError:
        return False


def make(codes: Sequence[int]) -> Shares:
    """Draw a nonce, an X25519 pair and one pair for each KEM of `codes`; none is allowed (level `classical`).

    Raises `HostError` (host.liboqs) for a KEM whose library is missing, `ProgramError` for a list that no config gives.
    """
    schemes = []
    for code in codes:
        try:
            schemes.append(kem.by_code(code))
        except PeerError as error:
            raise ProgramError("program.argument", error.message) from None
    if len(codes) > MAX_KEMS or len(set(codes)) != len(codes):
        raise ProgramError("program.argument", f"KEMs {codes}: at most {MAX_KEMS}, none twice")
    x25519_private, x25519_public = x25519.generate()
    privates: list[tuple[Kem, object]] = []
    publics: list[tuple[int, bytes]] = []
    try:
        for scheme in schemes:
            private, ek = scheme.generate()
            privates.append((scheme, private))
            publics.append((scheme.code, ek))
    except QhybriddError:
        PrivateShares(x25519_private, tuple(privates)).wipe()
        raise
    private_shares = PrivateShares(x25519_private, tuple(privates))
    return Shares(os.urandom(NONCE_BYTES), x25519_public, tuple(publics), private_shares)


def answer(x25519_public: bytes, kems: Sequence[tuple[int, bytes]]) -> Answer:
    """Answer a proposal: a fresh nonce and X25519 pair, and a ciphertext for each (code, encapsulation key).

    Raises `PeerError`: peer.malformed for a bad share, a KEM proposed twice or too many; peer.suite for an unknown
    code; `HostError` (host.liboqs) for a KEM whose library is missing.
    """
    codes = [code for code, _ in kems]
    if len(codes) > MAX_KEMS:
        raise PeerError("peer.malformed", f"{len(codes)} KEMs are proposed, more than {MAX_KEMS}")
    if len(set(codes)) != len(codes):
        raise PeerError("peer.malformed", "a KEM is proposed twice")
    schemes = [kem.by_code(code) for code in codes]
    x25519_private, my_public = x25519.generate()
    secrets = [x25519.exchange(x25519_private, x25519_public)]
    ciphertexts = []
    try:
        for scheme, (_, ek) in zip(schemes, kems, strict=True):
            secret, ct = scheme.encapsulate(ek)
            secrets.append(secret)
            ciphertexts.append((scheme.code, ct))
    except QhybriddError:
        _wipe_all(secrets)
        raise
    return Answer(os.urandom(NONCE_BYTES), my_public, tuple(ciphertexts), Exchanged(secrets[0], tuple(secrets[1:])))


def open_answer(private: PrivateShares, x25519_public: bytes, kems: Sequence[tuple[int, bytes]]) -> Exchanged:
    """The secrets of an answer to the proposal that `private` belongs to. `private` stays, for the caller to wipe.

    Raises `PeerError` (peer.malformed) unless the answer has the proposal's codes, each once and in its order, and
    every share is well formed; `ProgramError` for a wiped `private`.
    """
    # A copy of both: the owner may wipe `private` while this runs in a thread.
    mine, pairs = private._x25519, private._kems
    if mine is None:
        raise ProgramError("program.argument", "these private shares are wiped")
    proposed, answered = [scheme.code for scheme, _ in pairs], [code for code, _ in kems]
    if proposed != answered:
        raise PeerError("peer.malformed", f"the answer is for KEMs {_hex(answered)}, proposed were {_hex(proposed)}")
    secrets = [x25519.exchange(mine, x25519_public)]
    try:
        for (scheme, key), (_, ct) in zip(pairs, kems, strict=True):
            secrets.append(scheme.decapsulate(key, ct))
    except QhybriddError:
        _wipe_all(secrets)
        raise
    return Exchanged(secrets[0], tuple(secrets[1:]))


def _wipe_all(secrets: Sequence[Secret]) -> None:
    for secret in secrets:
        secret.wipe()


def _hex(codes: Sequence[int]) -> str:
    return " ".join(f"0x{code:04x}" for code in codes) or "none"
