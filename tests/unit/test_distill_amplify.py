"""Privacy amplification over locked bits."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qhybridd import _native
from qhybridd.bits import Bits, packed_bytes
from qhybridd.distill.amplify import amplify, seed_bytes
from qhybridd.errors import HostError, ProgramError
from tests.unit.carryless import multiply


def bits_of(value: int, length: int) -> Bits:
    return Bits.adopt(value.to_bytes(packed_bytes(length), "little"), length)


def integer(bits: Bits) -> int:
    with bits.expose() as words:
        return int.from_bytes(words, "little")


@given(st.integers(1, 700), st.data())
def test_head_plus_toeplitz_of_the_tail(length: int, data: st.DataObject) -> None:
    key_bits = data.draw(st.integers(1, length))
    value = data.draw(st.integers(0, 2**length - 1))
    seed = data.draw(st.binary(min_size=(size := seed_bytes(length, key_bits)), max_size=size))
    key = bits_of(value, length)
    result = amplify(key, seed, key_bits)
    shift = max(0, length - key_bits - 1)
    number = int.from_bytes(seed, "little") & ((1 << (length - 1)) - 1)
    assert integer(result) == (value ^ multiply(number, value >> key_bits) >> shift) % (1 << key_bits)
    assert (len(result), integer(key)) == (key_bits, value)


@pytest.mark.parametrize(("bits", "expected"), [(1, 0), (2, 8), (65, 8), (66, 16), (1_000_000, 125_000)])
def test_the_seed_has_one_bit_less_than_the_key(bits: int, expected: int) -> None:
    assert seed_bytes(bits, 1) == seed_bytes(bits, bits) == expected


def test_a_collision_needs_equal_tails_or_luck() -> None:
    """Over all seeds, two keys of 6 bits hash to the same 3 for exactly one seed in 8; with equal tails for none."""
    length, key_bits = 6, 3
    seeds = [seed.to_bytes(8, "little") for seed in range(1 << (length - 1))]
    for difference in range(1, 1 << length):
        hits = sum(integer(amplify(bits_of(difference, length), seed, key_bits)) == 0 for seed in seeds)
        assert hits == (len(seeds) >> key_bits if difference >> key_bits else 0)


@pytest.mark.parametrize("key_bits", [0, -1, 101])
def test_key_lengths_are_checked(key_bits: int) -> None:
    for call in (lambda: seed_bytes(100, key_bits), lambda: amplify(bits_of(0, 100), bytes(16), key_bits)):
        with pytest.raises(ProgramError) as caught:
            call()
        assert caught.value.code == "program.argument"


@pytest.mark.parametrize("size", [0, 8, 15, 17, 24])
def test_the_seed_has_exactly_its_size(size: int) -> None:
    with pytest.raises(ProgramError) as caught:
        amplify(bits_of(0, 100), bytes(size), 50)
    assert caught.value.code == "program.argument"


def test_no_locked_memory_is_the_hosts_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise MemoryError("cannot lock")

    monkeypatch.setattr(_native, "toeplitz", refuse)
    with pytest.raises(HostError) as caught:
        amplify(bits_of(0, 100), bytes(16), 50)
    assert caught.value.code == "host.memory"
