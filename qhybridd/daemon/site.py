"""What one configuration asks for, read as a whole before anything of the running daemon changes."""

from dataclasses import dataclass, field
from pathlib import Path

from qhybridd.boot import guarded_of
from qhybridd.config import load_config
from qhybridd.config.records import REVOKED, Config, Endpoint, LinkConfig, TunnelConfig
from qhybridd.crypto import kem
from qhybridd.crypto.identity import Identity
from qhybridd.errors import OperatorError
from qhybridd.guard import GuardedTunnel, flatten
from qhybridd.keyfiles import load_identity, load_pins, load_psk, revoked_name, stored_pins
from qhybridd.links.planning import lay_out
from qhybridd.policy import Policy
from qhybridd.protocol.handshake import PeerPin
from qhybridd.protocol.handshake_messages import Suite
from qhybridd.secret import Secret


@dataclass(frozen=True, slots=True)
class PeerSite:
    """One peer: who it is and where it is."""

    name: str
    pins: tuple[PeerPin, ...]
    endpoints: tuple[Endpoint, ...]
    revoked: tuple[PeerPin, ...] = field(default=(), compare=False)
    """Identities that it had, kept so that they are told from a stranger's when they knock. No change that a session
    would have to end for: taking a pin away is one already.
    """


@dataclass(frozen=True, slots=True)
class LinkSite:
    """One link, with the secret that its first tags rest on."""

    config: LinkConfig
    psk: Secret


@dataclass(frozen=True, slots=True)
class Site:
    """A configuration with its key files, and what the guard is to enforce."""

    config: Config
    identity: Identity
    suites: tuple[Suite, ...]
    peers: dict[str, PeerSite]
    guarded: tuple[GuardedTunnel, ...]
    links: dict[str, LinkSite]


def load_site(path: Path) -> Site:
    """Read and check everything. Raises `OperatorError`; nothing has side effects."""
    config = load_config(path)
    identity = load_identity(config.gateway.identity)
    pins = load_pins(config.peers, config.gateway.peers)
    revoked = stored_pins(config.gateway.peers / REVOKED)[0]
    peers: dict[str, PeerSite] = {}
    for name, peer in config.peers.items():
        psk = load_psk(peer.bootstrap_psk) if peer.bootstrap_psk is not None else None
        found = pins.get(name, ())
        told = tuple(dict.fromkeys(endpoint for pin in found for endpoint in pin.endpoints))
        former = tuple(PeerPin(pin.identity, name, revoked=True) for _, pin in revoked if revoked_name(pin) == name)
        pinned = tuple(PeerPin(pin.identity, name, psk) for pin in found)
        peers[name] = PeerSite(name, pinned, peer.endpoints or told, former)
    links = {name: _link(link) for name, link in config.links.items()}
    guarded = guarded_of(config)
    flatten(guarded)
    labels = {suite.label: suite for suite in Suite}
    return Site(config, identity, tuple(labels[label] for label in config.gateway.suites), peers, guarded, links)


def _link(link: LinkConfig) -> LinkSite:
    try:
        lay_out(link.simulation, link.block_clicks)  # its two ends could not agree on blocks without light
    except OperatorError as error:
        raise OperatorError(error.code, error.message, where=f"link {link.name}", hint=error.hint) from None
    return LinkSite(link, load_psk(link.psk))


def policy_of(tunnel: TunnelConfig) -> Policy:
    """The core's view of a tunnel's configuration."""
    codes = tuple(kem.by_name(name).code for name in tunnel.kems)
    return Policy(
        tunnel.least,
        tunnel.period_s,
        tunnel.expiry_s,
        tunnel.renew == "reset",
        codes,
        tunnel.qkd is not None,
        seamless=tunnel.renew == "seamless",
    )
