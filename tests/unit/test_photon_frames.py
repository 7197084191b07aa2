"""The bytes of the photon stream: what goes in comes out, little of it, and nothing else is taken for a frame."""

import math
import struct
import tracemalloc
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qhybridd.distill.sift import encode_gaps
from qhybridd.errors import PeerError
from qhybridd.links import photon_frames as pf
from qhybridd.optics.records import MAX_PHOTONS, Arrivals, Layout, Light, Request, State

LAYOUT = Layout(1e6, 1000, 7)
SILENT_BYTES = 41


def make(
    places: list[int],
    states: list[int],
    photons: list[int],
    delays: list[int] | None = None,
    light: Light = Light(),  # noqa: B008
    number: int = 0,
) -> Arrivals:
    gaps = np.diff(np.array(places, np.int64), prepend=0).astype(np.uint32)
    late = None if delays is None else np.array(delays, np.int16)
    return Arrivals(
        number * LAYOUT.frame_pulses,
        LAYOUT.frame_pulses,
        gaps,
        np.array(states, np.uint8),
        np.array(photons, np.uint32),
        late,
        light,
    )


def same(a: Arrivals, b: Arrivals) -> bool:
    delays = [None if one.delays_ps is None or not one.delays_ps.any() else one.delays_ps.tolist() for one in (a, b)]
    return (
        (a.first, a.pulses, a.light) == (b.first, b.pulses, b.light)
        and a.gaps.tolist() == b.gaps.tolist()
        and a.states.tolist() == b.states.tolist()
        and a.photons.tolist() == b.photons.tolist()
        and delays[0] == delays[1]
    )


finite = st.floats(-1e6, 1e6)
lights = st.builds(Light, finite, finite, st.floats(0, 1e3))


@st.composite
def frames(draw: st.DrawFn) -> Arrivals:
    places = sorted(draw(st.sets(st.integers(0, LAYOUT.frame_pulses - 1), max_size=80)))
    count = len(places)
    states = draw(st.lists(st.integers(0, 7) | st.integers(0, 3), min_size=count, max_size=count))
    numbers = st.just(1) | st.integers(1, 3) | st.integers(1, MAX_PHOTONS)
    photons = draw(st.lists(numbers, min_size=count, max_size=count))
    late = st.just(0) | st.integers(-(1 << 15), (1 << 15) - 1)
    delays = draw(st.none() | st.lists(late, min_size=count, max_size=count))
    return make(places, states, photons, delays, draw(lights), draw(st.integers(0, 1 << 40)))


@given(frames())
def test_what_goes_in_comes_out(frame: Arrivals) -> None:
    data = pf.encode_frame(frame)
    back = pf.decode_frame(data, LAYOUT)
    assert same(frame, back)
    assert [back.gaps.dtype, back.states.dtype, back.photons.dtype] == [np.uint32, np.uint8, np.uint32]
    assert pf.encode_frame(back) == data
    assert len(data) <= pf.frame_bytes_most(LAYOUT)


def test_every_pulse_with_everything_stays_within_the_bound() -> None:
    count = LAYOUT.frame_pulses
    photons = [MAX_PHOTONS, *[2] * (count - 2), MAX_PHOTONS]
    for some in (photons, [MAX_PHOTONS] * count):
        frame = make(list(range(count)), [7] * count, some, [-1] * count)
        data = pf.encode_frame(frame)
        assert len(data) <= pf.frame_bytes_most(LAYOUT)
        assert same(frame, pf.decode_frame(data, LAYOUT))


def test_arrays_of_any_stride_are_taken() -> None:
    frame = make([1, 5, 9, 11], [0, 1, 2, 7], [1, 2, 3, 1], [0, 5, 0, -5])
    strided = Arrivals(
        frame.first,
        frame.pulses,
        np.repeat(frame.gaps, 2)[::2],
        np.repeat(frame.states, 2)[::2],
        np.repeat(frame.photons, 2)[::2],
        np.repeat(frame.delays_ps, 2)[::2] if frame.delays_ps is not None else None,
        frame.light,
    )
    assert pf.encode_frame(strided) == pf.encode_frame(frame)


