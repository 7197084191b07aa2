"""The guard around real ESP: what passes, what does not, and what the underlay sees.

    host ── lan0 ─ gw ── wan0 ─ far      far protects 10.20.0.2 and fd20::2, and itself in transport mode

Needs a kernel with ESP; `ip xfrm` sets it up, so that only the guard is under test.
"""

import asyncio
import os
import socket
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, replace
from ipaddress import ip_address

import pytest

from qhybridd.clock import boottime
from qhybridd.guard import Guard, GuardedEsp, GuardedTunnel
from tests.netns.guard_world import guarded
from tests.netns.namespaces import Lab, inside
from tests.netns.packets import Packets

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="makes network namespaces: needs root")

REQID = 0x51000007
MARK = 0x7148
PROBE_PORT = 7420
UDP_ENCAP, UDP_ENCAP_ESPINUDP = 100, 2
KEY = {True: "0x" + "11" * 36, False: "0x" + "22" * 36}
SPI = {True: "0x1001", False: "0x1002"}


@dataclass(frozen=True)
class World:
    """One tunnel between gw and far."""

    mode: str = "tunnel"
    interface: str = ""
    port: int = 0
    family: int = 4

    @property
    def local(self) -> str:
        return "192.0.2.1" if self.family == 4 else "fd99::1"

    @property
    def remote(self) -> str:
        return "192.0.2.2" if self.family == 4 else "fd99::2"

    @property
    def far(self) -> str:
        if self.mode == "transport":
            return self.remote
        return "10.20.0.2" if self.family == 4 else "fd20::2"

    @property
    def inside(self) -> str:
        return self.local if self.mode == "transport" else "10.1.0.1" if self.family == 4 else "fd01::1"

    @property
    def host(self) -> str:
        return "10.1.0.2" if self.family == 4 else "fd01::2"

    @property
    def near(self) -> str:
        """What is on this side of the tunnel."""
        if self.mode == "transport":
            return f"{self.local}/{32 if self.family == 4 else 128}"
        return "10.1.0.0/24" if self.family == 4 else "fd01::/64"

    @property
    def tunnel(self) -> GuardedTunnel:
        esp = GuardedEsp(REQID, ip_address(self.local), ip_address(self.remote), self.port)
        return GuardedTunnel("site-b", self.interface, (f"{self.far}/{32 if self.family == 4 else 128}",), (), esp)


def set_up(lab: Lab, world: World) -> None:
    """Associations and policies at both ends."""
    bits = 32 if world.family == 4 else 128
    if world.interface:
        lab.ip("gw", "link", "add", world.interface, "type", "xfrm", "dev", "wan0", "if_id", "7")
        lab.ip("gw", "link", "set", world.interface, "up")
        lab.ip("gw", "route", "add", f"{world.far}/{bits}", "dev", world.interface)
    for short, own, other in (("gw", world.local, world.remote), ("far", world.remote, world.local)):
        for out in (True, False):
            source, destination = (own, other) if out else (other, own)
            forward = out == (short == "gw")
            words = f"state add src {source} dst {destination} proto esp spi {SPI[forward]} reqid {REQID}"
            words += f" mode {world.mode} aead rfc4106(gcm(aes)) {KEY[forward]} 128"
            words += " if_id 7" * bool(world.interface and short == "gw")
            words += f" encap espinudp {world.port} {world.port} 0.0.0.0" * bool(world.port)
            lab.ip(short, "xfrm", *words.split())
        near, beyond = (world.near, world.far) if short == "gw" else (world.far, world.near)
        if world.port:  # ESP in UDP comes to a socket, which a policy for the hosts themselves would starve
            ends = f"src {other}/{bits} dst {own}/{bits} proto udp sport {world.port} dport {world.port}"
            lab.ip(short, "xfrm", *f"policy add {ends} dir in priority 1".split())
        for direction in ("out", "in", "fwd"):
            source, destination = (near, beyond) if direction == "out" else (beyond, near)
            words = f"policy add src {source} dst {destination} dir {direction} priority 100"
            words += " if_id 7" * bool(world.interface and short == "gw")
            outer = (own, other) if direction == "out" else (other, own)
            words += f" tmpl src {outer[0]} dst {outer[1]} proto esp reqid {REQID} mode {world.mode}"
            lab.ip(short, "xfrm", *words.split())


