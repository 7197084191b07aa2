"""The command line as an operator meets it: what it prints, what it returns, what it never does."""

import io
import json
import os
import pty
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from qhybridd.cli import main as main_module
from qhybridd.cli.main import COMMANDS, main
from qhybridd.crypto.identity import Identity
from qhybridd.errors import CODES, OperatorError, PeerError
from qhybridd.peerfile import export_peer
from qhybridd.status import GatewayStatus, Reloaded, Status, TunnelStatus, answer, encode_line, refusal
from tests.unit.test_config_xfrm import esp

SHORT = "bb6n-lyim-qrnz-y2c6"
STATUS = Status(
    GatewayStatus("ab" * 48, SHORT, "0.1.0", 9.0),
    [],
    [
        TunnelStatus(
            name="wan",
            peer="berlin",
            interface="wg0",
            state="closed",
            why="no key has become live yet",
            level=None,
            simulated=False,
            epoch=0,
            phase="idle",
            key_age_s=None,
            expires_in_s=None,
            last_handshake_s=None,
            renew="wait",
            period_s=120.0,
            expiry_s=300.0,
            rotations=0,
            failures=0,
            rx_bytes=0,
            tx_bytes=0,
        )
    ],
)


class Terminal:
    """One gateway's directory, and commands in it."""

    def __init__(self, path: Path, capture: pytest.CaptureFixture[str]) -> None:
        self.path = path
        self.config = path / "q.toml"
        self.socket = path / "run" / "control.sock"
        self._capture = capture
        path.mkdir(exist_ok=True)
        self.config.write_text('[gateway]\nidentity = "identity.key"\npeers = "peers"\nruntime = "run"\n')
        self.out = self.err = ""

    def run(self, *words: str) -> int:
        code = main(["--config", str(self.config), *words])
        self.out, self.err = self._capture.readouterr()
        assert "Traceback" not in self.err
        return code


