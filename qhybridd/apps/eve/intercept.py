"""Getting into the way of a photon stream that is routed through this host.

An nftables table of her own sends new connections to the photon port to herself and resets those that exist, so that
Bob dials anew and meets her. The kernel deletes the table with the socket that made it, however this process ends.
"""

import socket
from contextlib import suppress
from ipaddress import ip_address
from pathlib import Path
from typing import Final

from qhybridd.config.records import Endpoint
from qhybridd.errors import HostError
from qhybridd.netlink.nft_bytecode import (
    BASE_NETWORK,
    BASE_TRANSPORT,
    META_L4PROTO,
    META_NFPROTO,
    NFPROTO_IPV4,
    NFPROTO_IPV6,
    REG_1,
    compare,
    load,
    mask,
    meta,
    payload,
    redirect,
    reject_reset,
)
from qhybridd.netlink.nft_steps import (
    HOOK_FORWARD,
    HOOK_PREROUTING,
    Operation,
    flush_chain,
    new_chain,
    new_owned_table,
    new_rule,
)
from qhybridd.netlink.nftables import NftSocket

TABLE: Final = "qhybridd_eve"
REDIRECT: Final = "redirect"
RESET: Final = "reset"
DSTNAT_PRIORITY: Final = -100
"""linux/netfilter_ipv4.h: where destinations are changed."""
FILTER_PRIORITY: Final = 0
TCP: Final = bytes((socket.IPPROTO_TCP,))
RST: Final = bytes((0x04,))
"""Of the flags of a TCP header, its byte 13."""
FORWARDING: Final = {4: Path("/proc/sys/net/ipv4/ip_forward"), 6: Path("/proc/sys/net/ipv6/conf/all/forwarding")}


def resolve(endpoint: Endpoint) -> Endpoint:
    """The same with an address. Raises `HostError` (host.socket) for a name that has none."""
    try:
        found = socket.getaddrinfo(endpoint.host, endpoint.port, type=socket.SOCK_STREAM)
    except OSError as error:
        reason = f"the name cannot be resolved: {error.strerror or error}"
        raise HostError("host.socket", reason, where=str(endpoint)) from None
    return Endpoint(str(found[0][4][0]), endpoint.port)


class Interception:
    """Connections to one address and port that this host routes come to a port of this host, from `open` to `close`."""

    def __init__(self, target: Endpoint, port: int) -> None:
        """`target` has an address, not a name; `port` is where this host listens."""
        self._target, self._port = target, port
        self._socket: NftSocket | None = None

    def open(self) -> None:
        """Begin. Raises `HostError` (host.intercept)."""
        version = ip_address(self._target.host).version
        if FORWARDING[version].read_text().strip() == "0":
            hint = f"Run it on the router between the two, and `sysctl -w {_sysctl(version)}=1` there."
            raise HostError("host.intercept", f"this host routes no IPv{version}", hint=hint)
        try:
            self._socket = NftSocket()
            self._socket.commit(build(self._target, self._port))
        except HostError as error:
            self.close()
            raise HostError("host.intercept", error.message) from None

    def release(self) -> None:
        """Let new connections through. Those that came here still find their way back, until `close`."""
        if self._socket is not None:
            with suppress(HostError):  # `close` takes them too
                self._socket.commit([flush_chain(TABLE, REDIRECT), flush_chain(TABLE, RESET)])

    def close(self) -> None:
        """Take everything away. Twice does no harm."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None


def build(target: Endpoint, port: int) -> list[Operation]:
    """The table.

    Only what goes to the target is reset: Bob hears of it with the answer to Alice's next frame, and Alice's own
    connection ends by his, or when she is dialled anew. Were her frames reset too, Bob would wait for another in vain.
    """
    address = ip_address(target.host)
    family, address_at = (NFPROTO_IPV4, 16) if address.version == 4 else (NFPROTO_IPV6, 24)
    match = (
        meta(META_NFPROTO, REG_1)
        + compare(REG_1, bytes((family,)))
        + meta(META_L4PROTO, REG_1)
        + compare(REG_1, TCP)
        + payload(BASE_NETWORK, address_at, len(address.packed), REG_1)
        + compare(REG_1, address.packed)
        + payload(BASE_TRANSPORT, 2, 2, REG_1)
        + compare(REG_1, target.port.to_bytes(2, "big"))
    )
    no_reset = payload(BASE_TRANSPORT, 13, 1, REG_1) + mask(REG_1, RST) + compare(REG_1, bytes(1))
    return [
        new_owned_table(TABLE),
        new_chain(TABLE, REDIRECT, HOOK_PREROUTING, DSTNAT_PRIORITY, "nat"),
        new_chain(TABLE, RESET, HOOK_FORWARD, FILTER_PRIORITY),
        new_rule(TABLE, REDIRECT, "photons come here", match, load(REG_1, port.to_bytes(2, "big")), redirect(REG_1)),
        new_rule(TABLE, RESET, "connections from before", match, no_reset, reject_reset()),
    ]


def _sysctl(version: int) -> str:
    return ".".join(FORWARDING[version].parts[3:])