@pytest.fixture
def lab() -> Iterator[Lab]:
    with Lab() as lab:
        lab.add("host", "gw", "far")
        lab.veth(("host", "lan0", ("10.1.0.2/24", "fd01::2/64")), ("gw", "lan0", ("10.1.0.1/24", "fd01::1/64")))
        lab.veth(("gw", "wan0", ("192.0.2.1/24", "fd99::1/64")), ("far", "wan0", ("192.0.2.2/24", "fd99::2/64")))
        for address in ("10.20.0.2/32", "fd20::2/128"):
            lab.ip("far", "address", "add", address, "dev", "lo")
        lab.forward("gw")
        for route in ("default via 192.0.2.2", "default via fd99::2"):
            lab.ip("gw", "route", "add", *route.split())
        for route in ("default via 10.1.0.1", "default via fd01::1"):
            lab.ip("host", "route", "add", *route.split())
        for route in ("10.1.0.0/24 via 192.0.2.1", "fd01::/64 via fd99::1"):
            lab.ip("far", "route", "add", *route.split())
        packets = Packets(lab)
        for far in ("192.0.2.2", "fd99::2"):  # the first datagrams may wait for neighbours and carriers
            source = ("gw", "192.0.2.1" if "." in far else "fd99::1")
            assert any(packets.pass_from(source, ("far", far)) for _ in range(10))
        try:
            set_up(lab, World())
        except AssertionError as error:
            pytest.skip(f"this kernel has no ESP: {error}")
        for short in ("gw", "far"):
            for kind in ("state", "policy"):
                lab.ip(short, "xfrm", kind, "flush")
        yield lab


def payload_seen(captured: list[bytes]) -> list[bytes]:
    """Packets in which a probe's words can be read."""
    return [packet for packet in captured if b"probe" in packet]