@pytest.fixture
def paris(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Terminal:
    return Terminal(tmp_path / "paris", capsys)


@pytest.fixture
def berlin(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Terminal:
    return Terminal(tmp_path / "berlin", capsys)


@contextmanager
def daemon(path: Path, *answers: bytes) -> Iterator[list[bytes]]:
    """A daemon that gives the answers in turn, the last one again and again, and keeps what it was asked."""
    heard: list[bytes] = []
    path.parent.mkdir(exist_ok=True)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.bind(str(path))
    listener.listen(4)
    listener.settimeout(0.05)
    stop = threading.Event()

    def work() -> None:
        while not stop.is_set():
            try:
                connection, _ = listener.accept()
            except TimeoutError:
                continue
            with connection:
                line = connection.recv(1 << 16)
                if line:
                    heard.append(line)
                    connection.sendall(answers[min(len(heard), len(answers)) - 1])

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield heard
    finally:
        stop.set()
        thread.join(5)
        listener.close()
        path.unlink()


# ---- help


def test_help_lists_every_command_and_imports_none(paris: Terminal) -> None:
    script = (
        "import sys; from qhybridd.cli.main import main; main(['--help']); "
        "print([m for m in ('rich', 'cryptography', 'msgspec', 'numpy', 'asyncio', 'oqs') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.endswith("[]\n"), done.stdout.splitlines()[-1]
    for name, entry in COMMANDS.items():
        assert f"  {name}" in done.stdout
        assert entry.help in " ".join(done.stdout.split())


@pytest.mark.parametrize(
    "name", [*COMMANDS, "peer export", "peer add", "peer list", "peer revoke", "guard show", "guard remove"]
)
def test_each_command_explains_itself_in_80_columns(paris: Terminal, name: str) -> None:
    assert paris.run(*name.split(), "--help") == 0
    assert paris.out.startswith(f"Usage: qhybridd {name}")
    assert max(map(len, paris.out.splitlines())) <= 80
    assert len(paris.out) > 150


def test_wrong_usage_is_2(paris: Terminal) -> None:
    for words in (["nonsense"], ["rotate"], ["status", "--what"], ["peer", "nonsense"]):
        assert paris.run(*words) == 2
        assert "Usage:" in paris.err


# ---- onboarding, with the real files


def onboard(here: Terminal, there: Terminal, name: str, *options: str) -> None:
    """`there` exports itself, `here` adds it."""
    assert there.run("peer", "export", "--name", name, "-e", "192.0.2.1:7420", *options) == 0
    file = here.path / "sent.txt"
    file.write_text(f"Hello\n{there.out}Bye\n")


def test_two_gateways_get_to_know_each_other(paris: Terminal, berlin: Terminal) -> None:
    assert paris.run("keygen") == 0
    short = paris.out.split("fingerprint")[1].split()[0]
    assert berlin.run("keygen") == 0
    onboard(berlin, paris, "paris")
    assert f"read aloud: {short}" in paris.err
    assert berlin.run("peer", "add", str(berlin.path / "sent.txt")) == 0
    assert short in berlin.out
    assert berlin.run("peer", "list") == 0
    assert berlin.out == f"paris  {short}  192.0.2.1:7420\n"
    assert berlin.run("peer", "add", str(berlin.path / "sent.txt")) == 1
    assert "[file.exists]" in berlin.err


def test_keygen_does_not_overwrite(paris: Terminal) -> None:
    assert paris.run("keygen") == 0
    before = (paris.path / "identity.key").read_bytes()
    assert paris.run("keygen") == 1
    assert "--force" in paris.err
    assert (paris.path / "identity.key").read_bytes() == before
    assert paris.run("keygen", "--force") == 0
    assert (paris.path / "identity.key").read_bytes() != before


def test_a_peer_file_from_standard_input(paris: Terminal, berlin: Terminal, monkeypatch: pytest.MonkeyPatch) -> None:
    paris.run("keygen")
    onboard(berlin, paris, "paris")
    data = (berlin.path / "sent.txt").read_bytes()
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data)))
    assert berlin.run("peer", "add", "-", "--name", "south") == 0
    assert (berlin.path / "peers" / "south.peer").exists()


def test_an_identity_is_rolled_over(paris: Terminal, berlin: Terminal) -> None:
    paris.run("keygen")
    onboard(berlin, paris, "paris")
    assert berlin.run("peer", "add", str(berlin.path / "sent.txt")) == 0
    old = paris.out.split()[-1]
    new_key = str(paris.path / "new.key")
    assert paris.run("keygen", "-o", new_key) == 0
    onboard(berlin, paris, "paris", "--identity", new_key)
    assert berlin.run("peer", "add", str(berlin.path / "sent.txt")) == 1
    assert "--next" in berlin.err
    assert berlin.run("peer", "add", "--next", str(berlin.path / "sent.txt")) == 0
    berlin.run("peer", "list")
    assert len(berlin.out.splitlines()) == 2
    assert berlin.run("peer", "revoke", "paris") == 1
    assert "several pins" in berlin.err
    first = (berlin.path / "peers" / "paris.peer").read_text()
    short = berlin.out or old
    assert short
    assert berlin.run("peer", "revoke", "paris", "--fingerprint", "zz") == 1
    assert "no such pin" in berlin.err
    digits = first.split("Fingerprint:\n ")[1][:12]
    assert berlin.run("peer", "revoke", "paris", "--fingerprint", digits) == 0
    assert "next start" in berlin.out
    berlin.run("peer", "list")
    assert [line.split()[-1] for line in berlin.out.splitlines()] == ["(paris.next.peer)", "revoked"]


def test_a_revocation_reaches_the_daemon(paris: Terminal, berlin: Terminal) -> None:
    paris.run("keygen")
    onboard(berlin, paris, "paris")
    berlin.run("peer", "add", str(berlin.path / "sent.txt"))
    with daemon(berlin.socket, encode_line(answer())) as heard:
        assert berlin.run("peer", "revoke", "paris") == 0
    asked = json.loads(heard[0])
    assert (asked["verb"], asked["peer"], len(asked["fingerprint"])) == ("revoke", "paris", 96)
    assert "closed its tunnels" in berlin.out


