"""Two daemons' peers and tunnels over real loopback TCP: sessions, revocation, defects, and hostile peers."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path

import pytest

from qhybridd.config.records import Endpoint
from qhybridd.crypto.identity import Identity
from qhybridd.crypto.levels import Level
from qhybridd.daemon import door
from qhybridd.daemon.door import Door
from qhybridd.daemon.tunnel import Tunnel
from qhybridd.errors import PeerError
from qhybridd.protocol import actions as act
from qhybridd.protocol import messages as msg
from qhybridd.protocol import peering
from qhybridd.protocol.session import Channel
from tests.unit.daemons import Host, cable, until

LOWER, HIGHER = sorted((Identity.generate(), Identity.generate()), key=lambda i: i.public.fingerprint)
OTHER = Identity.generate()


@dataclass
class Two:
    """The lower end dials, the higher one listens."""

    lower: Host
    higher: Host
    tunnels: tuple[Tunnel, Tunnel]

    @property
    def up(self) -> bool:
        return all(host.peers["peer"].session is not None for host in (self.lower, self.higher))

    @property
    def live(self) -> bool:
        first, second = (tunnel.rotation.live for tunnel in self.tunnels)
        return first is not None and second is not None and first.tag == second.tag


@asynccontextmanager
async def two(path: Path, *, pins: tuple[Identity, ...] = (HIGHER,), both_dial: bool = False) -> AsyncIterator[Two]:
    async with asyncio.TaskGroup() as tasks:
        lower, higher = Host(LOWER, path / "lower", tasks), Host(HIGHER, path / "higher", tasks)
        lower.add_peer(*pins, endpoints=(await higher.listen(),))
        higher.add_peer(LOWER, endpoints=(await lower.listen(),) if both_dial else ())
        devices = cable()
        tunnels = (await lower.add_tunnel(devices[0]), await higher.add_tunnel(devices[1]))
        for host in (lower, higher):
            host.peers["peer"].start()
        world = Two(lower, higher, tunnels)
        try:
            yield world
        finally:
            await lower.stop()
            await higher.stop()


def run(path: Path, body: Callable[[Two], Awaitable[None]], **how: object) -> None:
    """Run `body` in a world; a task that raised ends the group, and with it the test."""
    complaints: list[dict[str, object]] = []

    async def main() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, context: complaints.append(context))
        async with two(path, **how) as world:  # type: ignore[arg-type]  # the keywords of `two`
            await body(world)

    asyncio.run(main())
    assert complaints == []


def test_a_tunnel_opens_and_rotates(tmp_path: Path) -> None:
    async def body(world: Two) -> None:
        await until(lambda: world.live)
        first = world.tunnels[0].rotation.live
        await until(lambda: world.live and world.tunnels[0].rotation.live != first)
        await until(lambda: world.lower.gate.remaining("wan") > 0 < world.higher.gate.remaining("wan"), 2)

    run(tmp_path, body)


@pytest.mark.parametrize("gone", [True, False])
def test_sessions_from_an_address_that_is_gone_end_at_once(tmp_path: Path, *, gone: bool) -> None:
    """And are dialled again; those from another address of the host are left alone."""

    async def body(world: Two) -> None:
        await until(lambda: world.up)
        peer = world.lower.peers["peer"]
        first = peer.session
        peer.address_gone(ip_address("127.0.0.1" if gone else "127.0.0.2"))
        assert (peer.session is None) is gone
        await until(lambda: world.up and (peer.session is not first) is gone, 3)
        await until(lambda: world.live)

    run(tmp_path, body)


@pytest.mark.parametrize("both_dial", [False, True])
def test_the_hourly_renewal_disturbs_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, both_dial: bool
) -> None:
    monkeypatch.setattr(peering, "RENEW_S", 0.3)

    async def body(world: Two) -> None:
        await until(lambda: world.live)
        seen, errors = set(), list(world.tunnels)
        for _ in range(100):
            session = world.lower.peers["peer"].session
            if session is not None:
                seen.add(session.session.hash)
            await asyncio.sleep(0.02)
        assert len(seen) > 3
        assert [tunnel.failed_attempts for tunnel in errors] == [0, 0]
        for host in (world.lower, world.higher):
            assert len(host.peers["peer"]._established) <= 3, "old sessions go"
            assert "no session" not in host.lines.events()
        for tunnel in world.tunnels:
            assert len(tunnel.rotation._out._sessions) <= 3

    run(tmp_path, body, both_dial=both_dial)


def test_a_question_read_together_with_the_goodbye_is_no_defect(tmp_path: Path) -> None:
    """The answer meets a connection that has ended already; the end must still be heard, and a new dial follow."""

    async def body(world: Two) -> None:
        await until(lambda: world.live)
        peer = world.higher.peers["peer"]
        session = peer.session
        assert session is not None
        (wire,) = peer._wires.values()
        for _ in range(3):
            wire.send(Channel.ROTATION, msg.encode(msg.Ask("wan")))
        wire.close()
        peer._down(next(iter(peer._wires)), None)
        await until(lambda: world.up and world.lower.peers["peer"].session != session)
        await until(lambda: world.live)
        assert "defect" not in world.lower.lines.events()

    run(tmp_path, body)


# ---- revocation


def test_the_last_pin_revoked_ends_it_for_good_and_the_daemon_goes_on(tmp_path: Path) -> None:
    async def body(world: Two) -> None:
        await until(lambda: world.live)
        peer = world.lower.peers["peer"]
        assert peer.revoke(HIGHER.public.fingerprint)
        await world.tunnels[0].close(act.Revoke())
        assert world.lower.gate.remaining("wan") == 0
        await asyncio.sleep(1.5)
        assert peer.session is None and world.tunnels[0].rotation.live is None
        assert peer._peering.deadline() is None and peer._dial is not None and peer._dial.done()

    run(tmp_path, body)


def test_a_pin_revoked_during_the_handshake_comes_too_late_for_it(tmp_path: Path) -> None:
    async def body(world: Two) -> None:
        peer = world.lower.peers["peer"]
        await until(lambda: peer._wires, every_s=0)  # dialled, nothing proven yet
        assert peer.session is None
        assert not peer.revoke(HIGHER.public.fingerprint), "OTHER is left"
        await asyncio.sleep(0.5)
        assert peer.session is None and world.tunnels[0].rotation.live is None

    run(tmp_path, body, pins=(HIGHER, OTHER))


def test_an_identity_trusted_again_opens_the_tunnel_again(tmp_path: Path) -> None:
    async def body(world: Two) -> None:
        await until(lambda: world.live)
        old = world.lower.peers["peer"]
        old.revoke(HIGHER.public.fingerprint)
        await world.tunnels[0].close(act.Revoke())
        await old.stop()
        new = world.lower.add_peer(HIGHER, endpoints=old.endpoints)
        new.add_tunnel(world.tunnels[0])
        new.start()
        await until(lambda: world.live)

    run(tmp_path, body)


def test_a_stale_pin_does_not_keep_the_good_one_from_meeting(tmp_path: Path) -> None:
    async def body(world: Two) -> None:
        await until(lambda: world.live)

    run(tmp_path, body, pins=(OTHER, HIGHER))


# ---- defects and hostile peers


def test_a_defect_in_the_machine_closes_its_tunnel_and_no_more(tmp_path: Path) -> None:
    async def body(world: Two) -> None:
        await until(lambda: world.live)
        tunnel = world.tunnels[0]
        rotations = tunnel.rotations
        action_id = tunnel.rotation._out.next_id()
        tunnel.rotation.handle = _fail_once(tunnel.rotation.handle)  # type: ignore[method-assign]
        tunnel.feed(act.Done(action_id))
        assert tunnel.rotation.live is None, "closed at once"
        await until(lambda: tunnel.rotations > rotations and world.live)
        defects = [line for line in world.lower.lines.lines if line["event"] == "defect"]
        assert [line["kind"] for line in defects] == ["RuntimeError"]
        assert "hunter2" not in str(world.lower.lines.lines), "neither the text nor a variable"

    run(tmp_path, body)


def _fail_once(
    handle: Callable[[act.Event, float], list[act.Action]],
) -> Callable[[act.Event, float], list[act.Action]]:
    failed = False

    def failing(event: act.Event, now: float) -> list[act.Action]:
        nonlocal failed
        if not failed:
            failed = True
            secret = "hunter2"
            raise RuntimeError(secret)
        return handle(event, now)

    return failing


def test_a_hybrid_proposal_without_a_key_source_is_refused(tmp_path: Path) -> None:
    async def body(world: Two) -> None:
        await until(lambda: world.live)
        hostile, victim = world.lower.peers["peer"], world.tunnels[1]
        session = hostile.session
        assert session is not None
        prepared: list[msg.Prepare] = []
        send = hostile.send

        def spy(to: bytes, message: msg.Message) -> None:
            if isinstance(message, msg.Prepare):
                prepared.append(message)
                ref = msg.QkdRef("sim:x", (), (), (bytes(16),), 256)
                message = msg.Prepare(**{**_fields(message), "level": Level.HYBRID, "qkd": ref})
            send(to, message)

        hostile.send = spy  # type: ignore[method-assign]
        await until(lambda: prepared)
        await until(lambda: "refused" in world.higher.lines.events())
        assert "defect" not in world.higher.lines.events()
        assert world.up and victim.rotation.live is not None

    run(tmp_path, body)


def _fields(message: msg.Prepare) -> dict[str, object]:
    return {name: getattr(message, name) for name in message.__struct_fields__}


def test_floods_leave_the_daemon_as_it_was(tmp_path: Path) -> None:
    async def body(world: Two) -> None:
        await until(lambda: world.live)
        peer = world.lower.peers["peer"]
        session = peer.session
        assert session is not None
        before = len(asyncio.all_tasks())
        lie = msg.State("wan", 1 << 40, msg.Held(9, b"x" * 16), msg.Held(), 0, b"")
        for _ in range(300):
            for message in (
                msg.Ask("wan"),
                msg.Ask("nowhere"),
                lie,
                msg.Abort("wan", 0, "x"),
                msg.Live("wan", 1 << 60),
            ):
                peer.send(session.session.hash, message)
        await asyncio.sleep(0.5)
        await until(lambda: world.live, 20)
        assert len(asyncio.all_tasks()) <= before + 8
        assert len(world.higher.lines.lines) < 200

    run(tmp_path, body)


def test_a_peer_behind_a_dead_endpoint_is_found_at_the_next(tmp_path: Path) -> None:
    async def body(world: Two) -> None:
        await until(lambda: world.live)
        peer = world.lower.peers["peer"]
        peer.endpoints = (Endpoint("127.0.0.1", 1), Endpoint("name.invalid", 7), *peer.endpoints)
        (number,) = peer._wires
        peer._wires[number].close()
        peer._down(number, PeerError("peer.closed", "cut"))
        await until(lambda: world.up, 20)

    run(tmp_path, body)


def test_a_port_that_is_taken_is_asked_for_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(door, "RETRY_S", 0.05)

    async def body(world: Two) -> None:
        one = world.lower
        taken = await asyncio.start_server(lambda *_: None, "127.0.0.1", 0)
        endpoint = Endpoint("127.0.0.1", taken.sockets[0].getsockname()[1])
        second = Door(LOWER, (), {}, lambda _: None, told=lambda *_: None, log=one.log)
        await second.open((endpoint, Endpoint("127.0.0.1", 0)), 0)
        assert len(second._servers) == 1
        trying = asyncio.create_task(second.retry())
        taken.close()
        await until(lambda: len(second._servers) == 2)
        await trying
        second.close()

    run(tmp_path, body)
