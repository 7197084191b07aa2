"""Flattened prefixes against the definition, address by address."""

from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qhybridd.errors import OperatorError
from qhybridd.guard.prefixes import GuardedTunnel, Interval, flatten

CORNERS = (0, 1, 2, 3, 7, 8, 0x0A000000, 0x0A0000FF, 0x0AFFFFFF, 0xFFFFFFFE, 0xFFFFFFFF)


@st.composite
def ipv4_networks(draw: st.DrawFn) -> IPv4Network:
    """Prefixes that often nest and often touch each other and both ends of the address space."""
    length = draw(st.integers(0, 32))
    base = draw(st.sampled_from(CORNERS) | st.integers(0, 0xFFFFFFFF))
    return IPv4Network((base >> (32 - length) << (32 - length) if length else 0, length))


@st.composite
def tunnel_lists(draw: st.DrawFn) -> list[GuardedTunnel]:
    unused = draw(st.lists(ipv4_networks(), unique=True, max_size=14))
    tunnels = []
    for number in range(draw(st.integers(0, 4))):
        protects = [network for network in unused if draw(st.booleans())]
        unused = [network for network in unused if network not in protects]
        excepts = [
            network
            for network in draw(st.lists(ipv4_networks(), max_size=4))
            if network not in protects and any(network.subnet_of(wider) for wider in protects)
        ]
        tunnels.append(GuardedTunnel(f"t{number}", "wg0", tuple(protects), tuple(excepts)))
    return tunnels


def owner(tunnels: list[GuardedTunnel], address: int) -> str | None:
    """The definition: the longest prefix around the address that no exception of its own tunnel within it undoes."""
    point = ip_address(address)
    best, best_length = None, -1
    for tunnel in tunnels:
        for network in map(ip_network, tunnel.protects):
            undone = any(
                point in hole and hole != network and hole.subnet_of(network)  # type: ignore[arg-type]
                for hole in map(ip_network, tunnel.excepts)
            )
            if point in network and not undone and network.prefixlen > best_length:
                best, best_length = tunnel.name, network.prefixlen
    return best


def find(intervals: tuple[Interval, ...], address: int) -> str | None:
    return next((item.tunnel for item in intervals if item.first <= address <= item.last), None)


@given(tunnel_lists(), st.lists(st.integers(0, 0xFFFFFFFF), max_size=5))
def test_an_address_belongs_where_the_longest_prefix_says(tunnels: list[GuardedTunnel], random: list[int]) -> None:
    intervals = flatten(tunnels).ipv4
    edges = {0, 0xFFFFFFFF, *random}
    for tunnel in tunnels:
        for network in map(ip_network, (*tunnel.protects, *tunnel.excepts)):
            first, last = int(network.network_address), int(network.broadcast_address)
            edges |= {first - 1, first, last, last + 1}
    for address in edges:
        if 0 <= address <= 0xFFFFFFFF:
            assert find(intervals, address) == owner(tunnels, address), ip_address(address)


@given(tunnel_lists())
def test_intervals_are_sorted_apart_and_joined(tunnels: list[GuardedTunnel]) -> None:
    intervals = flatten(tunnels).ipv4
    for item in intervals:
        assert 0 <= item.first <= item.last <= 0xFFFFFFFF
    for one, other in pairwise(intervals):
        assert one.last < other.first
        assert one.last + 1 < other.first or one.tunnel != other.tunnel


def test_both_families_to_their_last_address() -> None:
    intervals = flatten([GuardedTunnel("all", "wg0", ("0.0.0.0/0", IPv6Network("::/0")), ("fe80::/10",))])
    assert intervals.ipv4 == (Interval(0, 0xFFFFFFFF, "all"),)
    assert [hex(item.first)[:5] for item in intervals.ipv6] == ["0x0", "0xfec"]
    assert intervals.ipv6[-1].last == (1 << 128) - 1


def test_a_narrower_prefix_within_an_exception_is_protected_again() -> None:
    tunnel = GuardedTunnel("t", "wg0", ("10.0.0.0/8", "10.5.1.0/24"), ("10.5.0.0/16",))
    intervals = flatten([tunnel]).ipv4
    found = {text: find(intervals, int(ip_address(text))) for text in ("10.4.0.1", "10.5.0.1", "10.5.1.1", "10.6.0.1")}
    assert found == {"10.4.0.1": "t", "10.5.0.1": None, "10.5.1.1": "t", "10.6.0.1": "t"}


@pytest.mark.parametrize(
    ("tunnels", "code"),
    [
        ([GuardedTunnel("a", "wg0", ("10.0.0.0/8",)), GuardedTunnel("b", "wg1", ("10.0.0.0/8",))], "config.duplicate"),
        ([GuardedTunnel("a", "wg0", ("fd00::/8", "fd00::/8"))], "config.duplicate"),
        ([GuardedTunnel("a", "wg0", ("10.0.0.1/8",))], "config.value"),
        ([GuardedTunnel("a", "wg0", ("nonsense",))], "config.value"),
        ([GuardedTunnel("a", "wg0", ("10.0.0.0/8",), ("10.0.0.0/8",))], "config.value"),
        ([GuardedTunnel("a", "wg0", ("10.0.0.0/8", "10.1.0.0/16"), ("10.1.0.0/16",))], "config.value"),
        ([GuardedTunnel("a", "wg0", ("10.0.0.0/8",), ("11.0.0.0/16",))], "config.value"),
        ([GuardedTunnel("a", "wg0", ("10.0.0.0/8",), ("fd00::/16",))], "config.value"),
    ],
)
def test_what_cannot_be_meant_is_refused(tunnels: list[GuardedTunnel], code: str) -> None:
    with pytest.raises(OperatorError) as caught:
        flatten(tunnels)
    assert caught.value.code == code and caught.value.hint


def test_a_prefix_cannot_be_protected_and_excepted_at_once() -> None:
    with pytest.raises(OperatorError) as caught:
        flatten([GuardedTunnel("a", "wg0", ("0.0.0.0/2", "0.0.0.0/3"), ("0.0.0.0/3",))])
    assert caught.value.code == "config.value"
