"""A distilled block, cut into keys of 256 bits: each a secret of its own in locked memory, wiped as it leaves."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from qhybridd.bits import Bits
from qhybridd.crypto.kdf import Label, lp, sha384, u64
from qhybridd.distill.authenticate import Role
from qhybridd.errors import HostError
from qhybridd.secret import Secret

UNIT_BITS: Final = 256
"""One key: the strength of the keys that come of it, and ETSI GS QKD 014's default size."""
UNIT_BYTES: Final = UNIT_BITS // 8
KEY_ID_BYTES: Final = 16


def unit_id(block: bytes, owner: Role, number: int) -> bytes:
    """The public name of a key, the same at both ends, 16 bytes: of its block, whose it is to reserve, its number."""
    return sha384(Label.UNIT_KEY_ID.encoded, lp(block, owner.value.encode()), u64(number))[:KEY_ID_BYTES]


class Half:
    """What is left of one direction of a block."""

    __slots__ = ("_block", "_count", "_first", "_owner", "_units")

    def __init__(self, block: bytes, owner: Role, units: Sequence[Secret]) -> None:
        self._block, self._owner, self._count = block, owner, len(units)
        self._units = dict(enumerate(units))
        self._first = 0

    def __len__(self) -> int:
        """How many keys are left."""
        return len(self._units)

    def __iter__(self) -> Iterator[int]:
        """Their numbers, ascending."""
        return iter(self._units)

    @property
    def first(self) -> int:
        """The lowest number that is left; one past the highest that ever was when none is."""
        while self._first < self._count and self._first not in self._units:
            self._first += 1
        return self._first

    def id_of(self, number: int) -> bytes:
        """The public name of a key of this half."""
        return unit_id(self._block, self._owner, number)

    def take(self, number: int) -> Secret:
        """One key, gone from here."""
        return self._units.pop(number)


@dataclass(slots=True, eq=False)
class Block:
    """A block in store."""

    key_id: bytes
    own: Half
    """For this end to reserve."""
    peer: Half
    """For the peer to reserve: kept here until it is fetched."""
    added_at: float
    confirmed: bool = False
    """Whether the peer is known to have kept it too."""

    def __len__(self) -> int:
        return len(self.own) + len(self.peer)


def cut(key: Bits) -> tuple[list[Secret], list[Secret]]:
    """The keys of a block: those that Alice reserves, and those that Bob does. The block is wiped, whatever happens.

    Alice has the first half and the odd one. Raises `HostError` (host.memory) where no locked memory is left.
    """
    units: list[Secret] = []
    try:
        with key.expose() as source:
            for number in range(key.length // UNIT_BITS):
                units.append(Secret(UNIT_BYTES))
                with units[-1].expose() as target:
                    target[:] = source[number * UNIT_BYTES : (number + 1) * UNIT_BYTES]
    except HostError:
        wipe_all(units)
        raise
    finally:
        key.wipe()
    middle = (len(units) + 1) // 2
    return units[:middle], units[middle:]


def wipe_all(units: Iterable[Secret]) -> None:
    """Overwrite them with zeros."""
    for unit in units:
        unit.wipe()


def move(units: Sequence[Secret], target: Secret) -> None:
    """Run the keys together in `target`, and wipe them."""
    with target.expose() as text:
        for number, unit in enumerate(units):
            with unit.expose() as source:
                text[number * UNIT_BYTES : (number + 1) * UNIT_BYTES] = source
            unit.wipe()
