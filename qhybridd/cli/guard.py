"""`qhybridd guard …`: the kernel's own rule that keeps tunnels closed."""

import asyncio

import click

from qhybridd.cli.failures import plain
from qhybridd.cli.site import site_of
from qhybridd.cli.words import span
from qhybridd.errors import HostError, OperatorError
from qhybridd.status import GuardReport, GuardRequest, GuardTunnel

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
        report = asyncio.run(_read_kernel())
    if not report.tunnels:
        click.echo("Nothing is guarded: the table is not there. `qhybridd run` loads it.")
    for tunnel in report.tunnels:
        for line in describe(tunnel):
            click.echo(line)


@guard.command()
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.pass_context
def remove(ctx: click.Context, yes: bool) -> int:
    """Take the guard away: what the tunnels protect is blocked no more.

    For a gateway that stops using qhybridd. Stop the daemon first.
    """
    from qhybridd.cli.client import running

    path = site_of(ctx).socket_path()
    if running(path):
        hint = "Stop it first (`systemctl stop qhybridd`): as long as it runs it puts the guard back."
        raise OperatorError("control.refused", "the daemon runs and needs the guard", where=str(path), hint=hint)
    click.secho(WARNING, fg="yellow", err=True)
    if not yes and not click.confirm("Remove it?", err=True):
        click.echo("It stays.")
        return 1
    asyncio.run(_remove())
    click.echo("The guard is gone.")
    return 0


def describe(tunnel: GuardTunnel) -> list[str]:
    """A tunnel's lines."""
    passes = tunnel.open_for_s is not None
    state = f"passes for {span(tunnel.open_for_s)} unless renewed" if passes else "BLOCKED"
    lines = [f"{plain(tunnel.tunnel)}: {state}, {plain(tunnel.interface)} only"]
    lines += [f"    {plain(prefix)}" for prefix in tunnel.protects]
    if tunnel.dropped_out or tunnel.dropped_in:
        lines.append(f"    dropped so far: {tunnel.dropped_out} packets out, {tunnel.dropped_in} in")
    return lines


async def _read_kernel() -> GuardReport:
    """What stands in the kernel. Raises `HostError` (host.guard)."""
    from qhybridd.guard import Guard
    from qhybridd.status import report_guard

    table = Guard()
    try:
        return report_guard(await table.show())
    finally:
        await table.close()


async def _remove() -> None:
    from qhybridd.guard import Guard

    table = Guard()
    try:
        await table.remove()
    finally:
        await table.close()
