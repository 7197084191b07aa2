"""Who gets keys when there are not enough: strict tunnels first, then whoever waited longest. Pure: `now` comes in."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from qhybridd.keystore import UNIT_BITS

EARLY: Final = 0.5
"""From this part of its period on a tunnel waits for its next key: a rotation begins up to half a period before its
time (`LEAD_S` in protocol/schedule.py), and the tunnel has to hear before that that there is a key."""


@dataclass(frozen=True, slots=True)
class Claim:
    """What a tunnel is to get: one key a period."""

    period_s: float
    strict: bool
    """Whether it closes without: its least level is hybrid."""


@dataclass(slots=True)
class _Place:
    claim: Claim
    turn: float
    """From when it waits for its next key."""


class Shares:
    """The tunnels that take keys of one link at this end."""

    def __init__(self, available_bits: Callable[[], int]) -> None:
        """`available_bits` says what can be reserved now: the key store's."""
        self._available_bits = available_bits
        self._places: dict[str, _Place] = {}

    def join(self, tunnel: str, claim: Claim, now: float) -> None:
        """The tunnel takes keys from now on and waits for its first; one that is here keeps its turn."""
        place = self._places.setdefault(tunnel, _Place(claim, now))
        place.claim = claim

    def leave(self, tunnel: str) -> None:
        """The tunnel takes no more keys."""
        self._places.pop(tunnel, None)

    def served(self, tunnel: str, now: float) -> None:
        """The tunnel got a key, whatever becomes of it."""
        if tunnel in self._places:
            place = self._places[tunnel]
            place.turn = now + EARLY * place.claim.period_s

    def ready(self, tunnel: str, now: float) -> bool:
        """Whether the tunnel may take a key now."""
        return tunnel in self.all_ready(now)

    def all_ready(self, now: float) -> frozenset[str]:
        """Every tunnel that may take a key now.

        One that waits leaves a key for each that waited longer, one whose turn has not come leaves one for every other.
        A tunnel that is not strict leaves one for every strict one besides, whether that one waits yet or not.
        """
        keys = self._available_bits() // UNIT_BITS
        strict = [name for name, place in self._places.items() if place.claim.strict]
        lax = [name for name, place in self._places.items() if not place.claim.strict]
        return frozenset(self._ready_of(strict, keys, now) + self._ready_of(lax, keys - len(strict), now))

    def _ready_of(self, names: list[str], keys: int, now: float) -> list[str]:
        if keys >= len(names):
            return names
        waiting = [name for name in names if self._places[name].turn <= now]
        return sorted(waiting, key=lambda name: (self._places[name].turn, name))[: max(0, keys)]

    def next_turn(self, now: float) -> float | None:
        """When a tunnel begins to wait, so that `all_ready` may change by itself; None: never, as it is."""
        return min((place.turn for place in self._places.values() if place.turn > now), default=None)
