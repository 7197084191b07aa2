"""How fast keys are distilled: what `qhybridd bench` measures, at the error rates that have goals."""

from bench.figures import Figure
from qhybridd.apps.bench.options import Options
from qhybridd.apps.bench.readings import Goal, Reading, judged
from qhybridd.apps.bench.run import STAGES
from qhybridd.apps.bench.run import measure as measure_stages

QBERS = (0.02, 0.03, 0.05)


def measure() -> list[Figure]:
    """A figure for each line; efficiency and frame errors have lines of their own where they have goals."""
    stages = [stage for stage in STAGES if stage != "optics"]
    return [figure for reading in measure_stages(Options(QBERS), stages) for figure in figures_of(reading)]


def figures_of(reading: Reading) -> list[Figure]:
    """The figures of one line."""
    what = reading.stage if reading.qber is None else f"{reading.stage}, QBER {reading.qber:.0%}"
    figures = [_figure(what, reading.case, reading.figure, reading.unit, reading.goal)]
    if reading.efficiency_goal and reading.efficiency is not None:
        figures.append(_figure(f"{what}: f", reading.case, reading.efficiency, "", reading.efficiency_goal))
    if reading.frame_errors_goal and reading.frame_errors is not None:
        goal = Goal(100 * reading.frame_errors_goal.figure, at_most=True)
        figures.append(_figure(f"{what}: frames that fail", reading.case, 100 * reading.frame_errors, "%", goal))
    return figures


def _figure(what: str, how: str, figure: float, unit: str, goal: Goal | None) -> Figure:
    text = f"{figure:.4g} {unit}".strip()
    if goal is None:
        return Figure(what, text, how)
    sign = "≤" if goal.at_most else "≥"
    return Figure(what, text, how, f"{sign} {goal.figure:g} {unit}".strip(), goal.met(figure) if judged() else None)


if __name__ == "__main__":
    for one in measure():
        print(one)
