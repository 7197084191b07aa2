"""One end of a measured stream: sends numbered UDP packets at absolute deadlines and keeps an exact account of the
other end's.

Runs as a process of its own (`python -m qhybridd.apps.traffic`), inside the namespace whose tunnel is measured.
Standard input commands it: a line `send` starts sending, `hush` stops it, end of file ends the process. Its account
stands in the report file, replaced as a whole a few times a second.
"""

import argparse
import errno
import os
import selectors
import socket
import struct
import sys
from pathlib import Path
from typing import Final

import msgspec

from qhybridd.clock import boottime

PACKET: Final = struct.Struct("!8sQQ")
"""Stream name, sequence number from 0, CLOCK_BOOTTIME of sending in nanoseconds."""
PACKET_BYTES: Final = 64
"""Padded to an ICMP echo's size, as `ping` sends by default."""
MAX_SEQUENCE: Final = 1 << 24
"""Two days at a packet every 10 ms; bounds the account's memory at 16 MiB."""
MAX_GAPS: Final = 1000
GAP_S: Final = 0.25
"""A silence shorter than this is no gap: two busy cores delay a process that long now and then."""
REPORT_EVERY_S: Final = 0.2
SO_RCVBUFFORCE: Final = 33
RECEIVE_BYTES: Final = 4 << 20
LATE_S: Final = 1.0
"""A sender that fell behind by more (its process was stopped) starts over instead of sending a burst."""


class Gap(msgspec.Struct, frozen=True):
    """A silence between two packets that arrived. CLOCK_BOOTTIME seconds."""

    last_s: float
    """When the last packet before it arrived."""
    next_s: float
    """When the first one after it arrived."""


class Account(msgspec.Struct, frozen=True):
    """What one end sent and what arrived there of the other end's packets. Times are CLOCK_BOOTTIME seconds."""

    at_s: float = 0.0
    """When the account was taken."""
    sent: int = 0
    """Packets offered to the network, refused ones included."""
    refused: int = 0
    """Those of them that the host did not let out (guard, no route, no WireGuard peer)."""
    late_s: float = 0.0
    """The most that a packet was sent after its deadline."""
    received: int = 0
    """Different packets that arrived."""
    duplicates: int = 0
    """Packets that arrived again."""
    next_sequence: int = 0
    """One more than the highest sequence number that arrived."""
    first_arrival_s: float = 0.0
    """When the first packet arrived; 0 if none did."""
    last_arrival_s: float = 0.0
    """When the last packet arrived; 0 if none did."""
    delay_s: float = 0.0
    """The longest way of a packet. Both ends share a clock, so this is exact."""
    gaps: tuple[Gap, ...] = ()
    """Silences of `GAP_S` or more, the first `MAX_GAPS`."""
    hushed: bool = False
    """True once this end stopped sending."""


class Arrivals:
    """Counts the packets that arrive: each once, in any order."""

    __slots__ = (
        "_seen",
        "delay_s",
        "duplicates",
        "first_arrival_s",
        "gaps",
        "last_arrival_s",
        "next_sequence",
        "received",
    )

    def __init__(self) -> None:
        self._seen = bytearray()
        self.received = 0
        self.duplicates = 0
        self.next_sequence = 0
        self.first_arrival_s = self.last_arrival_s = 0.0
        self.delay_s = 0.0
        self.gaps: list[Gap] = []

    def note(self, sequence: int, delay_s: float, now: float) -> None:
        """Packet `sequence` arrived; one out of range is not of ours and is left out."""
        if not 0 <= sequence < MAX_SEQUENCE:
            return
        if sequence >= len(self._seen):
            self._seen.extend(bytes(max(sequence + 1 - len(self._seen), 4096)))
        if self._seen[sequence]:
            self.duplicates += 1
            return
        self._seen[sequence] = 1
        self.first_arrival_s = self.first_arrival_s or now
        self.received += 1
        self.next_sequence = max(self.next_sequence, sequence + 1)
        self.delay_s = max(self.delay_s, delay_s)
        if self.last_arrival_s and now - self.last_arrival_s >= GAP_S and len(self.gaps) < MAX_GAPS:
            self.gaps.append(Gap(self.last_arrival_s, now))
        self.last_arrival_s = now


