"""The guard's table: what stands in it and by which names. Pure: it only builds steps of a batch.

Two base chains, `out` (postrouting) and `in` (prerouting), hold the same rules for either direction:

1. loopback passes;
2. what IPv6 needs on a link passes on interfaces that are not guarded;
3. a protected address goes to the chain of its tunnel (`out_site-b`), by a verdict map of prefixes: there it passes if
   this very interface is in `live_site-b_a` or `live_site-b_b`, whose elements time out (for an XFRM tunnel: the reqid
   of its ESP is in `esp_site-b_a` or `_b`, and more in `guard/esp.py`); otherwise it is counted and dropped;
4. any other address on a guarded interface is counted and dropped.

"Passes" ends this table's evaluation only. When the config changes, all rules change in one transaction. A packet is
judged by the rules of one generation from end to end (`nft_do_chain` reads the generation once), but sets are read as
they are: so maps are never edited. Each load first makes new ones (`out4_7`), then the rules that read them, and
deletes the old ones a little later. The sets of live interfaces stay.

Everything here can be said in nft's own language too, so that `nft list ruleset` shows what is enforced. One set of all
live tunnels, keyed by a tunnel number from a map, would be smaller, but no rule of that language can read it, and nft
1.0.6 aborts when it lists one (`netlink_parse_concat_expr`).
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from qhybridd.guard.esp import build_esp_in, build_esp_out, is_xfrm_interface
from qhybridd.guard.names import (
    CLOSED_COMMENT,
    GUARDED,
    IN_MAPS,
    MAP_COMMENT,
    OUT_MAPS,
    PROBES,
    TABLE,
    live_sets,
    tunnel_chain,
    versioned,
    way_of,
)
from qhybridd.guard.prefixes import GuardedTunnel, Interval, Intervals
from qhybridd.netlink.nft_bytecode import (
    BASE_NETWORK,
    BASE_TRANSPORT,
    CMP_GTE,
    CMP_LTE,
    META_IIFNAME,
    META_L4PROTO,
    META_MARK,
    META_NFPROTO,
    META_OIFNAME,
    NFPROTO_IPV4,
    NFPROTO_IPV6,
    REG_1,
    VERDICT_ACCEPT,
    VERDICT_DROP,
    compare,
    count_in,
    counter,
    lookup,
    lookup_absent,
    lookup_verdict,
    mask,
    meta,
    payload,
    verdict,
)
from qhybridd.netlink.nft_steps import (
    HOOK_POSTROUTING,
    HOOK_PREROUTING,
    INTERFACE_KEY,
    IPV4_KEY,
    IPV6_KEY,
    MARK_KEY,
    REQID_KEY,
    Operation,
    add_elements,
    element,
    flush_chain,
    interface_key,
    interval_end,
    new_chain,
    new_counter,
    new_plain_chain,
    new_prefix_map,
    new_rule,
    new_set,
    new_timed_set,
    number_key,
)

IN_PRIORITY: Final = -450
"""Before defragmentation (−400), the operator's raw rules (−300) and connection tracking (−200): the address is the one
on the wire, and a dropped packet leaves no trace in the state of others."""
OUT_PRIORITY: Final = 250
"""After mangling (150) and source NAT (100, `NF_IP_PRI_*`), so that nothing moves the packet elsewhere afterwards."""

LINK_LOCAL: Final = (bytes.fromhex("fe80" + "00" * 14), bytes.fromhex("ffc0" + "00" * 14))
"""fe80::/10 (RFC 4291 section 2.5.6): such an address means nothing beyond its link, so no prefix protects it there."""
LINK_MULTICAST: Final = (bytes.fromhex("ff02" + "00" * 14), bytes.fromhex("ffff" + "00" * 14))
"""ff02::/16 (RFC 4291 section 2.7): never forwarded."""
UNSPECIFIED: Final = bytes(16)
"""::, the source during duplicate address detection (RFC 4862 section 5.4)."""
ICMPV6: Final = 58
FIRST_ND: Final = 133
LAST_ND: Final = 137
"""Router solicitation to redirect (RFC 4861 section 4)."""
ND_HOP_LIMIT: Final = 255
"""Neighbour discovery is valid only with this hop limit, which no forwarded packet has (RFC 4861 section 7.1)."""
INTERFACE_LO: Final = "lo"
FIRST_LIVE_ID: Final = 100
"""Identifiers of the live sets within a batch, beyond those of the versioned sets."""


@dataclass(frozen=True, slots=True)
class Direction:
    """What differs between the two chains."""

    chain: str
    hook: int
    priority: int
    interface: int
    """The metadata key of the interface's name."""
    address4: int
    """Offset of the far end's address in the IPv4 header, bytes."""
    address6: int
    """The same in the IPv6 header."""
    maps: tuple[str, str]
    """The verdict maps for IPv4 and IPv6."""


