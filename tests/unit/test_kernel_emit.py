"""The kernels of emission against an oracle in plain Python, and what their binding refuses."""

import math
import random
import struct
from itertools import accumulate

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from qhybridd import _native

LEVELS = 4
DENSE = struct.pack("<4Q", 1 << 30, 1 << 31, 3 << 30, 7 << 29)
"""Half of the pulses in the test basis; intensities with 1/2, 1/4, 1/8, 1/8."""


def words(values: list[int]) -> bytes:
    return struct.pack(f"<{len(values)}Q", *values)


def small(values: list[int]) -> bytes:
    return struct.pack(f"<{len(values)}I", *values)


def unpack(data: bytes | bytearray, form: str) -> list[int]:
    return [item for (item,) in struct.iter_unpack(f"<{form}", data)]


def exponential(word: int) -> float:
    return -math.log(((word >> 11) + 1) / 2**53)


def candidates(drawn: list[int], scale: float, number: int, end: int) -> tuple[list[int], list[int], int]:
    """What the kernel gives: numbers, the pairs that they belong to, and the next pulse."""
    numbers, blocks = bytearray(8 * len(drawn)), bytearray(16 * len(drawn))
    found, following = _native.emit_candidates(words(drawn), scale, number, end, numbers, blocks)
    pairs = unpack(blocks[: 16 * found], "Q8x")
    return unpack(numbers[: 8 * found], "Q"), pairs, following


