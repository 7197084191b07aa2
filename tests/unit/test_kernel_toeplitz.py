"""The modified Toeplitz hash against its definition, by oracles that share nothing with the kernels."""

import random
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from qhybridd import _native
from qhybridd.bits import packed_bytes
from tests.unit.carryless import multiply, multiply_long

SETS = _native.instruction_sets()
PIECES = (64, 256, 1024)
"""Words of a piece, for the lengths that the tests reach densely: gf2x.h, log = 7, 9, 11."""


@contextmanager
def using(name: str) -> Iterator[None]:
    """With another instruction set."""
    before = _native.instruction_set()
    _native.use_instruction_set(name)
    try:
        yield
    finally:
        _native.use_instruction_set(before)


@pytest.fixture(params=SETS)
def instruction_set(request: pytest.FixtureRequest) -> Iterator[str]:
    """Each that the processor has, in turn."""
    with using(request.param):
        yield request.param


def packed(value: int, bits: int, offset: int = 0) -> memoryview:
    """`value` in whole words, `offset` bytes into a buffer; what lies behind is not zero."""
    size = packed_bytes(bits)
    return memoryview(bytes(offset) + value.to_bytes(size, "little") + b"\xff" * 8)[offset : offset + size]


def kernel(key: int, bits: int, seed: int, key_bits: int, offset: int = 0) -> int:
    """The kernel's result, as an integer; it must not write before or behind its own words."""
    size = packed_bytes(key_bits)
    frame = bytearray(b"\xa5" * (offset + size + 8))
    out = memoryview(frame)[offset : offset + size]
    _native.toeplitz(packed(key, bits, offset), bits, packed(seed, bits - 1, offset), key_bits, out)
    result = int.from_bytes(out, "little")
    assert frame[:offset] == b"\xa5" * offset
    assert frame[offset + size :] == b"\xa5" * 8
    assert result >> key_bits == 0
    return result


def by_rows(key: int, bits: int, seed: int, key_bits: int) -> int:
    """The definition: T[i][j] is seed bit i - j + bits - key_bits - 1."""
    tail_bits = bits - key_bits
    result = 0
    for i in range(key_bits):
        bit = key >> i & 1
        for j in range(tail_bits):
            bit ^= seed >> (i - j + tail_bits - 1) & key >> (key_bits + j) & 1
        result |= bit << i
    return result


def by_product(key: int, bits: int, seed: int, key_bits: int, product=multiply_long) -> int:  # type: ignore[no-untyped-def]
    """T·tail as the middle of the product of two polynomials."""
    mask = (1 << key_bits) - 1
    if bits == key_bits:
        return key
    return (key ^ product(seed, key >> key_bits) >> (bits - key_bits - 1)) & mask


def draw(generator: random.Random, bits: int) -> tuple[int, int]:
    """A key and a seed."""
    return generator.getrandbits(bits), generator.getrandbits(bits - 1) if bits > 1 else 0


@given(st.integers(1, 90), st.data())
def test_the_oracles_agree(bits: int, data: st.DataObject) -> None:
    key, seed = data.draw(st.integers(0, 2**bits - 1)), data.draw(st.integers(0, 2 ** (bits - 1) - 1))
    key_bits = data.draw(st.integers(1, bits))
    expected = by_rows(key, bits, seed, key_bits)
    assert by_product(key, bits, seed, key_bits) == by_product(key, bits, seed, key_bits, multiply) == expected


@pytest.mark.parametrize("bits", [1, 2, 3, 63, 64, 65, 66, 127, 128, 129, 130, 193])
def test_every_key_length_of_a_short_key(instruction_set: str, bits: int) -> None:
    key, seed = draw(random.Random(bits), bits)
    for key_bits in range(1, bits + 1):
        assert kernel(key, bits, seed, key_bits) == by_rows(key, bits, seed, key_bits)


@given(
    bits=st.integers(1, 20_000),
    share=st.floats(0, 1),
    offset=st.integers(0, 7),
    seed=st.integers(0, 2**32),
    data=st.data(),
)
def test_any_length_at_any_alignment(bits: int, share: float, offset: int, seed: int, data: st.DataObject) -> None:
    key_bits = min(bits, 1 + int(share * bits))
    key, toeplitz_seed = draw(random.Random(seed), bits)
    expected = by_product(key, bits, toeplitz_seed, key_bits)
    for name in SETS:
        with using(name):
            assert kernel(key, bits, toeplitz_seed, key_bits, offset) == expected, name


@given(
    piece=st.sampled_from(PIECES),
    outer=st.integers(1, 5),
    inner=st.integers(1, 5),
    more_out=st.integers(-65, 65),
    more_tail=st.integers(-65, 65),
    seed=st.integers(0, 2**32),
)
@example(piece=1024, outer=1, inner=1, more_out=-64, more_tail=1, seed=1)
@example(piece=1024, outer=1, inner=2, more_out=-63, more_tail=2, seed=2)
def test_lengths_about_whole_pieces(
    piece: int, outer: int, inner: int, more_out: int, more_tail: int, seed: int
) -> None:
    outer, inner = (1 + outer % 2, 1 + inner % 2) if piece == PIECES[-1] else (outer, inner)
    key_bits, tail_bits = 64 * piece * outer + more_out, 64 * piece * inner + more_tail
    bits = key_bits + tail_bits
    key, toeplitz_seed = draw(random.Random(seed), bits)
    expected = by_product(key, bits, toeplitz_seed, key_bits)
    for name in SETS[1:] or SETS:
        with using(name):
            assert kernel(key, bits, toeplitz_seed, key_bits) == expected, name