@given(st.binary(max_size=200), frames())
def test_noise_is_no_frame(noise: bytes, frame: Arrivals) -> None:
    header = pf.encode_frame(frame)[:SILENT_BYTES]
    for data in (noise, header + noise):
        check(data)


@given(frames(), st.data())
def test_a_frame_that_was_altered_is_another_or_none(frame: Arrivals, draw: st.DataObject) -> None:
    data = bytearray(pf.encode_frame(frame))
    at = draw.draw(st.integers(0, len(data) - 1))
    match draw.draw(st.sampled_from(["flip", "cut", "add", "bytes"])):
        case "flip":
            data[at] ^= 1 << draw.draw(st.integers(0, 7))
        case "cut":
            del data[at:]
        case "add":
            data += draw.draw(st.binary(min_size=1, max_size=9))
        case "bytes":
            data[at : at + 4] = draw.draw(st.binary(min_size=4, max_size=4))
    check(bytes(data))


def check(data: bytes) -> None:
    """A frame that keeps every promise of `Arrivals`, with these bytes as its only code, or the one error."""
    tracemalloc.start()
    try:
        frame = pf.decode_frame(data, LAYOUT)
    except PeerError as error:
        assert error.code == "link.photons"
        return
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak <= 60 * len(data) + 20_000
    assert pf.encode_frame(frame) == data
    assert frame.pulses == LAYOUT.frame_pulses and frame.first % frame.pulses == 0
    assert len(frame.states) == len(frame.photons) == frame.count
    assert np.all(frame.gaps[1:] >= 1) and (not frame.count or frame.places()[-1] < frame.pulses)
    assert np.all(frame.photons >= 1) and np.all(frame.states < 8)
    light = frame.light
    assert all(map(math.isfinite, (light.angle_rad, light.delay_ps, light.background_w))) and light.background_w >= 0


def test_a_promise_of_many_arrivals_takes_no_memory() -> None:
    layout = Layout(1e9, pf.MAX_FRAME_PULSES, 1)
    header = struct.pack(">QIIBddd", 0, layout.frame_pulses, layout.frame_pulses, 7, 0.0, 0.0, 0.0)
    for code in (b"", b"\0", b"\0" * 100_000, b"\x1f" + b"\xff" * 100_000):
        tracemalloc.start()
        with pytest.raises(PeerError, match="no photon stream"):
            pf.decode_frame(header + len(code).to_bytes(4, "big") + code, layout)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 30 * (len(code) + 1000)


@pytest.mark.parametrize(
    "values",
    [
        {"first": 500},
        {"first": 1 << 63},
        {"pulses": 999},
        {"count": 1001},
        {"kinds": 8},
        {"kinds": 1},
        {"angle": math.nan},
        {"angle": math.inf},
        {"angle": 1e7},
        {"delay": -1e13},
        {"delay": math.nan},
        {"background": -1e-30},
        {"background": math.nan},
        {"background": 1e4},
    ],
)
def test_a_header_out_of_bounds_is_refused(values: dict[str, float]) -> None:
    fields = {"first": 2000, "pulses": 1000, "count": 0, "kinds": 0, "angle": 0.1, "delay": 3.0, "background": 1e-9}
    assert pf.decode_frame(struct.pack(">QIIBddd", *fields.values()), LAYOUT).count == 0
    with pytest.raises(PeerError, match="no photon stream"):
        pf.decode_frame(struct.pack(">QIIBddd", *(fields | values).values()), LAYOUT)


def listed(*gaps: int) -> bytes:
    code = encode_gaps(np.array(gaps, np.uint32).tobytes(), len(gaps))
    return len(code).to_bytes(4, "big") + code


def which(*gaps: int) -> bytes:
    return len(gaps).to_bytes(4, "big") + listed(*gaps)


BODY = listed(10, 5, 7) + b"\x05" + b"\x02"


