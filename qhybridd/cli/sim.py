"""`qhybridd sim`."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

import click

from qhybridd.cli.site import site_of

if TYPE_CHECKING:
    from qhybridd.config import LinkConfig
    from qhybridd.optics.randomness import Randomness

OVER: Final = ("distance", "qber", "intensity", "block-size")
"""As `qhybridd.apps.sim.sweep.PARAMETERS`, which a test compares: that is not imported for `--help`."""
DAY_RATE: Final = "1MHz"
RATE_UNITS: Final = {"hz": 1.0, "khz": 1e3, "mhz": 1e6, "ghz": 1e9}

F = TypeVar("F", bound=Callable[..., Any])


class Rate(click.ParamType[float]):
    """`1GHz`, `250 kHz`, `1e6`."""

    name = "RATE"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Pulses a second."""
        if isinstance(value, float):
            return value
        text = str(value).strip().lower()
        unit = next((one for one in ("khz", "mhz", "ghz", "hz") if text.endswith(one)), "")
        try:
            return float(text.removesuffix(unit)) * RATE_UNITS.get(unit, 1.0)
        except ValueError:
            self.fail(f"{value!r} is no rate: write 1GHz, 250kHz or a number of Hz", param, ctx)


def link_options(command: F) -> F:
    """What every command of the group takes to say which link."""
    file = click.Path(path_type=Path)
    for option in (
        click.option("--seed", type=int, help="The same seed gives the same run."),
        click.option(
            "--set", "settings", multiple=True, metavar="KEY=VALUE", help="Change a parameter; may be repeated."
        ),
        click.option("--link", "name", metavar="NAME", help="Take this link of the configuration."),
        click.option("--config", type=file, help="The configuration.  [default: as before the command]"),
        click.option("--length", type=float, metavar="KM", help="Length of the fibre."),
    ):
        command = option(command)
    return command


@click.group()
def sim() -> None:
    """Simulate a QKD link on its own: no daemon, no peer, no root, and no key for anybody.

    Light, detectors, both ends of the distillation and both key stores run in this process, as fast as it can.

    \b
    Examples:
      qhybridd sim run --length 80
      qhybridd sim sweep --over distance 0 150 16 --csv keys.csv --plot keys.svg
      qhybridd sim day --hours 24 --plot day.png
    """


@sim.command()
@link_options
@click.option("--rate", type=Rate(), help="Pulses a second, e.g. 1GHz.")
@click.option("--blocks", type=click.IntRange(1, 1_000_000), default=4, show_default=True, help="How many to distil.")
@click.option("--attack", metavar="NAME", help="Put an eavesdropper into the line (see `qhybridd eve --help`).")
@click.option("--fraction", type=click.FloatRange(0, 1), help="Share of the pulses that she touches.  [default: 1]")
@click.option("--csv", type=click.Path(path_type=Path), help="Write a line for each block.")
@click.pass_context
def run(
    ctx: click.Context,
    /,
    *,
    blocks: int,
    attack: str | None,
    fraction: float | None,
    csv: Path | None,
    **which: Any,
) -> int:
    """Distil some blocks, and say what they gave beside what the closed forms expect.

    Parameters have the names that they have in a configuration: source.*, fibre.*, receiver.*, detectors.* (both),
    detectors.0.* (for the bit 0), and those of the link itself.

    \b
    Examples:
      qhybridd sim run
      qhybridd sim run --config site.toml --link north --blocks 20 --csv north.csv
      qhybridd sim run --set source.intensity_spread=0.02 --set detectors.dark_hz=2000
      qhybridd sim run --attack photon-number-splitting
    """
    from qhybridd.apps.sim import run as app

    link, randomness = _chosen(ctx, which)
    return app.main(app.Run(link, blocks, randomness, attack, _share(attack, fraction), csv))


