"""Sifting over records: what an honest pair gets, and what a peer may not send."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qhybridd.bits import Bits, packed_bytes
from qhybridd.distill.sift import (
    HUGE_BYTES,
    Plane,
    check_plane,
    count_clicks,
    count_errors,
    count_ones,
    decode_gaps,
    encode_gaps,
    match,
    select,
    sift,
    sort_clicks,
)
from qhybridd.errors import HostError, PeerError, ProgramError


def plane(bits: list[int]) -> Plane:
    return sum(bit << place for place, bit in enumerate(bits)).to_bytes(packed_bytes(len(bits)), "little")


def bits_of(data: Plane | Bits, count: int) -> list[int]:
    if isinstance(data, Bits):
        assert data.length == count
        with data.expose() as words:
            data = bytes(words)
    number = int.from_bytes(data, "little")
    assert number >> count == 0, "bits behind the end"
    return [number >> place & 1 for place in range(count)]


def adopt(bits: list[int]) -> Bits:
    return Bits.adopt(plane(bits), len(bits))


@given(st.integers(0, 300), st.randoms(use_true_random=False))
@settings(max_examples=50)
def test_both_ends_sort_their_clicks_alike(count: int, rng: random.Random) -> None:
    draw = [[rng.getrandbits(1) for _ in range(count)] for _ in range(6)]
    alice, bob, hers, his, low, high = draw
    matching = match(plane(alice), plane(bob), count)
    assert bits_of(matching, count) == [int(a == b) for a, b in zip(alice, bob, strict=True)]
    places = [place for place in range(count) if alice[place] == bob[place]]
    sent = tuple(select(matching, plane(one), count) for one in (low, high))
    assert bits_of(sent[0], len(places)) == [low[place] for place in places]
    ends = [
        sort_clicks(matching, plane(bases), adopt(bits), (sent[0], sent[1]), count)
        for bases, bits in ((alice, hers), (bob, his))
    ]
    for basis in (0, 1):
        mine = [place for place in places if alice[place] == basis]
        keys = [end.test if basis else end.key for end in ends]
        intensities = ends[0].test_intensities if basis else ends[0].key_intensities
        assert intensities == (ends[1].test_intensities if basis else ends[1].key_intensities)
        assert [bits_of(key, len(mine)) for key in keys] == [[bits[p] for p in mine] for bits in (hers, his)]
        index = [low[place] + 2 * high[place] for place in mine]
        assert count_clicks(intensities, len(mine), 4) == tuple(index.count(i) for i in range(4))
        wrong = [i for i, place in zip(index, mine, strict=True) if hers[place] != his[place]]
        assert count_errors(keys[0], keys[1], intensities, len(mine), 4) == tuple(wrong.count(i) for i in range(4))


def test_no_click_at_all() -> None:
    assert match(b"", b"", 0) == b"" and select(b"", b"", 0) == b"" and count_ones(b"", 0) == 0
    key, test = sift(b"", b"", Bits.zeros(0), 0)
    assert key.length == test.length == 0
    assert count_errors(key, test, (b"", b""), 0, 2) == (0, 0)
    assert decode_gaps(encode_gaps(b"", 0), 0, 0) == b""


def test_planes_of_the_peer_are_held_to_their_shape() -> None:
    good, long, short, behind = plane([1] * 65), bytes(24), bytes(8), plane([1] * 66)
    check_plane(good, 65)
    for bad in (long, short, behind):
        for call in (
            lambda bad=bad: check_plane(bad, 65),
            lambda bad=bad: match(good, bad, 65),
            lambda bad=bad: select(good, bad, 65),
            lambda bad=bad: select(bad, good, 65),
            lambda bad=bad: sift(bad, good, adopt([0] * 65), 65),
            lambda bad=bad: count_clicks((good, bad), 65, 4),
            lambda bad=bad: count_errors(adopt([0] * 65), adopt([1] * 65), (bad, good), 65, 4),
            lambda bad=bad: sort_clicks(good, good, adopt([0] * 65), (good, bad), 65),
        ):
            with pytest.raises(PeerError) as caught:
                call()
            assert caught.value.code == "link.malformed"


def test_an_intensity_that_does_not_exist() -> None:
    low, high = plane([0, 1, 0, 1]), plane([0, 0, 1, 1])
    assert count_clicks((low, high), 4, 4) == (1, 1, 1, 1)
    with pytest.raises(PeerError):
        count_clicks((low, high), 4, 3)
    with pytest.raises(PeerError):
        count_errors(adopt([0, 0, 0, 1]), adopt([0, 0, 0, 0]), (low, high), 4, 3)
    for how_many in (0, 5):
        with pytest.raises(ProgramError):
            count_clicks((low, high), 4, how_many)


def test_misuse_is_ours() -> None:
    bits = adopt([1, 0, 1])
    for call in (
        lambda: sift(plane([1, 1]), plane([0, 1]), bits, 2),
        lambda: count_errors(bits, adopt([1]), (plane([0, 1, 0]), plane([0] * 3)), 3, 2),
        lambda: encode_gaps(bytes(8), 2),
        lambda: decode_gaps(b"", 0, -1),
        lambda: decode_gaps(b"", 0, 1 << 64),
    ):
        with pytest.raises(ProgramError):
            call()


@given(st.binary(max_size=80), st.integers(0, 60), st.integers(0, 2**40))
def test_what_the_peer_calls_gaps_is_a_list_or_malformed(data: bytes, count: int, pulses: int) -> None:
    try:
        gaps = decode_gaps(data, count, pulses)
    except PeerError as error:
        assert error.code == "link.malformed"
    else:
        assert encode_gaps(gaps, count) == data


def test_no_memory_for_many_clicks_is_the_hosts_trouble(monkeypatch: pytest.MonkeyPatch) -> None:
    count = HUGE_BYTES // 4
    data = encode_gaps((1).to_bytes(4, "little") * count, count)

    def poor(*_: object, **__: object) -> None:
        raise OSError(12, "Cannot allocate memory")

    monkeypatch.setattr("mmap.mmap", poor)
    with pytest.raises(HostError) as caught:
        decode_gaps(data, count, 2 * count)
    assert caught.value.code == "host.memory"
