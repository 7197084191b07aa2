"""Counts what leaves a cable's end in clear: packets from or to protected prefixes, seen by a packet socket.

The socket sits behind the guard, IPsec and the queue, where the driver takes the packet, and the kernel filters and
counts for it: no packet of interest is missed, and all others cost nothing. A ruleset that is flushed does not take it
away. It looks at outgoing packets only: what ESP decrypted on its way in passes by a second time, in clear.
"""

import ctypes
import socket
import struct
from collections.abc import Sequence
from typing import Final

from qhybridd.apps.namespaces import Namespace
from qhybridd.config import Prefix

ETH_P_ALL: Final = 3
SO_ATTACH_FILTER: Final = 26
SOL_PACKET: Final = 263
PACKET_STATISTICS: Final = 6
PACKET_OUTGOING: Final = 4
"""linux/if_packet.h: this host sent it."""
SKF_AD_PKTTYPE: Final = 0xFFFFF000 + 4
"""linux/filter.h: where a filter finds the direction."""
LD_WORD, LD_BYTE, AND, SHIFT_RIGHT, JUMP_EQUAL, RETURN = 0x20, 0x30, 0x54, 0x74, 0x15, 0x06
"""Classic BPF (linux/bpf_common.h)."""
SOURCE: Final = {4: 12, 6: 8}
"""Where the addresses stand in the header (RFC 791 section 3.1, RFC 8200 section 3)."""
TAKE: Final = 0xFFFF
KEPT: Final = 64
"""Packets whose bytes are kept for a message; all are counted."""

Instruction = tuple[int, int, int, int]
"""Code, jump if true, jump if false, operand."""


class Capture:
    """The packets in clear at one end of a cable, from the moment when this is made until `close`."""

    __slots__ = ("_count", "_socket", "packets")

    def __init__(self, namespace: Namespace, link: str, prefixes: Sequence[Prefix]) -> None:
        self._count = 0
        self.packets: list[bytes] = []
        """The first ones, from the IP header on."""
        self._socket = open_capture(namespace, link, clear_filter(prefixes))
        self._socket.setblocking(False)

    def count(self) -> int:
        """How many packets left in clear so far."""
        while True:
            try:
                packet = self._socket.recv(2048)
            except BlockingIOError:
                break
            if len(self.packets) < KEPT:
                self.packets.append(packet)
        # The kernel's own count, which includes what the socket had no room for; reading it begins it anew.
        self._count += struct.unpack("II", self._socket.getsockopt(SOL_PACKET, PACKET_STATISTICS, 8))[0]
        return self._count

    def close(self) -> None:
        """Stop. Twice does no harm."""
        self._socket.close()


def open_capture(namespace: Namespace, link: str, program: Sequence[Instruction]) -> socket.socket:
    """A packet socket on a link that takes what the filter program takes, from the IP header on."""
    # Bound to no protocol until the filter is on: nothing unfiltered is ever taken.
    opened = namespace.open_socket(socket.AF_PACKET, socket.SOCK_DGRAM, 0)
    try:
        code = b"".join(struct.pack("HBBI", *step) for step in program)
        buffer = ctypes.create_string_buffer(code)
        told = struct.pack("HP", len(program), ctypes.addressof(buffer))
        opened.setsockopt(socket.SOL_SOCKET, SO_ATTACH_FILTER, told)
        opened.bind((link, ETH_P_ALL))
    except BaseException:
        opened.close()
        raise
    return opened


def clear_filter(prefixes: Sequence[Prefix]) -> list[Instruction]:
    """The program that takes outgoing packets whose source or destination lies in one of the prefixes."""
    tests = [(prefix, SOURCE[prefix.version] + side) for prefix in prefixes for side in (0, prefix.max_prefixlen // 8)]
    program: list[Instruction] = [
        (LD_WORD, 0, 0, SKF_AD_PKTTYPE),
        (JUMP_EQUAL, 1, 0, PACKET_OUTGOING),
        (RETURN, 0, 0, 0),
    ]
    for prefix, offset in tests:
        program += _test(prefix, offset)
    return [*program, (RETURN, 0, 0, 0)]


def _test(prefix: Prefix, offset: int) -> list[Instruction]:
    """Take the packet if the address at `offset` lies in the prefix; else go on behind this."""
    steps: list[tuple[int, int]] = [(LD_BYTE, 0), (SHIFT_RIGHT, 4), (JUMP_EQUAL, prefix.version)]
    network, mask = prefix.network_address.packed, prefix.netmask.packed
    for at in range(0, len(mask), 4):
        (value,), (bits,) = struct.unpack_from("!I", network, at), struct.unpack_from("!I", mask, at)
        if bits:
            steps += [(LD_WORD, offset + at), (AND, bits), (JUMP_EQUAL, value)]
    # A test that fails jumps over the rest of the block and the RETURN behind it.
    block = [
        (code, 0, len(steps) - at if code == JUMP_EQUAL else 0, operand) for at, (code, operand) in enumerate(steps)
    ]
    return [*block, (RETURN, 0, 0, TAKE)]
