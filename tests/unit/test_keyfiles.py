"""Identity, PSK and peer files: who may read them, what is refused, and that nothing leaks or is overwritten."""

import base64
import itertools
import os
import stat
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from qhybridd import secretfile
from qhybridd.config import ConfigError, Endpoint, PeerConfig
from qhybridd.crypto.identity import Identity
from qhybridd.errors import OperatorError
from qhybridd.keyfiles import (
    Pin,
    create_identity,
    load_identity,
    load_pin,
    load_pins,
    load_psk,
    replace_identity,
    revoke_pin,
    store_peer,
    stored_pins,
)
from qhybridd.peerfile import MAX_PEER_FILE, export_peer, parse_peer, peer_block
from qhybridd.secretfile import create_file, read_secret, read_trusted, replace_file

PARIS = Identity.generate()
BERLIN = Identity.generate()
ENDPOINTS = (Endpoint("192.0.2.1", 7420), Endpoint("2001:db8::1", 7420), Endpoint("gw.example", 1))
PARIS_FILE = export_peer(PARIS, "paris", ENDPOINTS).encode()
BERLIN_FILE = export_peer(BERLIN, "berlin", ()).encode()


def refused(code: str, call: object, *arguments: object) -> OperatorError:
    assert callable(call)
    with pytest.raises(OperatorError) as caught:
        call(*arguments)
    assert caught.value.code == code, str(caught.value)
    return caught.value


def seeds_of(identity: Identity) -> list[bytes]:
    seeds = []
    for seed in identity.seeds:
        with seed.expose() as view:
            seeds.append(bytes(view))
    return seeds


# ---- identity


def test_an_identity_comes_back(tmp_path: Path) -> None:
    path = tmp_path / "identity.key"
    create_identity(path, PARIS)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    read = load_identity(path)
    assert seeds_of(read) == seeds_of(PARIS)
    assert read.public == PARIS.public
    assert list(tmp_path.iterdir()) == [path]


def test_an_identity_is_never_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "identity.key"
    create_identity(path, PARIS)
    error = refused("file.exists", create_identity, path, BERLIN)
    assert "--force" in error.hint
    assert load_identity(path).public == PARIS.public
    replace_identity(path, BERLIN)
    assert load_identity(path).public == BERLIN.public
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert list(tmp_path.iterdir()) == [path]


