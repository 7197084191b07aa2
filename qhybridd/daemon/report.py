"""What the gateway tells of itself: the status, from what is live and from what the devices say."""

import asyncio
import time
from collections.abc import Iterable
from typing import Literal, cast

from qhybridd import __version__, exposure, status
from qhybridd.clock import boottime
from qhybridd.config.records import TunnelConfig, WireGuardConfig, XfrmConfig
from qhybridd.crypto.identity import PublicIdentity
from qhybridd.crypto.levels import Level
from qhybridd.daemon.peer import Peer
from qhybridd.daemon.tunnel import Tunnel
from qhybridd.errors import HostError
from qhybridd.targets.base import Observation


async def report(
    identity: PublicIdentity,
    started_at: float,
    peers: Iterable[Peer],
    tunnels: Iterable[Tunnel],
    links: list[status.LinkStatus],
) -> status.Status:
    """The status now. Devices are read; one that cannot be is told by its tunnel's reason."""
    peers, stores = list(peers), {link.name: link.store for link in links}
    others = {peer.name: _fingerprint(peer) for peer in peers}

    def exposed(config: TunnelConfig) -> status.ExposureStatus:
        store = stores.get(config.qkd or "")
        return _exposure(config, store, identity.fingerprint, others.get(config.peer, b""))

    return status.Status(
        gateway=status.GatewayStatus(
            fingerprint=identity.fingerprint.hex(),
            short=identity.short,
            version=__version__,
            uptime_s=boottime() - started_at,
        ),
        peers=[_peer(peer) for peer in peers],
        tunnels=list(await asyncio.gather(*(_tunnel(tunnel, exposed(tunnel.config)) for tunnel in tunnels))),
        links=links,
    )


def _peer(peer: Peer) -> status.PeerStatus:
    session = peer.session
    return status.PeerStatus(
        name=peer.name,
        fingerprint=_fingerprint(peer).hex(),
        session="up" if session else "down",
        since_s=boottime() - peer.since if peer.since is not None else None,
        endpoint=peer.endpoint,
        suite=session.suite.label if session else "",
        why="" if session else peer.why,
        hint="" if session else peer.hint,
    )


def _fingerprint(peer: Peer) -> bytes:
    """Of the pin in use, or of the first one; empty where there is none."""
    if peer.session:
        return peer.session.session.peer
    return peer.pins[0].public.fingerprint if peer.pins else b""


def _exposure(
    config: TunnelConfig, store: status.StoreStatus | None, own: bytes, other: bytes
) -> status.ExposureStatus:
    """By the keys that the proposing end, the one of the lower fingerprint, may take."""
    peer_gone_s = exposure.without_peer_s(config.expiry_s)
    if config.qkd is None:
        return status.ExposureStatus(peer_gone_s)
    supply = exposure.NOTHING
    if store is not None:
        ours = exposure.Supply(store.own_keys, store.own_left_s)
        theirs = exposure.Supply(store.peer_keys, store.peer_left_s)
        supply = ours if own < other else theirs
    return status.ExposureStatus(
        peer_gone_s,
        exposure.without_qkd_s(config.period_s, config.expiry_s, supply),
        supply.keys,
        falls_back=not config.least.needs_qkd,
    )


def _esp(target: WireGuardConfig | XfrmConfig) -> status.EspStatus | None:
    if not isinstance(target, XfrmConfig):
        return None
    return status.EspStatus(
        str(target.local),
        str(target.remote),
        target.mode,
        target.cipher,
        target.reqid,
        target.encapsulation,
        target.if_id,
    )


async def _tunnel(tunnel: Tunnel, exposed: status.ExposureStatus) -> status.TunnelStatus:
    now, rotation, config = boottime(), tunnel.rotation, tunnel.config
    seen, why = Observation(b"", 0, "", 0, 0), tunnel.closed_because
    try:
        seen = await tunnel.target.inspect()
    except HostError as error:
        if not rotation.revoked:
            why = f"{error.message} [{error.code}]"
    live = rotation.live
    error_ = tunnel.last_error
    return status.TunnelStatus(
        name=config.name,
        peer=config.peer,
        interface=config.interface,
        state="open" if live else "closed",
        why="" if live else why,
        level=cast(Literal["hybrid", "pqc", "classical"], live.level.label) if live else None,
        # Every link is simulated so far, also one that a reload took from the tunnel while its key is live.
        simulated=live is not None and live.level is Level.HYBRID,
        epoch=live.epoch if live else 0,
        phase=rotation.phase.value,
        key_age_s=now - live.combined_at if live else None,
        expires_in_s=live.deadline - now if live else None,
        last_handshake_s=max(0.0, time.time() - seen.last_handshake_ns / 1e9) if seen.last_handshake_ns else None,
        renew=config.renew,
        period_s=config.period_s,
        expiry_s=config.expiry_s,
        rotations=tunnel.rotations,
        failures=tunnel.failed_attempts,
        rx_bytes=seen.rx_bytes,
        tx_bytes=seen.tx_bytes,
        last_error=status.LastError(error_.code, error_.message, error_.hint, now - tunnel.last_error_at)
        if error_
        else None,
        qkd=config.qkd or "",
        esp=_esp(config.target),
        exposure=exposed,
    )
