"""Asking the running daemon: one request, one answer, each bounded in size and time."""

import errno
import socket
import time
from pathlib import Path
from typing import Final, TypeVar

import msgspec

from qhybridd.errors import HostError, OperatorError
from qhybridd.status import MAX_ANSWER_BYTES, Answer, Request, encode_line

T = TypeVar("T")

CONNECT_TIMEOUT_S: Final = 3.0
ANSWER_TIMEOUT_S: Final = 15.0
"""For the whole answer. A revocation closes tunnels before it is answered."""
_CHUNK_BYTES: Final = 1 << 16

_answers: Final = msgspec.json.Decoder(Answer)


def ask(path: Path, request: Request, kind: type[T], *, timeout_s: float = ANSWER_TIMEOUT_S) -> T:
    """The daemon's answer to `request` as a `kind`.

    Raises `HostError` control.unreachable (no daemon, or none that answers) or control.malformed, and `OperatorError`
    with the daemon's own code, message, place and hint where it refused.
    """
    line = _exchange(path, encode_line(request), time.monotonic() + timeout_s)
    try:
        answer = _answers.decode(line)
        if answer.ok:
            return msgspec.json.decode(answer.result, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise HostError("control.malformed", f"the daemon's answer does not parse: {error}", where=str(path)) from None
    if answer.error is None:
        raise HostError("control.malformed", "the daemon refused without a reason", where=str(path))
    error_ = answer.error
    raise OperatorError(error_.code, error_.message, where=error_.where, hint=error_.hint)


def running(path: Path) -> bool:
    """Whether a daemon listens on its socket; a hung one counts."""
    try:
        _connect(path).close()
    except HostError:
        return False
    return True


def _exchange(path: Path, line: bytes, deadline: float) -> bytes:
    """Send one line, receive one, without its end."""
    try:
        with _connect(path) as connection:
            connection.settimeout(_left_s(deadline))
            connection.sendall(line)
            return _receive(connection, path, deadline)
    except TimeoutError:
        raise HostError("control.unreachable", "the daemon does not answer", where=str(path)) from None
    except OSError as error:
        raise HostError("control.unreachable", f"the daemon hung up: {error.strerror}", where=str(path)) from None


def _receive(connection: socket.socket, path: Path, deadline: float) -> bytes:
    received = bytearray()
    while len(received) <= MAX_ANSWER_BYTES:
        connection.settimeout(_left_s(deadline))
        part = connection.recv(_CHUNK_BYTES)
        if not part:
            raise HostError("control.unreachable", "the daemon hung up without an answer", where=str(path))
        end = part.find(b"\n")
        if end >= 0:
            return bytes(received + part[:end])
        received += part
    raise HostError("control.malformed", f"the answer is longer than {MAX_ANSWER_BYTES} bytes", where=str(path))


def _connect(path: Path) -> socket.socket:
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    connection.settimeout(CONNECT_TIMEOUT_S)
    try:
        connection.connect(str(path))
    except OSError as error:
        connection.close()
        raise _unreachable(path, error) from None
    return connection


def _unreachable(path: Path, error: OSError) -> HostError:
    if error.errno == errno.EACCES:
        hint = "Run it as root (`sudo qhybridd …`)."
        return HostError("control.unreachable", "this user may not talk to the daemon", where=str(path), hint=hint)
    if error.errno == errno.ENOENT:
        return HostError("control.unreachable", "no daemon runs here: there is no socket", where=str(path))
    if error.errno == errno.ECONNREFUSED:
        return HostError("control.unreachable", "no daemon runs here: nobody listens on the socket", where=str(path))
    return HostError("control.unreachable", f"the daemon cannot be reached: {error}", where=str(path))


def _left_s(deadline: float) -> float:
    left_s = deadline - time.monotonic()
    if left_s <= 0:
        raise TimeoutError
    return left_s
