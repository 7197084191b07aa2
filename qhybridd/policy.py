"""What a tunnel's keys must rest on, and when they change. Pure: `now` and the supply come in."""

from dataclasses import dataclass
from typing import Final

from qhybridd.crypto.levels import Level

REKEY_AFTER_S: Final = 120
"""WireGuard's REKEY_AFTER_TIME: an initiator makes a new handshake with the first packet after it (whitepaper, 6.1)."""
REJECT_AFTER_S: Final = 180
"""WireGuard's REJECT_AFTER_TIME: a session is dead after it (whitepaper, section 6.1)."""
RESET_MARGIN_S: Final = 5
"""Time for one more rotation with a forced handshake before the old key expires (REKEY_TIMEOUT is 5 s)."""
MIN_PERIOD_S: Final = 2
"""Shortest period of a WireGuard tunnel: a forced handshake costs the packets in flight each time."""
MIN_SEAMLESS_PERIOD_S: Final = 1
"""Shortest period where both keys stand side by side: a rotation takes a few round trips."""
SEAMLESS_MARGIN_S: Final = 2
"""Time for one more such rotation before the old key expires."""


@dataclass(frozen=True, slots=True)
class Policy:
    """The policy of one tunnel at this end."""

    least: Level
    """The least level that a key may rest on."""
    period_s: int
    """A new epoch is begun this long after the live one was combined; where it is seamless, after that was begun."""
    expiry_s: int
    """The hard expiry: traffic stops this long after the live epoch was combined."""
    reset: bool
    """`renew = "reset"`: every rotation forces a handshake."""
    kems: tuple[int, ...]
    """Wire codes of the KEMs of every epoch, in order."""
    qkd: bool = False
    """Whether the tunnel has a QKD key source."""
    seamless: bool = False
    """Whether a new key stands beside the old one until both ends use it, so that a rotation takes round trips only."""

    @property
    def waits(self) -> bool:
        """Whether a new key enters at WireGuard's own handshake, minutes after it was agreed."""
        return not self.reset and not self.seamless

    def propose(self, *, qkd_ready: bool) -> Level | None:
        """The level to propose now: the highest that can be had; None when that is under `least`."""
        best = Level.HYBRID if self.qkd and qkd_ready else Level.PQC
        return best if best >= self.least else None

    def accepts(self, level: Level) -> bool:
        """Whether this end takes a key of `level`."""
        return level >= self.least
