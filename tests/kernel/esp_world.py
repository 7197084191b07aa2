"""Two gateways in namespaces with an XFRM target each: a cable between them, a network behind each, and no daemon."""

import asyncio
import contextlib
import json
import os
import socket
import struct
import subprocess
import threading
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field, replace
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Any, Final

from qhybridd.config.records import TunnelConfig, XfrmConfig, default_reqid
from qhybridd.crypto import kdf
from qhybridd.netlink.xfrm import XfrmSocket
from qhybridd.protocol.actions import EpochKeys, Reserved
from qhybridd.secret import Secret
from qhybridd.targets.esp_selectors import ProtectedTunnel, protected_of
from qhybridd.targets.xfrm import Xfrm, XfrmTarget
from tests.netns.namespaces import Lab, inside

NAME: Final = "esp"
OUTER: Final = {4: ("192.0.2.1", "192.0.2.2"), 6: ("2001:db8:0:1::1", "2001:db8:0:1::2")}
INNER: Final = {4: ("10.1.1.1", "10.2.2.1"), 6: ("2001:db8:1::1", "2001:db8:2::1")}
NET_BITS: Final = {4: 24, 6: 64}
PORT: Final = 7777
MARKER: Final = b"in clear?"
"""In every packet of the tests, so that a capture shows whether one went out as it was."""
INTERFACE: Final = "ipsec0"
EVERY_PROTOCOL: Final = 3
"""ETH_P_ALL."""
SO_RCVBUFFORCE: Final = 33


@dataclass(frozen=True)
class Shape:
    """What kind of tunnel."""

    outer: int = 4
    inner: int = 4
    mode: str = "tunnel"
    cipher: str = "aes-256-gcm"
    if_id: int = 0
    encapsulation: int = 0
    expiry_s: int = 60

    def __str__(self) -> str:
        words = [f"{self.inner}in{self.outer}", self.mode, self.cipher[:3]]
        return "-".join(words + ["interface"] * bool(self.if_id) + ["udp"] * bool(self.encapsulation))

    def config(self, end: int) -> TunnelConfig:
        local, remote = (ip_address(OUTER[self.outer][number]) for number in (end, 1 - end))
        near, far = (self.network(number) for number in (end, 1 - end))
        target = XfrmConfig(
            local=local,
            remote=remote,
            reqid=default_reqid(NAME) + end,  # each end its own
            behind=(near,),
            mode=self.mode,  # type: ignore[arg-type]
            cipher=self.cipher,  # type: ignore[arg-type]
            interface=INTERFACE if self.if_id else "",
            if_id=self.if_id,
            encapsulation=self.encapsulation,
        )
        return TunnelConfig(NAME, "peer", target, (far,), renew="seamless", period_s=1, expiry_s=self.expiry_s)

    def network(self, end: int) -> Any:
        if self.mode == "transport":
            return ip_network(OUTER[self.outer][end])
        return ip_network((INNER[self.inner][end], NET_BITS[self.inner]), strict=False)

    def address(self, end: int) -> str:
        """Of the traffic at this end."""
        return OUTER[self.outer][end] if self.mode == "transport" else INNER[self.inner][end]


@dataclass
class End:
    """One gateway."""

    lab: Lab
    short: str
    number: int
    shape: Shape
    runtime: Path
    address: str = ""
    """Of the traffic that begins or ends here; empty: the one that its shape says."""
    xfrm: Xfrm = field(init=False)
    target: XfrmTarget = field(init=False)

    def __post_init__(self) -> None:
        self.config = self.shape.config(self.number)
        self.address = self.address or self.shape.address(self.number)
        assert isinstance(self.config.target, XfrmConfig)
        self.esp = self.config.target

    @property
    def namespace(self) -> str:
        return self.lab.name(self.short)

    def begin(self) -> None:
        """As a daemon that starts."""
        with inside(self.namespace):
            self.xfrm = Xfrm(self.runtime)
            self.target = XfrmTarget(self.xfrm, self.config)

    async def protect(self, *more: ProtectedTunnel) -> None:
        await self.xfrm.protect((protected_of(self.config), *more))

    @contextmanager
    def kernel(self) -> Iterator[XfrmSocket]:
        with inside(self.namespace):
            kernel = XfrmSocket()
        try:
            yield kernel
        finally:
            kernel.close()

    def associations(self) -> set[int]:
        """SPIs of ours in the kernel."""
        with self.kernel() as kernel:
            return {state.id.spi for state in kernel.dump_sas() if state.reqid == self.esp.reqid and state.valid}

    def ip(self, *words: str) -> str:
        return self.lab.ip(self.short, *words)


