"""Rotations of one end, install and read-back on a device with a thousand peers included."""

import json
import os
import secrets
import subprocess
import sys
from pathlib import Path
from typing import Final

from bench.figures import Figure
from qhybridd.apps.devices import Device
from qhybridd.apps.namespaces import Namespace

PEERS: Final = 1000
ROUNDS: Final = 5
GOAL: Final = 500


def measure() -> list[Figure]:
    """Rotations a second on one core, from the CPU time of the daemon's process; of its device beside it."""
    tag = secrets.token_hex(3)
    namespace = Namespace(f"qhy-bench-{tag}")
    device = Device(namespace, f"qb{tag}", 51820)
    keys = [os.urandom(32) for _ in range(PEERS)]
    namespace.make()
    try:
        device.make()
        if device.process is None:
            raise SystemExit("this benchmark measures wireguard-go; the kernel's WireGuard is faster")
        add_peers(device, keys)
        task = {
            "interface": device.name,
            "keys": [key.hex() for key in keys],
            "hub_key": device.public.hex(),
            "rounds": ROUNDS,
        }
        hub, spoke = (start(namespace, task | {"role": role}) for role in ("hub", "spoke"))
        try:
            before = cpu_s(device.process.pid)
            out, _ = hub.communicate(timeout=600)
            after = cpu_s(device.process.pid)
        finally:
            for process in (hub, spoke):
                process.kill()
                process.wait()
        result = json.loads(out)
    finally:
        device.remove()
        namespace.remove()
    rate = result["rotations"] / result["cpu_s"]
    with_device = result["rotations"] / (result["cpu_s"] + (after - before) * ROUNDS / (ROUNDS + 1))
    how = f"{result['rotations']} rotations over one session, a real guard, a wireguard-go device with {PEERS} peers"
    return [
        Figure(
            "rotations per second per core, one end",
            f"{rate:.0f}",
            f"{how}; the daemon's CPU time",
            "≥ 500",
            rate >= GOAL,
        ),
        Figure("the same with the device's own CPU time", f"{with_device:.0f}", f"{how}; wireguard-go's time added"),
        Figure(
            "rotations per second, both ends on this host", f"{result['rotations'] / result['wall_s']:.0f}", "wall time"
        ),
    ]


def add_peers(device: Device, keys: list[bytes]) -> None:
    """Give a userspace device its private key and peers."""
    import socket

    lines = ["set=1", f"private_key={device.private.private_bytes_raw().hex()}"]
    for number, key in enumerate(keys):
        lines += [f"public_key={key.hex()}", f"endpoint=192.0.2.9:{1024 + number}"]
        lines += [f"allowed_ip=10.{number // 250}.{number % 250}.0/24"]
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as uapi:
        uapi.connect(str(device.socket))
        uapi.sendall(("\n".join(lines) + "\n\n").encode())
        answer = uapi.recv(4096)
    assert answer.strip() == b"errno=0", answer


def start(namespace: Namespace, task: dict[str, object]) -> "subprocess.Popen[bytes]":
    """One end, in the namespace; its task goes over standard input."""
    process = subprocess.Popen(
        ["ip", "netns", "exec", namespace.name, sys.executable, "-m", "bench.rotation_end"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=Path(__file__).parents[1],
    )
    assert process.stdin is not None
    process.stdin.write(json.dumps(task).encode() + b"\n")
    process.stdin.flush()
    return process


def cpu_s(pid: int) -> float:
    """User and system time of a process so far (proc(5), fields 14 and 15)."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


if __name__ == "__main__":
    for figure in measure():
        print(figure)
