"""`python -m tests.kernel.fault_table`: writes the table of docs/faults.md from what the tests measured.

Each test leaves one line of JSON for each row in build/faults.jsonl (`FAULTS_FILE` says otherwise); the last line for a
row counts.
"""

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import msgspec

from tests.kernel.faults import expected_rows

ROOT: Final = Path(__file__).parents[2]
PAGE: Final = ROOT / "docs/faults.md"
BEGIN: Final = "<!-- made by `make faults` -->"
END: Final = "<!-- end -->"
HEAD: Final = (
    "| fault | tunnel | outcome | time to close | after the hard expiry | time to recover | in clear |",
    "|---|---|---|---:|---:|---:|---:|",
)


class Row(msgspec.Struct, frozen=True):
    """One row as it was measured. Times are seconds; None where there is no such time."""

    fault: str
    """The row's title."""
    target: str
    """`WireGuard`, `ESP` or `both`."""
    outcome: str
    close_s: float | None
    """From the fault to the last packet that passed; None: it never closed."""
    recover_s: float | None
    """To the first packet that passed again: from the end of the fault, or from the fault itself where the tunnel heals
    while that lasts; None: it never closed. For a tunnel that stays open: the longest silence."""
    in_clear: int
    """Packets that left over the underlay unprotected."""
    after_expiry_s: float | None = None
    """From the hard expiry to the last packet; negative: before it."""
    kernel: str = ""
    place: int = 0
    """Where in the table."""


def records_file() -> Path:
    """Where the rows are noted."""
    return Path(os.environ.get("FAULTS_FILE", ROOT / "build/faults.jsonl"))


def note(row: Row) -> None:
    """Add a row."""
    path = records_file()
    path.parent.mkdir(exist_ok=True)
    with path.open("ab") as file:
        file.write(msgspec.json.encode(row) + b"\n")


def read_rows(text: bytes) -> list[Row]:
    """The last record of each row, in the order of the table."""
    found = {
        (row.fault, row.target): row for row in (msgspec.json.decode(line, type=Row) for line in text.splitlines())
    }
    return sorted(found.values(), key=lambda row: row.place)


def render(rows: list[Row], expected: Sequence[tuple[str, str]] = ()) -> list[str]:
    """The lines of the table, and of which kernels it tells. An expected row that nobody measured says so."""
    found = {(row.fault, row.target): _line(row) for row in rows}
    missing = {key: f"| {key[0]} | {key[1]} | not measured | – | – | – | – |" for key in expected}
    kernels = sorted({row.kernel for row in rows if row.kernel})
    told = ["", f"Measured on Linux {', '.join(kernels)}."] if kernels else []
    return [*HEAD, *(missing | found).values(), *told]


def _line(row: Row) -> str:
    cells = (
        row.fault,
        row.target,
        row.outcome,
        _seconds(row.close_s),
        "–" if row.after_expiry_s is None else f"{row.after_expiry_s:+.2f} s",
        _seconds(row.recover_s),
        str(row.in_clear),
    )
    return f"| {' | '.join(cells)} |"


def _seconds(value: float | None) -> str:
    return "–" if value is None else f"{value:.1f} s"


def put(page: str, lines: list[str]) -> str:
    """The page with this table in place of the one that it has."""
    before, _, rest = page.partition(BEGIN)
    _, _, after = rest.partition(END)
    return "\n".join((f"{before}{BEGIN}", "", *lines, "", f"{END}{after}"))


def rows_of(page: str) -> list[tuple[str, str]]:
    """Fault and kind of tunnel of every row that the page has."""
    table = [line for line in page.partition(BEGIN)[2].partition(END)[0].splitlines() if line.startswith("|")]
    cells = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in table[len(HEAD) :]]
    return [(row[0], row[1]) for row in cells]


def main() -> int:
    """Write the table."""
    if not records_file().exists():
        print("nothing was measured: the table stays as it is", file=sys.stderr)
        return 1
    rows = read_rows(records_file().read_bytes())
    PAGE.write_text(put(PAGE.read_text(), render(rows, expected_rows())))
    print(f"{PAGE}: {len(rows)} rows")
    return 0


if __name__ == "__main__":
    sys.exit(main())
