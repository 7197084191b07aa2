"""Cuts a byte stream into frames, holding never more than one unfinished frame."""

from collections.abc import Callable


class Framer:
    """A header of fixed length says how long a frame is; the check of the header is the caller's."""

    __slots__ = ("_buffer", "_frame_size", "_header_bytes", "_wanted")

    def __init__(self, header_bytes: int, frame_size: Callable[[bytes], int]) -> None:
        """`frame_size` gives a frame's whole length, header included, or raises for a header that is refused."""
        self._header_bytes = header_bytes
        self._frame_size = frame_size
        self._wanted = header_bytes
        self._buffer = bytearray()

    @property
    def partial(self) -> bool:
        """Whether a frame has begun and not ended."""
        return bool(self._buffer)

    def take(self, data: memoryview) -> tuple[bytes | None, memoryview]:
        """The first whole frame, if there is one, and the bytes behind it. Raises what `frame_size` raises."""
        while True:
            missing = self._wanted - len(self._buffer)
            self._buffer += data[:missing]
            data = data[missing:]
            if len(self._buffer) < self._wanted:
                return None, data
            if self._wanted == self._header_bytes:
                self._wanted = self._frame_size(bytes(self._buffer))
                if len(self._buffer) < self._wanted:
                    continue
            frame = bytes(self._buffer)
            self._buffer.clear()
            self._wanted = self._header_bytes
            return frame, data
