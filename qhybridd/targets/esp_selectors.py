"""Which XFRM policies a set of tunnels needs. Pure: from what is protected to records for the kernel.

For every protected prefix and every local one behind this gateway stands a policy that demands ESP of the tunnel's
reqid, in each of the three directions (RFC 4301 section 4.4.1). It stands whether the tunnel is open or not: without an
association nothing passes. In OUT the template names the one association that is used; in IN and FORWARD any of the
reqid will do, so that packets under the key before still get in.

An address belongs to the most specific prefix around it, as in `guard.prefixes`: priorities follow prefix lengths, and
where another prefix lies within (an `except`, or one of a tunnel over WireGuard) a policy lets its packets pass.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from ipaddress import ip_network
from typing import Final

from qhybridd.config.records import (
    PROBE_PORT,
    REQID_LEAST,
    REQID_MOST,
    Address,
    Prefix,
    TunnelConfig,
    XfrmConfig,
)
from qhybridd.netlink.xfrm_records import Direction, Mode, SecurityPolicy, Selector, Template

# ---- constants of the protocols

UDP: Final = 17
ICMPV6: Final = 58
NEIGHBOUR_TYPES: Final = (133, 134, 135, 136)
"""ICMPv6 types of router and neighbour discovery (RFC 4861 section 4). ESP's own packets cannot leave before the
next hop's link address is known, so these never wait for ESP. The kernel looks policies up for them by type and code,
which a selector has in the place of the ports."""
LINK_PREFIXES: Final = (ip_network("fe80::/10"), ip_network("ff02::/16"))

# ---- constants of ours

PROBE_PRIORITY: Final = 0x5100
PASS_PRIORITY: Final = 0x5101
"""IKE daemons number theirs from about 100,000 up (strongSwan); the lowest decides, so ours come first."""
PREFIX_PRIORITY: Final = 0x5200
"""And as much more as the far prefix is shorter than an address."""
PRIORITIES: Final = range(PROBE_PRIORITY, PREFIX_PRIORITY + 129)
EVERY_GROUP: Final = ip_network("ff02::1/128")
"""All nodes on a link (RFC 4291 section 2.7.1)."""


@dataclass(frozen=True, slots=True)
class ProtectedTunnel:
    """What the policies need to know of a tunnel."""

    name: str
    protects: tuple[Prefix, ...]
    """The prefixes at the other end."""
    excepts: tuple[Prefix, ...]
    esp: XfrmConfig | None
    """None for a tunnel over WireGuard: its prefixes are spared by XFRM tunnels around them."""


Key = tuple[Direction, Selector, int, int]
"""What names a policy in the kernel: direction, selector, mark, if_id."""


def protected_of(config: TunnelConfig) -> ProtectedTunnel:
    """The part of a tunnel's configuration that policies are made of."""
    esp = config.target if isinstance(config.target, XfrmConfig) else None
    return ProtectedTunnel(config.name, config.protects, config.excepts, esp)


def key_of(policy: SecurityPolicy) -> Key:
    """The policy's name in the kernel."""
    return policy.direction, policy.selector, policy.mark, policy.if_id


def is_ours(reqid: int) -> bool:
    """Whether a reqid is in the range that belongs to this program."""
    return REQID_LEAST <= reqid <= REQID_MOST


def reqid_of(policy: SecurityPolicy) -> int | None:
    """The tunnel that a policy demands ESP of; None for one that is not ours by its template."""
    if policy.template is None or not is_ours(policy.template.reqid):
        return None
    return policy.template.reqid


def switch(policy: SecurityPolicy, spi: int) -> SecurityPolicy:
    """The same policy of OUT, which now demands the association of this SPI; 0: any."""
    assert policy.template is not None
    return replace(policy, template=replace(policy.template, spi=spi))


def without_spi(policy: SecurityPolicy) -> SecurityPolicy:
    """The same policy, whatever association its template names."""
    return policy if policy.template is None else switch(policy, 0)


def policies_of(tunnels: Iterable[ProtectedTunnel]) -> dict[Key, SecurityPolicy]:
    """Every policy that the tunnels need, by its name; templates have no SPI yet."""
    tunnels = tuple(tunnels)
    found: dict[Key, SecurityPolicy] = {}
    for tunnel in tunnels:
        if tunnel.esp is None:
            continue
        for policy in (*_passing(tunnel, tunnel.esp, tunnels), *_neighbours(tunnel, tunnel.esp)):
            found.setdefault(key_of(policy), policy)
    for tunnel in tunnels:
        if tunnel.esp is None:
            continue
        for policy in (*_demanding(tunnel, tunnel.esp, tunnels), *_probing(tunnel.esp)):
            found[key_of(policy)] = policy  # where two tunnels differ over a prefix, ESP it is
    return found


def template_of(esp: XfrmConfig, direction: Direction) -> Template:
    """What a policy of this direction demands."""
    mode = Mode.TUNNEL if esp.mode == "tunnel" else Mode.TRANSPORT
    source, destination = (esp.local, esp.remote) if direction is Direction.OUT else (esp.remote, esp.local)
    return Template(source, destination, esp.reqid, mode)


