"""The guard with real packets, from load to removal (tests/netns/guard_world.py)."""

import asyncio
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator

import pytest

from qhybridd.clock import boottime
from qhybridd.errors import OperatorError, ProgramError
from qhybridd.guard import Guard, GuardedTunnel, table
from tests.netns.guard_world import (
    ELSEWHERE,
    ESPS,
    FARS,
    FARS6,
    GW,
    GW6,
    HOST,
    HOST6,
    PROTECTED,
    SITE,
    cables,
    guarded,
    passing,
)
from tests.netns.namespaces import Lab, inside
from tests.netns.packets import Packets, Stream

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="makes network namespaces: needs root")


@pytest.fixture
def lab() -> Iterator[Lab]:
    with cables() as lab:
        yield lab


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
        from qhybridd.guard import Guard, GuardedEsp, GuardedTunnel, table
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


@pytest.mark.parametrize("source", [GW, HOST])
def test_renewals_under_a_stream_lose_no_packet(lab: Lab, source: tuple[str, str]) -> None:
    async def work(guard: Guard) -> None:
        await guard.load([SITE, GuardedTunnel("other", "wg9", ("10.30.0.0/16",))])
        await guard.open("site-b", boottime() + 4)
        renewals, longest_s, before = 1000, 0.0, time.monotonic()
        stream = Stream(Packets(lab), source, FARS)
        sending = asyncio.create_task(asyncio.to_thread(stream.run))
        for _ in range(renewals):
            await asyncio.gather(*(guard.open(name, boottime() + 3) for name in ("site-b", "other")))
            await asyncio.sleep(0.003)
            now = time.monotonic()
            longest_s, before = max(longest_s, now - before), now
        stream.enough.set()
        lost = await sending
        dropped = sum(state.dropped_out + state.dropped_in for state in await guard.show())
        print(f"{renewals} renewals at most {longest_s * 1000:.0f} ms apart, {stream.sent} packets, {lost} lost")
        print(f"{dropped} dropped by the guard")
        assert stream.sent > 500 and lost == 0

    guarded(lab, work)


def test_a_load_under_a_stream_loses_no_packet(lab: Lab) -> None:
    async def work(guard: Guard) -> None:
        await guard.load([SITE])
        await guard.open("site-b", boottime() + 30)
        stream = Stream(Packets(lab), HOST, FARS)
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
        monkeypatch.setattr(table, "boottime", lambda: boottime() - next(late_s, 0.0))
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


def test_the_operators_tables_stay_and_nft_lists_and_reads_back_ours(lab: Lab) -> None:
    theirs = (
        "table inet filter {\n\tchain input {\n\t\ttype filter hook input priority filter; policy accept;\n\t}\n}\n"
    )

    async def work(guard: Guard) -> None:
        lab.nft("gw", theirs)
        everywhere = GuardedTunnel("9-all.of_it", "wg1", ("0.0.0.0/0", "::/0"), ("192.0.2.0/24", "fd99::/64"))
        await guard.load([SITE, everywhere, *ESPS])
        await guard.open("esp6", boottime() + 60)
        await guard.open("site-b", boottime() + 60)
        assert lab.run("gw", "nft", "list", "table", "inet", "filter") == theirs
        ours = lab.run("gw", "nft", "list", "table", "inet", "qhybridd")
        assert 'iifname @live_site-b_a accept comment "open"' in ours
        assert 'ipsec out reqid @esp_esp6_a accept comment "open"' in ours
        assert 'meta mark 0x51000007 ipsec out reqid 1358954503 accept comment "probe"' in ours
        at_devices = lab.run("gw", "nft", "list", "table", "netdev", "qhybridd")
        assert 'oifname @live_site-b_a accept comment "open"' in at_devices and "live_esp4" not in at_devices
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
