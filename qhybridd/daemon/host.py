"""What the daemon asks of its host: no core dumps, and word to the service manager."""

import asyncio
import ctypes
import os
import resource
import socket
import time
from collections.abc import Callable
from typing import Final

from qhybridd.errors import HostError

PR_SET_DUMPABLE: Final = 4
"""linux/prctl.h."""
SLEEP_CHECK_S: Final = 0.5
"""Between two looks for a sleep of the machine."""
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


async def watch_sleep(woke: Callable[[float], None], clock: Callable[[], float] = slept_s) -> None:
    """Call `woke` with the seconds of each sleep, at most `SLEEP_CHECK_S` after its end. Never returns."""
    before = clock()
    while True:
        await asyncio.sleep(SLEEP_CHECK_S)
        now = clock()
        if now - before >= MIN_SLEEP_S:
            woke(now - before)
        before = now
