"""Files that hold a secret: readable by their owner alone, written whole or not at all.

A file is judged by its open descriptor, not by its name, and a symbolic link is not followed, so that nothing can be
put in its place between the look and the read.
"""

import os
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from qhybridd.errors import OperatorError
from qhybridd.secret import Secret

SECRET_MODE: Final = 0o600
PUBLIC_MODE: Final = 0o644
_READ: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY
_CREATE: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


def read_secret(path: Path, limit: int) -> Secret:
    """The bytes of a secret file of 1 to `limit` bytes, in locked memory.

    Raises `OperatorError`: file.missing, file.unreadable, file.mode (others can read it, or it is another user's),
    file.malformed (empty or too long).
    """
    with _opened(path) as descriptor:
        status = os.fstat(descriptor)
        _refuse_foreign(path, status)
        if status.st_mode & 0o077:
            mode = stat.S_IMODE(status.st_mode)
            raise OperatorError(
                "file.mode",
                f"others may read or change this secret (mode {mode:04o}); mend it with: chmod 600 {path}",
                where=str(path),
                hint="Run that, and if anybody else could have read it, make a new secret.",
            )
        if not 0 < status.st_size <= limit:
            raise OperatorError("file.malformed", f"the file has {status.st_size} bytes", where=str(path))
        secret = Secret(status.st_size)
        with secret.expose() as view:
            if os.readv(descriptor, [view]) != status.st_size:
                raise OperatorError("file.unreadable", "the file changed while it was read", where=str(path))
        return secret


def read_trusted(path: Path, limit: int) -> bytes:
    """The bytes of a public file that others may read but not change. Raises as `read_secret`."""
    with _opened(path) as descriptor:
        status = os.fstat(descriptor)
        _refuse_foreign(path, status)
        if status.st_mode & 0o022:
            mode = stat.S_IMODE(status.st_mode)
            raise OperatorError(
                "file.mode",
                f"others may change this file (mode {mode:04o}); mend it with: chmod 644 {path}",
                where=str(path),
                hint="Run that, after looking whether the file is still what it was.",
            )
        data = bytearray()
        while len(data) <= limit and (part := os.read(descriptor, limit + 1 - len(data))):
            data += part
        if len(data) > limit:
            raise OperatorError("file.malformed", f"the file is longer than {limit} bytes", where=str(path))
        return bytes(data)


def create_file(path: Path, data: bytes | memoryview, mode: int) -> None:
    """Write a new file, on disk when this returns. Raises `OperatorError` (file.exists) and leaves what is there."""
    with _temporary(path, data, mode) as temporary:
        try:
            os.link(temporary, path)  # unlike rename, refuses an existing name in one step
        except FileExistsError:
            raise OperatorError("file.exists", "the file exists already", where=str(path)) from None


def replace_file(path: Path, data: bytes | memoryview, mode: int) -> None:
    """Write a file over what is there, if anything, on disk when this returns: a reader sees the old or the new one."""
    with _temporary(path, data, mode) as temporary:
        temporary.rename(path)


def sync_directory(path: Path) -> None:
    """Have the names in a directory on disk."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def _temporary(path: Path, data: bytes | memoryview, mode: int) -> Iterator[Path]:
    """A complete, synced file of another name in the same directory, gone afterwards unless it was renamed."""
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        descriptor = os.open(temporary, _CREATE, mode)
    except FileNotFoundError:
        hint = f"Make it: install -d -m 0755 {path.parent}"
        raise OperatorError(
            "file.missing", f"there is no directory {path.parent}", where=str(path), hint=hint
        ) from None
    except OSError as error:
        raise _unwritable(path, error) from None
    try:
        with os.fdopen(descriptor, "wb", buffering=0) as file:
            left = memoryview(data)
            while left:
                left = left[file.write(left) :]
            os.fsync(file.fileno())
        yield temporary
        sync_directory(path.parent)
    except OSError as error:
        raise _unwritable(path, error) from None
    finally:
        temporary.unlink(missing_ok=True)


def _unwritable(path: Path, error: OSError) -> OperatorError:
    hint = "Run it as root, or choose another path."
    return OperatorError("file.unreadable", f"the file cannot be written: {error.strerror}", where=str(path), hint=hint)


@contextmanager
def _opened(path: Path) -> Iterator[int]:
    """A descriptor of the regular file at `path` itself."""
    where = str(path)
    try:
        descriptor = os.open(path, _READ)
    except FileNotFoundError:
        raise OperatorError("file.missing", "there is no such file", where=where) from None
    except OSError as error:
        if path.is_symlink():
            hint = "Name the file itself."
            raise OperatorError("file.unreadable", "this is a symbolic link", where=where, hint=hint) from None
        raise OperatorError("file.unreadable", f"it cannot be opened: {error.strerror}", where=where) from None
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise OperatorError("file.unreadable", "this is no regular file", where=where)
        yield descriptor
    finally:
        os.close(descriptor)


def _refuse_foreign(path: Path, status: os.stat_result) -> None:
    """A file of another user can be changed by that user at any time. root's is nobody's to forge."""
    if status.st_uid not in (os.geteuid(), 0):
        raise OperatorError(
            "file.mode",
            f"the file belongs to user {status.st_uid}; mend it with: chown {os.geteuid()} {path}",
            where=str(path),
            hint="Run that, after looking whether the file is still what it was.",
        )
