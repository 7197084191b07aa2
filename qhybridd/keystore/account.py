"""Where every distilled bit went, and how full the store is."""

from dataclasses import dataclass
from enum import StrEnum


@dataclass(frozen=True, slots=True)
class Account:
    """The books of one end, in bits since the store was made: `distilled_bits` is the sum of all the others."""

    distilled_bits: int
    """Of kept blocks: net keys, and the pads that were taken off before them."""
    used_bits: int
    """Reserved here, or fetched after the peer reserved them."""
    expired_bits: int
    """Too old, pushed out by newer keys, or no longer offered by the peer whose they were to reserve."""
    burnt_bits: int
    """Of failed rotations, of blocks that one end alone kept, and what is left of a block that fills no key."""
    authentication_bits: int
    """Kept back as pads for the link's own tags."""
    own_bits: int
    """In store, for this end to reserve."""
    peer_bits: int
    """In store, for the peer to reserve."""
    waiting_bits: int
    """Of blocks that the peer has not confirmed yet."""

    @property
    def balanced(self) -> bool:
        """Whether every bit is accounted for."""
        spent = self.used_bits + self.expired_bits + self.burnt_bits + self.authentication_bits
        return self.distilled_bits == spent + self.own_bits + self.peer_bits + self.waiting_bits


@dataclass(frozen=True, slots=True)
class Outlook:
    """What can still be reserved when no block comes any more; blocks that wait for the peer's word count as had."""

    own_keys: int
    own_left_s: float
    """Until the youngest of them is too old; 0 when there is none."""
    peer_keys: int
    """As far as this end knows."""
    peer_left_s: float
    """Until the peer takes none of them any more: it got its blocks a message earlier or later than this end."""


class Mark(StrEnum):
    """How full the store is, as far as this end may reserve from it."""

    READY = "ready"
    WARNING = "warning"
    """Few keys are left, and they were more."""
    CHARGING = "charging"
    """It was empty, and does not hold enough yet to rely on."""
    EMPTY = "empty"


class Gauge:
    """The water mark, which depends on the way that the number of keys went."""

    __slots__ = ("_low", "_ready", "mark")

    def __init__(self, low_keys: int, ready_keys: int) -> None:
        self._low, self._ready = low_keys, ready_keys
        self.mark = Mark.EMPTY

    def read(self, keys: int) -> None:
        """Take note that so many keys can be reserved now."""
        if keys == 0:
            self.mark = Mark.EMPTY
        elif self.mark in (Mark.EMPTY, Mark.CHARGING) and keys < self._ready:
            self.mark = Mark.CHARGING
        else:
            self.mark = Mark.WARNING if keys < self._low else Mark.READY