@pytest.mark.parametrize(
    "world",
    [
        World(),
        World(family=6),
        World(interface="ipsec0"),
        World(port=4500),
        World(mode="transport"),
        World(mode="transport", family=6),
        World(mode="transport", port=4500),
    ],
    ids=str,
)
def test_closed_until_opened_and_never_in_clear(lab: Lab, world: World) -> None:
    sockets = []
    if world.port:
        for short, address in (("gw", world.local), ("far", world.remote)):
            with inside(lab.name(short)):
                sockets.append(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
            sockets[-1].bind((address, world.port))
            sockets[-1].setsockopt(socket.IPPROTO_UDP, UDP_ENCAP, UDP_ENCAP_ESPINUDP)
    ways = [(("gw", world.inside), ("far", world.far)), (("far", world.far), ("gw", world.inside))]
    if world.mode == "tunnel":
        ways += [(("host", world.host), ("far", world.far)), (("far", world.far), ("host", world.host))]

    async def work(guard: Guard) -> None:
        packets = Packets(lab)
        with packets.captured("gw", "wan0", outgoing=True) as collect:
            set_up(lab, world)
            assert all(packets.pass_from(*way) for way in ways)
            await guard.load([world.tunnel])
            assert not any(packets.pass_from(*way) for way in ways)
            await guard.open("site-b", boottime() + 60)
            assert all(packets.pass_from(*way) for way in ways)
            assert payload_seen(collect()) == []
            await guard.shut("site-b")
            assert not any(packets.pass_from(*way) for way in ways)
            (state,) = await guard.show()
            assert (state.reqid, state.interface, state.open) == (REQID, world.interface, False)
            assert state.dropped_out >= 2 and state.dropped_in >= 1
            await guard.open("site-b", boottime() + 60)
            for kind in ("policy", "state"):  # open, and nothing left that would encrypt
                for short in ("gw", "far"):
                    lab.ip(short, "xfrm", kind, "flush")
            assert not any(packets.pass_from(*way) for way in ways)
            assert payload_seen(collect()) == []
            await guard.remove()
            if not world.interface:
                assert packets.pass_from(*ways[0])  # it would have left in clear
                assert payload_seen(collect())

    try:
        guarded(lab, work)
    finally:
        for one in sockets:
            one.close()


def test_a_device_that_took_the_interfaces_name_sends_nothing(lab: Lab) -> None:
    """A plain cable called ipsec0: only an XFRM interface sends nothing without ESP."""
    world = World(interface="ipsec0")

    async def work(guard: Guard) -> None:
        packets = Packets(lab)
        lab.veth(("gw", "ipsec0", ("198.51.100.1/24",)), ("far", "ipsec0", ("198.51.100.2/24",)))
        lab.ip("gw", "route", "add", f"{world.far}/32", "via", "198.51.100.2")
        assert any(packets.pass_from(("gw", world.inside), ("far", world.far)) for _ in range(5))
        await guard.load([world.tunnel])
        await guard.open("site-b", boottime() + 60)
        with packets.captured("far", "ipsec0") as collect:
            assert not packets.pass_from(("gw", world.inside), ("far", world.far))
            assert payload_seen(collect()) == []

    guarded(lab, work)


def test_between_the_hosts_themselves_the_control_channel_passes_and_no_other(lab: Lab) -> None:
    """Transport mode: what is protected is the other gateway's own address. No association is there yet."""
    world = World(mode="transport")

    async def work(guard: Guard) -> None:
        await guard.load([world.tunnel])
        assert connects(lab, ("gw", world.local), ("far", world.remote), MARK)
        assert connects(lab, ("far", world.remote), ("gw", world.local), MARK)
        assert not connects(lab, ("gw", world.local), ("far", world.remote), 0)
        assert not connects(lab, ("far", world.remote), ("gw", world.local), 0)
        assert not Packets(lab).pass_from(("far", world.remote), ("gw", world.local))

    guarded(lab, work)


def connects(lab: Lab, source: tuple[str, str], target: tuple[str, str], mark: int) -> bool:
    """Whether a TCP connection comes about; the gateway's socket carries the mark."""
    with inside(lab.name(target[0])):
        listening = socket.socket()
    with inside(lab.name(source[0])):
        dialling = socket.socket()
    with listening, dialling:
        (dialling if source[0] == "gw" else listening).setsockopt(socket.SOL_SOCKET, socket.SO_MARK, mark)
        listening.bind((target[1], 0))
        listening.listen()
        dialling.bind((source[1], 0))
        dialling.settimeout(0.5)
        try:
            dialling.connect(listening.getsockname())
        except (TimeoutError, OSError):
            return False
        return True


@pytest.mark.parametrize("world", [World(mode="transport"), World(interface="ipsec0")], ids=str)
def test_a_probe_passes_a_closed_guard_and_nothing_else_does(lab: Lab, world: World) -> None:
    async def work(guard: Guard) -> None:
        set_up(lab, world)
        for short, source, target in (("gw", world.local, world.remote), ("far", world.remote, world.local)):
            words = f"policy add src {source}/32 dst {target}/32 proto udp dport {PROBE_PORT} dir out priority 1"
            words += f" mark {REQID} mask 0xffffffff" + " if_id 7" * bool(world.interface and short == "gw")
            words += f" tmpl src {source} dst {target} proto esp reqid {REQID} mode {world.mode}"
            lab.ip(short, "xfrm", *words.split())
        await guard.load([world.tunnel])
        before = counted(lab, world)
        for mark in (0, REQID):
            with inside(lab.name("gw")):
                sender = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            with sender:
                sender.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, mark)
                sender.bind((world.local, 0))
                if world.interface:
                    sender.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, world.interface.encode())
                try:
                    sender.sendto(b"probe", (world.remote, PROBE_PORT))
                except PermissionError:
                    assert mark == 0
            await asyncio.sleep(0.2)
            assert counted(lab, world) - before == (1 if mark else 0), f"mark {mark:#x}"

    guarded(lab, work)


