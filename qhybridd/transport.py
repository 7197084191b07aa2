"""The control channel's sockets: feed a `Connection`, send what it gives, re-arm one timer. No protocol in here."""

import asyncio
import errno
import os
import socket
from collections.abc import Callable
from typing import Final, cast

from qhybridd.clock import boottime
from qhybridd.config.records import Endpoint
from qhybridd.errors import CODES, HostError, PeerError
from qhybridd.netlink.bypass import bypass_ipsec
from qhybridd.protocol.connection import Closed, Connection, Event
from qhybridd.protocol.session import MAX_RECORD_BYTES, Channel

CONNECT_TIMEOUT_S: Final = 4.0
"""A SYN and one repeat after a second (RFC 6298) over 300 ms of delay; longer only delays the next endpoint."""
RESOLVE_TIMEOUT_S: Final = 4.0
MAX_ADDRESSES: Final = 4
"""Of one name: more would take longer than the next endpoint can wait."""
FAREWELL_S: Final = 1.0
"""How long the last record may take to leave before the socket is closed hard."""
UNSENT_BYTES: Final = 2 * MAX_RECORD_BYTES
"""TCP_NOTSENT_LOWAT: what the kernel holds unsent is past all priority, so it holds little."""
UNREAD_BYTES: Final = 128 << 10
"""SO_RCVBUF: what waits unread at the other end is past all priority too. The kernel would let it grow to megabytes,
and a rotation wait behind them. Over 2 ms of round trip, 200 km of fibre, this is still 60 MB/s."""
USER_TIMEOUT_MS: Final = 15_000
"""As long as the session's own silence: unacknowledged data does not keep a dead connection."""


class Wire(asyncio.Protocol):
    """One socket and its `Connection`. `on_event` gets every event; after `Closed` nothing more comes."""

    def __init__(self, connection: Connection, on_event: Callable[["Wire", Event], None]) -> None:
        self.connection = connection
        self.endpoint = ""
        """The other end, `host:port`."""
        self.address = ""
        """Its address alone."""
        self.local = ""
        """This end's address."""
        self.on_event = on_event
        self._transport: asyncio.Transport | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._paused = False
        self._over = False
        self._waiting: list[asyncio.Future[None]] = []
        """Who wants to hear that something left."""

    # ---- what the daemon calls

    def send(self, channel: Channel, payload: bytes) -> None:
        """Queue a message and send what the socket takes. Raises like `Connection.send`.

        A connection that has ended takes nothing more, and its `Closed` is on the way: what was read with its end may
        be answered before that is heard.
        """
        if self.connection.closed:
            return
        self.connection.send(channel, payload, boottime())
        self._flush()

    async def wait_for_backlog(self, channel: Channel, bytes_most: int) -> None:
        """Wait until no more than `bytes_most` wait on a channel. Raises `PeerError` (peer.closed) at the end."""
        while not self.connection.closed and self.connection.backlog_bytes(channel) > bytes_most:
            waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._waiting.append(waiter)
            await waiter
        if self.connection.closed:
            raise PeerError("peer.closed", "the connection ended before the message was sent")

    def close(self, code: str | None = None) -> None:
        """End in good order, or with an error code; no event follows."""
        self.connection.close(code)
        self._finish()

    # ---- what asyncio calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The socket is open."""
        self.take(transport)
        self.begin()

    def take(self, transport: asyncio.BaseTransport) -> None:
        """Note who is there."""
        self._transport = cast(asyncio.Transport, transport)
        self._transport.set_write_buffer_limits(high=MAX_RECORD_BYTES, low=0)
        peer = self._transport.get_extra_info("peername") or ("", 0)
        self.address = str(peer[0]).partition("%")[0]
        self.local = str((self._transport.get_extra_info("sockname") or ("",))[0]).partition("%")[0]
        self.endpoint = f"[{peer[0]}]:{peer[1]}" if ":" in str(peer[0]) else f"{peer[0]}:{peer[1]}"

    def begin(self) -> None:
        """Set the socket's options and send what there is."""
        assert self._transport is not None
        sock = self._transport.get_extra_info("socket")
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, UNSENT_BYTES)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, USER_TIMEOUT_MS)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, UNREAD_BYTES)
        self._flush()

    def data_received(self, data: bytes) -> None:
        """Bytes came."""
        self._emit(self.connection.receive(data, boottime()))

    def eof_received(self) -> None:
        """The peer sends no more; the transport closes itself."""
        self._emit(self.connection.eof(boottime()))

    def connection_lost(self, _: Exception | None) -> None:
        """The socket is gone."""
        self._emit(self.connection.eof(boottime()))
        self._finish()

    def pause_writing(self) -> None:
        """The socket takes no more for now: what waits stays where priority still counts."""
        self._paused = True

    def resume_writing(self) -> None:
        """The socket takes more."""
        self._paused = False
        self._flush()

    # ---- inside

    def _emit(self, events: list[Event]) -> None:
        if self._over:
            return
        for event in events:
            self.on_event(self, event)
        if any(isinstance(event, Closed) for event in events):
            self._finish()
        else:
            self._flush()

    def _flush(self) -> None:
        while self._takes_more and (data := self.connection.data_to_send()):
            assert self._transport is not None
            self._transport.write(data)
        self._wake()
        self._rearm()

    @property
    def _takes_more(self) -> bool:
        return self._transport is not None and not self._paused and not self._transport.is_closing()

    def _wake(self) -> None:
        waiting, self._waiting = self._waiting, []
        for waiter in waiting:
            if not waiter.done():
                waiter.set_result(None)

    def _rearm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        deadline = self.connection.next_deadline()
        if deadline is not None and not self._over:
            self._timer = asyncio.get_running_loop().call_later(max(0.0, deadline - boottime()), self._tick)

    def _tick(self) -> None:
        self._timer = None
        self._emit(self.connection.tick(boottime()))

    def _finish(self) -> None:
        if self._over:
            return
        self._paused = False
        self._flush()
        self._over = True
        if self._timer is not None:
            self._timer.cancel()
        if self._transport is not None:
            self._transport.close()
            asyncio.get_running_loop().call_later(FAREWELL_S, self._transport.abort)


