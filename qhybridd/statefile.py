"""Small files of state that are replaced as a whole, also on a full disk.

Two files of one size take turns: the spare one is written in place, which takes no space, and then changes names with
the other (renameat2(2) with RENAME_EXCHANGE). A crash leaves the old or the new one. Nothing is flushed to a disk: what
stands under /run is void after a reboot.
"""

import contextlib
import ctypes
import errno
import os
from pathlib import Path
from typing import Final

from qhybridd.errors import HostError

BOOT_ID: Final = Path("/proc/sys/kernel/random/boot_id")
SPARE: Final = ".new"
"""Suffix of the file that is written next."""
RENAME_EXCHANGE: Final = 2
"""linux/fs.h."""
AT_FDCWD: Final = -100
"""linux/fcntl.h."""
_WITHOUT_EXCHANGE: Final = frozenset({errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP})
"""What a file system says that cannot do it."""

_libc: Final = ctypes.CDLL(None, use_errno=True)


def open_directory(directory: Path) -> str:
    """Make the directory where it is not there; the ID of this boot, outside of which nothing in it counts.

    Raises `HostError` (host.state).
    """
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        return BOOT_ID.read_text().strip()
    except OSError as error:
        raise HostError("host.state", f"no place for state: {error.strerror}", where=str(directory)) from None


def replace_state(path: Path, text: bytes, room: int) -> None:
    """Replace the file by `text` and as many spaces as make it a multiple of `room` bytes. Raises OSError.

    Once it was written with enough room, it can be written again without any space left.
    """
    padded = text.ljust(-(-len(text) // room) * room)
    spare = path.with_suffix(SPARE)
    _fill(spare, padded)
    if _exchange(spare, path):
        return
    spare.replace(path)
    with contextlib.suppress(OSError):  # the next replacement will find out, and say so
        _fill(spare, bytes(len(padded)))


def _fill(path: Path, content: bytes) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        if os.write(descriptor, content) < len(content):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        os.ftruncate(descriptor, len(content))
    finally:
        os.close(descriptor)


def _exchange(one: Path, other: Path) -> bool:
    """Let two files change names; False where there is nothing to change with, or no way to."""
    if _libc.renameat2(AT_FDCWD, os.fsencode(one), AT_FDCWD, os.fsencode(other), RENAME_EXCHANGE) == 0:
        return True
    number = ctypes.get_errno()
    if number == errno.ENOENT or number in _WITHOUT_EXCHANGE:
        return False
    raise OSError(number, os.strerror(number))
