"""From starting two daemons to the first live epoch, in two namespaces with a real tunnel."""

import statistics
import time
from pathlib import Path
from typing import Final

from bench.figures import Figure
from qhybridd.apps.lab import Lab

RUNS: Final = 5
CONFIGS: Final = Path(__file__).parents[1] / "configs" / "demo"


def measure() -> list[Figure]:
    """Median seconds until both gateways call both tunnels open."""
    texts = {name: (CONFIGS / f"{name}.toml").read_text() for name in ("alice", "bob")}
    taken = []
    for _ in range(RUNS):
        with Lab(texts) as lab:
            begun = time.monotonic()
            lab.start_daemons()
            for tunnel in ("wan", "fast"):
                lab.wait_open(tunnel)
            taken.append(time.monotonic() - begun)
    how = f"two daemons started at once, two tunnels, both ends open; median of {RUNS}, worst {max(taken):.2f} s"
    return [Figure("time from start to the first live epoch", f"{statistics.median(taken):.2f} s", how)]


if __name__ == "__main__":
    for figure in measure():
        print(figure)
