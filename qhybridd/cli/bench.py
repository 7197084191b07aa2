"""`qhybridd bench`."""

import click

STAGES = (
    "optics",
    "sifting",
    "reconciliation",
    "large-frames",
    "small-frames",
    "verification",
    "amplification",
    "authentication",
    "whole",
    "growth",
    "two-cores",
)
"""As `qhybridd.apps.bench.run.STAGES`, which a test compares: that is not imported for `--help`."""


@click.command()
@click.option(
    "--stage",
    "stages",
    multiple=True,
    type=click.Choice(STAGES),
    metavar="STAGE",
    help="Only this one; may be repeated.",
)
@click.option(
    "--qber", "qbers", multiple=True, type=click.FloatRange(0.5, 10), help="Only this error rate, in per cent."
)
@click.option("--quick", is_flag=True, help="Small blocks: a few seconds, rough figures.")
@click.option("--full", is_flag=True, help="Blocks of up to 10^8 bits too: minutes.")
@click.option("--json", "as_json", is_flag=True, help="For programs.")
def bench(stages: tuple[str, ...], qbers: tuple[float, ...], quick: bool, full: bool, as_json: bool) -> int:
    """Measure how fast this machine simulates light and distils keys: each stage on one core, and the whole.

    Blocks come from a generator of clicks, those of optics from simulated light: no daemon and no root is needed. Goals
    are shown beside the figures, and a missed one is marked. Let nothing else run meanwhile.

    Stages: optics, sifting, reconciliation, large-frames, small-frames, verification, amplification, authentication,
    whole, growth, two-cores.

    \b
    Examples:
      qhybridd bench
      qhybridd bench --quick
      qhybridd bench --stage reconciliation --qber 2 --qber 5
      qhybridd bench --full --json > figures.json
    """
    from qhybridd.apps.bench.options import QBERS, Options
    from qhybridd.apps.bench.run import main as run_bench

    rates = tuple(rate / 100 for rate in qbers) or QBERS
    return run_bench(Options(rates, quick, full), stages, json=as_json)
