"""`qhybridd fault`."""

import math
from typing import Final

import click

from qhybridd.cli.failures import plain
from qhybridd.cli.site import site_of
from qhybridd.status import FaultKind, FaultReport, FaultRequest

KINDS: Final[tuple[FaultKind, ...]] = (
    "cut",
    "loss",
    "degradation",
    "misalignment",
    "eve",
    "efficiency",
    "dark",
    "clock",
)
EVE: Final = "eve"
CUT: Final = "cut"


@click.command(context_settings={"ignore_unknown_options": True})  # so that -500 is a number
@click.argument("link")
@click.argument("kind", type=click.Choice(KINDS), required=False, metavar="[KIND]")
@click.argument("value", required=False)
@click.option(
    "--fraction", type=click.FloatRange(0, 1), help="eve: share of the pulses that she touches.  [default: 1]"
)
@click.option("--mend", is_flag=True, help="Take the fault away; without a KIND, all faults of this end.")
@click.pass_context
def fault(
    ctx: click.Context, link: str, kind: FaultKind | None, value: str | None, *, fraction: float | None, mend: bool
) -> None:
    """Break a simulated LINK on purpose, and see what the tunnels do. Without a KIND: tell what is broken.

    The daemon of this gateway does it to its own end, until it is mended or the daemon ends. A link that is not
    simulated is refused.

    \b
    At the gateway that is alice (the fibre is simulated there):
      cut                 nothing comes through
      loss DB             so many decibels more
      degradation DB      so many decibels more with each hour
      misalignment RAD    the fibre turns the light by this angle
      eve ATTACK          an eavesdropper: intercept-resend, time-shift,
                          photon-number-splitting, beam-splitting,
                          blinding, tap
    At the gateway that is bob (the detectors are there):
      efficiency FACTOR   of both detectors, 1 is healthy
      dark FACTOR         on their dark counts
      clock PS            the receiver's clock is off by so much

    \b
    Examples:
      qhybridd fault fibre loss 10
      qhybridd fault fibre eve intercept-resend --fraction 0.5
      qhybridd fault fibre eve --mend
      qhybridd fault fibre                   what is broken here?
      qhybridd fault fibre --mend            all well again

    `qhybridd eve` puts a real host into the photon stream instead.
    """
    from qhybridd.cli.client import ask

    request = read(link, kind, value, fraction, mend=mend)
    report = ask(site_of(ctx).socket_path(), request, FaultReport)
    for line in report.faults:
        click.echo(f"broken on purpose: {plain(line)}")
    if not report.faults:
        click.echo(f"Nothing is broken on purpose at this end of {plain(link)}.")


def read(link: str, kind: FaultKind | None, value: str | None, fraction: float | None, *, mend: bool) -> FaultRequest:
    """The request that the words on the command line make. Raises `click.UsageError`."""
    if value is not None and (mend or kind == CUT):
        raise click.UsageError(f"{kind}{' --mend' if mend else ''} takes no value, and {value!r} is one")
    if fraction is not None and (kind != EVE or mend):
        raise click.UsageError("--fraction belongs to `eve ATTACK`")
    if kind is None or kind == CUT or mend:
        return FaultRequest(link, kind, mend=mend)
    if value is None:
        raise click.UsageError(f"{kind} takes {'the name of an attack' if kind == EVE else 'a number'}")
    if kind == EVE:
        return FaultRequest(link, kind, 1.0 if fraction is None else fraction, value)
    try:
        number = float(value)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):  # which JSON could not carry either
        raise click.UsageError(f"{kind} takes a number, and {value!r} is none")
    return FaultRequest(link, kind, number)
