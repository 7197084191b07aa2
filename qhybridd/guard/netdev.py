"""The guard at the devices themselves: a table `netdev qhybridd` with a chain each at ingress and egress of a device.

What a flowtable takes over goes from one device's ingress to the other's egress, past prerouting, forward and
postrouting (`net/netfilter/nf_flow_table_ip.c`). So packets are judged once more where they enter and leave a guarded
device, by the same prefixes and by live sets of their own, which the same transactions renew. An XFRM tunnel without an
interface has no device; what it sends passes postrouting also from a flowtable (`nf_flow_xmit_xfrm` calls dst_output).
"""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Final

from qhybridd.guard.names import MAP_COMMENT, TABLE, device_chains, versioned
from qhybridd.guard.prefixes import GuardedTunnel, Intervals
from qhybridd.guard.ruleset import DIRECTIONS, Direction, build_maps, build_tunnel_chains, build_tunnel_rules, is_probe
from qhybridd.netlink.nft_bytecode import (
    BASE_NETWORK,
    META_OIFNAME,
    META_PROTOCOL,
    REG_1,
    VERDICT_ACCEPT,
    VERDICT_DROP,
    compare,
    counter,
    lookup_verdict,
    meta,
    payload,
    verdict,
)
from qhybridd.netlink.nft_steps import (
    HOOK_EGRESS,
    HOOK_INGRESS,
    NFPROTO_NETDEV,
    Operation,
    delete_chain,
    flush_chain,
    in_family,
    new_device_chain,
    new_rule,
)

INGRESS_PRIORITY: Final = -450
"""Before the flowtables, which stand at ingress too, at the priority that the operator gave them (0 by habit)."""
EGRESS_PRIORITY: Final = 450
"""After whatever else changes the packet there."""
ETHERTYPE_IPV4: Final = bytes.fromhex("0800")
ETHERTYPE_IPV6: Final = bytes.fromhex("86dd")


def on_devices(tunnels: Iterable[GuardedTunnel]) -> list[GuardedTunnel]:
    """The tunnels that have a device, told by it alone: ESP is not to be seen there."""
    return [tunnel for tunnel in tunnels if tunnel.interface]


def build_device_sets(tunnels: Sequence[GuardedTunnel], intervals: Intervals, version: int) -> list[Operation]:
    """What the rules read. `tunnels`: those on devices."""
    names = {tunnel.name for tunnel in tunnels}
    ours = Intervals(
        tuple(interval for interval in intervals.ipv4 if interval.tunnel in names),
        tuple(interval for interval in intervals.ipv6 if interval.tunnel in names),
    )
    return in_family(NFPROTO_NETDEV, build_maps(tunnels, ours, version))


def build_device_tunnels(tunnels: Iterable[GuardedTunnel]) -> list[Operation]:
    """Chains, counters and live sets of tunnels on devices."""
    return in_family(NFPROTO_NETDEV, build_tunnel_chains(_by_device(tunnels)))


def build_device_rules(tunnels: Iterable[GuardedTunnel]) -> list[Operation]:
    """The rules of the tunnels' chains."""
    return in_family(NFPROTO_NETDEV, build_tunnel_rules(_by_device(tunnels), 0))


def _by_device(tunnels: Iterable[GuardedTunnel]) -> list[GuardedTunnel]:
    return [replace(tunnel, esp=None) for tunnel in tunnels]


def bind_device(device: str, version: int, there: Iterable[str]) -> list[Operation]:
    """Both chains of a device, in the place of those that are there by these names: a chain that stood there may be
    bound to an older device of the name.
    """
    steps: list[Operation] = []
    for name, direction, hook, priority in zip(
        device_chains(device), DIRECTIONS, (HOOK_EGRESS, HOOK_INGRESS), (EGRESS_PRIORITY, INGRESS_PRIORITY), strict=True
    ):
        if name in there:
            steps += unbind_chain(name)
        steps.append(new_device_chain(TABLE, name, hook, priority, device))
        steps += in_family(NFPROTO_NETDEV, _build_base(name, direction, version))
    return steps


def unbind_chain(name: str) -> list[Operation]:
    """Take a device's chain away."""
    return in_family(NFPROTO_NETDEV, [flush_chain(TABLE, name), delete_chain(TABLE, name)])


def _build_base(chain: str, direction: Direction, version: int) -> list[Operation]:
    steps = []
    dropped = []
    for ethertype, map_name, offset, size in (
        (ETHERTYPE_IPV4, direction.maps[0], direction.address4, 4),
        (ETHERTYPE_IPV6, direction.maps[1], direction.address6, 16),
    ):
        name = versioned(map_name, version)
        family = meta(META_PROTOCOL, REG_1) + compare(REG_1, ethertype)
        far = payload(BASE_NETWORK, offset, size, REG_1) + lookup_verdict(name, REG_1)
        steps.append(new_rule(TABLE, chain, MAP_COMMENT + name, family, far))
        dropped.append(new_rule(TABLE, chain, "not protected", family, counter(), verdict(VERDICT_DROP)))
    if direction.interface == META_OIFNAME:
        steps.append(new_rule(TABLE, chain, "probe", is_probe(version), verdict(VERDICT_ACCEPT)))
    return steps + dropped
