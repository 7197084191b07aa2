"""What every attack is, and what it counts."""

from dataclasses import dataclass
from typing import Protocol

from qhybridd.optics.records import Arrivals, Request


@dataclass(frozen=True, slots=True)
class Tally:
    """What an attack did and gained so far. A report for her alone: no part of the link reads it.

    It counts with what only the simulation knows (Alice's bases), so that it need not wait for them to be public.
    """

    pulses: int = 0
    """Pulses of the frames that passed, dark ones too."""
    passed: int = 0
    """Pulses with light that she handed on."""
    touched: int = 0
    """Those of them that she did something to."""
    stopped: int = 0
    """Pulses with light that came to her and that she did not hand on."""
    photons_kept: int = 0
    bits: float = 0.0
    """What she knows of Alice's bits of the pulses handed on, once the bases are public: 1 for a bit known for sure,
    1 - h(p) for one that she guesses with probability p."""

    def __add__(self, other: "Tally") -> "Tally":
        return Tally(
            self.pulses + other.pulses,
            self.passed + other.passed,
            self.touched + other.touched,
            self.stopped + other.stopped,
            self.photons_kept + other.photons_kept,
            self.bits + other.bits,
        )


class Attack(Protocol):
    """One way of standing between Alice and Bob. Used by one thread at a time."""

    name: str

    def request(self, below: Request) -> Request:
        """What she asks of the upper end when the lower one asked `below` of her."""
        ...

    def act(self, arrivals: Arrivals, below: Request) -> Arrivals:
        """What goes on to Bob of one frame that came for `request(below)`. The frame's arrays are not changed."""
        ...

    @property
    def tally(self) -> Tally:
        """What it came to."""
        ...
