"""Runs every benchmark, one after the other, with nothing beside it, and prints one table."""

import os
import platform
import sys
from pathlib import Path

from rich.console import Console
from rich.table import Table

from bench import channel, distillation, handshake, memory, optics, photons, rotation, start
from bench.figures import Figure


def main() -> int:
    """Print the figures; exit 1 when a goal is missed."""
    console = Console()
    model = next(
        (line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line),
        "an unknown processor",
    )
    console.print(f"{model}, {os.cpu_count()} cores, Linux {platform.release()}, Python {platform.python_version()}")
    table = Table("what", "figure", "goal", "how", title="Benchmarks")
    figures: list[Figure] = []
    for stage in (optics, photons, distillation, handshake, channel, rotation, start, memory):
        console.print(f"[dim]{stage.__name__} …[/dim]")
        figures += stage.measure()
    for figure in figures:
        mark = "" if figure.met is None else (" ✓" if figure.met else " ✗")
        table.add_row(figure.what, figure.text, figure.goal + mark, figure.how)
    console.print(table)
    return 1 if any(figure.met is False for figure in figures) else 0


if __name__ == "__main__":
    sys.exit(main())
