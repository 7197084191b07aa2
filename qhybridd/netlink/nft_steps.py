"""Steps of an nf_tables batch: tables, chains, rules, sets and elements (linux/netfilter/nf_tables.h).

Numbers of netfilter's attributes are big-endian; what goes into a register is in the byte order that the packet or the
host has.
"""

import struct
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Final

from qhybridd.errors import HostError
from qhybridd.netlink.attributes import NLM_F_APPEND, NLM_F_CREATE, NLM_F_EXCL, attribute, nested, text
from qhybridd.netlink.nft_bytecode import OBJECT_COUNTER, VERDICT_GOTO, be32, be64, value_attribute, verdict_attribute
from qhybridd.netlink.nft_dumps import ELEMENT_INTERVAL_END

# ---- constants of the kernel

NFNL_SUBSYS_NFTABLES: Final = 10
NFPROTO_INET: Final = 1
NFPROTO_NETDEV: Final = 5

NEWTABLE: Final = NFNL_SUBSYS_NFTABLES << 8
GETTABLE: Final = NEWTABLE + 1
DELTABLE: Final = NEWTABLE + 2
NEWCHAIN: Final = NEWTABLE + 3
GETCHAIN: Final = NEWTABLE + 4
DELCHAIN: Final = NEWTABLE + 5
NEWRULE: Final = NEWTABLE + 6
GETRULE: Final = NEWTABLE + 7
DELRULE: Final = NEWTABLE + 8
NEWSET: Final = NEWTABLE + 9
GETSET: Final = NEWTABLE + 10
DELSET: Final = NEWTABLE + 11
NEWSETELEM: Final = NEWTABLE + 12
GETSETELEM: Final = NEWTABLE + 13
DELSETELEM: Final = NEWTABLE + 14
GETGEN: Final = NEWTABLE + 16
NEWOBJ: Final = NEWTABLE + 18
GETOBJ: Final = NEWTABLE + 19
DELOBJ: Final = NEWTABLE + 20

HOOK_PREROUTING: Final = 0
HOOK_FORWARD: Final = 2
HOOK_POSTROUTING: Final = 4
POLICY_ACCEPT: Final = 1
HOOK_INGRESS: Final = 0
HOOK_EGRESS: Final = 1
"""Both of the netdev family; egress since kernel 5.16."""
TABLE_DORMANT: Final = 0x1
TABLE_OWNER: Final = 0x2
TABLE_PERSIST: Final = 0x4
"""Since kernel 6.9: an owned table stays when its owner is gone, and the next one may own it."""

SET_INTERVAL: Final = 0x4
SET_MAP: Final = 0x8
SET_TIMEOUT: Final = 0x10

IFNAME_BYTES: Final = 16
"""IFNAMSIZ: names are padded with NULs to this, also as set keys."""

TYPE_VERDICT: Final = 0xFFFFFF00
"""NFT_DATA_VERDICT."""
VERDICT_BYTES: Final = 16


@dataclass(frozen=True, slots=True)
class SetKey:
    """What a set is keyed by. Type and byte order are only stored by the kernel, for `nft list` to read."""

    type_number: int
    """As in nftables' `include/datatype.h`."""
    size: int
    """Bytes."""
    byteorder: int
    """1 for the host's, 2 for big-endian."""
    expression: bytes = b""
    """User data that names the expression that the key comes from, for a key without a type."""


IPV4_KEY: Final = SetKey(7, 4, 2)
IPV6_KEY: Final = SetKey(8, 16, 2)
INTERFACE_KEY: Final = SetKey(41, IFNAME_BYTES, 1)
MARK_KEY: Final = SetKey(19, 4, 1)
REQID_KEY: Final = SetKey(4, 4, 1, bytes.fromhex("031a00041b000000 0112000405000000 010400000000 020401000000"))
"""XFRM's number for states and templates. It has no type of its own: nft reads which expression gives it, `ipsec out
reqid`, from user data (nftables `src/xfrm.c`, `xfrm_expr_build_udata`)."""

