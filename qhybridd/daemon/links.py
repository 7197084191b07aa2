"""The links of the running gateway: their ends, who gets their keys, and what an operator asks of them."""

import asyncio
from collections.abc import Mapping
from typing import Final

from qhybridd import status
from qhybridd.clock import boottime
from qhybridd.config.records import TunnelConfig
from qhybridd.crypto.levels import Level
from qhybridd.daemon.peer import Peer
from qhybridd.daemon.services import Services
from qhybridd.daemon.site import LinkSite
from qhybridd.daemon.tunnel import Tunnel
from qhybridd.distill.authenticate import Role
from qhybridd.errors import HostError, OperatorError
from qhybridd.links.alice import AliceEnd
from qhybridd.links.bob import BobEnd
from qhybridd.links.link import LinkEnd
from qhybridd.protocol import actions as act
from qhybridd.protocol.actions import QkdKey
from qhybridd.protocol.messages import QkdRef
from qhybridd.sources.base import KeySource, Supply
from qhybridd.sources.shares import Claim, Shares
from qhybridd.sources.simulated import LinkSource

RECHECK_LEAST_S: Final = 0.05
"""Between two looks at whose turn it is, where only time passes."""


class _Place:
    """One link, and the tunnels that take its keys: these stay when the link is made anew."""

    def __init__(self) -> None:
        self.end: LinkEnd | None = None
        self.shares = Shares(lambda: self.end.store.available_bits() if self.end is not None else 0)
        self.told: dict[str, bool] = {}
        """What each tunnel heard last."""
        self.timer: asyncio.Handle | None = None


