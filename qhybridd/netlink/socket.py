"""A netlink socket: one request at a time, answers into locked memory.

Blocking, with a time limit; its owner calls it from a worker thread. Dumps of WireGuard devices hold private keys and
PSKs, so every answer lands in one locked buffer that is wiped when its reader is done. `NETLINK_CAP_ACK` keeps the
kernel from sending a refused request, with the key in it, back.
"""

import errno
import os
import socket
import struct
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from qhybridd.errors import HostError
from qhybridd.netlink.attributes import (
    HEADER,
    NLM_F_CAPPED,
    NLM_F_DUMP,
    NLM_F_DUMP_INTR,
    NLM_F_REQUEST,
    NLMSG_DONE,
    NLMSG_ERROR,
    NLMSG_NOOP,
    Message,
    malformed,
    message,
    read_text,
    walk,
    walk_messages,
)
from qhybridd.secret import MAX_SECRET_BYTES, Secret

SOL_NETLINK: Final = 270
NETLINK_CAP_ACK: Final = 10
NETLINK_EXT_ACK: Final = 11
SO_SNDBUFFORCE: Final = 32
NLMSGERR_ATTR_MSG: Final = 1

TIMEOUT_S: Final = 5
"""The kernel answers within the system call; this only ends a wait that could never end."""
SEND_BUFFER_BYTES: Final = 1 << 24
"""One batch is one datagram: 16 MiB hold the guard of some 100,000 prefixes."""
DATAGRAM_BYTES: Final = 1 << 16
"""More than the largest datagram of a dump (32 KiB, `netlink_dump` of the kernel)."""
MAX_ATTEMPTS: Final = 10
"""Dumps that were interrupted by a change and begun again."""


class NetlinkError(HostError):
    """The kernel refused a request; `errno` says why."""

    def __init__(self, number: int, what: str, explanation: str = "", *, code: str = "host.netlink") -> None:
        reason = f"{os.strerror(number)} ({errno.errorcode.get(number, number)})"
        super().__init__(code, f"{what}: {reason}" + (f": {explanation}" if explanation else ""))
        self.errno = number
        self.explanation = explanation


class _InterruptedError(Exception):
    """The dumped data changed under the dump (NLM_F_DUMP_INTR): it may be inconsistent."""


class Dump:
    """The answer to a request, in place: `view`, and the messages in it."""

    __slots__ = ("messages", "view")

    def __init__(self, view: memoryview, messages: list[Message]) -> None:
        self.view = view
        self.messages = messages


