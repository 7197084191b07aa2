"""Files of state on a full disk: a real one, small and filled up."""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from qhybridd import statefile
from qhybridd.statefile import replace_state

ROOM = 4096


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own with 64 KiB."""
    if os.geteuid() != 0:
        pytest.skip("mounting needs root")
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "none", str(tmp_path)], check=True)
    yield tmp_path
    subprocess.run(["umount", str(tmp_path)], check=True)


def fill(disk: Path) -> Path:
    filler = disk / "filler"
    with filler.open("wb", buffering=0) as file, pytest.raises(OSError):
        while True:
            file.write(bytes(512))
    return filler


def test_the_new_text_replaces_the_old_one(tmp_path: Path) -> None:
    path = tmp_path / "wan.json"
    for size in (1, ROOM + 1, 0, 10):
        replace_state(path, b"x" * size, ROOM)
        assert path.read_bytes().rstrip() == b"x" * size
        assert path.stat().st_size % ROOM == 0 and path.stat().st_mode & 0o777 == 0o600
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["wan.json", "wan.new"]


def test_a_full_disk_takes_what_it_took_before(disk: Path) -> None:
    path = disk / "wan.json"
    replace_state(path, b"first", ROOM)
    filler = fill(disk)
    for number in range(5):
        replace_state(path, b"again %d" % number, ROOM)
        assert path.read_bytes().rstrip() == b"again %d" % number
    with pytest.raises(OSError, match="space"):
        replace_state(path, bytes(2 * ROOM), ROOM)
    assert path.read_bytes().rstrip() == b"again 4", "what was there before is whole"
    with pytest.raises(OSError, match="space"):
        replace_state(disk / "other.json", b"new", ROOM)
    assert not (disk / "other.json").exists()
    filler.unlink()
    replace_state(path, b"x" * 2 * ROOM, ROOM)
    assert path.read_bytes() == b"x" * 2 * ROOM


def test_a_file_system_without_exchange_serves_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(statefile, "RENAME_EXCHANGE", 1 << 7)  # a flag that no kernel knows: EINVAL
    path = tmp_path / "wan.json"
    for text in (b"one", b"two", b"three"):
        replace_state(path, text, ROOM)
        assert path.read_bytes().rstrip() == text