# ---- constants of ours

MAX_LIST_BYTES: Final = 60_000
"""Elements in one message: the list is one attribute, and its length has 16 bits."""
MAX_COMMENT_BYTES: Final = 127
"""nft's own limit for a comment; the kernel's is 256 bytes of user data."""


@dataclass(frozen=True, slots=True)
class Operation:
    """One step of a batch."""

    kind: int
    flags: int
    body: bytes
    family: int = NFPROTO_INET


def in_family(family: int, steps: Iterable[Operation]) -> list[Operation]:
    """The same steps for a table of another family."""
    return [replace(step, family=family) for step in steps]


def interface_key(name: str) -> bytes:
    """An interface name as a set key. Raises `HostError` for one that no interface can have."""
    raw = name.encode()
    if not 0 < len(raw) < IFNAME_BYTES or b"\0" in raw:
        raise HostError("host.guard", f"{name!r} cannot be the name of an interface")
    return raw.ljust(IFNAME_BYTES, b"\0")


def number_key(number: int) -> bytes:
    """A mark or a reqid as a set key: what is loaded into a register has the host's byte order."""
    return struct.pack("=I", number)


def comment_data(comment: str) -> bytes:
    """User data that nft shows as a comment: type 0, length, NUL-terminated text."""
    raw = comment.encode()[:MAX_COMMENT_BYTES] + b"\0"
    return bytes((0, len(raw))) + raw


# ---- steps of a batch


def new_table(table: str) -> Operation:
    """Make the table unless it is there, and wake it if somebody made it dormant."""
    return Operation(NEWTABLE, NLM_F_CREATE, text(1, table) + be32(2, 0))


def new_owned_table(table: str) -> Operation:
    """Make a table that only this socket may change, and that the kernel deletes when the socket is closed."""
    return Operation(NEWTABLE, NLM_F_CREATE | NLM_F_EXCL, text(1, table) + be32(2, TABLE_OWNER))


def new_persistent_table(table: str) -> Operation:
    """Make a table that only this socket may change and that stays when it is closed, or take over one whose owner is
    gone. EPERM where another socket owns it, EOPNOTSUPP from kernels before 6.9 and for a table made otherwise.
    """
    return Operation(NEWTABLE, NLM_F_CREATE, text(1, table) + be32(2, TABLE_OWNER | TABLE_PERSIST))


def delete_table(table: str) -> Operation:
    """Delete the table with all that it holds."""
    return Operation(DELTABLE, 0, text(1, table))


def new_chain(table: str, chain: str, hook: int, priority: int, kind: str = "filter") -> Operation:
    """Make a base chain that accepts by default, unless it is there. `kind`: filter or nat."""
    place = nested(4, be32(1, hook), attribute(2, struct.pack(">i", priority)))
    return Operation(
        NEWCHAIN, NLM_F_CREATE, text(1, table) + text(3, chain) + place + be32(5, POLICY_ACCEPT) + text(7, kind)
    )


def new_device_chain(table: str, chain: str, hook: int, priority: int, device: str) -> Operation:
    """Make a base chain of the netdev family on one device. ENOENT where it is not there (kernels before 6.16)."""
    place = nested(4, be32(1, hook), attribute(2, struct.pack(">i", priority)), text(3, device))
    body = text(1, table) + text(3, chain) + place + be32(5, POLICY_ACCEPT) + text(7, "filter")
    return Operation(NEWCHAIN, NLM_F_CREATE, body, NFPROTO_NETDEV)


def new_plain_chain(table: str, chain: str) -> Operation:
    """Make a chain that packets enter only by a goto, unless it is there."""
    return Operation(NEWCHAIN, NLM_F_CREATE, text(1, table) + text(3, chain))


def delete_chain(table: str, chain: str) -> Operation:
    """Delete a chain that is empty and that nothing refers to."""
    return Operation(DELCHAIN, 0, text(1, table) + text(3, chain))


