"""A ruleset for `nft -f` that blocks what all tunnels protect: for a boot at which this program does not run.

It is a table of its own, and knows no open tunnel. The next load of the guard takes its place.
"""

from collections.abc import Iterable, Sequence
from ipaddress import IPv4Address, IPv6Address, summarize_address_range
from typing import Final

from qhybridd.guard.names import FALLBACK
from qhybridd.guard.prefixes import GuardedTunnel, Interval, flatten

_CHAIN: Final = """\
    chain {name} {{
        type filter hook {hook}; policy accept;
        {way}name "lo" accept
        {way}name @guarded counter drop
        ip6 {side} {{ fe80::/10 }} accept
        {multicast} accept
        ip6 hoplimit 255 icmpv6 type 133-137 accept
        ip {side} @far4 counter drop
        ip6 {side} @far6 counter drop
    }}
"""


def build_fallback(tunnels: Iterable[GuardedTunnel]) -> str:
    """The ruleset, in nft's language. It can be loaded again over itself. Raises `OperatorError` as `flatten`."""
    tunnels = tuple(tunnels)
    intervals = flatten(tunnels)
    devices = [f'"{name}"' for name in sorted({tunnel.interface for tunnel in tunnels if tunnel.interface})]
    return (
        f"table inet {FALLBACK}\ndelete table inet {FALLBACK}\ntable inet {FALLBACK} {{\n"
        + _set("guarded", "ifname", "", devices)
        + _set("far4", "ipv4_addr", "flags interval; ", _prefixes(intervals.ipv4, IPv4Address))
        + _set("far6", "ipv6_addr", "flags interval; ", _prefixes(intervals.ipv6, IPv6Address))
        + _CHAIN.format(
            name="out", hook="postrouting priority 250", way="oif", side="daddr", multicast="ip6 daddr ff02::/16"
        )
        + _CHAIN.format(
            name="in",
            hook="prerouting priority -450",
            way="iif",
            side="saddr",
            multicast="ip6 saddr :: ip6 daddr ff02::/16",
        )
        + "}\n"
    )


def _set(name: str, kind: str, flags: str, elements: Sequence[str]) -> str:
    inside = f"elements = {{ {', '.join(elements)} }}; " if elements else ""
    return f"    set {name} {{ type {kind}; {flags}{inside}}}\n"


def _prefixes(intervals: Iterable[Interval], address: type[IPv4Address] | type[IPv6Address]) -> list[str]:
    found = (summarize_address_range(address(one.first), address(one.last)) for one in intervals)
    return [str(prefix) for prefixes in found for prefix in prefixes]
