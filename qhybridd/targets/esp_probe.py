"""Sockets of XFRM tunnels: probes that prove an idle tunnel, and the ones that take ESP in UDP.

A probe is an ordinary UDP packet of the kernel's, which a policy of ours sends through the outbound association by its
mark. So sequence numbers and nonces stay the kernel's affair: ESP that was made up here under the same key would use a
nonce twice.
"""

import asyncio
import contextlib
import socket
from typing import Final

from qhybridd.config.records import PROBE_PORT, Address, Endpoint, XfrmConfig
from qhybridd.errors import HostError
from qhybridd.netlink.bypass import bypass_ipsec
from qhybridd.targets.esp_selectors import probe_destination

# ---- constants of Linux (linux/udp.h)

UDP_ENCAP: Final = 100
UDP_ENCAP_ESPINUDP: Final = 2

# ---- constants of ours

PROBE_S: Final = 0.2
"""Between two probes: the peer's proof comes so long after its association is there, and a round trip."""
PROBE: Final = b"qhybridd probe"
MAX_DRAINED: Final = 64
"""Packets that are thrown away at once: what a hostile peer sends more of does not keep the daemon busy."""
RECEIVE_BYTES: Final = 4096
"""Receive buffer of a socket that nobody reads much from."""


class Prober:
    """Sends probes through one tunnel while it is asked to, and tells when the peer's come."""

    def __init__(self, esp: XfrmConfig) -> None:
        """The socket belongs to the network namespace in which this object is made. Nothing is bound yet."""
        self._esp = esp
        self._family = socket.AF_INET if esp.local.version == 4 else socket.AF_INET6
        self._socket = socket.socket(self._family, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK)
        self._bound = False
        self._timer: asyncio.TimerHandle | None = None
        self.arrived = asyncio.Event()
        """Set when a probe of the peer came."""

    def start(self) -> None:
        """Send one now and then every `PROBE_S`."""
        self.stop()
        self._timer = asyncio.get_running_loop().call_later(PROBE_S, self.start)
        # What cannot be sent now is sent later: there is no route, address, device or association for it yet.
        with contextlib.suppress(OSError):
            if not self._bound:
                self._bind()
            self._socket.send(PROBE)

    def stop(self) -> None:
        """Send no more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def close(self) -> None:
        """Give the socket back."""
        self.stop()
        if self._bound:
            asyncio.get_running_loop().remove_reader(self._socket)
        self._bound = False
        self._socket.close()

    def _bind(self) -> None:
        own = self._socket
        own.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # tunnels between the same addresses share the port
        own.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, self._esp.reqid)
        own.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BYTES)
        if self._esp.interface:
            own.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, self._esp.interface.encode())
        if own.getsockname()[1] == 0:
            own.bind((str(self._esp.local), PROBE_PORT))
        own.connect((str(probe_destination(self._esp)), PROBE_PORT))
        asyncio.get_running_loop().add_reader(own, self._drain)
        self._bound = True

    def _drain(self) -> None:
        with contextlib.suppress(OSError):
            for _ in range(MAX_DRAINED):
                self._socket.recv(1)
                self.arrived.set()


class EncapsulationSocket:
    """Takes ESP in UDP (RFC 3948) at one address and port: the kernel unpacks it before this socket would get it."""

    def __init__(self, local: Address, port: int) -> None:
        """The socket belongs to the network namespace in which this object is made. Nothing is bound yet."""
        self._local, self._port = local, port
        self._family = socket.AF_INET if local.version == 4 else socket.AF_INET6
        self._socket = socket.socket(self._family, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK)
        self._bound = False

    def open(self) -> None:
        """Take ESP from now on. Raises `HostError` (host.socket)."""
        if self._bound:
            return
        try:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BYTES)
            bypass_ipsec(self._socket)  # what it carries is ESP already
            self._socket.setsockopt(socket.IPPROTO_UDP, UDP_ENCAP, UDP_ENCAP_ESPINUDP)
            self._socket.bind((str(self._local), self._port))
        except OSError as error:
            where = str(Endpoint(str(self._local), self._port))
            what = f"ESP in UDP cannot be taken: {error.strerror}"
            hint = "An IKE daemon holds port 4500: choose another one for `encapsulation`, at both gateways."
            raise HostError("host.socket", what, where=where, hint=hint) from None
        self._bound = True

    def close(self) -> None:
        """Give the port back."""
        self._socket.close()
