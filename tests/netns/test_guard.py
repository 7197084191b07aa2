"""The guard with real packets: a host behind a gateway, and a far end with two ways to it.

    host ── lan0 ─ gw ═ wg0 ══ far      protected 10.20.0.0/16 and fd20::/16
                   gw ─ wan0 ─ far      everything else, and the default route

`wg0` is a plain cable here: the guard knows a device by its name alone. The fixture sees to it that every probe passes
without the guard: what fails below fails because of it.
"""

import asyncio
import os
import signal
import socket
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import pytest

from qhybridd.clock import boottime
from qhybridd.errors import OperatorError, ProgramError
from qhybridd.guard import Guard, GuardedTunnel, service
from tests.netns.namespaces import Lab, inside

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="makes network namespaces: needs root")

SITE = GuardedTunnel("site-b", "wg0", ("10.20.0.0/16", "fd20::/16"))
FAR, FAR6 = "10.20.0.2", "fd20::2"
WAIT_S = 0.3


@pytest.fixture
def lab() -> Iterator[Lab]:
    with Lab() as lab:
        lab.add("host", "gw", "far")
        lab.veth(("host", "lan0", ("10.1.0.2/24", "fd01::2/64")), ("gw", "lan0", ("10.1.0.1/24", "fd01::1/64")))
        lab.veth(
            ("gw", "wg0", ("10.20.255.1/24", "fd20::ff01/128")), ("far", "wg0", ("10.20.255.2/24", "fd20::ff02/128"))
        )
        for address in (f"{FAR}/32", f"{FAR6}/128"):
            lab.ip("far", "address", "add", address, "dev", "lo")
        lab.veth(("gw", "wan0", ("192.0.2.1/24", "fd99::1/64")), ("far", "wan0", ("192.0.2.2/24", "fd99::2/64")))
        lab.forward("gw")
        for short in ("gw", "far"):  # like a WireGuard device: no neighbours to discover
            lab.ip(short, "link", "set", "wg0", "address", "02:00:00:00:00:20", "arp", "off")
        for route in ("default via 192.0.2.2", "10.20.0.0/16 dev wg0", "default via fd99::2", "fd20::/16 dev wg0"):
            lab.ip("gw", "route", "add", *route.split())
        for route in ("default via 10.1.0.1", "default via fd01::1"):
            lab.ip("host", "route", "add", *route.split())
        for route in ("10.1.0.0/24 dev wg0", "fd20::ff01/128 dev wg0", "fd01::/64 dev wg0"):
            lab.ip("far", "route", "add", *route.split())
        packets = Packets(lab)
        for pair in PROTECTED + ELSEWHERE:  # the first datagrams may wait for neighbours and carriers
            assert any(packets.pass_from(*pair) for _ in range(10)), pair
        yield lab


class Packets:
    """UDP between namespaces, one datagram at a time."""

    def __init__(self, lab: Lab) -> None:
        self._lab = lab

    def socket(self, short: str, address: str = "") -> socket.socket:
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        with inside(self._lab.name(short)):
            made = socket.socket(family, socket.SOCK_DGRAM)
        if address:
            made.bind((address, 0))
        made.settimeout(WAIT_S)
        return made

    def pass_from(self, source: tuple[str, str], target: tuple[str, str]) -> bool:
        """Whether a datagram from (namespace, address) arrives at another."""
        with self.socket(*source) as sender, self.socket(*target) as receiver:
            try:
                sender.sendto(b"probe", receiver.getsockname()[:2])
                return receiver.recv(16) == b"probe"
            except (PermissionError, TimeoutError, OSError):
                return False

    @contextmanager
    def captured(self, short: str, device: str) -> Iterator[Callable[[], list[bytes]]]:
        """The IP packets that a device sees come in."""
        with inside(self._lab.name(short)):
            tap = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(3))
        with tap:
            tap.bind((device, 3))
            tap.setblocking(False)

            def collect() -> list[bytes]:
                time.sleep(WAIT_S)
                found = []
                while True:
                    try:
                        packet, where = tap.recvfrom(2048)
                    except BlockingIOError:
                        return found
                    if where[2] != socket.PACKET_OUTGOING:
                        found.append(packet)

            yield collect


