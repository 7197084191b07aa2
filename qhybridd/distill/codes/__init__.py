"""The LDPC codes: a few dozen for each size of frames, as tables of the package, and what was measured of them.

`<size>.bin` holds compact tables one after the other, by rising number of rows: u16 rows, u16 columns, u32 Z, for each
row u16 degree and degree × (u16 column, u16 shift), little-endian. `leaks.json` holds for each size what error rate is
corrected at what leak. Both are made by `python -m tools.codes`; docs/codes.md says how.
"""

import hashlib
import json
import struct
from dataclasses import dataclass
from enum import Enum
from functools import cache
from importlib import resources

from qhybridd import _native
from qhybridd.errors import ProgramError


class FrameSize(Enum):
    """About how many bits a frame has. Large frames disclose less, small ones suit small blocks."""

    SMALL = "small"
    """10^4."""
    MEDIUM = "medium"
    """10^5."""
    LARGE = "large"
    """10^6."""


@dataclass(frozen=True, slots=True)
class Code:
    """One code: `rows` × `columns` circulants of `lifting` bits."""

    number: int
    """In the catalogue, as it travels in a message."""
    size: FrameSize
    rows: int
    columns: int
    lifting: int
    offset: int
    """Where its table begins in the file of its size."""
    length: int
    """Bytes of the table."""

    @property
    def bits(self) -> int:
        """n, bits of a word."""
        return self.columns * self.lifting

    @property
    def checks(self) -> int:
        """m, bits of a syndrome."""
        return self.rows * self.lifting


@cache
def _file(size: FrameSize) -> bytes:
    return resources.files(__name__).joinpath(f"{size.value}.bin").read_bytes()


@cache
def catalogue() -> tuple[Code, ...]:
    """All codes; a code's number is its index. Within a size they come by rising number of rows."""
    codes: list[Code] = []
    for size in FrameSize:
        table, offset = _file(size), 0
        while offset < len(table):
            begin = offset
            rows, columns, lifting = struct.unpack_from("<HHI", table, offset)
            offset += 8
            for _ in range(rows):
                (degree,) = struct.unpack_from("<H", table, offset)
                offset += 2 + 4 * degree
            codes.append(Code(len(codes), size, rows, columns, lifting, begin, offset - begin))
    return tuple(codes)


def table(number: int) -> bytes:
    """The compact table of a code."""
    if not 0 <= number < len(catalogue()):
        raise ProgramError("program.argument", f"no code {number}")
    code = catalogue()[number]
    return _file(code.size)[code.offset : code.offset + code.length]


@cache
def load(number: int) -> _native.LdpcCode:
    """The code ready for use; loaded once, shared by all who use it."""
    return _native.LdpcCode(table(number))


@cache
def leaks(size: FrameSize) -> tuple[tuple[float, float], ...]:
    """What was measured for a size: (leak, error rate) at frame errors of 1 %, both rising strictly.

    The leak is that of a full frame, (m − p)/(n − p).
    """
    points = json.loads(resources.files(__name__).joinpath("leaks.json").read_text("ascii"))[size.value]
    return tuple((float(leak), float(qber)) for leak, qber in points)


@cache
def digest() -> bytes:
    """32 bytes that name this catalogue and what was measured: two ends need the same."""
    whole = hashlib.sha256()
    for size in FrameSize:
        whole.update(hashlib.sha256(_file(size)).digest())
        whole.update(repr(leaks(size)).encode())
    return whole.digest()
