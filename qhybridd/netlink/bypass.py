"""Policies of a socket's own (IP_XFRM_POLICY), which come before all others of the host, as IKE daemons use them."""

import errno
import socket
from ipaddress import ip_network
from typing import Final

from qhybridd.netlink.xfrm_build import build_policy
from qhybridd.netlink.xfrm_records import Direction, SecurityPolicy, Selector

IP_XFRM_POLICY: Final = 17
"""linux/in.h."""
IPV6_XFRM_POLICY: Final = 35
"""linux/in6.h."""
NETLINK_XFRM: Final = 6
"""linux/netlink.h."""


def bypass_ipsec(own: socket.socket) -> None:
    """No IPsec policy of the host counts for this socket, in either direction. A listening socket hands that on.

    Raises OSError: ENOPROTOOPT from a kernel without XFRM, EPERM without CAP_NET_ADMIN.
    """
    ipv6 = own.family == socket.AF_INET6
    level, option = (socket.IPPROTO_IPV6, IPV6_XFRM_POLICY) if ipv6 else (socket.IPPROTO_IP, IP_XFRM_POLICY)
    every = ip_network("::/0" if ipv6 else "0.0.0.0/0")
    for direction in (Direction.OUT, Direction.IN):
        _allow(own, level, option, build_policy(SecurityPolicy(direction, Selector(every, every), 0, None)))


def _allow(own: socket.socket, level: int, option: int, policy: bytes) -> None:
    """The kernel reads the policy with the module behind NETLINK_XFRM, which may have to be loaded first."""
    try:
        own.setsockopt(level, option, policy)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        try:
            socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, NETLINK_XFRM).close()
        except OSError:  # there is no such module, hence no policies
            return
        own.setsockopt(level, option, policy)
