"""The guard at work: loads the table, opens and shuts tunnels, reads back what the kernel enforces.

Nothing here runs on behalf of a deadline: an element carries its timeout from the moment it is added, and without
renewal the kernel drops. All system calls run in one worker thread, so that what is asked together is
committed together.
"""

import asyncio
import errno
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from ipaddress import ip_address, summarize_address_range
from typing import Final

from qhybridd.clock import boottime
from qhybridd.errors import HostError, ProgramError
from qhybridd.guard import ruleset
from qhybridd.guard.prefixes import GuardedTunnel, Network, flatten
from qhybridd.guard.ruleset import (
    DIRECTIONS,
    INTERFACE_COMMENT,
    MAP_COMMENT,
    TABLE,
    live_sets,
    split_version,
    tunnel_chain,
)
from qhybridd.netlink.coalesce import Coalescer
from qhybridd.netlink.nft_dumps import SetElement
from qhybridd.netlink.nftables import (
    NftSocket,
    Operation,
    add_elements,
    delete_chain,
    delete_counter,
    delete_elements,
    delete_set,
    delete_table,
    element,
    flush_chain,
    interface_key,
    new_table,
)
from qhybridd.netlink.socket import NetlinkError

MIN_OPEN_S: Final = 0.05
"""Less than this is shut instead: a timeout that rounds to no jiffies would never end (kernel 6.1, HZ=100: 10 ms)."""
MAX_OPEN_S: Final = 365 * 86400.0
"""A bound that keeps a wild deadline from becoming a timeout for ever."""
MAX_SKEW_S: Final = 0.5
"""Time from reading the clock to the end of the commit. Beyond it (the process was frozen in between, say) the timeouts
were computed from a clock that is too old, and are sent again."""
MAX_ATTEMPTS: Final = 3
CLEAN_AFTER_S: Final = 0.1
"""From new rules to the end of the old sets: far longer than a packet takes through a chain."""


@dataclass(frozen=True, slots=True)
class GuardState:
    """A tunnel as the kernel guards it."""

    name: str
    prefixes: tuple[Network, ...]
    """What is protected, after exceptions and more specific prefixes of other tunnels."""
    interface: str
    open: bool
    left_s: float
    """Seconds until it shuts by itself; 0 when it is shut."""
    dropped_out: int
    """Packets to protected addresses that were dropped, since the table was made."""
    dropped_in: int
    """Packets from protected addresses that were dropped."""


@dataclass(frozen=True, slots=True)
class _Setting:
    """A tunnel is to be open until `deadline`; None shuts it."""

    name: str
    deadline: float | None


@dataclass(slots=True)
class _Live:
    """Until when either set holds a tunnel, as last sent or read (CLOCK_BOOTTIME; 0: not at all)."""

    a: float = 0.0
    b: float = 0.0


@dataclass(frozen=True, slots=True)
class _Leftovers:
    """What no rule reads any more after a load."""

    sets: list[str]
    """The versioned sets of the loads before."""
    names: list[str]
    """Tunnels that are gone, with their chains, counters and live sets."""


def _replace(name: str, key: bytes, timeout_ms: int) -> list[Operation]:
    """Steps after which the live set `name` holds the interface `key` for so long; for 0, not at all.

    Add, delete, add: the first add sees to it that there is something to delete, which else would fail the batch; an
    element that is there keeps its old timeout under an add, hence the delete. Only the outcome of the batch is seen.
    """
    steps = add_elements(TABLE, name, [element(key, timeout_ms=1000)])
    steps += delete_elements(TABLE, name, [element(key)])
    if timeout_ms:
        steps += add_elements(TABLE, name, [element(key, timeout_ms=timeout_ms)])
    return steps


