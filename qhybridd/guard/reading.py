"""What the kernel guards, read back from the kernel alone."""

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from ipaddress import ip_address, summarize_address_range

from qhybridd.guard.names import (
    CLOSED_COMMENT,
    MAP_COMMENT,
    TABLE,
    esp_sets,
    interface_sets,
    read_way,
    tunnel_chain,
)
from qhybridd.guard.prefixes import Network
from qhybridd.netlink.attributes import Message
from qhybridd.netlink.nft_dumps import NFGENMSG_BYTES, SetElement, parse_rules
from qhybridd.netlink.nft_steps import NEWRULE, NFPROTO_NETDEV, Operation, interface_key, number_key
from qhybridd.netlink.nftables import NftSocket
from qhybridd.netlink.socket import Dump


@dataclass(frozen=True, slots=True)
class GuardState:
    """A tunnel as the kernel guards it."""

    name: str
    prefixes: tuple[Network, ...]
    """What is protected, after exceptions and more specific prefixes of other tunnels."""
    interface: str
    """Empty for an XFRM tunnel without one."""
    open: bool
    left_s: float
    """Seconds until it shuts by itself; 0 when it is shut."""
    dropped_out: int
    """Packets to protected addresses that were dropped, since the table was made."""
    dropped_in: int
    """Packets from protected addresses that were dropped."""
    reqid: int = 0
    """Of an XFRM tunnel; 0 for WireGuard."""


def read_left(nft: NftSocket, sets: Iterable[str], key: bytes) -> float:
    """Seconds that any of the sets holds a key for; infinite for an element that somebody else added."""
    left = 0.0
    for name in sets:
        for item in nft.elements(TABLE, name):
            if item.key == key:
                left = max(left, math.inf if item.expires_ms is None else item.expires_ms / 1000)
    return left


def read_states(nft: NftSocket) -> list[GuardState]:
    """Every tunnel that the table knows, by name."""
    rules = nft.rules(TABLE)
    maps = [comment.removeprefix(MAP_COMMENT) for chain, comment in rules if comment.startswith(MAP_COMMENT)]
    packets = Counter(nft.counters(TABLE)) + Counter(nft.counters(TABLE, NFPROTO_NETDEV))
    prefixes: dict[str, list[Network]] = {}
    for name in maps:
        for chain, networks in read_prefixes(nft.elements(TABLE, name)):
            prefixes.setdefault(chain, []).extend(networks)
    states = []
    for chain, comment in rules:
        if not chain.startswith(tunnel_chain("out", "")) or not comment.startswith(CLOSED_COMMENT):
            continue
        name = chain.removeprefix(tunnel_chain("out", ""))
        interface, reqid = read_way(comment.removeprefix(CLOSED_COMMENT))
        if reqid:
            left = read_left(nft, esp_sets(name), number_key(reqid))
        else:
            left = read_left(nft, interface_sets(name), interface_key(interface))
        dropped_out, dropped_in = packets[chain], packets[tunnel_chain("in", name)]
        protected = tuple(prefixes.get(chain, ()))
        states.append(GuardState(name, protected, interface, left > 0, left, dropped_out, dropped_in, reqid))
    return sorted(states, key=lambda state: state.name)


def read_prefixes(elements: Iterable[SetElement]) -> Iterator[tuple[str, list[Network]]]:
    """The prefixes of an interval map, by chain."""
    items = sorted(elements, key=lambda item: (item.key, not item.ends_interval))
    for at, item in enumerate(items):
        if item.ends_interval or len(item.key) not in (4, 16):
            continue
        following = items[at + 1].key if at + 1 < len(items) else None
        last = int.from_bytes(following, "big") - 1 if following else (1 << 8 * len(item.key)) - 1
        size = len(item.key)
        first_address, last_address = ip_address(item.key), ip_address(last.to_bytes(size, "big"))
        yield item.goto, list(summarize_address_range(first_address, last_address))


def rules_of(steps: Iterable[Operation]) -> dict[str, list[str]]:
    """By chain, the comments of the rules that steps add."""
    found: dict[str, list[str]] = {}
    for step in steps:
        if step.kind == NEWRULE:
            message = bytes(NFGENMSG_BYTES) + step.body
            for chain, comment in parse_rules(Dump(memoryview(message), [Message(NEWRULE, 0, 0, 0, len(message))])):
                found.setdefault(chain, []).append(comment)
    return found


def stand(sent: Mapping[str, Sequence[str]], found: Iterable[tuple[str, str]]) -> bool:
    """Whether the rules of every chain that was sent are there, in order, and no other among them. What stands in other
    chains is left aside: tunnels that are gone, until they are cleaned up.
    """
    chains: dict[str, list[str]] = {}
    for chain, comment in found:
        chains.setdefault(chain, []).append(comment)
    return all(chains.get(chain) == comments for chain, comments in sent.items())
