"""A copy of the stream's bytes on disk, as a tap makes it."""

from pathlib import Path
from typing import BinaryIO

from qhybridd.errors import HostError, OperatorError
from qhybridd.links.photon_frames import PREAMBLE, Announce, encode_announce, encode_frame
from qhybridd.links.photons import LENGTH_BYTES
from qhybridd.optics.records import Arrivals


class Copy:
    """What the upper end sends, from its preamble on, run after run, until so many bytes are written."""

    def __init__(self, path: Path, most_bytes: int) -> None:
        """Raises `OperatorError` (file.exists) or `HostError` (host.state)."""
        self.path = path
        self.bytes = 0
        """How many are written."""
        self.ended = ""
        """Why no more is written."""
        self._left = most_bytes
        try:
            self._file: BinaryIO = path.open("xb", buffering=0)
            path.chmod(0o600)
        except FileExistsError:
            hint = "It is left as it is: choose another path."
            raise OperatorError("file.exists", "a copy goes to a new file", where=str(path), hint=hint) from None
        except OSError as error:
            hint = "Choose a place where this user may write."
            raise HostError("host.state", error.strerror or str(error), where=str(path), hint=hint) from None

    def begin(self, announce: Announce) -> None:
        """A run begins."""
        self._write(PREAMBLE + encode_announce(announce))

    def frame(self, arrivals: Arrivals) -> None:
        """A frame passes."""
        if not self.ended:
            data = encode_frame(arrivals)
            self._write(len(data).to_bytes(LENGTH_BYTES, "big") + data)

    def close(self) -> None:
        """No more."""
        self.ended = self.ended or "closed"
        self._file.close()

    def _write(self, data: bytes) -> None:
        """Whole pieces only, so that what is there can be read."""
        if self.ended:
            return
        if len(data) > self._left:
            self.ended = "full"
            return
        try:
            self._file.write(data)
        except OSError as error:
            self.ended = error.strerror or str(error)
            return
        self._left -= len(data)
        self.bytes += len(data)
