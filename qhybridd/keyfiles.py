"""What is kept in files: this gateway's identity, bootstrap PSKs, and the pins of its peers.

A peer's pins stand in the peers directory as `NAME.peer` and, while its identity is rolled over, `NAME.next.peer`. A
revoked one moves to the directory `revoked` beside them, under its fingerprint, and is refused from then on whatever
else names it.
"""

import binascii
import hmac
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from qhybridd.armour import armour, decode64, malformed, unarmour
from qhybridd.config.records import PEER_SUFFIX, REVOKED, ConfigError, Endpoint, PeerConfig
from qhybridd.config.rules import MAX_PINS
from qhybridd.crypto.identity import FINGERPRINT_BYTES, Identity, PublicIdentity
from qhybridd.errors import OperatorError
from qhybridd.peerfile import MAX_PEER_FILE, parse_peer, peer_block
from qhybridd.secret import Secret
from qhybridd.secretfile import (
    PUBLIC_MODE,
    SECRET_MODE,
    create_file,
    read_secret,
    read_trusted,
    replace_file,
    sync_directory,
)

FORMAT: Final = 1
PSK_BYTES: Final = 32
SEED_BYTES: Final = 32
MAX_IDENTITY_FILE: Final = 1024
MAX_PSK_FILE: Final = 256
_IDENTITY: Final = "QHYBRIDD IDENTITY"
_IDENTITY_BYTES: Final = 1 + 2 * SEED_BYTES + FINGERPRINT_BYTES


@dataclass(frozen=True, slots=True)
class Pin:
    """One identity under which a peer is taken."""

    fingerprint: bytes
    """48 bytes."""
    identity: PublicIdentity
    endpoints: tuple[Endpoint, ...]
    """Where the peer says that it listens."""
    file: Path


# ---- this gateway's identity


def load_identity(path: Path) -> Identity:
    """The identity in a secret file. Raises `OperatorError` (file.missing, .mode, .unreadable, .malformed)."""
    text = read_secret(path, MAX_IDENTITY_FILE)
    with text.expose() as view:
        body = bytearray(unarmour(bytes(view), _IDENTITY, path))
    text.wipe()
    try:
        if len(body) != _IDENTITY_BYTES or body[0] != FORMAT:
            raise malformed("this is no identity of this version", path)
        seeds = memoryview(body)[1 : 1 + 2 * SEED_BYTES]
        fingerprint = bytes(body[1 + 2 * SEED_BYTES :])
        identity = Identity.from_seeds(Secret.adopt(seeds[:SEED_BYTES]), Secret.adopt(seeds[SEED_BYTES:]))
    finally:
        body[:] = bytes(len(body))
    if not hmac.compare_digest(identity.public.fingerprint, fingerprint):
        raise malformed("the fingerprint in the file is not the one of its keys", path)
    return identity


def create_identity(path: Path, identity: Identity) -> None:
    """Write a new identity file, mode 0600. Raises `OperatorError` (file.exists) rather than overwrite one."""
    secret = _encode_identity(identity)
    with secret.expose() as view:
        create_file(path, view, SECRET_MODE)
    secret.wipe()


def replace_identity(path: Path, identity: Identity) -> None:
    """Write an identity file over the one that is there."""
    secret = _encode_identity(identity)
    with secret.expose() as view:
        replace_file(path, view, SECRET_MODE)
    secret.wipe()


def _encode_identity(identity: Identity) -> Secret:
    ed25519_seed, mldsa65_seed = identity.seeds
    body = Secret(_IDENTITY_BYTES)
    with body.expose() as view, ed25519_seed.expose() as first, mldsa65_seed.expose() as second:
        view[0] = FORMAT
        view[1 : 1 + SEED_BYTES] = first
        view[1 + SEED_BYTES : 1 + 2 * SEED_BYTES] = second
        view[1 + 2 * SEED_BYTES :] = identity.public.fingerprint
        text = Secret.adopt(armour(binascii.b2a_base64(view, newline=False), _IDENTITY, b""))
    body.wipe()
    return text


# ---- bootstrap PSKs


def load_psk(path: Path) -> Secret:
    """A PSK of 32 bytes in base64, as `wg genpsk` writes it. Raises `OperatorError` (file.*)."""
    text = read_secret(path, MAX_PSK_FILE)
    with text.expose() as view:
        key = bytearray(decode64(bytes(view).strip(), "this is no PSK in base64", path))
    text.wipe()
    if len(key) != PSK_BYTES:
        raise malformed(f"a PSK has {PSK_BYTES} bytes", path)
    psk = Secret.adopt(key)
    if psk.is_zero:
        raise malformed("an all-zero PSK is none", path)
    return psk


