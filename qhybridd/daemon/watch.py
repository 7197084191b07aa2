"""Looks for what others do to what holds the keys, and takes a tunnel up again when its device is back."""

import asyncio
from collections.abc import Iterable, Mapping
from ipaddress import IPv4Address, IPv6Address
from typing import Final, Protocol

from qhybridd.daemon.host import readable
from qhybridd.daemon.tunnel import Tunnel
from qhybridd.errors import HostError
from qhybridd.netlink.route_events import AddressGone, DeviceChanged, EventsLost, RouteEvents
from qhybridd.telemetry.log import Log

WATCH_S: Final = 10.0
"""Between two looks at every tunnel: a change of a WireGuard device comes with no event."""
RETRY_S: Final = 1.0
"""Between two looks for a device that is missing, or its peer: a device is made first and given its peers later."""


class Session(Protocol):
    """What the watch needs of a peer."""

    def address_gone(self, address: IPv4Address | IPv6Address) -> None:
        """This host does not have the address any longer."""


class Watch:
    """The watch over the tunnels of one daemon. Every coroutine here runs until it is cancelled."""

    def __init__(self, tunnels: Mapping[str, Tunnel], peers: Mapping[str, Session], log: Log) -> None:
        """Events are those of the network namespace in which this object is made. Raises `HostError` without them."""
        self._tunnels, self._peers, self._log = tunnels, peers, log
        self._events = RouteEvents(addresses=True)

    def close(self) -> None:
        """Listen no more."""
        self._events.close()

    async def poll(self) -> None:
        """Look at every tunnel now and then."""
        while True:
            await asyncio.sleep(WATCH_S)
            await self.look(self._tunnels.values())

    async def follow_devices(self) -> None:
        """Look at once when a device is gone or made anew; leave the sessions of an address that is gone."""
        while True:
            await readable(self._events.fileno())
            try:
                happened = self._events.read()
            except HostError as error:
                self._log.repeated("watch", error)
                await asyncio.sleep(RETRY_S)
                continue
            names = {event.name for event in happened if isinstance(event, DeviceChanged)}
            lost = any(isinstance(event, EventsLost) for event in happened)
            for event in happened:
                if isinstance(event, AddressGone):
                    for peer in list(self._peers.values()):
                        peer.address_gone(event.address)
            touched = [tunnel for tunnel in self._tunnels.values() if lost or tunnel.config.interface in names]
            await self.look(touched)
            await self._take_up(touched)

    async def await_devices(self) -> None:
        """Take tunnels up again that were closed for want of a device, or of its peer."""
        while True:
            await asyncio.sleep(RETRY_S)
            await self._take_up(self._tunnels.values())

    async def look(self, tunnels: Iterable[Tunnel]) -> None:
        """Hold these against what should be there; what somebody changed is closed, and keyed anew."""
        await asyncio.gather(*(tunnel.check_device(tunnel.target.check) for tunnel in list(tunnels)))

    async def _take_up(self, tunnels: Iterable[Tunnel]) -> None:
        await asyncio.gather(*(tunnel.retry_device() for tunnel in list(tunnels) if tunnel.lacks_device))
