"""What a restart of the daemon needs to know of a tunnel, under /run: no secrets, and void after a reboot.

One small file a tunnel, replaced as a whole (`statefile`), so that a crash leaves the old or the new one. It names keys
by their public tags only. That a tunnel may stay open is the guard's word, in the kernel; the record only says what it
is.
"""

import contextlib
from pathlib import Path
from typing import Annotated, Final

import msgspec
from msgspec import Meta, Struct

from qhybridd.crypto.levels import Level
from qhybridd.errors import HostError
from qhybridd.protocol.actions import LiveEpoch
from qhybridd.protocol.messages import Held
from qhybridd.statefile import open_directory, replace_state
from qhybridd.telemetry.log import Log

MAX_RECORD_BYTES: Final = 16 * 1024
ROOM_BYTES: Final = 4096
"""More than a record takes."""
MAX_CANDIDATES: Final = 3
"""The live key, one that was installed and not proven, and one that is being installed."""

Tag = Annotated[str, Meta(pattern=r"^[0-9a-f]{32}$")]
Epoch = Annotated[int, Meta(ge=0, le=(1 << 63) - 1)]


class HeldRecord(Struct, frozen=True, forbid_unknown_fields=True):
    """A key that may be on the device."""

    epoch: Epoch
    tag: Tag


class TunnelRecord(Struct, frozen=True, forbid_unknown_fields=True):
    """The live epoch and the keys that may be on the device."""

    boot_id: str
    epoch: Epoch
    level: Level
    tag: Tag
    combined_at: float
    deadline: float
    peer: Annotated[str, Meta(pattern=r"^([0-9a-f]{96})?$")]
    candidates: Annotated[tuple[HeldRecord, ...], Meta(max_length=MAX_CANDIDATES)]

    def live(self) -> LiveEpoch:
        """The live epoch as the core knows it."""
        tag, peer = bytes.fromhex(self.tag), bytes.fromhex(self.peer)
        return LiveEpoch(self.epoch, self.level, tag, self.combined_at, self.deadline, peer)

    def installed(self, tag: bytes) -> Held | None:
        """The candidate with this tag; None when the device holds a key that is not ours."""
        for held in self.candidates:
            if held.tag == tag.hex():
                return Held(held.epoch, tag)
        return None


class Records:
    """The records of all tunnels in one directory."""

    def __init__(self, directory: Path) -> None:
        """Raises `HostError` (host.state) where the directory cannot be made."""
        self._directory = directory
        self._boot_id = open_directory(directory)

    def write(self, tunnel: str, live: LiveEpoch, candidates: tuple[Held, ...]) -> None:
        """Replace a tunnel's record. Raises OSError."""
        record = TunnelRecord(
            boot_id=self._boot_id,
            epoch=live.epoch,
            level=live.level,
            tag=live.tag.hex(),
            combined_at=live.combined_at,
            deadline=live.deadline,
            peer=live.peer.hex(),
            candidates=tuple(HeldRecord(held.epoch, held.tag.hex()) for held in candidates),
        )
        replace_state(self._path(tunnel), msgspec.json.encode(record), ROOM_BYTES)

    def read(self, tunnel: str) -> TunnelRecord | None:
        """A tunnel's record; None when there is none of this boot, or none that parses."""
        try:
            with self._path(tunnel).open("rb") as file:
                data = file.read(MAX_RECORD_BYTES + 1)
            record = msgspec.json.decode(data, type=TunnelRecord) if len(data) <= MAX_RECORD_BYTES else None
        except (OSError, msgspec.DecodeError, UnicodeDecodeError):
            return None
        return record if record is not None and record.boot_id == self._boot_id else None

    def remove(self, tunnel: str) -> None:
        """Forget a tunnel. A record that stays does no harm: it counts only while the guard holds the tunnel open and
        the device a key that it names.
        """
        with contextlib.suppress(OSError):
            self._path(tunnel).unlink()

    def clear(self) -> None:
        """Forget all tunnels. Raises `HostError` (host.state) where the directory is not to be changed."""
        try:
            for path in self._directory.glob("*.json"):
                path.unlink(missing_ok=True)
        except OSError as error:
            message = f"the state cannot be changed: {error.strerror}"
            raise HostError("host.state", message, where=str(self._directory)) from None

    def _path(self, tunnel: str) -> Path:
        return self._directory / f"{tunnel}.json"


class Memory:
    """What the daemon keeps of one tunnel there, while it drives it."""

    def __init__(self, records: Records, tunnel: str, log: Log) -> None:
        self._records, self._tunnel, self._log = records, tunnel, log

    def read(self) -> TunnelRecord | None:
        """What a daemon before kept; None when there is nothing that counts."""
        return self._records.read(self._tunnel)

    def keep(self, live: LiveEpoch, *others: Held) -> None:
        """The live epoch, and what else may be on the device."""
        held = (Held(live.epoch, live.tag), *others)
        try:
            self._records.write(self._tunnel, live, tuple(dict.fromkeys(one for one in held if one.tag)))
        except OSError as error:
            # Without a record a restart closes the tunnel: safe, and worth a word.
            self._log.repeated("record", HostError("host.state", f"the state cannot be written: {error.strerror}"))

    def forget(self) -> None:
        """A restart is to find nothing."""
        self._records.remove(self._tunnel)
