"""The bytes of the photon stream, without a socket: greeting and frames. docs/photon-stream.md draws them.

It is no secret channel and no real one: it carries simulated light, and says so in its first bytes. Whoever stands in
between may read it and make of it what physics allows, so everything that comes in is bounded before room is made.
"""

import struct
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from qhybridd.distill.sift import decode_gaps, encode_gaps
from qhybridd.errors import PeerError
from qhybridd.optics.records import MAX_PHOTONS, Arrivals, Layout, Light, Request, State

PREAMBLE: Final = b"qhybridd SIMULATED photons, no secret channel, version 1\n"
"""The first bytes in both directions."""
ALIVE: Final = b"."
"""All that the lower end says after its request, now and then."""

_REQUEST: Final = struct.Struct(">BdI")
_ANNOUNCE: Final = struct.Struct(">16sdIId")
_HEADER: Final = struct.Struct(">QIIBddd")
REQUEST_BYTES: Final = _REQUEST.size
ANNOUNCE_BYTES: Final = _ANNOUNCE.size
RUN_BYTES: Final = 16

MAX_FRAME_BYTES: Final = 1 << 26
MAX_ARRIVALS: Final = 1 << 23
"""Of a frame. Thirty times what a link plans for (`planning.FRAME_ARRIVALS_MOST`) is enough for every attack; what
more somebody sends, or asks for, would only take memory: some 100 MB a frame at this bound."""
PHOTONS_LEAST_MOST: Final = 16
REPETITION_HZ: Final = (1e3, 1e11)
MAX_FRAME_PULSES: Final = 1 << 31
MAX_BLOCK_FRAMES: Final = 1 << 20
MAX_PULSES: Final = 1 << 62
"""Of a run: a gigahertz for a century."""
MAX_ANGLE_RAD: Final = 1e6
MAX_DELAY_PS: Final = 1e12
MAX_BACKGROUND_W: Final = 1e3

_UNPOLARISED: Final = 1
_BRIGHT: Final = 2
_LATE: Final = 4


@dataclass(frozen=True, slots=True)
class Announce:
    """What the upper end says before its frames."""

    run: bytes
    """16 random bytes, new with every connection: pulse numbers begin anew with it."""
    layout: Layout
    transmission: float
    """Of the fibre, as it should be: public physics."""


# ---- the greeting


def encode_request(request: Request) -> bytes:
    """`REQUEST_BYTES` bytes."""
    return _REQUEST.pack(request.fibre, request.thinning, request.photons_least)


def decode_request(data: bytes) -> Request:
    """The inverse. Raises `PeerError` (link.photons) for what no lower end may ask."""
    fibre, thinning, photons_least = _unpack(_REQUEST, data)
    if fibre > 1 or not 0 < thinning <= 1 or not 1 <= photons_least <= PHOTONS_LEAST_MOST:
        raise _malformed("a request out of bounds")
    return Request(bool(fibre), thinning, photons_least)


def encode_announce(announce: Announce) -> bytes:
    """`ANNOUNCE_BYTES` bytes."""
    layout = announce.layout
    return _ANNOUNCE.pack(
        announce.run, layout.repetition_hz, layout.frame_pulses, layout.block_frames, announce.transmission
    )


def decode_announce(data: bytes) -> Announce:
    """The inverse. Raises `PeerError` (link.photons) for a layout that no link has."""
    run, repetition_hz, frame_pulses, block_frames, transmission = _unpack(_ANNOUNCE, data)
    if not REPETITION_HZ[0] <= repetition_hz <= REPETITION_HZ[1] or not 0 <= transmission <= 1:
        raise _malformed("an announcement out of bounds")
    if not 1 <= frame_pulses <= MAX_FRAME_PULSES or not 1 <= block_frames <= MAX_BLOCK_FRAMES:
        raise _malformed(f"an announcement of {frame_pulses} pulses a frame and {block_frames} frames a block")
    return Announce(run, Layout(repetition_hz, frame_pulses, block_frames), transmission)


# ---- frames


def frame_bytes_most(layout: Layout) -> int:
    """No frame of the layout takes more: twelve bytes a pulse are more than all that an arrival can say."""
    return min(MAX_FRAME_BYTES, 64 + 12 * layout.frame_pulses)


def encode_frame(arrivals: Arrivals) -> bytes:
    """The arrivals of a frame, about 12 bits each on a link of 50 km; a frame without any takes 41 bytes.

    Delays that are all zero are left out, and decoded as None.
    """
    light, states = arrivals.light, arrivals.states
    unpolarised = np.flatnonzero(states & np.uint8(State.UNPOLARISED))
    bright = np.flatnonzero(arrivals.photons > 1)
    late = np.flatnonzero(arrivals.delays_ps) if arrivals.delays_ps is not None else bright[:0]
    kinds = _UNPOLARISED * bool(len(unpolarised)) | _BRIGHT * bool(len(bright)) | _LATE * bool(len(late))
    parts = [
        _HEADER.pack(
            arrivals.first,
            arrivals.pulses,
            arrivals.count,
            kinds,
            light.angle_rad,
            light.delay_ps,
            light.background_w,
        )
    ]
    if arrivals.count:
        parts += [_encode_gaps(arrivals.gaps), _plane(states, State.BIT), _plane(states, State.TEST_BASIS)]
    if len(unpolarised):
        parts.append(_encode_places(unpolarised))
    if len(bright):
        parts += [_encode_places(bright), _encode_gaps(arrivals.photons[bright] - np.uint32(1))]
    if arrivals.delays_ps is not None and len(late):
        parts += [_encode_places(late), arrivals.delays_ps[late].astype("<i2").tobytes()]
    return b"".join(parts)


