"""`qhybridd guard …`: the kernel's own rule that keeps tunnels closed."""

import asyncio
import time
from pathlib import Path
from typing import Final

import click

from qhybridd.cli.failures import plain
from qhybridd.cli.failures import show as show_error
from qhybridd.cli.site import Site, site_of
from qhybridd.cli.words import span
from qhybridd.errors import HostError, OperatorError
from qhybridd.status import Closed, CloseRequest, GuardReport, GuardRequest, GuardTunnel

ANSWER_S: Final = 2.0
"""A daemon that does not answer in this time may be frozen: the kernel is spoken to without it."""
CLOSE_S: Final = 5.0
"""For a daemon to shut all of its tunnels."""
PUT_BACK_S: Final = 1.0
"""In this time a running daemon puts back what a firewall flushed away."""

WARNING = """\
Without the guard nothing keeps the traffic of your tunnels inside them: what
they protect may leave this gateway in the clear as soon as a route or an
interface changes, and an expired key no longer stops anything."""


@click.group()
def guard() -> None:
    """The guard: an nftables table that blocks protected traffic unless a live key keeps its tunnel open.

    The kernel enforces it, also when no daemon runs. Stopping the daemon does not take it away.
    """


@guard.command()
@click.pass_context
def show(ctx: click.Context) -> None:
    """Show what is blocked, what passes, and until when. Works without a daemon, as root."""
    from qhybridd.cli.client import ask

    try:
        report = ask(site_of(ctx).socket_path(), GuardRequest(), GuardReport)
    except HostError as error:
        if error.code != "control.unreachable":
            raise
        report, fell_back = asyncio.run(_read_kernel())
        if fell_back:
            click.echo(
                "The guard could not be loaded: all that it last protected is BLOCKED by the table qhybridd_closed."
            )
            click.echo("`qhybridd guard load` loads the guard in its place.")
            return
    if not report.tunnels:
        click.echo("Nothing is guarded: the table is not there. `qhybridd guard load` loads it.")
    for tunnel in report.tunnels:
        for line in describe(tunnel):
            click.echo(line)


@guard.command()
@click.option("--restore", is_flag=True, help="Let tunnels pass again for what is left of their time.")
@click.pass_context
def load(ctx: click.Context, restore: bool) -> None:
    """Load the guard from the configuration, without a daemon: every tunnel is shut until its first key.

    For the unit that runs before the network is up, and again after the host's firewall was loaded anew. Leaves a
    running daemon's guard to the daemon. A configuration that does not parse is replaced by the last one that did.

    With --restore, tunnels that were open in this boot, and whose daemon died, pass until the deadline that they had.
    """
    from qhybridd.boot import load_guard

    site = site_of(ctx)
    tunnels = _put_back(_socket(site))
    if tunnels is not None:
        click.echo(
            f"A daemon runs and guards {_count(tunnels)}; `qhybridd reload` is how it takes a new configuration."
        )
        return
    try:
        guarded = asyncio.run(load_guard(site.config_path, restore=restore))
    except OperatorError:
        click.secho("NOTHING NEW IS GUARDED: there is no good copy of the configuration.", fg="red", err=True)
        raise
    if guarded.held:
        click.secho("A process that does not answer owns the guard: it stands as it was.", fg="yellow", err=True)
        return
    if guarded.refused is not None:
        show_error(guarded.refused)
        click.secho("The last good copy of the configuration is guarded instead.", fg="yellow", err=True)
    if guarded.uncopied is not None:
        show_error(guarded.uncopied)
        click.secho("No copy of the configuration was kept for a boot at which it is broken.", fg="yellow", err=True)
    click.echo(f"{_count(len(guarded.config.tunnels))} guarded, {len(guarded.open_s)} of them open.")
    for name, left_s in guarded.open_s.items():
        click.echo(f"    {plain(name)} for {span(left_s)}")


@guard.command()
@click.pass_context
def close(ctx: click.Context) -> None:
    """Shut every tunnel now, for instance before the machine sleeps. A running daemon keys them anew afterwards.

    The kernel's deadlines stand still in a sleep, so that a tunnel left open would be open for too long after it.
    """
    from qhybridd.boot import shut_guard
    from qhybridd.cli.client import ask

    site = site_of(ctx)
    try:
        tunnels = ask(_socket(site), CloseRequest(), Closed, timeout_s=CLOSE_S).tunnels
    except HostError as error:
        if error.code != "control.unreachable":
            raise
        tunnels = asyncio.run(shut_guard(site.config_path))
    click.echo(f"{_count(tunnels)} shut.")


@guard.command()
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.pass_context
def remove(ctx: click.Context, yes: bool) -> int:
    """Take the guard away, and the policies that demand ESP: what the tunnels protect is blocked no more.

    For a gateway that stops using qhybridd. Stop the daemon first.
    """
    from qhybridd.boot import remove_guard
    from qhybridd.cli.client import running

    path = site_of(ctx).socket_path()
    if running(path):
        hint = "Stop it first (`systemctl stop qhybridd`): as long as it runs it puts the guard back."
        raise OperatorError("control.refused", "the daemon runs and needs the guard", where=str(path), hint=hint)
    click.secho(WARNING, fg="yellow", err=True)
    if not yes and not click.confirm("Remove it?", err=True):
        click.echo("It stays.")
        return 1
    asyncio.run(remove_guard(site_of(ctx).config_path))
    click.echo("The guard is gone.")
    return 0


def describe(tunnel: GuardTunnel) -> list[str]:
    """A tunnel's lines."""
    passes = tunnel.open_for_s is not None
    state = f"passes for {span(tunnel.open_for_s)} unless renewed" if passes else "BLOCKED"
    way = plain(tunnel.interface) or "ESP"
    lines = [f"{plain(tunnel.tunnel)}: {state}, {way} only"]
    lines += [f"    {plain(prefix)}" for prefix in tunnel.protects]
    if tunnel.dropped_out or tunnel.dropped_in:
        lines.append(f"    dropped so far: {tunnel.dropped_out} packets out, {tunnel.dropped_in} in")
    return lines


def _count(tunnels: int) -> str:
    return f"{tunnels} tunnel{'' if tunnels == 1 else 's'}"


def _socket(site: Site) -> Path:
    """The control socket; a configuration that is gone has a last good copy."""
    from qhybridd.config import GatewayConfig

    try:
        return site.socket_path()
    except OperatorError:
        return GatewayConfig().socket


def _put_back(socket: Path) -> int | None:
    """How many tunnels a running daemon guards; None where none runs, or its guard is not there."""
    from qhybridd.cli.client import ask

    deadline = time.monotonic() + PUT_BACK_S
    try:
        while True:
            report = ask(socket, GuardRequest(), GuardReport, timeout_s=ANSWER_S)
            if report.tunnels:
                return len(report.tunnels)
            if time.monotonic() > deadline:
                return None
            time.sleep(0.05)
    except (HostError, OperatorError):
        return None


async def _read_kernel() -> tuple[GuardReport, bool]:
    """What stands in the kernel, and whether that is only what blocks everything. Raises `HostError` (host.guard)."""
    from qhybridd.guard import Guard
    from qhybridd.status import report_guard

    table = Guard()
    try:
        return report_guard(await table.show()), await table.fell_back()
    finally:
        await table.close()
