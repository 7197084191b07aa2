"""`qhybridd sim sweep`: a link over and over with one parameter changed, beside the closed forms."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from rich.table import Table

from qhybridd.apps.sim.link import NO_KEY, BlockReport, SimulatedLink
from qhybridd.apps.sim.plot import Chart, Panel, Series, check_output, check_plot, draw
from qhybridd.apps.sim.progress import progress_bar
from qhybridd.apps.sim.report import SIMULATED, Row, describe, make_console, quantity, write_csv
from qhybridd.apps.sim.totals import Predicted, Totals, predict, total
from qhybridd.config.records import LinkConfig
from qhybridd.distill.plan import Expected, plan, reconciliation_bits
from qhybridd.errors import OperatorError
from qhybridd.links.planning import leakage_budget
from qhybridd.optics.randomness import Randomness
from qhybridd.optics.theory import expected_counts

EXIT_INTERRUPTED: Final = 130
LEARNING: Final = 1
"""Blocks before those that count: the first one is planned from the data sheet, later ones from what came before."""


ENDLESS_PULSES: Final = 1 << 70
"""So many that statistics cost nothing."""
ENDLESS_EFFICIENCY: Final = 1.05
"""f of codes as long as one likes."""


@dataclass(frozen=True, slots=True)
class Parameter:
    """What can be swept."""

    label: str
    """Of the axis, with its unit."""
    head: str
    """The same for a narrow column."""
    change: Callable[[LinkConfig, float], LinkConfig]
    least: float
    most: float
    log: bool = False
    """Whether steps are equal ratios."""


def _with_distance(link: LinkConfig, km: float) -> LinkConfig:
    return replace(link, simulation=link.simulation.with_length(km))


def _with_qber(link: LinkConfig, percent: float) -> LinkConfig:
    """Of the optics: noise comes on top."""
    receiver = replace(link.simulation.receiver, visibility=1 - 2 * percent / 100)
    return replace(link, simulation=replace(link.simulation, receiver=receiver))


def _with_intensity(link: LinkConfig, signal: float) -> LinkConfig:
    """The decoys keep their ratio to the signal."""
    source = link.simulation.source
    intensities = tuple(signal * one / source.intensities[0] for one in source.intensities)
    return replace(link, simulation=replace(link.simulation, source=replace(source, intensities=intensities)))


def _with_block_size(link: LinkConfig, clicks: float) -> LinkConfig:
    return replace(link, block_clicks=round(clicks))


PARAMETERS: Final = {
    "distance": Parameter("fibre, km", "km", _with_distance, 0.0, 1000.0),
    "qber": Parameter("error rate of the optics, %", "%", _with_qber, 0.0, 25.0),
    "intensity": Parameter("mean photon number of the signal", "photons", _with_intensity, 1e-3, 2.0),
    "block-size": Parameter(
        "sifted clicks in the key basis of a block", "clicks", _with_block_size, 1e4, 1e7, log=True
    ),
}


@dataclass(frozen=True, slots=True)
class Sweep:
    """What to sweep."""

    link: LinkConfig
    over: str
    begin: float
    end: float
    steps: int
    blocks: int
    """Of each step, besides `LEARNING`."""
    randomness: Randomness
    csv: Path | None = None
    plot: Path | None = None

    @property
    def values(self) -> list[float]:
        """Of the parameter."""
        if self.steps == 1:
            return [self.begin]
        shares = [step / (self.steps - 1) for step in range(self.steps)]
        if PARAMETERS[self.over].log:
            return [self.begin * (self.end / self.begin) ** share for share in shares]
        return [self.begin + (self.end - self.begin) * share for share in shares]


@dataclass(frozen=True, slots=True)
class Point:
    """One step of a sweep."""

    value: float
    totals: Totals
    key_bits_per_pulse: float
    """ℓ over the pulses of all blocks that count: what later blocks take of it as pads included."""
    expected: Predicted
    expected_key_bits_per_pulse: float
    """ℓ that a block pays which counts just what the closed forms expect."""
    unlimited_key_bits_per_pulse: float
    """The same of a block without end."""


def main(sweep: Sweep) -> int:
    """Simulate, print a table, write and draw. Returns 0, or 130 after Ctrl-C with the steps that were finished."""
    check(sweep)
    console = make_console()
    console.print(describe(sweep.link))
    points: list[Point] = []
    code = 0
    try:
        with progress_bar(sweep.over, sweep.steps) as bar:
            for number, value in enumerate(sweep.values):
                bar.at(number, f"{sweep.over} {value:.4g}")
                points.append(measure(sweep, value))
    except KeyboardInterrupt:
        code = EXIT_INTERRUPTED
        console.print(f"Interrupted after {len(points)} of {sweep.steps} steps.", style="yellow")
    console.print(_table(sweep, points))
    if losses := _losses(points):
        console.print(f"blocks dropped: {losses}", style="yellow", markup=False)
    console.print(SIMULATED, style="dim")
    if sweep.csv:
        write_csv(sweep.csv, [_row(sweep, point) for point in points])
    if sweep.plot and points:
        draw(_chart(sweep, points), sweep.plot)
    return code


def check(sweep: Sweep) -> None:
    """Before the work begins. Raises `OperatorError` for a range that cannot be, `HostError` (host.plot)."""
    parameter = PARAMETERS[sweep.over]
    if not all(parameter.least <= value <= parameter.most for value in (sweep.begin, sweep.end)):
        raise OperatorError("config.value", f"{sweep.over}: wanted is {parameter.least:g} to {parameter.most:g}")
    for value in (sweep.begin, sweep.end):
        parameter.change(sweep.link, value).protocol  # noqa: B018 - making it is the check
    check_plot(sweep.plot)
    check_output(sweep.csv)


def measure(sweep: Sweep, value: float) -> Point:
    """One step."""
    link = PARAMETERS[sweep.over].change(sweep.link, value)
    simulated = SimulatedLink(link, sweep.randomness.child(f"{sweep.over} {value!r}"))
    try:
        learning = LEARNING if simulated.planner.terms else 0
        blocks: list[BlockReport] = [simulated.block() for _ in range(learning + sweep.blocks)][learning:]
    finally:
        simulated.wipe()
    totals = total(link.simulation, blocks)
    key_bits = sum(block.key_bits for block in blocks)
    pulses = simulated.layout.block_pulses
    expected = _expect(link, pulses)
    leakage = leakage_budget(expected, 1.0)
    best = 0 if leakage is None else plan(link.protocol, pulses, expected, leakage).key_bits
    return Point(value, totals, key_bits / totals.pulses, predict(link.simulation), best / pulses, _without_end(link))


def _expect(link: LinkConfig, pulses: int) -> Expected:
    found = expected_counts(link.simulation, pulses)
    return Expected(found.key_clicks, found.key_errors, found.test_clicks, found.test_errors)


def _without_end(link: LinkConfig) -> float:
    expected = _expect(link, ENDLESS_PULSES)
    leakage = round(reconciliation_bits(expected, ENDLESS_EFFICIENCY))
    return plan(link.protocol, ENDLESS_PULSES, expected, leakage).key_bits / ENDLESS_PULSES


def _row(sweep: Sweep, point: Point) -> Row:
    totals, rate = point.totals, sweep.link.simulation.source.repetition_hz
    row: dict[str, object] = {
        sweep.over.replace("-", "_"): f"{point.value:.8g}",
        "pulses": totals.pulses,
        "clicks": totals.clicks,
        "kept": totals.kept,
        "dropped": totals.blocks - totals.kept,
        "key_bits_per_pulse": f"{point.key_bits_per_pulse:.6g}",
        "key_bits_per_s": f"{point.key_bits_per_pulse * rate:.6g}",
        "expected_key_bits_per_pulse": f"{point.expected_key_bits_per_pulse:.6g}",
        "unlimited_key_bits_per_pulse": f"{point.unlimited_key_bits_per_pulse:.6g}",
    }
    for name, found, expected in (
        ("qber_key", totals.qber_key, point.expected.qber_key),
        ("qber_test", totals.qber_test, point.expected.qber_test),
        *((f"gain_{index}", totals.gain(index), expected) for index, expected in enumerate(point.expected.gains)),
    ):
        row |= {
            name: f"{found.value:.6g}",
            f"{name}_deviation": f"{found.deviation:.2g}",
            f"expected_{name}": f"{expected:.6g}",
        }
    return row


def _table(sweep: Sweep, points: Sequence[Point]) -> Table:
    source = sweep.link.simulation.source
    table = Table(title=f"over {sweep.over}; in brackets: the closed forms", title_justify="left")
    names = (
        PARAMETERS[sweep.over].head,
        "secret key, bit/s",
        "QBER key",
        "QBER test",
        "gain of the signal",
        "blocks kept",
    )
    for name in names:
        table.add_column(name, justify="right")
    for point in points:
        totals = point.totals
        key, best = (quantity(rate * source.repetition_hz) for rate in _key_rates(point))
        gain = totals.gain(0)
        table.add_row(
            f"{point.value:.4g}",
            f"{key}({best.strip()})",
            f"{totals.qber_key.value:.2%} ({point.expected.qber_key:.2%})",
            f"{totals.qber_test.value:.2%} ({point.expected.qber_test:.2%})",
            f"{gain.value:.3e} ({point.expected.gains[0]:.3e})",
            f"{totals.kept} of {totals.blocks}",
        )
    return table


def _losses(points: Sequence[Point]) -> str:
    """Why blocks came to nothing; empty where none did."""
    codes = Counter[str]()
    for point in points:
        codes.update(point.totals.dropped)
    words = {NO_KEY: "no key (too small for the bound, or too many errors)"}
    return ", ".join(f"{count} × {words.get(code, code)}" for code, count in codes.items())


def _key_rates(point: Point) -> tuple[float, float]:
    return point.key_bits_per_pulse, point.expected_key_bits_per_pulse


def _chart(sweep: Sweep, points: Sequence[Point]) -> Chart:
    x = [point.value for point in points]
    source = sweep.link.simulation.source
    gains: list[Series] = []
    for index in range(len(source.intensities)):
        label = "signal" if index == 0 else f"decoy {index}"
        found = [point.totals.gain(index) for point in points]
        gains += [
            Series(label, x, [one.value for one in found], [one.deviation for one in found]),
            Series(
                f"{label}, closed form", x, [point.expected.gains[index] for point in points], line=True, beside=True
            ),
        ]
    errors: list[Series] = []
    for label, measured, expected in (
        ("key basis", [one.totals.qber_key for one in points], [one.expected.qber_key for one in points]),
        ("test basis", [one.totals.qber_test for one in points], [one.expected.qber_test for one in points]),
    ):
        errors += [
            Series(label, x, [100 * one.value for one in measured], [100 * one.deviation for one in measured]),
            Series(f"{label}, closed form", x, [100 * one for one in expected], line=True, beside=True),
        ]
    rates = [
        Series("distilled", x, [point.key_bits_per_pulse for point in points]),
        Series("paid by the closed forms", x, [point.expected_key_bits_per_pulse for point in points], line=True),
        Series("in blocks without end", x, [point.unlimited_key_bits_per_pulse for point in points], line=True),
    ]
    return Chart(
        f"Simulated link over {sweep.over}: {sweep.link.bound.value}, blocks of {sweep.link.block_clicks:g} clicks",
        PARAMETERS[sweep.over].label,
        [
            Panel("secret bits a pulse", rates, log=True),
            Panel("QBER, %", errors),
            Panel("gain (yield)", gains, log=True),
        ],
        log_x=PARAMETERS[sweep.over].log,
    )
