"""What nf_tables answers: elements, names, rules and counters, read in place (linux/netfilter/nf_tables.h)."""

from dataclasses import dataclass
from typing import Final

from qhybridd.errors import HostError
from qhybridd.netlink.attributes import Attribute, read_text, read_uint, walk
from qhybridd.netlink.socket import Dump

NFGENMSG_BYTES: Final = 4
ELEMENT_INTERVAL_END: Final = 0x1


@dataclass(frozen=True, slots=True)
class SetElement:
    """An element as the kernel dumps it."""

    key: bytes
    goto: str
    """The chain of a verdict map's element; empty otherwise."""
    ends_interval: bool
    expires_ms: int | None
    """Milliseconds left; None for an element that does not expire."""


@dataclass(frozen=True, slots=True)
class TableState:
    """A table as the kernel dumps it."""

    name: str
    flags: int
    owner: int
    """Netlink port of the socket that alone may change it; 0: anybody may."""


def parse_element(view: memoryview, start: int, end: int) -> SetElement:
    """One element of a dump. Raises `HostError` for bytes that make no sense."""
    key, goto, expires_ms, flags = b"", "", None, 0
    for item in walk(view, start, end):
        if item.kind == 1:
            key = _read_value(view, item)
        elif item.kind == 2:
            goto = _read_chain(view, item)
        elif item.kind == 3:
            flags = read_uint(view, item, 4, "big")
        elif item.kind == 5:
            expires_ms = read_uint(view, item, 8, "big")
    return SetElement(key, goto, bool(flags & ELEMENT_INTERVAL_END), expires_ms)


def _read_value(view: memoryview, item: Attribute) -> bytes:
    for inner in walk(view, item.start, item.end):
        if inner.kind == 1:
            return bytes(view[inner.start : inner.end])
    return b""


def _read_chain(view: memoryview, item: Attribute) -> str:
    for data in walk(view, item.start, item.end):
        if data.kind == 2:
            for entry in walk(view, data.start, data.end):
                if entry.kind == 2:
                    return read_text(view, entry)
    return ""


def _read_comment(view: memoryview, item: Attribute) -> str:
    raw = bytes(view[item.start : item.end])
    at = 0
    while at + 2 <= len(raw):
        kind, size = raw[at], raw[at + 1]
        if kind == 0:
            return raw[at + 2 : at + 2 + size].split(b"\0", 1)[0].decode("utf-8", "replace")
        at += 2 + size
    return ""


def parse_elements(dump: Dump) -> list[SetElement]:
    """The elements of a GETSETELEM dump."""
    found = []
    for item in dump.messages:
        for outer in walk(dump.view, item.start + NFGENMSG_BYTES, item.end):
            if outer.kind == 3:
                found += [parse_element(dump.view, e.start, e.end) for e in walk(dump.view, outer.start, outer.end)]
    return found


def parse_names(dump: Dump) -> list[str]:
    """The names of a GETSET dump."""
    return [
        read_text(dump.view, entry)
        for item in dump.messages
        for entry in walk(dump.view, item.start + NFGENMSG_BYTES, item.end)
        if entry.kind == 2
    ]


def parse_tables(dump: Dump) -> list[TableState]:
    """The tables of a GETTABLE dump."""
    found = []
    for item in dump.messages:
        name, flags, owner = "", 0, 0
        for entry in walk(dump.view, item.start + NFGENMSG_BYTES, item.end):
            if entry.kind == 1:
                name = read_text(dump.view, entry)
            elif entry.kind == 2:
                flags = read_uint(dump.view, entry, 4, "big")
            elif entry.kind == 7:
                owner = read_uint(dump.view, entry, 4, "big")
        found.append(TableState(name, flags, owner))
    return found


def parse_chains(dump: Dump) -> list[tuple[str, str]]:
    """Table and name of every chain of a GETCHAIN dump."""
    found = []
    for item in dump.messages:
        words = {1: "", 3: ""}
        for entry in walk(dump.view, item.start + NFGENMSG_BYTES, item.end):
            if entry.kind in words:
                words[entry.kind] = read_text(dump.view, entry)
        found.append((words[1], words[3]))
    return found


def parse_rules(dump: Dump) -> list[tuple[str, str]]:
    """Chain and comment of every rule of a GETRULE dump."""
    found = []
    for item in dump.messages:
        chain, comment = "", ""
        for entry in walk(dump.view, item.start + NFGENMSG_BYTES, item.end):
            if entry.kind == 2:
                chain = read_text(dump.view, entry)
            elif entry.kind == 7:
                comment = _read_comment(dump.view, entry)
        found.append((chain, comment))
    return found


def parse_counters(dump: Dump) -> dict[str, int]:
    """Packets by counter, of a GETOBJ dump."""
    found = {}
    for item in dump.messages:
        name, packets = "", 0
        for entry in walk(dump.view, item.start + NFGENMSG_BYTES, item.end):
            if entry.kind == 2:
                name = read_text(dump.view, entry)
            elif entry.kind == 4:
                for inner in walk(dump.view, entry.start, entry.end):
                    if inner.kind == 2:
                        packets = read_uint(dump.view, inner, 8, "big")
        found[name] = packets
    return found


def parse_generation(dump: Dump) -> int:
    """The number of the last transaction (NFTA_GEN_ID). Raises `HostError` where the answer has none."""
    for item in dump.messages:
        for entry in walk(dump.view, item.start + NFGENMSG_BYTES, item.end):
            if entry.kind == 1:
                return read_uint(dump.view, entry, 4, "big")
    raise HostError("host.netlink", "reading nftables: an answer without a generation")
