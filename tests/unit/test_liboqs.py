"""KEMs of an installed liboqs, and what may never happen where there is none."""

import copy
import json
import os
import pickle
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from qhybridd.crypto import kem, liboqs
from qhybridd.crypto.kem import ML_KEM_768, ML_KEM_1024, Kem
from qhybridd.crypto.liboqs import SCHEMES, LiboqsKem, PrivateKey
from qhybridd.errors import HostError, PeerError, ProgramError
from qhybridd.protocol.messages import MAX_CT_BYTES, MAX_EK_BYTES

INSTALLED = liboqs.find_library() is not None
with_liboqs = pytest.mark.skipif(
    not INSTALLED, reason="liboqs is not installed: run `make liboqs` or deploy/build-liboqs"
)
OFFERED = [scheme for scheme in liboqs.available() if scheme.name not in {"ML-KEM-768", "ML-KEM-1024"}]
every = pytest.mark.parametrize("scheme", OFFERED, ids=lambda scheme: scheme.name)

# ---- the table


def test_codes_names_and_ranges() -> None:
    names = [scheme.name for scheme in SCHEMES.values()]
    assert len(set(names)) == len(names) == 2 + 6 + 12 + 10 + 1
    families = {0x02: "ML-KEM", 0x10: "HQC", 0x11: ("FrodoKEM", "eFrodoKEM"), 0x12: "Classic-McEliece", 0x13: "sntrup"}
    for code, scheme in SCHEMES.items():
        assert scheme.code == code
        assert scheme.name.startswith(families[code >> 8])
        assert scheme.slow == (code >> 8 != 0x02)


def test_codes_never_move() -> None:
    """Wire codes outlive versions: these may get company, and never change."""
    pinned = {
        0x1001: "HQC-128",
        0x1003: "HQC-256",
        0x1013: "HQC-5",
        0x1101: "FrodoKEM-640-AES",
        0x1106: "FrodoKEM-1344-SHAKE",
        0x1181: "eFrodoKEM-640-AES",
        0x1186: "eFrodoKEM-1344-SHAKE",
        0x1201: "Classic-McEliece-348864",
        0x120A: "Classic-McEliece-8192128f",
        0x1301: "sntrup761",
    }
    assert {code: SCHEMES[code].name for code in pinned} == pinned


def test_every_share_fits_the_protocol() -> None:
    assert max(scheme.ek_bytes for scheme in SCHEMES.values()) <= MAX_EK_BYTES
    assert max(scheme.ct_bytes for scheme in SCHEMES.values()) <= MAX_CT_BYTES


# ---- nothing is spawned, fetched or printed. In a process of its own, since an import happens once.

WATCH = """
import json, sys
events = []
watched = ("subprocess.Popen", "os.system", "os.posix_spawn", "os.exec", "os.fork", "os.forkpty", "os.spawn", "socket.")
sys.addaudithook(lambda event, _: events.append(event) if event.startswith(watched) else None)
outcome = {}
try:
    BODY
except Exception as error:
    outcome = {"code": getattr(error, "code", repr(error)), "hint": getattr(error, "hint", ""), "text": str(error)}
print(json.dumps({**outcome, "events": events, "imported": "oqs" in sys.modules}))
"""


def watch(body: str, prefix: Path) -> dict[str, object]:
    """Run `body` in a process that looks for liboqs under `prefix` only; what it did. Fails if it printed anything."""
    env = {**os.environ, "OQS_INSTALL_PATH": str(prefix), "HOME": str(prefix)}
    done = subprocess.run(
        [sys.executable, "-c", WATCH.replace("BODY", body)], env=env, capture_output=True, timeout=30, check=False
    )
    assert done.stderr == b""
    assert done.stdout.count(b"\n") == 1, done.stdout
    result: dict[str, object] = json.loads(done.stdout)
    return result


ASK = "from qhybridd.crypto import kem; kem.by_name('HQC-128')"


def test_the_watch_sees_a_process(tmp_path: Path) -> None:
    assert watch("import subprocess; subprocess.run(['true'])", tmp_path)["events"]
    assert watch("import ctypes.util; ctypes.util.find_library('oqs')", tmp_path)["events"]