Ends = tuple[End, End]
Work = Callable[[Ends], Coroutine[Any, Any, None]]


@contextmanager
def world(tmp_path: Path, shape: Shape) -> Iterator[tuple[End, End]]:
    """Two gateways, wired, without policies yet."""
    with Lab() as lab:
        lab.add("a", "b")
        widths = {4: 24, 6: 64}
        cable = [tuple(f"{OUTER[v][n]}/{widths[v]}" for v in (4, 6)) for n in (0, 1)]
        lab.veth(("a", "eth0", cable[0]), ("b", "eth0", cable[1]))
        for number, short in enumerate("ab"):
            _furnish(lab, short, number, shape)
        yield tuple(  # type: ignore[misc]
            End(lab, short, number, shape, tmp_path / short) for number, short in enumerate("ab")
        )


def _furnish(lab: Lab, short: str, number: int, shape: Shape) -> None:
    """A network behind the gateway, and the way to the other one. In one go: processes are slow in the machine."""
    lines = ["link add lan type veth peer name behind", "link set behind up", "link set lan up"]
    lines += [f"address add {INNER[v][number]}/{NET_BITS[v]} dev lan {'nodad' * (v == 6)}" for v in (4, 6)]
    if shape.if_id:
        lines += [f"link add {INTERFACE} type xfrm dev eth0 if_id {shape.if_id}", f"link set {INTERFACE} up"]
    for version in (4, 6):
        far = ip_network((INNER[version][1 - number], NET_BITS[version]), strict=False)
        to = f"dev {INTERFACE}" if shape.if_id else f"via {OUTER[version][1 - number]}"
        lines.append(f"route add {far} {to} src {INNER[version][number]}")
    batch(lab, short, *lines)


def batch(lab: Lab, short: str, *lines: str) -> None:
    """Commands of `ip` in a namespace, which have to succeed."""
    command = ["ip", "-n", lab.name(short), "-batch", "-"]
    done = subprocess.run(command, input="\n".join(lines), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@asynccontextmanager
async def running(ends: tuple[End, End], *, protected: bool = True) -> AsyncIterator[tuple[End, End]]:
    """Both ends' targets, closed in the end."""
    for end in ends:
        end.begin()
    try:
        for end in ends:
            if protected:
                await end.protect()
        yield ends
    finally:
        for end in ends:
            await end.xfrm.close()


def run(ends: Ends, work: Work) -> None:
    """One test between protected ends."""

    async def whole() -> None:
        async with running(ends):
            await work(ends)

    asyncio.run(whole())


def agree(epoch: int, one: Reserved, other: Reserved) -> tuple[EpochKeys, EpochKeys]:
    """Fresh keys of an epoch for both ends, which know each other's offers."""
    for mine, theirs in ((one, other), (other, one)):
        assert theirs.expected is not None
        assert mine.offer.startswith(theirs.expected) and len(mine.offer) == len(theirs.expected) + theirs.free
    forward, backward, psk = os.urandom(36), os.urandom(36), os.urandom(32)
    tag = kdf.key_tag(Secret.adopt(psk))

    def keys(out: bytes, into: bytes, own: Reserved, peer: Reserved) -> EpochKeys:
        secrets = [Secret.adopt(item) for item in (psk, out, into)]
        return EpochKeys(epoch, secrets[0], secrets[1], secrets[2], tag, own.offer, peer.offer)

    return keys(forward, backward, one, other), keys(backward, forward, other, one)


async def reserve(ends: tuple[End, End], epoch: int) -> tuple[EpochKeys, EpochKeys]:
    """Keys for the next epoch."""
    one, other = await asyncio.gather(*(end.target.reserve() for end in ends))
    return agree(epoch, one, other)


async def rotate(ends: tuple[End, End], epoch: int, *, reset: bool = False) -> tuple[EpochKeys, EpochKeys]:
    """One rotation in the protocol's order: the proposer stages, the answerer installs, then the proposer."""
    a, b = ends
    keys = await reserve(ends, epoch)
    await a.target.stage(keys[0])
    await b.target.stage(keys[1])
    await (b.target.reset(keys[1]) if reset else b.target.activate(keys[1]))
    await (a.target.reset(keys[0]) if reset else a.target.activate(keys[0]))
    await asyncio.wait_for(asyncio.gather(*(end.target.observe(epoch, kick=False) for end in ends)), 10)
    for end in ends:
        await end.target.retire(epoch)
    return keys


# ---- traffic


class Stream(threading.Thread):
    """Numbered packets from one end to the other, at a steady rate, until it is stopped."""

    def __init__(self, source: End, sink: End, rate: float) -> None:
        super().__init__(daemon=True)
        family = socket.AF_INET if ":" not in source.address else socket.AF_INET6
        with inside(source.namespace):
            self._out = socket.socket(family, socket.SOCK_DGRAM)
        with inside(sink.namespace):
            self._into = socket.socket(family, socket.SOCK_DGRAM)
        self._into.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, 1 << 24)
        self._into.bind((sink.address, PORT + sink.number))
        self._out.bind((source.address, 0))
        self._to = (sink.address, PORT + sink.number)
        self._pause, self._done = 1 / rate, threading.Event()
        self.sent = self.refused = 0

    def run(self) -> None:
        at = time.monotonic()
        while not self._done.is_set():
            self.send()
            at += self._pause
            time.sleep(max(0.0, at - time.monotonic()))

    def send(self) -> None:
        try:
            self._out.sendto(MARKER + struct.pack("!I", self.sent), self._to)
        except OSError:
            self.refused += 1
        self.sent += 1

    def stop(self) -> None:
        """After what is on the way has come."""
        self._done.set()
        self.join()
        time.sleep(0.3)

    def received(self) -> list[int]:
        """Their numbers, in the order in which they came."""
        numbers = []
        self._into.setblocking(False)
        while True:
            try:
                numbers.append(struct.unpack("!I", self._into.recv(64)[len(MARKER) :])[0])
            except BlockingIOError:
                return numbers

    def close(self) -> None:
        self._out.close()
        self._into.close()


