"""The polynomial hash against plain Python, under every instruction set."""

import secrets
import threading
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qhybridd import _native
from qhybridd._native import PolyHash

POLYNOMIAL = 1 << 128 | 1 << 7 | 1 << 2 | 1 << 1 | 1
BLOCKS_A_BATCH = 32


def multiply(a: int, b: int) -> int:
    product = 0
    for i in range(128):
        if b >> i & 1:
            product ^= a << i
    for i in range(254, 127, -1):
        if product >> i & 1:
            product ^= POLYNOMIAL << (i - 128)
    return product


def expected(point: bytes, strings: list[tuple[bytes, int, int]]) -> bytes:
    """The definition of `polyhash.h`, in integers: bit i of a number is the coefficient of x^i."""
    r, value = int.from_bytes(point, "little"), 0
    for data, bits, mark in strings:
        text = int.from_bytes(data, "little") & ((1 << bits) - 1)
        blocks = [text >> 128 * i & ((1 << 128) - 1) for i in range((bits + 127) // 128)]
        for block in [*blocks, 1 << 127 | mark << 64 | bits]:
            value = multiply(value ^ block, r)
    return value.to_bytes(16, "little")


@pytest.fixture(params=_native.instruction_sets(), autouse=True)
def instruction_set(request: pytest.FixtureRequest) -> Iterator[str]:
    before = _native.instruction_set()
    _native.use_instruction_set(request.param)
    yield request.param
    _native.use_instruction_set(before)


def test_the_documented_vector() -> None:
    """Of `docs/authentication.md`."""
    point = bytes(range(16))
    hash_ = PolyHash(point)
    hash_.absorb(b"qhybridd", 64)
    assert hash_.value() == expected(point, [(b"qhybridd", 64, 0)])
    assert hash_.value().hex() == "634cdaff519b6f5faff7e61c4b77ed30"
    hash_.absorb(bytes(range(40)), 313, mark=5)
    assert hash_.value().hex() == "fa826fd98851b224f85990faf6c8e1d1"
    assert hash_.value() == expected(point, [(b"qhybridd", 64, 0), (bytes(range(40)), 313, 5)])


@settings(max_examples=60)
@given(
    st.binary(min_size=16, max_size=16),
    st.lists(st.tuples(st.binary(max_size=300), st.integers(0, 7), st.integers(0, 2**63 - 1)), min_size=1, max_size=4),
)
def test_any_list_of_strings(point: bytes, strings: list[tuple[bytes, int, int]]) -> None:
    whole = [(data, max(0, 8 * len(data) - cut), mark) for data, cut, mark in strings]
    hash_ = PolyHash(point)
    for data, bits, mark in whole:
        hash_.absorb(data, bits, mark)
    assert hash_.value() == expected(point, whole)


@pytest.mark.parametrize("around", [0, 1, 2, 3, 4, 5, BLOCKS_A_BATCH, 2 * BLOCKS_A_BATCH])
@pytest.mark.parametrize("odd", [-128, -127, -64, -1, 0, 1, 7, 8, 65])
def test_sizes_around_each_border_and_any_alignment(around: int, odd: int) -> None:
    bits = max(0, 128 * around + odd)
    point, data = secrets.token_bytes(16), secrets.token_bytes(128 * 2 * BLOCKS_A_BATCH + 64)
    for shift in (0, 1, 9):
        hash_ = PolyHash(point)
        hash_.absorb(memoryview(data)[shift : shift + (bits + 7) // 8], bits)
        assert hash_.value() == expected(point, [(data[shift:], bits, 0)])


def test_every_point_of_few_bits() -> None:
    data = secrets.token_bytes(80)
    for bit in range(128):
        point = (1 << bit).to_bytes(16, "little")
        hash_ = PolyHash(point)
        hash_.absorb(data, 640)
        assert hash_.value() == expected(point, [(data, 640, 0)])


def test_all_ones() -> None:
    """The most carries that the portable product can meet."""
    point, data = b"\xff" * 16, b"\xff" * 1024
    hash_ = PolyHash(point)
    hash_.absorb(data, 8192, 2**63 - 1)
    assert hash_.value() == expected(point, [(data, 8192, 2**63 - 1)])


def test_no_two_lists_of_strings_are_trivially_the_same() -> None:
    lists: list[list[tuple[bytes, int, int]]] = [
        [],
        [(b"", 0, 0)],
        [(b"", 0, 0), (b"", 0, 0)],
        [(b"", 0, 1)],
        [(b"\0", 8, 0)],
        [(b"\0", 7, 0)],
        [(bytes(16), 128, 0)],
        [(bytes(32), 256, 0)],
        [(b"a", 8, 0)],
        [(b"", 0, 0), (b"a", 8, 0)],
        [(b"a", 8, 0), (b"", 0, 0)],
        [(b"a\0", 16, 0)],
        [(b"a" + bytes(15), 128, 0)],
        [(bytes(16), 128, 0), (b"a", 8, 0)],
        [(bytes(16) + b"a", 136, 0)],
    ]
    point, values = secrets.token_bytes(16), set()
    for strings in lists:
        hash_ = PolyHash(point)
        for data, bits, mark in strings:
            hash_.absorb(data, bits, mark)
        values.add(hash_.value())
    assert len(values) == len(lists)


def test_bits_behind_the_end_do_not_count() -> None:
    one, other = PolyHash(b"p" * 16), PolyHash(b"p" * 16)
    one.absorb(b"\x07\xff", 3)
    other.absorb(b"\xff\x00", 3)
    assert one.value() == other.value()


def test_a_tag_is_the_value_under_a_pad() -> None:
    hash_ = PolyHash(b"p" * 16)
    hash_.absorb(b"text", 32)
    pad = secrets.token_bytes(16)
    assert hash_.tag(pad) == bytes(a ^ b for a, b in zip(hash_.value(), pad, strict=True))


def test_restart_keeps_the_point_and_wipe_does_not() -> None:
    hash_, fresh = PolyHash(b"p" * 16), PolyHash(b"p" * 16)
    hash_.absorb(b"before", 48)
    hash_.restart()
    hash_.absorb(b"text", 32)
    fresh.absorb(b"text", 32)
    assert hash_.value() == fresh.value() != bytes(16)
    hash_.wipe()
    hash_.wipe()
    for use in (lambda: hash_.absorb(b"text", 32), hash_.value, lambda: hash_.tag(bytes(16)), hash_.restart):
        with pytest.raises(RuntimeError, match="wiped"):
            use()


def test_what_does_not_fit_is_refused() -> None:
    for size in (0, 15, 17):
        with pytest.raises(ValueError, match="point"):
            PolyHash(bytes(size))
        with pytest.raises(ValueError, match="pad"):
            PolyHash(bytes(16)).tag(bytes(size))
    hash_ = PolyHash(b"p" * 16)
    for data, bits, mark in ((b"abc", 25, 0), (b"", 1, 0), (b"abc", -1, 0), (b"abc", 8, -1)):
        with pytest.raises(ValueError, match=r"data|negative"):
            hash_.absorb(data, bits, mark)
    with pytest.raises(OverflowError):
        hash_.absorb(b"abc", 8, 2**63)
    with pytest.raises(TypeError):
        hash_.absorb("text", 8)  # type: ignore[arg-type]
    with pytest.raises(RuntimeError, match="already"):
        hash_.__init__(b"p" * 16)  # type: ignore[misc]
    with pytest.raises(RuntimeError, match="not initialised"):
        PolyHash.__new__(PolyHash).value()
    assert hash_.value() == bytes(16)


def test_two_threads_do_not_share_one() -> None:
    """The second is refused; or served when the first was done by then, and then nothing is lost."""
    point, data = b"p" * 16, bytes(range(256)) * 4096
    hash_, served = PolyHash(point), []

    def absorb() -> None:
        try:
            hash_.absorb(data, 8 * len(data))
            served.append(1)
        except RuntimeError:
            pass

    threads = [threading.Thread(target=absorb) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    alone = PolyHash(point)
    for _ in served:
        alone.absorb(data, 8 * len(data))
    assert hash_.value() == alone.value()