@pytest.mark.parametrize("key_bits", [1, 777, 250_000, 499_999])
def test_half_a_million_bits(instruction_set: str, key_bits: int) -> None:
    bits = 500_000
    key, seed = draw(random.Random(key_bits), bits)
    # The full product takes seconds: one word of the key at the front and one at the back, the seed dense.
    key &= ((1 << 64) - 1) << key_bits | ((1 << 64) - 1) << (bits - 64) | 1
    assert kernel(key, bits, seed, key_bits) == by_product(key, bits, seed, key_bits, multiply)


def test_a_million_bits() -> None:
    bits, key_bits = 1_000_000, 500_000
    key, seed = draw(random.Random(6), bits)
    assert kernel(key, bits, seed, key_bits) == by_product(key, bits, seed, key_bits)


@pytest.mark.parametrize(
    ("bits", "key_bits"), [(4_000_000, 2_000_000), (10_000_000, 4_100_000), (30_000_000, 14_000_000)]
)
def test_long_keys_of_few_bits_and_few_seed_bits(bits: int, key_bits: int) -> None:
    """A dense seed with a sparse tail, then a sparse seed with a dense tail: sums of shifted strings."""
    generator = random.Random(bits)
    tail_bits, mask = bits - key_bits, (1 << key_bits) - 1
    key, seed = draw(generator, bits)
    chosen = sorted({0, 1, tail_bits - 1, *(generator.randrange(tail_bits) for _ in range(20))})
    expected = key & mask
    for j in chosen:
        expected ^= seed >> (tail_bits - 1 - j) & mask
    assert kernel(key & mask | sum(1 << (key_bits + j) for j in chosen), bits, seed, key_bits) == expected
    chosen = sorted({0, 1, bits - 2, *(generator.randrange(bits - 1) for _ in range(20))})
    tail, expected = key >> key_bits, key & mask
    for q in chosen:
        shift = tail_bits - 1 - q
        expected ^= (tail >> shift if shift >= 0 else tail << -shift) & mask
    assert kernel(key, bits, sum(1 << q for q in chosen), key_bits) == expected


@pytest.mark.parametrize("bits", [1_000, 90_001, 1_234_567])
def test_linear_in_the_key_and_in_the_seed(bits: int) -> None:
    key_bits, generator = bits * 3 // 7, random.Random(bits)
    (key, seed), (other, other_seed) = draw(generator, bits), draw(generator, bits)
    assert kernel(key ^ other, bits, seed, key_bits) == kernel(key, bits, seed, key_bits) ^ kernel(
        other, bits, seed, key_bits
    )
    both = kernel(key, bits, seed, key_bits) ^ kernel(key, bits, other_seed, key_bits)
    assert kernel(key, bits, seed ^ other_seed, key_bits) == both ^ key & ((1 << key_bits) - 1)


@pytest.mark.parametrize("bits", [65, 70_000, 150_001])
def test_bits_behind_the_ends_are_ignored(instruction_set: str, bits: int) -> None:
    key_bits = bits * 2 // 3
    key, seed = draw(random.Random(bits), bits)
    spare, seed_spare = -bits % 64, -(bits - 1) % 64
    loud = kernel(key | (2**spare - 1) << bits, bits, seed | (2**seed_spare - 1) << (bits - 1), key_bits)
    assert loud == kernel(key, bits, seed, key_bits)


def test_the_sets_agree_on_a_dense_key_of_many_pieces() -> None:
    bits, key_bits = 3_000_001, 1_000_003
    key, seed = draw(random.Random(3), bits)
    results = set()
    for name in SETS:
        with using(name):
            results.add(kernel(key, bits, seed, key_bits))
    assert len(results) == 1


def test_threads_share_the_tables() -> None:
    bits = 200_000
    key, seed = draw(random.Random(8), bits)
    results: list[int] = []
    threads = [threading.Thread(target=lambda: results.append(kernel(key, bits, seed, bits // 2))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 4
    assert len(set(results)) == 1


@pytest.mark.parametrize(
    ("key", "bits", "seed", "key_bits", "out"),
    [
        (16, 128, 16, 0, 16),
        (16, 128, 16, 129, 24),
        (16, -1, 16, -1, 8),
        (8, 0, 8, 0, 8),
        (15, 128, 16, 64, 8),
        (16, 128, 15, 64, 8),
        (16, 128, 16, 65, 8),
        (16, 2**63 - 1, 16, 64, 8),
    ],
)
def test_sizes_are_checked(key: int, bits: int, seed: int, key_bits: int, out: int) -> None:
    with pytest.raises(ValueError):
        _native.toeplitz(bytes(key), bits, bytes(seed), key_bits, bytearray(out))


@pytest.mark.parametrize(("key", "seed", "out"), [(0, 64, 15), (64, 0, 8), (0, 32, 24), (8, 40, 0)])
def test_the_result_does_not_overlap_what_is_read(key: int, seed: int, out: int) -> None:
    room = memoryview(bytearray(96))
    with pytest.raises(ValueError, match="overlaps"):
        _native.toeplitz(room[key : key + 16], 128, room[seed : seed + 16], 128, room[out : out + 16])
    _native.toeplitz(room[:16], 128, room[8:24], 128, room[24:40])  # next to each other, and two inputs in one


def test_the_result_needs_a_writable_buffer() -> None:
    with pytest.raises(BufferError):
        _native.toeplitz(bytes(16), 128, bytes(16), 64, bytes(8))
