"""The policies of XFRM tunnels in a kernel: put, kept, switched, corrected. They need no ESP in it."""

import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from qhybridd.config.records import Prefix, XfrmConfig, default_reqid
from qhybridd.errors import HostError
from qhybridd.netlink.xfrm import XfrmSocket
from qhybridd.netlink.xfrm_events import XfrmEvents
from qhybridd.netlink.xfrm_records import Direction, Flushed, PolicyChanged, SecurityPolicy
from qhybridd.targets.esp_notes import Notes
from qhybridd.targets.esp_policies import Policies
from qhybridd.targets.esp_selectors import ProtectedTunnel, policies_of, reqid_of, switch
from tests.netns.namespaces import Lab, inside

A, B = ip_address("192.0.2.1"), ip_address("192.0.2.2")
FOREIGN = (
    "dir out dst 10.7.0.0/16 priority 375423 tmpl src 192.0.2.1 dst 192.0.2.9 proto esp reqid 1 mode tunnel",
    "dir in src 10.7.0.0/16 priority 375423 tmpl src 192.0.2.9 dst 192.0.2.1 proto esp reqid 1 mode tunnel",
    "dir out src 10.1.0.0/16 dst 10.2.0.0/16 mark 0x7 tmpl src 192.0.2.1 dst 192.0.2.9 proto ah reqid 2 mode tunnel",
    "dir fwd src 10.8.0.0/16 dst 10.9.0.0/16",
    "dir out src 10.8.0.0/16 dst 10.9.0.0/16 action block",
)


def esp(name: str, **values: Any) -> XfrmConfig:
    return replace(XfrmConfig(A, B, default_reqid(name)), **values)


def prefixes(words: str) -> tuple[Prefix, ...]:
    return tuple(ip_network(word) for word in words.split())


EAST = ProtectedTunnel(
    "east",
    prefixes("10.2.0.0/16 fd00:2::/32"),
    prefixes("10.2.3.0/24"),
    esp("east", behind=prefixes("10.1.0.0/16 ::/0")),
)
WEST = ProtectedTunnel("west", prefixes("10.4.0.0/16"), (), esp("west", if_id=7, interface="ipsec0"))
PLAIN = ProtectedTunnel("plain", prefixes("10.2.9.0/24"), (), None)
REQID = default_reqid("east")


class World:
    """One gateway's XFRM, and two looks at it: what others did, and all that was done."""

    def __init__(self, lab: Lab, runtime: Path) -> None:
        self.lab, self.runtime = lab, runtime
        lab.add("a")
        with inside(lab.name("a")):
            self.kernel, self.eyes = XfrmSocket(), XfrmSocket()
            self.events = XfrmEvents()
        self.policies = self.start()

    def start(self) -> Policies:
        """As a daemon that starts."""
        self.policies = Policies(self.kernel, Notes(self.runtime))
        return self.policies

    def close(self) -> None:
        self.kernel.close()
        self.eyes.close()
        self.events.close()

    def ip(self, words: str) -> str:
        return self.lab.ip("a", "xfrm", "policy", *words.split())

    def ours(self) -> list[SecurityPolicy]:
        return self.policies_but(())

    def policies_but(self, others: Sequence[SecurityPolicy]) -> list[SecurityPolicy]:
        return [policy for policy in self.eyes.dump_policies() if policy not in others]


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    with Lab() as lab:
        made = World(lab, tmp_path)
        yield made
        made.close()


def same(found: Sequence[SecurityPolicy], expected: Sequence[SecurityPolicy]) -> bool:
    return len(found) == len(expected) and all(policy in expected for policy in found)


def test_what_is_right_is_not_touched(world: World) -> None:
    tunnels = (EAST, WEST, PLAIN)
    world.policies.protect(tunnels)
    assert same(world.ours(), list(policies_of(tunnels).values()))
    assert len(world.events.read()) == len(world.ours())
    for policies in (world.policies, world.start()):
        policies.protect(tunnels)
        assert world.events.read() == [], "a reload or a restart that changes nothing changes nothing"


