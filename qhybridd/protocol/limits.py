"""Who may begin a handshake: half-open ones bounded in all and by source, rates bounded by source, memory bounded.

Addresses that authenticated before have places of their own, so that strangers cannot keep the peer out. A source is an
IPv4 address or an IPv6 /64: the least that a site is given (RFC 6177), within which addresses cost nothing.
"""

import ipaddress
from collections import OrderedDict
from dataclasses import dataclass
from typing import Final

from qhybridd.errors import ProgramError

MAX_HALF_OPEN: Final = 64
"""Handshakes under way at once: about 1.5 MiB of buffers and less than half a second of one core."""
KEPT_PLACES: Final = 16
"""Of these, for addresses that authenticated before."""
MAX_HALF_OPEN_PER_SOURCE: Final = 8
BURST: Final = 8.0
"""Connections that a source may open at once: a restart, two pins, two suites, and again."""
RATE_PER_S: Final = 1.0
"""And thereafter."""
MAX_SOURCES: Final = 4096
"""Bound of each table."""

Source = ipaddress.IPv4Address | ipaddress.IPv6Network


@dataclass(slots=True)
class _Bucket:
    tokens: float
    at: float
    """When `tokens` was true."""


def source_of(address: str) -> Source:
    """What is counted for an address. Raises `ProgramError` for what is no IP address."""
    try:
        ip = ipaddress.ip_address(address)
    except ValueError:
        raise ProgramError("program.argument", f"no IP address: {address!r}") from None
    if isinstance(ip, ipaddress.IPv4Address):
        return ip
    return ip.ipv4_mapped or ipaddress.IPv6Network((int(ip), 64), strict=False)


class Admission:
    """The door of the listening socket. Each admitted connection is released once, by the same address."""

    __slots__ = ("_buckets", "_half_open", "_known")

    def __init__(self) -> None:
        self._half_open: dict[Source, int] = {}
        self._buckets: OrderedDict[Source, _Bucket] = OrderedDict()
        """Sources with less than a full bucket, the longest untouched first."""
        self._known: OrderedDict[Source, None] = OrderedDict()
        """Sources that authenticated, the longest ago first."""

    @property
    def half_open(self) -> int:
        """Handshakes under way."""
        return sum(self._half_open.values())

    def admit(self, address: str, now: float) -> bool:
        """Whether a connection from `address` may begin its handshake; if so it holds a place until `release`."""
        source = source_of(address)
        places = MAX_HALF_OPEN if source in self._known else MAX_HALF_OPEN - KEPT_PLACES
        held = self._half_open.get(source, 0)
        if self.half_open >= places or held >= MAX_HALF_OPEN_PER_SOURCE or not self._spend(source, now):
            return False
        self._half_open[source] = held + 1
        return True

    def authenticated(self, address: str, now: float) -> None:
        """A handshake from `address` was finished: it has a kept place from now on, and a full bucket."""
        source = source_of(address)
        self._known[source] = None
        self._known.move_to_end(source)
        if len(self._known) > MAX_SOURCES:
            self._known.popitem(last=False)
        self._buckets.pop(source, None)
        self._forget_full(now)

    def release(self, address: str) -> None:
        """The handshake is over, well or badly."""
        source = source_of(address)
        held = self._half_open.get(source, 0)
        if not held:
            raise ProgramError("program.state", f"{address} holds no place")
        if held == 1:
            del self._half_open[source]
        else:
            self._half_open[source] = held - 1

    def _spend(self, source: Source, now: float) -> bool:
        """Take a token from the source's bucket (a token bucket, RFC 2697 section 3 with one colour)."""
        bucket = self._buckets.get(source)
        if bucket is None:
            self._forget_full(now)
            if len(self._buckets) >= MAX_SOURCES and source not in self._known:
                return False
            bucket = self._buckets[source] = _Bucket(BURST, now)
        bucket.tokens = min(BURST, bucket.tokens + (now - bucket.at) * RATE_PER_S)
        bucket.at = now
        self._buckets.move_to_end(source)
        if bucket.tokens < 1:
            return False
        bucket.tokens -= 1
        return True

    def _forget_full(self, now: float) -> None:
        """A bucket untouched for as long as it takes to fill is the same as none."""
        while self._buckets and next(iter(self._buckets.values())).at + BURST / RATE_PER_S <= now:
            self._buckets.popitem(last=False)