def passes(source: End, sink: End, count: int = 3) -> bool:
    """Whether packets from one end reach the other: all of them, or none."""
    stream = Stream(source, sink, 100)
    for _ in range(count):
        stream.send()
        time.sleep(0.01)
    came, end = 0, time.monotonic() + 0.6
    while came < count and time.monotonic() < end:
        time.sleep(0.02)
        came += len(stream.received())
    stream.close()
    assert came in (0, count), f"{came} of {count} came"
    return came == count


class Capture:
    """What both ends put on the cable. What comes in is not looked at: the kernel shows it once more when opened."""

    def __init__(self, *ends: End) -> None:
        self._sockets = []
        for end in ends:
            with inside(end.namespace):
                own = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(EVERY_PROTOCOL))
            own.bind(("eth0", EVERY_PROTOCOL))
            own.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, 1 << 24)
            self._sockets.append(own)

    def frames(self) -> list[bytes]:
        """Since the last call."""
        found = []
        for own in self._sockets:
            with contextlib.suppress(BlockingIOError):
                while True:
                    frame, address = own.recvfrom(1 << 16, socket.MSG_DONTWAIT)
                    if address[2] == socket.PACKET_OUTGOING:
                        found.append(frame)
        return found

    def close(self) -> None:
        for own in self._sockets:
            own.close()


def in_clear(frames: list[bytes]) -> int:
    """How many of them show what a packet says."""
    return sum(MARKER in frame for frame in frames)


def has_esp() -> bool:
    """Whether the running kernel has ESP with AES-GCM."""
    if os.geteuid() != 0:
        return False
    with Lab() as lab:
        lab.add("k")
        words = "xfrm state add src 192.0.2.1 dst 192.0.2.2 proto esp spi 0x1000 aead rfc4106(gcm(aes))"
        command = ["ip", "-n", lab.name("k"), *words.split(), "0x" + "42" * 36, "128"]
        return subprocess.run(command, capture_output=True, check=False).returncode == 0


def show(end: End) -> str:
    """The kernel's state, for a test that failed."""
    return json.dumps([end.ip("xfrm", "state"), end.ip("xfrm", "policy")], indent=1)


def altered(config: TunnelConfig, **changes: Any) -> TunnelConfig:
    """The same tunnel with other values of its target."""
    assert isinstance(config.target, XfrmConfig)
    return replace(config, target=replace(config.target, **changes))
