"""The policies of XFRM tunnels, and what needs no ESP in the kernel: they block where no association can be."""

import asyncio
import os
import socket
from collections.abc import Iterator
from dataclasses import replace
from ipaddress import ip_network
from pathlib import Path

import pytest

from qhybridd.errors import HostError, ProgramError
from qhybridd.netlink.xfrm_records import Direction, SecurityPolicy
from qhybridd.targets.esp_selectors import ProtectedTunnel, protected_of
from tests.kernel.esp_world import Capture, End, Ends, Shape, Stream, in_clear, passes, run, running, world
from tests.netns.namespaces import inside

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="makes network namespaces: needs root")


@pytest.fixture
def ends(tmp_path: Path) -> Iterator[Ends]:
    with world(tmp_path, Shape()) as made:
        yield made


def ours(end: End) -> list[SecurityPolicy]:
    with end.kernel() as kernel:
        found = [p for p in kernel.dump_policies() if p.template and p.template.reqid == end.esp.reqid]
    return sorted(found, key=repr)


@pytest.mark.parametrize("shape", [Shape(), Shape(outer=6, inner=6), Shape(mode="transport")], ids=str)
def test_policies_block_without_an_association(shape: Shape, tmp_path: Path) -> None:
    async def work(ends: Ends) -> None:
        a, b = ends
        wire = Capture(a, b)
        if shape.mode == "tunnel":
            b.lab.run(b.short, "ping", "-c", "1", "-W", "5", str(a.esp.local))  # not protected; b knows a's device now
        assert not passes(a, b) and not passes(b, a)
        await b.xfrm.protect([])
        assert not passes(b, a)  # a lets nothing in that is in clear
        assert in_clear(wire.frames()), "it was sent"
        assert not ours(b) and len(ours(a)) == 5
        wire.close()

    with world(tmp_path, shape) as ends:
        run(ends, work)


def test_policies_stay_when_the_program_ends_and_go_with_the_tunnel(ends: Ends) -> None:
    async def work(ends: Ends) -> None:
        a, _ = ends
        a.ip("xfrm", "policy", "add", "src", "10.1.1.0/24", "dst", "10.9.0.0/16", "dir", "out")
        theirs = a.ip("xfrm", "policy", "list", "dst", "10.9.0.0/16")
        before = ours(a)
        await a.xfrm.close()
        assert ours(a) == before
        a.begin()
        with pytest.raises(ProgramError):
            await a.target.reserve()  # nobody said what it protects
        await a.protect()
        assert ours(a) == before
        wider = replace(a.config, protects=(ip_network("10.2.0.0/16"),))
        await a.xfrm.protect([protected_of(wider)])
        assert {p.selector.destination for p in ours(a) if p.direction is Direction.OUT and not p.mark} == {
            ip_network("10.2.0.0/16")
        }
        await a.xfrm.protect([])
        assert ours(a) == []
        assert theirs and a.ip("xfrm", "policy", "list", "dst", "10.9.0.0/16") == theirs

    run(ends, work)


def test_flushed_policies_come_back(ends: Ends) -> None:
    async def work(ends: Ends) -> None:
        a, b = ends
        before = ours(a)
        watch = asyncio.create_task(a.xfrm.changed())
        await a.protect()
        await asyncio.sleep(0.2)
        assert not watch.done()  # nothing was to do, and what this program does is no news
        words = ("src", "10.9.0.0/16", "dst", "10.8.0.0/16", "dir", "in")
        a.ip("xfrm", "policy", "add", *words)
        a.ip("xfrm", "policy", "delete", *words)
        await asyncio.sleep(0.2)
        assert not watch.done()  # nor what others do among themselves
        a.ip("xfrm", "policy", "delete", "src", "10.2.2.0/24", "dst", "10.1.1.0/24", "dir", "fwd")
        await asyncio.wait_for(watch, 2)
        assert len(ours(a)) == len(before) - 1
        await a.protect()
        assert ours(a) == before
        watch = asyncio.create_task(a.xfrm.changed())
        a.ip("xfrm", "policy", "flush")
        await asyncio.wait_for(watch, 2)
        assert ours(a) == []
        await a.protect()
        assert ours(a) == before
        assert not passes(a, b)

    run(ends, work)


def test_a_policy_in_the_way_is_a_conflict_and_stays(ends: Ends) -> None:
    async def whole() -> None:
        a, _ = ends
        words = ("src", "10.1.1.0/24", "dst", "10.2.2.0/24", "dir", "out")
        template = ("tmpl", "src", "192.0.2.1", "dst", "192.0.2.9", "proto", "esp", "reqid", "7", "mode", "tunnel")
        a.ip("xfrm", "policy", "add", *words, "priority", "1000", *template)
        before = a.ip("xfrm", "policy", "get", *words)
        async with running(ends, protected=False):
            with pytest.raises(HostError, match="another program has the policy out") as caught:
                await a.protect()
            assert caught.value.code == "host.conflict"
            assert {Direction.IN, Direction.FORWARD} <= {policy.direction for policy in ours(a)}  # the others stand
            for verb in (a.target.reserve, a.target.close):
                with pytest.raises(HostError) as caught:
                    await verb()
                assert caught.value.code == "host.conflict"
            assert a.ip("xfrm", "policy", "get", *words) == before
            a.ip("xfrm", "policy", "delete", *words)
            await a.protect()
            await a.target.reserve()

    asyncio.run(whole())


def test_exceptions_and_other_tunnels_prefixes_pass(ends: Ends) -> None:
    async def work(ends: Ends) -> None:
        a, b = ends
        other = ProtectedTunnel("wg", (ip_network("10.2.2.1/32"),), (), None)
        await b.protect()
        await a.protect(other)  # a more specific prefix of a tunnel over WireGuard: not ours
        stream = Stream(a, b, 100)
        stream.send()
        assert stream.refused == 0
        stream.close()
        await a.protect()
        assert not passes(a, b)
        hole = replace(a.config, excepts=(ip_network("10.2.2.0/25"),))
        await a.xfrm.protect([protected_of(hole)])
        stream = Stream(a, b, 100)
        stream.send()
        assert stream.refused == 0  # it leaves as it is; b, which knows of no exception, drops it
        assert stream.received() == []
        stream.close()
        await b.xfrm.protect([replace(protected_of(b.config), excepts=(ip_network("10.1.1.0/25"),))])
        assert passes(a, b)
        await a.protect()
        with a.kernel() as kernel:
            assert all(policy.template for policy in kernel.dump_policies()), "the exception went with its tunnel"

    run(ends, work)


def test_a_reservation_that_came_to_nothing_is_let_go(ends: Ends) -> None:
    async def work(ends: Ends) -> None:
        a, _ = ends
        for _ in range(5):
            await a.target.reserve()
        with a.kernel() as kernel:
            assert len([state for state in kernel.dump_sas() if state.reqid == a.esp.reqid]) == 1
        await a.target.close()
        with a.kernel() as kernel:
            assert not [state for state in kernel.dump_sas() if state.reqid == a.esp.reqid]

    run(ends, work)


def test_the_port_of_encapsulation_is_taken(tmp_path: Path) -> None:
    async def work(ends: Ends) -> None:
        a, _ = ends
        with inside(a.namespace), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
            other.bind((str(a.esp.local), 4500))
            with pytest.raises(HostError) as caught:
                await a.target.reserve()
            assert caught.value.code == "host.socket"
        await a.target.reserve()

    with world(tmp_path, Shape(encapsulation=4500)) as ends:
        run(ends, work)
