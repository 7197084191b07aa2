"""By when tunnels are open: which of the two elements is renewed, and by what names all stands in the kernel."""

from ipaddress import ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qhybridd.guard.live import MAX_OPEN_S, MIN_OPEN_S, Live, Place, place_of, plan
from qhybridd.guard.names import is_device_chain, is_live_set, live_sets, read_way, split_version, tunnel_chain, way_of
from qhybridd.guard.prefixes import GuardedEsp, GuardedTunnel
from qhybridd.netlink.nft_steps import DELSETELEM, NEWSETELEM, NFPROTO_INET, NFPROTO_NETDEV, number_key

ESP = GuardedEsp(0x51000007, ip_address("192.0.2.1"), ip_address("192.0.2.2"))
WIREGUARD = GuardedTunnel("site-b", "wg0", ("10.20.0.0/16",))
PLAIN_ESP = GuardedTunnel("site-b", "", ("10.20.0.0/16",), (), ESP)
ESP_BY_INTERFACE = GuardedTunnel("site-b", "ipsec0", ("10.20.0.0/16",), (), ESP)
PLACES = {"t": (Place(NFPROTO_INET, ("a", "b"), b"key"), Place(NFPROTO_NETDEV, ("na", "nb"), b"other"))}


@given(
    st.lists(st.one_of(st.none(), st.floats(0.0, 1000.0)), min_size=1, max_size=20),
    st.lists(st.floats(0.0, 30.0), min_size=20, max_size=20),
)
def test_the_last_word_counts_and_one_side_stays_untouched_while_the_other_is_renewed(
    lefts: list[float | None], pauses: list[float]
) -> None:
    held, now = Live(), 100.0
    for left, pause in zip(lefts, pauses, strict=False):
        now += pause
        deadline = None if left is None else now + left
        planned, steps = plan({"t": deadline}, PLACES, {"t": held}, now)
        before, held = held, planned["t"]
        if left is None or left < MIN_OPEN_S:
            assert held == Live()
        else:
            assert held.until == pytest.approx(now + left)
            still_open = before.until > now
            longer = before.until <= held.until
            if still_open and longer:
                assert held.a == before.a or held.b == before.b, "the side that held it was replaced"
        assert [step.family for step in steps].count(NFPROTO_NETDEV) * 2 == len(steps)


def test_every_place_gets_the_same_steps() -> None:
    _, steps = plan({"t": 130.0}, PLACES, {}, 100.0)
    assert [step.kind for step in steps] == [NEWSETELEM, DELSETELEM, NEWSETELEM] * 2
    assert b"key" in steps[0].body and b"other" in steps[3].body
    assert (30_000).to_bytes(8, "big") in steps[2].body and (30_000).to_bytes(8, "big") in steps[5].body


def test_a_wild_deadline_is_bounded() -> None:
    planned, _ = plan({"t": 1e30}, PLACES, {}, 100.0)
    assert planned["t"].until == 100.0 + MAX_OPEN_S


def test_a_tunnel_is_told_by_its_interface_or_its_reqid() -> None:
    assert place_of(WIREGUARD).key == b"wg0".ljust(16, b"\0")
    assert place_of(PLAIN_ESP).key == place_of(ESP_BY_INTERFACE).key == number_key(0x51000007)
    assert set(live_sets(WIREGUARD)).isdisjoint(live_sets(PLAIN_ESP)), "keys of two types cannot share a set"


@pytest.mark.parametrize(
    ("tunnel", "way", "read"),
    [
        (WIREGUARD, "wg0", ("wg0", 0)),
        (PLAIN_ESP, "ESP 0x51000007", ("", 0x51000007)),
        (ESP_BY_INTERFACE, "ESP 0x51000007 by ipsec0", ("ipsec0", 0x51000007)),
    ],
)
def test_the_way_is_written_and_read_back(tunnel: GuardedTunnel, way: str, read: tuple[str, int]) -> None:
    assert way_of(tunnel) == way and read_way(way) == read


@pytest.mark.parametrize("name", ["x", "out4_7", "a_b", "egress", "live_x_a", "9-all.of_it"])
def test_no_tunnels_name_is_taken_for_something_else(name: str) -> None:
    for tunnel in (GuardedTunnel(name, "wg0", ()), GuardedTunnel(name, "", (), (), ESP)):
        for live in live_sets(tunnel):
            assert is_live_set(live) and split_version(live) is None
    assert not any(is_device_chain(tunnel_chain(direction, name)) for direction in ("out", "in"))
    assert not is_live_set(tunnel_chain("out", name)) and not is_live_set("probes_3")
