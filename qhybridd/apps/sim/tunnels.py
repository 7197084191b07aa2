"""Tunnels that take keys from the two stores of a simulated link, as rotations do: reserve here, fetch there."""

from dataclasses import dataclass
from typing import Final

from qhybridd.apps.sim.link import SimulatedLink
from qhybridd.errors import HostError, ProgramError
from qhybridd.keystore import UNIT_BITS
from qhybridd.optics.randomness import Randomness

LOST_SHARE: Final = 1e-2
"""Share of the rotations that fail after their key was reserved: it is burnt."""


@dataclass(slots=True)
class Tunnels:
    """So many tunnels, each with a fresh key every period; their rotations follow each other evenly."""

    count: int
    period_s: float
    randomness: Randomness
    rotations: int = 0
    """That got a key."""
    starved: int = 0
    """That found none in store."""
    failed: int = 0
    """That failed after their key was reserved."""
    _due: int = 0

    def at(self, link: SimulatedLink, now: float) -> None:
        """Whatever rotation has become due."""
        if not self.count:
            return
        while (self._due + 1) * self.period_s / self.count <= now:
            self._due += 1
            self._rotate(link, self._due * self.period_s / self.count)

    def _rotate(self, link: SimulatedLink, now: float) -> None:
        """Both gateways propose in turn."""
        here, there = (link.alice_store, link.bob_store)[:: 1 if self._due % 2 else -1]
        here.tick(now)
        there.tick(now)
        try:
            ids, mine = here.reserve(UNIT_BITS, now)
        except HostError:
            self.starved += 1
            return
        if self.randomness.uniform(1)[0] < LOST_SHARE:
            self.failed += 1
            here.burn(ids, now)  # the peer learns of it when the two compare what is in store
        else:
            theirs = there.fetch(ids, UNIT_BITS, now)
            if mine != theirs:
                raise ProgramError("program.state", "two gateways hold different keys under one ID")
            theirs.wipe()
            self.rotations += 1
        mine.wipe()


def compare_stores(link: SimulatedLink) -> None:
    """Both ends tell each other what is in store."""
    alice, bob = link.alice_store, link.bob_store
    hers, his = alice.listing(), bob.listing()
    alice.meet(his, link.now)
    bob.meet(hers, link.now)
