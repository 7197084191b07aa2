"""Authentication of a link's classical channel after Wegman and Carter: a polynomial hash under a secret key and a pad.

A tag is the hash of the header and of all messages of the block so far, xored with a pad that is used once (Wegman and
Carter, J. Comput. Syst. Sci. 22, 265 (1981)). Tags alone tell nothing about the hash key, and one attempt to pass
another transcript succeeds with at most n / 2^128, n being its 128-bit blocks (`csrc/polyhash.h`), whatever the enemy
can compute. That adds up when the hash key serves for several tags (Portmann, IEEE Trans. Inf. Theory 60, 4383 (2014),
arXiv:1202.1229); what hash key and pads rest on is their `Kind`. See `docs/authentication.md`.
"""

import hmac
from enum import Enum
from fractions import Fraction
from typing import Final

from qhybridd._native import PolyHash
from qhybridd.crypto.kdf import HASH_BYTES, Label, lp, u64
from qhybridd.distill.pads import BLOCK_BYTES, PAD_BYTES, TAGS_A_BLOCK, Kind, Pads, first_pads
from qhybridd.errors import HostError, PeerError, ProgramError, QhybriddError
from qhybridd.secret import Secret, locked_memory

__all__ = ["Authenticator", "Kind", "LinkKeys", "Pads", "Role", "epsilon_authentication", "first_pads"]

TAG_BYTES: Final = PAD_BYTES
MAX_LINK_BYTES: Final = 255
HEADER_BLOCKS: Final = 24
"""128-bit blocks of the longest header, with the one for its length."""
MAX_TRANSCRIPT_BYTES: Final = 1 << 30
"""All messages of a block together: no tag is ever weaker than 2^-101."""
_HEADER_MARK: Final = 1 << 62


class Role(Enum):
    """The two ends of a link."""

    ALICE = "alice"
    """The source; she opens each block."""
    BOB = "bob"
    """The detector."""


class Authenticator:
    """One end of one block: seals what it sends and opens what it receives, strictly in turn, Alice first.

    Both ends absorb every message once, in the same order, with its sender and its round; so a tag stands for the whole
    block so far. After anything but success it is dead and every further call raises `ProgramError` (program.state).
    """

    def __init__(  # noqa: PLR0917
        self,
        link: bytes,
        role: Role,
        block: int,
        session_hash: bytes,
        hash_key: Secret,
        send: Pads,
        receive: Pads,
        *,
        hash_kind: Kind = Kind.COMPUTATIONAL,
    ) -> None:
        """Begin block number `block`. Raises `HostError` (link.pads) when pads could not see it to its end."""
        if not 0 < len(link) <= MAX_LINK_BYTES or len(session_hash) != HASH_BYTES or not 0 <= block < 1 << 64:
            raise ProgramError("program.argument", f"no header: link {link!r}, block {block}")
        if len(hash_key) != PAD_BYTES or hash_key.is_zero:
            raise ProgramError("program.argument", "the hash key was wiped, or has not 16 bytes")
        kinds = {hash_kind, send.begin_block(), receive.begin_block()}
        self.kind = Kind.DISTILLED if kinds == {Kind.DISTILLED} else Kind.COMPUTATIONAL
        """Distilled when the hash key and all pads of both directions are."""
        self.role = role
        self.pads_used = 0
        """Pads of both directions that are gone."""
        self.epsilon = Fraction(0)
        """Probability that any message so far is not the peer's: the sum over the tags of both directions."""
        self._send, self._receive = send, receive
        self._alive, self._round, self._bytes, self._blocks = True, 0, 0, 0
        with hash_key.expose() as point, locked_memory():
            self._hash = PolyHash(point)
        header = Label.LINK_TRANSCRIPT.encoded + lp(session_hash, link) + u64(block)
        self._absorb(header, _HEADER_MARK)

    def seal(self, message: bytes) -> bytes:
        """The tag for a message to the peer, 16 bytes. Its pad is gone from here on, sent or not.

        Raises `HostError` (link.pads) for more messages than a block may have.
        """
        if not self._alive or self._turn is not self.role:
            raise ProgramError("program.state", "the authenticator is dead, or it is the peer's turn")
        self._alive = False
        tag = self._tag(message, self._send, ProgramError("program.argument", "too long a transcript"))
        self._alive = True
        return tag

    def open(self, message: bytes | memoryview, tag: bytes) -> None:
        """Accept a message of the peer, or raise `PeerError` (link.authentication; link.order out of its turn).

        A pad is gone in any case.
        """
        if not self._alive:
            raise ProgramError("program.state", "the authenticator is dead")
        self._alive = False
        in_turn = self._turn is not self.role
        expected = self._tag(message, self._receive, PeerError("link.malformed", "too long a transcript"))
        if not in_turn:
            raise PeerError("link.order", "a message came out of its turn")
        if not hmac.compare_digest(expected, tag):
            raise PeerError("link.authentication", "a message's tag does not fit")
        self._alive = True

    def wipe(self) -> None:
        """Forget the hash key: the block is over."""
        self._alive = False
        self._hash.wipe()

    @property
    def _turn(self) -> Role:
        return Role.BOB if self._round % 2 else Role.ALICE

    def _tag(self, message: bytes | memoryview, pads: Pads, too_long: QhybriddError) -> bytes:
        if self._round >= 2 * TAGS_A_BLOCK:
            raise HostError("link.pads", f"a block has at most {TAGS_A_BLOCK} messages of each end")
        pad = pads.take(PAD_BYTES)
        self.pads_used += 1
        try:
            self._bytes += len(message)
            if self._bytes > MAX_TRANSCRIPT_BYTES:
                raise too_long
            self._absorb(message, self._round << 1 | (self._turn is Role.BOB))
            self._round += 1
            self.epsilon += Fraction(self._blocks, 1 << 128)
            with pad.expose() as view:
                return self._hash.tag(view)
        finally:
            pad.wipe()

    def _absorb(self, text: bytes | memoryview, mark: int) -> None:
        self._hash.absorb(text, 8 * len(text), mark)
        self._blocks += (len(text) + 15) // 16 + 1


