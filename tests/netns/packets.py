"""Single datagrams between namespaces, and what a device sees of them."""

import errno
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from tests.netns.namespaces import Lab, inside

WAIT_S = 0.3


class Packets:
    """UDP between namespaces, one datagram at a time."""

    def __init__(self, lab: Lab) -> None:
        self._lab = lab

    def socket(self, short: str, address: str = "") -> socket.socket:
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        with inside(self._lab.name(short)):
            made = socket.socket(family, socket.SOCK_DGRAM)
        if address:
            _bind(made, address)
        made.settimeout(WAIT_S)
        return made

    def pass_from(self, source: tuple[str, str], target: tuple[str, str]) -> bool:
        """Whether a datagram from (namespace, address) arrives at another."""
        with self.socket(*source) as sender, self.socket(*target) as receiver:
            try:
                sender.sendto(b"probe", receiver.getsockname()[:2])
                return receiver.recv(16) == b"probe"
            except (PermissionError, TimeoutError, OSError):
                return False

    @contextmanager
    def captured(self, short: str, device: str, *, outgoing: bool = False) -> Iterator[Callable[[], list[bytes]]]:
        """The IP packets that come in by a device (what IPsec unwraps comes in once more), or those that go out."""
        with inside(self._lab.name(short)):
            tap = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(3))
        with tap:
            tap.bind((device, 3))
            tap.setblocking(False)

            def collect() -> list[bytes]:
                time.sleep(WAIT_S)
                found = []
                while True:
                    try:
                        packet, where = tap.recvfrom(2048)
                    except BlockingIOError:
                        return found
                    if (where[2] == socket.PACKET_OUTGOING) == outgoing:
                        found.append(packet)

            yield collect


def _bind(made: socket.socket, address: str) -> None:
    """An IPv6 address that was just added can be bound to only once a worker of the kernel has seen it."""
    for _ in range(30):
        try:
            made.bind((address, 0))
        except OSError as error:
            if error.errno != errno.EADDRNOTAVAIL:
                raise
            time.sleep(0.1)
        else:
            return
    raise AssertionError(f"{address} is not there")


class Stream:
    """Datagrams every 2 ms from one end, counted at the other."""

    def __init__(self, packets: Packets, source: tuple[str, str], target: tuple[str, str]) -> None:
        self._sender, self._receiver = packets.socket(*source), packets.socket(*target)
        self._receiver.setsockopt(socket.SOL_SOCKET, 33, 1 << 22)  # SO_RCVBUFFORCE
        self.sent = 0
        self.enough = threading.Event()

    def run(self) -> int:
        """Send until `enough` is set; how many were lost."""
        target = self._receiver.getsockname()
        while not self.enough.is_set():
            with suppress(PermissionError):
                self._sender.sendto(self.sent.to_bytes(4, "big"), target)
            self.sent += 1
            time.sleep(0.002)
        received = set()
        try:
            while len(received) < self.sent:
                received.add(self._receiver.recv(16))
        except TimeoutError:
            pass
        self._sender.close()
        self._receiver.close()
        return self.sent - len(received)