GW, GW6, HOST, HOST6 = ("gw", "10.20.255.1"), ("gw", "fd20::ff01"), ("host", "10.1.0.2"), ("host", "fd01::2")
FARS, FARS6 = ("far", FAR), ("far", FAR6)
PROTECTED = [
    (GW, FARS),
    (FARS, GW),
    (HOST, FARS),
    (FARS, HOST),
    (GW6, FARS6),
    (FARS6, GW6),
    (HOST6, FARS6),
    (FARS6, HOST6),
]
ELSEWHERE = [
    (("gw", "192.0.2.1"), ("far", "192.0.2.2")),
    (("far", "192.0.2.2"), ("gw", "192.0.2.1")),
    (HOST, ("far", "192.0.2.2")),
    (("gw", "fd99::1"), ("far", "fd99::2")),
    (("gw", "10.1.0.1"), HOST),
    (("gw", "127.0.0.1"), ("gw", "127.0.0.1")),
    (GW, GW),
]


def passing(packets: Packets, pairs: list[tuple[tuple[str, str], tuple[str, str]]]) -> list[bool]:
    return [packets.pass_from(*pair) for pair in pairs]


def guarded(lab: Lab, work: Callable[[Guard], Coroutine[Any, Any, None]]) -> None:
    """Run `work` with a guard of the gateway's namespace."""

    async def whole() -> None:
        with inside(lab.name("gw")):
            guard = Guard()
        try:
            await work(guard)
        finally:
            await guard.close()

    asyncio.run(whole())


def test_closed_until_opened_open_both_ways_and_shut_again(lab: Lab) -> None:
    async def work(guard: Guard) -> None:
        packets = Packets(lab)
        await guard.load([SITE])
        assert not any(passing(packets, PROTECTED))
        assert all(passing(packets, ELSEWHERE))
        await guard.open("site-b", boottime() + 60)
        assert all(passing(packets, PROTECTED))
        await guard.shut("site-b")
        assert not any(passing(packets, PROTECTED))
        assert all(passing(packets, ELSEWHERE))
        (state,) = await guard.show()
        assert (state.name, state.interface, state.open, state.left_s) == ("site-b", "wg0", False, 0.0)
        assert [str(prefix) for prefix in state.prefixes] == ["10.20.0.0/16", "fd20::/16"]
        assert state.dropped_out >= 8 and state.dropped_in >= 8
        await guard.remove()
        assert all(passing(packets, PROTECTED))

    guarded(lab, work)


def last_passage(packets: Packets, until: float) -> float:
    """When the last datagram passed, sent every 5 ms until `until`; CLOCK_BOOTTIME."""
    last = 0.0
    with packets.socket(*GW) as sender, packets.socket(*FARS) as receiver:
        receiver.settimeout(0.02)
        while boottime() < until:
            try:
                sender.sendto(b"probe", receiver.getsockname())
                receiver.recv(16)
                last = boottime()
            except (PermissionError, TimeoutError):
                pass
            time.sleep(0.005)
    return last


def test_expires_by_itself_at_the_deadline(lab: Lab) -> None:
    async def work(guard: Guard) -> None:
        packets = Packets(lab)
        await guard.load([SITE])
        deadline = boottime() + 1.5
        await guard.open("site-b", deadline)
        late_s = last_passage(packets, deadline + 1.5) - deadline
        print(f"last packet {late_s * 1000:+.0f} ms from the deadline")
        assert -0.2 < late_s <= 1.0
        assert await guard.remaining() == {}

    guarded(lab, work)


