"""`qhybridd eve`."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from qhybridd.optics.parameters import Source

ATTACKS = ("tap", "intercept-resend", "photon-number-splitting", "beam-splitting", "time-shift", "blinding")
"""As `qhybridd.optics.eve.ATTACKS`, which a test compares: that is not imported for `--help`."""


@click.command()
@click.option("--connect", required=True, metavar="HOST:PORT", help="Alice's photon endpoint.")
@click.option(
    "--listen",
    metavar="HOST:PORT",
    help="Where Bob is to come.  [default: every address, Alice's port; with --intercept any free one]",
)
@click.option("--intercept", is_flag=True, help="Take the connections that this host routes to Alice. Needs root.")
@click.option(
    "--attack", default="intercept-resend", show_default=True, metavar="NAME", help="What to do to the light."
)
@click.option(
    "--fraction",
    default=1.0,
    show_default=True,
    type=click.FloatRange(0, 1),
    help="On what share of the pulses.",
)
@click.option("--for", "seconds", type=click.FloatRange(0, min_open=True), metavar="SECONDS", help="Leave after that.")
@click.option(
    "--copy", type=click.Path(path_type=Path), metavar="FILE", help="tap: write Alice's stream to a new file."
)
@click.option(
    "--copy-most", default=1024, show_default=True, type=click.IntRange(1), metavar="MIB", help="How much of it."
)
@click.option(
    "--intensity",
    "intensities",
    multiple=True,
    metavar="MEAN:SHARE",
    help="Photons of Alice's pulses, and how often; once for each, the brightest first.  [default: 0.4:0.7, 0.12:0.3]",
)
def eve(  # noqa: PLR0917 - one for each option
    connect: str,
    listen: str | None,
    intercept: bool,
    attack: str,
    fraction: float,
    seconds: float | None,
    copy: Path | None,
    copy_most: int,
    intensities: tuple[str, ...],
) -> int:
    """Stand between Alice and Bob of a simulated link, and do something to the light.

    It relays the photon stream through an attack that changes what light can carry and nothing else: states, photon
    numbers, times, brightness. What Bob makes of it is his affair. There is nothing here against a real fibre, and the
    control channel between the gateways, which is authenticated, is not touched.

    \b
    Attacks, and what gives them away:
      intercept-resend         measure, send again  25 % errors at fraction 1
      photon-number-splitting  keep one of several  the decoys; no errors
      beam-splitting           take what is lost    nothing: the key is shorter
      time-shift               early or late        the clicks' times
      blinding                 steer the detectors  the detectors' currents
      tap                      copy the bytes       nothing: it is no fibre

    Bob dials Alice. Either he is configured to dial this host instead, or this host routes between the two and
    --intercept redirects him: an nftables table of its own, which is gone when the command ends, however it ends.
    Connections from before are reset, so that both meet her at once. Ctrl-C leaves. More in docs/eavesdropping.md.

    \b
    Examples:
      qhybridd eve --listen 0.0.0.0:7421 --connect alice.example:7421
      sudo qhybridd eve --intercept --connect 10.0.0.1:7421 --fraction 0.3
      sudo qhybridd eve --intercept --connect 10.0.0.1:7421 --attack blinding
      qhybridd eve --connect 10.0.0.1:7421 --attack tap --copy photons.bin
    """
    from qhybridd.apps.eve import Options, main
    from qhybridd.apps.eve.relay import Knowledge
    from qhybridd.config.values import endpoint, listener
    from qhybridd.optics.parameters import Receiver

    if copy is not None and attack != "tap":
        raise click.UsageError("--copy goes with --attack tap")
    return main(
        Options(
            connect=endpoint(connect),
            listen=listener(listen) if listen else None,
            intercept=intercept,
            knowledge=Knowledge(attack, fraction, _source(intensities), Receiver()),
            seconds=seconds,
            copy=copy,
            copy_most_bytes=copy_most << 20,
        )
    )


def _source(intensities: tuple[str, ...]) -> "Source":
    """What she takes Alice's source to be. Raises `OperatorError` (config.value) for what none can be."""
    from qhybridd.optics.parameters import Source

    if not intensities:
        return Source()
    try:
        pairs = [tuple(map(float, text.split(":"))) for text in intensities]
        means, shares = zip(*((mean, share) for mean, share in pairs), strict=True)
    except ValueError:
        raise click.BadParameter("wanted is MEAN:SHARE, for instance 0.4:0.7", param_hint="--intensity") from None
    return Source(intensities=means, intensity_probabilities=shares)
