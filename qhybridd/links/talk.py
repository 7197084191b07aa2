"""One block's messages between the two ends, over the parts that carry them."""

import asyncio
from typing import Final

from qhybridd.distill.authenticate import TAG_BYTES
from qhybridd.distill.messages import MAX_MESSAGE_BYTES
from qhybridd.errors import PeerError, QhybriddError
from qhybridd.links.parts import Assembly

SILENCE_S: Final = 30.0
"""A block from which nothing came for so long is given up."""
WAITING_MOST: Final = 1
"""Messages that may wait: each end speaks in its turn."""


class Talk:
    """The messages of one block that come from the peer."""

    def __init__(self, session: bytes, number: int, bytes_most: int = MAX_MESSAGE_BYTES + TAG_BYTES) -> None:
        """No message may be longer than `bytes_most`."""
        self.session, self.number = session, number
        self._assembly = Assembly(bytes_most)
        self._messages: list[bytes] = []
        self._error: QhybriddError | None = None
        self._wake = asyncio.Event()
        self._patience: asyncio.Timeout | None = None

    def take(self, part: bytes) -> None:
        """A part came."""
        if self._error is not None:
            return
        try:
            message = self._assembly.add(part)
            if message is not None:
                if len(self._messages) >= WAITING_MOST:
                    raise PeerError("link.order", "a message came out of its turn")
                self._messages.append(message)
                self._wake.set()
        except PeerError as error:
            self.fail(error)
        if self._patience is not None:
            self._patience.reschedule(asyncio.get_running_loop().time() + SILENCE_S)

    def fail(self, error: QhybriddError) -> None:
        """Nothing more can come."""
        self._error = error
        self._wake.set()

    async def next(self) -> bytes:
        """The next whole message. Raises `PeerError` when none comes."""
        try:
            async with asyncio.timeout(SILENCE_S) as self._patience:
                await self._wake.wait()
        except TimeoutError:
            raise PeerError("link.aborted", f"nothing of the block came for {SILENCE_S:g} s") from None
        finally:
            self._patience = None
        if self._messages:
            if self._error is None:
                self._wake.clear()
            return self._messages.pop(0)
        assert self._error is not None
        raise self._error
