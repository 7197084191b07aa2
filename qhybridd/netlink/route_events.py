"""What rtnetlink tells of devices and addresses as it happens: made, changed, gone (rtnetlink(7)).

Events come faster than they are read when a host makes thousands of devices; the kernel then says so (ENOBUFS), and who
listens looks at everything anew.
"""

import errno
import socket
import struct
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Final

from qhybridd.netlink.attributes import Message, malformed, read_text, walk, walk_messages
from qhybridd.netlink.socket import NetlinkError

NETLINK_ROUTE: Final = 0
RTMGRP_LINK: Final = 0x1
RTMGRP_IPV4_IFADDR: Final = 0x10
RTMGRP_IPV6_IFADDR: Final = 0x100
RTM_NEWLINK: Final = 16
RTM_DELLINK: Final = 17
RTM_DELADDR: Final = 21
IFLA_IFNAME: Final = 3
IFA_ADDRESS: Final = 1
IFA_LOCAL: Final = 2
LINK: Final = struct.Struct("=BxHiII")
"""struct ifinfomsg: family, type, index, flags, change mask."""
ADDRESS: Final = struct.Struct("=BBBBI")
"""struct ifaddrmsg: family, prefix length, flags, scope, index."""

DATAGRAM_BYTES: Final = 1 << 16
MAX_DATAGRAMS: Final = 256
"""That one reading takes; more wait for the next."""


@dataclass(frozen=True, slots=True)
class DeviceChanged:
    """A network device was made or changed, or is gone."""

    name: str
    index: int
    gone: bool


@dataclass(frozen=True, slots=True)
class AddressGone:
    """This host does not have an address any longer."""

    address: IPv4Address | IPv6Address


@dataclass(frozen=True, slots=True)
class EventsLost:
    """More happened than was kept."""


RouteEvent = DeviceChanged | AddressGone | EventsLost


class RouteEvents:
    """Devices and addresses of the network namespace that the calling thread is in. Never blocks."""

    def __init__(self, *, addresses: bool = False) -> None:
        """Devices, and with `addresses` those too. Raises `NetlinkError`."""
        groups = RTMGRP_LINK | (RTMGRP_IPV4_IFADDR | RTMGRP_IPV6_IFADDR if addresses else 0)
        kind = socket.SOCK_RAW | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK
        try:
            self._socket = socket.socket(socket.AF_NETLINK, kind, NETLINK_ROUTE)
        except OSError as error:
            raise NetlinkError(error.errno or 0, "a socket for events of devices") from None
        try:
            self._socket.bind((0, groups))
        except OSError as error:
            self._socket.close()
            raise NetlinkError(error.errno or 0, "a socket for events of devices") from None

    def fileno(self) -> int:
        """Readable when something happened."""
        return self._socket.fileno()

    def close(self) -> None:
        """Listen no more."""
        self._socket.close()

    def read(self) -> list[RouteEvent]:
        """What happened since the last time. Raises `HostError` (host.netlink) when the socket fails."""
        events: list[RouteEvent] = []
        for _ in range(MAX_DATAGRAMS):
            try:
                data, _, _, sender = self._socket.recvmsg(DATAGRAM_BYTES)
            except BlockingIOError:
                break
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    raise NetlinkError(error.errno or 0, "events of devices") from None
                events.append(EventsLost())
                continue
            if sender[0] == 0:  # only the kernel's port is 0
                events += parse(data)
        return events


def parse(data: bytes) -> list[RouteEvent]:
    """The events of one datagram; what is none is left out. Raises `HostError` for bytes of no kernel of ours."""
    events: list[RouteEvent] = []
    view = memoryview(data)
    for item in walk_messages(view, 0, len(view)):
        if item.kind in (RTM_NEWLINK, RTM_DELLINK):
            events += _device(view, item)
        elif item.kind == RTM_DELADDR:
            events += _address(view, item)
    return events


def _device(view: memoryview, item: Message) -> list[RouteEvent]:
    if item.end - item.start < LINK.size:
        raise malformed("a device without its header")
    family, _, index, _, _ = LINK.unpack_from(view, item.start)
    if family != socket.AF_UNSPEC:  # a bridge tells of its ports by the same messages
        return []
    entries = walk(view, item.start + LINK.size, item.end)
    names = [read_text(view, entry) for entry in entries if entry.kind == IFLA_IFNAME]
    return [DeviceChanged(name, index, item.kind == RTM_DELLINK) for name in names]


def _address(view: memoryview, item: Message) -> list[RouteEvent]:
    if item.end - item.start < ADDRESS.size:
        raise malformed("an address without its header")
    entries = walk(view, item.start + ADDRESS.size, item.end)
    found = {entry.kind: bytes(view[entry.start : entry.end]) for entry in entries}
    raw = found.get(IFA_LOCAL) or found.get(IFA_ADDRESS) or b""  # where a link has two ends, IFA_ADDRESS is the other
    return [AddressGone(ip_address(raw))] if len(raw) in (4, 16) else []