@pytest.mark.parametrize(
    ("kinds", "good", "bad"),
    [
        (0, BODY, listed(10, 5, 7) + b"\x0d" + b"\x02"),
        (0, BODY, listed(10, 5, 7) + b"\x05" + b"\x82"),
        (0, BODY, BODY + b"\0"),
        (0, BODY, listed(10, 5, 985) + b"\x05\x02"),
        (1, BODY + which(0, 2), BODY + which()),
        (1, BODY + which(0, 2), BODY + which(0, 3)),
        (2, BODY + which(1) + listed(1), BODY + which(1) + listed(0)),
        (2, BODY + which(1) + listed(MAX_PHOTONS - 1), BODY + which(1) + listed(MAX_PHOTONS)),
        (2, BODY + which(1) + listed(1), BODY + which(1) + listed(1, 1)),
        (4, BODY + which(0, 1) + b"\1\0\xff\xff", BODY + which(0, 1) + b"\1\0\0\0"),
        (4, BODY + which(0, 1) + b"\1\0\xff\xff", BODY + which(0, 1) + b"\1\0\xff"),
    ],
)
def test_a_frame_has_one_code(kinds: int, good: bytes, bad: bytes) -> None:
    header = struct.pack(">QIIBddd", 0, 1000, 3, kinds, 0.0, 0.0, 0.0)
    assert pf.encode_frame(pf.decode_frame(header + good, LAYOUT)) == header + good
    with pytest.raises(PeerError, match="no photon stream"):
        pf.decode_frame(header + bad, LAYOUT)


def test_a_silent_frame_is_small() -> None:
    assert len(pf.encode_frame(make([], [], []))) == SILENT_BYTES
    assert len(pf.encode_frame(make([], [], [], [], Light(0.1, 2.0, 1e-9)))) == SILENT_BYTES


def test_a_click_takes_few_bytes_at_any_distance() -> None:
    """Arrivals at a gain of 10^-2 to 10^-5 a pulse; shares of bases, double photons and noise as on a link."""
    rng = np.random.default_rng(1)
    for gain, most in ((1e-2, 1.4), (3e-3, 1.6), (1e-4, 2.2), (1e-5, 3.0)):
        pulses = int(40_000 / gain)
        gaps = rng.geometric(gain, 36_000).astype(np.uint32)
        states = (rng.integers(0, 2, 36_000) | 2 * (rng.random(36_000) < 0.2) | 4 * (rng.random(36_000) < 1e-3)).astype(
            np.uint8
        )
        photons = np.where(rng.random(36_000) < 2e-3, 2, 1).astype(np.uint32)
        assert gaps.sum() < pulses
        frame = Arrivals(0, pulses, gaps, states, photons, None, Light())
        data = pf.encode_frame(frame)
        print(f"gain {gain:g}: {len(data) / frame.count:.2f} bytes an arrival")
        assert len(data) <= most * frame.count
        assert same(frame, pf.decode_frame(data, Layout(1e9, pulses, 1)))


def test_attacks_stay_below_eight_bytes() -> None:
    """Bright pulses everywhere, or each of them shifted."""
    rng = np.random.default_rng(2)
    count = 36_000
    gaps, states = rng.geometric(3e-3, count).astype(np.uint32), rng.integers(0, 4, count).astype(np.uint8)
    delays = rng.integers(-300, 300, count).astype(np.int16)
    some = rng.random(count) < 0.5
    for photons in (rng.poisson(1e6, count), np.where(some, 1_000_000, 1), rng.poisson(1.0, count) + 1):
        frame = Arrivals(0, 1 << 27, gaps, states, photons.astype(np.uint32), delays, Light(0, 0, 1e-8))
        data = pf.encode_frame(frame)
        assert len(data) < 8 * count
        assert same(frame, pf.decode_frame(data, Layout(1e9, 1 << 27, 1)))


# ---- the greeting


requests = st.builds(Request, st.booleans(), st.floats(0, 1, exclude_min=True), st.integers(1, pf.PHOTONS_LEAST_MOST))
layouts = st.builds(
    Layout, st.floats(*pf.REPETITION_HZ), st.integers(1, pf.MAX_FRAME_PULSES), st.integers(1, pf.MAX_BLOCK_FRAMES)
)
announces = st.builds(pf.Announce, st.binary(min_size=16, max_size=16), layouts, st.floats(0, 1))