def load_pins(peers: Mapping[str, PeerConfig], directory: Path) -> dict[str, tuple[Pin, ...]]:
    """The pins of each peer, from its files.

    `directory` is the peers directory; what its `revoked` record names is left out, and a peer of whom nothing else is
    left has no pin and so is never taken. Raises `ConfigError` with every file that cannot be taken (file.*, or
    config.duplicate for two peers that are one).
    """
    revoked = revoked_fingerprints(directory)
    pins: dict[str, tuple[Pin, ...]] = {}
    seen: dict[bytes, Path] = {}
    problems: list[OperatorError] = []
    for name, peer in peers.items():
        found: list[Pin] = []
        for path in peer.files:
            try:
                pin = load_pin(path)
            except OperatorError as error:
                problems.append(error)
                continue
            first = seen.setdefault(pin.fingerprint, path)
            if first != path:
                message, hint = f"the same identity as in {first}", "Remove one of the two files."
                problems.append(OperatorError("config.duplicate", message, where=str(path), hint=hint))
            if pin.fingerprint not in revoked:
                found.append(pin)
        pins[name] = tuple(found)
    if problems:
        raise ConfigError(tuple(problems))
    return pins


def load_pin(path: Path) -> Pin:
    """The pin in one stored peer file. Raises `OperatorError` (file.*)."""
    file = parse_peer(read_trusted(path, MAX_PEER_FILE), path)
    return Pin(file.identity.fingerprint, file.identity, file.endpoints, path)


def revoked_fingerprints(directory: Path) -> frozenset[bytes]:
    """What was revoked here: the names in `directory`/revoked. Raises `OperatorError` (file.unreadable)."""
    found: set[bytes] = set()
    try:
        names = [path.name for path in (directory / REVOKED).iterdir()]
    except FileNotFoundError:
        return frozenset()
    except OSError as error:
        message = f"the record of revoked pins cannot be read: {error.strerror}"
        raise OperatorError("file.unreadable", message, where=str(directory / REVOKED)) from None
    for name in names:
        try:
            fingerprint = bytes.fromhex(name.partition(".")[0])
        except ValueError:
            continue
        if len(fingerprint) == FINGERPRINT_BYTES:
            found.add(fingerprint)
    return frozenset(found)


def revoked_name(pin: Pin) -> str:
    """The name of the peer whose pin this was, from its file's name in the directory `revoked`."""
    return pin.file.name.split(".")[1]


def stored_pins(directory: Path) -> tuple[list[tuple[str, Pin]], tuple[OperatorError, ...]]:
    """Every pin in `directory` with its peer's name, sorted, and what is wrong with the files that cannot be taken."""
    good: list[tuple[str, Pin]] = []
    damaged: list[OperatorError] = []
    for path in sorted(directory.glob(f"*{PEER_SUFFIX}")):
        try:
            good.append((path.name.partition(".")[0], load_pin(path)))
        except OperatorError as error:
            damaged.append(error)
    return good, tuple(damaged)


def store_peer(directory: Path, name: str, data: bytes, *, beside: bool) -> Path:
    """Keep the peer file in `data` under `name`; `beside` another pin of the same peer, while it is rolled over.

    Raises `OperatorError`: file.malformed, file.exists (the peer or the identity is known already), peer.revoked.
    """
    source = directory / f"{name}{PEER_SUFFIX}"
    fingerprint = parse_peer(data, source).identity.fingerprint
    if fingerprint in revoked_fingerprints(directory):
        record = directory / REVOKED / f"{fingerprint.hex()[:16]}…"
        hint = "Ask the peer for its new file; if the revocation was a mistake, remove the record."
        raise OperatorError("peer.revoked", "this identity was revoked here", where=str(record), hint=hint)
    good, _ = stored_pins(directory)
    for _, pin in good:
        if pin.fingerprint == fingerprint:
            raise OperatorError(
                "file.exists", "this identity is known already", where=str(pin.file), hint="Nothing to do."
            )
    if not beside and any(known == name for known, _ in good):
        hint = f"A second identity of {name} while it is rolled over: --next. Another gateway: --name."
        raise OperatorError("file.exists", f"{name} has an identity already", where=str(source), hint=hint)
    directory.mkdir(mode=0o755, parents=True, exist_ok=True)
    names = [name, f"{name}.next", *(f"{name}.next{number}" for number in range(2, MAX_PINS))]
    free = next((path for each in names if not (path := directory / f"{each}{PEER_SUFFIX}").exists()), None)
    if free is None:
        raise OperatorError(
            "file.exists", f"{name} has {MAX_PINS} identities", where=str(source), hint="Revoke the old ones."
        )
    create_file(free, peer_block(data, source), PUBLIC_MODE)
    return free


def revoke_pin(pin: Pin, directory: Path) -> Path:
    """Move a pin to the record of revoked ones in `directory`; from then on it is refused. Returns its new place.

    Raises `OperatorError` (file.unreadable).
    """
    record = directory / REVOKED
    target = record / f"{pin.fingerprint.hex()}.{pin.file.name.partition('.')[0]}{PEER_SUFFIX}"
    try:
        record.mkdir(mode=0o755, exist_ok=True)
        pin.file.rename(target)
        sync_directory(record)
        sync_directory(directory)
    except OSError as error:
        message = f"the pin cannot be moved to {record}: {error.strerror}"
        raise OperatorError("file.unreadable", message, where=str(pin.file), hint="Run it as root.") from None
    return target