def test_a_broken_tunnel_does_not_keep_a_peer_out(paris: Terminal, berlin: Terminal) -> None:
    """The peers are added before the tunnels to them are right."""
    paris.run("keygen")
    onboard(berlin, paris, "paris")
    berlin.config.write_text(berlin.config.read_text() + "[tunnel.wan]\nperiod = 3\n")
    assert berlin.run("peer", "add", str(berlin.path / "sent.txt")) == 0


# ---- check


def test_check_shows_all_problems_and_changes_nothing(paris: Terminal) -> None:
    paris.config.write_text('[gateway]\nmark = "x"\nidentiy = "y"\n[tunnel.wan]\nperiod = 120\n')
    before = sorted(paris.path.rglob("*"))
    assert paris.run("check", "--syntax") == 1
    assert paris.err.count("error:") == 8
    assert f'   at: {paris.config}:3\n  fix: Did you mean "identity"?' in paris.err
    assert "8 problems" in paris.err
    assert sorted(paris.path.rglob("*")) == before


def test_check_looks_at_the_secret_files(paris: Terminal) -> None:
    paris.run("keygen")
    (paris.path / "peers").mkdir()
    assert paris.run("check") == 0
    assert "no tunnel yet" in paris.out
    (paris.path / "identity.key").chmod(0o640)
    assert paris.run("check") == 1
    assert f"chmod 600 {paris.path}/identity.key" in paris.err


def test_the_own_identity_is_no_peer(paris: Terminal) -> None:
    paris.run("keygen")
    onboard(paris, paris, "paris")
    assert paris.run("peer", "add", str(paris.path / "sent.txt")) == 1
    assert "own identity" in paris.err
    # `check` says so too of a file that came there in another way.
    (paris.path / "peers").mkdir()
    (paris.path / "peers" / "rome.peer").write_bytes((paris.path / "sent.txt").read_bytes())
    (paris.path / "peers" / "rome.peer").chmod(0o644)
    assert paris.run("check") == 1
    assert "own identity" in paris.err


LINKED = """
[peer.berlin]
[tunnel.wan]
peer = "berlin"
interface = "wg0"
wireguard_peer = "eHh4eHh4eHh4eHh4eHh4eHh4eHh4eHh4eHh4eHh4eHg="
protects = ["10.2.0.0/16"]
qkd = "fibre"
simulated = true
[tunnel.office]
peer = "berlin"
interface = "wg1"
wireguard_peer = "eXl5eXl5eXl5eXl5eXl5eXl5eXl5eXl5eXl5eXl5eXk="
protects = ["10.3.0.0/16"]
least = "pqc"
qkd = "fibre"
simulated = true
[tunnel.plain]
peer = "berlin"
interface = "wg2"
wireguard_peer = "enp6enp6enp6enp6enp6enp6enp6enp6enp6enp6eno="
protects = ["10.4.0.0/16"]
least = "pqc"
[link.fibre]
peer = "berlin"
role = "bob"
psk = "fibre.psk"
photons = "192.0.2.1:7421"
[link.fibre.simulation.fibre]
length_km = 50.0
"""


def test_check_says_what_an_xfrm_tunnel_is(paris: Terminal) -> None:
    text = esp("encapsulation = 4500", 'interface = "ipsec0"', "if_id = 7", "reqid = 0x51000007", 'period = "1s"')
    paris.config.write_text(text)
    assert paris.run("check", "--syntax") == 0
    assert (
        "  tunnel wan: ESP in UDP 4500 192.0.2.1 to 192.0.2.2 through ipsec0 (if_id 7) to berlin, tunnel mode, "
        "aes-256-gcm, reqid 0x51000007, a key every 1s, expiry 5m, at least pqc" in paris.out
    )


