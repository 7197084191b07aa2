"""When one end begins, or asks for, the next rotation of a tunnel: period, wishes, backoff after failures."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from qhybridd.protocol.actions import LiveEpoch

BACKOFF_S: Final = 0.5
"""First wait after a failed attempt; it doubles, with jitter, up to the next bound or half the period."""
MAX_BACKOFF_S: Final = 30.0
LEAD_S: Final = 5.0
"""A tunnel that waits for WireGuard's handshake begins so much earlier: that one comes 120 s after the last, and a key
that is installed a moment too late waits for the next."""
WANT_GRACE: Final = 0.05
"""The answerer asks for an overdue rotation this part of the period later: the proposer's own clock is first."""


@dataclass(slots=True)
class Schedule:
    """Times are CLOCK_BOOTTIME seconds."""

    period_s: int
    waits: bool
    """Whether keys enter at WireGuard's own handshake (`renew = "wait"`), with which the period is in step then."""
    seamless: bool
    """Whether keys stand side by side: a period may be as short as a rotation, whose own time then counts."""
    jitter: Callable[[], float]
    """Numbers in [0, 1); they spread retries."""
    since: float = 0.0
    """From when the period counts: the last proof under traffic where it waits for that, where it is seamless the
    beginning of the attempt, else the combining."""
    failures: int = 0
    """Failed attempts since the last live epoch or new session."""
    wanted: bool = False
    """Somebody asked for a rotation before its time."""
    reset: bool = False
    """The next rotation forces a handshake."""
    not_before: float = 0.0

    def due(self, live: LiveEpoch | None, *, proposes: bool) -> float:
        """When the next rotation is to begin at this end."""
        if self.wanted or live is None:
            return self.not_before
        grace = 0.0 if proposes else self.period_s * WANT_GRACE
        lead = min(LEAD_S, self.period_s / 2) if self.waits else 0.0
        return max(self.since + self.period_s - lead + grace, self.not_before)

    def want(self, now: float, *, reset: bool) -> None:
        """A rotation is wished for now."""
        self.wanted = True
        self.reset = self.reset or reset
        self.not_before = now

    def failed(self, now: float) -> None:
        """An attempt failed: wait, longer each time."""
        self.failures += 1
        pause = min(BACKOFF_S * 2 ** min(self.failures - 1, 16), MAX_BACKOFF_S, self.period_s / 2)
        self.not_before = now + pause * (0.5 + self.jitter() / 2)

    def fresh(self, now: float) -> None:
        """A new session: what failed on the old one says nothing of this one."""
        self.failures = 0
        self.not_before = now

    def succeeded(self, now: float, live: LiveEpoch, began_at: float) -> None:
        """An epoch is live: every wish is fulfilled."""
        self.fresh(now)
        self.since = now if self.waits else began_at if self.seamless else live.combined_at
        self.wanted = self.reset = False