@given(
    st.lists(st.integers(0, 2**64 - 1), max_size=40), st.floats(1e-3, 1e9), st.integers(0, 2**40), st.integers(0, 2**34)
)
@example([0, 2**64 - 1, 2**11 - 1], 1.0, 0, 100)
@example([2**63], 1e300, 0, 2**63)
def test_candidates_lie_geometrically_apart(drawn: list[int], scale: float, number: int, pulses: int) -> None:
    end = min(number + pulses, 2**63)
    numbers, pairs, following = candidates(drawn, scale, number, end)
    at, complete = number, True
    for place, word in enumerate(drawn):
        distance = exponential(word) * scale
        slack = 1e-12 * distance  # the kernel's logarithm and the library's differ in their last bit
        if place == len(numbers):
            assert distance + slack >= end - at
            complete = False
            break
        assert math.floor(distance - slack) <= numbers[place] - at <= math.floor(distance + slack)
        at = numbers[place] + 1
    assert following == (at if complete else end)
    assert all(number <= one < end for one in numbers)
    assert pairs == [one // 2 for one in numbers]


def test_the_logarithm_is_as_good_as_the_librarys() -> None:
    rng = random.Random(1)
    drawn = [rng.getrandbits(rng.randrange(12, 65)) for _ in range(3000)]
    drawn += [(value << 11) - 2048 for value in (1, 2, 3, 2**52, 2**53 - 1, 2**53, round(2**52 * math.sqrt(2)))]
    for word in drawn:
        (number,), _, _ = candidates([word], 2.0**50, 0, 2**63)
        assert number / 2**50 == pytest.approx(exponential(word), rel=3e-16, abs=2**-50)


def test_an_endless_distance_ends_the_frame() -> None:
    assert candidates([5, 7], math.inf, 3, 10) == ([], [], 10)
    assert candidates([2**64 - 1], math.inf, 3, 10) == ([], [], 10), "zero times infinity"
    assert candidates([2**64 - 1], 0.0, 3, 3) == ([], [], 3), "a frame without a pulse"


@given(st.lists(st.integers(0, 5), max_size=200), st.integers(0, 1000), st.integers(0, 600), st.booleans())
def test_places_ascend_within_their_frame(gaps: list[int], number: int, pulses: int, ascending: bool) -> None:
    numbers, blocks = bytearray(8 * len(gaps)), bytearray(16 * len(gaps))
    places = [number + place for place in accumulate(gaps)]
    bad = 0 in gaps[1:] or (ascending and gaps[:1] == [0]) or any(place >= number + pulses for place in places)
    arguments = (small(gaps), ascending, number, number + pulses, numbers, blocks)
    if bad:
        with pytest.raises(ValueError, match="ascend"):
            _native.emit_places(*arguments)
        return
    assert _native.emit_places(*arguments) == (places[-1] if places else number)
    assert unpack(numbers, "Q") == places
    assert unpack(blocks, "Q8x") == [place // 2 for place in places]


def test_places_do_not_wrap_around() -> None:
    out = bytearray(16), bytearray(32)
    with pytest.raises(ValueError, match="ascend"):
        _native.emit_places(small([2**32 - 1, 2**32 - 1]), False, 2**63 - 2**32, 2**63, *out)
    assert _native.emit_places(small([2**32 - 1, 2**32 - 1]), False, 0, 2**33, *out) == 2**33 - 2


def chosen(number: int, block: bytes) -> tuple[int, int, int]:
    """Bit, basis and intensity by `DENSE`."""
    (word,) = struct.unpack_from("<Q", block, 8 * (number & 1))
    drawn = word >> 32
    return word & 1, int((word >> 1) % 2**31 >= 1 << 30), sum(drawn >= limit for limit in (1 << 31, 3 << 30, 7 << 29))


def table(rng: random.Random, least: int) -> bytes:
    rows = []
    for _ in range(4 * LEVELS):
        mean = rng.choice([0.0, 0.01, 0.4, 9.0])
        keep = rng.choice([0.0, 0.5, 1.0])
        rows.append(struct.pack("<3d", keep, keep * rng.uniform(0.2, 1), mean))
    return b"".join(rows)


@given(st.integers(0, 150), st.integers(1, 5), st.builds(random.Random, st.integers(0, 2**32)))
@settings(max_examples=60)
def test_candidates_are_kept_as_the_table_says(count: int, least: int, rng: random.Random) -> None:
    first = rng.randrange(2**50)
    numbers = list(accumulate((rng.randrange(1, 9) for _ in range(count)), initial=first))[1:]
    blocks = [rng.randbytes(16) for _ in numbers]
    fate = [rng.getrandbits(64) for _ in numbers]
    rows = table(rng, least)
    gaps, states, photons = bytearray(4 * count), bytearray(count), bytearray(4 * count)
    kept, last = _native.emit_keep(
        words(numbers), count, b"".join(blocks), words(fate), DENSE, rows, LEVELS, least, first, gaps, states, photons
    )
    expected, before = [], first
    for number, block, word in zip(numbers, blocks, fate, strict=True):
        bit, basis, intensity = chosen(number, block)
        keep, term, mean = struct.unpack_from("<3d", rows, 24 * (intensity * LEVELS + word % LEVELS))
        drawn = (word >> 11) / 2**53
        if drawn >= keep:
            continue
        many, total = least, term
        while drawn >= total and total + term * mean / (many + 1) > total:
            many += 1
            term *= mean / many
            total += term
        expected.append((number - before, bit | 2 * basis, many))
        before = number
    assert kept == len(expected)
    assert last == before
    got = zip(unpack(gaps, "I")[:kept], states[:kept], unpack(photons, "I")[:kept], strict=True)
    assert list(got) == expected


def test_where_rounding_leaves_a_rest_the_photon_number_stays_small() -> None:
    """The probabilities of a table may sum to a little less than the one that a candidate is kept with."""
    rows = struct.pack("<3d", 1.0, 0.9, 0.1) * 4
    gaps, states, photons = bytearray(4), bytearray(1), bytearray(4)
    arguments = (words([7]), 1, bytes(16), words([2**64 - 1]), DENSE, rows, 1, 1, 7, gaps, states, photons)
    assert _native.emit_keep(*arguments) == (1, 7)
    assert 5 < unpack(photons, "I")[0] < 20


def test_a_vacuum_pulse_is_never_kept() -> None:
    room = bytearray(4), bytearray(1), bytearray(4)
    assert _native.emit_keep(words([7]), 1, bytes(16), bytes(8), DENSE, bytes(96), 1, 1, 7, *room) == (0, 7)


@given(
    st.dictionaries(st.integers(0, 60), st.tuples(st.integers(0, 3), st.integers(1, 2**32 - 1))),
    st.dictionaries(st.integers(0, 60), st.tuples(st.integers(4, 4), st.integers(1, 2**32 - 1))),
)
def test_two_lists_become_one(a: dict[int, tuple[int, int]], b: dict[int, tuple[int, int]]) -> None:
    def lists(arrivals: dict[int, tuple[int, int]]) -> tuple[bytes, bytes, bytes]:
        places = sorted(arrivals)
        gaps = [place - before for place, before in zip(places, [0, *places], strict=False)]
        return small(gaps), bytes(arrivals[place][0] for place in places), small([arrivals[p][1] for p in places])

    both = {place: a.get(place, b.get(place)) for place in a.keys() | b.keys()}
    for place in a.keys() & b.keys():
        both[place] = (a[place][0], min(2**32 - 1, a[place][1] + b[place][1]))
    room = len(a) + len(b)
    out = bytearray(4 * room), bytearray(room), bytearray(4 * room)
    count = _native.emit_merge(*lists(a), *lists(b), *out)
    assert count == len(both)
    assert (bytes(out[0][: 4 * count]), bytes(out[1][:count]), bytes(out[2][: 4 * count])) == lists(both)  # type: ignore[arg-type]


@given(st.integers(0, 200), st.builds(random.Random, st.integers(0, 2**32)))
@settings(max_examples=40)
def test_planes_hold_what_was_chosen(count: int, rng: random.Random) -> None:
    numbers = sorted(rng.sample(range(1000), count))
    blocks = [rng.randbytes(16) for _ in numbers]
    size = (count + 63) // 64 * 8
    planes = [bytearray(b"\xff" * size) for _ in range(4)]
    _native.emit_recall(words(numbers), count, b"".join(blocks), DENSE, *planes)
    bits, bases, low, high = (int.from_bytes(plane, "little") for plane in planes)
    picked = [chosen(number, block) for number, block in zip(numbers, blocks, strict=True)]
    assert bits == sum(bit << place for place, (bit, _, _) in enumerate(picked))
    assert bases == sum(basis << place for place, (_, basis, _) in enumerate(picked))
    assert low == sum((intensity & 1) << place for place, (_, _, intensity) in enumerate(picked))
    assert high == sum(intensity >> 1 << place for place, (_, _, intensity) in enumerate(picked))


def test_thresholds_are_where_the_next_choice_begins() -> None:
    drawn = [(1 << 30) - 1, 1 << 30, (1 << 31) - 1]
    blocks = b"".join(struct.pack("<QQ", one << 1, 0) for one in drawn)
    drawn = [(1 << 31) - 1, 1 << 31, (3 << 30) - 1, 3 << 30, (7 << 29) - 1, 7 << 29, 2**32 - 1]
    blocks += b"".join(struct.pack("<QQ", one << 32, 0) for one in drawn)
    planes = [bytearray(8) for _ in range(4)]
    _native.emit_recall(words([0] * 10), 10, blocks, DENSE, *planes)
    bits, bases, low, high = (int.from_bytes(plane, "little") for plane in planes)
    assert (bits, bases) == (0, 0b110)
    assert [(low >> place & 1) + 2 * (high >> place & 1) for place in range(3, 10)] == [0, 1, 1, 2, 2, 3, 3]


def test_short_buffers_and_impossible_numbers_are_refused() -> None:
    eight, sixteen = bytearray(8), bytearray(16)
    rows = bytes(4 * 24)

    def keep(**changes: object) -> tuple[int, int]:
        arguments: dict[str, object] = {
            "numbers": words([1]),
            "count": 1,
            "choices": bytes(16),
            "words": bytes(8),
            "thresholds": DENSE,
            "table": rows,
            "levels": 1,
            "least": 1,
            "last": 0,
            "gaps": bytearray(4),
            "states": bytearray(1),
            "photons": bytearray(4),
        }
        return _native.emit_keep(*(arguments | changes).values())  # type: ignore[arg-type]

    assert keep() == (0, 0)
    short = {
        "numbers": 8,
        "choices": 16,
        "words": 8,
        "thresholds": 32,
        "table": 96,
        "gaps": 4,
        "states": 1,
        "photons": 4,
    }
    for name, size in short.items():
        with pytest.raises(ValueError, match="bytes and needs"):
            keep(**{name: bytearray(size - 1)})
    for change in ({"count": -1}, {"levels": 3}, {"levels": 0}, {"levels": 4096}, {"levels": -1}, {"least": 2**31}):
        with pytest.raises(ValueError, match=r"levels|pulses at once"):
            keep(**change)
    with pytest.raises(OverflowError):
        keep(last=-1)
    for number, end in ((2, 1), (0, 2**63 + 1)):
        with pytest.raises(ValueError, match="upwards"):
            _native.emit_candidates(bytes(8), 1.0, number, end, eight, sixteen)
        with pytest.raises(ValueError, match="upwards"):
            _native.emit_places(bytes(4), False, number, end, eight, sixteen)
    with pytest.raises(OverflowError):
        _native.emit_places(bytes(4), False, -1, 5, eight, sixteen)
    for scale in (-1.0, math.nan):
        with pytest.raises(ValueError, match="distance"):
            _native.emit_candidates(bytes(8), scale, 0, 1, eight, sixteen)
    for number_out, block_out in ((bytearray(7), sixteen), (eight, bytearray(15))):
        with pytest.raises(ValueError, match="bytes and needs"):
            _native.emit_candidates(bytes(8), 1.0, 0, 1, number_out, block_out)
        with pytest.raises(ValueError, match="bytes and needs"):
            _native.emit_places(bytes(4), False, 0, 1, number_out, block_out)
    with pytest.raises(ValueError, match="overlaps"):
        _native.emit_candidates(bytes(8), 1.0, 0, 1, memoryview(sixteen)[:8], sixteen)
    lists = (bytes(4), bytes(1), bytes(4))
    for wrong in ((bytearray(7), bytearray(2), bytearray(8)), (bytearray(8), bytearray(1), bytearray(8))):
        with pytest.raises(ValueError, match="bytes and needs"):
            _native.emit_merge(*lists, *lists, *wrong)
    with pytest.raises(ValueError, match="bytes and needs"):
        _native.emit_merge(bytes(3), bytes(1), bytes(4), *lists, bytearray(8), bytearray(2), bytearray(8))
    with pytest.raises(ValueError, match="bytes and needs"):
        _native.emit_recall(bytes(8), 1, bytes(16), DENSE, eight, bytearray(8), bytearray(8), bytearray(7))
    with pytest.raises(ValueError, match="overlaps"):
        _native.emit_recall(bytes(8), 1, bytes(16), DENSE, eight, eight, bytearray(8), bytearray(8))
    with pytest.raises(ValueError, match="pulses at once"):
        _native.emit_recall(bytes(8), -1, bytes(16), DENSE, eight, bytearray(8), bytearray(8), bytearray(8))