DIRECTIONS: Final = (
    Direction("out", HOOK_POSTROUTING, OUT_PRIORITY, META_OIFNAME, 16, 24, OUT_MAPS),
    Direction("in", HOOK_PREROUTING, IN_PRIORITY, META_IIFNAME, 12, 8, IN_MAPS),
)


def build_chains(tunnels: Iterable[GuardedTunnel]) -> list[Operation]:
    """Both base chains unless they are there, and what each new tunnel needs for good."""
    return [*(new_chain(TABLE, d.chain, d.hook, d.priority) for d in DIRECTIONS), *build_tunnel_chains(tunnels)]


def build_tunnel_chains(tunnels: Iterable[GuardedTunnel]) -> list[Operation]:
    """Chains, counters and live sets of tunnels."""
    steps: list[Operation] = []
    for number, tunnel in enumerate(tunnels):
        for direction in DIRECTIONS:
            name = tunnel_chain(direction.chain, tunnel.name)
            steps += [new_plain_chain(TABLE, name), new_counter(TABLE, name)]
        key = INTERFACE_KEY if tunnel.esp is None else REQID_KEY
        first = FIRST_LIVE_ID + 2 * number
        steps += [new_timed_set(TABLE, live, first + side, key) for side, live in enumerate(live_sets(tunnel))]
    return steps


def build_sets(tunnels: Sequence[GuardedTunnel], intervals: Intervals, version: int) -> list[Operation]:
    """The versioned sets and maps with their elements. The tunnels' chains must be there."""
    guarded = versioned(GUARDED, version)
    interfaces = sorted({tunnel.interface for tunnel in tunnels if tunnel.interface})
    return [
        *build_maps(tunnels, intervals, version),
        new_set(TABLE, guarded, 6, INTERFACE_KEY),
        *add_elements(TABLE, guarded, (element(interface_key(name)) for name in interfaces)),
    ]


def build_maps(tunnels: Iterable[GuardedTunnel], intervals: Intervals, version: int) -> list[Operation]:
    """The versioned maps of prefixes and set of probes."""
    steps: list[Operation] = []
    for first, direction in ((1, DIRECTIONS[0]), (3, DIRECTIONS[1])):
        name4, name6 = (versioned(name, version) for name in direction.maps)
        steps.append(new_prefix_map(TABLE, name4, first, IPV4_KEY))
        steps += add_elements(TABLE, name4, interval_elements(intervals.ipv4, 4, direction.chain))
        steps.append(new_prefix_map(TABLE, name6, first + 1, IPV6_KEY))
        steps += add_elements(TABLE, name6, interval_elements(intervals.ipv6, 16, direction.chain))
    probes = versioned(PROBES, version)
    marks = sorted({tunnel.esp.reqid for tunnel in tunnels if tunnel.esp is not None and tunnel.interface})
    steps.append(new_set(TABLE, probes, 5, MARK_KEY))
    steps += add_elements(TABLE, probes, (element(number_key(mark)) for mark in marks))
    return steps


def interval_elements(intervals: Iterable[Interval], size: int, direction: str) -> list[bytes]:
    """A start and an end for each interval; `size` bytes of address.

    Like nft, with an end at the lowest address where no interval begins there; an interval up to the highest address
    has no end.
    """
    elements: list[bytes] = []
    highest = (1 << 8 * size) - 1
    for interval in intervals:
        if not elements and interval.first:
            elements.append(interval_end(bytes(size)))
        elements.append(element(interval.first.to_bytes(size, "big"), goto=tunnel_chain(direction, interval.tunnel)))
        if interval.last < highest:
            elements.append(interval_end((interval.last + 1).to_bytes(size, "big")))
    return elements


def build_rules(tunnels: Iterable[GuardedTunnel], version: int, mark: int) -> list[Operation]:
    """All rules of all chains, in the place of those that are there. `mark`: of the control sockets."""
    steps = build_tunnel_rules(tunnels, mark)
    steps += [step for direction in DIRECTIONS for step in _build_base(direction, version)]
    return steps


