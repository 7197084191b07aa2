"""The store itself. Pure: `now` comes in. For one thread at a time."""

from collections import OrderedDict
from collections.abc import Iterable, Sequence
from typing import Final

from qhybridd.bits import Bits
from qhybridd.distill.authenticate import Role
from qhybridd.errors import HostError, ProgramError
from qhybridd.keystore.account import Account, Gauge, Mark, Outlook
from qhybridd.keystore.block import KEY_ID_BYTES, UNIT_BITS, Block, Half, cut, move
from qhybridd.keystore.listing import MAX_BLOCKS, MAX_OUTSTANDING, MAX_UNITS, ListedBlock, StoreListing
from qhybridd.protocol.messages import MAX_KEY_IDS
from qhybridd.secret import Secret

ON_ITS_WAY_S: Final = 60.0
"""A message that names a reserved key reaches the peer within one step of the rotation (10 s at most, exchange.py), or
the attempt is over; this leaves room for a loaded host. So long a listing spares the peer's copy, and copies outlive
the owner's keys."""
CONFIRM_S: Final = 600.0
"""The peer's word that it kept a block follows at once, or with its first listing after a cut; of a longer cut it may
cost this one block. A block that never gets it would hold memory for nothing."""
PEER_FACTOR: Final = 2
"""The peer may make this end hold so many times its own capacity. The owner of a direction pushes out first, at the
capacity; the rest is room for what is on its way."""
MAX_GONE: Final = 4096
"""IDs of blocks that are remembered after the blocks. No block of an honest peer comes twice: its ID is a hash over the
session and a number that rises; these refuse what is said twice by mistake."""
LOW_KEYS: Final = 4
READY_KEYS: Final = 16
"""Where the water marks stand: a few rotations before it is empty; enough to ride out a dropped block or two."""


NEVER: Final = float("inf")


