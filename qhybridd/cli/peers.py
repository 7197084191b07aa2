"""`qhybridd peer …`: exchanging identities."""

import re
import socket
import sys
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING

import click

from qhybridd.cli.failures import plain
from qhybridd.cli.site import Site, site_of
from qhybridd.errors import HostError, OperatorError

if TYPE_CHECKING:
    from qhybridd.keyfiles import Pin

STANDARD_INPUT = Path("-")


@click.group()
def peer() -> None:
    """Exchange identities with other gateways.

    \b
    On each of the two gateways:
      qhybridd peer export --name paris -e gw.paris.example:7420 > paris.peer
    then send the file over (mail will do: nothing in it is secret), and there:
      qhybridd peer add paris.peer
    and compare the fingerprint that it prints over the telephone.

    To roll an identity over: `keygen -o NEW`, `peer export --identity NEW`,
    `peer add --next` at the peers; then set `identity` in the configuration
    and restart, and have the peers revoke the old pin.
    """


@peer.command()
@click.option("--name", help="What to call this gateway.  [default: the host's name]")
@click.option(
    "-e", "--endpoint", "endpoints", multiple=True, help="HOST:PORT where it can be dialled; repeat for more."
)
@click.option("--identity", type=click.Path(path_type=Path), help="Another identity file than the configured one.")
@click.pass_context
def export(ctx: click.Context, name: str | None, endpoints: tuple[str, ...], identity: Path | None) -> None:
    """Print this gateway's peer file, to paste at another one. It holds no secret.

    \b
    Example:
      qhybridd peer export --name paris -e 192.0.2.1:7420 > paris.peer
    """
    from qhybridd.config.values import endpoint
    from qhybridd.keyfiles import load_identity
    from qhybridd.peerfile import export_peer

    path = identity or site_of(ctx).gateway().identity
    named = name or re.sub(r"[^A-Za-z0-9_-]", "-", socket.gethostname().partition(".")[0])
    own = load_identity(path)
    text = export_peer(own, named, tuple(endpoint(one) for one in endpoints))
    short = own.public.short
    own.wipe()
    click.echo(text, nl=False)
    click.echo(f"fingerprint to read aloud: {short}", err=True)
    if not endpoints:
        click.echo("No endpoint in it (-e): this gateway has to dial, or the other's config names one.", err=True)


@peer.command()
@click.argument("file", type=click.Path(path_type=Path, allow_dash=True))
@click.option("--name", help="What to call the peer here.  [default: what its file says]")
@click.option("--next", "beside", is_flag=True, help="A second identity of a known peer, while it is rolled over.")
@click.pass_context
def add(ctx: click.Context, file: Path, name: str | None, beside: bool) -> None:
    """Take another gateway's peer file (`-` for standard input) and print the fingerprint to compare aloud.

    \b
    Examples:
      qhybridd peer add berlin.peer
      qhybridd peer add - < mail.txt             text around the block is skipped
      qhybridd peer add --next berlin-new.peer   both identities count for a time
    """
    from qhybridd.config.values import peer_name
    from qhybridd.keyfiles import store_peer
    from qhybridd.peerfile import MAX_PEER_FILE, parse_peer

    data = _read(file, MAX_PEER_FILE)
    found = parse_peer(data, file)
    called = peer_name(name or found.name)
    _refuse_own(site_of(ctx), found.identity.fingerprint, file)
    path = store_peer(site_of(ctx).gateway().peers, called, data, beside=beside)
    click.echo(f"peer         {called}")
    click.echo(
        f"endpoints    {', '.join(map(str, found.endpoints)) or 'none: it dials, or [peer.' + called + '] names one'}"
    )
    click.echo(f"stored       {path}")
    click.echo(f"fingerprint  {click.style(found.identity.short, bold=True)}\n")
    for line in textwrap.wrap(found.identity.fingerprint.hex(), 48):
        click.echo(f"             {line}")
    click.echo("\nRead the fingerprint aloud to the other gateway's operator before you rely\non it.")
    click.echo("Then: `qhybridd reload`, if the daemon runs.")


