"""`qhybridd sim day`: hours of a link's life in minutes, with faults, tunnels that use its keys, and the accounts."""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from rich.console import Console
from rich.table import Table

from qhybridd.apps.sim.events import Event, Programme, usual_day
from qhybridd.apps.sim.link import BlockReport, SimulatedLink
from qhybridd.apps.sim.plot import Chart, Panel, Series, Span, check_output, check_plot, draw
from qhybridd.apps.sim.progress import progress_bar
from qhybridd.apps.sim.report import SIMULATED, Row, describe, duration, make_console, quantity, row_of, write_csv
from qhybridd.apps.sim.totals import total
from qhybridd.apps.sim.tunnels import Tunnels, compare_stores
from qhybridd.config.records import LinkConfig
from qhybridd.keystore import KeyStore
from qhybridd.optics.eve import make_attack
from qhybridd.optics.randomness import Randomness

EXIT_INTERRUPTED: Final = 130
EXIT_UNBALANCED: Final = 1
SETTLED_BLOCKS: Final = 3
"""From here on the memory that the process holds should not grow."""
HOUR_S: Final = 3600.0
OUTGOES: Final = {
    "used": "used",
    "expired": "expired",
    "burnt": "burnt",
    "authentication": "pads",
    "own": "own",
    "peer": "peer",
    "waiting": "waiting",
}
"""What becomes of a distilled bit: fields of an account without their `_bits`, and their names in a narrow table."""


@dataclass(frozen=True, slots=True)
class Day:
    """What to run."""

    link: LinkConfig
    hours: float
    tunnels: int
    period_s: float
    randomness: Randomness
    faults: bool = True
    attack: str | None = None
    fraction: float = 1.0
    csv: Path | None = None
    plot: Path | None = None

    @property
    def events(self) -> list[Event]:
        """What happens in it."""
        events = usual_day(self.hours * HOUR_S, self.attack, self.fraction)
        return [event for event in events if self.faults or event.name == self.attack]


@dataclass(frozen=True, slots=True)
class Moment:
    """How things stood when a block was over."""

    block: BlockReport
    in_store_bits: int
    """At Alice's end, both directions."""
    rotations: int
    starved: int
    resident_bytes: int


@dataclass(slots=True)
class Course:
    """A day under way."""

    day: Day
    link: SimulatedLink
    tunnels: Tunnels
    moments: list[Moment]

    @classmethod
    def of(cls, day: Day) -> "Course":
        """Before the first block."""
        tunnels = Tunnels(day.tunnels, day.period_s, day.randomness.child("tunnels"))
        return cls(day, SimulatedLink(day.link, day.randomness), tunnels, [])

    @property
    def blocks(self) -> list[BlockReport]:
        """Those that are over."""
        return [moment.block for moment in self.moments]

    def run(self, tell: Callable[[float], None] = lambda _: None) -> None:
        """To the end of the last block that begins within the hours; `tell` hears the time of the link."""
        programme = Programme(self.day.events)

        def at_frame(now: float) -> None:
            programme.at(self.link, now)
            self.tunnels.at(self.link, now)
            tell(now)

        while self.link.now < self.day.hours * HOUR_S:
            block = self.link.block(at_frame)
            compare_stores(self.link)
            account = self.link.alice_store.account
            stored = account.own_bits + account.peer_bits
            self.moments.append(Moment(block, stored, self.tunnels.rotations, self.tunnels.starved, resident_bytes()))


def main(day: Day) -> int:
    """Simulate, print, write and draw. Returns 0; 1 where an account does not balance; 130 after Ctrl-C, with what
    there was until then."""
    check_plot(day.plot)
    check_output(day.csv)
    if day.attack:  # now, and not in the evening
        make_attack(day.attack, day.link.simulation, day.fraction, day.randomness.child("unused"))
    console = make_console()
    course = Course.of(day)
    console.print(describe(day.link))
    code = 0
    try:
        with progress_bar("simulating", day.hours * HOUR_S) as bar:
            course.run(lambda now: bar.at(now, f"{now / HOUR_S:5.2f} h"))
    except KeyboardInterrupt:
        code = EXIT_INTERRUPTED
        console.print(f"Interrupted after {duration(course.link.now)} of the link.", style="yellow")
    _show(console, course)
    if not balanced(course):
        code = code or EXIT_UNBALANCED
    course.link.wipe()
    if day.csv:
        write_csv(day.csv, [_row(moment) for moment in course.moments])
    if day.plot and course.moments:
        draw(_chart(course), day.plot)
    return code