def flush_chain(table: str, chain: str) -> Operation:
    """Delete every rule of a chain."""
    return Operation(DELRULE, 0, text(1, table) + text(2, chain))


def new_rule(table: str, chain: str, comment: str, *expressions: bytes) -> Operation:
    """Append a rule."""
    body = text(1, table) + text(2, chain) + nested(4, *expressions) + attribute(7, comment_data(comment))
    return Operation(NEWRULE, NLM_F_CREATE | NLM_F_APPEND, body)


def new_counter(table: str, name: str) -> Operation:
    """Make a named counter unless it is there."""
    body = text(1, table) + text(2, name) + be32(3, OBJECT_COUNTER) + nested(4, be64(1, 0), be64(2, 0))
    return Operation(NEWOBJ, NLM_F_CREATE, body)


def delete_counter(table: str, name: str) -> Operation:
    """Delete a named counter that nothing refers to."""
    return Operation(DELOBJ, 0, text(1, table) + text(2, name) + be32(3, OBJECT_COUNTER))


def _new_set(table: str, name: str, number: int, key: SetKey, *, flags: int = 0, more: bytes = b"") -> Operation:
    body = text(1, table) + text(2, name) + be32(3, flags) + be32(4, key.type_number) + be32(5, key.size) + more
    order = struct.pack("=BBI", 0, 4, key.byteorder)  # user data that nft reads: type, length, byte order of the key
    return Operation(NEWSET, NLM_F_CREATE, body + be32(10, number) + attribute(13, order + key.expression))


def new_set(table: str, name: str, number: int, key: SetKey) -> Operation:
    """A set of names or numbers. `number` tells the sets of one batch apart."""
    return _new_set(table, name, number, key)


def new_timed_set(table: str, name: str, number: int, key: SetKey) -> Operation:
    """A set whose elements time out."""
    return _new_set(table, name, number, key, flags=SET_TIMEOUT)


def new_prefix_map(table: str, name: str, number: int, key: SetKey) -> Operation:
    """A map from address intervals to verdicts."""
    data = be32(6, TYPE_VERDICT) + be32(7, VERDICT_BYTES)
    return _new_set(table, name, number, key, flags=SET_INTERVAL | SET_MAP, more=data)


def delete_set(table: str, name: str) -> Operation:
    """Delete a set or map that no rule refers to."""
    return Operation(DELSET, 0, text(1, table) + text(2, name))


def element(key: bytes, *, goto: str = "", timeout_ms: int = 0) -> bytes:
    """One element. A timeout of 0 means none at all: the caller sees to it that it is positive where one is meant."""
    parts = [value_attribute(1, key)]
    if goto:
        parts.append(verdict_attribute(2, VERDICT_GOTO, goto))
    if timeout_ms:
        parts.append(be64(4, timeout_ms))
    return nested(1, *parts)


def interval_end(key: bytes) -> bytes:
    """The element that ends an interval: the first address after it."""
    return nested(1, be32(3, ELEMENT_INTERVAL_END), value_attribute(1, key))


def _elements(kind: int, flags: int, table: str, name: str, items: Iterable[bytes]) -> list[Operation]:
    head = text(1, table) + text(2, name)
    operations: list[Operation] = []
    waiting: list[bytes] = []
    size = 0
    for item in items:
        if size + len(item) > MAX_LIST_BYTES:
            operations.append(Operation(kind, flags, head + nested(3, *waiting)))
            waiting, size = [], 0
        waiting.append(item)
        size += len(item)
    if waiting:
        operations.append(Operation(kind, flags, head + nested(3, *waiting)))
    return operations


def add_elements(table: str, name: str, items: Iterable[bytes]) -> list[Operation]:
    """Add elements; one that is there stays as it is, its timeout too."""
    return _elements(NEWSETELEM, NLM_F_CREATE, table, name, items)


def delete_elements(table: str, name: str, items: Iterable[bytes]) -> list[Operation]:
    """Delete elements; one that is not there fails the whole batch (ENOENT)."""
    return _elements(DELSETELEM, 0, table, name, items)