class End:
    """One end of the stream."""

    __slots__ = (
        "_arrivals",
        "_due",
        "_hushed",
        "_interval_s",
        "_late_s",
        "_peer",
        "_refused",
        "_sent",
        "_socket",
        "_stream",
    )

    def __init__(self, stream: bytes, bound: socket.socket, peer: tuple[str, int], interval_s: float) -> None:
        self._stream = stream
        self._socket = bound
        self._peer = peer
        self._interval_s = interval_s
        self._arrivals = Arrivals()
        self._sent = self._refused = 0
        self._late_s = 0.0
        self._due: float | None = None
        self._hushed = False

    def command(self, word: str, now: float) -> None:
        """Carry out one line of standard input."""
        if word == "send":
            self._due = now
        elif word == "hush":
            self._due = None
            self._hushed = True

    def wait_s(self, now: float) -> float | None:
        """How long until a packet is due; None while not sending."""
        return None if self._due is None else max(0.0, self._due - now)

    def send_due(self, now: float) -> None:
        """Send every packet whose deadline has come."""
        while self._due is not None and self._due <= now:
            late_s = now - self._due
            self._late_s = max(self._late_s, late_s)
            self._due = self._due + self._interval_s if late_s < LATE_S else now + self._interval_s
            packet = PACKET.pack(self._stream, self._sent, int(boottime() * 1e9)).ljust(PACKET_BYTES, b"\0")
            self._sent += 1
            try:
                self._socket.sendto(packet, self._peer)
            except OSError as error:
                if error.errno in (errno.EBADF, errno.EMSGSIZE):  # XFRM says EINVAL of an association that failed
                    raise
                self._refused += 1

    def receive(self) -> None:
        """Note every packet that waits in the socket."""
        while True:
            try:
                data = self._socket.recv(2048)
            except BlockingIOError:
                return
            except OSError:
                continue  # an ICMP error of an earlier packet; it counts as lost by itself
            if len(data) != PACKET_BYTES:
                continue
            stream, sequence, sent_ns = PACKET.unpack_from(data)
            now = boottime()
            if stream == self._stream:
                self._arrivals.note(sequence, now - sent_ns / 1e9, now)

    def account(self, now: float) -> Account:
        """The state of all counters."""
        seen = self._arrivals
        return Account(
            at_s=now,
            sent=self._sent,
            refused=self._refused,
            late_s=self._late_s,
            received=seen.received,
            duplicates=seen.duplicates,
            next_sequence=seen.next_sequence,
            first_arrival_s=seen.first_arrival_s,
            last_arrival_s=seen.last_arrival_s,
            delay_s=seen.delay_s,
            gaps=tuple(seen.gaps),
            hushed=self._hushed,
        )


def write_report(path: Path, account: Account) -> None:
    """Replace the report as a whole."""
    fresh = path.with_suffix(".new")
    fresh.write_bytes(msgspec.json.encode(account))
    fresh.replace(path)


def run(end: End, bound: socket.socket, report: Path) -> None:
    """Serve until standard input ends; the last report stands when this returns."""
    os.set_blocking(sys.stdin.fileno(), False)
    with selectors.DefaultSelector() as selector:
        selector.register(bound, selectors.EVENT_READ)
        selector.register(sys.stdin, selectors.EVENT_READ)
        next_report_s = boottime()
        while True:
            now = boottime()
            end.send_due(now)
            if now >= next_report_s:
                write_report(report, end.account(now))
                next_report_s = now + REPORT_EVERY_S
            due_s = end.wait_s(boottime())
            wait_s = max(0.0, next_report_s - boottime())
            ready = selector.select(wait_s if due_s is None else min(wait_s, due_s))
            for key, _ in ready:
                if key.fileobj is bound:
                    end.receive()
                    continue
                text = os.read(sys.stdin.fileno(), 4096)
                if not text:
                    end.receive()
                    write_report(report, end.account(boottime()))
                    return
                for word in text.decode("ascii", "replace").split():
                    end.command(word, boottime())


def _address(text: str) -> tuple[str, int]:
    host, _, port = text.rpartition(":")
    return host.strip("[]"), int(port)


def main() -> int:
    """Entry point of the process."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--stream", required=True, help="16 hex digits that both ends share; no secret")
    parser.add_argument("--bind", required=True, type=_address)
    parser.add_argument("--peer", required=True, type=_address)
    parser.add_argument("--interval-ms", type=float, default=10.0)
    parser.add_argument("--report", required=True, type=Path)
    options = parser.parse_args()
    family = socket.AF_INET6 if ":" in options.bind[0] else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as bound:
        bound.setblocking(False)
        # What a busy machine makes this process miss for a moment waits instead of counting as lost by the network.
        bound.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, RECEIVE_BYTES)
        bound.bind(options.bind)
        end = End(bytes.fromhex(options.stream), bound, options.peer, options.interval_ms / 1000)
        run(end, bound, options.report)
    return 0


if __name__ == "__main__":
    sys.exit(main())