@pytest.mark.parametrize("ending", [signal.SIGKILL, signal.SIGSTOP])
def test_closes_at_the_deadline_when_the_process_is_killed_or_frozen(lab: Lab, ending: signal.Signals) -> None:
    program = """
        import asyncio
        from qhybridd.clock import boottime
        from qhybridd.guard import Guard, GuardedTunnel, service
        async def main():
            guard = Guard()
            await guard.load([GuardedTunnel("site-b", "wg0", ("10.20.0.0/16",))])
            while True:
                deadline = boottime() + 2.0
                await guard.open("site-b", deadline)
                print(deadline, flush=True)
                await asyncio.sleep(0.1)
        asyncio.run(main())
    """
    packets = Packets(lab)
    with inside(lab.name("gw")):
        child = subprocess.Popen([sys.executable, "-c", textwrap.dedent(program)], stdout=subprocess.PIPE, text=True)
    try:
        assert child.stdout is not None
        for _ in range(10):
            deadline = float(child.stdout.readline())
        assert packets.pass_from(GW, FARS)
        os.kill(child.pid, ending)
        os.set_blocking(child.stdout.fileno(), False)
        for line in child.stdout:
            deadline = float(line)
        late_s = last_passage(packets, deadline + 1.5) - deadline
        print(f"{ending.name}: last packet {late_s * 1000:+.0f} ms from the deadline")
        assert -0.2 < late_s <= 1.0
    finally:
        child.kill()
        child.wait()


class Stream:
    """Datagrams every 2 ms, from the gateway or through it, counted at the far end."""

    def __init__(self, packets: Packets, source: tuple[str, str]) -> None:
        self._sender, self._receiver = packets.socket(*source), packets.socket(*FARS)
        self._receiver.setsockopt(socket.SOL_SOCKET, 33, 1 << 22)  # SO_RCVBUFFORCE
        self.sent = 0
        self.enough = threading.Event()

    def run(self) -> int:
        """Send until `enough` is set; how many were lost."""
        target = self._receiver.getsockname()
        while not self.enough.is_set():
            with suppress(PermissionError):
                self._sender.sendto(self.sent.to_bytes(4, "big"), target)
            self.sent += 1
            time.sleep(0.002)
        received = set()
        try:
            while len(received) < self.sent:
                received.add(self._receiver.recv(16))
        except TimeoutError:
            pass
        self._sender.close()
        self._receiver.close()
        return self.sent - len(received)


@pytest.mark.parametrize("source", [GW, HOST])
def test_renewals_under_a_stream_lose_no_packet(lab: Lab, source: tuple[str, str]) -> None:
    async def work(guard: Guard) -> None:
        await guard.load([SITE, GuardedTunnel("other", "wg9", ("10.30.0.0/16",))])
        await guard.open("site-b", boottime() + 1)
        renewals = 1000
        stream = Stream(Packets(lab), source)
        sending = asyncio.create_task(asyncio.to_thread(stream.run))
        for _ in range(renewals):
            await asyncio.gather(*(guard.open(name, boottime() + 0.5) for name in ("site-b", "other")))
            await asyncio.sleep(0.003)
        stream.enough.set()
        lost = await sending
        print(f"{renewals} renewals, {stream.sent} packets, {lost} lost")
        assert stream.sent > 500 and lost == 0

    guarded(lab, work)


def test_a_load_under_a_stream_loses_no_packet(lab: Lab) -> None:
    async def work(guard: Guard) -> None:
        await guard.load([SITE])
        await guard.open("site-b", boottime() + 30)
        stream = Stream(Packets(lab), HOST)
        sending = asyncio.create_task(asyncio.to_thread(stream.run))
        for loads in range(25):
            more = [GuardedTunnel(f"t{i}", "wg9", (f"10.30.{i}.0/24",)) for i in range(loads % 7)]
            await guard.load([SITE, *more])
        stream.enough.set()
        lost = await sending
        print(f"25 loads, {stream.sent} packets, {lost} lost")
        assert stream.sent > 500 and lost == 0

    guarded(lab, work)