class KeyStore:
    """One link's keys at one end."""

    def __init__(
        self,
        role: Role,
        capacity_bits: int,
        max_age_s: float,
        low_keys: int = LOW_KEYS,
        ready_keys: int = READY_KEYS,
    ) -> None:
        """`capacity_bits` for each direction. ALICE reserves from the forward half of each block, BOB from the other.

        Raises `ProgramError` for a capacity below one key, an age or marks that cannot be.
        """
        if capacity_bits < UNIT_BITS or not max_age_s > 0 or not 0 < low_keys <= ready_keys:
            raise ProgramError("program.argument", f"a store of {capacity_bits} bits, {max_age_s} s")
        self.role = role
        self._capacity = capacity_bits // UNIT_BITS
        self._max_age_s = max_age_s
        self._gauge = Gauge(low_keys, min(ready_keys, self._capacity))
        self._blocks: OrderedDict[bytes, Block] = OrderedDict()
        """By ID, the oldest first; none of them is without a key."""
        self._gone: OrderedDict[bytes, None] = OrderedDict()
        self._index: dict[bytes, tuple[Block, int]] = {}
        """Where the peer's keys are, by their IDs."""
        self._outstanding: OrderedDict[bytes, float] = OrderedDict()
        """Reserved keys whose message may still be on its way, and until when."""
        self._idle_until = NEVER
        """No block has a deadline before; a confirmation or the last key of a half may have moved the next one on."""
        self._distilled = self._used = self._expired = self._burnt = self._authentication = 0

    # ---- blocks

    def add(self, key_id: bytes, key: Bits, authentication_bits: int, now: float) -> None:
        """Take over the net key of a kept block, which is wiped; beside it `authentication_bits` went to the pads.

        Nothing of it can be reserved until it is confirmed. Raises `ProgramError` for an ID that was here before,
        `HostError` (host.memory) where no locked memory is left: the block is burnt then.
        """
        if key_id in self._blocks or key_id in self._gone or len(key_id) != KEY_ID_BYTES:
            key.wipe()
            raise ProgramError("program.argument", "a block comes into the store once, under an ID of 16 bytes")
        if authentication_bits < 0:
            key.wipe()
            raise ProgramError("program.argument", f"{authentication_bits} bits for pads")
        self.tick(now)
        self._distilled += key.length + authentication_bits
        self._authentication += authentication_bits
        self._burnt += key.length
        forward, backward = cut(key)
        self._burnt -= UNIT_BITS * (len(forward) + len(backward))
        halves = Half(key_id, Role.ALICE, forward), Half(key_id, Role.BOB, backward)
        own, peer = halves if self.role is Role.ALICE else halves[::-1]
        block = self._blocks[key_id] = Block(key_id, own, peer, now)
        self._idle_until = min(self._idle_until, *self._deadlines(block))
        self._index.update((peer.id_of(number), (block, number)) for number in peer)
        self._make_room()
        self._settle([block])

    def confirm(self, key_id: bytes, now: float) -> None:
        """The peer kept the block too: it can be reserved from. Nothing happens for one that is not here."""
        self.tick(now)
        if key_id in self._blocks:
            self._blocks[key_id].confirmed = True
        self._settle([])

    def discard(self, key_id: bytes) -> None:
        """The peer did not keep the block: it is burnt. Nothing happens for one that is not here."""
        if key_id in self._blocks:
            block = self._blocks[key_id]
            self._burnt += self._drop_all(block)
            self._settle([block])

    # ---- keys

    def reserve(self, bits: int, now: float) -> tuple[tuple[bytes, ...], Secret]:
        """Take keys of this end's own direction, the oldest first: their IDs, and the secrets run together.

        They count as used at once. `bits` is a multiple of 256, 4096 at most. Raises `HostError` (source.empty), and
        `ProgramError` for another number of bits.
        """
        if bits % UNIT_BITS or not 0 < bits <= UNIT_BITS * MAX_KEY_IDS:
            raise ProgramError("program.argument", f"{bits} bits are no whole number of keys, or too many")
        self.tick(now)
        if self.available_bits() < bits:
            raise HostError("source.empty", f"{self.available_bits()} bits of key are in store, {bits} are needed")
        secret = Secret(bits // 8)
        key_ids: list[bytes] = []
        units: list[Secret] = []
        touched: list[Block] = []
        for block in self._blocks.values():
            if block.confirmed and len(block.own):
                touched.append(block)
                while len(block.own) and len(units) < bits // UNIT_BITS:
                    key_ids.append(block.own.id_of(block.own.first))
                    units.append(block.own.take(block.own.first))
            if len(units) == bits // UNIT_BITS:
                break
        move(units, secret)
        self._used += bits
        self._outstanding.update(dict.fromkeys(key_ids, now + ON_ITS_WAY_S))
        while len(self._outstanding) > MAX_OUTSTANDING:
            self._outstanding.popitem(last=False)
        self._settle(touched)
        return tuple(key_ids), secret

    def fetch(self, key_ids: Sequence[bytes], bits: int, now: float) -> Secret:
        """The keys that the peer reserved, run together; gone from here whether this succeeds or not.

        A block that waits for its confirmation gives them too: the peer has it, or it could not name them. Raises
        `HostError`: source.lost when any of them is not here, named twice, or they are not `bits` long.
        """
        self.tick(now)
        here = [key_id for key_id in dict.fromkeys(key_ids) if key_id in self._index]
        try:
            if not here or len(here) != len(key_ids) or bits != UNIT_BITS * len(here):
                raise HostError(
                    "source.lost", f"{len(here)} of the {len(key_ids)} keys that the peer reserved are here"
                )
            secret = Secret(bits // 8)
        except HostError:
            self.burn(here, now)
            raise
        places = [self._index.pop(key_id) for key_id in key_ids]
        move([block.peer.take(number) for block, number in places], secret)
        self._used += bits
        self._settle([block for block, _ in places])
        return secret

    def burn(self, key_ids: Sequence[bytes], now: float) -> None:
        """Reserved, and not used after all: what was reserved here a moment ago is burnt and not used, and a copy of
        the peer's key is burnt. Nothing happens for other IDs."""
        self.tick(now)
        touched: list[Block] = []
        for key_id in key_ids:
            if self._outstanding.pop(key_id, None) is not None:
                self._used -= UNIT_BITS
                self._burnt += UNIT_BITS
            elif key_id in self._index:
                block, number = self._index[key_id]
                self._burnt += self._drop(block.peer, [number])
                touched.append(block)
        self._settle(touched)

    def available_bits(self) -> int:
        """What this end can reserve now."""
        return UNIT_BITS * sum(len(block.own) for block in self._blocks.values() if block.confirmed)

    # ---- the two ends' agreement

    def listing(self) -> StoreListing:
        """What this end holds, for the peer to `meet`."""
        return StoreListing(
            tuple(ListedBlock(block.key_id, block.own.first, block.peer.first) for block in self._blocks.values()),
            tuple(self._outstanding),
        )

    def meet(self, peer: StoreListing, now: float) -> None:
        """Let go of what the peer cannot give or will not reserve, and confirm what it holds.

        Nothing ever comes into the store by a listing, and to meet one twice is to meet it once. Listings and words of
        confirmation come in the order in which the peer sent them; messages that name keys may overtake either.
        """
        self.tick(now)
        listed = {block.key_id: block for block in peer.blocks}
        spared = set(peer.outstanding)
        touched = list(self._blocks.values())
        for block in touched:
            if (entry := listed.get(block.key_id)) is not None:
                block.confirmed = True
                self._burnt += self._drop(block.own, [number for number in block.own if number < entry.peer_first])
                self._expired += self._drop(block.peer, self._unspared(block.peer, entry.own_first, spared))
            elif block.confirmed:
                copies = self._drop(block.peer, self._unspared(block.peer, MAX_UNITS, spared))
                if len(block.own):
                    self._burnt += copies + self._drop(block.own, list(block.own))
                else:
                    self._expired += copies
        self._settle(touched)

    @staticmethod
    def _unspared(half: Half, below: int, spared: set[bytes]) -> list[int]:
        return [number for number in half if number < below and half.id_of(number) not in spared]

    # ---- time and room

    def tick(self, now: float) -> None:
        """Let go of what is too old."""
        while self._outstanding and next(iter(self._outstanding.values())) <= now:
            self._outstanding.popitem(last=False)
        if now < self._idle_until:
            return
        touched: list[Block] = []
        for block in self._blocks.values():
            own_until, peer_until, word_until = self._deadlines(block)
            if now >= word_until:
                self._burnt += self._drop_all(block)
            if now >= own_until:
                self._expired += self._drop(block.own, list(block.own))
            if now >= peer_until:
                self._expired += self._drop(block.peer, list(block.peer))
            if not len(block):
                touched.append(block)
        self._settle(touched)
        self._idle_until = min((min(self._deadlines(block)) for block in self._blocks.values()), default=NEVER)

    def next_deadline(self) -> float | None:
        """When to call `tick` at the latest, on the clock of `now`; it may find nothing to do. None: no block here."""
        return self._idle_until if self._blocks else None

    def _deadlines(self, block: Block) -> tuple[float, float, float]:
        """Until when its own keys stay, the copies of the peer's, and the block without a confirmation."""
        expiry = block.added_at + self._max_age_s
        return (
            expiry if len(block.own) else NEVER,
            expiry + ON_ITS_WAY_S if len(block.peer) else NEVER,
            NEVER if block.confirmed else block.added_at + CONFIRM_S,
        )

    def _make_room(self) -> None:
        """Push out the oldest keys of each direction, down to what it may hold, and the oldest blocks."""
        blocks = list(self._blocks.values())
        excess_own = sum(len(block.own) for block in blocks) - self._capacity
        excess_peer = sum(len(block.peer) for block in blocks) - PEER_FACTOR * self._capacity
        for number, block in enumerate(blocks):
            if len(blocks) - number > MAX_BLOCKS:
                excess_own, excess_peer = max(excess_own, len(block.own)), max(excess_peer, len(block.peer))
            pushed_own, pushed_peer = list(block.own)[: max(0, excess_own)], list(block.peer)[: max(0, excess_peer)]
            self._expired += self._drop(block.own, pushed_own) + self._drop(block.peer, pushed_peer)
            excess_own, excess_peer = excess_own - len(pushed_own), excess_peer - len(pushed_peer)
        self._settle(blocks)

    # ---- what is told

    @property
    def mark(self) -> Mark:
        """How full it is."""
        return self._gauge.mark

    @property
    def account(self) -> Account:
        """Where every bit went."""
        confirmed = [block for block in self._blocks.values() if block.confirmed]
        waiting = [block for block in self._blocks.values() if not block.confirmed]
        return Account(
            distilled_bits=self._distilled,
            used_bits=self._used,
            expired_bits=self._expired,
            burnt_bits=self._burnt,
            authentication_bits=self._authentication,
            own_bits=UNIT_BITS * sum(len(block.own) for block in confirmed),
            peer_bits=UNIT_BITS * sum(len(block.peer) for block in confirmed),
            waiting_bits=UNIT_BITS * sum(len(block) for block in waiting),
        )

    def outlook(self, now: float) -> Outlook:
        """What there is for how long if this is all."""
        own = [block for block in self._blocks.values() if len(block.own)]
        peer = [block for block in self._blocks.values() if len(block.peer)]
        own_left_s, peer_left_s = (
            max([0.0, *(block.added_at + self._max_age_s - now for block in blocks)]) for blocks in (own, peer)
        )
        return Outlook(
            sum(len(block.own) for block in own), own_left_s, sum(len(block.peer) for block in peer), peer_left_s
        )

    def wipe(self) -> None:
        """Burn everything."""
        blocks = list(self._blocks.values())
        self._burnt += sum(self._drop_all(block) for block in blocks)
        self._outstanding.clear()
        self._settle(blocks)

    # ---- how keys leave without being used

    def _drop(self, half: Half, numbers: Iterable[int]) -> int:
        """Wipe keys of a half; gives their bits."""
        bits = 0
        for number in numbers:
            half.take(number).wipe()
            self._index.pop(half.id_of(number), None)
            bits += UNIT_BITS
        return bits

    def _drop_all(self, block: Block) -> int:
        return self._drop(block.own, list(block.own)) + self._drop(block.peer, list(block.peer))

    def _settle(self, touched: Iterable[Block]) -> None:
        """Forget those of these blocks that have no key left, and read the gauge."""
        for block in touched:
            if not len(block) and self._blocks.pop(block.key_id, None) is not None:
                self._gone[block.key_id] = None
                if len(self._gone) > MAX_GONE:
                    self._gone.popitem(last=False)
        self._gauge.read(self.available_bits() // UNIT_BITS)
