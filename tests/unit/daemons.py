"""Daemon parts without root: peers over real sockets, tunnels on devices in memory that shake hands like WireGuard."""

import asyncio
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from qhybridd.clock import boottime
from qhybridd.config.records import Endpoint, TunnelConfig, WireGuardConfig
from qhybridd.crypto import kem
from qhybridd.crypto.identity import Identity
from qhybridd.crypto.kdf import key_tag
from qhybridd.crypto.levels import Level
from qhybridd.daemon.door import Door
from qhybridd.daemon.peer import Peer
from qhybridd.daemon.records import Records
from qhybridd.daemon.services import Services
from qhybridd.daemon.tunnel import Tunnel
from qhybridd.errors import HostError
from qhybridd.policy import Policy
from qhybridd.protocol.actions import EpochKeys, Reserved
from qhybridd.protocol.handshake import PeerPin
from qhybridd.protocol.handshake_messages import Suite
from qhybridd.secret import Secret
from qhybridd.targets.base import Observation
from qhybridd.telemetry.log import Log

SUITES = (Suite.X25519_MLKEM768, Suite.X25519_MLKEM1024)
POLICY = Policy(Level.PQC, 1, 10, reset=True, kems=(kem.ML_KEM_768,))
WAN = TunnelConfig(
    "wan", "peer", WireGuardConfig("wg0", bytes(32)), (), renew="reset", period_s=4, expiry_s=10, least=Level.PQC
)


class Lines:
    """A logger that keeps what it is told."""

    def __init__(self) -> None:
        self.lines: list[dict[str, Any]] = []

    def bind(self, **_: str) -> "Lines":
        return self

    def _keep(self, event: str, **fields: object) -> None:
        self.lines.append({"event": event, **fields})

    debug = info = warning = error = _keep

    def events(self) -> list[str]:
        return [line["event"] for line in self.lines]


class Gate:
    """A guard in memory."""

    def __init__(self) -> None:
        self.until: dict[str, float] = {}
        self.said: list[str] = []
        self.refuses = 0
        """So many of the next verbs fail."""

    def remaining(self, name: str) -> float:
        return max(0.0, self.until.get(name, 0.0) - boottime())

    async def open(self, name: str, deadline: float) -> None:
        await self._work("open")
        self.until[name] = deadline

    async def shut(self, name: str) -> None:
        await self._work("shut")
        self.until.pop(name, None)

    async def _work(self, verb: str) -> None:
        await asyncio.sleep(0.001)
        self.said.append(verb)
        if self.refuses > 0:
            self.refuses -= 1
            raise HostError("host.guard", "refused on purpose")


@dataclass(eq=False)
class Device:
    """One end of a WireGuard peer."""

    key: bytes = field(default_factory=lambda: os.urandom(32))
    psk: bytes = field(default_factory=lambda: os.urandom(32))
    handshakes: int = 0
    other: "Device | None" = None
    missing: bool = False


def cable() -> tuple[Device, Device]:
    first, second = Device(), Device()
    first.other, second.other = second, first
    return first, second


class Target:
    """A target on such a device."""

    def __init__(self, device: Device) -> None:
        self.device = device
        self._noted = 0

    def _use(self) -> Device:
        if self.device.missing:
            raise HostError("host.no-device", "there is no device")
        return self.device

    async def reserve(self) -> Reserved:
        assert self.device.other is not None
        return Reserved(self._use().key, self.device.other.key)

    async def stage(self, keys: EpochKeys) -> None:
        pass

    async def activate(self, keys: EpochKeys) -> None:
        await asyncio.sleep(0.001)
        with keys.psk.expose() as psk:
            self._use().psk = bytes(psk)
        self._noted = self.device.handshakes

    async def reset(self, keys: EpochKeys) -> None:
        await self.activate(keys)

    async def observe(self, epoch: int, *, kick: bool) -> None:
        other = self.device.other
        assert other is not None
        while self._use().handshakes == self._noted:
            if kick and other.psk == self.device.psk:
                self.device.handshakes += 1
                other.handshakes += 1
            await asyncio.sleep(0.005)

    async def straddle(self, old: int, keys: EpochKeys) -> int:
        await asyncio.Event().wait()
        return old

    async def retire(self, epoch: int) -> None:
        pass

    async def close(self) -> None:
        self._use().psk = os.urandom(32)

    async def inspect(self) -> Observation:
        return Observation(key_tag(Secret.adopt(self._use().psk)), 0, "", 0, 0)

    async def check(self, tag: bytes) -> str | None:
        return None if (await self.inspect()).tag == tag else "changed"


class Host:
    """One gateway's parts, in the test's own task group."""

    def __init__(self, identity: Identity, directory: Path, tasks: asyncio.TaskGroup) -> None:
        self.identity, self.tasks = identity, tasks
        self.lines, self.gate = Lines(), Gate()
        self.log = Log(self.lines)
        self.records = Records(directory)
        self.services = Services(identity, SUITES, 0, self.gate, self.records, self.log, tasks.create_task)
        self.pins: dict[bytes, PeerPin] = {}
        self.peers: dict[str, Peer] = {}
        self.tunnels: list[Tunnel] = []
        self.door = Door(identity, SUITES, self.pins, self.peers.get, told=lambda *_: None, log=self.log)

    async def listen(self) -> Endpoint:
        await self.door.open((Endpoint("127.0.0.1", 0),), 0)
        (server,) = self.door._servers
        return Endpoint("127.0.0.1", server.sockets[0].getsockname()[1])

    def add_peer(self, *identities: Identity, endpoints: tuple[Endpoint, ...] = ()) -> Peer:
        pins = tuple(PeerPin(identity.public, "peer", None) for identity in identities)
        self.pins.update({pin.public.fingerprint: pin for pin in pins})
        peer = self.peers["peer"] = Peer("peer", pins, endpoints, self.services)
        return peer

    def make_tunnel(self, device: Device, config: TunnelConfig = WAN, policy: Policy = POLICY) -> Tunnel:
        tunnel = Tunnel(config, policy, Target(device), None, self.services)
        self.tunnels.append(tunnel)
        return tunnel

    async def add_tunnel(self, device: Device) -> Tunnel:
        """Started, and attached to the peer."""
        tunnel = self.make_tunnel(device)
        await tunnel.start(self.gate.remaining("wan"), self.peers["peer"].fingerprints)
        self.peers["peer"].add_tunnel(tunnel)
        return tunnel

    async def stop(self) -> None:
        self.door.close()
        for peer in self.peers.values():
            await peer.stop()
        for tunnel in self.tunnels:
            await tunnel.stop()


async def until(condition: Callable[[], object], timeout_s: float = 8.0, every_s: float = 0.01) -> None:
    """Wait until it holds; with `every_s` 0 look at each turn of the loop."""
    async with asyncio.timeout(timeout_s):
        while not condition():  # noqa: ASYNC110 - any condition of the world, not an event of one place
            await asyncio.sleep(every_s)
