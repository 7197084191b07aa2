"""The XFRM target on a kernel with ESP: two of them in two namespaces, and real packets between them."""

import asyncio
import contextlib
import os
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from dataclasses import replace
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import pytest

from qhybridd.errors import HostError, ProgramError
from qhybridd.netlink.xfrm_records import Direction, SaId
from qhybridd.protocol.actions import EpochKeys
from qhybridd.secret import Secret
from qhybridd.targets.esp_selectors import protected_of
from qhybridd.targets.xfrm import GRACE_S, XfrmTarget
from tests.kernel.esp_world import (
    Capture,
    End,
    Ends,
    Shape,
    Stream,
    batch,
    has_esp,
    in_clear,
    passes,
    reserve,
    rotate,
    run,
    world,
)
from tests.netns.namespaces import inside
from tests.netns.namespaces import run as command

pytestmark = pytest.mark.skipif(not has_esp(), reason="this kernel has no ESP, or this is not root")

SHAPES = [
    Shape(),
    Shape(cipher="chacha20-poly1305"),
    Shape(outer=6, inner=6),
    Shape(outer=6, inner=4),
    Shape(outer=4, inner=6),
    Shape(mode="transport"),
    Shape(outer=6, mode="transport", cipher="chacha20-poly1305"),
    Shape(if_id=42),
    Shape(outer=6, inner=6, if_id=42),
    Shape(encapsulation=4500),
    Shape(outer=6, inner=6, encapsulation=4501),
    Shape(mode="transport", encapsulation=4500),
]


@pytest.fixture
def ends(tmp_path: Path) -> Iterator[Ends]:
    with world(tmp_path, Shape()) as made:
        yield made


async def wait_until(holds: Callable[[], bool], within_s: float) -> float:
    began = time.monotonic()
    while not holds():
        assert time.monotonic() < began + within_s, f"not within {within_s} s"
        await asyncio.sleep(0.05)
    return time.monotonic() - began


async def comes(awaited: Awaitable[object], within_s: float = 3.0) -> float:
    began = time.monotonic()
    await asyncio.wait_for(awaited, within_s)
    return time.monotonic() - began


def refused(keys: EpochKeys, verb: Callable[[EpochKeys], Awaitable[None]]) -> Coroutine[Any, Any, None]:
    async def work() -> None:
        with pytest.raises(ProgramError, match="used twice"):
            await verb(keys)

    return work()


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_from_closed_to_open_and_on(shape: Shape, tmp_path: Path) -> None:
    """Nothing leaves before the first key; idle tunnels prove themselves; traffic passes, and none of it in clear."""

    async def work(ends: Ends) -> None:
        a, b = ends
        wire = Capture(a, b)
        assert not passes(a, b) and not passes(b, a)
        began = time.monotonic()
        await rotate(ends, 1, reset=True)  # no packet but the probes: they are the proof
        print(f"{shape}: proven at both ends {time.monotonic() - began:.2f} s after it was begun")
        assert passes(a, b) and passes(b, a)
        await rotate(ends, 2)
        assert passes(a, b) and passes(b, a)
        frames = wire.frames()
        wire.close()
        assert len(frames) > 12 and not in_clear(frames)
        with a.kernel() as kernel:
            states = [state for state in kernel.dump_sas() if state.reqid == a.esp.reqid and state.valid]
        assert {state.mode for state in states} == {shape.mode == "tunnel"}
        assert {state.replay_window for state in states} == {1024}  # zero without extended sequence numbers
        assert {(state.if_id, state.encapsulation) for state in states} == {(shape.if_id, shape.encapsulation)}
        kind = "rfc7539esp(chacha20,poly1305)" if "chacha" in shape.cipher else "rfc4106(gcm(aes))"
        assert {state.cipher for state in states} == {kind}

    with world(tmp_path, shape) as ends:
        run(ends, work)


def test_rotations_under_traffic_lose_nothing(ends: Ends) -> None:
    async def work(ends: Ends) -> None:
        await rotate(ends, 1, reset=True)
        wire = Capture(*ends)
        streams = [Stream(*ends, 200), Stream(*ends[::-1], 200)]
        for stream in streams:
            stream.start()
        began = time.monotonic()
        for epoch in range(2, 22):
            at = time.monotonic()
            await rotate(ends, epoch)
            await asyncio.sleep(max(0.0, at + 0.5 - time.monotonic()))
        for stream in streams:
            await asyncio.to_thread(stream.stop)
        took_s, clear = time.monotonic() - began, in_clear(wire.frames())
        for name, stream in zip(("a to b", "b to a"), streams, strict=True):
            came = stream.received()
            print(f"{name}: {stream.sent} sent, {len(came)} came, 20 rotations, {took_s:.1f} s, {clear} in clear")
            assert (stream.refused, sorted(came)) == (0, list(range(stream.sent)))
            stream.close()
        wire.close()
        assert not clear
        assert len(ends[0].associations()) <= 2 * 9  # within the grace those of the last rotations
        await wait_until(lambda: all(len(end.associations()) == 2 for end in ends), GRACE_S + 3)

    run(ends, work)


