"""One end of the rotation benchmark, as a process of its own: real sessions, real rotations.

The measured end ("hub") has a real guard and a real device with a thousand peers: every rotation installs a PSK and
reads it back. Only the wait for WireGuard's own handshake, 120 s of nothing, is left out. The other end ("spoke") has
no device, for a thousand spokes would be a thousand hosts; it does all the rest.
"""

import asyncio
import json
import resource
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Final

from qhybridd.clock import boottime
from qhybridd.config.records import Endpoint, TunnelConfig, WireGuardConfig
from qhybridd.crypto import kem
from qhybridd.crypto.identity import Identity
from qhybridd.crypto.levels import Level
from qhybridd.daemon.door import Door
from qhybridd.daemon.peer import Peer
from qhybridd.daemon.records import Records
from qhybridd.daemon.services import Services
from qhybridd.daemon.tunnel import Tunnel
from qhybridd.guard import Guard, GuardedTunnel
from qhybridd.policy import Policy
from qhybridd.protocol import actions as act
from qhybridd.protocol.actions import EpochKeys, Reserved
from qhybridd.protocol.handshake import PeerPin
from qhybridd.protocol.handshake_messages import Suite
from qhybridd.secret import Secret
from qhybridd.targets.base import Observation
from qhybridd.targets.device import Devices
from qhybridd.targets.wireguard import WireGuardTarget
from qhybridd.telemetry.log import open_log

PORT: Final = 7420
POLICY: Final = Policy(Level.PQC, 100_000, 200_000, reset=False, kems=(kem.ML_KEM_768,))


class Hub(WireGuardTarget):
    """The real target, less the wait for WireGuard's handshake."""

    async def observe(self, epoch: int, *, kick: bool) -> None:
        """At once."""


class Spoke:
    """A target without a device that says it is peer `own` of the hub."""

    def __init__(self, own: bytes, hub: bytes) -> None:
        self._reserved = Reserved(own, hub)

    async def reserve(self) -> Reserved:
        return self._reserved

    async def stage(self, keys: EpochKeys) -> None: ...
    async def activate(self, keys: EpochKeys) -> None: ...
    async def reset(self, keys: EpochKeys) -> None: ...
    async def observe(self, epoch: int, *, kick: bool) -> None: ...
    async def retire(self, epoch: int) -> None: ...
    async def close(self) -> None: ...

    async def straddle(self, old: int, keys: EpochKeys) -> int:
        return old

    async def inspect(self) -> Observation:
        return Observation(b"", 0, "", 0, 0)

    async def check(self, tag: bytes) -> str | None:
        return None


class NoGate:
    """The spoke guards nothing."""

    async def open(self, name: str, deadline: float) -> None: ...
    async def shut(self, name: str) -> None: ...


def identity(seed: int) -> Identity:
    """Both ends must know both: a benchmark's identities are no secrets."""
    return Identity.from_seeds(Secret.adopt(bytes([seed]) * 32), Secret.adopt(bytes([seed + 1]) * 32))


async def run(task: dict[str, Any]) -> dict[str, float]:
    hub = task["role"] == "hub"
    identities = sorted((identity(1), identity(3)), key=lambda i: i.public.fingerprint)
    own, other = identities if hub else identities[::-1]  # the hub proposes
    keys = [bytes.fromhex(key) for key in task["keys"]]
    names = [f"t{number}" for number in range(len(keys))]
    guard, devices = Guard(), Devices()
    if hub:
        await guard.load(
            [GuardedTunnel(n, task["interface"], (f"10.{i // 250}.{i % 250}.0/24",)) for i, n in enumerate(names)]
        )
    log = open_log("error")
    records = Records(Path(tempfile.mkdtemp(dir="/run", prefix="qhybridd-bench-")))
    async with asyncio.TaskGroup() as tasks:
        suites = (Suite.X25519_MLKEM768,)
        services = Services(own, suites, 0, guard if hub else NoGate(), records, log, tasks.create_task)
        pin = PeerPin(other.public, "other")
        endpoints = () if hub else (Endpoint("127.0.0.1", PORT),)
        peer = Peer("other", (pin,), endpoints, services)
        door = Door(own, suites, {pin.public.fingerprint: pin}, lambda _: peer, told=lambda *_: None, log=log)
        if hub:
            await door.open((Endpoint("127.0.0.1", PORT),), 0)
        tunnels = []
        for name, key in zip(names, keys, strict=True):
            config = TunnelConfig(name, "other", WireGuardConfig(task["interface"], key), ())
            target = Hub(devices, task["interface"], key) if hub else Spoke(key, bytes.fromhex(task["hub_key"]))
            tunnel = Tunnel(config, POLICY, target, None, services)
            # The first epoch forces a handshake, which no spoke can answer: begin as after a restart instead.
            live = act.LiveEpoch(1, Level.PQC, bytes(16), boottime(), boottime() + 100_000)
            tunnel.feed(act.Adopt(live, act.Held(1, bytes(16))))
            tunnels.append(tunnel)
            peer.add_tunnel(tunnel)
        peer.start()
        if not hub:
            await asyncio.Event().wait()
        while peer.session is None:
            await asyncio.sleep(0.05)
        result = await rotate(tunnels, task["rounds"])
        await peer.stop()
        for tunnel in tunnels:
            await tunnel.stop()
        door.close()
    await guard.remove()
    await guard.close()
    await devices.close()
    return result


async def rotate(tunnels: list[Tunnel], rounds: int) -> dict[str, float]:
    """Rotate every tunnel `rounds` times after a round of warming up."""
    cpu = wall = 0.0
    for number in range(rounds + 1):
        before = sum(t.rotations for t in tunnels)
        usage, begun = resource.getrusage(resource.RUSAGE_SELF), time.monotonic()
        for tunnel in tunnels:
            tunnel.feed(act.RotateNow(reset=False))
        while sum(t.rotations for t in tunnels) < before + len(tunnels):
            await asyncio.sleep(0.01)
            if time.monotonic() - begun > 120:
                raise TimeoutError(f"{sum(t.rotations for t in tunnels) - before} of {len(tunnels)} rotations")
        if number:
            after = resource.getrusage(resource.RUSAGE_SELF)
            cpu += after.ru_utime + after.ru_stime - usage.ru_utime - usage.ru_stime
            wall += time.monotonic() - begun
    return {"rotations": rounds * len(tunnels), "cpu_s": cpu, "wall_s": wall}


if __name__ == "__main__":
    print(json.dumps(asyncio.run(run(json.loads(sys.stdin.readline())))), flush=True)