def test_without_the_library_nothing_happens(tmp_path: Path) -> None:
    seen = watch(ASK, tmp_path)
    assert (seen["code"], seen["events"], seen["imported"]) == ("host.liboqs", [], False)
    assert "deploy/build-liboqs" in str(seen["hint"])
    assert "is not installed" in str(seen["text"])


def test_listing_without_the_library_gives_the_built_in_ones(tmp_path: Path) -> None:
    seen = watch("from qhybridd.crypto import kem; outcome['names'] = [k.name for k in kem.available()]", tmp_path)
    assert (seen["names"], seen["events"], seen["imported"]) == (["ML-KEM-768", "ML-KEM-1024"], [], False)


@pytest.mark.parametrize("content", [b"", b"no library", b"\x7fELF" + bytes(60)])
def test_a_file_that_is_no_library_is_as_good_as_none(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "lib").mkdir()
    (tmp_path / "lib" / "liboqs.so").write_bytes(content)
    seen = watch(ASK, tmp_path)
    assert (seen["code"], seen["events"], seen["imported"]) == ("host.liboqs", [], False)
    assert "is not installed" in str(seen["text"])


@pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler to make a wrong library with")
@pytest.mark.parametrize("function", ["OQS_KEM_new", "OQS_something"])
def test_a_library_that_does_not_fit_is_refused(tmp_path: Path, function: str) -> None:
    (tmp_path / "lib").mkdir()
    subprocess.run(
        ["cc", "-shared", "-fPIC", "-x", "c", "-", "-o", tmp_path / "lib" / "liboqs.so"],
        input=f"int {function}(void) {{ return 0; }}".encode(),
        check=True,
    )
    seen = watch(ASK, tmp_path)
    assert (seen["code"], seen["events"], seen["imported"]) == ("host.liboqs", [], False)


def test_an_import_that_finds_nothing_cannot_install(tmp_path: Path) -> None:
    """The second line: even where the search was wrong, the module's installer does not run."""
    body = f"from pathlib import Path; from qhybridd.crypto import liboqs; liboqs._import_oqs(Path({str(tmp_path)!r}))"
    seen = watch(body, tmp_path)
    assert (seen["code"], seen["events"], seen["imported"]) == ("host.liboqs", [], False)
    assert "Cannot install" in str(seen["text"])


def test_the_import_leaves_the_process_as_it_was(tmp_path: Path) -> None:
    body = (
        "import os, ctypes.util; before = (ctypes.util.find_library, dict(os.environ))\n"
        "    from pathlib import Path; from qhybridd.crypto import liboqs\n"
        "    try: liboqs._import_oqs(Path('/nonexistent'))\n"
        "    except Exception as error: outcome['refused'] = str(error)\n"
        "    outcome['same'] = before == (ctypes.util.find_library, dict(os.environ))"
    )
    seen = watch(body, tmp_path)
    assert seen["refused"]
    assert seen["same"] is True


def test_where_the_library_is_looked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OQS_INSTALL_PATH", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    places = [path.parent for path in liboqs._candidates()]
    assert places[:2] == [tmp_path / "_oqs" / "lib", tmp_path / "_oqs" / "lib64"]
    assert {Path("/usr/local/lib"), Path("/usr/lib")} <= set(places)
    monkeypatch.delenv("HOME")
    assert {path.parts[1] for path in liboqs._candidates()} == {"usr"}
    (tmp_path / "lib").mkdir()
    for name in ("liboqs.so.7", "liboqs.so.0.13.0"):
        (tmp_path / "lib" / name).write_bytes(b"none")
    monkeypatch.setenv("OQS_INSTALL_PATH", str(tmp_path))
    assert [path.name for path in liboqs._candidates()][:3] == ["liboqs.so", "liboqs.so.7", "liboqs.so.0.13.0"]
    assert all(path.is_relative_to(tmp_path) for path in liboqs._candidates())
    assert liboqs.find_library() is None


def test_an_import_that_fails_is_the_hosts_fault(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.split(".")[0] == "oqs"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setenv("OQS_INSTALL_PATH", str(tmp_path))
    monkeypatch.delenv("PYOQS_VERSION", raising=False)
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: pytest.fail("a process is started"))
    for version in (None, "0.16.0"):
        if version is not None:
            monkeypatch.setenv("PYOQS_VERSION", version)
        with pytest.raises(HostError) as caught:
            liboqs._import_oqs(tmp_path / "liboqs.so")
        assert caught.value.code == "host.liboqs"
        assert os.environ.get("PYOQS_VERSION") == version


