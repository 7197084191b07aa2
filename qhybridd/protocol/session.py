"""The record layer and the channels of an established session.

A record is a 16-bit length and an AES-256-GCM ciphertext; its number is the nonce, its length is authenticated. Inside:
channel, whether it ends its message, bytes. Each channel reassembles its own messages, so that a short one of a higher
channel passes between two records of a long one. docs/handshake.md draws the bytes.
"""

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum
from typing import Final

from qhybridd.crypto.aead import MAX_RECORDS, TAG_BYTES, Opener, Sealer
from qhybridd.errors import CODES, HostError, PeerError, ProgramError
from qhybridd.protocol.framing import Framer
from qhybridd.secret import Secret

HEADER_BYTES: Final = 2
INNER_HEADER_BYTES: Final = 2
MAX_RECORD_BYTES: Final = 16384
"""A whole record: how long a rotation frame may have to wait for bulk on the wire."""
OVERHEAD_BYTES: Final = HEADER_BYTES + INNER_HEADER_BYTES + TAG_BYTES
HEARTBEAT_S: Final = 5.0
"""After so long without anything else to send."""
SILENCE_S: Final = 15.0
"""After so long without an authentic record the peer counts as gone: three heartbeats."""
MAX_CODE_BYTES: Final = 64


class Channel(IntEnum):
    """In order of priority."""

    CONTROL = 0
    ROTATION = 1
    DISTILLATION = 2


MAX_MESSAGE_BYTES: Final = {
    Channel.CONTROL: 4 << 10,
    Channel.ROTATION: 6 << 20,  # four public keys of 1.4 MB, Classic McEliece (messages.MAX_EK_BYTES)
    Channel.DISTILLATION: 16 << 20,
}
"""Bound of one reassembled message."""
MAX_QUEUE_BYTES: Final = {
    Channel.CONTROL: 8 << 10,
    Channel.ROTATION: 64 << 20,
    Channel.DISTILLATION: 32 << 20,
}
"""Bound of what waits for a peer that does not read."""


# ---- control frames


class Control(IntEnum):
    """First byte of a control frame."""

    UP = 1
    """R's first record: it took the Finish."""
    HEARTBEAT = 2
    CLOSE = 3
    """The sender gives the session up; an error code follows."""
    GOODBYE = 4
    """The sender ends the session in good order."""


@dataclass(frozen=True, slots=True)
class ControlFrame:
    """A control frame; `code` only with CLOSE."""

    kind: Control
    code: str = ""


def encode_control(frame: ControlFrame) -> bytes:
    """Kind and code."""
    return bytes([frame.kind]) + frame.code.encode("ascii")


def decode_control(data: bytes) -> ControlFrame:
    """The inverse of `encode_control`; a code that is unknown here becomes `unknown`. Raises peer.malformed."""
    kind, code = data[0], data[1:]
    if kind == Control.CLOSE:
        text = code.decode("ascii", "replace") if len(code) <= MAX_CODE_BYTES else ""
        return ControlFrame(Control.CLOSE, text if text in CODES else "unknown")
    if kind not in tuple(Control) or code:
        raise PeerError("peer.malformed", f"a control frame of kind {kind} and {len(code)} bytes")
    return ControlFrame(Control(kind))


# ---- channels


@dataclass(frozen=True, slots=True)
class Frame:
    """One whole message of one channel."""

    channel: Channel
    payload: bytes


class _Outbox:
    """What waits on one channel: whole messages, the first perhaps begun."""

    __slots__ = ("_at", "_messages", "waiting_bytes")

    def __init__(self) -> None:
        self._messages: deque[memoryview] = deque()
        self._at = 0
        self.waiting_bytes = 0

    def put(self, payload: bytes) -> None:
        self._messages.append(memoryview(payload))
        self.waiting_bytes += len(payload)

    def next_bytes(self, most: int) -> int:
        """Length of the next fragment; 0 if nothing waits."""
        return min(most, len(self._messages[0]) - self._at) if self._messages else 0

    def take(self, size: int) -> tuple[memoryview, bool]:
        """The next `size` bytes of the first message, and whether they end it."""
        message = self._messages[0]
        part = message[self._at : self._at + size]
        self._at += size
        self.waiting_bytes -= size
        ends = self._at == len(message)
        if ends:
            self._messages.popleft()
            self._at = 0
        return part, ends


def _record_size(header: bytes) -> int:
    size = HEADER_BYTES + int.from_bytes(header, "big")
    if size > MAX_RECORD_BYTES:
        raise PeerError("peer.oversized", f"a record of {size} bytes")
    if size <= OVERHEAD_BYTES:
        raise PeerError("peer.malformed", f"a record of {size} bytes")
    return size


