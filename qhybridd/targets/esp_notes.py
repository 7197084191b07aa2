"""What XFRM tunnels must remember over a restart of the daemon, under /run: no secrets, and void after a reboot.

The kernel starts to count at one with every association that is added: under a key that it had before, nonces would
come twice and the key be broken (RFC 4106 section 3.1). So a note of both keys' public tags is on disk before either
reaches the kernel, and a key with a tag that was noted is refused. A boot ends the kernel's counters and this program's
keys together, so notes of another boot say nothing.
"""

from pathlib import Path
from typing import Annotated, Final, TypeVar

import msgspec
from msgspec import Meta, Struct

from qhybridd.errors import HostError
from qhybridd.statefile import open_directory, replace_state

MAX_NOTE_BYTES: Final = 1 << 20
PASSES: Final = ".passes"
"""No tunnel has such a name."""
ROOM_BYTES: Final = 1 << 13
"""More than a note takes, so that rotations go on when the disk is full: `MAX_USED` tags are 4.5 KiB."""
MAX_USED: Final = 128
"""Tags of keys that are kept, two for each epoch. Keys never come back after other ones: what could offer one again is
this program, in the rotation under way or the one before."""

Tag = Annotated[str, Meta(pattern=r"^[0-9a-f]{32}$")]
Spi = Annotated[int, Meta(ge=0x100, le=0xFFFFFFFF)]


class PairNote(Struct, frozen=True, forbid_unknown_fields=True):
    """The two associations of one epoch."""

    epoch: Annotated[int, Meta(ge=0, le=(1 << 63) - 1)]
    tag: Tag
    """Public tag of the epoch's key, as in the daemon's records."""
    spi_in: Spi
    spi_out: Spi
    key_in: Tag
    """Public tag of the ESP key."""
    key_out: Tag


class TunnelNote(Struct, frozen=True, forbid_unknown_fields=True):
    """One tunnel."""

    boot_id: str
    pairs: tuple[PairNote, ...] = ()
    """Whose associations may be in the kernel, the oldest first."""
    used: Annotated[tuple[Tag, ...], Meta(max_length=MAX_USED)] = ()
    """Public tags of ESP keys that were in the kernel or on the way there, the oldest first."""

    def pair(self, tag: str) -> PairNote | None:
        """The associations of the key with this tag."""
        return next((pair for pair in self.pairs if pair.tag == tag), None)

    def adding(self, pair: PairNote) -> "TunnelNote":
        """With another epoch, whose keys are used from now on."""
        used = (*self.used, pair.key_in, pair.key_out)
        return msgspec.structs.replace(self, pairs=(*self.pairs, pair), used=used[-MAX_USED:])


class PassNote(Struct, frozen=True, forbid_unknown_fields=True):
    """A policy without a template, which no reqid tells from others."""

    direction: int
    source: str
    destination: str
    protocol: int
    source_port: int
    destination_port: int
    priority: int
    if_id: int


class PassNotes(Struct, frozen=True, forbid_unknown_fields=True):
    """Every one of them that this program put into the kernel, or is about to."""

    boot_id: str
    policies: frozenset[PassNote] = frozenset()


_N = TypeVar("_N", TunnelNote, PassNotes)


class Notes:
    """The notes of all XFRM tunnels in one directory."""

    def __init__(self, directory: Path) -> None:
        """Raises `HostError` (host.state) where the directory cannot be made."""
        self._directory = directory
        self._boot_id = open_directory(directory)

    def read(self, tunnel: str) -> TunnelNote:
        """A tunnel's note; an empty one where there is none of this boot. Raises `HostError` (host.state)."""
        return self._read(self._path(tunnel), TunnelNote) or TunnelNote(self._boot_id)

    def write(self, tunnel: str, note: TunnelNote) -> None:
        """Replace a tunnel's note. Raises `HostError` (host.state): the key must not reach the kernel then."""
        self._write(self._path(tunnel), note)

    def read_passes(self) -> frozenset[PassNote]:
        """The policies without a template that are ours. Raises `HostError` (host.state)."""
        notes = self._read(self._directory / PASSES, PassNotes)
        return notes.policies if notes else frozenset()

    def write_passes(self, policies: frozenset[PassNote]) -> None:
        """Replace that list. Raises `HostError` (host.state)."""
        self._write(self._directory / PASSES, PassNotes(self._boot_id, policies))

    def _path(self, tunnel: str) -> Path:
        return self._directory / f"{tunnel}.json"

    def _read(self, path: Path, kind: type[_N]) -> _N | None:
        """None where nothing is noted, or by another boot. What is there and cannot be read is an error: it may name
        keys that were used.
        """
        try:
            with path.open("rb") as file:
                note = msgspec.json.decode(file.read(MAX_NOTE_BYTES), type=kind)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise HostError("host.state", f"a note cannot be read: {error.strerror}", where=str(path)) from None
        except (msgspec.DecodeError, UnicodeDecodeError):
            hint = "Stop the daemon, remove the file, and reboot before the tunnel is keyed again."
            raise HostError("host.state", "a note is damaged", where=str(path), hint=hint) from None
        return note if note.boot_id == self._boot_id else None

    def _write(self, path: Path, note: TunnelNote | PassNotes) -> None:
        try:
            replace_state(path, msgspec.json.encode(note), ROOM_BYTES)
        except OSError as error:
            raise HostError("host.state", f"a note cannot be written: {error.strerror}", where=str(path)) from None
