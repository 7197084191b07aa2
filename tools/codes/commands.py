"""The commands of `python -m tools.codes`."""

import argparse
import dataclasses
import json
import math
from collections import Counter
from pathlib import Path

from qhybridd.distill.codes import FrameSize, catalogue, load, table
from qhybridd.distill.rates import Framing, choose_framing, entropy
from tools.codes.design import design
from tools.codes.evolution import Profile, qber_at, threshold
from tools.codes.family import ANCHORS, PROFILES, PUNCTURED_LEAST, PUNCTURED_MOST, SIZES, Size, limit, profile
from tools.codes.graph import Code, build, cycles
from tools.codes.simulate import Point, find_point, simulate

QBERS = (0.005, 0.01, 0.02, 0.03, 0.05, 0.08, 0.10)
"""The error rates of the table."""
DOCUMENT = Path(__file__).parents[2] / "docs" / "codes.md"
CODES = Path(__file__).parents[2] / "qhybridd" / "distill" / "codes"
"""Where the tables go."""

WINDOW = 0.12
"""How far apart, in the logarithm of the error rate, codes still speak for each other."""

MEASURED = Path(__file__).with_name("measured.json")
"""All that `measure` found; `leaks.json` of the package is an extract."""


def design_profiles(arguments: argparse.Namespace) -> None:
    """Search for degrees, and store what is found after each one."""
    stored = json.loads(PROFILES.read_text()) if PROFILES.exists() else {}
    for size in SIZES:
        if arguments.size not in (None, size.name):
            continue
        known = {entry["leak"]: entry["columns"] for entry in stored.get(size.name, ())}
        for anchor, leak in enumerate(ANCHORS):
            if arguments.leak not in (None, leak):
                continue
            efficiency = 1.1
            for _ in range(20):  # the limit depends on the error rate, and that on the efficiency
                efficiency = size.efficiency(qber_at(leak, efficiency))
            near = Profile({int(d): share for d, share in known[leak].items()}, leak) if leak in known else None
            degrees, seed = size.degrees(anchor), arguments.seed
            best, needed = design(leak, efficiency, degrees, seed, generations=arguments.generations, near=near)
            known[leak] = {str(degree): round(share, 4) for degree, share in best.columns.items()}
            print(
                f"{size.name} {leak} {known[leak]}: {best.mean:.2f} edges, "
                f"{needed:.0f} iterations at {efficiency:.3f}, threshold {leak / entropy(threshold(best)):.4f}",
                flush=True,
            )
            stored[size.name] = [{"leak": leak, "columns": columns} for leak, columns in sorted(known.items())]
            PROFILES.write_text(json.dumps(stored, indent=1) + "\n")


def construct(arguments: argparse.Namespace) -> None:
    """Build every code of a size and write its file."""
    for size in SIZES:
        if arguments.size not in (None, size.name):
            continue
        table = b""
        for rows in size.rows():
            code = build_first(size, rows, arguments.seed)
            four, six = cycles(code)
            degrees = sorted(len(row) for row in code.rows)
            print(
                f"{size.name} {rows} rows: checks of {degrees[0]} to {degrees[-1]}, cycles of 4: {four}, of 6: {six}",
                flush=True,
            )
            table += code.encode()
        (CODES / f"{size.name}.bin").write_bytes(table)
        print(f"{size.name}.bin: {len(table)} bytes")


def build_first(size: Size, rows: int, seed: int) -> Code:
    """The first code, counting up from `seed`, whose shifts all find a place."""
    shares = profile(size, rows / size.columns).columns
    for attempt in range(20):
        try:
            return build(shares, size.columns, rows, size.lifting, seed + 1000 * attempt)
        except ValueError as error:
            print(f"{size.name} {rows} rows: {error}", flush=True)
    raise SystemExit(f"{size.name} {rows} rows: no code; lower the highest degree")


def read_codes(size: Size) -> list[Code]:
    """The codes of a size, as they are stored."""
    return [Code.decode(table(code.number)) for code in catalogue() if code.size.value == size.name]


def measure(arguments: argparse.Namespace) -> None:
    """Find what error rate each code corrects with few and with many punctured bits; write what the package needs."""
    stored = json.loads(MEASURED.read_text()) if MEASURED.exists() else {}
    for size in SIZES:
        if arguments.size not in (None, size.name):
            continue
        points: list[Point] = []
        guess = 1.3
        for code in read_codes(size):
            checks = len(code.rows) * code.lifting
            for share in (PUNCTURED_MOST, PUNCTURED_LEAST):
                frames = arguments.frames or size.frames
                found = find_point(code, math.floor(share * checks), frames, arguments.seed, guess, size.failing)
                guess = found.efficiency - 0.02
                points.append(found)
                print(f"{size.name} {found}", flush=True)
        stored[size.name] = [dataclasses.asdict(point) for point in points]
        MEASURED.write_text(json.dumps(stored, indent=1) + "\n")
    leaks = json.loads((CODES / "leaks.json").read_text())
    leaks |= {name: _rising([(point["leak"], point["qber"]) for point in points]) for name, points in stored.items()}
    lines = ",\n".join(f' "{name}": {json.dumps(points)}' for name, points in leaks.items())
    (CODES / "leaks.json").write_text("{\n" + lines + "\n}\n")


