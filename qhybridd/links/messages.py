"""The messages of a link's two ends on the distillation channel: typed, bounded, MessagePack arrays with a tag.

Each names its link, since one channel serves all links of two gateways. Fields are only ever appended, as in
`protocol.messages`.
"""

from typing import Annotated, Final

import msgspec
from msgspec import Meta, Struct

from qhybridd.distill.authenticate import Role
from qhybridd.distill.messages import MAX_BLOCK, WireTerms, wire_terms
from qhybridd.distill.terms import Protocol, Terms
from qhybridd.errors import PeerError
from qhybridd.keystore import StoreListing
from qhybridd.links import parts

RUN_BYTES: Final = 16
DIGEST_BYTES: Final = 16
DIGESTS_MOST: Final = 16
MAX_PART_BYTES: Final = parts.PART_BYTES + 5
"""What a `Part` carries at most."""

LinkName = Annotated[str, Meta(min_length=1, max_length=63, pattern=r"\A[A-Za-z0-9][A-Za-z0-9_.-]*\Z")]
Run = Annotated[bytes, Meta(min_length=RUN_BYTES, max_length=RUN_BYTES)]
Index = Annotated[int, Meta(ge=0, le=MAX_BLOCK)]
Code = Annotated[str, Meta(max_length=32, pattern=r"\A[a-z]+\.[a-z-]+\Z")]
Digest = Annotated[bytes, Meta(min_length=DIGEST_BYTES, max_length=DIGEST_BYTES)]


class Hello(Struct, frozen=True, array_like=True, tag=1):
    """Either way, when a session comes into use: who is there, and on which settings."""

    link: LinkName
    role: Role
    digests: Annotated[tuple[Digest, ...], Meta(max_length=DIGESTS_MOST)]
    """One for each group of settings that both ends must agree on, in the order of `settings.GROUPS`."""
    answer: bool = False
    """Whether it answers the other end's; else it asks for one."""


class Refuse(Struct, frozen=True, array_like=True, tag=2):
    """Either way: no link with the sender of a `Hello`; `code` says why."""

    link: LinkName
    code: Code


class Listing(Struct, frozen=True, array_like=True, tag=3):
    """Either way: what is in store."""

    link: LinkName
    store: StoreListing


class Plan(Struct, frozen=True, array_like=True, tag=4):
    """A→B: the terms of the blocks from `first_block` of a photon run on, fixed before its first pulse is emitted."""

    link: LinkName
    run: Run
    first_block: Index
    terms: WireTerms


class Ready(Struct, frozen=True, array_like=True, tag=5):
    """B→A: Bob has all clicks of this block."""

    link: LinkName
    run: Run
    block: Index


class Begin(Struct, frozen=True, array_like=True, tag=6):
    """A→B: it is distilled now, as block `number` of this session; Alice's first part follows."""

    link: LinkName
    run: Run
    block: Index
    number: Index


class Part(Struct, frozen=True, array_like=True, tag=7):
    """Either way: a part of a message of the distillation of block `number`."""

    link: LinkName
    number: Index
    data: Annotated[bytes, Meta(min_length=1, max_length=MAX_PART_BYTES)]


class Skip(Struct, frozen=True, array_like=True, tag=8):
    """Either way: the sender cannot use this block."""

    link: LinkName
    run: Run
    block: Index
    code: Code


class Stored(Struct, frozen=True, array_like=True, tag=9):
    """A→B: Alice, who keeps last, has this block's key in store."""

    link: LinkName
    key_id: Annotated[bytes, Meta(min_length=16, max_length=16)]


class Renew(Struct, frozen=True, array_like=True, tag=10):
    """Either way: the sender needs a new session for this link, and cannot dial."""

    link: LinkName


Message = Hello | Refuse | Listing | Plan | Ready | Begin | Part | Skip | Stored | Renew

_encoder: Final = msgspec.msgpack.Encoder()
_decoder: Final[msgspec.msgpack.Decoder[Message]] = msgspec.msgpack.Decoder(Message)


def encode(message: Message) -> bytes:
    """The message as bytes."""
    return _encoder.encode(message)


def decode(data: bytes | memoryview) -> Message:
    """A message from bytes. Raises `PeerError` (link.malformed) on anything else."""
    try:
        return _decoder.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise PeerError("link.malformed", f"a message of a link does not parse: {error}") from None


def terms_of(wire: WireTerms, protocol: Protocol) -> Terms:
    """The terms of a `Plan`. Raises `PeerError` (link.terms) where they are for another protocol than this end's."""
    fields = {name: getattr(wire, name) for name in Terms.__slots__ if name != "protocol"}
    terms = Terms(protocol=protocol, **fields)
    if wire_terms(terms) != wire:
        raise PeerError("link.terms", "Alice plans for another protocol than the one configured here")
    return terms
