"""Which network devices there are (rtnetlink(7), RTM_GETLINK)."""

from typing import Final

from qhybridd.netlink.attributes import malformed, read_text, walk
from qhybridd.netlink.route_events import IFLA_IFNAME, LINK, NETLINK_ROUTE
from qhybridd.netlink.socket import Dump, NetlinkSocket

RTM_GETLINK: Final = 18


class RouteSocket:
    """Network devices of the namespace that the calling thread is in. Blocking; called from one thread."""

    def __init__(self) -> None:
        """Raises `NetlinkError` (host.netlink)."""
        self._netlink = NetlinkSocket(NETLINK_ROUTE)

    def close(self) -> None:
        """Give the socket back."""
        self._netlink.close()

    def devices(self) -> dict[str, int]:
        """Index by name. Raises `NetlinkError`."""
        with self._netlink.dump(RTM_GETLINK, LINK.pack(0, 0, 0, 0, 0), "reading network devices") as dump:
            return parse_devices(dump)


def parse_devices(dump: Dump) -> dict[str, int]:
    """Index by name of an RTM_GETLINK dump. Raises `HostError` for bytes of no kernel of ours."""
    found = {}
    for item in dump.messages:
        if item.end - item.start < LINK.size:
            raise malformed("a device without its header")
        index = LINK.unpack_from(dump.view, item.start)[2]
        for entry in walk(dump.view, item.start + LINK.size, item.end):
            if entry.kind == IFLA_IFNAME:
                found[read_text(dump.view, entry)] = index
    return found
