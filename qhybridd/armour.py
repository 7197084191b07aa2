"""Text between armour lines: base64 that survives mail and a terminal."""

import binascii
from pathlib import Path

from qhybridd.errors import OperatorError


def armour(body: bytes, kind: str, headers: bytes) -> bytes:
    """`body` in lines of 64 between the armour lines of `kind`."""
    lines = [body[at : at + 64] for at in range(0, len(body), 64)]
    begin, end = f"-----BEGIN {kind}-----\n".encode(), f"-----END {kind}-----\n".encode()
    return begin + headers + b"\n".join(lines) + b"\n" + end


def between(data: bytes, kind: str, source: Path) -> list[bytes]:
    """The lines between the first pair of armour lines of `kind`."""
    lines = data.splitlines()
    marks = [line.strip() for line in lines]
    try:
        begin = marks.index(f"-----BEGIN {kind}-----".encode())
        end = marks.index(f"-----END {kind}-----".encode(), begin)
    except ValueError:
        raise malformed(f"there is no complete {kind} block in it", source) from None
    return lines[begin + 1 : end]


def unarmour(data: bytes, kind: str, source: Path) -> bytes:
    """The body of an armour without headers."""
    body = b"".join(line.strip() for line in between(data, kind, source))
    return decode64(body, f"the {kind} block is damaged", source)


def decode64(text: bytes, complaint: str, source: Path) -> bytes:
    """Strict base64. Raises `OperatorError` (file.malformed) with `complaint`."""
    try:
        return binascii.a2b_base64(text, strict_mode=True)
    except ValueError:
        raise malformed(complaint, source) from None


def malformed(message: str, source: Path) -> OperatorError:
    """The error of every file here that does not parse."""
    return OperatorError("file.malformed", message, where=str(source))
