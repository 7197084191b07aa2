"""`qhybridd check`."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from qhybridd.cli.site import site_of
from qhybridd.cli.words import period
from qhybridd.errors import OperatorError

if TYPE_CHECKING:
    from qhybridd.config import Config, PeerConfig
    from qhybridd.keyfiles import Pin


@click.command()
@click.argument("file", type=click.Path(path_type=Path), required=False)
@click.option("--syntax", is_flag=True, help="Look at the file alone, not at the files that it names.")
@click.pass_context
def check(ctx: click.Context, file: Path | None, syntax: bool) -> None:
    """Look at a configuration, and at the identity, peer and PSK files that it names. Changes nothing.

    Shows everything that is wrong at once, each with its line and the way to mend it.

    \b
    Examples:
      qhybridd check
      qhybridd check --syntax new.toml       a file for another gateway
    """
    from qhybridd.config import load_config, parse_config
    from qhybridd.config.load import read_text

    path = file or site_of(ctx).config_path
    config = parse_config(read_text(path), path) if syntax else load_config(path)
    pins = {} if syntax else _check_files(config)
    click.echo(f"{path} is right.")
    for tunnel in config.tunnels.values():
        click.echo(
            f"  tunnel {tunnel.name}: {tunnel.interface} to {tunnel.peer}, renew = {tunnel.renew}, "
            f"a key every {period(tunnel.period_s)}, expiry {period(tunnel.expiry_s)}, at least {tunnel.least.label}"
        )
    for peer in config.peers.values():
        click.echo(f"  peer {peer.name}: {_describe(peer, pins.get(peer.name))}")
    if not config.tunnels:
        click.echo("  It has no tunnel yet: see docs/config.md for an example.")


def _describe(peer: "PeerConfig", pins: "tuple[Pin, ...] | None") -> str:
    """Where a peer is dialled and which identities of it count; `pins` is None where its files were not looked at."""
    endpoints = peer.endpoints or tuple(dict.fromkeys(one for pin in pins or () for one in pin.endpoints))
    dials = ", ".join(map(str, endpoints)) or ("it has to dial" if pins is not None else "as its peer file says")
    if pins is None:
        return dials
    if not pins:
        return "REVOKED: its tunnels stay closed"
    return f"{dials}, pinned as {' and '.join(pin.identity.short for pin in pins)}"


def _check_files(config: "Config") -> "dict[str, tuple[Pin, ...]]":
    """Load what the daemon would load at its start; the pins. Raises `ConfigError` with all that is wrong."""
    from qhybridd.config import ConfigError
    from qhybridd.keyfiles import load_identity, load_pins, load_psk

    problems: list[OperatorError] = []
    pins: dict[str, tuple[Pin, ...]] = {}
    own = b""
    try:
        identity = load_identity(config.gateway.identity)
        own = identity.public.fingerprint
        identity.wipe()
    except OperatorError as error:
        problems.append(error)
    for peer in config.peers.values():
        try:
            if peer.bootstrap_psk:
                load_psk(peer.bootstrap_psk).wipe()
        except OperatorError as error:
            problems.append(error)
    try:
        pins = load_pins(config.peers, config.gateway.peers)
        for pin in (pin for found in pins.values() for pin in found):
            if pin.fingerprint == own:
                hint = "Add the other gateway's file instead of this one's own."
                problems.append(
                    OperatorError(
                        "config.reference", "this is the gateway's own identity", where=str(pin.file), hint=hint
                    )
                )
    except ConfigError as error:
        problems.extend(error.problems)
    if problems:
        raise ConfigError(tuple(problems))
    return pins
