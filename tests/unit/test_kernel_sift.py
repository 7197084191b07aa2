"""The sifting kernel against plain Python, under every instruction set, at odd sizes and odd addresses."""

from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qhybridd import _native

SIZES = [0, 1, 2, 63, 64, 65, 127, 128, 129, 511, 512, 513, 1000, 4096, 10_001]


@pytest.fixture(params=_native.instruction_sets(), autouse=True)
def instruction_set(request: pytest.FixtureRequest) -> Iterator[str]:
    before = _native.instruction_set()
    _native.use_instruction_set(request.param)
    yield request.param
    _native.use_instruction_set(before)


def pack(bits: np.ndarray, offset: int = 0) -> memoryview:
    """Packed bits, at an address that is `offset` bytes off."""
    words = (len(bits) + 63) // 64
    data = np.packbits(bits.astype(np.uint8), bitorder="little").tobytes().ljust(8 * words, b"\0")
    return memoryview(bytearray(offset) + bytearray(data))[offset:]


def unpack(data: bytes | memoryview, count: int) -> list[int]:
    return np.unpackbits(np.frombuffer(data, np.uint8), bitorder="little")[:count].tolist()


def random_planes(seed: int, number: int, count: int) -> list[np.ndarray]:
    """One in two set, except the first: so many as the seed says, none and all too."""
    generator = np.random.default_rng(seed)
    share = [0, 0.01, 0.5, 0.9, 1][seed % 5]
    first = generator.random(count) < share
    return [first, *(generator.random(count) < 0.5 for _ in range(number - 1))]


@pytest.mark.parametrize("count", SIZES)
@pytest.mark.parametrize("seed", range(5))
def test_select_takes_the_bits_under_the_mask(count: int, seed: int) -> None:
    mask, plane = random_planes(seed, 2, count)
    selected = plane[mask]
    size = (len(selected) + 63) // 64 * 8
    room = bytearray(b"\xaa" * (size + 24))
    taken = _native.select_bits(pack(mask, 1), pack(plane, 3), count, memoryview(room)[8 : 8 + size])
    assert taken == len(selected)
    assert room[8 : 8 + size] == pack(selected)
    assert room[:8] == b"\xaa" * 8 and room[8 + size :] == b"\xaa" * 16


