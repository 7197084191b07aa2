"""How readings are shown: tables for people, JSON for programs."""

import os
import platform
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import groupby
from pathlib import Path

import msgspec
from rich.console import Console
from rich.table import Table
from rich.text import Text

from qhybridd import _native
from qhybridd.apps.bench.readings import Goal, Reading, frequency_hz, judged

HOW = (
    "Processor time of one core, the fastest of several runs, of optics the median; two cores: by the clock. Cycles "
    "are that time and the frequency that a chain of dependent instructions shows, not those of a time stamp counter."
)


@dataclass(frozen=True, slots=True)
class Machine:
    """What was measured on."""

    processor: str
    cores: int
    instruction_set: str
    """That the kernels used."""
    gigahertz: float
    """True frequency of the core that asked; 0 where it is not known."""
    system: str

    @property
    def text(self) -> str:
        """One line."""
        speed = f", {self.gigahertz:.2f} GHz under load" if self.gigahertz else ""
        return f"{self.processor}{speed}, {self.cores} cores, {self.instruction_set}, {self.system}"


def describe_machine() -> Machine:
    """This one."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    name = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())
    system = f"Linux {platform.release()}, Python {platform.python_version()}"
    cores = len(os.sched_getaffinity(0))
    return Machine(name, cores, _native.instruction_set(), round(frequency_hz() / 1e9, 2), system)


def show(console: Console, readings: Sequence[Reading]) -> None:
    """One table for each stage, and how many goals were missed."""
    for stage, group in groupby(readings, key=lambda reading: reading.stage):
        console.print(_table(stage, list(group)))
    missed = sum(reading.missed for reading in readings)
    goals = sum(reading.goal is not None for reading in readings)
    if goals and not judged():
        console.print("The goals are for a core with AVX-512; they are not judged here.")
    elif goals:
        verdict = "every goal of these is met" if not missed else f"goals missed in {missed} lines (✗)"
        console.print(verdict, style="green" if not missed else "yellow")
    console.print(HOW, style="dim")


def as_json(machine: Machine, readings: Sequence[Reading]) -> str:
    """Everything, goals included, as one object."""
    lines = [asdict(reading) | {"missed": reading.missed} for reading in readings]
    return msgspec.json.format(msgspec.json.encode({"machine": asdict(machine), "readings": lines})).decode()


def _table(stage: str, readings: Sequence[Reading]) -> Table:
    table = Table(title=stage, title_justify="left")
    columns: list[tuple[str, list[Text]]] = [
        ("", [Text(reading.case) for reading in readings]),
        ("QBER", [Text("" if reading.qber is None else f"{reading.qber:.1%}") for reading in readings]),
        ("figure", [_against(f"{_short(one.figure)} {one.unit}", one.figure, one.goal) for one in readings]),
        ("f", [_against(_or_nothing(one.efficiency, ".3f"), one.efficiency, one.efficiency_goal) for one in readings]),
        (
            "frame errors",
            [
                _against(_or_nothing(one.frame_errors, ".2%"), one.frame_errors, one.frame_errors_goal)
                for one in readings
            ],
        ),
        ("cycles each", [Text("" if one.cycles is None else _short(one.cycles)) for one in readings]),
        ("one run", [Text("" if one.seconds is None else _time(one.seconds)) for one in readings]),
    ]
    used = [(name, cells) for name, cells in columns if any(cell.plain for cell in cells)]
    for name, _ in used:
        table.add_column(name, justify="left" if not name else "right")
    for row in zip(*(cells for _, cells in used), strict=True):
        table.add_row(*row)
    return table


def _against(text: str, figure: float | None, goal: Goal | None, form: str = "g") -> Text:
    """The figure and its goal, with the verdict."""
    if goal is None or figure is None:
        return Text(text)
    sign = "≤" if goal.at_most else "≥"
    mark = "" if not judged() else (" ✓" if goal.met(figure) else " ✗")
    style = "" if not judged() or goal.met(figure) else "yellow"
    return Text(f"{text} ({sign} {format(goal.figure, form)}){mark}", style=style)


def _short(number: float) -> str:
    return f"{number:.0f}" if abs(number) >= 100 else f"{number:.3g}"


def _or_nothing(number: float | None, form: str) -> str:
    return "" if number is None else format(number, form)


def _time(seconds: float) -> str:
    return f"{seconds:.2f} s" if seconds >= 1 else f"{1e3 * seconds:.3g} ms"
