"""What the laboratory counts as sent in clear: exactly the packets of the protected prefixes, whoever flushes what."""

import secrets
import socket
from collections.abc import Iterator
from contextlib import ExitStack
from ipaddress import ip_interface, ip_network

import pytest

from qhybridd.apps.capture import Capture
from qhybridd.apps.namespaces import Namespace, join

ADDRESSES = (("10.9.0.1/24", "10.9.0.2/24"), ("fd00:9::1/64", "fd00:9::2/64"))


@pytest.fixture
def ends() -> Iterator[tuple[Namespace, Namespace]]:
    """Two namespaces on one cable, with an address of either family each."""
    with ExitStack() as stack:
        one, other = (Namespace(f"qhyc-{secrets.token_hex(3)}") for _ in range(2))
        for space in (one, other):
            stack.callback(space.remove)
            space.make()
        join(one, other, "cable")
        for pair in ADDRESSES:
            for space, address in zip((one, other), pair, strict=True):
                space.add_address("cable", ip_interface(address))
        yield one, other


def _send(space: Namespace, destination: str, count: int, source: str = "") -> None:
    family = socket.AF_INET6 if ":" in destination else socket.AF_INET
    sender = space.open_socket(family, socket.SOCK_DGRAM, 0)
    with sender:
        if source:
            sender.bind((source, 0))
        for _ in range(count):
            sender.sendto(b"x" * 40, (destination, 9))


@pytest.mark.parametrize(
    ("prefix", "destination", "other"),
    [("10.9.0.2/32", "10.9.0.2", "10.9.0.3"), ("fd00:9::2/128", "fd00:9::2", "fd00:9::3")],
)
def test_it_counts_what_goes_to_a_prefix_and_nothing_else(
    ends: tuple[Namespace, Namespace], prefix: str, destination: str, other: str
) -> None:
    one, two = ends
    _send(one, destination, 1)  # neighbours know each other
    captures = [Capture(space, "cable", [ip_network("192.0.2.0/28"), ip_network(prefix)]) for space in ends]
    _send(one, destination, 1000)
    _send(one, other, 10)
    one.run(["nft", "flush", "ruleset"])
    counts = [capture.count() for capture in captures]
    assert counts[0] == 1000, "also beyond what the socket keeps"
    assert counts[1] <= 10, "what comes in does not count: here only the refusals that the other end sends"
    _send(two, "10.9.0.1" if "." in prefix else "fd00:9::1", 7)
    assert captures[1].count() - counts[1] == 7, "a source counts as a destination does"
    assert captures[0].count() - counts[0] <= 7
    assert captures[0].packets[0][0] >> 4 == (4 if "." in prefix else 6)
    for capture in captures:
        capture.close()


def test_the_whole_of_a_family(ends: tuple[Namespace, Namespace]) -> None:
    one, _ = ends
    capture = Capture(one, "cable", [ip_network("0.0.0.0/0")])
    _send(one, "10.9.0.2", 5)
    _send(one, "fd00:9::2", 5)
    assert capture.count() == 5
    capture.close()