@peer.command("list")
@click.pass_context
def list_(ctx: click.Context) -> None:
    """List the peers with their fingerprints and endpoints, and what was revoked.

    A peer with two lines is changing its identity; both count until one is revoked.
    """
    from qhybridd.config.records import REVOKED
    from qhybridd.keyfiles import revoked_name, stored_pins

    directory = site_of(ctx).gateway().peers
    good, damaged = stored_pins(directory)
    width = max([4, *(len(name) for name, _ in good)])
    for name, pin in good:
        dials = ", ".join(map(str, pin.endpoints)) or "it dials"
        extra = "" if pin.file.name == f"{name}.peer" else f"  ({pin.file.name})"
        click.echo(f"{name:{width}}  {pin.identity.short}  {plain(dials)}{extra}")
    revoked, _ = stored_pins(directory / REVOKED)
    for _, pin in revoked:
        called = revoked_name(pin)
        click.echo(f"{plain(called):{width}}  {pin.identity.short}  {click.style('revoked', fg='red')}")
    if not good:
        click.echo(f"No peer in {directory}. Add one: `qhybridd peer add FILE`.")
    if damaged:
        from qhybridd.config import ConfigError

        raise ConfigError(damaged)


@peer.command()
@click.argument("name")
@click.option("--fingerprint", help="Which pin, where the peer has several: its beginning, short or hexadecimal.")
@click.pass_context
def revoke(ctx: click.Context, name: str, fingerprint: str | None) -> None:
    """Refuse a peer's identity from now on: its session ends and its tunnels close at once.

    The pin moves to the `revoked` directory; moving it back by hand is the way to undo it.

    \b
    Examples:
      qhybridd peer revoke berlin
      qhybridd peer revoke berlin --fingerprint 4ck2    one of two pins
    """
    from qhybridd.keyfiles import revoke_pin, stored_pins

    site = site_of(ctx)
    directory = site.gateway().peers
    good, _ = stored_pins(directory)
    pin = _choose([found for known, found in good if known == name], name, fingerprint, directory)
    place = revoke_pin(pin, directory)
    click.echo(f"revoked      {name} {pin.identity.short}\nrecord       {place}")
    _tell(site, name, pin)


def _refuse_own(site: Site, fingerprint: bytes, file: Path) -> None:
    """This gateway's own export is easily taken for the other's."""
    from qhybridd.keyfiles import load_identity

    try:
        own = load_identity(site.gateway().identity)
    except OperatorError:
        return  # no identity yet, or one that this user may not read: `check` looks again
    same = own.public.fingerprint == fingerprint
    own.wipe()
    if same:
        hint = "Add the file that the other gateway's `qhybridd peer export` printed."
        raise OperatorError("config.reference", "this is the gateway's own identity", where=str(file), hint=hint)


def _tell(site: Site, name: str, pin: "Pin") -> None:
    """Have a running daemon act at once. Raises what the daemon answers, unless there is none."""
    from qhybridd.cli.client import ask
    from qhybridd.status import RevokeRequest

    try:
        ask(site.socket_path(), RevokeRequest(name, pin.fingerprint.hex()), type(None))
    except HostError as error:
        if error.code != "control.unreachable":
            raise
        click.echo(f"The daemon was not told: {plain(error.message)}. The pin is refused from its next start on.")
        click.echo("If a daemon does run: stop it, or its session with the peer lives on.")
        click.echo("Tunnels that are open pass until they expire; `qhybridd guard close` shuts them now.")
    else:
        click.echo("The daemon ended its session and closed its tunnels.")


def _choose(pins: "list[Pin]", name: str, fingerprint: str | None, directory: Path) -> "Pin":
    """The one pin that is meant."""
    if not pins:
        raise OperatorError(
            "config.reference", f'there is no peer "{plain(name)}"', where=str(directory), hint="See `peer list`."
        )
    if fingerprint is not None:
        wanted = fingerprint.lower()
        pins = [
            pin
            for pin in pins
            if wanted and (pin.identity.short.startswith(wanted) or pin.fingerprint.hex().startswith(wanted))
        ]
    if len(pins) == 1:
        return pins[0]
    what = "several pins" if pins else "no such pin"
    hint = "Name one with --fingerprint; `qhybridd peer list` shows them."
    raise OperatorError("config.reference", f"{name} has {what}", where=str(directory), hint=hint)


def _read(file: Path, limit: int) -> bytes:
    """At most one byte more than `limit`: enough to see that it is too long."""
    if file == STANDARD_INPUT:
        return sys.stdin.buffer.read(limit + 1)
    try:
        with file.open("rb") as stream:
            return stream.read(limit + 1)
    except FileNotFoundError:
        raise OperatorError("file.missing", "there is no such file", where=str(file)) from None
    except OSError as error:
        raise OperatorError("file.unreadable", f"it cannot be read: {error.strerror}", where=str(file)) from None
