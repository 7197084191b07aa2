"""What a run came to: a summary for a report, and a line a block for a spreadsheet."""

import csv
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Final

from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from qhybridd.apps.sim.link import NO_KEY, BlockReport
from qhybridd.apps.sim.totals import Measured, Totals, predict
from qhybridd.config.records import LinkConfig
from qhybridd.distill.terms import Terms
from qhybridd.errors import OperatorError

PLAIN_WIDTH: Final = 110
SIMULATED: Final = "Simulated optics: these keys are for nobody."

Row = Mapping[str, object]


def make_console() -> Console:
    """Standard output; wide enough for the tables where it is no terminal."""
    console = Console(highlight=False)
    return console if console.is_terminal else Console(highlight=False, width=PLAIN_WIDTH)


def describe(link: LinkConfig) -> RenderableType:
    """The link itself."""
    source, fibre, receiver = link.simulation.source, link.simulation.fibre, link.simulation.receiver
    table = Table.grid(padding=(0, 2))
    intensities = ", ".join(
        f"{intensity:g} ({probability:.0%})"
        for intensity, probability in zip(source.intensities, source.intensity_probabilities, strict=True)
    )
    detectors = ", ".join(f"{one.efficiency:.1%} with {one.dark_hz:g} dark counts/s" for one in receiver.detectors)
    raman = f", {fibre.classical_channels} classical channels" if fibre.classical_channels else ""
    for name, text in (
        ("source", f"{quantity(source.repetition_hz)}Hz, photons a pulse {intensities}"),
        ("fibre", f"{fibre.length_km:g} km, {fibre.loss_db:.2f} dB with connectors and splices{raman}"),
        (
            "receiver",
            f"{receiver.loss_db:g} dB, visibility {receiver.visibility:g}, dead time {receiver.dead_time_ns:g} ns",
        ),
        ("detectors", detectors),
        ("protocol", f"key basis {source.key_basis_probability:.0%}, bound {link.bound.value}"),
        ("secrecy", f"ε_sec {link.epsilon_sec:g}, ε_cor {link.epsilon_cor:g}"),
    ):
        table.add_row(Text(name, "bold"), text)
    return table


def summarise(link: LinkConfig, totals: Totals, terms: Terms | None, title: str) -> RenderableType:
    """Measured beside expected, and what the blocks gave."""
    table = Table(title=title, title_justify="left")
    for name in ("", "simulated", "closed form", "difference"):
        table.add_column(name, justify="left" if not name else "right")
    expected = predict(link.simulation)
    for index, intensity in enumerate(link.simulation.source.intensities):
        _add(table, f"gain, μ = {intensity:g}", totals.gain(index), expected.gains[index])
    for index, intensity in enumerate(link.simulation.source.intensities):
        _add(table, f"QBER, μ = {intensity:g}", totals.error_rate(index), expected.error_rates[index], percent=True)
    _add(table, "QBER, key basis", totals.qber_key, expected.qber_key, percent=True)
    _add(table, "QBER, test basis", totals.qber_test, expected.qber_test, percent=True)
    return Group(table, _outcome(totals, terms))


def _add(table: Table, name: str, found: Measured, expected: float, *, percent: bool = False) -> None:
    if percent:
        cells = f"{100 * found.value:.3f} ± {100 * found.deviation:.3f} %", f"{100 * expected:.3f} %"
    else:
        cells = f"{found.value:.4e} ± {found.deviation:.1e}", f"{expected:.4e}"
    away = f"{(found.value - expected) / found.deviation:+.1f} σ" if found.deviation else "-"
    table.add_row(name, *cells, away)


def _outcome(totals: Totals, terms: Terms | None) -> RenderableType:
    blocks = totals.blocks or 1
    counted = sum(totals.counts.key_clicks)
    dropped = ", ".join(f"{count} × {code}" for code, count in totals.dropped.items() if code != NO_KEY)
    table = Table.grid(padding=(0, 2))
    span = duration(totals.seconds / blocks)
    rows = [
        ("a block", f"{totals.pulses / blocks:.4g} pulses, {span} of the link, {totals.clicks / blocks:.4g} clicks"),
        ("sifted", f"{counted / blocks:.4g} clicks a block in the key basis"),
        ("clicks", f"{quantity(totals.clicks_per_s.value)}/s"),
        ("blocks", f"{totals.kept} of {totals.blocks} kept" + (f"; dropped: {dropped}" if dropped else "")),
    ]
    if NO_KEY in totals.dropped or terms is None:
        rows.append(("secret key", "none: a block like this pays for no key. Larger blocks or fewer errors may."))
    if totals.kept:
        share = totals.net_bits / counted
        rows += [
            ("secret key", f"{quantity(totals.key_bits_per_s)}bit/s, {totals.key_bits_per_pulse:.3e} bit a pulse"),
            ("", f"{totals.net_bits:,} bits in store, {share:.3f} for each sifted bit of the key basis"),
            ("", f"{totals.refill_bits:,} bits more, kept back for authentication"),
        ]
    for name, text in rows:
        table.add_row(Text(name, "bold"), text)
    return table


def row_of(block: BlockReport) -> Row:
    """One block as columns of a CSV."""
    counts, record = block.counts, block.record
    row: dict[str, object] = {
        "block": block.number,
        "begin_s": f"{block.begin_s:.6f}",
        "end_s": f"{block.end_s:.6f}",
        "pulses": block.pulses,
        "clicks": block.clicks,
        "code": block.code,
        "qber_key": _or_empty(block.qber_key),
        "qber_test": _or_empty(block.qber_test),
        "key_bits": block.key_bits,
        "net_bits": block.net_bits,
        "refill_bits": block.refill_bits,
        "key_bits_per_s": f"{block.net_bits / block.seconds:.6g}",
    }
    for name in ("key_clicks", "key_errors", "test_clicks", "test_errors"):
        row |= {f"{name}_{index}": count for index, count in enumerate(getattr(counts, name))}
    efficiency = record.reconciliation.efficiency if record and record.reconciliation else None
    return row | {
        "disclosed_bits": record.disclosed.total if record else 0,
        "reconciliation_f": _or_empty(efficiency),
        "angle_rad": f"{block.instruments.angle_rad:.6g}",
        "current_a": f"{block.instruments.current_a:.6g}",
        "calibrating_frames": block.instruments.calibrating,
        "unsynchronised_frames": block.instruments.unsynchronised,
    }


def write_csv(path: Path, rows: Sequence[Row]) -> None:
    """With a head line. Raises `OperatorError` (file.unreadable) where it cannot be written."""
    try:
        with path.open("w", newline="") as file:
            if rows:
                writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
                writer.writeheader()
                writer.writerows(rows)
    except OSError as error:
        raise OperatorError(
            "file.unreadable", f"the file cannot be written: {error.strerror}", where=str(path)
        ) from None


def outcomes(blocks: Iterable[BlockReport]) -> list[str]:
    """One line for each block that was dropped, in words."""
    return [f"block {one.number}: {one.reason} [{one.code}]" for one in blocks if one.code and one.code != NO_KEY]


def quantity(number: float) -> str:
    """With a prefix of the SI, to be followed by a unit."""
    for factor, prefix in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(number) >= factor:
            return f"{number / factor:.4g} {prefix}"
    return f"{number:.4g} "


def duration(seconds: float) -> str:
    """A time of the link."""
    for factor, unit in ((3600.0, "h"), (60.0, "min")):
        if seconds >= 2 * factor:
            return f"{seconds / factor:.3g} {unit}"
    return f"{seconds:.3g} s"


def _or_empty(number: float | None) -> str:
    return "" if number is None else f"{number:.6g}"