def balanced(course: Course) -> bool:
    """Whether every distilled bit is accounted for, at both ends."""
    return all(surplus(store) == 0 for store in (course.link.alice_store, course.link.bob_store))


def surplus(store: KeyStore) -> int:
    """Distilled bits less all that became of them; 0 in a right account."""
    account = store.account
    spent: int = sum(getattr(account, f"{name}_bits") for name in OUTGOES)
    return account.distilled_bits - spent


def resident_bytes() -> int:
    """Memory of this process that is in RAM; 0 where the kernel does not tell."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except (OSError, IndexError, ValueError):
        return 0
    return pages * os.sysconf("SC_PAGE_SIZE")


def _show(console: Console, course: Course) -> None:
    totals, tunnels = total(course.day.link.simulation, course.blocks), course.tunnels
    dropped = ", ".join(f"{count} × {code}" for code, count in totals.dropped.items())
    calibrated = sum(block.instruments.calibrating > 0 for block in course.blocks)
    lost = sum(block.instruments.unsynchronised > 0 for block in course.blocks)
    lines = Table.grid(padding=(0, 2))
    for name, text in (
        ("time", f"{duration(totals.seconds)} of the link, {totals.pulses:.4g} pulses, {totals.clicks:,} clicks"),
        ("blocks", f"{totals.kept} of {totals.blocks} kept" + (f"; dropped: {dropped}" if dropped else "")),
        ("calibrations", f"in {calibrated} blocks; clock lost in {lost}"),
        ("QBER", f"{totals.qber_key.value:.2%} in the key basis, {totals.qber_test.value:.2%} in the test basis"),
        ("secret key", f"{quantity(totals.key_bits_per_s)}bit/s, {totals.net_bits:,} bits"),
        ("tunnels", f"{tunnels.rotations:,} new keys, {tunnels.starved:,} times none, {tunnels.failed:,} failed"),
        ("memory", _memory(course.moments)),
    ):
        lines.add_row(f"[bold]{name}[/bold]", text)
    console.print(lines)
    table = Table(title="accounts of the key stores, bits", title_justify="left")
    for name in ("", "distilled", *OUTGOES.values(), "left over"):
        table.add_column(name, justify="left" if not name else "right")
    for end, store in (("alice", course.link.alice_store), ("bob", course.link.bob_store)):
        outgoes = (f"{getattr(store.account, f'{name}_bits'):,}" for name in OUTGOES)
        table.add_row(end, f"{store.account.distilled_bits:,}", *outgoes, f"{surplus(store):+,}")
    console.print(table)
    if balanced(course):
        console.print("Both accounts balance to the bit.", style="green")
    else:
        console.print("An account does not balance.", style="bold red")
    console.print(SIMULATED, style="dim")


def _memory(moments: Sequence[Moment]) -> str:
    if len(moments) <= SETTLED_BLOCKS:
        return "too few blocks to tell"
    first, last = moments[SETTLED_BLOCKS].resident_bytes / 2**20, moments[-1].resident_bytes / 2**20
    return f"{first:.1f} MiB resident after {SETTLED_BLOCKS} blocks, {last:.1f} MiB at the end ({last - first:+.1f})"


def _row(moment: Moment) -> Row:
    return {
        **row_of(moment.block),
        "in_store_bits": moment.in_store_bits,
        "rotations": moment.rotations,
        "starved": moment.starved,
        "resident_bytes": moment.resident_bytes,
    }


def _chart(course: Course) -> Chart:
    blocks = course.blocks
    hours = [block.end_s / HOUR_S for block in blocks]

    def percent(rate: float | None) -> float | None:
        return None if rate is None else 100 * rate

    kilo = 1e3
    return Chart(
        f"{course.day.hours:g} h of a simulated link of {course.day.link.simulation.fibre.length_km:g} km",
        "time of the link, h",
        [
            Panel("secret key, kbit/s", [Series("kept", hours, [b.net_bits / b.seconds / kilo for b in blocks])]),
            Panel(
                "QBER, %",
                [
                    Series("key basis", hours, [percent(block.qber_key) for block in blocks]),
                    Series("test basis", hours, [percent(block.qber_test) for block in blocks]),
                ],
                log=True,
            ),
            Panel("clicks, 1000/s", [Series("all", hours, [b.clicks / b.seconds / kilo for b in blocks])]),
            Panel(
                "key store, kbit",
                [Series("Alice", hours, [one.in_store_bits / kilo for one in course.moments], line=True)],
            ),
        ],
        [Span(event.begin_s / HOUR_S, event.end_s / HOUR_S, event.name) for event in course.day.events],
    )
