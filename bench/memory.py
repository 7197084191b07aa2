"""Resident memory of the daemon with 1 and with 1,000 configured peers, each with a tunnel on one device."""

import base64
import os
import secrets
import socket
import sys
import tempfile
import time
from pathlib import Path
from typing import Final

from bench.figures import Figure
from bench.rotation import add_peers
from qhybridd.apps.devices import Device
from qhybridd.apps.namespaces import Namespace
from qhybridd.config import Endpoint
from qhybridd.crypto.identity import Identity
from qhybridd.keyfiles import create_identity
from qhybridd.peerfile import export_peer

GOAL_MB: Final = 150
SETTLE_S: Final = 8.0
"""Long enough for every peer to have been dialled once."""


def measure() -> list[Figure]:
    """Resident set and peak in MB (10^6 bytes) after every peer was dialled in vain."""
    figures = []
    for peers in (1, 1000):
        resident, peak = resident_mb(peers)
        met = peak < GOAL_MB if peers == 1000 else None
        how = f"VmRSS {SETTLE_S:.0f} s after the start, peak {peak:.0f} MB; every peer is dialled, none answers"
        goal = f"< {GOAL_MB} MB" if peers == 1000 else "–"
        figures.append(Figure(f"resident memory, {peers} peers", f"{resident:.0f} MB", how, goal, met))
    return figures


def resident_mb(peers: int) -> tuple[float, float]:
    """Start a daemon with so many peers and look at its memory."""
    tag = secrets.token_hex(3)
    namespace = Namespace(f"qhy-bench-{tag}")
    device = Device(namespace, f"qb{tag}", 51820)
    keys = [os.urandom(32) for _ in range(peers)]
    with tempfile.TemporaryDirectory(prefix="qhy-") as place:
        directory = Path(place)
        write_site(directory, device.name, keys)
        namespace.make()
        try:
            device.make()
            add_peers(device, keys)
            command = [sys.executable, "-m", "qhybridd", "--config", str(directory / "qhybridd.toml"), "run"]
            with (directory / "log").open("wb") as log:
                daemon = namespace.spawn(command, log=log)
                try:
                    wait_for(directory / "run" / "control.sock")
                    time.sleep(SETTLE_S)
                    if not daemon.running:
                        raise SystemExit((directory / "log").read_text())
                    return field_mb(daemon.pid, "VmRSS"), field_mb(daemon.pid, "VmHWM")
                finally:
                    daemon.end()
        finally:
            device.remove()
            namespace.remove()


def write_site(directory: Path, interface: str, keys: list[bytes]) -> None:
    """An identity, peer files and a configuration."""
    create_identity(directory / "identity.key", Identity.generate())
    (directory / "peers").mkdir()
    lines = ["[gateway]", 'identity = "identity.key"', 'peers = "peers"', 'listen = ["127.0.0.1:7420"]']
    lines += ['runtime = "run"', 'state = "state"']
    for number, key in enumerate(keys):
        name = f"p{number}"
        endpoint = Endpoint("127.0.0.1", 20000 + number % 1000)
        (directory / "peers" / f"{name}.peer").write_text(export_peer(Identity.generate(), name, (endpoint,)))
        lines += [f"[tunnel.t{number}]", f'peer = "{name}"', f'interface = "{interface}"']
        lines += [f'wireguard_peer = "{base64.b64encode(key).decode()}"', 'least = "pqc"']
        lines += [f'protects = ["10.{number // 250}.{number % 250}.0/24"]']
    (directory / "qhybridd.toml").write_text("\n".join(lines) + "\n")


def wait_for(path: Path) -> None:
    """Until the control socket answers."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        with socket.socket(socket.AF_UNIX) as client:
            if client.connect_ex(str(path)) == 0:
                return
        time.sleep(0.1)
    raise TimeoutError(f"no daemon at {path}")


def field_mb(pid: int, name: str) -> float:
    """A field of proc(5) status, in MB."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024 / 1e6
    raise KeyError(name)


if __name__ == "__main__":
    for figure in measure():
        print(figure)