class Guard:
    """The nftables table `inet qhybridd` of the network namespace in which this object is made."""

    def __init__(self) -> None:
        """Raises `HostError` where the kernel has no nf_tables."""
        self._nft = NftSocket()
        self._tunnels: dict[str, GuardedTunnel] = {}
        self._live: dict[str, _Live] = {}
        self._rules: list[tuple[str, str]] = []
        """Chain and comment of every rule, as read after the last change of ours."""
        self._generation = -1
        """The generation of nftables at which the rules were last seen to stand."""
        self._loading = asyncio.Lock()
        self._settings: Coalescer[_Setting, None] = Coalescer(self._carry_out, "guard")

    # ---- what the daemon calls

    async def load(self, tunnels: Iterable[GuardedTunnel]) -> None:
        """Enforce exactly these tunnels from now on; all rules change in one transaction.

        A tunnel that is open stays open if its name and interface are the same. Raises `OperatorError` as `flatten`
        does, and `HostError` (host.guard); then what was enforced before still is.
        """
        async with self._loading:
            leftovers = await self._settings.call(partial(self._load, tuple(tunnels)))
            # A packet that is on its way through the old rules may still read the old sets.
            await asyncio.sleep(CLEAN_AFTER_S)
            await self._settings.call(partial(self._clean, leftovers))

    async def open(self, name: str, deadline: float) -> None:
        """Let the tunnel pass until `deadline` (CLOCK_BOOTTIME, seconds) and not longer; a past one shuts it."""
        if not math.isfinite(deadline):
            raise ProgramError("program.argument", f"a deadline of {deadline}")
        await self._settings.submit(_Setting(name, deadline))

    async def shut(self, name: str) -> None:
        """Let the tunnel pass no more."""
        await self._settings.submit(_Setting(name, None))

    async def remaining(self) -> dict[str, float]:
        """Seconds left for every loaded tunnel that is open, as the kernel says; the longer of both sets counts."""
        return await self._settings.call(self._read_remaining)

    async def show(self) -> list[GuardState]:
        """All that the kernel guards, read from the kernel alone: also right in a process that loaded nothing."""
        return await self._settings.call(self._show)

    async def disturbed(self) -> bool:
        """Whether somebody else took rules of the table away, as `nft flush ruleset` does. One small question to the
        kernel while nobody changes nftables at all. Raises `HostError`.
        """
        return await self._settings.call(self._is_disturbed)

    async def remove(self) -> None:
        """Delete the table: nothing is guarded any more."""
        await self._settings.call(self._remove)

    async def close(self) -> None:
        """Give up the socket and the worker; the table stays and goes on enforcing."""
        await asyncio.get_running_loop().run_in_executor(None, self._settings.close)
        self._nft.close()

    # ---- in the worker: the table

    def _load(self, tunnels: Sequence[GuardedTunnel]) -> _Leftovers:
        intervals = flatten(tunnels)
        wanted = {tunnel.name: tunnel for tunnel in tunnels}
        if len(wanted) < len(tunnels):
            raise ProgramError("program.argument", "two tunnels of one name")
        old_sets = [name for name in self._nft.sets(TABLE) if split_version(name)]
        version = 1 + max((split[1] for name in old_sets if (split := split_version(name))), default=0)
        old_names = self._known_names()
        new_names = [name for name in wanted if name not in old_names]
        # First what the new rules read: some set types show their elements only some time after a commit.
        self._nft.commit(
            [new_table(TABLE), *ruleset.build_chains(new_names), *ruleset.build_sets(tunnels, intervals, version)]
        )
        live, steps = self._sort_live([tunnel for tunnel in tunnels if tunnel.name in old_names])
        self._nft.commit([*steps, *ruleset.build_rules(tunnels, version)])
        self._tunnels, self._live = wanted, {name: live.get(name, _Live()) for name in wanted}
        self._rules = self._nft.rules(TABLE)
        return _Leftovers(old_sets, sorted(old_names - set(wanted)))

    def _clean(self, leftovers: _Leftovers) -> None:
        chains = [tunnel_chain(direction.chain, name) for name in leftovers.names for direction in DIRECTIONS]
        steps = [delete_set(TABLE, name) for name in leftovers.sets]
        steps += [flush_chain(TABLE, chain) for chain in chains]
        steps += [delete_chain(TABLE, chain) for chain in chains]
        steps += [delete_counter(TABLE, chain) for chain in chains]
        steps += [delete_set(TABLE, live) for name in leftovers.names for live in live_sets(name)]
        if steps:
            self._nft.commit(steps)
        self._rules = self._nft.rules(TABLE)

    def _is_disturbed(self) -> bool:
        generation = self._nft.generation()
        if generation == self._generation:
            return False
        if self._nft.rules(TABLE) != self._rules:
            return True
        self._generation = generation
        return False

    def _known_names(self) -> set[str]:
        """The tunnels that the table knows: each has two counters, made and deleted along with all else of it."""
        prefix = tunnel_chain(DIRECTIONS[0].chain, "")
        return {name.removeprefix(prefix) for name in self._nft.counters(TABLE) if name.startswith(prefix)}

    def _sort_live(self, tunnels: Iterable[GuardedTunnel]) -> tuple[dict[str, _Live], list[Operation]]:
        """What stays open, and the steps that take away every element of another interface or without an end."""
        live: dict[str, _Live] = {}
        steps: list[Operation] = []
        now = boottime()
        for tunnel in tunnels:
            until = [0.0, 0.0]
            for side, name in enumerate(live_sets(tunnel.name)):
                for item in self._nft.elements(TABLE, name):
                    if item.key == interface_key(tunnel.interface) and item.expires_ms is not None:
                        until[side] = now + item.expires_ms / 1000
                    else:
                        steps += _replace(name, item.key, 0)
            live[tunnel.name] = _Live(*until)
        return live, steps

    def _remove(self) -> None:
        self._nft.commit([new_table(TABLE), delete_table(TABLE)])
        self._tunnels, self._live = {}, {}

    # ---- in the worker: open and shut

    def _carry_out(self, settings: Sequence[_Setting]) -> Sequence[Exception | None]:
        """One batch for all; the last word on a tunnel counts."""
        last = {setting.name: setting for setting in settings}
        known = {name: setting for name, setting in last.items() if name in self._tunnels}
        failure: Exception | None = None
        try:
            self._commit_settings(known)
        except HostError as error:
            failure = error
        return [
            failure
            if setting.name in known
            else ProgramError("program.argument", f"the guard was not loaded with tunnel {setting.name}")
            for setting in settings
        ]

    def _commit_settings(self, settings: dict[str, _Setting]) -> None:
        if not settings:
            return
        for _ in range(MAX_ATTEMPTS):
            now = boottime()
            live, steps = self._plan(settings, now)
            try:
                self._commit(steps)
            except NetlinkError as error:
                if error.errno != errno.ENOENT:
                    raise
                continue  # an element expired between its add and its delete within the batch: nothing was done
            took_s = boottime() - now
            if took_s <= MAX_SKEW_S:
                self._live.update(live)
                return
            # The elements may end later than planned, by so much: the next plan sees that and takes them away.
            self._live |= {name: _Live(held.a + took_s, held.b + took_s) for name, held in live.items()}
        shut = {name: _Setting(name, None) for name in settings}
        live, steps = self._plan(shut, boottime())
        self._commit(steps)
        self._live.update(live)
        raise HostError("host.guard", f"changing nftables took more than {MAX_SKEW_S} s; the tunnels were shut")

    def _commit(self, steps: list[Operation]) -> None:
        """Commit what changes no rule. If nobody else committed since the rules were seen, they stand as they stood."""
        before = self._nft.generation()
        self._nft.commit(steps)
        if before == self._generation:
            self._generation = before + 1

    def _plan(self, settings: dict[str, _Setting], now: float) -> tuple[dict[str, _Live], list[Operation]]:
        """The elements to change: the set that ends first is renewed, the other one holds meanwhile."""
        planned: dict[str, _Live] = {}
        steps: list[Operation] = []
        for name, setting in settings.items():
            key, held = interface_key(self._tunnels[name].interface), self._live[name]
            a, b = live_sets(name)
            left = 0.0 if setting.deadline is None else min(setting.deadline - now, MAX_OPEN_S)
            if left < MIN_OPEN_S:
                steps += _replace(a, key, 0) + _replace(b, key, 0)
                planned[name] = _Live()
                continue
            deadline, timeout_ms = now + left, int(left * 1000)
            if held.a <= held.b:
                steps += _replace(a, key, timeout_ms)
                planned[name] = _Live(deadline, held.b)
            else:
                steps += _replace(b, key, timeout_ms)
                planned[name] = _Live(held.a, deadline)
            if max(held.a, held.b) > deadline:  # the new deadline is the earlier one: it counts
                steps += _replace(b if held.a <= held.b else a, key, 0)
                planned[name] = _Live(deadline, 0.0) if held.a <= held.b else _Live(0.0, deadline)
        return planned, steps

    # ---- in the worker: reading

    def _read_left(self, name: str, interface: str) -> float:
        """Seconds that either set holds the tunnel for; infinite for an element that somebody else added."""
        key = interface_key(interface)
        left = 0.0
        for live in live_sets(name):
            for item in self._nft.elements(TABLE, live):
                if item.key == key:
                    left = max(left, math.inf if item.expires_ms is None else item.expires_ms / 1000)
        return left

    def _read_remaining(self) -> dict[str, float]:
        found = {name: self._read_left(name, tunnel.interface) for name, tunnel in self._tunnels.items()}
        return {name: left for name, left in found.items() if left > 0}

    def _show(self) -> list[GuardState]:
        rules = self._nft.rules(TABLE)
        out, into = (direction.chain for direction in DIRECTIONS)
        maps = [comment.removeprefix(MAP_COMMENT) for chain, comment in rules if comment.startswith(MAP_COMMENT)]
        packets = self._nft.counters(TABLE)
        prefixes: dict[str, list[Network]] = {}
        for name in maps:
            for chain, networks in _read_prefixes(self._nft.elements(TABLE, name)):
                prefixes.setdefault(chain, []).extend(networks)
        states = []
        for chain, comment in rules:
            if not chain.startswith(tunnel_chain(out, "")) or not comment.startswith(INTERFACE_COMMENT):
                continue
            name, interface = chain.removeprefix(tunnel_chain(out, "")), comment.removeprefix(INTERFACE_COMMENT)
            left = self._read_left(name, interface)
            protected = tuple(prefixes.get(chain, ()))
            dropped_in = packets.get(tunnel_chain(into, name), 0)
            states.append(GuardState(name, protected, interface, left > 0, left, packets.get(chain, 0), dropped_in))
        return sorted(states, key=lambda state: state.name)


def _read_prefixes(elements: Iterable[SetElement]) -> Iterator[tuple[str, list[Network]]]:
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