def build_tunnel_rules(tunnels: Iterable[GuardedTunnel], mark: int) -> list[Operation]:
    """The rules of the tunnels' chains."""
    return [step for tunnel in tunnels for direction in DIRECTIONS for step in _build_tunnel(direction, tunnel, mark)]


def _build_tunnel(direction: Direction, tunnel: GuardedTunnel, mark: int) -> list[Operation]:
    chain = tunnel_chain(direction.chain, tunnel.name)
    if tunnel.esp is None:
        interface = meta(direction.interface, REG_1)
        passes = [
            new_rule(TABLE, chain, "open", interface, lookup(live, REG_1), verdict(VERDICT_ACCEPT))
            for live in live_sets(tunnel)
        ]
    elif direction.interface == META_OIFNAME:
        passes = build_esp_out(tunnel, tunnel.esp, mark)
    else:
        passes = build_esp_in(tunnel, tunnel.esp)
    last = new_rule(TABLE, chain, CLOSED_COMMENT + way_of(tunnel), count_in(chain), verdict(VERDICT_DROP))
    return [flush_chain(TABLE, chain), *passes, last]


def _build_base(direction: Direction, version: int) -> list[Operation]:
    map4, map6 = (versioned(name, version) for name in direction.maps)
    guarded = versioned(GUARDED, version)
    interface = meta(direction.interface, REG_1)
    unguarded = interface + lookup_absent(guarded, REG_1)
    ipv4 = meta(META_NFPROTO, REG_1) + compare(REG_1, bytes((NFPROTO_IPV4,)))
    ipv6 = meta(META_NFPROTO, REG_1) + compare(REG_1, bytes((NFPROTO_IPV6,)))
    far4 = payload(BASE_NETWORK, direction.address4, 4, REG_1)
    far6 = payload(BASE_NETWORK, direction.address6, 16, REG_1)
    accept = verdict(VERDICT_ACCEPT)

    def rule(comment: str, *expressions: bytes) -> Operation:
        return new_rule(TABLE, direction.chain, comment, *expressions)

    # A probe goes to the other gateway itself, which the tunnel of the interface need not protect.
    probed = lookup(guarded, REG_1) + is_probe(version)
    probes = [rule("probe", interface, probed, accept)] if direction.interface == META_OIFNAME else []
    return [
        flush_chain(TABLE, direction.chain),
        rule("loopback", interface, compare(REG_1, interface_key(INTERFACE_LO)), accept),
        rule("link-local", ipv6, unguarded, far6, _within(LINK_LOCAL), accept),
        rule("link-scope multicast", ipv6, unguarded, *_link_multicast(direction), accept),
        rule("neighbour discovery", ipv6, unguarded, *_neighbour_discovery(), accept),
        rule(MAP_COMMENT + map4, ipv4, far4, lookup_verdict(map4, REG_1)),
        rule(MAP_COMMENT + map6, ipv6, far6, lookup_verdict(map6, REG_1)),
        *probes,
        rule("not protected", interface, lookup(guarded, REG_1), counter(), verdict(VERDICT_DROP)),
    ]


def is_probe(version: int) -> bytes:
    """Matches what the XFRM target sends through an interface of its tunnel."""
    return is_xfrm_interface() + meta(META_MARK, REG_1) + lookup(versioned(PROBES, version), REG_1)


def _within(prefix: tuple[bytes, bytes]) -> bytes:
    value, bits = prefix
    return mask(REG_1, bits) + compare(REG_1, value)


def _link_multicast(direction: Direction) -> tuple[bytes, ...]:
    destination = payload(BASE_NETWORK, 24, 16, REG_1) + _within(LINK_MULTICAST)
    if direction.interface == META_OIFNAME:
        return (destination,)
    source = payload(BASE_NETWORK, 8, 16, REG_1) + compare(REG_1, UNSPECIFIED)
    return (source, destination)


def _neighbour_discovery() -> tuple[bytes, ...]:
    hop_limit = payload(BASE_NETWORK, 7, 1, REG_1) + compare(REG_1, bytes((ND_HOP_LIMIT,)))
    protocol = meta(META_L4PROTO, REG_1) + compare(REG_1, bytes((ICMPV6,)))
    kind = payload(BASE_TRANSPORT, 0, 1, REG_1)
    among = compare(REG_1, bytes((FIRST_ND,)), CMP_GTE) + compare(REG_1, bytes((LAST_ND,)), CMP_LTE)
    return (hop_limit, protocol, kind + among)