def test_a_restart_keeps_the_association_in_use(world: World) -> None:
    world.policies.protect((EAST, WEST))
    world.policies.switch(REQID, 0x1234)
    world.events.read()
    again = world.start()
    again.protect((EAST, WEST))
    assert world.events.read() == []
    assert (again.sending(REQID), again.sending(default_reqid("west"))) == (0x1234, 0)
    assert again.differs(REQID, 0x1234) is None
    assert again.differs(REQID, 0x1235) is not None


def test_a_reload_replaces_only_what_changed(world: World) -> None:
    world.policies.protect((EAST, WEST))
    world.policies.switch(REQID, 0x1234)
    world.events.read()
    wider = replace(EAST, protects=(*EAST.protects, *prefixes("10.6.0.0/16")))
    world.policies.protect((wider, WEST))
    added = [event.policy for event in world.events.read() if isinstance(event, PolicyChanged) and event.policy]
    assert all(ip_network("10.6.0.0/16") in (p.selector.source, p.selector.destination) for p in added)
    out = [policy for policy in added if policy.direction is Direction.OUT]
    assert [policy.template.spi for policy in out if policy.template] == [0x1234], "it joins the tunnel as it is"
    world.policies.protect((EAST,))
    expected = [
        switch(policy, 0x1234) if policy.direction is Direction.OUT and policy.template else policy
        for policy in policies_of((EAST,)).values()
    ]
    assert same(world.ours(), expected)


def test_a_switch_is_of_one_tunnel_and_goes_through_no_gap(world: World) -> None:
    world.policies.protect((EAST, WEST))
    before = [policy for policy in world.ours() if reqid_of(policy) != REQID]
    world.events.read()
    world.policies.switch(REQID, 0x1234)
    changes = world.events.read()
    assert changes and all(isinstance(event, PolicyChanged) and not event.deleted for event in changes)
    assert all(policy in world.ours() for policy in before)
    out = [policy for policy in world.ours() if reqid_of(policy) == REQID and policy.direction is Direction.OUT]
    assert {policy.template.spi for policy in out if policy.template} == {0x1234}
    into = [policy for policy in world.ours() if reqid_of(policy) == REQID and policy.direction is not Direction.OUT]
    assert {policy.template.spi for policy in into if policy.template} == {0}
    world.policies.switch(REQID, 0x1234)
    assert world.events.read() == []


THEIRS = f"src 192.0.2.1 dst 192.0.2.2 proto esp spi 0x99 reqid {REQID} mode tunnel"


@pytest.mark.parametrize(
    "damage",
    [
        "flush",
        "delete dir out src 10.1.0.0/16 dst 10.2.0.0/16",
        "delete dir fwd src 10.2.0.0/16 dst 10.1.0.0/16",
        "update dir in src 10.2.0.0/16 dst 10.1.0.0/16",
        "update dir out src 10.1.0.0/16 dst 10.2.0.0/16 action block",
        f"update dir out src 10.1.0.0/16 dst 10.2.0.0/16 priority 1 tmpl {THEIRS}",
    ],
)
def test_what_others_do_to_ours_is_named(world: World, damage: str) -> None:
    world.policies.protect((EAST,))
    world.policies.switch(REQID, 0x1234)
    assert world.policies.differs(REQID, 0x1234) is None
    world.events.read()
    world.ip(damage)
    (event,) = world.events.read()
    assert isinstance(event, Flushed) or (isinstance(event, PolicyChanged) and world.policies.concerns(event.policy))
    said = world.policies.differs(REQID, 0x1234)
    assert said is not None and "another program" in said


@pytest.mark.parametrize("by", ["protect", "complete", "switch"])
def test_what_is_gone_comes_back(world: World, by: str) -> None:
    world.policies.protect((EAST,))
    world.ip("flush")
    if by == "protect":
        world.start().protect((EAST,))
    elif by == "complete":
        world.policies.complete(REQID)
    else:
        world.policies.switch(REQID, 0)
    demanded = [policy for policy in policies_of((EAST,)).values() if policy.template is not None]
    assert all(policy in world.ours() for policy in demanded)


def test_those_of_others_stay_as_they_are(world: World) -> None:
    for words in FOREIGN:
        world.ip(f"add {words}")
    before, text = world.eyes.dump_policies(), sorted(world.ip("list").split("src "))
    world.policies.protect((EAST, WEST, PLAIN))
    world.policies.switch(REQID, 5)
    assert same(
        world.policies_but(before),
        [
            switch(policy, 5) if policy.direction is Direction.OUT and reqid_of(policy) == REQID else policy
            for policy in policies_of((EAST, WEST, PLAIN)).values()
        ],
    )
    world.start().protect(())
    assert sorted(world.ip("list").split("src ")) == text


