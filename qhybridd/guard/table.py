"""The guard's tables in the kernel: loaded, changed and looked after by one worker thread. Every call blocks."""

import errno
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

from qhybridd.clock import boottime
from qhybridd.errors import HostError, ProgramError
from qhybridd.guard import claim, ruleset
from qhybridd.guard.devices import DeviceTable
from qhybridd.guard.live import MIN_OPEN_S, Live, Place, place_of, plan, replace_element
from qhybridd.guard.names import TABLE, is_live_set, live_sets, split_version, tunnel_chain
from qhybridd.guard.prefixes import GuardedTunnel, flatten
from qhybridd.guard.reading import GuardState, read_left, read_states, rules_of, stand
from qhybridd.guard.ruleset import DIRECTIONS
from qhybridd.netlink.nft_steps import (
    NFPROTO_INET,
    Operation,
    delete_chain,
    delete_counter,
    delete_set,
    flush_chain,
)
from qhybridd.netlink.nftables import NftSocket
from qhybridd.netlink.socket import NetlinkError

MAX_SKEW_S: Final = 0.5
"""Time from reading the clock to the end of the commit. Beyond it (the process was frozen in between, say) the timeouts
were computed from a clock that is too old, and are sent again."""
MAX_ATTEMPTS: Final = 3
MAX_TOGETHER: Final = 200
"""Tunnels in one transaction of deadlines: 50 ms on an idle machine, far below `MAX_SKEW_S` on a busy one."""
MAX_DIFFERENCE_S: Final = 0.1
"""Between the elements of one tunnel in both tables: the reading of them takes as long."""


@dataclass(frozen=True, slots=True)
class Leftovers:
    """What no rule reads any more after a load."""

    sets: list[str]
    """The versioned sets of the loads before, and live sets that no tunnel has."""
    names: list[str]
    """Tunnels that are gone, with their chains and counters."""