class Session:
    """Both directions of an established session. Whatever `receive` or `tick` raises ends it."""

    __slots__ = ("_framer", "_heard_at", "_inbox", "_opener", "_outbox", "_sealer", "_sent_at")

    def __init__(self, send_key: Secret, receive_key: Secret, now: float, max_records: int = MAX_RECORDS) -> None:
        """Take both 32-byte traffic keys over; they are wiped."""
        self._sealer = Sealer(send_key, max_records)
        self._opener = Opener(receive_key, max_records)
        self._framer = Framer(HEADER_BYTES, _record_size)
        self._inbox = {channel: bytearray() for channel in Channel}
        self._outbox = {channel: _Outbox() for channel in Channel}
        self._heard_at = now
        self._sent_at = now

    # ---- receiving

    @property
    def partial(self) -> bool:
        """Whether a record or a message has begun and not ended."""
        return self._framer.partial or any(self._inbox.values())

    def receive(self, data: memoryview, now: float) -> Iterator[Frame]:
        """Each message that `data` completes, as far as asked for.

        Raises `PeerError` (peer.mac, peer.oversized, peer.malformed).
        """
        while len(data):
            record, data = self._framer.take(data)
            if record is None:
                return
            text = self._opener.open(record[HEADER_BYTES:], record[:HEADER_BYTES])
            self._heard_at = now
            if text[0] not in tuple(Channel) or text[1] > 1:
                raise PeerError("peer.malformed", f"a record for channel {text[0]} with the flag {text[1]}")
            channel, inbox = Channel(text[0]), self._inbox[Channel(text[0])]
            inbox += text[INNER_HEADER_BYTES:]
            if len(inbox) > MAX_MESSAGE_BYTES[channel]:
                raise PeerError("peer.oversized", f"a message on channel {channel.name.lower()} exceeds its bound")
            if text[1]:
                self._inbox[channel] = bytearray()
                yield Frame(channel, bytes(inbox))

    # ---- sending

    def backlog_bytes(self, channel: Channel) -> int:
        """What waits on a channel to be sent."""
        return self._outbox[channel].waiting_bytes

    def send(self, channel: Channel, payload: bytes, now: float) -> None:
        """Queue a message. Raises `PeerError` (peer.slow), and changes nothing, where too much waits already."""
        if not 0 < len(payload) <= MAX_MESSAGE_BYTES[channel]:
            raise ProgramError("program.argument", f"a message of {len(payload)} bytes on channel {channel.name}")
        outbox = self._outbox[channel]
        if outbox.waiting_bytes + len(payload) > MAX_QUEUE_BYTES[channel]:
            raise PeerError("peer.slow", f"the peer does not read: {outbox.waiting_bytes} bytes wait for it")
        outbox.put(payload)
        self._sent_at = now

    def data_to_send(self, limit: int) -> bytes:
        """Records of at most `limit` bytes together, at each one the highest channel first."""
        out: list[bytes] = []
        while (record := self._next_record(limit)) is not None:
            out.append(record)
            limit -= len(record)
        return b"".join(out)

    def _next_record(self, limit: int) -> bytes | None:
        if self._worn_out:
            return None
        for channel, outbox in self._outbox.items():
            size = outbox.next_bytes(MAX_RECORD_BYTES - OVERHEAD_BYTES)
            if size:
                if size + OVERHEAD_BYTES > limit:
                    return None
                part, ends = outbox.take(size)
                return self._seal(bytes([channel, ends]) + part)
        return None

    def _seal(self, text: bytes) -> bytes:
        header = (len(text) + TAG_BYTES).to_bytes(HEADER_BYTES, "big")
        return header + self._sealer.seal(text, header)

    @property
    def _worn_out(self) -> bool:
        """One record is kept for the farewell."""
        return self._sealer.remaining <= 1

    # ---- time and end

    def next_deadline(self) -> float:
        """When `tick` has something to do."""
        if self._worn_out:
            return self._sent_at
        return min(self._heard_at + SILENCE_S, self._sent_at + HEARTBEAT_S)

    def check(self, now: float) -> None:
        """Raises `PeerError` (peer.silent) where the peer is gone, `HostError` (host.exhausted) where the key is."""
        if now >= self._heard_at + SILENCE_S:
            raise PeerError("peer.silent", f"nothing came from the peer for {SILENCE_S:g} s")
        if self._worn_out:
            raise HostError("host.exhausted", "this end sent as many records as one key may protect")

    def tick(self, now: float) -> None:
        """Queue a heartbeat when one is due."""
        if now < self._sent_at + HEARTBEAT_S:
            return
        self._sent_at = now
        if not self.backlog_bytes(Channel.CONTROL):
            self.send(Channel.CONTROL, encode_control(ControlFrame(Control.HEARTBEAT)), now)

    def end(self, farewell: ControlFrame) -> bytes:
        """The last record; what waited is dropped, and both keys with it."""
        record = self._seal(bytes([Channel.CONTROL, 1]) + encode_control(farewell))
        self.wipe()
        return record

    def wipe(self) -> None:
        """Drop both keys and what waited."""
        self._sealer.wipe()
        self._opener.wipe()
        self._inbox.clear()
        self._outbox.clear()