_RESOLVE: Final = "Check the name and this host's resolver, or write an address."


async def dial(endpoint: Endpoint, mark: int, make: Callable[[], Wire]) -> Wire:
    """Connect to one endpoint, as `connect` does, and speak over the socket. Raises `HostError` (host.socket)."""
    sock = await connect(endpoint, mark)
    try:
        _, wire = await asyncio.get_running_loop().create_connection(make, sock=sock)
    except OSError as error:  # it is gone again
        sock.close()
        raise _not_dialled(endpoint, error.strerror or str(error), CODES["host.socket"]) from None
    except BaseException:
        sock.close()
        raise
    return wire


async def connect(endpoint: Endpoint, mark: int) -> socket.socket:
    """A connected socket; names are resolved without blocking, every address is tried.

    Raises `HostError` (host.socket) when none answers in time.
    """
    loop = asyncio.get_running_loop()
    try:
        async with asyncio.timeout(RESOLVE_TIMEOUT_S):
            found = await loop.getaddrinfo(endpoint.host, endpoint.port, type=socket.SOCK_STREAM)
    except TimeoutError:
        raise _not_dialled(endpoint, "the name is not resolved in time", _RESOLVE) from None
    except OSError as error:
        raise _not_dialled(endpoint, f"the name cannot be resolved: {error.strerror or error}", _RESOLVE) from None
    reason = "the name has no address"
    for family, kind, protocol, _, address in found[:MAX_ADDRESSES]:
        # One that swallows packets (a broken IPv6, say) must not use up the time of the next.
        try:
            sock = socket.socket(family, kind | socket.SOCK_NONBLOCK, protocol)
        except OSError as error:  # a host without IPv6
            reason = error.strerror or str(error)
            continue
        try:
            _set_apart(sock, mark)
            async with asyncio.timeout(CONNECT_TIMEOUT_S):
                await loop.sock_connect(sock, address)
        except TimeoutError:
            reason = "no answer"
            sock.close()
        except OSError as error:
            # The text that asyncio makes of a refused connection holds the address once more and no reason.
            reason = os.strerror(error.errno) if error.errno else str(error)
            sock.close()
        except BaseException:
            sock.close()
            raise
        else:
            return sock
    hint = f"Is qhybridd running there, the address right, and TCP port {endpoint.port} open on the way?"
    raise _not_dialled(endpoint, reason, hint)


def _not_dialled(endpoint: Endpoint, reason: str, hint: str) -> HostError:
    return HostError("host.socket", reason, where=str(endpoint), hint=hint)


async def listen(endpoint: Endpoint, mark: int, make: Callable[[], asyncio.Protocol]) -> asyncio.Server:
    """Listen on one address, also before the host has it. Raises `HostError` (host.socket)."""
    family = socket.AF_INET6 if ":" in endpoint.host else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        # At boot the address may come later than the daemon.
        sock.setsockopt(socket.IPPROTO_IP, IP_FREEBIND, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        _set_apart(sock, mark)
        sock.bind((endpoint.host, endpoint.port))
        sock.listen(128)
        return await asyncio.get_running_loop().create_server(make, sock=sock)
    except OSError as error:
        sock.close()
        raise HostError("host.socket", f"cannot listen: {error.strerror}", where=str(endpoint)) from None


IP_FREEBIND: Final = 15
"""linux/in.h; Python does not name it."""


def _set_apart(sock: socket.socket, mark: int) -> None:
    """See to it that no tunnel swallows this socket's packets, and no IPsec policy of the host drops them.

    The mark is for routing rules and the guard. Raises OSError.
    """
    if mark:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, mark)
    try:
        bypass_ipsec(sock)
    except OSError as error:
        # ENOPROTOOPT: a kernel without XFRM has no policies either. EPERM: who may not do this keys no tunnel.
        if error.errno not in (errno.ENOPROTOOPT, errno.EPERM):
            raise