class Links:
    """All links of the gateway."""

    def __init__(self, services: Services, peers: Mapping[str, Peer], tunnels: Mapping[str, Tunnel]) -> None:
        """`peers` and `tunnels` are the gateway's own, as they come and go."""
        self._services, self._peers, self._tunnels = services, peers, tunnels
        self._places: dict[str, _Place] = {}

    # ---- links

    async def add(self, site: LinkSite) -> None:
        """Make this gateway's end of a link, and begin. A link that cannot be had is told of, and disturbs nothing."""
        config, services = site.config, self._services
        peer = self._peers[config.peer]
        kind = AliceEnd if config.role is Role.ALICE else BobEnd
        try:
            end: LinkEnd = kind(config, site.psk, services.log, services.mark)
        except HostError as error:  # no locked memory: a reload must not stop halfway for it, nor a revocation
            services.log.bind(link=config.name).error("no link", code=error.code, message=error.message)
            return
        place = self._place(config.name)
        place.end = end
        end.on_change = lambda: self._look_soon(config.name)
        await end.start()
        peer.add_link(end)

    async def remove(self, name: str) -> None:
        """End this gateway's end of a link; its keys are gone."""
        place = self._places[name]
        if (end := place.end) is None:
            return
        place.end = None
        peer = self._peers.get(end.config.peer)
        if peer is not None:
            peer.links.pop(name, None)
        await end.stop()
        self._look_soon(name)

    async def renew(self, peer: str, sites: Mapping[str, LinkSite]) -> None:
        """Make the links to a peer anew: an identity that their keys were distilled with is not trusted any longer."""
        for name, place in self._places.items():
            if place.end is not None and place.end.config.peer == peer:
                await self.remove(name)
                await self.add(sites[name])

    def attach(self, peer: Peer) -> None:
        """Distil over the sessions of this peer, which is new under its name."""
        for place in self._places.values():
            if place.end is not None and place.end.config.peer == peer.name:
                peer.add_link(place.end)

    async def stop(self) -> None:
        """End all."""
        for name, place in list(self._places.items()):
            await self.remove(name)
            if place.timer is not None:
                place.timer.cancel()

    # ---- tunnels

    def source(self, tunnel: TunnelConfig) -> KeySource | None:
        """Where a tunnel takes QKD keys; None where it takes none."""
        if tunnel.qkd is None:
            return None
        return _TunnelSource(self, tunnel.qkd, tunnel.name)

    def join(self, tunnel: TunnelConfig) -> None:
        """The tunnel runs: it is to have its share."""
        if tunnel.qkd is not None:
            place = self._place(tunnel.qkd)
            place.shares.join(tunnel.name, Claim(tunnel.period_s, tunnel.least is Level.HYBRID), boottime())
            place.told.pop(tunnel.name, None)
            self._look_soon(tunnel.qkd)

    def leave(self, tunnel: TunnelConfig) -> None:
        """It does not any more."""
        if tunnel.qkd is not None:
            place = self._place(tunnel.qkd)
            place.shares.leave(tunnel.name)
            place.told.pop(tunnel.name, None)
            self._look_soon(tunnel.qkd)

    def current(self, link: str, tunnel: str) -> LinkSource:
        """The way to the store that a link has now. Raises `HostError` (source.empty) while it has none."""
        place = self._place(link)
        if place.end is None:
            raise HostError("source.empty", f"the link {link} is being made anew")
        return LinkSource(link, tunnel, place.end.store, place.shares, lambda: self._look_soon(link))

    def _place(self, name: str) -> _Place:
        return self._places.setdefault(name, _Place())

    def _look_soon(self, name: str) -> None:
        """Look at the supply, in a turn of the loop of its own: whoever changed it is not done yet."""
        place = self._place(name)
        if place.timer is not None:
            place.timer.cancel()
        place.timer = asyncio.get_running_loop().call_soon(self._look, name)

    def _look(self, name: str) -> None:
        """Tell each tunnel whether there is a key for it, and be there when that changes by time alone."""
        place, now = self._places[name], boottime()
        place.timer = None
        ready = place.shares.all_ready(now)
        for tunnel in list(self._tunnels.values()):
            config = tunnel.config
            if config.qkd != name:
                continue
            supplied = config.name in ready
            if place.told.get(config.name) is not supplied:
                place.told[config.name] = supplied
                tunnel.feed(act.QkdSupply(supplied))
        turn = place.shares.next_turn(now)
        if turn is not None:
            delay = max(RECHECK_LEAST_S, turn - now)
            place.timer = asyncio.get_running_loop().call_later(delay, self._look, name)

    # ---- what the operator asks for

    def fault(self, request: status.FaultRequest) -> status.FaultReport:
        """Break or mend. Raises `OperatorError` (link.unknown, link.real, control.refused)."""
        place = self._places.get(request.link)
        if place is None or (end := place.end) is None:
            here = ", ".join(sorted(name for name, place in self._places.items() if place.end is not None))
            raise OperatorError(
                "link.unknown", f"no link is called {request.link}", hint=f"The links here: {here or 'none'}."
            )
        if not end.simulated:
            raise OperatorError("link.real", f"the link {request.link} is not simulated")
        end.fault(request)
        if request.kind is not None or request.mend:
            self._services.log.bind(link=request.link).warning("fault", broken=end.faults)
        return status.FaultReport(end.faults)

    def report(self) -> list[status.LinkStatus]:
        """The status of each."""
        return [place.end.status() for _, place in sorted(self._places.items()) if place.end is not None]


class _TunnelSource(KeySource):
    """A tunnel's way to its link, which may be made anew while the tunnel lives."""

    def __init__(self, links: Links, link: str, tunnel: str) -> None:
        self._links, self._link, self._tunnel = links, link, tunnel

    async def reserve(self, bits: int) -> QkdKey:
        return await self._links.current(self._link, self._tunnel).reserve(bits)

    async def fetch(self, ref: QkdRef) -> QkdKey:
        return await self._links.current(self._link, self._tunnel).fetch(ref)

    async def burn(self, ref: QkdRef) -> None:
        await self._links.current(self._link, self._tunnel).burn(ref)

    def supply(self) -> Supply:
        try:
            return self._links.current(self._link, self._tunnel).supply()
        except HostError:
            return Supply(0, simulated=True)
