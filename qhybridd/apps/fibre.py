"""The laboratory's fibre: a second cable between the gateways that carries the photon stream of a simulated link, and
passes through a third host. That host routes, and whoever sits there may do more.
"""

from collections.abc import Mapping
from ipaddress import ip_interface
from typing import Final

from qhybridd.apps.namespaces import Namespace, join
from qhybridd.config import Config, Endpoint
from qhybridd.distill.authenticate import Role
from qhybridd.errors import OperatorError

FIBRE: Final = "fibre"
"""Name of the cable's end at each gateway; its other end, in the middle, has the gateway's name."""
HALF: Final = {4: 25, 6: 121}
"""Prefix length of each half of the way: Alice's photon endpoint lies in one, Bob's end gets the other."""
_FORWARD: Final = "for switch in ipv4/ip_forward ipv6/conf/all/forwarding; do echo 1 > /proc/sys/net/$switch; done"


def photons_of(configs: Mapping[str, Config]) -> tuple[str, Endpoint] | None:
    """Who of the two gateways is Alice, and where she listens for photons; None where there is no such cable.

    That is where no link is configured, or its endpoint is an address of the control channel. Raises `OperatorError`
    (host.lab) for two files that do not describe one link.
    """
    ends = {name: list(config.links.values()) for name, config in configs.items()}
    if not any(ends.values()):
        return None
    if any(len(links) != 1 for links in ends.values()):
        raise OperatorError("host.lab", "a laboratory has one link, in both configurations, or none")
    roles = {links[0].role: name for name, links in ends.items()}
    named = {(links[0].name, links[0].photons) for links in ends.values()}
    if set(roles) != set(Role) or len(named) != 1:
        raise OperatorError("host.lab", "the two configurations do not describe the two ends of one link")
    _, photons = named.pop()
    alice = roles[Role.ALICE]
    underlay = {listener.host for listener in configs[alice].gateway.listen}
    return None if photons.host in underlay else (alice, photons)


def lay(alice: tuple[str, Namespace], middle: Namespace, bob: tuple[str, Namespace], host: str) -> None:
    """Join both gateways to the middle, which forwards. Alice's end has the address `host`."""
    here = ip_interface(f"{host}/{HALF[ip_interface(host).version]}").network
    there = type(here)((int(here.network_address) ^ here.num_addresses, here.prefixlen))
    for (name, gateway), own, way, other in ((alice, host, here, there), (bob, str(there[1]), there, here)):
        join(gateway, middle, FIBRE, name)
        gateway.add_address(FIBRE, ip_interface(f"{own}/{way.prefixlen}"))
        middle.add_address(name, ip_interface(f"{way[-2]}/{way.prefixlen}"))
        gateway.add_route(str(other), via=str(way[-2]))
    middle.run(["sh", "-c", _FORWARD])