class NetlinkSocket:
    """A raw netlink socket of the network namespace that the calling thread is in."""

    def __init__(self, protocol: int) -> None:
        """Raises `HostError` (host.netlink) where the kernel lacks the protocol."""
        try:
            self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, protocol)
        except OSError as error:
            raise NetlinkError(error.errno or 0, f"no netlink socket of protocol {protocol}") from None
        try:
            self._socket.bind((0, 0))
            self._socket.setsockopt(SOL_NETLINK, NETLINK_CAP_ACK, 1)
            self._socket.setsockopt(SOL_NETLINK, NETLINK_EXT_ACK, 1)
            # a limit of the kernel's and not Python's, under which MSG_DONTWAIT would wait as well
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("@ll", TIMEOUT_S, 0))
            self._raise_limit()
            self._buffer = Secret(DATAGRAM_BYTES)
        except OSError as error:
            self._socket.close()
            raise NetlinkError(error.errno or 0, "a netlink socket") from None
        self._sequence = 0

    def _raise_limit(self) -> None:
        try:
            self._socket.setsockopt(socket.SOL_SOCKET, SO_SNDBUFFORCE, SEND_BUFFER_BYTES)
        except PermissionError:  # without CAP_NET_ADMIN nothing large is sent either
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER_BYTES)

    def close(self) -> None:
        """Give the socket and its buffer back."""
        self._socket.close()
        self._buffer.wipe()

    @property
    def port(self) -> int:
        """The number by which the kernel knows this socket; events name it as their cause."""
        return int(self._socket.getsockname()[0])

    def next_sequence(self) -> int:
        """A number for a request, so that its answers can be told from older ones."""
        self._sequence = (self._sequence + 1) & 0xFFFFFFFF or 1
        return self._sequence

    def send(self, datagram: bytes | memoryview, what: str) -> None:
        """Send one datagram; the kernel carries it out before this returns. `what` is for the error text."""
        try:
            self._socket.send(datagram)
        except OSError as error:
            raise NetlinkError(error.errno or 0, what) from None

    def collect_errors(self, what: str) -> dict[int, NetlinkError | None]:
        """After `send`: every acknowledgement (None) and error that waits, by sequence number, without blocking."""
        found: dict[int, NetlinkError | None] = {}
        with self._buffer.expose() as view:
            while (size := self._receive(view, what, block=False)) is not None:
                for item in walk_messages(view, 0, size):
                    if item.kind == NLMSG_ERROR:
                        found[item.sequence] = read_error(view, item, what)
        return found

    def acknowledged(self, datagram: memoryview, sequence: int, what: str) -> None:
        """Send one request that asks for an acknowledgement, and raise `NetlinkError` unless it is a good one."""
        self._drain(what)
        self.send(datagram, what)
        found = self.collect_errors(what)
        if sequence not in found:
            raise HostError("host.netlink", f"{what}: the kernel did not acknowledge")
        if (error := found[sequence]) is not None:
            raise error

    @contextmanager
    def dump(self, kind: int, payload: bytes, what: str, *, flags: int = NLM_F_DUMP) -> Iterator[Dump]:
        """Request a dump (or, with other flags, one answer) and read it in place; the buffer is wiped afterwards."""
        for _ in range(MAX_ATTEMPTS):
            self._drain(what)
            sequence = self.next_sequence()
            self.send(message(kind, flags | NLM_F_REQUEST, sequence, payload), what)
            try:
                size, messages = self._receive_all(sequence, what, single=flags & NLM_F_DUMP != NLM_F_DUMP)
            except _InterruptedError:
                continue
            except BaseException:
                self._buffer.wipe()
                raise
            try:
                with self._buffer.expose() as view, view[:size] as used:
                    yield Dump(used, messages)
            finally:
                self._buffer.wipe()
            return
        raise HostError("host.netlink", f"{what}: changed under each of {MAX_ATTEMPTS} attempts to read it")

    def _receive_all(self, sequence: int, what: str, *, single: bool) -> tuple[int, list[Message]]:
        messages: list[Message] = []
        used, interrupted = 0, False
        while True:
            self._reserve(used + DATAGRAM_BYTES)
            with self._buffer.expose() as view, view[used:] as free:
                size = self._receive(free, what, block=True) or 0
            with self._buffer.expose() as view:
                for item in walk_messages(view, used, used + size):
                    if item.sequence != sequence or item.kind == NLMSG_NOOP:
                        continue
                    interrupted |= bool(item.flags & NLM_F_DUMP_INTR)
                    if item.kind == NLMSG_ERROR and (error := read_error(view, item, what)) is not None:
                        raise error
                    if item.kind == NLMSG_DONE:
                        if (error := read_error(view, item, what)) is not None:
                            raise error
                        if interrupted:
                            self._buffer.wipe()
                            raise _InterruptedError
                        return used + size, messages
                    messages.append(item)
            used += size
            if single and messages:
                return used, messages

    def _reserve(self, size: int) -> None:
        if size <= len(self._buffer):
            return
        if size > MAX_SECRET_BYTES:
            raise HostError("host.netlink", f"an answer of more than {MAX_SECRET_BYTES >> 20} MiB")
        larger = Secret(min(MAX_SECRET_BYTES, max(size, 2 * len(self._buffer))))
        with self._buffer.expose() as old, larger.expose() as new:
            new[: len(old)] = old
        self._buffer.wipe()
        self._buffer = larger

    def _drain(self, what: str) -> None:
        """Throw away what an abandoned request left behind."""
        self.collect_errors(what)

    def _receive(self, into: memoryview, what: str, *, block: bool) -> int | None:
        """One datagram of the kernel: its size, or None where none waits."""
        while True:
            try:
                size, _, flags, sender = self._socket.recvmsg_into([into], 0, 0 if block else socket.MSG_DONTWAIT)
            except BlockingIOError:
                if not block:
                    return None
                raise HostError("host.netlink", f"{what}: no answer within {TIMEOUT_S} s") from None
            except OSError as error:
                raise NetlinkError(error.errno or 0, what) from None
            if sender[0] != 0:  # another process wrote to our port: only the kernel's is port 0
                continue
            if flags & socket.MSG_TRUNC:
                raise malformed("a datagram longer than the kernel makes them")
            return size


def read_error(view: memoryview, item: Message, what: str) -> NetlinkError | None:
    """The error that an NLMSG_ERROR or NLMSG_DONE carries, with the kernel's explanation; None for success."""
    if item.end - item.start < 4:
        if item.kind == NLMSG_DONE:
            return None
        raise malformed("an error without a number")
    number = -int.from_bytes(view[item.start : item.start + 4], sys.byteorder, signed=True)
    if number <= 0:
        return None
    explanation = ""
    start = item.start + 4 + (HEADER.size if item.kind == NLMSG_ERROR else 0)
    if item.kind == NLMSG_DONE or item.flags & NLM_F_CAPPED:
        for entry in walk(view, start, item.end):
            if entry.kind == NLMSGERR_ATTR_MSG:
                explanation = read_text(view, entry)
    return NetlinkError(number, what, explanation)
