"""`qhybridd status`."""

import time
from pathlib import Path
from typing import Any, Final

import click

from qhybridd.cli.client import ask
from qhybridd.cli.site import site_of
from qhybridd.errors import HostError
from qhybridd.status import Status, StatusRequest

REDRAW_S: Final = 1.0


@click.command()
@click.option("--json", "as_json", is_flag=True, help="One JSON object (with --watch one a line) for programs.")
@click.option("--watch", is_flag=True, help="Draw it again each second until Ctrl-C.")
@click.pass_context
def status(ctx: click.Context, as_json: bool, watch: bool) -> None:
    """Show tunnels, QKD links and peers.

    \b
    Tunnels
    STATE      open, or CLOSED and why
    LEVEL      what the live key rests on: hybrid (QKD and ML-KEM),
               pqc (ML-KEM), classical; hybrid* took a simulated QKD key
               and is no safer than pqc
    EPOCH      the number of the live key, counting up
    KEY AGE    since both ends combined it
    CLOSES IN  until its hard expiry: the kernel then stops the traffic
    HANDSHAKE  when WireGuard's last one was

    \b
    Links
    QBER       error rate of the last block, in the worse basis; above
               the link's qber_most it is taken for an attack
    KEY RATE   secret key of the last minute
    STORE      of this end's keys: ready, warning (nearly empty), charging
               (fills up after it was empty), empty
    KEYS       in store for both ends, one for each rotation
    LIGHT      whether the photon stream is connected

    \b
    Marks: * well; ! about to close, or fallen back below hybrid, or a link
    that starts; x closed or down.

    \b
    Examples:
      qhybridd status --watch
      qhybridd status --json | jq '.tunnels[] | {name, state, level}'
      qhybridd status --json | jq '.links[] | {name, qber_test, store}'
    """
    path = site_of(ctx).socket_path()
    if as_json:
        _print_json(path, watch=watch)
    elif watch:
        _watch(path)
    else:
        from rich.console import Console

        from qhybridd.cli.render import render

        Console(highlight=False).print(render(ask(path, StatusRequest(), Status)))


def _print_json(path: Path, *, watch: bool) -> None:
    """The daemon's own record."""
    import msgspec

    try:
        while True:
            click.echo(msgspec.json.encode(ask(path, StatusRequest(), Status)))
            if not watch:
                return
            time.sleep(REDRAW_S)
    except KeyboardInterrupt:
        return


def _watch(path: Path) -> None:
    """On a terminal a screen of its own, and the last picture stays when it ends; else one picture after the other."""
    from rich.console import Console
    from rich.live import Live

    console = Console(highlight=False)
    picture = _picture(path)
    try:
        if not console.is_terminal:
            while True:
                console.print(picture)
                console.print()
                time.sleep(REDRAW_S)
                picture = _picture(path)
        with Live(picture, console=console, screen=True, auto_refresh=False, vertical_overflow="ellipsis") as live:
            while True:
                time.sleep(REDRAW_S)
                picture = _picture(path)
                live.update(picture, refresh=True)
    except KeyboardInterrupt:
        if console.is_terminal:
            console.print(picture)


def _picture(path: Path) -> Any:
    """The status, or why there is none now: a daemon that restarts comes back."""
    from rich.text import Text

    from qhybridd.cli.failures import plain
    from qhybridd.cli.render import render

    try:
        return render(ask(path, StatusRequest(), Status))
    except HostError as error:
        return Text(f"{plain(error.message)} ({plain(error.where)}); asking again each second", "yellow")