def test_the_file_is_private_from_its_first_byte(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The temporary file is complete before it gets its name, and is never wider than 0600, whatever the umask."""
    seen: list[tuple[int, int]] = []
    real = os.fsync

    def look(descriptor: int) -> None:
        for path in tmp_path.iterdir():
            status = path.stat()
            seen.append((stat.S_IMODE(status.st_mode), status.st_size))
        real(descriptor)

    monkeypatch.setattr(secretfile.os, "fsync", look)
    before = os.umask(0)
    try:
        create_file(tmp_path / "secret", b"12345", 0o600)
    finally:
        os.umask(before)
    assert set(seen) == {(0o600, 5)}
    assert len(seen) >= 2


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o604, 0o620, 0o601])
def test_a_secret_that_others_can_use_is_refused(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "identity.key"
    create_identity(path, PARIS)
    path.chmod(mode)
    error = refused("file.mode", load_identity, path)
    assert f"chmod 600 {path}" in error.message
    path.chmod(0o400)
    load_identity(path)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_another_users_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "identity.key"
    create_identity(path, PARIS)
    os.chown(path, 65534, 65534)
    assert f"chown 0 {path}" in refused("file.mode", load_identity, path).message


def test_links_and_devices_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "identity.key"
    create_identity(path, PARIS)
    (tmp_path / "link").symlink_to(path)
    assert "symbolic link" in refused("file.unreadable", load_identity, tmp_path / "link").message
    os.mkfifo(tmp_path / "pipe", 0o600)
    assert "regular file" in refused("file.unreadable", load_identity, tmp_path / "pipe").message
    refused("file.unreadable", load_identity, tmp_path)
    refused("file.missing", load_identity, tmp_path / "none")


def test_writing_does_not_follow_a_link(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("mine")
    (tmp_path / "identity.key").symlink_to(victim)
    refused("file.exists", create_identity, tmp_path / "identity.key", PARIS)
    replace_identity(tmp_path / "identity.key", PARIS)
    assert victim.read_text() == "mine"
    assert not (tmp_path / "identity.key").is_symlink()


def test_a_directory_that_is_not_there(tmp_path: Path) -> None:
    assert "install -d" in refused("file.missing", create_identity, tmp_path / "no" / "identity.key", PARIS).hint


def test_a_damaged_identity_shows_nothing_of_itself(tmp_path: Path) -> None:
    path = tmp_path / "identity.key"
    create_identity(path, PARIS)
    good = path.read_bytes()
    body = bytearray(base64.b64decode(b"".join(good.splitlines()[1:-1])))
    body[5] ^= 1
    lines = [b"-----BEGIN QHYBRIDD IDENTITY-----", base64.b64encode(body), b"-----END QHYBRIDD IDENTITY-----"]
    for bad in (b"\n".join(lines), good[:-30], good.replace(b"IDENTITY", b"PEER"), b"\0", good[:60] + b"%" + good[61:]):
        path.write_bytes(bad)
        error = refused("file.malformed", load_identity, path)
        for line in good.splitlines()[1:-1]:
            assert line[:16].decode() not in f"{error} {error.hint} {error.__cause__}"
    path.write_bytes(b"")
    refused("file.malformed", load_identity, path)
    path.write_bytes(good + b"#" * 2000)
    refused("file.malformed", load_identity, path)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(data=st.binary(max_size=300))
@example(b"-----BEGIN QHYBRIDD IDENTITY-----\n-----END QHYBRIDD IDENTITY-----")
@example(b"-----END QHYBRIDD IDENTITY-----\n-----BEGIN QHYBRIDD IDENTITY-----")
def test_no_bytes_break_the_secret_readers(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "any"
    path.write_bytes(data)
    path.chmod(0o600)
    refused("file.malformed", load_identity, path)
    try:
        assert len(load_psk(path)) == 32
    except OperatorError as error:
        assert error.code == "file.malformed"


# ---- PSK


def test_a_psk_as_wg_writes_it(tmp_path: Path) -> None:
    path = tmp_path / "psk"
    path.touch(mode=0o600)
    key = os.urandom(32)
    path.write_bytes(base64.b64encode(key) + b"\n")
    with load_psk(path).expose() as view:
        assert view == key
    for bad in (b"A" * 43 + b"=", base64.b64encode(key[:31]), b"secret!", base64.b64encode(key) * 2):
        path.write_bytes(bad)
        refused("file.malformed", load_psk, path)
    path.chmod(0o644)
    refused("file.mode", load_psk, path)


# ---- peer files


def test_a_peer_file_comes_back() -> None:
    read = parse_peer(PARIS_FILE, Path("x"))
    assert (read.name, read.endpoints, read.identity) == ("paris", ENDPOINTS, PARIS.public)
    assert PARIS.public.fingerprint.hex()[:48] in PARIS_FILE.decode()
    assert max(map(len, PARIS_FILE.splitlines())) <= 72
    assert not any(seed in PARIS_FILE or base64.b64encode(seed)[:40] in PARIS_FILE for seed in seeds_of(PARIS))


def test_mail_around_it_does_no_harm() -> None:
    mail = b"Hello,\n\nhere it is:\n\n" + PARIS_FILE.replace(b"\n", b"\r\n") + b"\r\n-- \nParis\n"
    assert parse_peer(mail, Path("x")).identity == PARIS.public
    assert peer_block(mail, Path("x")) == PARIS_FILE


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b"Name: paris", b"Name: berlin"),
        (b"192.0.2.1", b"192.0.2.9"),
        (b":7420, [", b":7421, ["),
        (b", gw.example:1", b""),
        (b"Version: 1", b"Version: 2"),
        (b"Name: paris\n", b""),
        (b"Name: paris\n", b"Name: paris\nName: paris\n"),
        (b"Name: paris\n", b"Name: paris\nExtra: x\n"),
        (b"Name: paris", b"Name: ../x"),
        (b"Name: paris", b"Name: \xff"),
        (b"gw.example:1", b", ".join([b"gw.example:1"] * 17)),
        (PARIS.public.fingerprint.hex()[:48].encode(), BERLIN.public.fingerprint.hex()[:48].encode()),
        (b"-----END", b"----END"),
        (b"-----BEGIN QHYBRIDD PEER", b"-----BEGIN QHYBRIDD IDENTITY"),
        (PARIS_FILE.splitlines()[20], b""),
        (PARIS_FILE.splitlines()[20], PARIS_FILE.splitlines()[20].swapcase()),
        (PARIS_FILE.splitlines()[-3], PARIS_FILE.splitlines()[-3].swapcase()),
    ],
    ids=itertools.count(),  # the same in every process, and these hold random bytes
)
def test_a_changed_peer_file_is_refused(old: bytes, new: bytes) -> None:
    assert old in PARIS_FILE
    refused("file.malformed", parse_peer, PARIS_FILE.replace(old, new), Path("x"))


def test_anothers_keys_under_this_name_are_refused() -> None:
    head, blank, _ = PARIS_FILE.partition(b"\n\n")
    forged = head + blank + BERLIN_FILE.partition(b"\n\n")[2]
    refused("file.malformed", parse_peer, forged, Path("x"))


def test_a_peer_file_is_bounded() -> None:
    refused("file.malformed", parse_peer, PARIS_FILE + b"\n" * MAX_PEER_FILE, Path("x"))


@settings(deadline=None)
@given(st.data())
def test_no_mutation_is_taken(data: st.DataObject) -> None:
    """Cut, repeated and altered files: refused, or they say exactly what was signed."""
    at = data.draw(st.integers(0, len(PARIS_FILE) - 1))
    end = data.draw(st.integers(at, min(len(PARIS_FILE), at + 80)))
    middle = data.draw(st.binary(max_size=20) | st.just(PARIS_FILE[at:end] * 2))
    try:
        read = parse_peer(PARIS_FILE[:at] + middle + PARIS_FILE[end:], Path("x"))
    except OperatorError as error:
        assert error.code == "file.malformed"
    else:
        assert (read.name, read.endpoints, read.identity) == ("paris", ENDPOINTS, PARIS.public)


@given(st.binary(max_size=400))
def test_no_bytes_are_a_peer_file(data: bytes) -> None:
    refused("file.malformed", parse_peer, data, Path("x"))
    framed = b"-----BEGIN QHYBRIDD PEER-----\n" + data + b"\n-----END QHYBRIDD PEER-----\n"
    refused("file.malformed", parse_peer, framed, Path("x"))


# ---- pins


def peers_of(directory: Path) -> dict[str, PeerConfig]:
    found: dict[str, tuple[Path, ...]] = {}
    for path in sorted(directory.glob("*.peer")):
        name = path.name.partition(".")[0]
        found[name] = (*found.get(name, ()), path)
    return {name: PeerConfig(name, files=files) for name, files in found.items()}


def test_pins_are_stored_and_loaded(tmp_path: Path) -> None:
    directory = tmp_path / "peers"
    path = store_peer(directory, "paris", b"text\n" + PARIS_FILE, beside=False)
    assert path == directory / "paris.peer"
    assert path.read_bytes() == PARIS_FILE
    assert load_pins(peers_of(directory), directory) == {
        "paris": (Pin(PARIS.public.fingerprint, PARIS.public, ENDPOINTS, path),)
    }


def test_a_second_pin_needs_to_be_meant(tmp_path: Path) -> None:
    store_peer(tmp_path, "paris", PARIS_FILE, beside=False)
    assert "--next" in refused_store(tmp_path, "paris", BERLIN_FILE).hint
    assert store_peer(tmp_path, "paris", BERLIN_FILE, beside=True) == tmp_path / "paris.next.peer"
    pins = load_pins(peers_of(tmp_path), tmp_path)["paris"]
    assert {pin.fingerprint for pin in pins} == {PARIS.public.fingerprint, BERLIN.public.fingerprint}


def refused_store(directory: Path, name: str, data: bytes) -> OperatorError:
    with pytest.raises(OperatorError) as caught:
        store_peer(directory, name, data, beside=False)
    assert caught.value.code == "file.exists"
    return caught.value


def test_one_identity_is_one_peer(tmp_path: Path) -> None:
    store_peer(tmp_path, "paris", PARIS_FILE, beside=False)
    assert "known already" in refused_store(tmp_path, "other", PARIS_FILE).message
    (tmp_path / "other.peer").write_bytes(PARIS_FILE)
    with pytest.raises(ConfigError, match="the same identity"):
        load_pins(peers_of(tmp_path), tmp_path)


def test_a_revoked_pin_is_refused_whatever_names_it(tmp_path: Path) -> None:
    store_peer(tmp_path, "paris", PARIS_FILE, beside=False)
    [(_, pin)], _ = stored_pins(tmp_path)
    place = revoke_pin(pin, tmp_path)
    assert place.read_bytes() == PARIS_FILE
    assert stored_pins(tmp_path) == ([], ())
    with pytest.raises(OperatorError) as caught:
        store_peer(tmp_path, "again", PARIS_FILE, beside=False)
    assert caught.value.code == "peer.revoked"
    (tmp_path / "again.peer").write_bytes(PARIS_FILE)  # by hand
    assert load_pins(peers_of(tmp_path), tmp_path) == {"again": ()}
    place.unlink()
    assert len(load_pins(peers_of(tmp_path), tmp_path)["again"]) == 1


def test_every_damaged_peer_file_is_named(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / f"{name}.peer").write_bytes(PARIS_FILE[:500])
    with pytest.raises(ConfigError) as caught:
        load_pins(peers_of(tmp_path), tmp_path)
    assert [error.where for error in caught.value.problems] == [str(tmp_path / "a.peer"), str(tmp_path / "b.peer")]


def test_a_pin_that_others_can_change_is_refused(tmp_path: Path) -> None:
    path = store_peer(tmp_path, "paris", PARIS_FILE, beside=False)
    path.chmod(0o666)
    assert f"chmod 644 {path}" in refused("file.mode", load_pin, path).message


# ---- the file layer


def test_bounds_and_kinds(tmp_path: Path) -> None:
    path = tmp_path / "file"
    create_file(path, b"x" * 10, 0o600)
    assert read_trusted(path, 10) == b"x" * 10
    refused("file.malformed", read_trusted, path, 9)
    refused("file.malformed", read_secret, path, 9)
    replace_file(path, b"", 0o600)
    assert read_trusted(path, 9) == b""
    refused("file.malformed", read_secret, path, 9)


def test_a_failed_write_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "x").touch()
    refused("file.unreadable", replace_file, tmp_path / "taken", b"data", 0o600)
    assert [path.name for path in tmp_path.iterdir()] == ["taken"]
