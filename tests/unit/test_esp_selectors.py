"""Which XFRM policies stand for a set of tunnels, held against the guard's idea of whose an address is."""

from dataclasses import replace
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from typing import cast

from hypothesis import given
from hypothesis import strategies as st

from qhybridd.config.records import (
    REQID_LEAST,
    Address,
    Prefix,
    TunnelConfig,
    WireGuardConfig,
    XfrmConfig,
    default_reqid,
)
from qhybridd.guard.prefixes import GuardedTunnel, flatten
from qhybridd.netlink.xfrm_records import Direction, SecurityPolicy, Selector
from qhybridd.targets.esp_selectors import (
    ICMPV6,
    PREFIX_PRIORITY,
    PRIORITIES,
    PROBE_PORT,
    PROBE_PRIORITY,
    UDP,
    ProtectedTunnel,
    policies_of,
    protected_of,
    reqid_of,
)

A, B = ip_address("192.0.2.1"), ip_address("192.0.2.2")
A6, B6 = ip_address("2001:db8::1"), ip_address("2001:db8::2")


def esp(name: str, **values: object) -> XfrmConfig:
    return replace(XfrmConfig(A, B, default_reqid(name)), **values)  # type: ignore[arg-type]


def tunnel(name: str, protects: str, excepts: str = "", target: XfrmConfig | None = None) -> ProtectedTunnel:
    prefixes = (tuple(ip_network(word) for word in words.split()) for words in (protects, excepts))
    return ProtectedTunnel(name, *prefixes, target)


def decides(policies: list[SecurityPolicy], direction: Direction, source: Address, destination: Address) -> int | None:
    """As the kernel does (xfrm_policy_lookup): the lowest priority that fits. Its reqid, 0 to pass; None: no policy."""
    fits = [
        policy
        for policy in policies
        if policy.direction is direction
        and not policy.mark
        and not policy.selector.protocol
        and source in policy.selector.source
        and destination in policy.selector.destination
    ]
    if not fits:
        return None
    best = min(fits, key=lambda policy: policy.priority)
    assert sum(policy.priority == best.priority for policy in fits) == 1, "two policies of one rank"
    return reqid_of(best) or 0


def test_a_tunnel_demands_esp_in_three_directions_and_sends_probes() -> None:
    target = esp("x", behind=(ip_network("10.1.0.0/16"), ip_network("fd00:1::/64")))
    found = policies_of([tunnel("x", "10.2.0.0/16", target=target)])
    near, far = ip_network("10.1.0.0/16"), ip_network("10.2.0.0/16")
    local, remote = ip_network("192.0.2.1"), ip_network("192.0.2.2")
    assert set(found) == {
        (Direction.OUT, Selector(near, far), 0, 0),
        (Direction.IN, Selector(far, near), 0, 0),
        (Direction.FORWARD, Selector(far, near), 0, 0),
        (Direction.OUT, Selector(local, remote, UDP, PROBE_PORT, PROBE_PORT), target.reqid, 0),
        (Direction.IN, Selector(remote, local, UDP, PROBE_PORT, PROBE_PORT), 0, 0),
    }
    for (direction, selector, mark, _), policy in found.items():
        assert policy.template is not None
        ends = (A, B) if direction is Direction.OUT else (B, A)
        assert (policy.template.source, policy.template.destination) == ends
        assert (policy.template.reqid, policy.template.spi) == (target.reqid, 0)
        assert policy.priority == (PROBE_PRIORITY if selector.protocol else PREFIX_PRIORITY + 16)
        assert policy.priority in PRIORITIES
        assert not mark or selector.protocol


def test_an_interface_stands_in_every_policy() -> None:
    target = esp("x", interface="ipsec0", if_id=7, local=A6, remote=B6)
    found = policies_of([tunnel("x", "::/0", target=target)]).values()
    assert {policy.if_id for policy in found} == {7}
    assert not any(policy.selector.protocol == ICMPV6 for policy in found)
    to = [policy.selector.destination for policy in found if policy.selector.protocol == UDP]
    assert to == [ip_network("ff02::1/128")] * 2


