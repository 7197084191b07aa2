"""One-time pads for the tags of a link, one pool for each direction, and the hash key: spent, refilled, never twice.

A pool has two reservoirs: what was expanded from the link's PSK (computational), and what earlier blocks distilled. A
block draws from one of them alone, from the distilled ones whenever they hold all that a block may need. Both ends
keep the same two pools in step, since each message takes one pad at either end. See `docs/authentication.md`.
"""

from collections import deque
from enum import StrEnum
from typing import Final

from qhybridd.crypto.kdf import HASH_BYTES, Label, expand, extract, lp, sha384, u64
from qhybridd.errors import HostError, ProgramError
from qhybridd.secret import Secret

PAD_BYTES: Final = 16
"""One tag's pad, and a hash key."""
TAGS_A_BLOCK: Final = 16
"""Messages that one end may send in one block: eight without disclosures, with as many of those again."""
TAGS_BYTES: Final = TAGS_A_BLOCK * PAD_BYTES
BLOCK_BYTES: Final = TAGS_BYTES + PAD_BYTES
"""What a block may take of one pool: pads for its tags, and a hash key."""
FIRST_BLOCKS: Final = 64
"""Blocks that the pads of a new session last for, were they all to fail as late as they can."""
FLOOR_BLOCKS: Final = 16
"""Blocks' worth of distilled pads that each direction is kept at; keys for tunnels get what is left."""
LEAST_PSK_BYTES: Final = 32
MAX_REFILL_BYTES: Final = 1 << 20


class Kind(StrEnum):
    """What a tag rests on."""

    COMPUTATIONAL = "computational"
    """The link's PSK, expanded by HMAC-SHA384."""
    DISTILLED = "distilled"
    """Keys that earlier blocks distilled."""


class Reservoir:
    """Secret bytes that are taken first in, first out; what was taken is wiped here."""

    def __init__(self) -> None:
        self.available_bytes = 0
        self._parts: deque[Secret] = deque()
        self._offset = 0
        """Bytes of the first part that are gone."""

    def add(self, part: Secret) -> None:
        """Take over a secret."""
        self._parts.append(part)
        self.available_bytes += len(part)

    def take(self, nbytes: int) -> Secret:
        """The next bytes, gone from here."""
        if not 0 < nbytes <= self.available_bytes:
            raise HostError("link.pads", f"{self.available_bytes} bytes of pads are left, {nbytes} are needed")
        taken, filled = Secret(nbytes), 0
        self.available_bytes -= nbytes
        with taken.expose() as target:
            while filled < nbytes:
                part = self._parts[0]
                size = min(nbytes - filled, len(part) - self._offset)
                with part.expose() as source:
                    target[filled : filled + size] = source[self._offset : self._offset + size]
                    source[self._offset : self._offset + size] = bytes(size)
                filled += size
                self._offset += size
                if self._offset == len(part):
                    self._parts.popleft().wipe()
                    self._offset = 0
        return taken

    def wipe(self) -> None:
        """Forget everything."""
        for part in self._parts:
            part.wipe()
        self._parts.clear()
        self.available_bytes = self._offset = 0


class Pads:
    """The pads of one direction."""

    def __init__(self, first: Secret) -> None:
        """Begin with pads expanded from the PSK, which are taken over."""
        self.kind = Kind.COMPUTATIONAL
        """What the block under way draws from."""
        self._reservoirs = {Kind.DISTILLED: Reservoir(), Kind.COMPUTATIONAL: Reservoir()}
        self._reservoirs[Kind.COMPUTATIONAL].add(first)

    def begin_block(self, nbytes: int = TAGS_BYTES) -> Kind:
        """Choose what the next block draws from: what holds `nbytes`. Raises `HostError` (link.pads) when nothing does.

        So a block that began can always be ended in order, and an enemy who makes blocks fail wins nothing but time.
        """
        for kind, reservoir in self._reservoirs.items():
            if reservoir.available_bytes >= nbytes:
                self.kind = kind
                return kind
        raise HostError("link.pads", "no pads are left for another block")

    def take(self, nbytes: int) -> Secret:
        """The next bytes of what the block draws from: gone from here, whatever becomes of them.

        Raises `HostError` (link.pads) when they do not suffice.
        """
        return self._reservoirs[self.kind].take(nbytes)

    def refill(self, bits: Secret) -> None:
        """Take over distilled key for later blocks, in whole pads; it needs no memory, so it cannot run out of it."""
        if len(bits) % PAD_BYTES or len(bits) > MAX_REFILL_BYTES or bits.is_zero:
            raise ProgramError("program.argument", f"a refill of {len(bits)} bytes, or a wiped one")
        self._reservoirs[Kind.DISTILLED].add(bits)

    @property
    def available_bytes(self) -> int:
        """Bytes left, of both kinds."""
        return sum(reservoir.available_bytes for reservoir in self._reservoirs.values())

    @property
    def wanted_bytes(self) -> int:
        """Distilled bytes that lack to the floor: what the next kept block should give."""
        return max(0, FLOOR_BLOCKS * BLOCK_BYTES - self._reservoirs[Kind.DISTILLED].available_bytes)

    @property
    def blocks_left(self) -> int:
        """Blocks that can begin before the next refill, at the least: each may fail after its last message."""
        return sum(reservoir.available_bytes // BLOCK_BYTES for reservoir in self._reservoirs.values())

    def wipe(self) -> None:
        """Forget everything."""
        for reservoir in self._reservoirs.values():
            reservoir.wipe()


def first_pads(psk: Secret, session_hash: bytes, link: bytes) -> tuple[Secret, Pads, Pads]:
    """The first hash key, pads from Alice to Bob, pads from Bob to Alice, of one session of a link.

    Call it once for a session: the same PSK and session hash give the same pads, and a pad used twice gives the hash
    key away. Raises `ProgramError` for a wiped or short PSK, a session hash that is none, or a link without a name.
    """
    if len(psk) < LEAST_PSK_BYTES or psk.is_zero:
        raise ProgramError("program.argument", "a link without a PSK cannot distil")
    if len(session_hash) != HASH_BYTES or not link:
        raise ProgramError("program.argument", f"a session hash of {len(session_hash)} bytes, a link of {len(link)}")
    context = lp(session_hash, link)
    salt = Secret.adopt(sha384(Label.LINK_SECRET.encoded))
    with psk.expose() as secret:
        root = extract(salt, len(psk).to_bytes(4, "big"), secret, context)
    hash_key = expand(root, Label.LINK_HASH_KEY, context, PAD_BYTES)
    forward = Pads(_expand_long(root, Label.LINK_PADS_FORWARD, context, FIRST_BLOCKS * BLOCK_BYTES))
    backward = Pads(_expand_long(root, Label.LINK_PADS_BACKWARD, context, FIRST_BLOCKS * BLOCK_BYTES))
    root.wipe()
    return hash_key, forward, backward


def _expand_long(key: Secret, label: Label, context: bytes, size: int) -> Secret:
    """Any number of bytes: HKDF-Expand in counter mode, a block for each number (NIST SP 800-108r1, section 4.1)."""
    long = Secret(size)
    with long.expose() as target:
        for number, at in enumerate(range(0, size, HASH_BYTES)):
            block = expand(key, label, context + u64(number), min(HASH_BYTES, size - at))
            with block.expose() as source:
                target[at : at + len(block)] = source
            block.wipe()
    return long
