"""`qhybridd check`."""

from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from qhybridd.cli.site import site_of
from qhybridd.cli.words import period, rate
from qhybridd.errors import OperatorError

KEY_BITS: Final = 256
"""What a rotation takes."""

if TYPE_CHECKING:
    from qhybridd.config import Config, LinkConfig, PeerConfig, TunnelConfig
    from qhybridd.keyfiles import Pin


@click.command()
@click.argument("file", type=click.Path(path_type=Path), required=False)
@click.option("--syntax", is_flag=True, help="Look at the file alone, not at the files that it names.")
@click.pass_context
def check(ctx: click.Context, file: Path | None, syntax: bool) -> None:
    """Look at a configuration, and at the identity, peer and PSK files that it names. Changes nothing.

    Says of each tunnel what its keys rest on, and what it does without QKD keys. Shows everything that is wrong at
    once, each with its line and the way to mend it.

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
            f"  tunnel {tunnel.name}: {_way(tunnel)}, "
            f"a key every {period(tunnel.period_s)}, expiry {period(tunnel.expiry_s)}, at least {tunnel.least.label}"
        )
        click.echo(f"    rests on {_rests_on(tunnel)}")
        click.echo(f"    {_worst(tunnel, config)}")
    for link in config.links.values():
        click.echo(f"  link {link.name}: {_describe_link(link)}")
        expected, good = _expect(link)
        click.secho(f"    {expected}", fg=None if good else "yellow")
    for peer in config.peers.values():
        click.echo(f"  peer {peer.name}: {_describe(peer, pins.get(peer.name))}")
    if not config.tunnels:
        click.echo("  It has no tunnel yet: see docs/config.md for an example.")


def _way(tunnel: "TunnelConfig") -> str:
    """What holds its keys, and between whom."""
    from qhybridd.config import XfrmConfig

    esp = tunnel.target
    if not isinstance(esp, XfrmConfig):
        return f"{tunnel.interface} to {tunnel.peer}, renew = {tunnel.renew}"
    wrapped = f" in UDP {esp.encapsulation}" if esp.encapsulation else ""
    through = f" through {esp.interface} (if_id {esp.if_id})" if esp.interface else ""
    return (
        f"ESP{wrapped} {esp.local} to {esp.remote}{through} to {tunnel.peer}, {esp.mode} mode, {esp.cipher}, "
        f"reqid {esp.reqid:#x}"
    )


def _worst(tunnel: "TunnelConfig", config: "Config") -> str:
    """For how long its traffic goes on at the very worst: docs/exposure.md, with a full store."""
    from qhybridd import exposure

    text = f"at worst closed {period(exposure.without_peer_s(tunnel.expiry_s))} after the peer is gone"
    link = config.links.get(tunnel.qkd or "")
    if link is None:
        return text
    full = exposure.Supply(link.capacity_bits // KEY_BITS, link.max_age_s)
    what = "closed" if tunnel.least.needs_qkd else "without a QKD part"
    return f"{text}, {what} {period(exposure.without_qkd_s(tunnel.period_s, tunnel.expiry_s, full))} after QKD is"


def _rests_on(tunnel: "TunnelConfig") -> str:
    """What its keys are made of, and what becomes of it without a QKD key."""
    made_of = ", ".join(("X25519", *tunnel.kems))
    if tunnel.qkd is None:
        return f"{made_of}; no QKD"
    without = "closes" if tunnel.least.needs_qkd else "falls back to pqc"
    return f"{made_of}, keys of link {tunnel.qkd} (SIMULATED: no safer than pqc); without those it {without}"


def _describe_link(link: "LinkConfig") -> str:
    fibre, source = link.simulation.fibre, link.simulation.source
    other = "bob" if link.role.value == "alice" else "alice"
    return (
        f"{link.role.value} here, {other} is {link.peer}, photons to {link.photons}\n"
        f"    SIMULATED: {source.repetition_hz / 1e6:g} MHz over {fibre.length_km:g} km ({fibre.loss_db:.1f} dB), "
        f"bound {link.bound.value}, epsilon {link.epsilon_sec:g}"
    )


def _expect(link: "LinkConfig") -> tuple[str, bool]:
    """What its data sheet promises, and whether that is good."""
    from qhybridd.links.planning import Planner, lay_out

    try:
        layout = lay_out(link.simulation, link.block_clicks)
    except OperatorError as error:
        return f"NO KEY: {error.message}", False
    terms = Planner(link.protocol, link.simulation, layout.block_pulses).terms
    if terms is None:
        return "NO KEY: no block of it pays for one. Write a larger block_clicks, or look at loss and errors", False
    block_s = layout.block_pulses / layout.repetition_hz
    keys, per_s = terms.key_bits // KEY_BITS, rate(terms.key_bits / block_s, "bit")
    told = f"{block_s:.3g} s of light give about {keys} keys, {per_s}; they last {period(link.max_age_s)}"
    if block_s > link.max_age_s:
        return f"{told}: LESS than until the next ones come. Write a longer max_age", False
    return told, True


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
    psks = [peer.bootstrap_psk for peer in config.peers.values() if peer.bootstrap_psk]
    for psk in (*psks, *(link.psk for link in config.links.values())):
        try:
            load_psk(psk).wipe()
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