@pytest.mark.parametrize("count", SIZES)
@pytest.mark.parametrize("seed", range(5))
def test_split_sorts_by_basis(count: int, seed: int) -> None:
    matching, test, bits = random_planes(seed, 3, count)
    expected = bits[matching & ~test], bits[matching & test]
    rooms = [bytearray(b"\xaa" * ((len(one) + 63) // 64 * 8 + 8)) for one in expected]
    sizes = _native.split_bits(pack(matching, 5), pack(test, 1), pack(bits, 7), count, *rooms)
    assert sizes == tuple(map(len, expected))
    for room, one in zip(rooms, expected, strict=True):
        assert room == bytes(pack(one)) + b"\xaa" * 8


@pytest.mark.parametrize("count", SIZES)
@pytest.mark.parametrize("seed", range(5))
def test_match_and_counts(count: int, seed: int) -> None:
    a, b, low, high = random_planes(seed, 4, count)
    out = bytearray(b"\xaa" * ((count + 63) // 64 * 8))
    _native.match_planes(pack(a, 1), pack(b, 2), count, out)
    assert out == pack(a == b)
    index = low + 2 * high
    assert _native.count_classes(pack(low, 1), pack(high, 6), count) == tuple(int((index == i).sum()) for i in range(4))
    expected = tuple(int(((a != b) & (index == i)).sum()) for i in range(4))
    assert _native.count_differences(pack(a, 1), pack(b, 2), pack(low, 3), pack(high), count) == expected


def test_bits_behind_the_end_count_for_nothing() -> None:
    ones, out = b"\xff" * 16, bytearray(16)
    assert _native.count_classes(ones, ones, 65) == (0, 0, 0, 65)
    assert _native.count_differences(ones, bytes(16), bytes(16), ones, 65) == (0, 0, 65, 0)
    assert _native.select_bits(ones, ones, 65, out) == 65
    assert out == b"\xff" * 8 + b"\x01" + bytes(7)
    assert _native.select_bits(ones, ones, 1, memoryview(out)[:8]) == 1
    assert _native.split_bits(ones, bytes(16), ones, 65, out, bytearray(0)) == (65, 0)
    assert out == b"\xff" * 8 + b"\x01" + bytes(7)


def decode(data: bytes | bytearray | memoryview, count: int, pulses: int) -> bytes:
    out = bytearray(b"\xaa" * (4 * max(0, min(count, 1 << 20)) + 9))
    _native.decode_gaps(data, count, pulses, memoryview(out)[1:-8])
    assert out[0] == 0xAA and out[-8:] == b"\xaa" * 8
    return bytes(out[1:-8])


def reference_code(gaps: list[int]) -> bytes:
    """The code as csrc/sift.h describes it."""
    values = [gap - (place > 0) for place, gap in enumerate(gaps)]
    k = 0
    if values:
        k = min(31, max(0, ((2 * sum(values) + len(values)) // len(values) * 123 // 256).bit_length() - 1))
    remainders = sum((value % 2**k) << k * place for place, value in enumerate(values))
    quotients, at = 0, 0
    for value in values:
        at += value >> k
        quotients |= 1 << at
        at += 1
    return (
        bytes([k])
        + remainders.to_bytes((k * len(values) + 7) // 8, "little")
        + quotients.to_bytes(-(-at // 8), "little")
    )


lists = st.lists(st.one_of(st.integers(1, 3), st.integers(1, 400), st.integers(1, 2**32 - 1)), max_size=200)


@given(lists, st.booleans())
def test_the_code_of_gaps_is_the_one_described(gaps: list[int], at_the_first_pulse: bool) -> None:
    if gaps and at_the_first_pulse:
        gaps[0] = 0
    data = np.array(gaps, "<u4").tobytes()
    code = _native.encode_gaps(memoryview(b"x" + data)[1:], len(gaps))
    assert code == reference_code(gaps)
    pulses = sum(gaps) + 1
    assert decode(memoryview(b"x" + code)[1:], len(gaps), pulses) == data
    if gaps:
        with pytest.raises(ValueError):
            decode(code, len(gaps), pulses - 1)


@pytest.mark.parametrize("mean", [1, 2, 5, 100, 10_000])
def test_the_code_of_many_gaps(mean: int) -> None:
    gaps = np.random.default_rng(mean).geometric(1 / mean, 20_000).astype("<u4")
    code = _native.encode_gaps(gaps, len(gaps))
    assert code == reference_code(gaps.tolist())
    assert decode(code, len(gaps), int(gaps.sum()) + 1) == gaps.tobytes()
    if mean > 1:
        p = 1 / mean
        entropy = -np.log2(p) - (1 - p) / p * np.log2(1 - p)
        assert 8 * len(code) / len(gaps) < entropy + 0.1 + 1 / mean


@pytest.mark.parametrize("pause", [*range(56, 70), 126, 130, 1000])
def test_the_code_of_gaps_with_pauses(pause: int) -> None:
    """Unary codes that end at every bit of a word and behind it."""
    gaps = np.array(([1] * 90 + [pause]) * 5 + [1] * 500 * (pause // 500), "<u4")
    code = _native.encode_gaps(gaps, len(gaps))
    assert code[0] <= 1 and code == reference_code(gaps.tolist())
    assert decode(code, len(gaps), 2**40) == gaps.tobytes()


@pytest.mark.parametrize("mean", [3, 100, 5_000, 30_000, 60_000, 200_000, 10**8])
def test_the_code_of_any_number_of_gaps(mean: int) -> None:
    """The quick way ends some clicks before the end, at every bit of a word."""
    gaps = np.random.default_rng(mean).geometric(1 / mean, 200).clip(1, 2**32 - 1).astype("<u4")
    for count in range(60, 200):
        code = _native.encode_gaps(gaps, count)
        assert code == reference_code(gaps[:count].tolist())
        assert decode(code, count, 2**40) == gaps[:count].tobytes()


@given(st.binary(max_size=60), st.integers(0, 100), st.integers(0, 2**64 - 1))
@settings(max_examples=300)
def test_any_bytes_are_a_code_or_an_error(data: bytes, count: int, pulses: int) -> None:
    """And what decodes is the one code of what it says."""
    try:
        gaps = np.frombuffer(decode(data, count, pulses), "<u4").tolist()
    except ValueError:
        return
    assert len(gaps) == count and all(gaps[1:]) and sum(gaps) < pulses | (count == 0)
    assert reference_code(gaps) == data


@given(lists.filter(bool), st.data())
def test_an_altered_code_is_another_list_or_an_error(gaps: list[int], data: st.DataObject) -> None:
    code = bytearray(reference_code(gaps))
    kind = data.draw(st.sampled_from(["bit", "cut", "longer"]))
    if kind == "bit":
        bit = data.draw(st.integers(0, 8 * len(code) - 1))
        code[bit // 8] ^= 1 << bit % 8
    elif kind == "cut":
        del code[data.draw(st.integers(0, len(code) - 1)) :]
    else:
        code += data.draw(st.binary(min_size=1, max_size=20))
    try:
        decoded = np.frombuffer(decode(code, len(gaps), 2**63), "<u4").tolist()
    except ValueError:
        return
    assert kind == "bit" and decoded != gaps and reference_code(decoded) == code


@pytest.mark.parametrize(
    ("code", "count"),
    [
        (b"", 0),  # no header
        (b"\x20" + bytes(40), 1),  # a parameter of 32
        (b"\x01", 0),  # another parameter than that of an empty list
        (b"\x00\x01", 0),  # something behind the end
        (b"\x00" + b"\xff" * 8, 1 << 40),  # more clicks than the bytes can hold
        (b"\x00\x01", -1),
        (b"\x1f" + (5).to_bytes(4, "little") + b"\x04", 1),  # a gap of 2^32 + 5
        (b"\x1f" + ((1 << 62) - 1).to_bytes(8, "little") + b"\x0a", 2),  # 2^32 - 1, which fits, and 2^32
    ],
)
def test_refused(code: bytes, count: int) -> None:
    with pytest.raises(ValueError):
        decode(code, count, 1 << 40)


@pytest.mark.parametrize("click", range(90_001, 90_005))
def test_a_gap_one_too_long_among_short_ones(click: int) -> None:
    gaps = np.ones(540_000, "<u4")
    gaps[[50, 61, 72, click]] = 2**32 - 1  # so many that their mean has the same parameter without the last
    code = bytearray(_native.encode_gaps(gaps, len(gaps)))
    assert decode(code, len(gaps), 2**40) == gaps.tobytes() and code[0] == 14
    lowest_bit = click * code[0]
    code[1 + lowest_bit // 8] ^= 1 << lowest_bit % 8  # one longer: 2^32
    with pytest.raises(ValueError):
        _native.decode_gaps(code, len(gaps), 2**40, bytearray(4 * len(gaps)))


@pytest.mark.parametrize("place", [1, 2, 8, 9, 13, 99])
def test_two_clicks_in_one_pulse(place: int) -> None:
    gaps = np.full(100, 7, "<u4")
    gaps[place] = 0
    with pytest.raises(ValueError):
        _native.encode_gaps(gaps, 100)


def test_the_longest_gaps() -> None:
    gaps = np.array([2**32 - 1] * 3, "<u4").tobytes()
    code = _native.encode_gaps(gaps, 3)
    assert decode(code, 3, 2**40) == gaps


def test_sizes_are_checked() -> None:
    words, out = bytes(16), bytearray(16)
    for call in (
        lambda: _native.match_planes(words, words, 129, bytearray(24)),
        lambda: _native.match_planes(words, words, 128, bytearray(8)),
        lambda: _native.match_planes(words, words, -1, out),
        lambda: _native.count_classes(words, words, 129),
        lambda: _native.count_differences(words, words, words, bytes(8), 65),
        lambda: _native.select_bits(b"\xff" * 16, words, 65, bytearray(8)),
        lambda: _native.split_bits(b"\xff" * 16, words, words, 65, bytearray(8), out),
        lambda: _native.split_bits(b"\xff" * 16, b"\xff" * 16, words, 65, out, bytearray(8)),
        lambda: _native.encode_gaps(words, 5),
        lambda: _native.decode_gaps(_native.encode_gaps(bytes(4), 1), 1, 9, bytearray(3)),
        lambda: _native.encode_gaps(words, 2),  # two clicks in one pulse
        lambda: _native.encode_gaps(words, 1 << 62),
    ):
        with pytest.raises(ValueError):
            call()


def test_what_is_written_overlaps_nothing_else() -> None:
    """Bits selected over the mask that is still to be read would be more than were counted."""
    room, full = memoryview(bytearray(b"\xff" * 64)), b"\xff" * 16
    here, ahead, other = room[:16], room[8:24], room[40:56]
    for call in (
        lambda: _native.match_planes(here, full, 128, ahead),
        lambda: _native.select_bits(here, full, 128, ahead),
        lambda: _native.select_bits(full, here, 128, here),
        lambda: _native.split_bits(here, bytes(16), full, 128, ahead, other),
        lambda: _native.split_bits(full, full, here, 128, other, ahead),
        lambda: _native.split_bits(full, full, full, 128, here, ahead),
        lambda: _native.decode_gaps(here, 2, 9, ahead),
    ):
        with pytest.raises(ValueError, match="overlaps"):
            call()
    assert _native.select_bits(here, here, 128, room[16:32]) == 128


@pytest.mark.parametrize("pulses", [-1, 1 << 64])
def test_pulses_are_a_number_of_64_bits(pulses: int) -> None:
    with pytest.raises(OverflowError):
        _native.decode_gaps(_native.encode_gaps(bytes(4), 1), 1, pulses, bytearray(4))
    with pytest.raises(TypeError):
        _native.decode_gaps(_native.encode_gaps(bytes(4), 1), 1, 9.0, bytearray(4))  # type: ignore[arg-type]
    _native.decode_gaps(_native.encode_gaps(bytes(4), 1), 1, (1 << 64) - 1, bytearray(4))