@sim.command()
@link_options
@click.option("--rate", type=Rate(), help="Pulses a second, e.g. 1GHz.")
@click.option("--over", type=click.Choice(OVER), required=True, help="What to change from step to step.")
@click.option("--blocks", type=click.IntRange(1, 1000), default=1, show_default=True, help="Of each step.")
@click.option("--csv", type=click.Path(path_type=Path), help="Write a line for each step.")
@click.option("--plot", type=click.Path(path_type=Path), help="Draw it: .png, .svg or .pdf (needs matplotlib).")
@click.argument("begin", metavar="FROM", type=float)
@click.argument("end", metavar="TO", type=float)
@click.argument("steps", type=click.IntRange(1, 10_000))
@click.pass_context
def sweep(
    ctx: click.Context,
    /,
    *,
    over: str,
    blocks: int,
    csv: Path | None,
    plot: Path | None,
    begin: float,
    end: float,
    steps: int,
    **which: Any,
) -> int:
    """Change one parameter from FROM to TO in STEPS, and show key rate, QBER and yields against it.

    \b
    distance    length of the fibre, km
    qber        error rate of the optics, per cent; noise comes on top
    intensity   mean photon number of the signal; decoys keep their ratio
    block-size  sifted clicks of the key basis in a block; equal ratios

    \b
    Examples:
      qhybridd sim sweep --over distance 0 150 16 --plot rate.png
      qhybridd sim sweep --over block-size 1e4 1e7 7 --csv sizes.csv
    """
    from qhybridd.apps.sim import sweep as app

    link, randomness = _chosen(ctx, which)
    return app.main(app.Sweep(link, over, begin, end, steps, blocks, randomness, csv, plot))


@sim.command()
@link_options
@click.option("--rate", type=Rate(), default=DAY_RATE, show_default=True, help="Pulses a second.")
@click.option("--hours", type=click.FloatRange(0.01, 10_000), default=24.0, show_default=True, help="Time of the link.")
@click.option(
    "--tunnels", type=click.IntRange(0, 100_000), default=20, show_default=True, help="Tunnels that take its keys."
)
@click.option("--period", type=click.FloatRange(1), default=60.0, show_default=True, help="Seconds from key to key.")
@click.option("--no-faults", is_flag=True, help="Neither a cut nor a touched nor a degrading fibre.")
@click.option("--attack", metavar="NAME", help="Let an eavesdropper in for a while (see `qhybridd eve --help`).")
@click.option("--fraction", type=click.FloatRange(0, 1), help="Share of the pulses that she touches.  [default: 1]")
@click.option("--csv", type=click.Path(path_type=Path), help="Write a line for each block.")
@click.option("--plot", type=click.Path(path_type=Path), help="Draw it: .png, .svg or .pdf (needs matplotlib).")
@click.pass_context
def day(
    ctx: click.Context,
    /,
    *,
    hours: float,
    tunnels: int,
    period: float,
    no_faults: bool,
    attack: str | None,
    fraction: float | None,
    csv: Path | None,
    plot: Path | None,
    **which: Any,
) -> int:
    """Run a link for a day, in minutes: drift, a cut, a calibration, a degrading fibre, tunnels that take its keys.

    At the end the accounts of both key stores are printed and checked to the bit, and the memory of the process.
    The exit status is 1 where an account does not balance.

    \b
    Examples:
      qhybridd sim day --plot day.png --csv day.csv
      qhybridd sim day --hours 6 --attack intercept-resend --fraction 0.5
    """
    from qhybridd.apps.sim import day as app

    link, randomness = _chosen(ctx, which)
    share = _share(attack, fraction)
    return app.main(app.Day(link, hours, tunnels, period, randomness, not no_faults, attack, share, csv, plot))


def _share(attack: str | None, fraction: float | None) -> float:
    """Of the pulses that an attack touches. Raises `click.UsageError` for a share of no attack."""
    if fraction is not None and attack is None:
        raise click.UsageError("--fraction needs --attack NAME.")
    return 1.0 if fraction is None else fraction


def _chosen(ctx: click.Context, which: dict[str, Any]) -> "tuple[LinkConfig, Randomness]":
    """The link that the options describe, and its randomness."""
    from qhybridd.apps.sim.settings import at_rate, change, default_link, link_of
    from qhybridd.optics.randomness import Randomness

    link = default_link()
    if which["name"] is not None:
        link = link_of(which["config"] or site_of(ctx).config_path, which["name"])
    elif which["config"] is not None:
        raise click.UsageError("--config needs --link NAME.")
    length = [] if which["length"] is None else [f"fibre.length_km={which['length']!r}"]
    link = change(link, [*length, *which["settings"]])
    if which["rate"] is not None:
        link = at_rate(link, which["rate"])
    seed = which["seed"]
    return link, Randomness.from_system() if seed is None else Randomness.from_seed(seed)