def test_old_associations_stay_for_the_grace(ends: Ends) -> None:
    async def work(ends: Ends) -> None:
        await rotate(ends, 1, reset=True)
        old = ends[0].associations()
        await rotate(ends, 2)
        began = time.monotonic()
        while (elapsed := time.monotonic() - began) < GRACE_S - 1:
            assert old < ends[0].associations(), f"gone after {elapsed:.1f} s"
            await asyncio.sleep(0.2)
        await wait_until(lambda: not old & ends[0].associations(), 4)

    run(ends, work)


def test_close_blocks_and_a_reset_opens_again(ends: Ends) -> None:
    async def work(ends: Ends) -> None:
        a, b = ends
        await rotate(ends, 1, reset=True)
        assert passes(a, b)
        policies = sorted(a.ip("xfrm", "policy").split("\n"))
        wire = Capture(*ends)
        await a.target.close()
        assert not a.associations()
        assert not passes(a, b) and not passes(b, a)
        assert not in_clear(wire.frames())
        wire.close()
        left = sorted(line for line in a.ip("xfrm", "policy").split("\n"))
        assert len(left) == len(policies) and not any("spi" in line for line in left)
        assert (await a.target.inspect()).tag == b""
        await rotate(ends, 2, reset=True)  # b still has associations of epoch 1: they go
        assert passes(a, b) and passes(b, a)
        assert len(b.associations()) == 2

    run(ends, work)


def test_the_other_end_may_still_send_by_the_old_key(ends: Ends) -> None:
    """Between the two activations each end sends by another epoch."""

    async def work(ends: Ends) -> None:
        a, b = ends
        await rotate(ends, 1, reset=True)
        keys = await reserve(ends, 2)
        await a.target.stage(keys[0])
        assert passes(a, b) and passes(b, a)
        await b.target.stage(keys[1])
        await b.target.activate(keys[1])
        assert passes(a, b) and passes(b, a)  # b sends by the new one, a by the old one
        with pytest.raises(TimeoutError):
            await comes(b.target.observe(2, kick=True), 0.6)
        await comes(a.target.observe(2, kick=False))
        assert await a.target.straddle(1, keys[0]) == 2  # in doubt: the packet on the new association settles it
        await comes(b.target.observe(2, kick=False))
        assert passes(a, b) and passes(b, a)
        await a.target.activate(keys[0])  # again, as after a straddle that was cancelled when it was done
        assert passes(a, b)

    run(ends, work)


def test_a_straddle_waits_and_never_returns_the_old_epoch(ends: Ends) -> None:
    async def work(ends: Ends) -> None:
        a, b = ends
        await rotate(ends, 1, reset=True)
        keys = await reserve(ends, 2)
        await a.target.stage(keys[0])
        with pytest.raises(TimeoutError):
            await comes(a.target.straddle(1, keys[0]), 1.0)
        assert passes(a, b) and passes(b, a)  # under the old key, which nobody retired
        await rotate(ends, 3)  # the attempt before came to nothing
        assert passes(a, b) and passes(b, a)
        await wait_until(lambda: len(a.associations()) == 2, GRACE_S + 3)

    run(ends, work)