@with_liboqs
def test_a_library_that_fails_is_the_hosts_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(LiboqsKem, "_call", lambda *_: -1)
    with pytest.raises(HostError) as caught:
        liboqs.by_code(0x1181).generate()
    assert caught.value.code == "host.liboqs"


@with_liboqs
def test_with_the_library_nothing_is_spawned_or_printed() -> None:
    library = liboqs.find_library()
    assert library is not None
    body = "from qhybridd.crypto import kem; outcome['names'] = [k.name for k in kem.available()]"
    seen = watch(body, library.parents[1])
    assert (seen["events"], seen["imported"]) == ([], True)
    names = seen["names"]
    assert isinstance(names, list)
    assert len(names) > 2


# ---- both providers' ML-KEM


@with_liboqs
@pytest.mark.parametrize("code", [ML_KEM_768, ML_KEM_1024])
def test_both_providers_speak_one_ml_kem(code: int) -> None:
    """Key pair in one, encapsulation in the other: all four directions."""
    providers: tuple[Kem, Kem] = (kem.by_code(code), liboqs.by_code(code))
    assert {scheme.provider.split()[0] for scheme in providers} == {"cryptography", "liboqs"}
    assert len({(scheme.name, scheme.ek_bytes, scheme.ct_bytes, scheme.secret_bytes) for scheme in providers}) == 1
    for mine in providers:
        for theirs in providers:
            private, ek = mine.generate()
            secret, ct = theirs.encapsulate(ek)
            assert mine.decapsulate(private, ct) == secret
            mine.wipe(private)


@with_liboqs
@pytest.mark.parametrize("code", [ML_KEM_768, ML_KEM_1024])
def test_both_providers_refuse_a_coefficient_over_the_modulus(code: int) -> None:
    for scheme in (kem.by_code(code), liboqs.by_code(code)):
        with pytest.raises(PeerError) as caught:
            scheme.encapsulate(b"\xff" * scheme.ek_bytes)
        assert caught.value.code == "peer.malformed"


# ---- the others


@with_liboqs
def test_every_family_is_offered() -> None:
    for family in ("HQC", "eFrodoKEM", "Classic-McEliece"):
        assert any(scheme.name.startswith(family) for scheme in OFFERED), family
    assert list(kem.available()) == [kem.by_code(ML_KEM_768), kem.by_code(ML_KEM_1024), *OFFERED]


