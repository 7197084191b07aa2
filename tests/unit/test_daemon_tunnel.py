"""One tunnel of the daemon without root: what a restart adopts, and that closing closes."""

import asyncio
import os
from collections.abc import Awaitable, Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from qhybridd.clock import boottime
from qhybridd.crypto.identity import Identity
from qhybridd.crypto.kdf import key_tag
from qhybridd.crypto.levels import Level
from qhybridd.daemon import tunnel as daemon_tunnel
from qhybridd.daemon.host import ClockAlarm, Clocks, watch_clocks
from qhybridd.daemon.records import Records
from qhybridd.daemon.tunnel import Tunnel
from qhybridd.daemon.watch import Watch
from qhybridd.errors import HostError
from qhybridd.protocol import actions as act
from qhybridd.protocol.messages import Held, State
from qhybridd.secret import Secret
from tests.unit.daemons import POLICY, Device, Host, cable, until

OWN = Identity.generate()
PEER, STRANGER = b"p" * 48, b"s" * 48
FOREIGN = HostError("host.readback", "another program changed the PSK")


def run(path: Path, body: Callable[[Host, Device], Awaitable[None]]) -> None:
    async def main() -> None:
        async with asyncio.TaskGroup() as tasks:
            host = Host(OWN, path / "tunnels", tasks)
            await body(host, cable()[0])
            await host.stop()

    asyncio.run(main())


def live_on(device: Device, *, level: Level = Level.PQC, age_s: float = 1.0, expiry_s: float = 10.0) -> act.LiveEpoch:
    """The live epoch whose key is on the device."""
    now = boottime()
    return act.LiveEpoch(7, level, key_tag(Secret.adopt(device.psk)), now - age_s, now - age_s + expiry_s, PEER)


async def restarted(host: Host, device: Device, live: act.LiveEpoch, tunnel: Tunnel | None = None) -> Tunnel:
    """A tunnel whose daemon died while `live` was."""
    host.records.write("wan", live, (Held(live.epoch, live.tag),))
    host.gate.until["wan"] = live.deadline
    tunnel = tunnel or host.make_tunnel(device)
    await tunnel.start(host.gate.remaining("wan"), {PEER})
    return tunnel


def test_a_restart_takes_over_with_the_time_that_is_left(tmp_path: Path) -> None:
    async def body(host: Host, device: Device) -> None:
        psk, live = device.psk, live_on(device)
        tunnel = await restarted(host, device, live)
        assert tunnel.rotation.live is not None
        assert tunnel.rotation.live.deadline == pytest.approx(live.deadline, abs=0.01)
        assert host.gate.said == [] and device.psk == psk

    run(tmp_path, body)


def test_a_shorter_expiry_counts_for_the_key_that_is_taken_over(tmp_path: Path) -> None:
    async def body(host: Host, device: Device) -> None:
        live = live_on(device, age_s=4.0, expiry_s=300.0)
        tunnel = await restarted(host, device, live)
        assert tunnel.rotation.live is not None
        assert tunnel.rotation.live.deadline == live.combined_at + POLICY.expiry_s
        assert host.gate.until["wan"] == live.combined_at + POLICY.expiry_s, "the kernel knows it too"
        older = await restarted(host, device, live_on(device, age_s=11.0, expiry_s=300.0))
        assert older.rotation.live is None and "wan" not in host.gate.until

    run(tmp_path, body)


@pytest.mark.parametrize("harm", ["device", "peer", "level", "guard", "boot", "torn", "missing"])
def test_what_a_restart_cannot_account_for_is_closed(tmp_path: Path, harm: str) -> None:
    async def body(host: Host, device: Device) -> None:
        live, tunnel = live_on(device), None
        match harm:
            case "device":
                device.psk = os.urandom(32)
            case "peer":
                live = replace(live, peer=STRANGER)
            case "level":
                live = replace(live, level=Level.CLASSICAL)
            case "guard":
                live = replace(live, deadline=boottime() - 1)
            case "boot":
                host.records._boot_id = "another"
            case "missing":
                device.missing = True
        host.records.write("wan", live, (Held(live.epoch, live.tag),))
        if harm == "boot":
            host.records._boot_id = Records(tmp_path / "tunnels")._boot_id
        if harm == "torn":
            file = tmp_path / "tunnels" / "wan.json"
            file.write_bytes(file.read_bytes().rstrip()[:-9])
        host.gate.until["wan"] = live.deadline
        psk = device.psk
        tunnel = host.make_tunnel(device)
        await tunnel.start(host.gate.remaining("wan"), {PEER})
        assert tunnel.rotation.live is None and "wan" not in host.gate.until
        assert device.missing or device.psk != psk
        assert host.records.read("wan") is None

    run(tmp_path, body)


@pytest.mark.parametrize("refusals", [1, 2])
def test_closing_is_tried_again_when_the_guard_refuses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, refusals: int
) -> None:
    monkeypatch.setattr(daemon_tunnel, "CLOSE_AGAIN_S", 0.01)

    async def body(host: Host, device: Device) -> None:
        tunnel = await restarted(host, device, live_on(device))
        host.gate.refuses = refusals
        await tunnel.close(act.CloseNow(FOREIGN))
        assert "wan" not in host.gate.until and "not closed" not in host.lines.events()

    run(tmp_path, body)


