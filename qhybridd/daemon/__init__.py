"""Floor 5: the daemon. It builds the graph, owns the tasks, and carries out what the core prescribes."""

import asyncio
import os
import signal
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qhybridd.errors import HostError, QhybriddError

if TYPE_CHECKING:
    from qhybridd.daemon.gateway import Gateway
    from qhybridd.telemetry.log import Log


def run(config_path: Path) -> int:
    """Run the daemon in the foreground until SIGTERM or SIGINT. Returns the exit status.

    Raises `QhybriddError` when it cannot start.
    """
    # Here, so that a program that wants one record of the daemon's does not load all of it.
    from qhybridd.daemon.gateway import Gateway
    from qhybridd.daemon.host import forbid_dumps
    from qhybridd.daemon.site import load_site
    from qhybridd.telemetry.log import open_log

    forbid_dumps()
    log = open_log(os.environ.get("QHYBRIDD_LOG", "info"))
    try:
        site = load_site(config_path)
    except QhybriddError:
        asyncio.run(_guard_alone(config_path, log))
        raise
    asyncio.run(_serve(Gateway(config_path, site, log), log))
    return 0


async def _guard_alone(config_path: Path, log: "Log") -> None:
    """A gateway that cannot start, for want of a key file for instance, still keeps its tunnels closed.

    As far as its configuration, or the last good one, says what to guard, and unless a daemon runs, which guards what
    it loaded.
    """
    from qhybridd.boot import load_guard
    from qhybridd.config import GatewayConfig, load_gateway
    from qhybridd.control import daemon_answers

    try:
        socket = load_gateway(config_path).socket
    except QhybriddError:
        socket = GatewayConfig().socket
    try:
        if await daemon_answers(socket):
            return
        guarded = await load_guard(config_path, restore=False)
    except QhybriddError as error:
        log.error("no guard", code=error.code, message=error.message, where=error.where, hint=error.hint)
    else:
        log.warning("guarded without a daemon", tunnels=len(guarded.config.tunnels), copy=guarded.refused is not None)


async def _serve(gateway: "Gateway", log: "Log") -> None:
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, gateway.stop)
    reloads: set[asyncio.Task[None]] = set()

    def hang_up() -> None:
        task = loop.create_task(_reload(gateway, log))
        reloads.add(task)
        task.add_done_callback(reloads.discard)

    loop.add_signal_handler(signal.SIGHUP, hang_up)
    loop.set_exception_handler(partial(_complain, log))
    await gateway.run()


async def _reload(gateway: "Gateway", log: "Log") -> None:
    try:
        await gateway.reload()
    except QhybriddError as error:
        log.error("reload refused", code=error.code, message=error.message, where=error.where, hint=error.hint)
    except Exception as error:  # a defect must not go unseen
        log.defect(error)


def _complain(log: "Log", _loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """What nobody caught: in our words, since the text of an exception may hold anything."""
    error = context.get("exception")
    if isinstance(error, OSError):
        log.repeated("socket", HostError("host.socket", f"{context.get('message', '')}: {error.strerror}"))
    elif isinstance(error, BaseException):
        log.defect(error)
    else:
        log.error("defect", kind=str(context.get("message", "")))
