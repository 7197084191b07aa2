"""Holds the share of branches that the tests took to a goal: `python -m tests.branches REPORT.json GOAL PLACE…`."""

import json
import sys
from pathlib import Path

from qhybridd.crypto import liboqs

LIBOQS = "qhybridd/crypto/liboqs.py"


def main(report: str, goal: str, *places: str) -> int:
    """Print each place's share; 1 when one is under the goal."""
    files = json.loads(Path(report).read_text())["files"]
    if liboqs.find_library() is None:
        print(f"{LIBOQS} is left out: liboqs is not installed, and most of it cannot run")
        del files[LIBOQS]
    missed = 0
    for place in places:
        found = [data["summary"] for name, data in files.items() if name == place or name.startswith(f"{place}/")]
        if not found:
            raise SystemExit(f"the report has no {place}")
        branches = sum(summary["num_branches"] for summary in found)
        covered = sum(summary["covered_branches"] for summary in found)
        lines = sum(summary["num_statements"] for summary in found)
        taken = sum(summary["covered_lines"] for summary in found)
        share = 100 * covered / branches if branches else 100.0
        print(f"{place}: {covered} of {branches} branches, {share:.1f} % (goal {goal} %); {taken} of {lines} lines")
        missed += share < float(goal) or taken < 0.95 * lines
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
