"""What the daemon asks of its host: no core dumps, and word to the service manager."""

import asyncio
import contextlib
import ctypes
import os
import resource
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from qhybridd.errors import HostError

PR_SET_DUMPABLE: Final = 4
"""linux/prctl.h."""
TFD_TIMER_ABSTIME: Final = 1
TFD_TIMER_CANCEL_ON_SET: Final = 2
"""linux/timerfd.h."""
FAR_S: Final = 10 * 365 * 86400
CLOCK_CHECK_S: Final = 0.5
"""Between two looks at the clocks."""
MIN_STEP_S: Final = 0.5
"""Less is no matter for lifetimes of whole seconds."""
MIN_SLEEP_S: Final = 0.5
"""Less than this the guard may be late by anyway."""


def forbid_dumps() -> None:
    """No core file, no ptrace by others, no /proc/self/mem: the process holds secrets. Raises `HostError`."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if ctypes.CDLL(None, use_errno=True).prctl(PR_SET_DUMPABLE, 0, 0, 0, 0) != 0:
        raise HostError("host.memory", f"prctl(PR_SET_DUMPABLE): {os.strerror(ctypes.get_errno())}")


def tell_service_manager(state: str) -> None:
    """sd_notify(3): for instance `READY=1`. Without a service manager nothing happens."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address:
        return
    if address.startswith("@"):
        address = "\0" + address[1:]
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as notify:
        try:
            notify.sendto(state.encode(), address)
        except OSError:
            return  # the manager's affair: it will see that it heard nothing


def slept_s() -> float:
    """How long the machine has been suspended since boot, seconds: what CLOCK_MONOTONIC leaves out."""
    return time.clock_gettime(time.CLOCK_BOOTTIME) - time.clock_gettime(time.CLOCK_MONOTONIC)


@dataclass(frozen=True, slots=True)
class Clocks:
    """How the clocks of this machine stand to each other, seconds."""

    slept_s: float
    """How long it has been suspended since boot."""
    wall_s: float
    """The wall clock at boot: it changes when somebody sets the clock, and hardly when it is slewed."""


def read_clocks() -> Clocks:
    """As they are now."""
    return Clocks(slept_s(), time.clock_gettime(time.CLOCK_REALTIME) - time.clock_gettime(time.CLOCK_BOOTTIME))


class ClockAlarm:
    """Tells at once when the wall clock is set, as it is by the end of a suspension too (timerfd_create(2)).

    The timer itself never ends; that it is cancelled when the clock is set is what it is for. Where there is no such
    timer, `wait` only waits.
    """

    def __init__(self) -> None:
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._descriptor: int = self._libc.timerfd_create(time.CLOCK_REALTIME, os.O_NONBLOCK | os.O_CLOEXEC)
        self._arm()

    async def wait(self, most_s: float) -> None:
        """Until the clock is set, at most so long."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(most_s):
                await (readable(self._descriptor) if self._descriptor >= 0 else asyncio.Event().wait())
        if self._descriptor >= 0:
            with contextlib.suppress(OSError):  # ECANCELED: the clock was set
                os.read(self._descriptor, 8)
            self._arm()

    def close(self) -> None:
        """Give the timer up."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def _arm(self) -> None:
        far = (ctypes.c_long * 4)(0, 0, int(time.time()) + FAR_S, 0)  # struct itimerspec: no interval, one end
        flags = TFD_TIMER_ABSTIME | TFD_TIMER_CANCEL_ON_SET
        if self._descriptor >= 0 and self._libc.timerfd_settime(self._descriptor, flags, far, None) != 0:
            self.close()


async def readable(descriptor: int) -> None:
    """Return when a read would not block."""
    loop = asyncio.get_running_loop()
    event = asyncio.Event()
    loop.add_reader(descriptor, event.set)
    try:
        await event.wait()
    finally:
        loop.remove_reader(descriptor)


async def watch_clocks(
    woke: Callable[[float], None], stepped: Callable[[float], None], read: Callable[[], Clocks] = read_clocks
) -> None:
    """Call `woke` with the seconds of each sleep, `stepped` with those by which the wall clock was set. Never returns.

    At once where the kernel tells, at most `CLOCK_CHECK_S` later in any case.
    """
    alarm = ClockAlarm()
    try:
        before = read()
        while True:
            await alarm.wait(CLOCK_CHECK_S)
            now = read()
            if now.slept_s - before.slept_s >= MIN_SLEEP_S:
                woke(now.slept_s - before.slept_s)
            elif abs(now.wall_s - before.wall_s) >= MIN_STEP_S:
                stepped(now.wall_s - before.wall_s)
            before = now
    finally:
        alarm.close()
