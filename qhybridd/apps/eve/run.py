"""`qhybridd eve`: gets into the way, relays, tells what passes and what it teaches her, and leaves nothing behind."""

import asyncio
import os
import signal
from contextlib import suppress
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from types import TracebackType
from typing import Final

from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from qhybridd.apps.eve.copy import Copy
from qhybridd.apps.eve.intercept import Interception, resolve
from qhybridd.apps.eve.relay import Knowledge, Relay
from qhybridd.clock import boottime
from qhybridd.config.records import Endpoint
from qhybridd.optics.eve import Tally
from qhybridd.telemetry.log import open_log

LOOK_EVERY_S: Final = 0.5
PLAIN_EVERY_S: Final = 5.0
"""Where there is no terminal."""
FAREWELL_S: Final = 0.2
"""From closing Bob's connection to the end of the redirect: without it he would not recognise her last words."""
STOPS: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@dataclass(frozen=True, slots=True)
class Options:
    """What the command line said."""

    connect: Endpoint
    """Alice's photon endpoint."""
    listen: Endpoint | None
    """Where Bob comes; None: with `intercept` any free port of every address, else the port of `connect`."""
    intercept: bool
    knowledge: Knowledge
    seconds: float | None = None
    """None: until a signal."""
    copy: Path | None = None
    copy_most_bytes: int = 1 << 30


def main(options: Options) -> int:
    """Run until the time is over or a signal comes. Returns the exit code; raises `QhybriddError`."""
    asyncio.run(_run(options))
    return 0


async def _run(options: Options) -> None:
    stop = asyncio.Event()
    for number in STOPS:
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    target = resolve(options.connect) if options.intercept else options.connect
    screen, interception = _Screen(options.knowledge), None
    log = open_log(os.environ.get("QHYBRIDD_LOG", "error"))
    relay = Relay(_listening(options, target), target, options.knowledge, log, screen.tell)
    with screen:
        try:
            if options.copy is not None:
                relay.copy = Copy(options.copy, options.copy_most_bytes)
            await relay.open()
            if options.intercept:
                interception = Interception(target, relay.listening.port)
                interception.open()
                screen.tell(f"connections to {target} that are routed here now end here")
            else:
                screen.tell(f"waiting for Bob at {relay.listening}")
            await _watch(relay, screen, stop, options.seconds)
        finally:
            if interception is not None:
                interception.release()
            await relay.close()
            if interception is not None:
                await asyncio.sleep(FAREWELL_S)
                interception.close()
            if relay.copy is not None:
                relay.copy.close()
    screen.finish(relay)


async def _watch(relay: Relay, screen: "_Screen", stop: asyncio.Event, seconds: float | None) -> None:
    end = None if seconds is None else boottime() + seconds
    while not stop.is_set() and (end is None or boottime() < end):
        screen.show(relay)
        left = LOOK_EVERY_S if end is None else min(LOOK_EVERY_S, end - boottime())
        with suppress(TimeoutError):
            async with asyncio.timeout(max(0.0, left)):
                await stop.wait()


def _listening(options: Options, target: Endpoint) -> Endpoint:
    if options.listen is not None:
        return options.listen
    if not options.intercept:
        return Endpoint("0.0.0.0", target.port)  # noqa: S104 - Bob may come from anywhere
    every = "::" if ip_address(target.host).version == 6 else "0.0.0.0"  # noqa: S104 - where the redirect leads
    return Endpoint(every, 0)


class _Screen:
    """What happens, line by line, and below it on a terminal a line that is kept up to date."""

    def __init__(self, knowledge: Knowledge) -> None:
        self._console = Console(highlight=False)
        self._name = f"{knowledge.attack} {knowledge.fraction:.0%}"
        self._live: Live | None = None
        self._begun = self._looked = self._printed = boottime()
        self._before = Tally()
        self._rates = (0.0, 0.0)

    def __enter__(self) -> "_Screen":
        if self._console.is_terminal:
            self._live = Live(console=self._console, auto_refresh=False, transient=True)
            self._live.start()
        self.tell(f"{self._name}, on simulated links only: this is no device for a real fibre")
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        if self._live is not None:
            self._live.stop()

    def tell(self, text: str) -> None:
        """Something happened."""
        self._console.print(Text(f"{boottime() - self._begun:6.1f} s  {_plain(text)}"), soft_wrap=True)

    def show(self, relay: Relay) -> None:
        """Bring the line up to date."""
        now, tally = boottime(), relay.tally
        if now - self._looked >= 1.0:
            spent = now - self._looked
            pulses, passed = tally.pulses - self._before.pulses, tally.passed - self._before.passed
            self._rates, self._looked, self._before = (pulses / spent, passed / spent), now, tally
        if self._live is not None:
            self._live.update(Text(f"{now - self._begun:6.0f} s  {self._line(relay, tally)}"), refresh=True)
        elif now - self._printed >= PLAIN_EVERY_S:
            self._printed = now
            self.tell(self._line(relay, tally))

    def finish(self, relay: Relay) -> None:
        """The account."""
        tally = relay.tally
        table = Table(title=f"{self._name}: what it came to", title_justify="left", show_header=False)
        for name, value in (
            ("pulses of the frames that passed", f"{tally.pulses:.4g}"),
            ("pulses with light that went on to Bob", f"{tally.passed}"),
            ("of them touched", f"{tally.touched}"),
            ("pulses with light that were stopped", f"{tally.stopped}"),
            ("photons kept", f"{tally.photons_kept}"),
            ("bits known of those that went on", f"{tally.bits:.0f} ({_share(tally)})"),
        ):
            table.add_row(name, value)
        if relay.copy is not None:
            table.add_row(f"bytes in {_plain(str(relay.copy.path))}", f"{relay.copy.bytes}")
        self._console.print(table)

    def _line(self, relay: Relay, tally: Tally) -> str:
        if not relay.connected:
            return "no light: Bob has not dialled, or Alice does not answer"
        copied = ""
        if relay.copy is not None:
            copied = f", {relay.copy.bytes / 2**20:.1f} MiB copied"
            copied += f" ({relay.copy.ended})" if relay.copy.ended else ""
        pulses, passed = self._rates
        return f"{pulses:.2e} pulses/s, {passed:.2e} with light; she knows {_share(tally)} of their bits{copied}"


def _share(tally: Tally) -> str:
    return f"{tally.bits / tally.passed:.1%}" if tally.passed else "nothing"


def _plain(text: str) -> str:
    """Errors may quote the other end."""
    return "".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in text)
