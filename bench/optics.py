"""How fast light is simulated: what `qhybridd bench --stage optics` measures."""

from bench.distillation import figures_of
from bench.figures import Figure
from qhybridd.apps.bench.options import Options
from qhybridd.apps.bench.run import measure as measure_stages


def measure() -> list[Figure]:
    """A figure for each line."""
    return [figure for reading in measure_stages(Options(), ["optics"]) for figure in figures_of(reading)]


if __name__ == "__main__":
    for one in measure():
        print(one)