class LinkKeys:
    """What one session of a link authenticates with: the hash key and the pads of both directions."""

    def __init__(self, psk: Secret, session_hash: bytes, link: bytes) -> None:
        """As `first_pads`: once for a session."""
        self.hash_key, self.alice_to_bob, self.bob_to_alice = first_pads(psk, session_hash, link)
        self._last_block = -1
        self._in_step = True
        self.session_hash, self.link = session_hash, link
        self.epsilon = 0.0
        """What the blocks that gave pads so far left to chance, all together: what each later block inherits."""

    def authenticator(self, role: Role, block: int) -> Authenticator:
        """Begin a block, with a higher number than the one before. Raises `HostError` (link.pads).

        As soon as pads are distilled ones, each block takes a hash key of its own from those of Alice to Bob.
        """
        if block <= self._last_block:
            raise ProgramError("program.argument", f"block {block} after block {self._last_block} of the same session")
        if not self._in_step:
            raise HostError("link.pads", "the two ends' pads may be out of step")
        if self.blocks_left == 0:
            raise HostError("link.pads", "no pads are left for another block")
        self._last_block = block
        forward, backward = self.alice_to_bob, self.bob_to_alice
        hash_kind = forward.begin_block(BLOCK_BYTES)
        if hash_kind is Kind.DISTILLED:
            self.hash_key.wipe()
            self.hash_key = forward.take(PAD_BYTES)
        send, receive = (forward, backward) if role is Role.ALICE else (backward, forward)
        return Authenticator(
            self.link, role, block, self.session_hash, self.hash_key, send, receive, hash_kind=hash_kind
        )

    def retire(self) -> None:
        """Begin no further block: the peer may have taken other pads than this end. A new session has new ones."""
        self._in_step = False

    @property
    def blocks_left(self) -> int:
        """Blocks in a row that may fail before the session's pads are used up; 0 once they may be out of step."""
        if not self._in_step:
            return 0
        return min(self.alice_to_bob.blocks_left, self.bob_to_alice.blocks_left)

    def wipe(self) -> None:
        """Forget everything: the session is over."""
        for secret in (self.hash_key, self.alice_to_bob, self.bob_to_alice):
            secret.wipe()


def epsilon_authentication(transcript_bytes: int, tags: int) -> Fraction:
    """Upper bound for a block: any of `tags` tags over at most `transcript_bytes` of messages is passed by a forgery.

    One tag over n blocks of 128 bits fails with n / 2^128 at most, one message of b bytes makes ⌈b/16⌉ + 1 of them; the
    sum over the tags, each taken as long as the last.
    """
    if transcript_bytes < 0 or tags < 0:
        raise ProgramError("program.argument", f"{transcript_bytes} bytes, {tags} tags")
    blocks = HEADER_BLOCKS + transcript_bytes // 16 + 2 * tags
    return Fraction(tags * blocks, 1 << 128)