def test_check_says_what_each_tunnel_rests_on(paris: Terminal) -> None:
    paris.config.write_text(LINKED)
    assert paris.run("check", "--syntax") == 0
    rests = [line for line in paris.out.splitlines() if line.startswith("    rests on")]
    assert [line.rpartition(";")[2] for line in rests] == [
        " without those it closes",
        " without those it falls back to pqc",
        " no QKD",
    ]
    assert ["SIMULATED" in line for line in rests] == [True, True, False]
    worst = [line.strip() for line in paris.out.splitlines() if line.startswith("    at worst")]
    assert worst == [
        "at worst closed 5m after the peer is gone, closed 1h05m after QKD is",
        "at worst closed 5m after the peer is gone, without a QKD part 1h05m after QKD is",
        "at worst closed 5m after the peer is gone",
    ]
    assert "link fibre: bob here, alice is berlin, photons to 192.0.2.1:7421" in paris.out
    assert "SIMULATED: 1000 MHz over 50 km" in paris.out
    assert "s of light give about" in paris.out and "they last 1h" in paris.out


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("length_km = 50.0", "length_km = 300.0", "NO KEY: no block"),
        ("length_km = 50.0", "length_km = 100.0", "LESS than until"),
    ],
)
def test_check_says_when_a_link_gives_nothing(paris: Terminal, old: str, new: str, told: str) -> None:
    text = LINKED.replace('psk = "fibre.psk"', 'psk = "fibre.psk"\nmax_age = "2s"')
    paris.config.write_text(text.replace(old, new))
    assert paris.run("check", "--syntax") == 0
    assert told in paris.out


def test_check_looks_at_the_psk_of_a_link(paris: Terminal) -> None:
    paris.run("keygen")
    paris.config.write_text(paris.config.read_text() + LINKED.replace("[peer.berlin]\n", ""))
    (paris.path / "fibre.psk").write_text("short\n")
    (paris.path / "fibre.psk").chmod(0o644)
    (paris.path / "peers").mkdir(exist_ok=True)
    (paris.path / "peers/berlin.peer").write_text(export_peer(Identity.generate(), "berlin", ()))
    assert paris.run("check") == 1
    assert f"chmod 600 {paris.path}/fibre.psk" in paris.err
    (paris.path / "fibre.psk").chmod(0o600)
    assert paris.run("check") == 1
    assert "[file.malformed]" in paris.err and "fibre.psk" in paris.err


# ---- the daemon's commands


def test_no_daemon_is_3(paris: Terminal) -> None:
    for words in (["status"], ["status", "--json"], ["rotate", "wan"], ["reload"]):
        assert paris.run(*words) == 3
        assert "[control.unreachable]" in paris.err
        assert "systemctl start qhybridd" in paris.err


def test_status(paris: Terminal) -> None:
    with daemon(paris.socket, encode_line(answer(STATUS))):
        assert paris.run("status") == 0
        assert "1 of 1 tunnels CLOSED" in paris.out
        assert "\x1b" not in paris.out
        assert paris.run("status", "--json") == 0
        assert json.loads(paris.out)["tunnels"][0]["state"] == "closed"
        paris.config.write_text("broken")  # a daemon is asked all the same, when its socket is named
        assert main(["--socket", str(paris.socket), "status", "--json"]) == 0


def test_rotate_and_reload(paris: Terminal) -> None:
    replies = [answer(), answer(), answer(Reloaded(["tunnel wan: expiry"], ["mark"])), answer(Reloaded())]
    with daemon(paris.socket, *map(encode_line, replies)) as heard:
        assert paris.run("rotate", "wan") == 0
        assert paris.run("rotate", "wan", "--now") == 0
        assert paris.run("reload") == 0
        assert paris.out == "tunnel wan: expiry\ngateway.mark takes effect at the next start of the daemon.\n"
        assert paris.run("reload") == 0
        assert paris.out == "Nothing changed.\n"
    assert [json.loads(line).get("reset") for line in heard] == [False, True, None, None]