def test_a_guard_that_never_shuts_is_told_and_the_device_is_closed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(daemon_tunnel, "CLOSE_AGAIN_S", 0.01)

    async def body(host: Host, device: Device) -> None:
        psk = device.psk
        tunnel = await restarted(host, device, live_on(device))
        host.gate.refuses = 99
        await tunnel.close(act.CloseNow(FOREIGN))
        assert "not closed" in host.lines.events() and device.psk != psk
        assert tunnel.rotation.live is None

    run(tmp_path, body)


def test_a_record_that_cannot_be_removed_keeps_nothing_open(tmp_path: Path) -> None:
    async def body(host: Host, device: Device) -> None:
        tunnel = await restarted(host, device, live_on(device))
        file = tmp_path / "tunnels" / "wan.json"
        file.unlink()
        file.mkdir()  # unlink(2) refuses, also for root
        await tunnel.close(act.CloseNow(FOREIGN))
        assert "wan" not in host.gate.until and "defect" not in host.lines.events()

    run(tmp_path, body)


def test_a_close_that_waits_is_not_lost_when_the_daemon_stops(tmp_path: Path) -> None:
    async def body(host: Host, device: Device) -> None:
        tunnel = await restarted(host, device, live_on(device))
        tunnel.feed(act.CloseNow(FOREIGN))
        await tunnel.stop()
        assert "wan" not in host.gate.until

    run(tmp_path, body)


def test_a_reservation_waits_for_a_close_that_is_under_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Closing takes everything of the tunnel out of the kernel, what the next attempt holds there too."""

    async def body(host: Host, device: Device) -> None:
        tunnel, order = await restarted(host, device, live_on(device)), list[str]()
        shut, reserve, close = asyncio.Event(), tunnel.target.reserve, tunnel.target.close

        async def slow(_: str) -> None:
            await shut.wait()

        async def noted(name: str, verb: Callable[[], Awaitable[Any]]) -> Any:
            order.append(name)
            return await verb()

        monkeypatch.setattr(host.gate, "shut", slow)
        monkeypatch.setattr(tunnel.target, "reserve", partial(noted, "reserve", reserve))
        monkeypatch.setattr(tunnel.target, "close", partial(noted, "close", close))
        tunnel.feed(act.CloseNow(FOREIGN))
        tunnel.feed(act.SessionUp(act.SessionKeys(b"h" * 48, b"a" * 48, PEER, Secret.adopt(os.urandom(48)))))
        tunnel.feed(act.Received(b"h" * 48, State("wan", 0, Held(), Held(), 0, b"")))
        await asyncio.sleep(0.05)
        shut.set()
        await until(lambda: "reserve" in order)
        assert order == ["close", "reserve"]

    run(tmp_path, body)


def test_what_the_watch_finds_closes_the_tunnel_also_when_the_watch_itself_breaks(tmp_path: Path) -> None:
    async def broken(_: bytes) -> str | None:
        raise ZeroDivisionError

    async def body(host: Host, device: Device) -> None:
        tunnel = await restarted(host, device, live_on(device))
        await tunnel.check_device(tunnel.target.check)
        assert tunnel.rotation.live is not None
        await tunnel.check_device(broken)
        assert tunnel.rotation.live is None
        assert "defect" in host.lines.events()

    run(tmp_path, body)


def test_state_without_a_place_is_a_typed_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(HostError, match="no place for state"):
        Records(tmp_path / "file" / "tunnels")


def test_a_device_that_is_made_again_is_keyed_at_once(tmp_path: Path) -> None:
    """However long the pause after the failures before would be."""

    async def body(host: Host, device: Device) -> None:
        tunnel = await restarted(host, device, live_on(device))
        host.add_peer()
        watch = Watch({"wan": tunnel}, host.peers, host.log)
        device.missing = True
        await watch.look([tunnel])
        await until(lambda: tunnel.lacks_device)
        assert tunnel.rotation.live is None and host.gate.until == {}
        await tunnel.retry_device()
        assert tunnel.lacks_device, "it is not there yet"
        tunnel.rotation.schedule.not_before = boottime() + 30
        device.missing = False
        waiting = asyncio.create_task(watch.await_devices())
        await until(lambda: not tunnel.lacks_device)
        assert tunnel.rotation.schedule.not_before <= boottime()
        waiting.cancel()
        watch.close()

    run(tmp_path, body)


def test_a_sleep_and_a_set_clock_are_noticed_once_each() -> None:
    woken: list[float] = []
    stepped: list[float] = []
    clocks = [(0.0, 100.0), (0.0001, 100.0003), (30.0, 100.4), (30.1, 3700.4), (30.1, 3700.3), (30.1, 100.3)]
    left = [Clocks(*clock) for clock in reversed(clocks)]

    async def main() -> None:
        with pytest.raises(IndexError):
            await watch_clocks(woken.append, stepped.append, left.pop)

    asyncio.run(main())
    assert woken == [pytest.approx(30.0, abs=0.01)]
    assert stepped == [pytest.approx(3600), pytest.approx(-3600)]


def test_the_alarm_waits_as_long_as_it_is_told() -> None:
    """That it is early when the clock is set takes a machine whose clock may be set: `tests/kernel` has one."""

    async def main() -> None:
        alarm = ClockAlarm()
        before = boottime()
        await alarm.wait(0.05)
        assert 0.04 < boottime() - before < 0.5
        alarm.close()

    asyncio.run(main())
