"""Which of the connections to one peer is the session in use, and when to dial. Pure: events in, actions out.

Whoever has an endpoint for the other dials, the lower fingerprint at once, the higher a little later. Of two sessions
the newer authenticated one wins, ties by the lower's dial. A session that is replaced drains before it is closed.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

HIGHER_WAITS_S: Final = 3.0
"""The higher fingerprint's head start for the lower one, so that two dials seldom cross."""
TIE_S: Final = 5.0
"""Two sessions dialled by both ends within this time are a tie: each end may have seen the other one first."""
RENEW_S: Final = 3600.0
"""A fresh handshake replaces the session after this time, the dialler's affair."""
RENEW_LEAST_S: Final = 20.0
"""Whoever asks for one earlier waits until the session is so old."""
DRAIN_S: Final = 10.0
"""How long a replaced session may go on to end its rotation."""
BACKOFF_S: Final = 0.5
MAX_BACKOFF_S: Final = 5.0
"""A dial costs both ends about a millisecond; a tunnel with a short expiry cannot wait longer after a cut."""


@dataclass(frozen=True, slots=True)
class Dial:
    """Open a connection and name it `connection`."""

    connection: int


@dataclass(frozen=True, slots=True)
class Use:
    """This connection's session is the one in use from now on."""

    connection: int


@dataclass(frozen=True, slots=True)
class Drop:
    """Close this connection in good order."""

    connection: int


Action = Dial | Use | Drop


@dataclass(slots=True)
class _Session:
    by_lower: bool
    """Whether the end with the lower fingerprint dialled."""
    dialled: bool
    since: float


class Peering:
    """All connections to one peer, by number. Times are CLOCK_BOOTTIME seconds."""

    def __init__(self, *, lower: bool, dials: bool, jitter: Callable[[], float], now: float) -> None:
        """`lower`: this end has the lower fingerprint. `dials`: it has an endpoint. `jitter`: numbers in [0, 1)."""
        self.current: int | None = None
        """The connection in use."""
        self.dialling: int | None = None
        self.dials = dials
        """Whether this end may dial at all."""
        self._lower = lower
        self._jitter = jitter
        self._sessions: dict[int, _Session] = {}
        self._drain_until: dict[int, float] = {}
        self._failures = 0
        self._numbers = 0
        self._dial_at = now + (0.0 if lower else HIGHER_WAITS_S)
        self._renew_at: float | None = None
        """When a fresh handshake was asked for."""

    def number(self) -> int:
        """A number for a connection that the peer opened."""
        self._numbers += 1
        return self._numbers

    def deadline(self) -> float | None:
        """When to call `tick`."""
        times = list(self._drain_until.values())
        if self.dials and self.dialling is None:
            times.append(self._next_dial())
        return min(times, default=None)

    def tick(self, now: float) -> list[Action]:
        """Drop what has drained, dial when it is time."""
        actions: list[Action] = []
        for connection, until in list(self._drain_until.items()):
            if now >= until:
                del self._drain_until[connection]
                actions.append(Drop(connection))
        if self.dials and self.dialling is None and now >= self._next_dial():
            self.dialling = self.number()
            actions.append(Dial(self.dialling))
        return actions

    def drained(self, connection: int, now: float) -> None:
        """Nothing needs a replaced session any longer."""
        if connection in self._drain_until:
            self._drain_until[connection] = now

    def renew(self, now: float) -> bool:
        """Replace the session in use by a fresh handshake as soon as may be; False where only the peer can dial."""
        if not self.dials or self.current is None:
            return False
        self._renew_at = max(now, self._sessions[self.current].since + RENEW_LEAST_S)
        return True

    @property
    def draining(self) -> tuple[int, ...]:
        """Replaced sessions that still run."""
        return tuple(self._drain_until)

    def up(self, connection: int, *, dialled: bool, lower: bool, now: float) -> list[Action]:
        """A connection's handshake is done; `dialled` by this end, which has the `lower` fingerprint in it or not.

        What the handshake showed counts here: a peer that rolls its identity over has two fingerprints.
        """
        if connection == self.dialling:
            self.dialling = None
        self._failures = 0
        self._renew_at = None
        new = _Session(by_lower=dialled == lower, dialled=dialled, since=now)
        self._sessions[connection] = new
        old = self._sessions[self.current] if self.current is not None else None
        if old is not None:
            tie = old.by_lower != new.by_lower and now - old.since < TIE_S
            if tie and old.by_lower:
                return [Drop(connection)]
            assert self.current is not None
            self._drain_until[self.current] = now + DRAIN_S
        self.current = connection
        return [Use(connection)]

    def down(self, connection: int, now: float) -> list[Action]:
        """A connection ended, or a dial came to nothing."""
        self._drain_until.pop(connection, None)
        established = self._sessions.pop(connection, None)
        if connection == self.dialling:
            self.dialling = None
            if established is None:
                self._failures += 1
                pause = min(BACKOFF_S * 2 ** min(self._failures - 1, 8), MAX_BACKOFF_S)
                self._dial_at = now + pause * (0.5 + self._jitter() / 2)
        if connection != self.current:
            return []
        self.current = next(reversed(self._sessions), None)
        if self.current is None:
            self._dial_at = now + (0.0 if self._lower else HIGHER_WAITS_S) + BACKOFF_S * self._jitter()
            return []
        self._drain_until.pop(self.current, None)
        return [Use(self.current)]

    def _next_dial(self) -> float:
        if self.current is None:
            return self._dial_at
        session = self._sessions[self.current]
        if self._renew_at is not None:
            return max(self._renew_at, self._dial_at)
        if not session.dialled:
            return float("inf")
        return max(session.since + RENEW_S, self._dial_at)