def test_a_key_is_never_installed_twice(ends: Ends) -> None:
    async def work(ends: Ends) -> None:
        a, b = ends
        keys = await rotate(ends, 1, reset=True)
        assert passes(a, b)
        for verb in (a.target.stage, b.target.stage):
            await refused(keys[verb == b.target.stage], verb)
        await a.target.close()
        again = replace(keys[0], offer=(await a.target.reserve()).offer)
        for tried in (a.target.stage, a.target.activate, a.target.reset):
            await refused(again, tried)
        # half of it: the key of one direction is an old one
        fresh, _ = await reserve(ends, 2)
        with keys[0].esp_out.expose() as old:
            await refused(replace(fresh, esp_out=Secret.adopt(bytes(old))), a.target.stage)
        # and after a restart, whether the associations are there yet or not
        standing, peers = await rotate(ends, 3, reset=True)
        await a.xfrm.close()
        a.begin()
        await a.protect()
        for flushed in (False, True):
            if flushed:
                a.ip("xfrm", "state", "flush")
            for verb in (a.target.activate, a.target.reset):
                await refused(replace(standing, offer=(await a.target.reserve()).offer), verb)
        await b.target.close()
        await refused(replace(peers, offer=(await b.target.reserve()).offer), b.target.activate)
        await a.target.close()
        await a.xfrm.close()
        a.begin()
        await a.protect()
        again = replace(keys[0], offer=(await a.target.reserve()).offer)
        for tried in (a.target.stage, a.target.activate, a.target.reset):
            await refused(again, tried)
        assert not a.associations()
        # the same keys for both directions would be nonces twice as well
        fresh, _ = await reserve(ends, 5)
        await refused(replace(fresh, esp_out=fresh.esp_in), a.target.stage)
        await rotate(ends, 6, reset=True)
        assert passes(a, b)

    run(ends, work)


def test_a_restart_goes_on_without_a_gap(ends: Ends) -> None:
    async def work(ends: Ends) -> None:
        a, _ = ends
        keys = await rotate(ends, 1, reset=True)
        streams = [Stream(*ends, 100), Stream(*ends[::-1], 100)]
        for stream in streams:
            stream.start()
        await asyncio.sleep(0.3)
        await a.xfrm.close()
        await asyncio.sleep(0.3)
        a.begin()
        await a.protect()
        assert (await a.target.inspect()).tag == keys[0].tag
        assert await a.target.check(keys[0].tag) is None
        await rotate(ends, 2)
        for stream in streams:
            await asyncio.to_thread(stream.stop)
            came = stream.received()
            assert (stream.refused, sorted(came)) == (0, list(range(stream.sent)))
            stream.close()
        assert (await a.target.inspect()).tag != keys[0].tag
        await wait_until(lambda: len(a.associations()) == 2, GRACE_S + 3)

    run(ends, work)


def test_another_programs_associations_and_policies_are_left_alone(ends: Ends) -> None:
    async def work(ends: Ends) -> None:
        a, b = ends
        key = "0x" + "42" * 36
        aead = ("aead", "rfc4106(gcm(aes))", key, "128")
        for spi, reqid in (("0x1000", "1"), ("0x1001", "0")):
            ends_ = ("src", str(a.esp.local), "dst", str(a.esp.remote), "proto", "esp", "spi", spi)
            a.ip("xfrm", "state", "add", *ends_, "reqid", reqid, "mode", "tunnel", *aead)
        template = ("tmpl", "src", str(a.esp.local), "dst", str(a.esp.remote), "proto", "esp", "reqid", "1", "mode")
        near, far = "10.1.1.0/24", "10.2.0.0/16"
        a.ip("xfrm", "policy", "add", "src", near, "dst", far, "dir", "out", "priority", "375423", *template, "tunnel")
        a.ip("xfrm", "policy", "add", "src", "10.9.0.0/16", "dst", "10.8.0.0/16", "dir", "in")  # it passes, as ours do
        a.ip("xfrm", "policy", "add", "src", near, "dst", "10.2.2.128/25", "dir", "out", "action", "block")

        def foreign() -> list[str]:
            with a.kernel() as kernel:
                policies = [
                    repr(policy)
                    for policy in kernel.dump_policies()
                    if policy.template is None or policy.template.reqid != a.esp.reqid
                ]
                states = [repr(state) for state in kernel.dump_sas() if state.reqid in (0, 1)]
            return sorted(policies + states)

        before = foreign()
        assert len(before) == 5
        await rotate(ends, 1, reset=True)
        assert passes(a, b)
        await rotate(ends, 2)
        await a.target.close()
        await a.xfrm.protect([])
        assert foreign() == before
        with a.kernel() as kernel:
            ours = [p for p in kernel.dump_policies() if p.template and p.template.reqid == a.esp.reqid]
        assert not ours and not a.associations()

    run(ends, work)