def test_one_in_the_way_is_a_conflict_and_all_others_stand(world: World) -> None:
    world.ip("add dir in src 10.2.0.0/16 dst 10.1.0.0/16 priority 9")
    (theirs,) = world.eyes.dump_policies()
    with pytest.raises(HostError) as refused:
        world.policies.protect((EAST, WEST))
    assert refused.value.code == "host.conflict"
    expected = policies_of((EAST, WEST)).values()
    assert len(world.policies_but((theirs,))) == len(expected) - 1
    with pytest.raises(HostError):
        world.policies.complete(REQID)
    world.policies.complete(default_reqid("west"))
    assert theirs in world.ours()


def test_three_hundred_prefixes_are_switched_in_time(world: World) -> None:
    many = replace(EAST, protects=tuple(ip_network((0x0A020000 + (n << 8), 24)) for n in range(300)), excepts=())
    began = time.monotonic()
    world.policies.protect((many,))
    put = time.monotonic()
    world.policies.switch(REQID, 0x77)
    switched = time.monotonic()
    world.policies.protect((many,))
    print(f"{len(world.ours())} policies put in {put - began:.3f} s, switched in {switched - put:.3f} s")
    assert world.policies.sending(REQID) == 0x77
    assert switched - put < 2


# ---- from any configuration to any other

NETWORKS = st.sampled_from(
    [ip_network((bits << (32 - length), length)) for length in (1, 2, 3) for bits in range(1 << length)]
)


def within(inner: Prefix, outer: Prefix) -> bool:
    return inner.prefixlen >= outer.prefixlen and inner.overlaps(outer)


@st.composite
def configurations(draw: st.DrawFn) -> tuple[ProtectedTunnel, ...]:
    """Tunnels of either kind, no prefix twice, each exception within a prefix of its own."""
    made = []
    for number, prefix in enumerate(draw(st.lists(NETWORKS, max_size=4, unique=True))):
        holes = [p for p in draw(st.lists(NETWORKS, max_size=2, unique=True)) if p != prefix and within(p, prefix)]
        target = esp(str(number), if_id=draw(st.sampled_from([0, 7]))) if draw(st.booleans()) else None
        made.append(ProtectedTunnel(str(number), (prefix,), tuple(holes), target))
    return tuple(made)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(configurations(), st.booleans()), min_size=1, max_size=4))
def test_after_any_changes_just_what_is_configured_stands(
    world: World, changes: list[tuple[tuple[ProtectedTunnel, ...], bool]]
) -> None:
    if not world.eyes.dump_policies():
        for words in FOREIGN:
            world.ip(f"add {words}")
    foreign = [policy for policy in world.eyes.dump_policies() if policy.priority not in range(0x5100, 0x5400)]
    assert len(foreign) == len(FOREIGN)
    for tunnels, restart in changes:
        policies = world.start() if restart else world.policies
        policies.protect(tunnels)
        assert same(world.policies_but(foreign), list(policies_of(tunnels).values()))
        assert [policy for policy in world.eyes.dump_policies() if policy in foreign] == foreign


@pytest.mark.parametrize("more", ["dev lo", "mark 0 mask 0xff"])
def test_a_policy_of_others_that_differs_where_ours_says_nothing_stands_beside_it(world: World, more: str) -> None:
    """To the kernel these are two policies, though only one of them fits in a record."""
    for direction in ("out src 10.1.0.0/16 dst 10.2.0.0/16", "in src 10.2.0.0/16 dst 10.1.0.0/16"):
        world.ip(f"add dir {direction} {more} priority 375423")
    others = world.eyes.dump_policies()
    assert len(others) == 2 and all(policy.foreign for policy in others)
    for _ in range(2):
        world.policies.protect((EAST, WEST))
        world.policies.complete(REQID)
        assert same(world.policies_but(others), list(policies_of((EAST, WEST)).values()))
        world.start()
    world.policies.protect(())
    assert same(world.ours(), others)
