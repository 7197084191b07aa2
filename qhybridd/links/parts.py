"""Long messages in parts, so that a channel of the session stays bounded and another link's message gets between.

A part is a byte that says whether it begins a message, the message's length if it does (32 bits, big-endian), and
bytes of it. Parts of one message come in order, and one message after the other.
"""

import asyncio
import io
from collections.abc import Iterator
from typing import Final

from qhybridd.errors import PeerError, ProgramError
from qhybridd.protocol.session import Channel
from qhybridd.transport import Wire

PART_BYTES: Final = 256 << 10
"""Of the message, in one part."""
BACKLOG_BYTES: Final = 1 << 20
"""While more waits on the channel, the next part is held back."""
MAX_MESSAGE_BYTES: Final = (1 << 32) - 1

_GOES_ON: Final = b"\x00"
_BEGINS: Final = b"\x01"
_BEGIN_BYTES: Final = 5


def split(data: bytes | memoryview) -> Iterator[bytes]:
    """The parts of one message, which is not empty."""
    if not 0 < len(data) <= MAX_MESSAGE_BYTES:
        raise ProgramError("program.argument", f"a message of {len(data)} bytes")
    view = memoryview(data)
    yield _BEGINS + len(view).to_bytes(4, "big") + view[:PART_BYTES]
    for at in range(PART_BYTES, len(view), PART_BYTES):
        yield _GOES_ON + view[at : at + PART_BYTES]


class Assembly:
    """Puts the parts of one sender together again."""

    __slots__ = ("_came", "_data", "_most", "_size")

    def __init__(self, bytes_most: int) -> None:
        """`bytes_most`: no message may be longer."""
        self._most = bytes_most
        self._size = self._came = 0
        self._data = io.BytesIO()

    def add(self, part: bytes | memoryview) -> bytes | None:
        """The message, where this part ends it. Memory grows with what came, never with what was promised.

        Raises `PeerError` (link.malformed) for a part that does not follow, and for a message above the bound.
        """
        view = memoryview(part)
        kind = bytes(view[:1])
        if kind == _BEGINS and not self._came:
            self._size, body = int.from_bytes(view[1:_BEGIN_BYTES], "big"), view[_BEGIN_BYTES:]
            if self._size > self._most:
                raise PeerError("link.malformed", f"a message of {self._size} bytes, at most {self._most} are taken")
        elif kind == _GOES_ON and self._came:
            body = view[1:]
        else:
            raise PeerError("link.malformed", "a part that does not follow the one before")
        if not 0 < len(body) <= min(PART_BYTES, self._size - self._came):
            raise PeerError("link.malformed", f"a part of {len(body)} bytes")
        self._came += self._data.write(body)
        if self._came < self._size:
            return None
        # Its own buffer, not a copy: copying half a gigabyte would hold up the event loop, and all rotations with it.
        message = self._data.getvalue()
        self._data, self._came = io.BytesIO(), 0
        return message


async def send(wire: Wire, data: bytes | memoryview, prefix: bytes = b"") -> None:
    """Send a message on the distillation channel as it drains: a megabyte waits at most, and a part for each sender.

    Every part comes behind `prefix`. Raises `PeerError` (peer.closed) when the connection ends before all is queued.
    """
    for part in split(data):
        await wire.wait_for_backlog(Channel.DISTILLATION, BACKLOG_BYTES)
        wire.send(Channel.DISTILLATION, prefix + part)
        await asyncio.sleep(0)  # a fast peer leaves nothing to wait for, and others want to speak too