def decode_frame(data: bytes | memoryview, layout: Layout) -> Arrivals:
    """The inverse; memory for at most 30 bytes a byte of `data` is taken.

    Raises `PeerError` (link.photons) for anything that is no frame of this layout, `HostError` (host.memory) where
    there is no memory for it.
    """
    rest = _Rest(data)
    first, pulses, count, kinds, angle_rad, delay_ps, background_w = _unpack(_HEADER, rest.take(_HEADER.size))
    if pulses != layout.frame_pulses or first % pulses or first > MAX_PULSES or count > min(pulses, MAX_ARRIVALS):
        raise _malformed(f"a frame of {count} arrivals in {pulses} pulses from {first} on")
    if not (
        abs(angle_rad) <= MAX_ANGLE_RAD and abs(delay_ps) <= MAX_DELAY_PS and 0 <= background_w <= MAX_BACKGROUND_W
    ):
        raise _malformed("light out of bounds")
    if kinds > (_UNPOLARISED | _BRIGHT | _LATE) or (kinds and not count):
        raise _malformed(f"a frame of the kinds {kinds}")
    gaps = rest.gaps(count, pulses) if count else np.empty(0, np.uint32)
    # From here on `count` is no larger than eight times the bytes that are there.
    states = rest.plane(count) * np.uint8(State.BIT) | rest.plane(count) * np.uint8(State.TEST_BASIS)
    photons, delays_ps = np.ones(count, np.uint32), None
    if kinds & _UNPOLARISED:
        states[rest.places(count)] |= np.uint8(State.UNPOLARISED)
    if kinds & _BRIGHT:
        bright = rest.places(count)
        more = rest.gaps(len(bright), MAX_PULSES)
        if not more.min() or more.max() >= MAX_PHOTONS:
            raise _malformed("a number of photons out of bounds")
        photons[bright] += more
    if kinds & _LATE:
        late = rest.places(count)
        delays_ps = np.zeros(count, np.int16)
        delays_ps[late] = np.frombuffer(rest.take(2 * len(late)), "<i2")
        if np.count_nonzero(delays_ps) != len(late):
            raise _malformed("a delay of nothing")
    if len(rest.data):
        raise _malformed(f"{len(rest.data)} bytes behind a frame")
    return Arrivals(first, pulses, gaps, states, photons, delays_ps, Light(angle_rad, delay_ps, background_w))


# ---- the pieces of a frame


def _plane(states: NDArray[np.uint8], bit: State) -> bytes:
    return np.packbits(states & np.uint8(bit), bitorder="little").tobytes()


def _encode_gaps(gaps: NDArray[np.uint32]) -> bytes:
    code = encode_gaps(np.ascontiguousarray(gaps).data, len(gaps))
    return len(code).to_bytes(4, "big") + code


def _encode_places(places: NDArray[np.intp]) -> bytes:
    """Which of the arrivals: their number, and their gaps."""
    return len(places).to_bytes(4, "big") + _encode_gaps(np.diff(places, prepend=0).astype(np.uint32))


class _Rest:
    """What is left of a frame."""

    __slots__ = ("data",)

    def __init__(self, data: bytes | memoryview) -> None:
        self.data = memoryview(data)

    def take(self, size: int) -> memoryview:
        """The next `size` bytes."""
        if size > len(self.data):
            raise _malformed("a frame that is cut off")
        taken, self.data = self.data[:size], self.data[size:]
        return taken

    def gaps(self, count: int, below: int) -> NDArray[np.uint32]:
        """A list of gaps with the sum below `below`."""
        code = bytes(self.take(int.from_bytes(self.take(4), "big")))
        try:
            return np.frombuffer(decode_gaps(code, count, below), np.uint32)
        except PeerError as error:
            raise _malformed(error.message) from None

    def plane(self, count: int) -> NDArray[np.uint8]:
        """One element for each bit."""
        packed = np.frombuffer(self.take((count + 7) // 8), np.uint8)
        if count % 8 and packed[-1] >> count % 8:
            raise _malformed("a plane has bits behind its end")
        return np.unpackbits(packed, count=count, bitorder="little")

    def places(self, count: int) -> NDArray[np.int64]:
        """Some of the `count` arrivals, at least one."""
        listed = int.from_bytes(self.take(4), "big")
        if not 1 <= listed <= count:
            raise _malformed(f"a list of {listed} among {count} arrivals")
        return np.cumsum(self.gaps(listed, count), dtype=np.int64)


def _unpack(layout: struct.Struct, data: bytes | memoryview) -> tuple[Any, ...]:
    if len(data) != layout.size:
        raise _malformed(f"{len(data)} bytes where {layout.size} were due")
    return layout.unpack(data)


def _malformed(what: str) -> PeerError:
    return PeerError("link.photons", f"no photon stream: {what}")