def counted(lab: Lab, world: World) -> int:
    """Packets that the other end's incoming association counted."""
    shown = lab.ip(
        "far", "-s", "xfrm", "state", "get", "src", world.local, "dst", world.remote, "proto", "esp", "spi", SPI[True]
    )
    line = next(line for line in shown.splitlines() if "(bytes)" in line and "(packets)" in line)
    return int(line.split("(bytes), ")[1].split("(packets)")[0])


def test_open_survives_a_change_of_association_and_another_reqid_does_not_pass(lab: Lab) -> None:
    world = World()

    async def work(guard: Guard) -> None:
        packets = Packets(lab)
        set_up(lab, world)
        way = (("gw", world.inside), ("far", world.far))
        other = replace(world.tunnel, esp=replace(world.tunnel.esp, reqid=REQID + 1))
        await guard.load([world.tunnel])
        await guard.open("site-b", boottime() + 60)
        assert packets.pass_from(*way)
        await guard.load([other])  # the same name, and other ESP: closed
        assert await guard.remaining() == {}
        await guard.open("site-b", boottime() + 60)
        assert not packets.pass_from(*way)
        await guard.load([world.tunnel])
        await guard.open("site-b", boottime() + 60)
        assert packets.pass_from(*way)
        await guard.shut_all()
        assert not packets.pass_from(*way)

    guarded(lab, work)


class Conversation:
    """One UDP flow between a host behind the gateway and the far end."""

    def __init__(self, lab: Lab) -> None:
        packets = Packets(lab)
        self._ends = packets.socket("host", "10.1.0.2"), packets.socket("far", "10.20.0.2")
        for end in self._ends:
            end.settimeout(0.5)

    def passes(self) -> tuple[bool, bool]:
        """Whether a datagram arrives: out, in."""
        return self._one(*self._ends), self._one(*reversed(self._ends))

    def _one(self, sender: socket.socket, receiver: socket.socket) -> bool:
        sender.sendto(b"probe", receiver.getsockname())
        try:
            return receiver.recv(16) == b"probe"
        except TimeoutError:
            return False

    def close(self) -> None:
        for end in self._ends:
            end.close()


FLOWTABLE = """
table inet fast {
    flowtable flows { hook ingress priority filter; devices = { lan0, wg0 }; }
    chain forward { type filter hook forward priority filter; meta l4proto udp flow add @flows; }
}
"""


def test_a_flowtable_is_no_way_around(lab: Lab) -> None:
    """A flow that a flowtable took over passes neither prerouting nor postrouting; the chains at the device see it."""
    site = GuardedTunnel("site-b", "wg0", ("10.20.0.0/16",))
    lab.veth(("gw", "wg0", ("10.20.255.1/24",)), ("far", "wg0", ("10.20.255.2/24",)))
    lab.ip("gw", "route", "add", "10.20.0.0/16", "dev", "wg0")
    lab.ip("far", "route", "replace", "10.1.0.0/24", "via", "10.20.255.1")
    for short in ("gw", "far"):
        lab.ip(short, "link", "set", "wg0", "address", "02:00:00:00:00:20", "arp", "off")
    lab.nft("gw", "table inet qhybridd {\n}\ntable netdev qhybridd {\n}\n")  # without an owner, to be deleted below
    try:
        lab.nft("gw", FLOWTABLE)
    except subprocess.CalledProcessError:
        if "QHYBRIDD_MACHINE" in os.environ:  # its kernel has them
            raise
        pytest.skip("this kernel has no flowtables")

    async def work(guard: Guard) -> None:
        flow = Conversation(lab)
        await guard.load([site])
        await guard.open("site-b", boottime() + 600)
        for _ in range(5):
            flow.passes()
        assert flow.passes() == (True, True)
        assert "OFFLOAD" in lab.run("gw", "cat", "/proc/net/nf_conntrack")
        await guard.shut("site-b")
        assert flow.passes() == (False, False)
        await guard.open("site-b", boottime() + 600)
        assert flow.passes() == (True, True)
        await guard.shut("site-b")
        lab.run("gw", "nft", "delete", "table", "netdev", "qhybridd")
        assert flow.passes() == (True, True), "without the chains at the device it is a way around"
        assert await guard.restore()
        assert flow.passes() == (False, False)
        flow.close()

    guarded(lab, work)
