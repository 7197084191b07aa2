"""Who may begin a handshake."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qhybridd.errors import ProgramError
from qhybridd.protocol.limits import (
    BURST,
    KEPT_PLACES,
    MAX_HALF_OPEN,
    MAX_HALF_OPEN_PER_SOURCE,
    MAX_SOURCES,
    Admission,
    source_of,
)


def test_sources() -> None:
    assert source_of("192.0.2.1") != source_of("192.0.2.2")
    assert source_of("::ffff:192.0.2.1") == source_of("192.0.2.1")
    assert source_of("2001:db8::1") == source_of("2001:db8::ffff:0:0:1")
    assert source_of("2001:db8::1") != source_of("2001:db8:0:1::1")
    assert source_of("fe80::1%eth0") == source_of("fe80::2")
    with pytest.raises(ProgramError):
        source_of("gateway.example")


def test_places_in_all_and_kept_ones() -> None:
    door = Admission()
    door.authenticated("198.51.100.1", 0.0)
    admitted = [address for number in range(MAX_HALF_OPEN) if door.admit(address := f"192.0.2.{number}", 0.0)]
    assert len(admitted) == MAX_HALF_OPEN - KEPT_PLACES == door.half_open
    assert door.admit("198.51.100.1", 0.0)
    door.release(admitted[0])
    door.release("198.51.100.1")
    assert door.half_open == len(admitted) - 1
    assert door.admit("192.0.2.250", 0.0)


def test_known_addresses_are_bounded_too() -> None:
    door = Admission()
    for number in range(MAX_HALF_OPEN + 1):
        door.authenticated(f"198.51.100.{number}", 0.0)
        assert door.admit(f"198.51.100.{number}", 0.0) == (number < MAX_HALF_OPEN)


def test_places_of_one_source() -> None:
    door = Admission()
    assert [door.admit(f"2001:db8::{number}", float(number)) for number in range(10)] == [True] * 8 + [False] * 2
    assert MAX_HALF_OPEN_PER_SOURCE == 8
    assert door.admit("2001:db8:0:1::1", 0.0)
    door.release("2001:db8::9")
    assert door.admit("2001:db8::1", 10.0)


def test_the_rate_of_one_source() -> None:
    door = Admission()

    def dial(now: float) -> bool:
        admitted = door.admit("192.0.2.1", now)
        if admitted:
            door.release("192.0.2.1")
        return admitted

    assert [dial(0.0) for _ in range(10)] == [True] * int(BURST) + [False] * 2
    assert not dial(0.9)
    assert dial(1.0)
    assert not dial(1.5)
    assert [dial(100.0) for _ in range(9)] == [True] * 8 + [False]
    door.authenticated("192.0.2.1", 100.0)
    assert dial(100.0)


def test_a_place_is_released_once() -> None:
    door = Admission()
    door.admit("192.0.2.1", 0.0)
    door.release("192.0.2.1")
    with pytest.raises(ProgramError):
        door.release("192.0.2.1")


def test_memory_is_bounded() -> None:
    door = Admission()

    def dial(number: int, now: float) -> bool:
        address = f"2001:db8:{number >> 16:x}:{number & 0xFFFF:x}::1"
        admitted = door.admit(address, now)
        if admitted:
            door.release(address)
        return admitted

    door.authenticated("198.51.100.1", 0.0)
    assert all(dial(number, 0.0) for number in range(MAX_SOURCES))
    assert not dial(MAX_SOURCES, 1.0)  # a flood of sources shuts strangers out ...
    assert door.admit("198.51.100.1", 1.0)  # ... and not the peer
    assert dial(1, 1.0)
    assert dial(MAX_SOURCES, 8.0)  # until buckets are full again
    assert len(door._buckets) == 3
    for number in range(MAX_SOURCES + 4):
        door.authenticated(f"2001:db8:{number:x}::1", 9.0)
        if number == 100:
            door.authenticated("198.51.100.1", 9.0)
    assert len(door._known) == MAX_SOURCES
    assert source_of("198.51.100.1") in door._known
    assert source_of("2001:db8::1") not in door._known


@given(st.lists(st.tuples(st.integers(0, 90), st.booleans(), st.floats(0, 3)), max_size=300))
def test_the_bounds_hold_whatever_comes(steps: list[tuple[int, bool, float]]) -> None:
    door, now, held = Admission(), 0.0, []
    for number, release, wait in steps:
        now += wait
        address = f"192.0.2.{number}"
        if release and held:
            door.release(held.pop())
        elif door.admit(address, now):
            held.append(address)
        assert door.half_open == len(held) <= MAX_HALF_OPEN - KEPT_PLACES
        assert all(held.count(one) <= MAX_HALF_OPEN_PER_SOURCE for one in held)