@pytest.mark.parametrize("loss", ["device", "route", "address of the tunnel spoofed"])
def test_a_protected_prefix_finds_no_way_around(lab: Lab, loss: str) -> None:
    async def work(guard: Guard) -> None:
        packets = Packets(lab)
        await guard.load([SITE])
        await guard.open("site-b", boottime() + 60)
        assert packets.pass_from(GW, FARS) and packets.pass_from(HOST, FARS)
        if loss == "device":
            lab.ip("gw", "link", "del", "wg0")
        elif loss == "route":
            lab.ip("gw", "route", "del", "10.20.0.0/16")
            lab.ip("gw", "-6", "route", "del", "fd20::/16")
        lab.ip("far", "route", "replace", "10.1.0.0/24", "via", "192.0.2.1")
        with packets.captured("far", "wan0") as collect:
            if loss.startswith("address"):
                lab.ip("far", "address", "add", "10.20.7.7/32", "dev", "lo")
                assert not packets.pass_from(("far", "10.20.7.7"), HOST)  # comes in by wan0
                return
            assert not packets.pass_from(("gw", "192.0.2.1"), FARS)
            assert not packets.pass_from(HOST, FARS)
            assert not packets.pass_from(("gw", "fd99::1"), FARS6)
            assert not packets.pass_from(HOST6, FARS6)
            leaked = [packet for packet in collect() if packet[9:10] == b"\x11" or packet[6:7] == b"\x11"]
        assert leaked == []
        assert all(passing(packets, ELSEWHERE[:5]))
        await guard.remove()
        assert packets.pass_from(("gw", "192.0.2.1"), FARS)  # it would have found that way

    guarded(lab, work)


def test_what_is_not_protected_does_not_pass_a_guarded_interface(lab: Lab) -> None:
    async def work(guard: Guard) -> None:
        packets = Packets(lab)
        lab.ip("far", "address", "add", "10.77.0.2/32", "dev", "lo")
        lab.ip("gw", "route", "add", "10.77.0.0/16", "dev", "wg0")
        assert packets.pass_from(GW, ("far", "10.77.0.2"))
        await guard.load([SITE])
        await guard.open("site-b", boottime() + 60)
        assert packets.pass_from(GW, FARS)
        assert not packets.pass_from(GW, ("far", "10.77.0.2"))
        assert not packets.pass_from(("far", "10.77.0.2"), GW)

    guarded(lab, work)


def test_overlapping_prefixes_and_exceptions(lab: Lab) -> None:
    async def work(guard: Guard) -> None:
        packets = Packets(lab)
        for address in ("10.20.5.2/32", "10.20.6.2/32"):
            lab.ip("far", "address", "add", address, "dev", "lo")
        wide = GuardedTunnel("wide", "wg0", ("10.20.0.0/16",), ("10.20.6.0/24",))
        narrow = GuardedTunnel("narrow", "wg0", ("10.20.5.0/24",))
        elsewhere = GuardedTunnel("narrow", "wg1", ("10.20.5.0/24",))
        await guard.load([wide, narrow])
        await guard.open("wide", boottime() + 60)
        assert packets.pass_from(GW, FARS)
        assert not packets.pass_from(GW, ("far", "10.20.5.2"))
        assert not packets.pass_from(GW, ("far", "10.20.6.2"))  # not protected, but on a guarded interface
        await guard.open("narrow", boottime() + 60)
        assert packets.pass_from(GW, ("far", "10.20.5.2"))
        await guard.load([wide, elsewhere])  # another interface: closed, and not this way
        assert list(await guard.remaining()) == ["wide"]
        await guard.open("narrow", boottime() + 60)
        assert not packets.pass_from(GW, ("far", "10.20.5.2"))
        lab.ip("gw", "route", "add", "10.20.6.0/24", "via", "192.0.2.2")
        assert packets.pass_from(("gw", "192.0.2.1"), ("far", "10.20.6.2"))  # excepted: may go another way

    guarded(lab, work)


