"""The guard as tunnels see it around a sleep of the machine: from the moment when it was closed for one, nothing opens.

Keys are agreed meanwhile as always; what waits here is the last step. nftables' timeouts stand still in a sleep, so a
tunnel that was opened just before would be open for too long after it.
"""

import asyncio
from collections.abc import Callable
from typing import Final

from qhybridd.daemon.host import MIN_SLEEP_S, slept_s
from qhybridd.daemon.services import Gate
from qhybridd.errors import HostError

HOLD_S: Final = 30.0
"""A sleep begins within seconds after it was announced. One that was called off costs so much time."""


class SleepGate(Gate):
    """Stands before the guard."""

    def __init__(self, guard: Gate, clock: Callable[[], float] = slept_s) -> None:
        """`clock` says for how long the machine has been suspended so far, in seconds."""
        self._guard, self._clock = guard, clock
        self._woken: asyncio.Event | None = None
        """Of the hold that is on."""

    async def open(self, name: str, deadline: float) -> None:
        """As the guard's, and not before a hold is over. Raises `HostError` (host.slept) when a sleep ended it."""
        if self._woken is not None:
            await self._wait(self._woken)
        await self._guard.open(name, deadline)

    async def shut(self, name: str) -> None:
        """As the guard's."""
        await self._guard.shut(name)

    def hold(self) -> None:
        """Open nothing until `woke`, or for `HOLD_S`. What waits already fails."""
        self.woke()
        woken = self._woken = asyncio.Event()
        asyncio.get_running_loop().call_later(HOLD_S, self._lapse, woken)

    def woke(self) -> None:
        """The machine slept: what waits has failed, what comes now may open."""
        if self._woken is not None:
            self._woken.set()
            self._woken = None

    def _lapse(self, woken: asyncio.Event) -> None:
        if self._woken is woken:
            self._woken = None

    async def _wait(self, woken: asyncio.Event) -> None:
        before = self._clock()
        try:
            async with asyncio.timeout(HOLD_S):
                await woken.wait()
        except TimeoutError:
            if self._clock() - before < MIN_SLEEP_S:
                return
        raise HostError("host.slept", "the machine went to sleep before the tunnel was open")
