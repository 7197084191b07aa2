"""How a link fares at one end: what became of its blocks, for the status and the log. Pure."""

from collections import deque
from dataclasses import dataclass
from typing import Final, Literal

from qhybridd.distill.record import BlockRecord
from qhybridd.distill.session import Dropped
from qhybridd.errors import CODES, PeerError, QhybriddError

RATE_S: Final = 60.0
"""Over so long the key rate is told."""
SUSPICIOUS: Final = frozenset({"link.attack", "link.blinding", "link.timing", "link.mismatch", "link.authentication"})
"""Codes behind which somebody may stand."""

News = Literal["up", "recovered", "kept", "attack", "dropped"]


@dataclass(frozen=True, slots=True)
class Standing:
    """Whether the link gives keys."""

    state: Literal["up", "starting", "down"]
    why: str = ""
    code: str = ""
    hint: str = ""


class Progress:
    """Filled block by block. Times are those of `clock.boottime`."""

    def __init__(self) -> None:
        self.kept = self.dropped = 0
        self.qber_key: float | None = None
        self.qber_test: float | None = None
        self.clicks_per_s = 0.0
        self.kept_at: float | None = None
        self.trouble: QhybriddError | None = None
        """Why the last block gave no key; None when it did, and before the first."""
        self._gains: deque[tuple[float, int]] = deque()
        self._begun_at: float | None = None

    def note_kept(self, record: BlockRecord, block_s: float, now: float) -> News:
        """A block counts; `block_s` is its time on the link."""
        self._note(record, block_s)
        news: News = "kept" if self.trouble is None and self.kept else "up" if not self.kept else "recovered"
        self.kept += 1
        self.kept_at, self.trouble = now, None
        if self._begun_at is None:
            self._begun_at = now - block_s
        self._gains.append((now, record.net_bits))
        self._forget(now)
        return news

    def note_dropped(self, error: QhybriddError, record: BlockRecord | None, block_s: float) -> News:
        """A block came to nothing; `record` where it was distilled at all."""
        if record is not None:
            self._note(record, block_s)
        self.dropped += 1
        self.trouble = error
        return "attack" if error.code in SUSPICIOUS else "dropped"

    def key_bits_per_s(self, now: float) -> float:
        """Net, over the last minute, or since the first block if that is less."""
        self._forget(now)
        if self._begun_at is None:
            return 0.0
        return sum(bits for _, bits in self._gains) / max(1.0, min(RATE_S, now - self._begun_at))

    def standing(self, hindrance: QhybriddError | None) -> Standing:
        """`hindrance`: what keeps blocks from coming at all, if anything does."""
        error = hindrance or self.trouble
        if error is not None:
            return Standing("down", error.message, error.code, error.hint)
        if not self.kept:
            return Standing("starting", "no block has given a key yet")
        return Standing("up")

    def _note(self, record: BlockRecord, block_s: float) -> None:
        self.qber_key, self.qber_test = record.qber_key, record.qber_test
        self.clicks_per_s = (record.sizes.clicks or 0) / block_s

    def _forget(self, now: float) -> None:
        while self._gains and self._gains[0][0] < now - RATE_S:
            self._gains.popleft()


def told(code: str, reason: str) -> PeerError:
    """The reason of a lost block as an error; a code that is unknown here, or another matter, becomes link.aborted."""
    if code in CODES:
        return PeerError(code, reason)
    return PeerError("link.aborted", f"{reason} [{code}]")


def reason_of(dropped: Dropped) -> str:
    """Why a block was dropped: with the error rate, where it is the other end's word that there is too much of it."""
    qber = dropped.record.qber_test
    if dropped.code == "link.attack" and qber is not None and "QBER" not in dropped.reason:
        return f"{dropped.reason}; QBER {qber:.2%} in the test basis"
    return dropped.reason