def _smooth(points: list[dict[str, float]]) -> list[tuple[float, float]]:
    """Leaks and error rates, the efficiency of each averaged over neighbours: one alone is half a per cent off."""
    smooth = []
    for point in points:
        weights = [math.exp(-((math.log(other["qber"] / point["qber"]) / WINDOW) ** 2)) for other in points]
        efficiency = sum(w * other["efficiency"] for w, other in zip(weights, points, strict=True)) / sum(weights)
        smooth.append((point["leak"], qber_at(point["leak"], efficiency)))
    return smooth


def _rising(points: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """By leak, and of the error rates only those that no greater leak falls short of."""
    kept: list[tuple[float, float]] = []
    for leak, qber in sorted(points, reverse=True):
        if not kept or (leak < kept[-1][0] and qber < kept[-1][1]):
            kept.append((round(leak, 6), round(qber, 6)))
    return kept[::-1]


def tabulate(arguments: argparse.Namespace) -> None:
    """Simulate the framings that are chosen, and write the tables of docs/codes.md."""
    lines = [
        "| frames | QBER | code | p / m | f | limit | failed | iterations | Mb/s |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for size in FrameSize:
        for qber in QBERS:
            framing = _full(qber, size)
            frames = arguments.frames or min(4000, round(1e8 / framing.record.bits))
            outcome = simulate(
                load(framing.code), framing.punctured, framing.frame_bits, qber, frames=frames, seed=arguments.seed
            )
            efficiency = (framing.syndrome_bits - framing.punctured) / framing.frame_bits / entropy(qber)
            speed = outcome.frames * framing.frame_bits / outcome.seconds / 1e6
            lines.append(
                f"| {size.value} | {qber:.1%} | {framing.code} | {framing.punctured / framing.syndrome_bits:.1%} | "
                f"{efficiency:.3f} | {limit(qber, framing.record.bits):.3f} | {outcome.failed} of {outcome.frames} | "
                f"{outcome.iterations:.1f} | {speed:.0f} |"
            )
            print(lines[-1], flush=True)
    _replace("framings", lines)


def _full(qber: float, size: FrameSize) -> Framing:
    """A framing without shortening."""
    some = choose_framing(10**9, qber, size)
    return choose_framing(1000 * (some.record.bits - some.punctured) // 64 * 64, qber, size)


def tabulate_codes(_: argparse.Namespace) -> None:
    """Write the table of all codes in docs/codes.md, with their thresholds. Some minutes."""
    measured = json.loads(MEASURED.read_text())
    lines = [
        "| code | rows | m/n | columns×degree | 4-, 6-cycles | threshold q, f | p/m = 10 %: q, f, iterations | 2 % |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for size in SIZES:
        records = [record for record in catalogue() if record.size.value == size.name]
        for record, code in zip(records, read_codes(size), strict=True):
            leak = len(code.rows) / code.columns
            counts = Counter(len(edges) for edges in code.column_edges())
            best = threshold(Profile({d: count / code.columns for d, count in sorted(counts.items())}, leak))
            degrees = ", ".join(f"{count}×{degree}" for degree, count in sorted(counts.items()))
            four, six = cycles(code)
            points = sorted(
                (p for p in measured[size.name] if p["rows"] == len(code.rows)), key=lambda p: p["punctured"]
            )
            reached = " | ".join(f"{p['qber']:.2%}, {p['efficiency']:.3f}, {p['iterations']:.0f}" for p in points)
            lines.append(
                f"| {record.number} {size.name} | {len(code.rows)} | {leak:.4f} | {degrees} | {four}, {six} | "
                f"{best:.2%}, {leak / entropy(best):.3f} | {reached} |"
            )
            print(lines[-1], flush=True)
    _replace("codes", lines)


def _replace(name: str, lines: list[str]) -> None:
    """Put a table into docs/codes.md between its marks."""
    begin, end = f"<!-- {name} -->\n", f"<!-- end of {name} -->"
    before, _, rest = DOCUMENT.read_text().partition(begin)
    _, _, after = rest.partition(end)
    DOCUMENT.write_text(before + begin + "\n".join(lines) + "\n" + end + after)


def add(parser: argparse.ArgumentParser) -> None:
    """Give the parser every command."""
    commands = parser.add_subparsers(required=True)
    command = commands.add_parser("design", help="search for degrees by density evolution")
    command.add_argument("--seed", type=int, default=1)
    command.add_argument("--leak", type=float, choices=ANCHORS, help="only this one")
    command.add_argument("--generations", type=int, default=25)
    command.add_argument("--size", choices=[size.name for size in SIZES])
    command.set_defaults(run=design_profiles)
    command = commands.add_parser("construct", help="build the codes")
    command.add_argument("--seed", type=int, default=1)
    command.add_argument("--size", choices=[size.name for size in SIZES])
    command.set_defaults(run=construct)
    command = commands.add_parser("measure", help="simulate every code")
    command.add_argument("--seed", type=int, default=1)
    command.add_argument("--frames", type=int, help="for each of four error rates of a point")
    command.add_argument("--size", choices=[size.name for size in SIZES])
    command.set_defaults(run=measure)
    command = commands.add_parser("table", help="simulate the framings that are chosen, for docs/codes.md")
    command.add_argument("--seed", type=int, default=1)
    command.add_argument("--frames", type=int)
    command.set_defaults(run=tabulate)
    command = commands.add_parser("catalogue", help="tabulate all codes, for docs/codes.md")
    command.set_defaults(run=tabulate_codes)
