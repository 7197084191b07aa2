"""What one end tells the other of its store: public names and counts, bounded."""

from typing import Annotated, Final

from msgspec import Meta, Struct

MAX_BLOCKS: Final = 1024
"""Blocks that a store holds and a listing names: at a block every few seconds, an hour of them."""
MAX_OUTSTANDING: Final = 256
"""Keys reserved a moment ago that a listing names; of more than that the newest."""
MAX_UNITS: Final = 1 << 20
"""Keys in one direction of a block: the two together fill the largest secret that there is."""

KeyId = Annotated[bytes, Meta(min_length=16, max_length=16)]
Number = Annotated[int, Meta(ge=0, le=MAX_UNITS)]


class ListedBlock(Struct, frozen=True, array_like=True):
    """One block of the sender's. Each direction counts its keys from 0, and the lowest numbers go first."""

    key_id: KeyId
    own_first: Number
    """The sender will reserve none of its own below this number."""
    peer_first: Number
    """The sender holds none of the receiver's below this number."""


class StoreListing(Struct, frozen=True, array_like=True):
    """All that the sender holds. What it does not name is gone there, or not there yet."""

    blocks: Annotated[tuple[ListedBlock, ...], Meta(max_length=MAX_BLOCKS)] = ()
    outstanding: Annotated[tuple[KeyId, ...], Meta(max_length=MAX_OUTSTANDING)] = ()
    """Keys that it reserved a moment ago: the message that names them may still be on its way."""