@every
def test_round_trip_tampering_and_lengths(scheme: LiboqsKem) -> None:
    """One key pair for all of it: a key of Classic McEliece takes a tenth of a second."""
    assert kem.by_name(scheme.name.upper()) is scheme
    private, ek = scheme.generate()
    secret, ct = scheme.encapsulate(ek)
    assert (len(ek), len(ct), len(secret)) == (scheme.ek_bytes, scheme.ct_bytes, scheme.secret_bytes)
    assert scheme.decapsulate(private, ct) == secret
    assert not secret.is_zero
    for at in (0, len(ct) // 2, len(ct) - 1):
        # The high bit of the last byte is padding in some schemes; the low bit never is.
        tampered = ct[:at] + bytes([ct[at] ^ 1]) + ct[at + 1 :]
        rejected = scheme.decapsulate(private, tampered)
        assert rejected != secret
        assert rejected == scheme.decapsulate(private, tampered)
    noise = os.urandom(len(ct) - 1) + b"\0"
    assert scheme.decapsulate(private, noise) != secret
    assert scheme.decapsulate(private, noise) != scheme.decapsulate(private, bytes([noise[0] ^ 1]) + noise[1:])
    for size in (0, 1, scheme.ct_bytes - 1, scheme.ct_bytes + 1):
        with pytest.raises(PeerError) as caught:
            scheme.decapsulate(private, bytes(size))
        assert caught.value.code == "peer.malformed"
    for size in (0, 1, scheme.ek_bytes - 1, scheme.ek_bytes + 1):
        with pytest.raises(PeerError) as caught:
            scheme.encapsulate(bytes(size))
        assert caught.value.code == "peer.malformed"
    scheme.wipe(private)


@with_liboqs
def test_set_padding_bits_are_refused() -> None:
    """1,547 bits in 194 bytes: the only ciphertext here that has padding."""
    scheme = kem.by_name("Classic-McEliece-6960119f")
    private, ek = scheme.generate()
    _, ct = scheme.encapsulate(ek)
    with pytest.raises(PeerError) as caught:
        scheme.decapsulate(private, ct[:-1] + bytes([ct[-1] | 0x80]))
    assert caught.value.code == "peer.malformed"


@every
@settings(max_examples=5, suppress_health_check=[HealthCheck.too_slow, HealthCheck.large_base_example], deadline=None)
@given(fill=st.integers(0, 255))
def test_any_key_gives_a_secret_or_blames_the_peer(scheme: LiboqsKem, fill: int) -> None:
    try:
        secret, _ = scheme.encapsulate(bytes([fill]) * scheme.ek_bytes)
    except PeerError as error:
        assert error.code == "peer.malformed"
    else:
        assert len(secret) == scheme.secret_bytes


@with_liboqs
def test_a_wiped_key_is_zero_and_unusable() -> None:
    scheme = liboqs.by_code(0x1181)
    private, ek = scheme.generate()
    assert isinstance(private, PrivateKey)
    _, ct = scheme.encapsulate(ek)
    assert len(private.secret) == scheme.key_bytes == 19888
    assert not private.secret.is_zero
    scheme.wipe(private)
    assert private.secret.is_zero
    scheme.wipe(private)
    with pytest.raises(ProgramError):
        scheme.decapsulate(private, ct)


@with_liboqs
def test_a_wipe_during_decapsulation_does_no_harm() -> None:
    """The daemon may cancel an action whose thread still decapsulates: no crash, and no secret is right by then."""
    scheme = liboqs.by_code(0x1003)
    private, ek = scheme.generate()
    _, ct = scheme.encapsulate(ek)
    started = threading.Event()

    def work() -> None:
        started.set()
        with pytest.raises(ProgramError):
            while True:
                scheme.decapsulate(private, ct)

    thread = threading.Thread(target=work)
    thread.start()
    assert started.wait(10)
    scheme.wipe(private)
    thread.join(10)
    assert not thread.is_alive()


@with_liboqs
def test_a_private_key_shows_and_gives_nothing_away() -> None:
    scheme = liboqs.by_code(0x1001)
    private, _ = scheme.generate()
    assert repr(private) == "<PrivateKey HQC-128>"
    for duplicate in (copy.deepcopy, pickle.dumps):
        with pytest.raises(ProgramError):
            duplicate(private)


@with_liboqs
def test_a_private_key_of_another_kem_is_a_defect() -> None:
    scheme = liboqs.by_code(0x1181)
    private, _ = kem.by_code(ML_KEM_768).generate()
    other, _ = liboqs.by_code(0x1183).generate()
    for wrong in (private, other, None):
        with pytest.raises(ProgramError):
            scheme.decapsulate(wrong, bytes(scheme.ct_bytes))


@with_liboqs
def test_a_kem_that_the_library_lacks() -> None:
    """HQC-128 and HQC-1 are one name in two versions: no liboqs has both."""
    lacking = [code for code in SCHEMES if code not in {scheme.code for scheme in liboqs.available()}]
    assert lacking
    with pytest.raises(HostError) as caught:
        kem.by_code(lacking[0])
    assert caught.value.code == "host.liboqs"
    assert SCHEMES[lacking[0]].name in caught.value.message


@with_liboqs
def test_classic_mceliece_works_in_a_thread() -> None:
    """Its key generation wants megabytes of stack."""
    scheme = kem.by_name("Classic-McEliece-8192128f")
    results = []
    thread = threading.Thread(target=lambda: results.append(scheme.generate()))
    thread.start()
    thread.join(60)
    private, ek = results[0]
    secret, ct = scheme.encapsulate(ek)
    assert scheme.decapsulate(private, ct) == secret


# ---- the documentation


def test_the_documentation_has_the_table() -> None:
    text = (Path(__file__).parents[2] / "docs" / "kems.md").read_text()
    rows = [line for line in text.splitlines() if line.startswith("| 0x")]
    assert rows == [
        f"| 0x{scheme.code:04x} | {scheme.name} | {scheme.ek_bytes} | {scheme.ct_bytes} | {scheme.secret_bytes} |"
        for _, scheme in sorted(SCHEMES.items())
    ]
