"""How the demo looks: a live picture on a terminal, plain lines elsewhere."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Final

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from qhybridd.apps.watch import Event, Look, Watch

STYLES: Final = {"plain": "", "good": "green", "bad": "yellow", "phase": "bold cyan"}
LOG_LINES: Final = 12
BARS: Final = "▁▂▃▄▅▆▇█"
BARS_SHOWN: Final = 40
FULL_BAR: Final = 0.3
"""The QBER of the highest bar: nothing that answers at random is above a half, and a full attack is at a quarter."""
PLAIN_WIDTH: Final = 120
PLAIN_EVERY_S: Final = 10.0
"""How often the counters are printed where there is no terminal."""


@dataclass(frozen=True, slots=True)
class Observation:
    """One thing that the demo is to show, and whether it was seen."""

    claim: str
    measured: str
    held: bool


def make_console() -> Console:
    """Standard output; wide enough for the tables where it is no terminal."""
    console = Console(highlight=False)
    return console if console.is_terminal else Console(highlight=False, width=PLAIN_WIDTH)


@dataclass(slots=True)
class Screen:
    """Shows a `Watch`."""

    console: Console
    phase: str = ""
    _live: Live | None = None
    _shown: int = 0
    _counted_s: float = field(default=0.0)

    def __enter__(self) -> "Screen":
        if self.console.is_terminal:
            self._live = Live(console=self.console, auto_refresh=False, transient=False)
            self._live.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        if self._live:
            self._live.stop()

    def show(self, watch: Watch) -> None:
        """Bring the picture up to date."""
        if watch.last is None:
            return
        if self._live:
            self._live.update(_picture(watch, watch.last, self.phase), refresh=True)
            return
        for event in watch.log[self._shown :]:
            self.console.print(_line(event))
        self._shown = len(watch.log)
        if watch.elapsed_s - self._counted_s >= PLAIN_EVERY_S:
            self._counted_s = watch.elapsed_s
            for name in watch.last.flows:
                self.console.print(f"{watch.elapsed_s:6.1f} s    {_brief(name, watch.last)}", style="dim")
            for name, rates in watch.qbers.items():
                line = f"{watch.elapsed_s:6.1f} s    QBER of {name}: {bars(rates)} {rates[-1]:.1%}"
                self.console.print(line, style="dim")


def summary(observations: Sequence[Observation], title: str) -> RenderableType:
    """The table at the end."""
    table = Table(title=title, title_justify="left", expand=False)
    table.add_column("")
    table.add_column("observed")
    table.add_column("measured")
    for one in observations:
        mark = Text("✓", "bold green") if one.held else Text("✗", "bold red")
        table.add_row(mark, one.claim, one.measured)
    return table


def _picture(watch: Watch, look: Look, phase: str) -> RenderableType:
    head = Text().append(f"{watch.elapsed_s:5.0f} s  ", "dim").append(phase, STYLES["phase"])
    log = Text("\n", no_wrap=True, overflow="ellipsis").join(_line(event) for event in watch.log[-LOG_LINES:])
    events = Panel(log, title="events", title_align="left", height=LOG_LINES + 2)
    return Group(head, _tunnels(look), *_links(watch, look), events)


def _tunnels(look: Look) -> Table:
    table = Table(expand=False)
    for name in ("tunnel", "gateway", "state", "level", "epoch", "key age", "expires in", "sent", "lost"):
        table.add_column(name, justify="left" if name in {"tunnel", "gateway", "state", "level"} else "right")
    names = list(dict.fromkeys(t.name for status in look.gateways.values() if status for t in status.tunnels))
    for name in names:
        reading = look.flows.get(name)
        for index, (gateway, tunnel) in enumerate(look.tunnels(name).items()):
            # The gateways stand in the order of the flow's ends: what the first sends is `there`.
            way = (reading.there if index == 0 else reading.back) if reading else None
            table.add_row(
                name if index == 0 else "",
                gateway,
                Text(tunnel.state, "green" if tunnel.state == "open" else "bold yellow"),
                tunnel.level or "-",
                str(tunnel.epoch),
                _seconds(tunnel.key_age_s),
                _seconds(tunnel.expires_in_s),
                str(way.sender.sent) if way else "-",
                str(way.lost) if way else "-",
            )
    return table


def _links(watch: Watch, look: Look) -> list[RenderableType]:
    """One line for each QKD link and gateway, and the QBER of the last blocks as bars."""
    names = list(dict.fromkeys(link.name for status in look.gateways.values() if status for link in status.links))
    table = Table(expand=False)
    for title in (
        "QKD link",
        "gateway",
        "state",
        "QBER",
        "kept",
        "dropped",
        "keys in store",
        "QBER of the last blocks",
    ):
        table.add_column(title)
    for name in names:
        for index, (gateway, link) in enumerate(look.links(name).items()):
            qber = link.qber_test if link.qber_test is not None else link.qber_key
            keys = (link.store.own_bits + link.store.peer_bits) // 256
            table.add_row(
                f"{name} (simulated)" if index == 0 and link.simulated else name if index == 0 else "",
                f"{gateway} ({link.role})",
                Text(link.state, "green" if link.state == "up" else "bold yellow"),
                "-" if qber is None else f"{qber:.1%}",
                str(link.kept),
                str(link.dropped),
                f"{keys}, {link.store.mark}",
                bars(watch.qbers.get(name, [])) if index == 0 else "",
            )
    return [table] if names else []


def bars(rates: Sequence[float]) -> str:
    """The last error rates as a row of bars."""
    shown = [min(1.0, rate / FULL_BAR) for rate in rates[-BARS_SHOWN:]]
    return "".join(BARS[round(height * (len(BARS) - 1))] for height in shown)


def _brief(name: str, look: Look) -> str:
    reading = look.flows[name]
    key = next(iter(look.tunnels(name).values()), None)
    of_key = f"epoch {key.epoch}, level {key.level}, key age {_seconds(key.key_age_s)}" if key else "no status"
    state = "/".join(sorted(look.states(name)))
    return f"{name} {state}: {of_key}; {reading.sent} packets sent, {reading.lost} lost"


def _line(event: Event) -> Text:
    return Text().append(f"{event.at_s:6.1f} s  ", "dim").append(event.text, STYLES[event.weight])


def _seconds(value: float | None) -> str:
    return "-" if value is None else f"{value:.0f} s"