def test_neighbours_pass_where_the_link_is_protected() -> None:
    def types(protects: str, **values: object) -> set[tuple[Direction, int]]:
        found = policies_of([tunnel("x", protects, target=esp("x", local=A6, remote=B6, **values))]).values()
        passing = [policy for policy in found if policy.selector.protocol == ICMPV6]
        assert all(policy.template is None and not policy.block for policy in passing)
        return {(policy.direction, policy.selector.source_port) for policy in passing}

    everything = {(direction, kind) for direction in (Direction.OUT, Direction.IN) for kind in (133, 134, 135, 136)}
    assert types("2001:db8::/64") == everything
    assert types("::/0") == everything
    assert types("2001:db8::2/128", mode="transport") == everything
    assert types("2001:db8:2::/48") == set()


def test_others_within_a_tunnel_are_spared() -> None:
    x = tunnel("x", "0.0.0.0/0", "10.5.0.0/16", esp("x"))
    w = tunnel("w", "10.6.0.0/16")
    y = tunnel("y", "10.5.5.0/24", target=esp("y", behind=(ip_network("10.1.0.0/16"),)))
    policies = list(policies_of([x, w, y]).values())
    here = ip_address("10.1.0.1")
    for address, reqid in (
        ("8.8.8.8", default_reqid("x")),
        ("10.5.0.1", 0),
        ("10.6.0.1", 0),
        ("10.5.5.1", default_reqid("y")),
    ):
        far = ip_address(address)
        assert decides(policies, Direction.OUT, here, far) == reqid
        assert decides(policies, Direction.IN, far, here) == reqid
        assert decides(policies, Direction.FORWARD, far, here) == reqid


def test_what_a_tunnel_excepts_may_be_another_ones() -> None:
    x = tunnel("x", "10.0.0.0/8", target=esp("x"))
    y = tunnel("y", "10.5.0.0/16", "10.5.5.0/24", esp("y"))
    policies = list(policies_of([x, y]).values())
    here = ip_address("172.16.0.1")
    assert decides(policies, Direction.OUT, here, ip_address("10.5.5.1")) == default_reqid("x")
    assert decides(policies, Direction.OUT, here, ip_address("10.5.6.1")) == default_reqid("y")


def test_tunnels_between_the_same_gateways_share_the_way_in_of_probes() -> None:
    x, y = tunnel("x", "10.2.0.0/16", target=esp("x")), tunnel("y", "10.3.0.0/16", target=esp("y"))
    found = policies_of([x, y]).values()
    probes = [policy for policy in found if policy.selector.protocol == UDP]
    assert {policy.mark for policy in probes} == {0, default_reqid("x"), default_reqid("y")}
    assert len(probes) == 3


def test_protected_of_a_configuration() -> None:
    config = TunnelConfig("x", "peer", esp("x"), (ip_network("10.2.0.0/16"),), (ip_network("10.2.3.0/24"),))
    assert protected_of(config) == tunnel("x", "10.2.0.0/16", "10.2.3.0/24", esp("x"))
    config = replace(config, target=WireGuardConfig("wg0", bytes(32)))
    assert protected_of(config) == tunnel("x", "10.2.0.0/16", "10.2.3.0/24")


PREFIXES = st.sampled_from(
    [ip_network((bits << (32 - length), length)) for length in (0, 1, 2, 3, 4) for bits in range(1 << length)]
)


@st.composite
def worlds(draw: st.DrawFn) -> list[ProtectedTunnel]:
    """Tunnels that the configuration would take: no prefix twice, each exception within a prefix of its own."""
    free = draw(st.lists(PREFIXES, min_size=1, max_size=6, unique=True))
    made = []
    for number, prefix in enumerate(free):
        inside = [p for p in draw(st.lists(PREFIXES, max_size=2, unique=True)) if p != prefix and p.subnet_of(prefix)]
        target = esp("x", reqid=REQID_LEAST + number) if draw(st.booleans()) else None
        made.append(ProtectedTunnel(str(number), (cast(Prefix, prefix),), tuple(inside), target))
    return made


@given(worlds(), st.integers(0, 15))
def test_policies_and_guard_agree_on_whose_an_address_is(tunnels: list[ProtectedTunnel], number: int) -> None:
    address = IPv4Address(number << 28 | 1)
    intervals = flatten(GuardedTunnel(t.name, "", t.protects, t.excepts) for t in tunnels).ipv4
    owner = next((i.tunnel for i in intervals if i.first <= int(address) <= i.last), None)
    esp_of = {tunnel.name: tunnel.esp for tunnel in tunnels}
    target = esp_of[owner] if owner is not None else None
    found = decides(list(policies_of(tunnels).values()), Direction.OUT, ip_address("172.16.0.1"), address)
    assert (found or 0) == (target.reqid if target is not None else 0)
    assert isinstance(A6, IPv6Address)
