"""`qhybridd run`, `rotate`, `reload` and `demo`."""

import click

from qhybridd.cli.failures import plain
from qhybridd.cli.site import site_of


@click.command()
@click.pass_context
def run(ctx: click.Context) -> int:
    """Run the daemon in the foreground, as the systemd unit does.

    SIGTERM and Ctrl-C stop it: open tunnels stay open until their hard expiry, which the kernel keeps, and a new
    daemon takes them over without losing a packet. SIGHUP is `qhybridd reload`.

    \b
    Example:
      qhybridd --config /etc/qhybridd/qhybridd.toml run
    """
    from qhybridd.daemon import run as run_daemon

    return run_daemon(site_of(ctx).config_path)


@click.command()
@click.argument("tunnel")
@click.option("--now", is_flag=True, help="Force WireGuard's handshake too, at the cost of the packets in flight.")
@click.pass_context
def rotate(ctx: click.Context, tunnel: str, now: bool) -> None:
    """Give TUNNEL a new key without waiting for the end of its period.

    Without --now no packet is lost, and the key carries traffic after WireGuard's next handshake: up to two minutes.

    \b
    Examples:
      qhybridd rotate wan
      qhybridd rotate wan --now
    """
    from qhybridd.cli.client import ask
    from qhybridd.status import RotateRequest

    ask(site_of(ctx).socket_path(), RotateRequest(tunnel, reset=now), type(None))
    click.echo(f"A rotation of {plain(tunnel)} has begun; `qhybridd status --watch` shows it.")


@click.command()
@click.pass_context
def reload(ctx: click.Context) -> None:
    """Apply a changed configuration: peers and tunnels that did not change are not touched.

    A file that is wrong leaves everything as it is; the errors are shown here.
    """
    from qhybridd.cli.client import ask
    from qhybridd.status import Reloaded, ReloadRequest

    done = ask(site_of(ctx).socket_path(), ReloadRequest(), Reloaded)
    for line in done.changes:
        click.echo(plain(line))
    if not done.changes:
        click.echo("Nothing changed.")
    for key in done.needs_restart:
        click.secho(f"gateway.{plain(key)} takes effect at the next start of the daemon.", fg="yellow")


@click.command()
def demo() -> int:
    """Two gateways, three tunnels under traffic and a simulated QKD link, in namespaces of this machine. Needs root.

    Rotates keys, lets an eavesdropper into the fibre and out again, cuts the control channel, shows tunnels close at
    their deadline, fall back and recover, and takes everything away that it made. Exits 0 only if each of these was
    really seen.
    """
    from qhybridd.apps.demo import main as run_demo

    return run_demo()
