"""The command line against the real daemon and the real guard, in a network namespace without any device."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from qhybridd.config import Endpoint
from qhybridd.crypto.identity import Identity
from qhybridd.keyfiles import create_identity, store_peer
from qhybridd.peerfile import export_peer

CONFIG = """
[gateway]
identity = "identity.key"
peers = "peers"
runtime = "run"
state = "state"
listen = []
[tunnel.wan]
peer = "berlin"
interface = "wg-none"
wireguard_peer = "eHh4eHh4eHh4eHh4eHh4eHh4eHh4eHh4eHh4eHh4eHg="
protects = ["10.2.0.0/16"]
least = "pqc"
"""

BERLIN = (Endpoint("192.0.2.9", 7420),)
"""Where nobody is."""


class Host:
    """A namespace that lives as long as this object, and a gateway's directory."""

    def __init__(self, path: Path) -> None:
        self.config = path / "qhybridd.toml"
        self.config.write_text(CONFIG)
        for name in ("run", "state"):
            (path / name).mkdir()
        create_identity(path / "identity.key", Identity.generate())
        store_peer(path / "peers", "berlin", export_peer(Identity.generate(), "berlin", BERLIN).encode(), beside=False)
        self.holder = subprocess.Popen(["unshare", "-n", "sleep", "300"])
        own = Path("/proc/self/ns/net").readlink()
        deadline = time.monotonic() + 5
        while Path(f"/proc/{self.holder.pid}/ns/net").readlink() == own:
            assert time.monotonic() < deadline
            time.sleep(0.01)

    def command(self, *words: str) -> list[str]:
        inside = ["nsenter", "-t", str(self.holder.pid), "-n"]
        return [*inside, sys.executable, "-m", "qhybridd", "--config", str(self.config), *words]

    def run(self, *words: str) -> tuple[int, str]:
        done = subprocess.run(self.command(*words), capture_output=True, text=True, timeout=30, check=False)
        return done.returncode, done.stdout + done.stderr

    @contextmanager
    def daemon(self, **environment: str) -> Iterator[subprocess.Popen[bytes]]:
        quiet, words = subprocess.DEVNULL, os.environ | environment
        process = subprocess.Popen(self.command("run"), stdout=quiet, stderr=quiet, env=words)
        try:
            deadline = time.monotonic() + 30
            while self.run("status")[0] != 0:
                assert process.poll() is None
                assert time.monotonic() < deadline
            yield process
        finally:
            process.kill()
            process.wait()


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Host]:
    made = Host(tmp_path)
    yield made
    made.holder.kill()
    made.holder.wait()


def test_the_guard_outlives_the_daemon_until_it_is_removed(host: Host) -> None:
    assert "Nothing is guarded" in host.run("guard", "show")[1]
    assert host.run("status")[0] == 3
    with host.daemon() as process:
        blocked = (0, "wan: BLOCKED, wg-none only\n    10.2.0.0/16\n")
        assert host.run("guard", "show") == blocked
        code, text = host.run("guard", "remove", "--yes")
        assert code == 1
        assert "the daemon runs and needs the guard" in text
        process.kill()
        process.wait()
        assert host.run("guard", "show") == blocked  # read from the kernel now
    assert host.run("guard", "remove", "--yes")[0] == 0
    assert "Nothing is guarded" in host.run("guard", "show")[1]


def test_status_reload_and_revoke(host: Host) -> None:
    with host.daemon():
        code, text = host.run("status")
        assert code == 0
        assert "1 of 1 tunnels CLOSED" in text
        assert "[host.no-device]" in text
        host.config.write_text(CONFIG.replace("10.2.", "10.3."))
        assert host.run("reload") == (0, "changed tunnel wan\n")
        assert "10.3.0.0/16" in host.run("guard", "show")[1]
        host.config.write_text(CONFIG.replace("least", "leest"))
        code, text = host.run("reload")
        assert code == 1
        assert f"{host.config}:" in text
        assert "10.3.0.0/16" in host.run("guard", "show")[1]
        assert host.run("rotate", "wam")[0] == 1
        code, text = host.run("peer", "revoke", "berlin")
        assert code == 0
        assert "The daemon ended its session" in text
        # The daemon goes on, and starts again, without anybody to dial.
        time.sleep(2.0)
        code, text = host.run("status")
        assert code == 0
        assert "[tunnel.revoked]" in text
        assert "[peer.revoked]" in text
        host.config.write_text(CONFIG)
        assert host.run("reload")[0] == 0
    assert "REVOKED" in host.run("check")[1]
    with host.daemon():
        assert "[tunnel.revoked]" in host.run("status")[1]
        assert "BLOCKED" in host.run("guard", "show")[1]


def test_a_gateway_that_cannot_start_guards_all_the_same(host: Host) -> None:
    (host.config.parent / "identity.key").chmod(0o644)
    code, text = host.run("run")
    assert code == 1
    assert "chmod 600" in text
    assert host.run("guard", "show")[1] == "wan: BLOCKED, wg-none only\n    10.2.0.0/16\n"


def test_a_second_daemon_that_cannot_start_leaves_the_firsts_guard_alone(host: Host) -> None:
    with host.daemon():
        host.config.write_text(CONFIG.replace("10.2.", "10.3.").replace("berlin", "rome"))
        code, text = host.run("run")
        assert code == 1
        assert 'there is no peer "rome"' in text
        assert "10.2.0.0/16" in host.run("guard", "show")[1]


def test_the_service_manager_hears_of_every_turn(host: Host, tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        manager.settimeout(10)
        with host.daemon(NOTIFY_SOCKET=str(tmp_path / "notify")) as process:
            assert manager.recv(1024) == b"READY=1"
            assert "BLOCKED" in host.run("guard", "show")[1]
            process.send_signal(signal.SIGHUP)
            before_us = time.monotonic_ns() // 1000
            word, _, when = manager.recv(1024).decode().partition("\nMONOTONIC_USEC=")
            assert word == "RELOADING=1"
            assert before_us - 10_000_000 < int(when) < time.monotonic_ns() // 1000
            assert manager.recv(1024) == b"READY=1"
            process.send_signal(signal.SIGTERM)
            assert manager.recv(1024) == b"STOPPING=1"
            assert process.wait(10) == 0
