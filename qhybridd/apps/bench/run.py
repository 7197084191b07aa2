"""Runs the stages of the benchmark one after the other, with progress, and shows what they gave."""

from collections.abc import Callable, Iterator, Sequence
from typing import Final

from rich.console import Console

from qhybridd.apps.bench.amplification import amplification
from qhybridd.apps.bench.hashing import authentication, verification
from qhybridd.apps.bench.optics import optics
from qhybridd.apps.bench.options import Options
from qhybridd.apps.bench.readings import Reading
from qhybridd.apps.bench.reconciliation import large_frames, reconciliation, small_frames
from qhybridd.apps.bench.report import as_json, describe_machine, show
from qhybridd.apps.bench.sifting import sifting
from qhybridd.apps.bench.whole import growth, two_cores, whole
from qhybridd.errors import HostError

Stage = Callable[[Options], Iterator[Reading]]

STAGES: Final[dict[str, Stage]] = {
    "optics": optics,
    "sifting": sifting,
    "reconciliation": reconciliation,
    "large-frames": large_frames,
    "small-frames": small_frames,
    "verification": verification,
    "amplification": amplification,
    "authentication": authentication,
    "whole": whole,
    "growth": growth,
    "two-cores": two_cores,
}
"""By name, in the order in which a block meets them."""

EXIT_INTERRUPTED: Final = 130


def measure(
    options: Options, stages: Sequence[str] = (), tell: Callable[[str], None] = lambda _: None
) -> Iterator[Reading]:
    """The readings of these stages (all, for none), as they come; `tell` hears what goes on."""
    for name in stages or STAGES:
        tell(name)
        for reading in STAGES[name](options):
            tell(f"{name}: {reading.case}: {reading.figure:.4g} {reading.unit}")
            yield reading


def main(options: Options, stages: Sequence[str] = (), *, json: bool = False) -> int:
    """Run and print. Returns 0, or 130 after Ctrl-C, with what was measured until then.

    A missed goal is shown as one and is no failure. Raises `HostError` where the host refused something.
    """
    progress = Console(stderr=True, highlight=False)
    console = Console(highlight=False) if Console().is_terminal else Console(highlight=False, width=160)
    readings: list[Reading] = []
    code, refused = 0, None
    machine = describe_machine()
    if not json:
        console.print(machine.text, markup=False)
    try:
        with progress.status("…") as status:
            for reading in measure(options, stages, status.update):
                readings.append(reading)  # noqa: PERF402 - kept when the next one is interrupted
    except KeyboardInterrupt:
        code = EXIT_INTERRUPTED
        progress.print("Interrupted: this is what was measured until then.")
    except HostError as error:
        refused = error
    if json:
        print(as_json(machine, readings))
    else:
        show(console, readings)
    if refused is not None:
        raise refused
    return code
