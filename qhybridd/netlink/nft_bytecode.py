"""nf_tables rules as bytecode: expressions over registers (linux/netfilter/nf_tables.h).

A rule is a list of expressions; the first that does not match ends it. Registers are four of 16 bytes or, the same
memory, sixteen of 4 bytes. What is loaded keeps the byte order that the packet or the host has.
"""

import struct
from typing import Final

from qhybridd.netlink.attributes import attribute, nested, text

NFPROTO_IPV4: Final = 2
NFPROTO_IPV6: Final = 10
VERDICT_DROP: Final = 0
VERDICT_ACCEPT: Final = 1
VERDICT_GOTO: Final = 0xFFFFFFFC
"""−4: go on in another chain and do not come back."""
META_PROTOCOL: Final = 1
META_MARK: Final = 3
META_IIFNAME: Final = 6
META_OIFNAME: Final = 7
META_NFPROTO: Final = 15
META_L4PROTO: Final = 16
META_SECPATH: Final = 25
META_OIFKIND: Final = 27
BASE_NETWORK: Final = 1
BASE_TRANSPORT: Final = 2
CMP_EQ: Final = 0
CMP_NEQ: Final = 1
CMP_GTE: Final = 5
CMP_LTE: Final = 3
OBJECT_COUNTER: Final = 1
LOOKUP_INVERT: Final = 1
REJECT_TCP_RST: Final = 1
XFRM_KEY_REQID: Final = 5
XFRM_IN: Final = 0
XFRM_OUT: Final = 1
FIB_ADDRTYPE: Final = 3
FIB_DADDR: Final = 2
RTN_LOCAL: Final = 2

REG_VERDICT: Final = 0
REG_1: Final = 1
"""16 bytes; the same memory as REG32_00 to REG32_03."""


def be32(kind: int, number: int) -> bytes:
    """A 32-bit attribute as netfilter wants it."""
    return attribute(kind, struct.pack(">I", number))


def be64(kind: int, number: int) -> bytes:
    """A 64-bit attribute as netfilter wants it."""
    return attribute(kind, struct.pack(">Q", number))


def expression(name: str, *attributes: bytes) -> bytes:
    """One expression as an element of a rule's list."""
    return nested(1, text(1, name), nested(2, *attributes))


def value_attribute(kind: int, value: bytes) -> bytes:
    """A raw value as netfilter nests it (NFTA_DATA_VALUE)."""
    return nested(kind, attribute(1, value))


def verdict_attribute(kind: int, code: int, chain: str = "") -> bytes:
    """A verdict as netfilter nests it (NFTA_DATA_VERDICT), with the chain for a goto."""
    return nested(kind, nested(2, be32(1, code), text(2, chain) if chain else b""))


def meta(key: int, register: int) -> bytes:
    """Load packet metadata."""
    return expression("meta", be32(2, key), be32(1, register))


def payload(base: int, offset: int, size: int, register: int) -> bytes:
    """Load bytes of the packet; the rule does not match a packet that is too short."""
    return expression("payload", be32(1, register), be32(2, base), be32(3, offset), be32(4, size))


def xfrm_reqid(direction: int, register: int) -> bytes:
    """Load the reqid of the first transformation that the packet came through (`XFRM_IN`) or will go through.

    The rule does not match a packet that has none: `rt ipsec exists` is implied (kernel `net/netfilter/nft_xfrm.c`).
    """
    way = attribute(3, bytes((direction,)))
    return expression("xfrm", be32(1, register), be32(2, XFRM_KEY_REQID), way, be32(4, 0))


def destination_kind(register: int) -> bytes:
    """Load what routing thinks of the destination: `RTN_LOCAL` for an address of this host."""
    return expression("fib", be32(1, register), be32(2, FIB_ADDRTYPE), be32(3, FIB_DADDR))


def compare(register: int, value: bytes, operator: int = CMP_EQ) -> bytes:
    """Go on only if the register compares so."""
    return expression("cmp", be32(1, register), be32(2, operator), value_attribute(3, value))


def mask(register: int, bits: bytes) -> bytes:
    """And a register with `bits`."""
    size = be32(3, len(bits))
    return expression(
        "bitwise",
        be32(1, register),
        be32(2, register),
        size,
        value_attribute(4, bits),
        value_attribute(5, bytes(len(bits))),
    )


def lookup(name: str, register: int) -> bytes:
    """Go on only if the register's value is in the set."""
    return expression("lookup", text(1, name), be32(2, register))


def lookup_absent(name: str, register: int) -> bytes:
    """Go on only if the register's value is not in the set."""
    return expression("lookup", text(1, name), be32(2, register), be32(5, LOOKUP_INVERT))


def lookup_verdict(name: str, register: int) -> bytes:
    """Go where the verdict map says for the register; go on if it says nothing."""
    return expression("lookup", text(1, name), be32(2, register), be32(3, REG_VERDICT))


def count_in(name: str) -> bytes:
    """Count in a named counter."""
    return expression("objref", be32(1, OBJECT_COUNTER), text(2, name))


def counter() -> bytes:
    """Count in the rule itself."""
    return expression("counter", be64(1, 0), be64(2, 0))


def load(register: int, value: bytes) -> bytes:
    """Put a constant into a register."""
    return expression("immediate", be32(1, register), value_attribute(2, value))


def redirect(register: int) -> bytes:
    """End here: the connection is for this host, at the port in the register."""
    return expression("redir", be32(1, register))


def reject_reset() -> bytes:
    """Drop a TCP segment and reset the connection towards its sender."""
    return expression("reject", be32(1, REJECT_TCP_RST))


def verdict(code: int) -> bytes:
    """End the evaluation of this base chain; another table's verdict is not touched by an accept."""
    return expression("immediate", be32(1, REG_VERDICT), verdict_attribute(2, code))