def test_a_refusal_is_shown_with_its_way_out(paris: Terminal) -> None:
    line = encode_line(refusal("tunnel.unknown", "there is no tunnel \x1b[2J", "", "See `qhybridd status`."))
    with daemon(paris.socket, line):
        assert paris.run("rotate", "wam") == 1
    assert paris.err == (
        "error: there is no tunnel \N{REPLACEMENT CHARACTER}[2J [tunnel.unknown]\n  fix: See `qhybridd status`.\n"
    )


def test_the_guard_is_not_removed_under_a_daemon(paris: Terminal) -> None:
    with daemon(paris.socket, b""):
        assert paris.run("guard", "remove", "--yes") == 1
    assert "[control.refused]" in paris.err
    assert "systemctl stop qhybridd" in paris.err


# ---- watching


def start_watch(paris: Terminal, stdout: int) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "qhybridd", "--config", str(paris.config), "status", "--watch"]
    return subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=stdout, stderr=subprocess.PIPE, env={**os.environ, "TERM": "xterm"}
    )


def test_watch_outlives_the_daemon_and_leaves_cleanly(paris: Terminal) -> None:
    """On a real terminal: the picture changes, the daemon goes away, Ctrl-C ends it without a word."""
    leader, follower = pty.openpty()
    try:
        with daemon(paris.socket, encode_line(answer(STATUS))):
            watch = start_watch(paris, follower)
            seen = read_until(leader, b"tunnels CLOSED")
            seen += read_until(leader, b"tunnels CLOSED")
        seen += read_until(leader, b"asking again")
        watch.send_signal(signal.SIGINT)
        _, errors = watch.communicate(timeout=5)
        seen += read_until(leader, b"?25h")
    finally:
        os.close(leader)
        os.close(follower)
    assert (watch.returncode, errors) == (0, b"")
    assert seen.count(b"\x1b[?1049h") == seen.count(b"\x1b[?1049l") == 1  # the terminal's other screen, and back


def read_until(descriptor: int, text: bytes) -> bytes:
    data = b""
    deadline = time.monotonic() + 10
    while text not in data:
        assert time.monotonic() < deadline, data
        data += os.read(descriptor, 1 << 16)
    return data


def test_watch_into_a_pipe_is_plain(paris: Terminal) -> None:
    with daemon(paris.socket, encode_line(answer(STATUS))):
        watch = start_watch(paris, subprocess.PIPE)
        assert watch.stdout is not None
        data = read_until(watch.stdout.fileno(), b"bb6n-lyim-qrnz-y2c6, up") + read_until(
            watch.stdout.fileno(), b"bb6n-lyim-qrnz-y2c6, up"
        )
        watch.send_signal(signal.SIGINT)
        watch.communicate(timeout=5)
    assert watch.returncode == 0
    assert b"\x1b" not in data


# ---- errors


def test_who_is_to_blame_is_said(
    paris: Terminal, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(error: Exception) -> int:
        def raising(*_: object, **__: object) -> None:
            raise error

        monkeypatch.setattr(main_module.cli, "main", raising)
        return main([])

    assert fail(PeerError("peer.mac", "altered")) == 1
    assert capsys.readouterr().err == f"error (peer): altered [peer.mac]\n  fix: {CODES['peer.mac']}\n"
    assert fail(OperatorError("file.missing", "gone", where="/x")) == 1
    assert capsys.readouterr().err.startswith("error: gone [file.missing]\n   at: /x\n")
    assert fail(KeyboardInterrupt()) == 130  # type: ignore[arg-type]
    assert fail(ValueError("a secret text")) == 1
    text = capsys.readouterr().err
    assert "secret text" not in text
    assert "ValueError" in text
    assert "test_cli.py:" in text


def test_debug_shows_the_traceback(paris: Terminal, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(main_module.cli, "main", lambda *_, **__: 1 // 0)
    with pytest.raises(ZeroDivisionError):
        main(["--debug", "status"])