@given(requests)
def test_a_request_is_what_it_was(request_: Request) -> None:
    data = pf.encode_request(request_)
    assert len(data) == pf.REQUEST_BYTES
    assert pf.decode_request(data) == request_


@given(announces)
def test_an_announcement_is_what_it_was(announce: pf.Announce) -> None:
    data = pf.encode_announce(announce)
    assert len(data) == pf.ANNOUNCE_BYTES
    assert pf.decode_announce(data) == announce


@given(st.binary(min_size=pf.REQUEST_BYTES, max_size=pf.REQUEST_BYTES) | st.binary(max_size=20))
def test_any_request_is_bounded(data: bytes) -> None:
    try:
        request = pf.decode_request(data)
    except PeerError as error:
        assert error.code == "link.photons"
    else:
        assert 0 < request.thinning <= 1 and 1 <= request.photons_least <= pf.PHOTONS_LEAST_MOST


@given(st.binary(min_size=pf.ANNOUNCE_BYTES, max_size=pf.ANNOUNCE_BYTES) | st.binary(max_size=50))
def test_any_announcement_is_bounded(data: bytes) -> None:
    try:
        announce = pf.decode_announce(data)
    except PeerError as error:
        assert error.code == "link.photons"
    else:
        layout = announce.layout
        assert 1e3 <= layout.repetition_hz <= 1e11 and 0 <= announce.transmission <= 1
        assert 1 <= layout.frame_pulses <= 1 << 31 and 1 <= layout.block_frames <= 1 << 20


GOOD = pf.Announce(bytes(16), LAYOUT, 0.1)


@pytest.mark.parametrize(
    "bad",
    [
        replace(GOOD, layout=replace(LAYOUT, repetition_hz=999.0)),
        replace(GOOD, layout=replace(LAYOUT, repetition_hz=1.1e11)),
        replace(GOOD, layout=replace(LAYOUT, repetition_hz=math.nan)),
        replace(GOOD, layout=replace(LAYOUT, frame_pulses=0)),
        replace(GOOD, layout=replace(LAYOUT, frame_pulses=(1 << 31) + 1)),
        replace(GOOD, layout=replace(LAYOUT, block_frames=0)),
        replace(GOOD, layout=replace(LAYOUT, block_frames=(1 << 20) + 1)),
        replace(GOOD, transmission=1.1),
        replace(GOOD, transmission=math.nan),
        replace(GOOD, transmission=-0.1),
    ],
)
def test_an_announcement_out_of_bounds_is_refused(bad: pf.Announce) -> None:
    with pytest.raises(PeerError, match="no photon stream"):
        pf.decode_announce(pf.encode_announce(bad))


@pytest.mark.parametrize(
    "bad",
    [Request(True, 0.0), Request(True, 1.1), Request(True, math.nan), Request(True, 1.0, 0), Request(True, 1, 17)],
)
def test_a_request_out_of_bounds_is_refused(bad: Request) -> None:
    with pytest.raises(PeerError, match="no photon stream"):
        pf.decode_request(pf.encode_request(bad))


def test_the_first_bytes_say_that_it_is_a_simulation() -> None:
    assert pf.PREAMBLE == b"qhybridd SIMULATED photons, no secret channel, version 1\n"
    assert State.UNPOLARISED == 4  # the planes of a frame are drawn with these values


def test_a_frame_of_more_arrivals_than_any_link_has_is_refused_before_it_takes_memory() -> None:
    layout = Layout(1e10, 1 << 28, 1)
    count = pf.MAX_ARRIVALS + 1
    gaps, ones = np.ones(count, np.uint32), np.ones(count, np.uint32)
    data = pf.encode_frame(Arrivals(0, layout.frame_pulses, gaps, np.zeros(count, np.uint8), ones, None, Light()))
    assert len(data) < pf.frame_bytes_most(layout)
    tracemalloc.start()
    with pytest.raises(PeerError, match="arrivals"):
        pf.decode_frame(data, layout)
    assert tracemalloc.get_traced_memory()[1] < 1e5
    tracemalloc.stop()