def test_a_tunnel_for_all_of_ipv6_leaves_neighbour_discovery_alone(lab: Lab) -> None:
    async def work(guard: Guard) -> None:
        packets = Packets(lab)
        await guard.load([GuardedTunnel("all", "wg0", ("::/0",))])
        link_local = (
            lab.ip("far", "-6", "-o", "address", "show", "dev", "wan0", "scope", "link").split()[3].split("/")[0]
        )
        for short in ("gw", "far"):
            lab.ip(short, "-6", "neighbour", "flush", "dev", "wan0")
        lab.run("gw", "ping", "-6", "-c", "1", "-W", "1", f"{link_local}%wan0")
        lab.ip("far", "-6", "neighbour", "flush", "dev", "wan0")
        assert not packets.pass_from(("far", "fd99::2"), ("gw", "fd99::1"))
        entry = lab.ip("far", "-6", "neighbour", "show", "fd99::1", "dev", "wan0")
        assert "lladdr" in entry, entry  # found by a solicitation from a protected address
        assert not packets.pass_from(("gw", "fd99::1"), ("far", "fd99::2"))
        lab.ip("gw", "-6", "neighbour", "flush", "dev", "wan0")
        await guard.load([GuardedTunnel("all", "wg0", ("::/0",), ("fd99::/64",))])
        assert packets.pass_from(("gw", "fd99::1"), ("far", "fd99::2"))
        assert not packets.pass_from(GW6, FARS6)
        await guard.open("all", boottime() + 60)
        assert packets.pass_from(GW6, FARS6)

    guarded(lab, work)


def test_a_later_process_adopts_what_is_open_with_the_time_left(lab: Lab) -> None:
    gone = GuardedTunnel("gone", "wg0", ("10.30.0.0/16",))

    async def first(guard: Guard) -> None:
        await guard.load([SITE, gone])
        await guard.open("site-b", boottime() + 5)
        await guard.open("site-b", boottime() + 20)
        await guard.open("gone", boottime() + 20)

    async def second(guard: Guard) -> None:
        packets = Packets(lab)
        assert [state.name for state in await guard.show() if state.open] == ["gone", "site-b"]
        await guard.load([SITE, GuardedTunnel("new", "wg0", ("10.40.0.0/16",))])
        left = await guard.remaining()
        assert list(left) == ["site-b"] and 18 < left["site-b"] <= 20
        assert packets.pass_from(GW, FARS)
        await guard.open("site-b", boottime() + 30)  # the set that ends first is renewed, so the other one holds
        assert 28 < (await guard.remaining())["site-b"] <= 30
        assert [state.name for state in await guard.show()] == ["new", "site-b"]

    guarded(lab, first)
    guarded(lab, second)


def test_an_earlier_deadline_counts_and_a_past_one_shuts(lab: Lab) -> None:
    async def work(guard: Guard) -> None:
        await guard.load([SITE])
        for _ in range(3):
            await guard.open("site-b", boottime() + 60)
        await guard.open("site-b", boottime() + 10)
        assert 9 < (await guard.remaining())["site-b"] <= 10
        await guard.open("site-b", boottime() - 1)
        assert await guard.remaining() == {}
        await guard.open("site-b", boottime() + 0.01)  # too short for the kernel's clock
        assert await guard.remaining() == {}
        with pytest.raises(ProgramError):
            await guard.open("site-b", float("inf"))
        with pytest.raises(ProgramError):
            await guard.open("nobody", boottime() + 10)

    guarded(lab, work)


