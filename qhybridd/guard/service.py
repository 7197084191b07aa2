"""The guard at work: loads the table, opens and shuts tunnels, reads back what the kernel enforces.

Nothing here runs on behalf of a deadline: an element carries its timeout from the moment it is added, and without
renewal the kernel drops. All system calls run in one worker thread, so that what is asked together is
committed together.
"""

import asyncio
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final

from qhybridd.config.records import DEFAULT_MARK
from qhybridd.errors import HostError, ProgramError
from qhybridd.guard.prefixes import GuardedTunnel
from qhybridd.guard.reading import GuardState
from qhybridd.guard.table import Table
from qhybridd.netlink.coalesce import Coalescer
from qhybridd.netlink.nft_events import NftEvents
from qhybridd.netlink.route_events import DeviceChanged, RouteEvent, RouteEvents

CLEAN_AFTER_S: Final = 0.1
"""From new rules to the end of the old sets: far longer than a packet takes through a chain."""

SETTLE_S: Final = 0.025
"""From a change of nftables to the look at it: what comes in a burst is looked at once."""
LOOK_S: Final = 5.0
"""Between two looks at the guard when nothing is heard."""


@dataclass(frozen=True, slots=True)
class _Setting:
    """A tunnel is to be open until `deadline`; None shuts it."""

    name: str
    deadline: float | None


class Guard:
    """The guard of the network namespace in which this object is made."""

    def __init__(self, mark: int = DEFAULT_MARK) -> None:
        """`mark`: SO_MARK of the control sockets, which XFRM tunnels let pass; 0 for none.

        Raises `HostError` where the kernel has no nf_tables.
        """
        self._table = Table(mark)
        self._nft_events, self._route_events = NftEvents(), RouteEvents()
        self._astray = False
        """Whether rules are still to follow a device that was made again; kept until that succeeds."""
        self._loading = asyncio.Lock()
        self._settings: Coalescer[_Setting, None] = Coalescer(self._carry_out, "guard")

    async def load(self, tunnels: Iterable[GuardedTunnel], restore: Mapping[str, float] = {}) -> None:
        """Enforce exactly these tunnels from now on; all rules change in one transaction.

        A tunnel that is open stays open if its name and its interface or reqid are the same. `restore`: deadlines
        (CLOCK_BOOTTIME) of tunnels that are open from that very transaction on, if the table does not know them yet,
        because somebody flushed it; where it does, it alone says what is open. Raises `OperatorError` as `flatten`
        does, and `HostError` (host.guard); then what was enforced before still is.
        """
        async with self._loading:
            leftovers = await self._settings.call(partial(self._table.load, tuple(tunnels), dict(restore)))
            # A packet that is on its way through the old rules may still read the old sets.
            await asyncio.sleep(CLEAN_AFTER_S)
            await self._settings.call(partial(self._table.clean, leftovers))

    async def open(self, name: str, deadline: float) -> None:
        """Let the tunnel pass until `deadline` (CLOCK_BOOTTIME, seconds) and not longer; a past one shuts it."""
        if not math.isfinite(deadline):
            raise ProgramError("program.argument", f"a deadline of {deadline}")
        await self._settings.submit(_Setting(name, deadline))

    async def shut(self, name: str) -> None:
        """Let the tunnel pass no more."""
        await self._settings.submit(_Setting(name, None))

    async def shut_all(self) -> None:
        """Let no tunnel pass any more, also those that another process opened. Raises `HostError` (host.guard)."""
        await self._settings.call(self._table.shut_all)

    async def remaining(self) -> dict[str, float]:
        """Seconds left for every loaded tunnel that is open, as the kernel says; the longer of both sets counts."""
        return await self._settings.call(self._table.remaining)

    async def show(self) -> list[GuardState]:
        """All that the kernel guards, read from the kernel alone: also right in a process that loaded nothing."""
        return await self._settings.call(self._table.show)

    async def disturbed(self) -> bool:
        """Whether somebody else took rules of the table away, as `nft flush ruleset` does. One small question to the
        kernel while nobody changes nftables at all. Raises `HostError`.
        """
        return await self._settings.call(self._table.is_disturbed)

    async def changed(self) -> None:
        """Returns when somebody, this object too, changed nftables, and after `LOOK_S` in any case: time to ask
        `disturbed`. Meanwhile the rules follow guarded devices that are made again. Raises `HostError`.
        """
        loop, seen = asyncio.get_running_loop(), asyncio.Event()
        sources = (self._nft_events.fileno(), self._route_events.fileno())
        for source in sources:
            loop.add_reader(source, seen.set)
        try:
            async with asyncio.timeout(LOOK_S):
                while True:
                    heard = self._nft_events.read()  # both are read each time: neither waits for the other to be quiet
                    self._astray |= self._concerns_us(self._route_events.read())
                    if self._astray:
                        await self._settings.call(self._table.rebind)
                        self._astray = False
                    if heard:
                        break
                    seen.clear()
                    await seen.wait()
                await asyncio.sleep(SETTLE_S)
                self._nft_events.read()
        except TimeoutError:
            return
        finally:
            for source in sources:
                loop.remove_reader(source)

    def _concerns_us(self, events: Iterable[RouteEvent]) -> bool:
        guarded = {tunnel.interface for tunnel in self._table.tunnels.values()}
        return any(not isinstance(event, DeviceChanged) or event.name in guarded for event in events)

    async def restore(self) -> bool:
        """Put back what others took away, each tunnel with the time that it had left; False where nothing is missing.

        Raises `HostError` (host.guard).
        """
        async with self._loading:
            leftovers = await self._settings.call(self._table.restore)
            if leftovers is None:
                return False
            await asyncio.sleep(CLEAN_AFTER_S)
            await self._settings.call(partial(self._table.clean, leftovers))
        return True

    async def fell_back(self) -> bool:
        """Whether a boot that could not load the guard had everything blocked instead (`fallback`)."""
        return await self._settings.call(self._table.fell_back)

    async def held(self) -> bool:
        """Whether another process owns the guard, so that this one could change nothing (kernel 6.9 and later)."""
        return await self._settings.call(self._table.held)

    async def remove(self) -> None:
        """Delete the table: nothing is guarded any more."""
        await self._settings.call(self._table.remove)

    async def close(self) -> None:
        """Give up the socket and the worker; the table stays and goes on enforcing."""
        await asyncio.get_running_loop().run_in_executor(None, self._settings.close)
        self._table.close()
        self._nft_events.close()
        self._route_events.close()

    def _carry_out(self, settings: Sequence[_Setting]) -> Sequence[Exception | None]:
        """One batch for all; the last word on a tunnel counts."""
        known = {setting.name: setting.deadline for setting in settings if setting.name in self._table.tunnels}
        failure: Exception | None = None
        try:
            self._table.set_deadlines(known)
        except HostError as error:
            failure = error
        return [
            failure
            if setting.name in known
            else ProgramError("program.argument", f"the guard was not loaded with tunnel {setting.name}")
            for setting in settings
        ]
