"""What the guard is tried on: a host behind a gateway, and a far end with two ways to it.

    host ── lan0 ─ gw ═ wg0 ══ far      protected 10.20.0.0/16 and fd20::/16
                   gw ─ wan0 ─ far      everything else, and the default route

`wg0` is a plain cable here: the guard knows a device by its name alone. Every probe passes without the guard: what
fails with it fails because of it.
"""

import asyncio
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from ipaddress import ip_address
from typing import Any

from qhybridd.guard import Guard, GuardedEsp, GuardedTunnel
from tests.netns.namespaces import Lab, inside
from tests.netns.packets import Packets

SITE = GuardedTunnel("site-b", "wg0", ("10.20.0.0/16", "fd20::/16"))
FAR, FAR6 = "10.20.0.2", "fd20::2"


@contextmanager
def cables() -> Iterator[Lab]:
    """The namespaces, and every probe of the tables below passes."""
    with Lab() as lab:
        lab.add("host", "gw", "far")
        lab.veth(("host", "lan0", ("10.1.0.2/24", "fd01::2/64")), ("gw", "lan0", ("10.1.0.1/24", "fd01::1/64")))
        lab.veth(
            ("gw", "wg0", ("10.20.255.1/24", "fd20::ff01/128")), ("far", "wg0", ("10.20.255.2/24", "fd20::ff02/128"))
        )
        for address in (f"{FAR}/32", f"{FAR6}/128"):
            lab.ip("far", "address", "add", address, "dev", "lo")
        lab.veth(("gw", "wan0", ("192.0.2.1/24", "fd99::1/64")), ("far", "wan0", ("192.0.2.2/24", "fd99::2/64")))
        lab.forward("gw")
        for short in ("gw", "far"):  # like a WireGuard device: no neighbours to discover
            lab.ip(short, "link", "set", "wg0", "address", "02:00:00:00:00:20", "arp", "off")
        for route in ("default via 192.0.2.2", "10.20.0.0/16 dev wg0", "default via fd99::2", "fd20::/16 dev wg0"):
            lab.ip("gw", "route", "add", *route.split())
        for route in ("default via 10.1.0.1", "default via fd01::1"):
            lab.ip("host", "route", "add", *route.split())
        for route in ("10.1.0.0/24 dev wg0", "fd20::ff01/128 dev wg0", "fd01::/64 dev wg0"):
            lab.ip("far", "route", "add", *route.split())
        packets = Packets(lab)
        for pair in PROTECTED + ELSEWHERE:  # the first datagrams may wait for neighbours and carriers
            assert any(packets.pass_from(*pair) for _ in range(10)), pair
        yield lab


GW, GW6, HOST, HOST6 = ("gw", "10.20.255.1"), ("gw", "fd20::ff01"), ("host", "10.1.0.2"), ("host", "fd01::2")
FARS, FARS6 = ("far", FAR), ("far", FAR6)
PROTECTED = [
    (GW, FARS),
    (FARS, GW),
    (HOST, FARS),
    (FARS, HOST),
    (GW6, FARS6),
    (FARS6, GW6),
    (HOST6, FARS6),
    (FARS6, HOST6),
]
ELSEWHERE = [
    (("gw", "192.0.2.1"), ("far", "192.0.2.2")),
    (("far", "192.0.2.2"), ("gw", "192.0.2.1")),
    (HOST, ("far", "192.0.2.2")),
    (("gw", "fd99::1"), ("far", "fd99::2")),
    (("gw", "10.1.0.1"), HOST),
    (("gw", "127.0.0.1"), ("gw", "127.0.0.1")),
    (GW, GW),
]


def passing(packets: Packets, pairs: list[tuple[tuple[str, str], tuple[str, str]]]) -> list[bool]:
    return [packets.pass_from(*pair) for pair in pairs]


def guarded(lab: Lab, work: Callable[[Guard], Coroutine[Any, Any, None]]) -> None:
    """Run `work` with a guard of the gateway's namespace."""

    async def whole() -> None:
        with inside(lab.name("gw")):
            guard = Guard()
        try:
            await work(guard)
        finally:
            await guard.close()

    asyncio.run(whole())


ESPS = (
    GuardedTunnel(
        "esp4", "", ("198.51.100.2/32",), (), GuardedEsp(0x51000007, *map(ip_address, ("198.51.100.1", "198.51.100.2")))
    ),
    GuardedTunnel(
        "esp6", "ipsec0", ("fd30::/16",), (), GuardedEsp(0x51000008, *map(ip_address, ("fd99::1", "fd99::2")))
    ),
    GuardedTunnel(
        "udp4", "", ("10.50.0.0/16",), (), GuardedEsp(0x51000009, *map(ip_address, ("192.0.2.1", "192.0.2.2")), 4500)
    ),
)