def test_a_renewal_that_was_frozen_on_its_way_is_corrected(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """Frozen for 3 s between reading the clock and the system call: the timeouts were 3 s too long."""
    late_s = iter([3.0])

    async def work(guard: Guard) -> None:
        await guard.load([SITE])
        monkeypatch.setattr(service, "boottime", lambda: boottime() - next(late_s, 0.0))
        await guard.open("site-b", boottime() + 2)
        assert 0 < (await guard.remaining())["site-b"] <= 2

    guarded(lab, work)


def test_a_refused_load_changes_nothing(lab: Lab) -> None:
    async def work(guard: Guard) -> None:
        await guard.load([SITE])
        await guard.open("site-b", boottime() + 60)
        with pytest.raises(OperatorError) as caught:
            await guard.load([SITE, GuardedTunnel("twin", "wg1", ("10.20.0.0/16",))])
        assert caught.value.code == "config.duplicate"
        assert "site-b" in await guard.remaining()
        assert [state.name for state in await guard.show()] == ["site-b"]

    guarded(lab, work)


def test_an_element_without_an_end_goes_at_the_next_load(lab: Lab) -> None:
    """Somebody opened the tunnel by hand, for ever: a load does not adopt that."""

    async def work(guard: Guard) -> None:
        await guard.load([SITE])
        lab.run("gw", "nft", "add", "element", "inet", "qhybridd", "live_site-b_a", "{ wg0 }")
        assert (await guard.remaining())["site-b"] == float("inf")
        await guard.load([SITE])
        assert await guard.remaining() == {}

    guarded(lab, work)


def test_the_operators_tables_stay_and_nft_lists_and_reads_back_ours(lab: Lab) -> None:
    theirs = (
        "table inet filter {\n\tchain input {\n\t\ttype filter hook input priority filter; policy accept;\n\t}\n}\n"
    )

    async def work(guard: Guard) -> None:
        lab.nft("gw", theirs)
        await guard.load(
            [SITE, GuardedTunnel("9-all.of_it", "wg1", ("0.0.0.0/0", "::/0"), ("192.0.2.0/24", "fd99::/64"))]
        )
        await guard.open("site-b", boottime() + 60)
        assert lab.run("gw", "nft", "list", "table", "inet", "filter") == theirs
        ours = lab.run("gw", "nft", "list", "table", "inet", "qhybridd")
        assert 'iifname @live_site-b_a accept comment "open"' in ours
        lab.run("gw", "nft", "-j", "list", "ruleset")
        everything = lab.run("gw", "nft", "list", "ruleset")
        assert "inet filter" in everything and "inet qhybridd" in everything
        lab.nft("far", everything)  # what nft prints, nft understands
        await guard.remove()
        assert lab.run("gw", "nft", "list", "ruleset") == theirs

    guarded(lab, work)


def test_many_tunnels_are_renewed_together(lab: Lab) -> None:
    async def work(guard: Guard) -> None:
        names = [f"tunnel-{i}" for i in range(500)]
        began = time.monotonic()
        await guard.load([GuardedTunnel(name, "wg0", (f"10.{i >> 8}.{i & 255}.0/24",)) for i, name in enumerate(names)])
        loaded = time.monotonic()
        await asyncio.gather(*(guard.open(name, boottime() + 60) for name in names))
        opened = time.monotonic()
        assert len(await guard.remaining()) == 500
        print(f"500 tunnels loaded in {(loaded - began) * 1000:.0f} ms, opened in {(opened - loaded) * 1000:.0f} ms")
        assert opened - loaded < 1.0

    guarded(lab, work)


@pytest.mark.parametrize("harm", ["flush ruleset", "flush table inet qhybridd", "delete table inet qhybridd"])
def test_what_others_take_away_is_seen_and_what_they_add_elsewhere_is_not(lab: Lab, harm: str) -> None:
    async def work(guard: Guard) -> None:
        await guard.load([SITE])
        assert not await guard.disturbed()
        seen = guard._generation
        await guard.open(SITE.name, boottime() + 5.0)
        await guard.shut(SITE.name)
        assert guard._generation == seen + 2, "our own changes cost no look at the rules"
        lab.run("gw", "nft", "add", "table", "inet", "others")
        assert not await guard.disturbed()
        lab.run("gw", "nft", *harm.split())
        assert await guard.disturbed() and await guard.disturbed()
        await guard.load([SITE])
        assert not await guard.disturbed()

    guarded(lab, work)
