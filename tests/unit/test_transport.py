"""Dialling over real sockets: an address that swallows packets must not hide the next one."""

import asyncio
import socket
from collections.abc import Callable

import pytest

from qhybridd import transport
from qhybridd.config.records import Endpoint
from qhybridd.crypto.ephemeral import OsEphemeral
from qhybridd.errors import HostError
from qhybridd.protocol.connection import Connection
from qhybridd.transport import Wire, dial
from tests.unit.ends import ALICE, BOB, BOTH, pin


def make() -> Wire:
    connection = Connection.dial(ALICE, pin(BOB), BOTH, BOTH[0], ephemeral=OsEphemeral(), now=0.0)
    return Wire(connection, lambda *_: None)


def resolving(*addresses: tuple[str, int]) -> Callable[..., object]:
    """A resolver that gives these addresses."""

    async def getaddrinfo(*_: object, **__: object) -> list[object]:
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", address) for address in addresses]

    return getaddrinfo


def test_every_address_of_a_name_is_tried_each_with_a_time_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transport, "CONNECT_TIMEOUT_S", 0.3)

    async def main() -> None:
        server = await asyncio.start_server(lambda *_: None, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        full = socket.create_server(("127.0.0.1", 0), backlog=0)  # its queue is full: further SYNs are dropped
        queued = [socket.socket() for _ in range(3)]
        for one in queued:
            one.setblocking(False)
            one.connect_ex(full.getsockname())
        loop = asyncio.get_running_loop()
        monkeypatch.setattr(loop, "getaddrinfo", resolving(full.getsockname(), ("127.0.0.1", 1), ("127.0.0.1", port)))
        wire = await dial(Endpoint("gateway.example", 7420), 0, make)
        assert wire.endpoint == f"127.0.0.1:{port}"
        wire.close()
        monkeypatch.setattr(loop, "getaddrinfo", resolving(full.getsockname()))
        with pytest.raises(HostError) as caught:
            await dial(Endpoint("gateway.example", 7420), 0, make)
        assert caught.value.code == "host.socket"
        for one in (full, *queued):
            one.close()
        server.close()

    asyncio.run(main())
