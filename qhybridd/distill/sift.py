"""Sifting: which clicks both ends saw in the same basis, sorted by basis and counted by intensity."""

import mmap
from contextlib import suppress
from dataclasses import dataclass
from typing import Final
from typing import Protocol as Interface

from qhybridd import _native
from qhybridd.bits import Bits, packed_bytes
from qhybridd.errors import HostError, PeerError, ProgramError
from qhybridd.optics.records import Plane, Prepared

INTENSITIES_MOST: Final = 4
"""Two planes tell so many apart."""
HUGE_BYTES: Final = 1 << 22
"""From here on memory for gaps is asked for in huge pages."""


class Emissions(Interface):
    """Alice's memory of one block of pulses."""

    def recall(self, gaps: bytes | memoryview) -> Prepared:
        """What was prepared in these pulses; `gaps` as in `optics.records.Clicks`, checked to stay within the block."""
        ...


@dataclass(frozen=True, slots=True, eq=False)
class Sifted:
    """The clicks of matching bases at one end, sorted by basis, each in the order of the pulses."""

    key: Bits
    """Of the key basis X: secret."""
    test: Bits
    """Of the test basis Z: public once they are compared."""
    key_intensities: tuple[Plane, Plane]
    """Low and high bit of the index into `Protocol.intensities`, of the key basis."""
    test_intensities: tuple[Plane, Plane]


@dataclass(frozen=True, slots=True)
class Counts:
    """What the estimates of a block rest on: one number for each intensity, the brightest first."""

    key_clicks: tuple[int, ...]
    key_errors: tuple[int, ...]
    """Known only after error correction."""
    test_clicks: tuple[int, ...]
    test_errors: tuple[int, ...]


def encode_gaps(gaps: bytes | memoryview, count: int) -> bytes:
    """The Rice code of `count` gaps (uint32, as in `Clicks`), about 1.5 bits more than log2 of their mean each.

    Split into remainders and quotients; the layout stands in csrc/sift.h.
    """
    try:
        return _native.encode_gaps(gaps, count)
    except ValueError as error:
        raise ProgramError("program.argument", str(error)) from None


def decode_gaps(data: bytes, count: int, pulses: int) -> memoryview:
    """The `count` gaps, uint32. Raises `PeerError` (link.malformed) for anything but the one code of so many ascending
    clicks within `pulses`; `HostError` (host.memory) where there is no memory for them."""
    if not 0 <= pulses < 1 << 64:
        raise ProgramError("program.argument", f"a block of {pulses} pulses")
    try:
        if count > 8 * len(data):  # each takes a bit at least: looked at before memory is taken for them
            raise ValueError
        gaps = _large_room(4 * count)
        _native.decode_gaps(data, count, pulses, gaps)
    except ValueError:
        raise PeerError("link.malformed", f"the clicks are no list of {count} among {pulses} pulses") from None
    return gaps


def _large_room(size: int) -> memoryview:
    """Zeroed memory, in huge pages where it is large: making room in small ones takes longer than decoding does."""
    if size < HUGE_BYTES:
        return memoryview(bytearray(max(0, size)))
    try:
        room = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    except OSError as error:
        raise HostError("host.memory", f"no memory for {size} bytes of clicks: {error}") from None
    with suppress(OSError):  # a kernel without them
        room.madvise(mmap.MADV_HUGEPAGE)
    return memoryview(room)


def check_plane(plane: Plane, count: int) -> None:
    """Raises `PeerError` (link.malformed) for a plane that has not `count` bits, or bits behind its end."""
    spare = packed_bytes(count) * 8 - count
    if len(plane) != packed_bytes(count):
        raise PeerError("link.malformed", f"a plane of {len(plane)} bytes for {count} clicks")
    if spare and int.from_bytes(plane[-8:], "little") >> (64 - spare):
        raise PeerError("link.malformed", "a plane has bits behind its end")


def match(mine: Plane, theirs: Plane, count: int) -> Plane:
    """1 where the bases of both ends agree. Raises `PeerError` (link.malformed) for a plane out of shape."""
    for plane in (mine, theirs):
        check_plane(plane, count)
    out = bytearray(packed_bytes(count))
    _native.match_planes(mine, theirs, count, out)
    return bytes(out)


def select(mask: Plane, plane: Plane, count: int) -> Plane:
    """The bits of `plane` where `mask` is set, close together. Raises `PeerError` (link.malformed) for a plane out of
    shape."""
    for one in (mask, plane):
        check_plane(one, count)
    out = bytearray(packed_bytes(count_ones(mask, count)))
    _native.select_bits(mask, plane, count, out)
    return bytes(out)


def count_ones(plane: Plane, count: int) -> int:
    """How many of the `count` bits are set."""
    return _native.count_classes(plane, plane, count)[3]


def sift(matching: Plane, test: Plane, bits: Bits, count: int) -> tuple[Bits, Bits]:
    """The bits of matching bases: those of the key basis, those of the test basis; `test` is 1 for the latter.

    Written straight into locked memory. Raises `PeerError` (link.malformed) for a plane out of shape.
    """
    for plane in (matching, test):
        check_plane(plane, count)
    if bits.length != count:
        raise ProgramError("program.argument", f"{bits.length} bits for {count} clicks")
    _, keys, _, tests = _native.count_classes(matching, test, count)
    key, tested = Bits.zeros(keys), Bits.zeros(tests)
    with bits.expose() as words, key.expose() as key_words, tested.expose() as test_words:
        _native.split_bits(matching, test, words, count, key_words, test_words)
    return key, tested


def sort_clicks(matching: Plane, test: Plane, bits: Bits, intensities: tuple[Plane, Plane], count: int) -> Sifted:
    """All that one end keeps of its clicks. `intensities` are those of the matching clicks alone, as Alice sends them.

    Raises `PeerError` (link.malformed) for a plane out of shape.
    """
    matches = count_ones(matching, count)
    for plane in intensities:
        check_plane(plane, matches)
    key, tested = sift(matching, test, bits, count)
    in_test = select(matching, test, count)
    in_key = match(in_test, bytes(len(in_test)), matches)
    low, high = intensities
    return Sifted(
        key,
        tested,
        (select(in_key, low, matches), select(in_key, high, matches)),
        (select(in_test, low, matches), select(in_test, high, matches)),
    )


def count_clicks(intensities: tuple[Plane, Plane], count: int, how_many: int) -> tuple[int, ...]:
    """Clicks for each of `how_many` intensities. Raises `PeerError` (link.malformed) where a click has another."""
    for plane in intensities:
        check_plane(plane, count)
    return _of_intensities(_native.count_classes(*intensities, count), how_many)


def count_errors(a: Bits, b: Bits, intensities: tuple[Plane, Plane], count: int, how_many: int) -> tuple[int, ...]:
    """Differences between two strings of `count` bits for each of `how_many` intensities.

    Raises `PeerError` (link.malformed) where a difference has another intensity, or a plane is out of shape.
    """
    for plane in intensities:
        check_plane(plane, count)
    if not a.length == b.length == count:
        raise ProgramError("program.argument", f"{a.length} and {b.length} bits for {count} clicks")
    with a.expose() as mine, b.expose() as theirs:
        return _of_intensities(_native.count_differences(mine, theirs, *intensities, count), how_many)


def _of_intensities(classes: tuple[int, ...], how_many: int) -> tuple[int, ...]:
    if not 0 < how_many <= INTENSITIES_MOST:
        raise ProgramError("program.argument", f"{how_many} intensities")
    if any(classes[how_many:]):
        raise PeerError("link.malformed", f"a click with an intensity that is none of the {how_many}")
    return classes[:how_many]
