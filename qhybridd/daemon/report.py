"""What the gateway tells of itself: the status, from what is live and from what the devices say."""

import asyncio
import time
from collections.abc import Iterable
from typing import Literal, cast

from qhybridd import __version__, status
from qhybridd.clock import boottime
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
    return status.Status(
        gateway=status.GatewayStatus(
            fingerprint=identity.fingerprint.hex(),
            short=identity.short,
            version=__version__,
            uptime_s=boottime() - started_at,
        ),
        peers=[_peer(peer) for peer in peers],
        tunnels=list(await asyncio.gather(*(_tunnel(tunnel) for tunnel in tunnels))),
        links=links,
    )


def _peer(peer: Peer) -> status.PeerStatus:
    session = peer.session
    fingerprint = session.session.peer if session else (peer.pins[0].public.fingerprint if peer.pins else b"")
    return status.PeerStatus(
        name=peer.name,
        fingerprint=fingerprint.hex(),
        session="up" if session else "down",
        since_s=boottime() - peer.since if peer.since is not None else None,
        endpoint=peer.endpoint,
        suite=session.suite.label if session else "",
        why="" if session else peer.why,
        hint="" if session else peer.hint,
    )


async def _tunnel(tunnel: Tunnel) -> status.TunnelStatus:
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
    )