def test_an_association_in_the_way_is_a_conflict_and_stays(ends: Ends) -> None:
    async def work(ends: Ends) -> None:
        a, _ = ends
        keys = await reserve(ends, 1)
        spi = int.from_bytes(keys[0].peer_offer[-4:], "big")
        where = ("src", str(a.esp.local), "dst", str(a.esp.remote), "proto", "esp", "spi", hex(spi))
        a.ip("xfrm", "state", "add", *where, "mode", "tunnel", "aead", "rfc4106(gcm(aes))", "0x" + "42" * 36, "128")
        before = a.ip("xfrm", "state", "get", *where)
        await a.target.stage(keys[0])
        with pytest.raises(HostError) as caught:
            await a.target.activate(keys[0])
        assert caught.value.code == "host.conflict"
        await a.target.close()
        assert a.ip("xfrm", "state", "get", *where) == before

    run(ends, work)


def test_what_others_change_is_noticed_at_once(ends: Ends) -> None:
    async def work(ends: Ends) -> None:
        a, b = ends
        keys = await rotate(ends, 1, reset=True)
        assert await a.target.check(keys[0].tag) is None
        watch = asyncio.create_task(a.xfrm.changed())
        await rotate(ends, 2)  # our own changes are no news
        await asyncio.sleep(GRACE_S + 0.5)
        assert not watch.done()

        watch.cancel()
        near, far = "10.1.1.0/24", "10.2.2.0/24"
        cases = (
            ("inbound", ("state", "flush")),
            ("deleted the policy", ("policy", "flush")),
            ("deleted the policy out", ("policy", "delete", "src", near, "dst", far, "dir", "out")),
            ("changed the policy in", ("policy", "update", "src", far, "dst", near, "dir", "in")),
        )
        for epoch, (what, words) in enumerate(cases, 3):
            keys = await rotate(ends, epoch, reset=True)
            watch = asyncio.create_task(a.xfrm.changed())
            await asyncio.sleep(0.05)
            assert not watch.done(), f"before {words}"
            a.ip("xfrm", *words)
            took_s = await comes(watch)
            change = await a.target.check(keys[0].tag)
            print(f"{' '.join(words[:2])}: {change} (noticed in {1000 * took_s:.0f} ms)")
            assert change is not None and what in change
            with contextlib.nullcontext() if epoch < 6 else pytest.raises(HostError, match="another program has"):
                await a.target.close()
            assert not passes(a, b)  # also where policies were taken away: they are back
        with a.kernel() as kernel:
            foreign = [p for p in kernel.dump_policies() if p.direction is Direction.IN and p.template is None]
        assert len(foreign) == 1, "what took the place of ours stays"

    run(ends, work)


def test_the_kernel_ends_an_association_by_itself(tmp_path: Path) -> None:
    """The second lock: without anybody the keys go at the hard expiry, and the policies block."""

    async def work(ends: Ends) -> None:
        a, b = ends
        began = time.monotonic()
        await rotate(ends, 1, reset=True)
        assert passes(a, b)
        watch = asyncio.create_task(a.xfrm.changed())
        await comes(watch, 6)
        took_s = time.monotonic() - began
        print(f"hard lifetime of 3 s: ended {took_s:.2f} s after the rotation was begun")
        assert 1.9 <= took_s <= 5.5
        await wait_until(lambda: not a.associations(), 2)
        wire = Capture(*ends)
        assert not passes(a, b)
        assert not in_clear(wire.frames())
        wire.close()
        assert (await a.target.inspect()).tag == b""

    with world(tmp_path, Shape(expiry_s=3)) as ends:
        run(ends, work)


def test_what_is_forwarded_is_held_as_well(ends: Ends) -> None:
    """A host behind a: nothing of it leaves without a key, and nothing in clear gets in to it."""

    async def work(ends: Ends) -> None:
        a, b = ends
        wire = Capture(a, b)
        assert not passes(host, b)
        await b.xfrm.protect([])  # b has forgotten its policies, or is somebody else
        assert not passes(b, host)
        assert in_clear(wire.frames()), "it was sent"
        await b.protect()
        await rotate(ends, 1, reset=True)
        assert passes(host, b) and passes(b, host)
        assert not in_clear(wire.frames())
        wire.close()

    a, _ = ends
    lab, address = a.lab, "10.1.1.9"
    lab.add("h")
    lab.veth(("h", "eth0", (f"{address}/32",)), ("a", "hosts", ("10.1.3.1/24",)))
    lab.forward("a")
    batch(lab, "a", f"route add {address}/32 dev hosts")
    batch(lab, "h", "route add default via 10.1.3.1 dev eth0 onlink")
    host = End(lab, "h", 0, a.shape, a.runtime, address)
    run(ends, work)


