"""XFRM as the daemon has it: the policies of the configuration, and what others do to them."""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Final

from qhybridd.config.records import Config, TunnelConfig, XfrmConfig
from qhybridd.errors import HostError, ProgramError
from qhybridd.targets.esp_selectors import ProtectedTunnel, protected_of
from qhybridd.targets.xfrm import Xfrm, XfrmTarget
from qhybridd.telemetry.log import Log

RETRY_S: Final = 10.0
"""Between two attempts at what the kernel, or another program's policy, refuses."""
SETTLE_S: Final = 0.1
"""After a change by others before the next look: what deletes one association often deletes them all, one by one."""


class Esp:
    """XFRM of the network namespace in which this object is made. A kernel without it serves WireGuard alone."""

    def __init__(self, runtime: Path, log: Log) -> None:
        """`runtime`: the runtime directory."""
        self._runtime, self._log = runtime, log
        self._xfrm: Xfrm | None = None
        self._lacking: HostError | None = None
        self._refused = False
        """Whether the last `protect` left something undone."""
        self._preparing: asyncio.Task[None] | None = None
        self._open()

    def _open(self) -> None:
        try:
            self._xfrm, self._lacking = Xfrm(self._runtime), None
        except HostError as error:
            self._lacking = error

    def require(self, config: Config) -> None:
        """Raises `HostError` (host.no-esp, host.xfrm) where the configuration has tunnels over a missing XFRM."""
        if self._xfrm is None and any(isinstance(tunnel.target, XfrmConfig) for tunnel in config.tunnels.values()):
            self._open()
            if self._lacking is not None:
                raise self._lacking

    def target(self, config: TunnelConfig) -> XfrmTarget:
        """Of one tunnel, after `require`."""
        if self._xfrm is None:
            raise ProgramError("program.state", "a tunnel over XFRM where there is none")
        return XfrmTarget(self._xfrm, config)

    async def protect(self, config: Config) -> int:
        """Have the kernel demand ESP as the configuration says, and nothing of ours beyond it.

        What it refuses keeps no other tunnel from its keys: `watch` tries again, and that tunnel does not open before.
        Returns how many policies were missing or changed, as far as that is known.
        """
        if self._xfrm is None:
            return 0
        tunnels = [protected_of(tunnel) for tunnel in config.tunnels.values()]
        mended = 0
        try:
            mended = await self._xfrm.protect(tunnels)
        except HostError as error:
            self._refused = True
            self._log.repeated("policies", error)
        else:
            self._refused = False
        if self._preparing is None or self._preparing.done():
            self._preparing = asyncio.create_task(self._prepare(self._xfrm, tunnels))
        return mended

    async def restore(self, config: Config) -> None:
        """Put back what others took."""
        if mended := await self.protect(config):
            self._log.error("policies restored", policies=mended, hint="Find what changes or flushes XFRM's policies.")

    async def _prepare(self, xfrm: Xfrm, tunnels: list[ProtectedTunnel]) -> None:
        """While peers shake hands the kernel loads what the first keys need; what it lacks is told before they come."""
        try:
            await xfrm.prepare(tunnels)
        except HostError as error:
            self._log.repeated("esp", error)

    async def watch(self, repair: Callable[[], Awaitable[None]]) -> None:
        """Call `repair` when others changed what is ours in XFRM, and while something is refused. Never returns."""
        while True:
            try:
                async with asyncio.timeout(RETRY_S):
                    await self._changed()
            except TimeoutError:
                if not self._refused:
                    continue
            except HostError as error:
                self._log.repeated("watch", error)
                await asyncio.sleep(RETRY_S)
                continue
            await repair()
            await asyncio.sleep(SETTLE_S)

    async def _changed(self) -> None:
        if self._xfrm is None:
            await asyncio.sleep(2 * RETRY_S)  # a reload may find it
        else:
            await self._xfrm.changed()

    async def close(self) -> None:
        """Give up what is held; policies and associations stay."""
        if self._preparing is not None:
            await asyncio.gather(self._preparing, return_exceptions=True)
        if self._xfrm is not None:
            await self._xfrm.close()
