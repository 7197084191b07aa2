"""The netdev table in the kernel: loaded beside the other one, and bound to devices as they come. Every call blocks."""

import errno
from collections.abc import Iterable, Sequence
from typing import Final

from qhybridd.errors import HostError
from qhybridd.guard import claim
from qhybridd.guard.live import Place
from qhybridd.guard.names import (
    TABLE,
    device_chains,
    interface_sets,
    is_device_chain,
    is_live_set,
    split_version,
    tunnel_chain,
)
from qhybridd.guard.netdev import (
    bind_device,
    build_device_rules,
    build_device_sets,
    build_device_tunnels,
    on_devices,
    unbind_chain,
)
from qhybridd.guard.prefixes import GuardedTunnel, Intervals
from qhybridd.guard.reading import rules_of, stand
from qhybridd.netlink.nft_steps import (
    NFPROTO_NETDEV,
    Operation,
    delete_chain,
    delete_counter,
    delete_set,
    flush_chain,
    in_family,
    interface_key,
)
from qhybridd.netlink.nftables import NftSocket
from qhybridd.netlink.route_dump import RouteSocket
from qhybridd.netlink.socket import NetlinkError

MAX_ATTEMPTS: Final = 3
ABSENT: Final = 0
"""Index of a device that is not there; where the kernel can (6.16), its chains wait for it."""


class DeviceTable:
    """The table `netdev qhybridd`, where the kernel has chains at egress (5.16); else nothing happens here."""

    def __init__(self, nft: NftSocket) -> None:
        """Reads devices by a socket of its own, in the same network namespace. Raises `HostError`."""
        self._nft = nft
        self._route = RouteSocket()
        self.usable = True
        self._version = 0
        self._bound: dict[str, int] = {}
        """Index of the device that the chains of each guarded name were bound to."""
        self._rules: dict[str, list[str]] = {}
        """By chain, the comments of its rules, as last sent: of tunnels, and of devices."""
        self._base: dict[str, dict[str, list[str]]] = {}
        """The same for the chains of each device."""

    def close(self) -> None:
        """Give the socket back; the table stays."""
        self._route.close()

    def place_of(self, tunnel: GuardedTunnel) -> tuple[Place, ...]:
        """Where a tunnel's elements are here: nowhere for one without a device."""
        if not self.usable or not tunnel.interface:
            return ()
        return (Place(NFPROTO_NETDEV, interface_sets(tunnel.name), interface_key(tunnel.interface)),)

    def prepare(self, tunnels: Iterable[GuardedTunnel], intervals: Intervals) -> list[Operation]:
        """Steps that make what the rules read. Claims the table; raises `HostError` where another process owns it."""
        if not self.usable:
            return []
        try:
            claim.claim(self._nft, NFPROTO_NETDEV)
        except NetlinkError as error:
            if error.errno not in (errno.EOPNOTSUPP, errno.EAFNOSUPPORT):
                raise
            self.usable = False
            return []
        there = [split for name in self._nft.sets(TABLE, NFPROTO_NETDEV) if (split := split_version(name))]
        self._version = 1 + max((version for _, version in there), default=0)
        devices = on_devices(tunnels)
        return [*build_device_tunnels(devices), *build_device_sets(devices, intervals, self._version)]

    def build_rules(self, tunnels: Iterable[GuardedTunnel]) -> list[Operation]:
        """The rules of the tunnels' chains, for the transaction that changes all."""
        if not self.usable:
            return []
        steps = build_device_rules(on_devices(tunnels))
        self._rules = rules_of(steps)
        return steps

    def bind(self, tunnels: Sequence[GuardedTunnel]) -> None:
        """Put chains on every guarded device that is there, and take away those of devices that are not guarded."""
        if not self.usable:
            return
        names = {tunnel.interface for tunnel in on_devices(tunnels)}
        present = self._route.devices()
        self._bound = {name: self._bind(name, present.get(name, ABSENT)) for name in sorted(names)}
        wanted = {chain for name in names for chain in device_chains(name)}
        unwanted = [name for name in self._chains() if is_device_chain(name) and name not in wanted]
        for name in unwanted:
            self._commit_unless_gone(unbind_chain(name))

    def rebind(self) -> None:
        """Bind again where a guarded device is another one than before."""
        if not self.usable:
            return
        present = self._route.devices()
        for name, index in self._bound.items():
            now = present.get(name, ABSENT)
            if now != index:
                self._bound[name] = self._bind(name, now) if now != ABSENT else ABSENT

    def _bind(self, device: str, index: int) -> int:
        """The index of the device if its chains stand; `ABSENT` where it is not there."""
        for _ in range(MAX_ATTEMPTS):
            steps = bind_device(device, self._version, self._chains())
            self._base[device] = rules_of(steps)
            try:
                self._nft.commit(steps)
            except NetlinkError as error:
                if error.errno == errno.EOPNOTSUPP:  # no chains at egress before kernel 5.16
                    self.usable = False
                    return ABSENT
                if error.errno != errno.ENOENT:
                    raise
                index = self._route.devices().get(device, ABSENT)
                if index == ABSENT:
                    return ABSENT
                continue  # with the device its chains went, between the look at them and the commit
            return index
        raise HostError("host.guard", f"{device} comes and goes faster than rules can be bound to it")

    def _commit_unless_gone(self, steps: list[Operation]) -> None:
        try:
            self._nft.commit(steps)
        except NetlinkError as error:
            if error.errno != errno.ENOENT:
                raise

    def _chains(self) -> list[str]:
        return self._nft.chains(TABLE, NFPROTO_NETDEV)

    # ---- watching

    def stands(self) -> bool:
        """Whether all rules are as sent, but for devices that are gone or new: their chains went with them."""
        if not self.usable:
            return True
        found = self._nft.rules(TABLE, NFPROTO_NETDEV)
        present = self._route.devices()
        same = [name for name, index in self._bound.items() if index != ABSENT and present.get(name) == index]
        return stand(self._rules, found) and all(stand(self._base[name], found) for name in same)

    # ---- cleaning

    def build_cleaning(self, tunnels: Iterable[GuardedTunnel]) -> list[Operation]:
        """Steps that take away what no rule reads: the sets of earlier loads, and tunnels that are not loaded."""
        if not self.usable:
            return []
        names = {tunnel.name for tunnel in on_devices(tunnels)}
        live = {name for tunnel in names for name in interface_sets(tunnel)}
        counters = self._nft.counters(TABLE, NFPROTO_NETDEV)
        kept = {tunnel_chain(direction, name) for name in names for direction in ("out", "in")}
        chains = [name for name in counters if name not in kept]
        old, gone = [], []
        for name in self._nft.sets(TABLE, NFPROTO_NETDEV):
            split = split_version(name)
            if split is not None and split[1] < self._version:
                old.append(delete_set(TABLE, name))
            elif is_live_set(name) and name not in live:
                gone.append(delete_set(TABLE, name))
        steps = old + [flush_chain(TABLE, chain) for chain in chains]
        steps += [delete_chain(TABLE, chain) for chain in chains]
        steps += [delete_counter(TABLE, chain) for chain in chains]
        return in_family(NFPROTO_NETDEV, steps + gone)