class Table:
    """The nftables tables `inet qhybridd` and `netdev qhybridd` of the network namespace that the thread is in."""

    def __init__(self, mark: int) -> None:
        """`mark`: SO_MARK of the control sockets, 0 for none. Raises `HostError` where the kernel has no nf_tables."""
        self._nft = NftSocket()
        self._devices = DeviceTable(self._nft)
        self._mark = mark
        self.tunnels: dict[str, GuardedTunnel] = {}
        self._places: dict[str, tuple[Place, ...]] = {}
        self._live: dict[str, Live] = {}
        self._rules: dict[str, list[str]] = {}
        """By chain, the comments of its rules, as last sent."""
        self.generation = -1
        """The generation of nftables at which the rules were last seen to stand."""

    def close(self) -> None:
        """Give the socket back; the table stays."""
        self._devices.close()
        self._nft.close()

    # ---- all rules at once

    def load(self, tunnels: Sequence[GuardedTunnel], restore: Mapping[str, float]) -> Leftovers:
        """Enforce these tunnels. `restore`: deadlines for those of them that the table does not know yet."""
        intervals = flatten(tunnels)
        wanted = {tunnel.name: tunnel for tunnel in tunnels}
        if len(wanted) < len(tunnels):
            raise ProgramError("program.argument", "two tunnels of one name")
        claim.claim(self._nft, NFPROTO_INET)
        sets, known = set(self._nft.sets(TABLE)), self._known_names()
        old = [name for name in sets if split_version(name)]
        version = 1 + max((split[1] for name in old if (split := split_version(name))), default=0)
        new = [tunnel for tunnel in tunnels if tunnel.name not in known or not sets.issuperset(live_sets(tunnel))]
        # First what the new rules read: some set types show their elements only some time after a commit.
        made = [*ruleset.build_chains(new), *ruleset.build_sets(tunnels, intervals, version)]
        self._nft.commit([*made, *self._devices.prepare(tunnels, intervals)])
        places = {tunnel.name: (place_of(tunnel), *self._devices.place_of(tunnel)) for tunnel in tunnels}
        rules = ruleset.build_rules(tunnels, version, self._mark) + self._devices.build_rules(tunnels)
        back = {name: deadline for name, deadline in restore.items() if name in wanted and name not in known}
        live, took_s = self._switch(rules, places, known, back)
        self.tunnels, self._places, self._live = wanted, places, live
        self._rules = rules_of(step for step in rules if step.family == NFPROTO_INET)
        self._devices.bind(tunnels)
        if replacing := claim.build_replacing(self._nft):
            self._nft.commit(replacing)
        if took_s > MAX_SKEW_S and back:
            self.set_deadlines(back)
        needed = {live for tunnel in tunnels for live in live_sets(tunnel)}
        return Leftovers(
            old + sorted(n for n in sets if is_live_set(n) and n not in needed), sorted(known - set(wanted))
        )

    def _switch(
        self,
        rules: list[Operation],
        places: Mapping[str, Sequence[Place]],
        known: set[str],
        restore: Mapping[str, float],
    ) -> tuple[dict[str, Live], float]:
        """All rules in one transaction, with the elements; what is open then, and how long it took, seconds."""
        for attempt in range(1, MAX_ATTEMPTS + 1):
            now = boottime()
            live, steps = self._adopt({name: places[name][0] for name in places if name in known}, now)
            restored, more = plan(restore, places, {}, now)
            for name, held in live.items():
                for place in places[name][1:]:
                    more += self._conform(place, held, now)
            try:
                self._nft.commit([*steps, *rules, *more])
            except NetlinkError as error:
                if error.errno != errno.ENOENT or attempt == MAX_ATTEMPTS:
                    raise
                continue  # an element expired between its add and its delete within the batch: nothing was done
            took_s = boottime() - now
            restored = {name: Live(held.a + took_s, held.b) for name, held in restored.items() if held.a}
            return {name: live.get(name) or restored.get(name) or Live() for name in places}, took_s
        raise AssertionError("unreachable")

    def clean(self, leftovers: Leftovers) -> None:
        """Take away what no packet can be in any more."""
        chains = [tunnel_chain(direction.chain, name) for name in leftovers.names for direction in DIRECTIONS]
        steps = [delete_set(TABLE, name) for name in leftovers.sets if split_version(name)]
        steps += [flush_chain(TABLE, chain) for chain in chains]
        steps += [delete_chain(TABLE, chain) for chain in chains]
        steps += [delete_counter(TABLE, chain) for chain in chains]
        steps += [delete_set(TABLE, name) for name in leftovers.sets if not split_version(name)]
        steps += self._devices.build_cleaning(self.tunnels.values())
        if steps:
            self._nft.commit(steps)

    def _known_names(self) -> set[str]:
        """The tunnels that the table knows: each has two counters, made and deleted along with all else of it."""
        prefix = tunnel_chain(DIRECTIONS[0].chain, "")
        return {name.removeprefix(prefix) for name in self._nft.counters(TABLE) if name.startswith(prefix)}

    def _adopt(self, places: Mapping[str, Place], now: float) -> tuple[dict[str, Live], list[Operation]]:
        """What stays open, and the steps that take away every element of another key or without an end."""
        live: dict[str, Live] = {}
        steps: list[Operation] = []
        for name, place in places.items():
            until = [0.0, 0.0]
            for side, live_set in enumerate(place.sets):
                for item in self._nft.elements(TABLE, live_set):
                    if item.key == place.key and item.expires_ms is not None:
                        until[side] = now + item.expires_ms / 1000
                    else:
                        steps += replace_element(replace(place, key=item.key), side, 0)
            live[name] = Live(*until)
        return live, steps

    def _conform(self, place: Place, held: Live, now: float) -> list[Operation]:
        """Steps after which the sets of a further place hold what the first one does."""
        steps: list[Operation] = []
        for side, until in enumerate((held.a, held.b)):
            wanted = until - now if until - now >= MIN_OPEN_S else 0.0
            items = self._nft.elements(TABLE, place.sets[side], place.family)
            left = [item.expires_ms for item in items if item.key == place.key]
            fits = [ms is not None and abs(ms / 1000 - wanted) < MAX_DIFFERENCE_S for ms in left]
            if fits != ([True] if wanted else []):
                steps += replace_element(place, side, int(wanted * 1000))
            for item in items:
                if item.key != place.key:
                    steps += replace_element(replace(place, key=item.key), side, 0)
        return steps

    def remove(self) -> None:
        """Delete the tables. Raises `HostError` (host.guard) where another process owns them."""
        if steps := claim.build_removal(self._nft):
            self._nft.commit(steps)
        self.tunnels, self._places, self._live, self._rules = {}, {}, {}, {}

    # ---- open and shut

    def set_deadlines(self, deadlines: Mapping[str, float | None]) -> None:
        """Hold tunnels that were loaded open until then (CLOCK_BOOTTIME); None shuts. Many at once share transactions.

        Raises `HostError` (host.guard) where any failed; the others were done.
        """
        failure: HostError | None = None
        items = list(deadlines.items())
        for first in range(0, len(items), MAX_TOGETHER):
            try:
                self._set_together(dict(items[first : first + MAX_TOGETHER]))
            except HostError as error:
                failure = failure or error
        if failure is not None:
            raise failure

    def _set_together(self, deadlines: Mapping[str, float | None]) -> None:
        for _ in range(MAX_ATTEMPTS):
            now = boottime()
            live, steps = plan(deadlines, self._places, self._live, now)
            try:
                self._commit(steps)
            except NetlinkError as error:
                if error.errno != errno.ENOENT:
                    raise
                self.restore()  # unless rules are missing, an element expired on the way, as above
                continue
            took_s = boottime() - now
            if took_s <= MAX_SKEW_S:
                self._live.update(live)
                return
            # The elements may end later than planned, by so much: the next plan sees that and takes them away.
            self._live |= {name: Live(held.a + took_s, held.b + took_s) for name, held in live.items()}
        live, steps = plan(dict.fromkeys(deadlines), self._places, self._live, boottime())
        self._commit(steps)
        self._live.update(live)
        raise HostError("host.guard", f"changing nftables took more than {MAX_SKEW_S} s; the tunnels were shut")

    def restore(self) -> Leftovers | None:
        """Put back what somebody took away, with the time that is left; None where nothing is missing."""
        if not self.is_disturbed():
            return None
        return self.load(tuple(self.tunnels.values()), self.deadlines())

    def rebind(self) -> None:
        """A device came, went or changed: see that the rules at guarded devices are at those that are there now."""
        self._devices.rebind()

    def fell_back(self) -> bool:
        """Whether the table stands that blocks everything for want of this one."""
        return bool(claim.build_replacing(self._nft))

    def held(self) -> bool:
        """Whether another process owns the guard."""
        return claim.held(self._nft)

    def shut_all(self) -> None:
        """Shut every tunnel that stands in the kernel, loaded by this object or not. Raises `HostError`."""
        for attempt in range(1, MAX_ATTEMPTS + 1):
            try:
                self._commit(self._shut_steps())
                break
            except NetlinkError as error:
                if error.errno != errno.ENOENT or attempt == MAX_ATTEMPTS:
                    raise
        self._live = {name: Live() for name in self.tunnels}

    def _shut_steps(self) -> list[Operation]:
        return [
            step
            for family in claim.FAMILIES
            for name in self._nft.sets(TABLE, family)
            if is_live_set(name)
            for item in self._nft.elements(TABLE, name, family)
            for step in replace_element(Place(family, (name, name), item.key), 0, 0)
        ]

    def _commit(self, steps: list[Operation]) -> None:
        """Commit what changes no rule. If nobody else committed since the rules were seen, they stand as they stood."""
        if not steps:
            return  # the kernel acknowledges no empty batch
        before = self._nft.generation()
        self._nft.commit(steps)
        if before == self.generation:
            self.generation = before + 1

    # ---- reading

    def deadlines(self) -> dict[str, float]:
        """By when each open tunnel shuts, as last sent or adopted (CLOCK_BOOTTIME)."""
        now = boottime()
        return {name: live.until for name, live in self._live.items() if live.until > now + MIN_OPEN_S}

    def is_disturbed(self) -> bool:
        """Whether somebody else took rules away, or put in their place what blocks everything."""
        generation = self._nft.generation()
        if generation == self.generation:
            return False
        if not stand(self._rules, self._nft.rules(TABLE)) or claim.sleeps(self._nft, self._families()):
            return True
        if not self._devices.stands() or self.fell_back():
            return True
        self.generation = generation
        return False

    def _families(self) -> tuple[int, ...]:
        return claim.FAMILIES if self._devices.usable else (NFPROTO_INET,)

    def remaining(self) -> dict[str, float]:
        """Seconds left for every loaded tunnel that is open."""
        found = {name: read_left(self._nft, places[0].sets, places[0].key) for name, places in self._places.items()}
        return {name: left for name, left in found.items() if left > 0}

    def show(self) -> list[GuardState]:
        """Every tunnel that stands in the kernel."""
        return read_states(self._nft)
