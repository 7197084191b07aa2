"""Netlink messages and attributes: built as bytes, read in place.

The layouts are those of `linux/netlink.h` (RFC 3549 section 2.2). Numbers of the headers are in host byte order; what
an attribute holds is its family's affair. Reading never copies: it yields offsets into a view, so that a secret in a
dump stays where the kernel put it.
"""

import struct
import sys
from collections.abc import Iterator
from typing import Final, Literal, NamedTuple

from qhybridd.errors import HostError

NLM_F_REQUEST: Final = 0x0001
NLM_F_ACK: Final = 0x0004
NLM_F_DUMP_INTR: Final = 0x0010
NLM_F_DUMP: Final = 0x0300
NLM_F_EXCL: Final = 0x0200
NLM_F_CREATE: Final = 0x0400
NLM_F_APPEND: Final = 0x0800
NLM_F_CAPPED: Final = 0x0100
"""In an error: the request was left out after its header."""

NLMSG_NOOP: Final = 1
NLMSG_ERROR: Final = 2
NLMSG_DONE: Final = 3

NLA_F_NESTED: Final = 0x8000
NLA_TYPE_MASK: Final = 0x3FFF
MAX_ATTRIBUTE_BYTES: Final = 0xFFFF
"""The length field has 16 bits."""

HEADER: Final = struct.Struct("=IHHII")
"""struct nlmsghdr: length, type, flags, sequence, port."""
ATTRIBUTE: Final = struct.Struct("=HH")
"""struct nlattr: length with header, type."""


class Message(NamedTuple):
    """One message of a datagram: its header, and where its payload stands."""

    kind: int
    flags: int
    sequence: int
    start: int
    end: int


class Attribute(NamedTuple):
    """One attribute: its type without flags, and where its payload stands."""

    kind: int
    start: int
    end: int


def align(size: int) -> int:
    """`size` rounded up to the 4 bytes on which messages and attributes begin."""
    return (size + 3) & ~3


def attribute(kind: int, payload: bytes) -> bytes:
    """One attribute with padding."""
    size = ATTRIBUTE.size + len(payload)
    if size > MAX_ATTRIBUTE_BYTES:
        raise HostError("host.netlink", f"an attribute of {size} bytes does not fit into a netlink message")
    return ATTRIBUTE.pack(size, kind) + payload + bytes(-size & 3)


def nested(kind: int, *attributes: bytes) -> bytes:
    """An attribute that holds attributes."""
    return attribute(kind | NLA_F_NESTED, b"".join(attributes))


def text(kind: int, value: str) -> bytes:
    """A NUL-terminated string attribute."""
    return attribute(kind, value.encode() + b"\0")


def message(kind: int, flags: int, sequence: int, payload: bytes) -> bytes:
    """One message with padding; the kernel fills in the port."""
    size = HEADER.size + len(payload)
    return HEADER.pack(size, kind, flags, sequence, 0) + payload + bytes(-size & 3)


def malformed(what: str) -> HostError:
    """The error for bytes that no kernel of ours sends."""
    return HostError("host.netlink", f"malformed netlink bytes: {what}")


def walk_messages(view: memoryview, start: int, end: int) -> Iterator[Message]:
    """The messages of one datagram. Raises `HostError` where a length leaves the datagram."""
    at = start
    while end - at >= HEADER.size:
        size, kind, flags, sequence, _ = HEADER.unpack_from(view, at)
        if size < HEADER.size or at + size > end:
            raise malformed(f"a message of {size} bytes where {end - at} are left")
        yield Message(kind, flags, sequence, at + HEADER.size, at + size)
        at += align(size)
    if at < end:
        raise malformed("bytes after the last message")


def walk(view: memoryview, start: int, end: int) -> Iterator[Attribute]:
    """The attributes between two offsets. Raises `HostError` where a length leaves the range."""
    at = start
    while end - at >= ATTRIBUTE.size:
        size, kind = ATTRIBUTE.unpack_from(view, at)
        if size < ATTRIBUTE.size or at + size > end:
            raise malformed(f"an attribute of {size} bytes where {end - at} are left")
        yield Attribute(kind & NLA_TYPE_MASK, at + ATTRIBUTE.size, at + size)
        at += (size + 3) & ~3


def read_uint(view: memoryview, item: Attribute, size: int, order: Literal["big", "little"] = sys.byteorder) -> int:
    """An unsigned number of exactly `size` bytes, in host order unless told (netfilter's are big-endian)."""
    if item.end - item.start != size:
        raise malformed(f"attribute {item.kind} has {item.end - item.start} bytes instead of {size}")
    return int.from_bytes(view[item.start : item.end], order)


def read_text(view: memoryview, item: Attribute) -> str:
    """A string with or without its NUL."""
    return bytes(view[item.start : item.end]).split(b"\0", 1)[0].decode("utf-8", "replace")
