"""By when tunnels are open: which elements stand for it, and the steps that change them. Pure.

Each tunnel has an element in two sets of which either one lets it pass. Each new deadline renews the one that ends
first, while the other one holds; an earlier deadline than before takes the later element away.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from qhybridd.guard.names import TABLE, live_sets
from qhybridd.guard.prefixes import GuardedTunnel
from qhybridd.netlink.nft_steps import (
    NFPROTO_INET,
    Operation,
    add_elements,
    delete_elements,
    element,
    in_family,
    interface_key,
    number_key,
)

MIN_OPEN_S: Final = 0.05
"""Less than this is shut instead: a timeout that rounds to no jiffies would never end (kernel 6.1, HZ=100: 10 ms)."""
MAX_OPEN_S: Final = 365 * 86400.0
"""A bound that keeps a wild deadline from becoming a timeout for ever."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where the kernel keeps one tunnel's elements."""

    family: int
    sets: tuple[str, str]
    key: bytes


@dataclass(frozen=True, slots=True)
class Live:
    """Until when either set holds a tunnel, as last sent or read (CLOCK_BOOTTIME; 0: not at all)."""

    a: float = 0.0
    b: float = 0.0

    @property
    def until(self) -> float:
        """When it shuts by itself."""
        return max(self.a, self.b)


def place_of(tunnel: GuardedTunnel) -> Place:
    """Where its elements are at prerouting and postrouting."""
    key = interface_key(tunnel.interface) if tunnel.esp is None else number_key(tunnel.esp.reqid)
    return Place(NFPROTO_INET, live_sets(tunnel), key)


def replace_element(place: Place, side: int, timeout_ms: int) -> list[Operation]:
    """Steps after which one set of a place holds its key for so long; for 0, not at all.

    Add, delete, add: the first add sees to it that there is something to delete, which else would fail the batch; an
    element that is there keeps its old timeout under an add, hence the delete. Only the outcome of the batch is seen.
    """
    name = place.sets[side]
    steps = add_elements(TABLE, name, [element(place.key, timeout_ms=1000)])
    steps += delete_elements(TABLE, name, [element(place.key)])
    if timeout_ms:
        steps += add_elements(TABLE, name, [element(place.key, timeout_ms=timeout_ms)])
    return in_family(place.family, steps)


def plan(
    deadlines: Mapping[str, float | None],
    places: Mapping[str, Sequence[Place]],
    held: Mapping[str, Live],
    now: float,
) -> tuple[dict[str, Live], list[Operation]]:
    """What is to hold each tunnel, and the steps to it. `deadlines`: CLOCK_BOOTTIME seconds; None shuts."""
    planned: dict[str, Live] = {}
    steps: list[Operation] = []
    for name, deadline in deadlines.items():
        before = held.get(name, Live())
        planned[name], sides = _renew(before, deadline, now)
        steps += [step for side, left in sides for place in places[name] for step in replace_element(place, side, left)]
    return planned, steps


def _renew(held: Live, deadline: float | None, now: float) -> tuple[Live, list[tuple[int, int]]]:
    """What holds it then, and the sides to change, each with milliseconds."""
    left = 0.0 if deadline is None else min(deadline - now, MAX_OPEN_S)
    if left < MIN_OPEN_S:
        return Live(), [(0, 0), (1, 0)]
    until = now + left
    first = 0 if held.a <= held.b else 1
    sides = [(first, int(left * 1000))]
    other = held.b if first == 0 else held.a
    if other > until:  # the new deadline is the earlier one: it counts
        sides.append((1 - first, 0))
        other = 0.0
    return (Live(until, other) if first == 0 else Live(other, until)), sides