def test_neighbours_are_found_without_a_key(tmp_path: Path) -> None:
    """Transport mode over IPv6 on one link: what asks for the other end's address is not held up by the policies."""

    async def work(ends: Ends) -> None:
        a, b = ends
        for end in ends:
            end.ip("neighbour", "flush", "dev", "eth0")
        wire = Capture(*ends)
        assert not passes(a, b)
        await rotate(ends, 1, reset=True)
        assert passes(a, b)
        for end in ends:
            end.ip("neighbour", "flush", "dev", "eth0")
        assert passes(a, b) and passes(b, a)
        assert not in_clear(wire.frames())
        wire.close()

    with world(tmp_path, Shape(outer=6, mode="transport")) as ends:
        run(ends, work)


def test_a_note_that_cannot_be_written_keeps_the_key_out(ends: Ends) -> None:
    async def work(ends: Ends) -> None:
        a, _ = ends
        keys = await reserve(ends, 1)
        notes = a.runtime / "xfrm"
        command("mount", "-t", "tmpfs", "-o", "size=4k,nr_inodes=1", "tmpfs", str(notes))
        try:
            with pytest.raises(HostError) as caught:
                await a.target.stage(keys[0])
            assert caught.value.code == "host.state"
            assert not a.associations()
        finally:
            command("umount", "--lazy", str(notes))

    run(ends, work)


def test_an_spi_that_lapsed_is_taken_again(ends: Ends) -> None:
    """The kernel holds an SPI for 30 s; the KEMs of a slow rotation may take longer."""

    async def work(ends: Ends) -> None:
        a, b = ends
        keys = await reserve(ends, 1)
        spi = int.from_bytes(keys[0].offer[-4:], "big")
        with a.kernel() as kernel:
            assert kernel.delete_sa(SaId(a.esp.local, spi))
        await asyncio.gather(a.target.reset(keys[0]), b.target.reset(keys[1]))
        await comes(asyncio.gather(*(end.target.observe(1, kick=False) for end in ends)))
        assert passes(a, b)

    run(ends, work)


def test_two_tunnels_between_the_same_gateways(tmp_path: Path) -> None:
    async def work(ends: Ends) -> None:
        await rotate(ends, 1, reset=True)
        seconds = []
        for end, far in zip(ends, ("10.2.9.0/24", "10.1.9.0/24"), strict=True):
            target = replace(end.esp, reqid=end.esp.reqid ^ 0x100)
            config = replace(end.config, name="second", target=target, protects=(ip_network(far),))
            await end.protect(protected_of(config))
            with inside(end.namespace):
                seconds.append(replace_target(end, XfrmTarget(end.xfrm, config)))
        pair = (seconds[0], seconds[1])
        await rotate(pair, 1, reset=True)
        await rotate(pair, 2)
        await rotate(ends, 2)
        assert passes(*ends) and passes(*ends[::-1])
        await pair[0].target.close()
        assert passes(*ends), "closing the one left the other as it was"

    with world(tmp_path, Shape()) as ends:
        run(ends, work)


def replace_target(end: End, target: XfrmTarget) -> End:
    """The same gateway, seen through another of its tunnels."""
    other = End(end.lab, end.short, end.number, end.shape, end.runtime)
    other.xfrm, other.target = end.xfrm, target
    return other


def test_a_device_without_esp_is_refused(tmp_path: Path) -> None:
    async def whole(ends: Ends) -> None:
        a, _ = ends
        a.config = replace(a.config, target=replace(a.esp, offload="lo"))
        keys = await reserve(ends, 1)
        with inside(a.namespace):
            target = XfrmTarget(a.xfrm, a.config)
        reserved = await target.reserve()
        with pytest.raises(HostError, match="offload"):
            await target.stage(replace(keys[0], offer=reserved.offer))
        assert not a.associations()

    with world(tmp_path, Shape()) as ends:
        run(ends, whole)


def test_the_read_back_compares_the_key(ends: Ends, monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel keeps the key that an association has already, and says that all is well."""

    async def work(ends: Ends) -> None:
        a, _ = ends
        keys = await reserve(ends, 1)
        kernel = a.xfrm.policies.kernel
        add = kernel.add_sa

        def other_key(sa: Any, key: Secret, *, update: bool) -> None:
            add(sa, Secret.adopt(os.urandom(36)), update=update)

        monkeypatch.setattr(kernel, "add_sa", other_key)
        with pytest.raises(HostError) as caught:
            await a.target.stage(keys[0])
        assert caught.value.code == "host.readback"
        assert not a.associations()

    run(ends, work)
