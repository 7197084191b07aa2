"""Around a sleep of the machine nothing opens: the gate before the guard."""

import asyncio

import pytest

from qhybridd.daemon import sleep
from qhybridd.daemon.sleep import SleepGate
from qhybridd.errors import HostError


class Kernel:
    """What reached the guard."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.slept_s = 0.0

    async def open(self, name: str, deadline: float) -> None:
        self.calls.append(f"open {name} {deadline}")

    async def shut(self, name: str) -> None:
        self.calls.append(f"shut {name}")


def test_ordinarily_it_only_passes_on() -> None:
    async def scenario() -> None:
        kernel = Kernel()
        gate = SleepGate(kernel, lambda: kernel.slept_s)
        await gate.open("wan", 9.0)
        await gate.shut("wan")
        gate.woke()
        assert kernel.calls == ["open wan 9.0", "shut wan"]

    asyncio.run(scenario())


def test_between_close_and_sleep_nothing_opens_and_what_waited_fails() -> None:
    async def scenario() -> None:
        kernel = Kernel()
        gate = SleepGate(kernel, lambda: kernel.slept_s)
        gate.hold()
        waiting = asyncio.ensure_future(gate.open("wan", 9.0))
        await gate.shut("lan")
        await asyncio.sleep(0.01)
        assert kernel.calls == ["shut lan"]
        gate.woke()
        with pytest.raises(HostError) as caught:
            await waiting
        assert caught.value.code == "host.slept"
        await gate.open("wan", 99.0)
        assert kernel.calls == ["shut lan", "open wan 99.0"]

    asyncio.run(scenario())


def test_a_sleep_that_was_called_off_holds_for_a_while_only(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario() -> None:
        monkeypatch.setattr(sleep, "HOLD_S", 0.05)
        kernel = Kernel()
        gate = SleepGate(kernel, lambda: kernel.slept_s)
        gate.hold()
        await gate.open("wan", 9.0)
        await gate.open("wan", 10.0)
        assert kernel.calls == ["open wan 9.0", "open wan 10.0"]

    asyncio.run(scenario())


def test_a_sleep_is_seen_though_nobody_told_of_it_yet(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario() -> None:
        monkeypatch.setattr(sleep, "HOLD_S", 0.05)
        kernel = Kernel()
        gate = SleepGate(kernel, lambda: kernel.slept_s)
        gate.hold()
        waiting = asyncio.ensure_future(gate.open("wan", 9.0))
        await asyncio.sleep(0)
        kernel.slept_s = 3600.0
        with pytest.raises(HostError):
            await waiting
        assert kernel.calls == []

    asyncio.run(scenario())


def test_a_second_close_ends_what_waits_for_the_first() -> None:
    async def scenario() -> None:
        kernel = Kernel()
        gate = SleepGate(kernel, lambda: kernel.slept_s)
        gate.hold()
        first = asyncio.ensure_future(gate.open("wan", 9.0))
        await asyncio.sleep(0)
        gate.hold()
        with pytest.raises(HostError):
            await first
        second = asyncio.ensure_future(gate.open("wan", 10.0))
        await asyncio.sleep(0.01)
        assert not second.done()
        second.cancel()

    asyncio.run(scenario())
