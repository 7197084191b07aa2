"""The listening side: lets connections in within bounds, and hands them to their peer once they have authenticated."""

import asyncio
from collections.abc import Callable, Mapping
from typing import Final, cast

from qhybridd.clock import boottime
from qhybridd.config.records import Endpoint
from qhybridd.crypto.ephemeral import OsEphemeral
from qhybridd.crypto.identity import Signer
from qhybridd.daemon.peer import Peer
from qhybridd.errors import HostError, QhybriddError
from qhybridd.protocol.connection import Closed, Connection, Established, Event
from qhybridd.protocol.handshake import PeerPin
from qhybridd.protocol.handshake_messages import Suite
from qhybridd.protocol.limits import Admission
from qhybridd.telemetry.log import Log
from qhybridd.transport import Wire, listen

RETRY_S: Final = 5.0
"""Between two tries to listen on an address that something else holds."""


class Door:
    """The listening sockets."""

    def __init__(
        self,
        signer: Signer,
        suites: tuple[Suite, ...],
        pins: Mapping[bytes, PeerPin],
        find: Callable[[str], Peer | None],
        *,
        told: Callable[[str, QhybriddError], None],
        log: Log,
    ) -> None:
        """`pins` by fingerprint, looked up at each handshake; `find` gives the peer of a name; `told` hears of each
        handshake that was refused, with the address that it came from.
        """
        self._signer, self._suites, self._pins, self._find, self._log = signer, suites, pins, find, log
        self._told = told
        self._admission = Admission()
        self._servers: list[asyncio.Server] = []
        self._waiting: set[Wire] = set()
        self._missing: tuple[Endpoint, ...] = ()
        """Where it should listen and cannot yet."""
        self._mark = 0

    async def open(self, endpoints: tuple[Endpoint, ...], mark: int) -> None:
        """Listen. Raises `HostError` (host.socket) when none of the addresses can be had."""
        self._missing, self._mark = endpoints, mark
        failure = await self._listen()
        if failure is not None and not self._servers:
            raise failure

    async def retry(self) -> None:
        """Go on until every address can be had."""
        while self._missing:
            await asyncio.sleep(RETRY_S)
            await self._listen()

    async def _listen(self) -> HostError | None:
        failure: HostError | None = None
        missing = []
        for endpoint in self._missing:
            try:
                self._servers.append(await listen(endpoint, self._mark, self._make))
            except HostError as error:
                failure = error
                missing.append(endpoint)
                self._log.repeated("not listening", error)
        self._missing = tuple(missing)
        return failure

    def close(self) -> None:
        """Listen no more; handshakes under way end."""
        for server in self._servers:
            server.close()
        for wire in list(self._waiting):
            wire.close()
        self._waiting.clear()

    def _make(self) -> Wire:
        connection = Connection.accept(self._signer, self._pins, self._suites, ephemeral=OsEphemeral(), now=boottime())
        return _Visitor(connection, self._on_event, self._admit)

    def _admit(self, wire: Wire) -> bool:
        if not self._admission.admit(wire.address, boottime()):
            return False
        self._waiting.add(wire)
        return True

    def _on_event(self, wire: Wire, event: Event) -> None:
        if wire not in self._waiting:
            return
        self._waiting.discard(wire)
        self._admission.release(wire.address)
        if isinstance(event, Established):
            self._admission.authenticated(wire.address, boottime())
            peer = self._find(event.peer_name)
            if peer is None:
                wire.close()
                return
            wire.on_event = peer.on_event
            peer.incoming(wire, event)
        elif isinstance(event, Closed) and event.error is not None:
            self._refused(wire, event.error)

    def _refused(self, wire: Wire, error: QhybriddError) -> None:
        self._log.repeated("handshake refused", error, source=wire.address)
        self._told(wire.address, error)


class _Visitor(Wire):
    """A connection that somebody opened; it begins only when it is admitted."""

    def __init__(
        self, connection: Connection, on_event: Callable[[Wire, Event], None], admit: Callable[[Wire], bool]
    ) -> None:
        super().__init__(connection, on_event)
        self._admit = admit

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Ask for a place first; who gets none hears nothing."""
        self.take(transport)
        if self._admit(self):
            self.begin()
        else:
            self.connection.close()
            cast(asyncio.Transport, transport).abort()