def probe_destination(esp: XfrmConfig) -> Address:
    """Where a tunnel's probes go. A socket that is bound to an IPv6 device needs a route there, and the remote address
    has none through the XFRM interface: a group of the link always has one.
    """
    return EVERY_GROUP.network_address if esp.if_id and esp.remote.version == 6 else esp.remote


# ---- the kinds of policies


def _demanding(
    tunnel: ProtectedTunnel, esp: XfrmConfig, tunnels: Sequence[ProtectedTunnel]
) -> Iterator[SecurityPolicy]:
    """ESP for what the tunnel protects, also where another tunnel makes an exception of it."""
    far = set(tunnel.protects)
    for other in tunnels:
        far |= {hole for hole in other.excepts if other is not tunnel and _owner(hole, tunnels) is tunnel}
    for prefix in sorted(far, key=_order):
        for near in esp.behind:
            if near.version == prefix.version:
                yield from _all_directions(esp, near, prefix, demand=True)


def _passing(tunnel: ProtectedTunnel, esp: XfrmConfig, tunnels: Sequence[ProtectedTunnel]) -> Iterator[SecurityPolicy]:
    """What lies within the tunnel's prefixes and is not ESP's: exceptions, and prefixes of tunnels over WireGuard."""
    holes = {hole for other in tunnels for hole in (*other.protects, *other.excepts)}
    for hole in sorted(holes, key=_order):
        owner = _owner(hole, tunnels)
        if (owner is None or owner.esp is None) and any(_inside(hole, prefix) for prefix in tunnel.protects):
            for near in esp.behind:
                if near.version == hole.version:
                    yield from _all_directions(esp, near, hole, demand=False)


def _all_directions(esp: XfrmConfig, near: Prefix, far: Prefix, *, demand: bool) -> Iterator[SecurityPolicy]:
    priority = PREFIX_PRIORITY + far.max_prefixlen - far.prefixlen
    for direction in (Direction.OUT, Direction.IN, Direction.FORWARD):
        selector = Selector(near, far) if direction is Direction.OUT else Selector(far, near)
        template = template_of(esp, direction) if demand else None
        yield SecurityPolicy(direction, selector, priority, template, esp.if_id)


def _probing(esp: XfrmConfig) -> Iterator[SecurityPolicy]:
    """The probes: UDP between the gateways that carries the reqid as its mark, whatever else is between them."""
    local, remote, to = _host(esp.local), _host(esp.remote), _host(probe_destination(esp))
    out = Selector(local, to, UDP, PROBE_PORT, PROBE_PORT)
    into = Selector(remote, local if to == remote else to, UDP, PROBE_PORT, PROBE_PORT)
    for direction, selector, mark in ((Direction.OUT, out, esp.reqid), (Direction.IN, into, 0)):
        yield SecurityPolicy(direction, selector, PROBE_PRIORITY, template_of(esp, direction), esp.if_id, mark)


def _neighbours(tunnel: ProtectedTunnel, esp: XfrmConfig) -> Iterator[SecurityPolicy]:
    """IPv6 neighbours are found without ESP, where the tunnel protects addresses on the gateway's own link."""
    if esp.if_id:
        return  # the policies are asked only for what is routed into the XFRM interface
    link = (_host(esp.remote), *LINK_PREFIXES) if esp.remote.version == 6 else LINK_PREFIXES
    for far in tunnel.protects:
        if far.version != 6 or not any(_overlap(far, prefix) for prefix in link):
            continue
        for near in esp.behind:
            if near.version == 6:
                for kind in NEIGHBOUR_TYPES:
                    for direction, ends in ((Direction.OUT, (near, far)), (Direction.IN, (far, near))):
                        yield SecurityPolicy(direction, Selector(*ends, ICMPV6, kind), PASS_PRIORITY, None)


# ---- prefixes


def _owner(address: Prefix, tunnels: Sequence[ProtectedTunnel]) -> ProtectedTunnel | None:
    """The tunnel with the most specific prefix around all of `address` that no exception of its own takes out."""
    best: tuple[int, ProtectedTunnel] | None = None
    for tunnel in tunnels:
        lengths = [prefix.prefixlen for prefix in tunnel.protects if _inside(address, prefix)]
        holes = [prefix.prefixlen for prefix in tunnel.excepts if _inside(address, prefix)]
        longest = max(lengths, default=-1)
        if longest > max(holes, default=-1) and (best is None or longest > best[0]):
            best = longest, tunnel
    return best[1] if best else None


def _inside(inner: Prefix, outer: Prefix) -> bool:
    return inner.version == outer.version and inner.prefixlen >= outer.prefixlen and _overlap(inner, outer)


def _overlap(one: Prefix, other: Prefix) -> bool:
    return one.version == other.version and one.overlaps(other)


def _order(prefix: Prefix) -> tuple[int, int, int]:
    return prefix.version, int(prefix.network_address), prefix.prefixlen


def _host(address: Address) -> Prefix:
    return ip_network(address)
