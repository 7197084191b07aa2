"""That somebody changed nftables, as it happens (nfnetlink multicast group NFNLGRP_NFTABLES)."""

import errno
import socket
from typing import Final

from qhybridd.netlink.nftables import NETLINK_NETFILTER
from qhybridd.netlink.socket import NetlinkError

NFNLGRP_NFTABLES: Final = 7
MAX_DATAGRAMS: Final = 4096
"""That one reading throws away; more wait for the next."""


class NftEvents:
    """Changes in the network namespace that the calling thread is in. Never blocks.

    What was changed is not read: there is nothing in an event that looking at the table would not say, and a burst that
    overflows the socket (ENOBUFS) is one more sign of change.
    """

    def __init__(self) -> None:
        """Raises `NetlinkError` (host.netlink)."""
        kind = socket.SOCK_RAW | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK
        try:
            self._socket = socket.socket(socket.AF_NETLINK, kind, NETLINK_NETFILTER)
        except OSError as error:
            raise NetlinkError(error.errno or 0, "a socket for events of nftables") from None
        try:
            self._socket.bind((0, 1 << (NFNLGRP_NFTABLES - 1)))
        except OSError as error:
            self._socket.close()
            raise NetlinkError(error.errno or 0, "a socket for events of nftables") from None

    def fileno(self) -> int:
        """Readable when something changed."""
        return self._socket.fileno()

    def close(self) -> None:
        """Listen no more."""
        self._socket.close()

    def read(self) -> bool:
        """Whether anything changed since the last time, by whomever. Raises `NetlinkError` when the socket fails."""
        found = False
        for _ in range(MAX_DATAGRAMS):
            try:
                self._socket.recv(1)  # the rest of the datagram goes with it
            except BlockingIOError:
                break
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    raise NetlinkError(error.errno or 0, "events of nftables") from None
            found = True
        return found
