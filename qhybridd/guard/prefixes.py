"""Which tunnel an address belongs to: prefixes of many tunnels flattened into intervals that never overlap.

An address belongs to the tunnel with the most specific prefix around it, on whatever interface that tunnel is. An
`except` prefix takes its addresses out of the prefixes of its own tunnel that are wider than it; a less specific prefix
of another tunnel may then cover them.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_network

from qhybridd.errors import OperatorError

Network = IPv4Network | IPv6Network


@dataclass(frozen=True, slots=True)
class GuardedEsp:
    """How the guard knows the packets of an XFRM tunnel."""

    reqid: int
    local: IPv4Address | IPv6Address
    """Outer address of this gateway."""
    remote: IPv4Address | IPv6Address
    """Outer address of the other one. ESP to it passes, even where the tunnel protects it."""
    encapsulation: int = 0
    """UDP port of ESP in UDP at both ends; 0: plain ESP."""


@dataclass(frozen=True, slots=True)
class GuardedTunnel:
    """What the guard needs to know of a tunnel."""

    name: str
    interface: str
    """The device that the tunnel's packets enter and leave by."""
    protects: tuple[str | Network, ...]
    """The prefixes at the other end."""
    excepts: tuple[str | Network, ...] = ()
    """Prefixes within `protects` that are not protected."""
    esp: GuardedEsp | None = None
    """For an XFRM tunnel; `interface` may be empty then. None: the interface alone tells the tunnel's packets."""


@dataclass(frozen=True, slots=True)
class Interval:
    """Addresses from `first` to `last`, both included, belong to `tunnel`."""

    first: int
    last: int
    tunnel: str
    """Its name."""


@dataclass(frozen=True, slots=True)
class Intervals:
    """Both address families, each sorted, without overlap, neighbours of one tunnel joined."""

    ipv4: tuple[Interval, ...]
    ipv6: tuple[Interval, ...]


@dataclass(frozen=True, slots=True)
class _Claim:
    """One prefix of one tunnel, as numbers."""

    first: int
    last: int
    tunnel: str
    protects: bool
    """False for an `except` prefix."""


def flatten(tunnels: Iterable[GuardedTunnel]) -> Intervals:
    """The intervals of all tunnels.

    Raises `OperatorError`: config.duplicate where two tunnels protect the same prefix or one does so twice,
    config.value where a prefix does not parse, or an exception takes nothing out or contradicts a protected prefix.
    """
    tunnels = tuple(tunnels)
    owners: dict[Network, str] = {}
    claims: dict[int, list[_Claim]] = {4: [], 6: []}
    for tunnel in tunnels:
        protects = [parse_prefix(item, tunnel.name) for item in tunnel.protects]
        for network in protects:
            if network in owners:
                raise _duplicate(network, owners[network], tunnel.name)
            owners[network] = tunnel.name
            claims[network.version].append(_claim(network, tunnel.name, protects=True))
        for network in {parse_prefix(item, tunnel.name) for item in tunnel.excepts}:
            _check_exception(network, protects, tunnel.name)
            claims[network.version].append(_claim(network, tunnel.name, protects=False))
    return Intervals(tuple(_merge(_sweep(claims[4]))), tuple(_merge(_sweep(claims[6]))))


def parse_prefix(item: str | Network, where: str) -> Network:
    """A prefix without host bits. Raises `OperatorError` (config.value)."""
    try:
        return ip_network(item)
    except ValueError as error:
        raise OperatorError("config.value", f"{item!r} is not a prefix: {error}", where=f"tunnel {where}") from None


def _duplicate(network: Network, first: str, second: str) -> OperatorError:
    who = f"tunnel {first} twice" if first == second else f"both tunnel {first} and tunnel {second}"
    return OperatorError(
        "config.duplicate",
        f"{network} is protected by {who}",
        where=f"tunnel {second}",
        hint="Give the prefix to one tunnel, once; a more specific prefix of another tunnel is allowed.",
    )


def _check_exception(network: Network, protects: Sequence[Network], name: str) -> None:
    if network in protects:
        raise OperatorError(
            "config.value",
            f"{network} is protected and excepted at once",
            where=f"tunnel {name}",
            hint="Remove it from `protects` or from `except`.",
        )
    for wider in protects:
        if wider.version == network.version and wider != network and _contains(wider, network):
            return
    raise OperatorError(
        "config.value",
        f"the exception {network} lies in no wider prefix that the tunnel protects",
        where=f"tunnel {name}",
        hint="Remove the exception, or correct it.",
    )


def _contains(wider: Network, network: Network) -> bool:
    return wider.network_address <= network.network_address and network.broadcast_address <= wider.broadcast_address  # type: ignore[operator]


def _claim(network: Network, tunnel: str, *, protects: bool) -> _Claim:
    return _Claim(int(network.network_address), int(network.broadcast_address), tunnel, protects)


def _sweep(claims: list[_Claim]) -> Iterator[Interval]:
    """Walk the address line. Prefixes nest or are apart, so those around a point form a stack, the widest below."""
    claims.sort(key=lambda claim: (claim.first, -claim.last))
    stack: list[_Claim] = []
    at = 0
    for claim in claims:
        while stack and stack[-1].last < claim.first:
            yield from _cut(stack, at, stack[-1].last)
            at = stack.pop().last + 1
        yield from _cut(stack, at, claim.first - 1)
        at = claim.first
        stack.append(claim)
    while stack:
        yield from _cut(stack, at, stack[-1].last)
        at = stack.pop().last + 1


def _cut(stack: list[_Claim], first: int, last: int) -> Iterator[Interval]:
    if first <= last and (tunnel := _owner(stack)) is not None:
        yield Interval(first, last, tunnel)


def _owner(stack: list[_Claim]) -> str | None:
    """From the most specific to the widest: the first prefix that its own tunnel's exceptions leave standing."""
    excepted = set()
    for claim in reversed(stack):
        if not claim.protects:
            excepted.add(claim.tunnel)
        elif claim.tunnel not in excepted:
            return claim.tunnel
    return None


def _merge(intervals: Iterable[Interval]) -> Iterator[Interval]:
    before: Interval | None = None
    for interval in intervals:
        if before is not None and before.tunnel == interval.tunnel and before.last + 1 == interval.first:
            before = Interval(before.first, interval.last, interval.tunnel)
            continue
        if before is not None:
            yield before
        before = interval
    if before is not None:
        yield before
