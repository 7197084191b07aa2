"""Figures, by matplotlib where it is installed. Without a display, and without a font or a cache outside of it."""

import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from qhybridd.errors import HostError, OperatorError

SUFFIXES: Final = (".png", ".svg", ".pdf")
WIDTH_INCHES: Final = 8.0
PANEL_INCHES: Final = 2.6
DOTS_PER_INCH: Final = 150
HEADROOM: Final = 1.05
"""Of linear axes: points that are all alike would lie on the frame."""


@dataclass(frozen=True, slots=True)
class Series:
    """What was simulated, as points, or what a formula says, as a line. `None` leaves a gap."""

    label: str
    x: Sequence[float]
    y: Sequence[float | None]
    spread: Sequence[float] | None = None
    """A standard deviation for each point, as bars."""
    line: bool = False
    beside: bool = False
    """Whether it belongs to the series before it, and has its colour."""


@dataclass(frozen=True, slots=True)
class Panel:
    """One set of axes; all panels of a figure share the x axis."""

    y_label: str
    series: Sequence[Series]
    log: bool = False
    """Zeroes are left out then."""


@dataclass(frozen=True, slots=True)
class Span:
    """A stretch of the x axis with a name: something happened there."""

    begin: float
    end: float
    label: str


@dataclass(frozen=True, slots=True)
class Chart:
    """A whole figure."""

    title: str
    x_label: str
    panels: Sequence[Panel]
    spans: Sequence[Span] = field(default=())
    log_x: bool = False


def check_plot(path: Path | None) -> None:
    """Before the work begins: raises `HostError` (host.plot) without matplotlib, `OperatorError` for a path that
    cannot be written or whose ending says no format."""
    if path is None:
        return
    if path.suffix.lower() not in SUFFIXES:
        raise OperatorError("config.value", f"{path}: a plot is {', '.join(SUFFIXES)}", hint="Give it such an ending.")
    if importlib.util.find_spec("matplotlib") is None:
        raise HostError("host.plot", "there is no matplotlib to draw with")
    check_output(path)


def check_output(path: Path | None) -> None:
    """Raises `OperatorError` (file.missing, file.unreadable) where a file to write has no directory or cannot be
    opened. A file that is there stays as it is, and none is left behind."""
    if path is None:
        return
    if not path.parent.is_dir():
        raise OperatorError("file.missing", f"there is no directory {path.parent}", where=str(path))
    there = path.exists()
    try:
        path.open("ab").close()
        if not there:
            path.unlink()
    except OSError as error:
        raise OperatorError(
            "file.unreadable", f"the file cannot be written: {error.strerror}", where=str(path)
        ) from None


def draw(chart: Chart, path: Path) -> None:
    """Write the figure, in the format of the file's ending."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import LogFormatter

    height = PANEL_INCHES * len(chart.panels) + 0.8
    figure = Figure(figsize=(WIDTH_INCHES, height), layout="constrained")
    axes = figure.subplots(len(chart.panels), 1, sharex=True, squeeze=False)[:, 0]
    for axis, panel in zip(axes, chart.panels, strict=True):
        number = -1
        for one in panel.series:
            number += not one.beside
            y = [float("nan") if v is None or (panel.log and v <= 0) else v for v in one.y]
            colour = f"C{number % 10}"
            if one.line:
                axis.plot(one.x, y, "-", color=colour, label=one.label, linewidth=1.2)
            else:
                axis.errorbar(one.x, y, one.spread, fmt=".", color=colour, label=one.label, markersize=5, capsize=2)
        if panel.log:
            axis.set_yscale("log")
            axis.yaxis.set_major_formatter(LogFormatter())
            axis.yaxis.set_minor_formatter(LogFormatter())
        else:
            axis.set_ylim(0, HEADROOM * axis.get_ylim()[1])
        for number, span in enumerate(chart.spans):
            axis.axvspan(span.begin, span.end, color=f"C{(number + 4) % 10}", alpha=0.15, linewidth=0)
            if axis is axes[0]:
                axis.text(span.begin, 1.01, span.label, transform=axis.get_xaxis_transform(), fontsize=7, rotation=20)
        axis.set_ylabel(panel.y_label)
        axis.grid(alpha=0.3)
        axis.legend(fontsize=7)
    if chart.log_x:
        axes[-1].set_xscale("log")
    axes[-1].set_xlabel(chart.x_label)
    figure.suptitle(chart.title, fontsize=10)
    try:
        figure.savefig(path, dpi=DOTS_PER_INCH)
    except OSError as error:
        raise OperatorError(
            "file.unreadable", f"the plot cannot be written: {error.strerror}", where=str(path)
        ) from None
