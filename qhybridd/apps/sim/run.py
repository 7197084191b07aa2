"""`qhybridd sim run`: some blocks of one link."""

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from qhybridd.apps.sim.link import BlockReport, SimulatedLink
from qhybridd.apps.sim.plot import check_output
from qhybridd.apps.sim.progress import progress_bar
from qhybridd.apps.sim.report import SIMULATED, describe, make_console, outcomes, row_of, summarise, write_csv
from qhybridd.apps.sim.totals import total
from qhybridd.config.records import LinkConfig
from qhybridd.optics.randomness import Randomness

EXIT_INTERRUPTED: Final = 130
OUTCOMES_SHOWN: Final = 5


@dataclass(frozen=True, slots=True)
class Run:
    """What to run."""

    link: LinkConfig
    blocks: int
    randomness: Randomness
    attack: str | None = None
    fraction: float = 1.0
    csv: Path | None = None


def main(run: Run) -> int:
    """Simulate, print the summary. Returns 0, or 130 after Ctrl-C with what there was until then."""
    check_output(run.csv)
    console = make_console()
    simulated = SimulatedLink(run.link, run.randomness)
    if run.attack:
        simulated.attack(run.attack, run.fraction)
    console.print(describe(run.link))
    done: list[BlockReport] = []
    code = 0
    try:
        with progress_bar("simulating", run.blocks) as bar:
            whole = simulated.layout.block_pulses / simulated.layout.repetition_hz
            for _ in range(run.blocks):
                done.append(simulated.block(lambda now: bar.at(now / whole)))
                bar.at(len(done))
    except KeyboardInterrupt:
        code = EXIT_INTERRUPTED
        console.print(f"Interrupted after {len(done)} of {run.blocks} blocks.", style="yellow")
    finally:
        terms = simulated.planner.terms
        simulated.wipe()
    if done:
        title = f"{len(done)} blocks" if len(done) > 1 else "1 block"
        attacked = f", {run.attack} on {run.fraction:.0%} of the pulses" if run.attack else ""
        console.print(summarise(run.link, total(run.link.simulation, done), terms, title + attacked))
    for line in outcomes(done)[:OUTCOMES_SHOWN]:
        console.print(line, style="yellow", markup=False)
    console.print(SIMULATED, style="dim")
    if run.csv:
        write_csv(run.csv, [row_of(block) for block in done])
    return code
