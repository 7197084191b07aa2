"""The control and photon sockets pass where IPsec policies of the host let nothing else pass."""

import asyncio
import socket
from collections.abc import Iterator

import pytest

from qhybridd.config.records import Endpoint
from qhybridd.errors import HostError
from qhybridd.transport import connect, listen
from tests.netns.namespaces import Lab, inside

ADDRESSES = {"192.0.2.1": "192.0.2.2", "2001:db8::1": "2001:db8::2"}
"""Of the caller and of the listener."""


class Echo(asyncio.Protocol):
    """Gives back what it gets."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        assert isinstance(self.transport, asyncio.Transport)
        self.transport.write(data)


@pytest.fixture
def lab() -> Iterator[Lab]:
    with Lab() as lab:
        lab.add("a", "b")
        lab.veth(
            ("a", "under", ("192.0.2.1/24", "2001:db8::1/64")),
            ("b", "under", ("192.0.2.2/24", "2001:db8::2/64")),
        )
        for name in ("a", "b"):
            for everything in ("0.0.0.0/0", "::/0"):
                for direction in ("in", "out", "fwd"):
                    lab.ip(
                        name,
                        *("xfrm", "policy", "add", "dir", direction, "src", everything, "dst", everything),
                        *("action", "block", "priority", "1"),
                    )
            # Neighbour discovery is ICMP, which such policies drop as well.
            device = ("dev", "under", "nud", "permanent")
            other = {"a": "b", "b": "a"}[name]
            link = lab.ip(other, "-brief", "link", "show", "dev", "under").split()[2]
            for pair in ADDRESSES.items():
                lab.ip(name, "neigh", "replace", pair[name == "a"], "lladdr", link, *device)
        yield lab


@pytest.mark.parametrize("mark", [0, 0x7148])
@pytest.mark.parametrize("address", ADDRESSES.values())
def test_a_socket_of_ours_passes_policies_that_drop_everything(lab: Lab, address: str, mark: int) -> None:
    async def main() -> bytes:
        with inside(lab.name("b")):
            server = await listen(Endpoint(address, 7420), mark, Echo)
        with inside(lab.name("a")):
            sock = await connect(Endpoint(address, 7420), mark)
        loop = asyncio.get_running_loop()
        try:
            data = bytes(range(256)) * 400
            sent = asyncio.create_task(loop.sock_sendall(sock, data))
            got = b""
            async with asyncio.timeout(5):
                while len(got) < len(data):
                    got += await loop.sock_recv(sock, 65536)
                await sent
            assert got == data
            return got
        finally:
            sock.close()
            server.close()

    assert asyncio.run(main())


@pytest.mark.parametrize("address", ADDRESSES.values())
@pytest.mark.parametrize("side", ["caller", "listener"])
def test_any_other_socket_does_not(lab: Lab, address: str, side: str) -> None:
    """Without this the test above would show nothing: each side by itself is dropped."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET

    async def main() -> None:
        if side == "caller":
            with inside(lab.name("b")):
                ours = await listen(Endpoint(address, 7420), 0, Echo)
            with inside(lab.name("a")), socket.socket(family) as plain:
                plain.settimeout(1)
                with pytest.raises(OSError):
                    plain.connect((address, 7420))
            ours.close()
            return
        with inside(lab.name("b")):
            server = socket.create_server((address, 7420), family=family)
        with server, inside(lab.name("a")), pytest.raises(HostError, match="no answer"):
            await connect(Endpoint(address, 7420), 0)

    asyncio.run(main())
