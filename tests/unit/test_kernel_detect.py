"""The kernel of the detectors against plain Python that looks at every gate and follows the same random words."""

import math
from dataclasses import dataclass, field, replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qhybridd import _native

TRAPS = 1024
QUANTILES = np.random.default_rng(7).normal(size=4096)


@dataclass
class Case:
    """One frame with everything that the kernel takes."""

    pulses: int
    arrivals: dict[int, tuple[int, int, int]]
    """Place: state, photons, delay."""
    darks: dict[int, int]
    """Live gates before it: detectors."""
    traps: tuple[dict[int, int], dict[int, int]]
    """Avalanche: gates after the dead time."""
    physics: np.ndarray
    bases: np.ndarray
    words: np.ndarray
    first: int = 0
    dead: int = 0
    gates: np.ndarray | None = None
    live: int = 0
    waiting: list[int] = field(default_factory=list)
    """2 · pulse + detector, as they wait when the frame begins."""


@dataclass
class Outcome:
    places: list[int] = field(default_factory=list)
    bases: list[int] = field(default_factory=list)
    bits: list[int] = field(default_factory=list)
    clicks: list[int] = field(default_factory=lambda: [0, 0])
    doubles: int = 0
    avalanches: list[int] = field(default_factory=lambda: [0, 0])
    times: list[float] = field(default_factory=list)
    live: int = 0
    waiting: list[int] = field(default_factory=list)


def oracle(case: Case) -> Outcome:
    """csrc/detect.h, word for word, and slowly."""
    chances, shares = case.physics[:32].reshape(16, 2), case.physics[32:64].reshape(16, 2)
    linear, mean, follow, spread, noise_mean, noise_spread, keep = case.physics[64:78].reshape(7, 2)
    out = Outcome(waiting=list(case.waiting))
    live, looked, lived = case.live, 0, -1
    for place in range(case.pulses):
        pulse = case.first + place
        freed = [entry & 1 for entry in out.waiting if entry >> 1 == pulse]
        out.waiting = [entry for entry in out.waiting if entry >> 1 > pulse]
        if pulse < live:
            continue
        lived += 1
        if not (place in case.arrivals or lived in case.darks or freed):
            continue
        basis = int(int(case.bases[looked]) / 2**32 < case.physics[78])
        word = int(case.words[looked])
        looked += 1
        lit: set[int] = set()
        delay = 0
        if place in case.arrivals:
            state, photons, delay = case.arrivals[place]
            kind = state % 8 + 8 * basis
            zero, one = chances[kind]
            if case.gates is not None:
                zero, one = zero * case.gates[0][delay + 32768], one * case.gates[1][delay + 32768]
            else:
                delay = 0
            u = (word >> 32) / 2**32
            neither = (1 - zero - one) ** photons
            alone = ((1 - one) ** photons - neither, (1 - zero) ** photons - neither)
            if u >= neither:
                lit = {0} if u < neither + alone[0] else {1} if u < neither + alone[0] + alone[1] else {0, 1}
            lit |= {which for which in (0, 1) if photons * shares[kind][which] >= linear[which]}
        dark = case.darks.get(lived, 0)
        clicked = lit | {which for which in (0, 1) if dark >> which & 1} | set(freed)
        if not clicked:
            continue
        live = pulse + 1 + case.dead
        for which in sorted(clicked):
            number = out.avalanches[which]
            if number in case.traps[which] and len(out.waiting) < TRAPS:
                out.waiting.append(2 * (live + case.traps[which][number]) + which)
            out.avalanches[which] += 1
        if len(clicked) == 2:
            bit = word & 1
        else:
            bit = min(clicked)
            if (word >> 16 & 0xFFFF) / 2**16 >= keep[bit]:
                continue
        quantile = QUANTILES[word >> 1 & 4095]
        if bit in lit:
            out.times.append(mean[bit] + follow[bit] * delay + spread[bit] * quantile)
        else:
            out.times.append(noise_mean[bit] + noise_spread[bit] * quantile)
        for which in clicked:
            out.clicks[which] += 1
        out.doubles += len(clicked) == 2
        out.places.append(place)
        out.bases.append(basis)
        out.bits.append(bit)
    out.live = live
    return out


def offset(array: np.ndarray, by: int) -> memoryview:
    """The same bytes at an odd address."""
    return memoryview(bytearray(by) + bytearray(array.tobytes()))[by:]


def arrays_of(case: Case, room: int | None = None) -> tuple[list[object], list[bytearray]]:
    """The kernel's arguments, and what it writes: state, gaps, bases, bits."""
    places = np.array(sorted(case.arrivals), np.int64)
    gaps = np.diff(places, prepend=0).astype(np.uint32)
    columns = np.array([case.arrivals[int(place)] for place in places], np.int64).reshape(-1, 3)
    darks = sorted(case.darks)
    state = np.zeros(2 + TRAPS, np.uint64)
    state[0], state[1] = case.live, len(case.waiting)
    state[2 : 2 + len(case.waiting)] = sorted(case.waiting, reverse=True)
    most = case.pulses if room is None else room
    written = [bytearray(state.tobytes()), bytearray(4 * most), bytearray(most), bytearray(most)]
    traps = [
        array
        for kept in case.traps
        for array in (np.array(sorted(kept), np.uint64), np.array([kept[at] for at in sorted(kept)], np.uint32))
    ]
    read: list[np.ndarray] = [
        gaps,
        columns[:, 0].astype(np.uint8),
        columns[:, 1].astype(np.uint32),
        np.array(darks, np.uint64),
        np.array([case.darks[place] for place in darks], np.uint8),
        *traps,
        case.bases,
        case.words,
        case.physics,
        QUANTILES,
    ]
    arguments: list[object] = [case.first, case.pulses, case.dead, *(offset(array, 3) for array in read)]
    if case.gates is None:
        arguments += [None, None]
    else:
        arguments += [offset(columns[:, 2].astype(np.int16), 1), offset(case.gates, 5)]
    return [*arguments, *written], written


def run(case: Case) -> Outcome:
    arguments, (state_bytes, gaps, bases, bits) = arrays_of(case)
    count, first, second, doubles, fired, fired_too, total, squares = _native.detect(*arguments)  # type: ignore[arg-type]
    state = np.frombuffer(state_bytes, np.uint64)
    places = np.cumsum(np.frombuffer(gaps, np.uint32)[:count], dtype=np.int64).tolist()
    found = Outcome(places, list(bases[:count]), list(bits[:count]), [first, second], doubles, [fired, fired_too])
    found.live, found.waiting = int(state[0]), [int(entry) for entry in state[2 : 2 + int(state[1])]]
    found.times = [total, squares]
    return found


def compare(case: Case) -> Outcome:
    expected, found = oracle(case), run(case)
    total, squares = found.times
    assert math.isclose(total, math.fsum(expected.times), rel_tol=1e-9, abs_tol=1e-6)
    assert math.isclose(squares, math.fsum(time**2 for time in expected.times), rel_tol=1e-9, abs_tol=1e-6)
    end = case.first + case.pulses
    live = max(expected.live, end)
    assert max(found.live, end) == live
    assert found.waiting == sorted(found.waiting, reverse=True)
    still, late = ([entry for entry in one.waiting if entry >> 1 >= live] for one in (found, expected))
    assert sorted(still) == sorted(late)
    assert replace(found, times=[], live=0, waiting=[]) == replace(expected, times=[], live=0, waiting=[])
    return expected


def make_physics(generator: np.random.Generator, linear: tuple[float, float] = (math.inf, math.inf)) -> np.ndarray:
    shares = generator.random((16, 1))
    shares = np.hstack([shares, 1 - shares])
    chances = shares * np.where(np.isinf(linear), generator.uniform(0.2, 1.0, 2), 0.0)
    times = generator.normal(0, 50, (5, 2))
    keep = generator.uniform(0.5, 1.0, 2)
    return np.concatenate([chances.ravel(), shares.ravel(), linear, times.ravel(), keep, [generator.random()]])


def make_case(seed: int, pulses: int, **share: float) -> Case:
    """Shares of the gates (`light`, `dark`) and of the avalanches (`trap`), `photons` at most, and the rest."""
    generator = np.random.default_rng(seed)

    def some(part: float) -> list[int]:
        return np.flatnonzero(generator.random(pulses) < part).tolist()

    photons = int(share.get("photons", 1))
    linear = (share.get("linear", math.inf), math.inf if seed % 2 else share.get("linear", math.inf))
    gates = generator.random((2, 65536)) if "delays" in share else None
    arrivals = {
        place: (
            int(generator.integers(8)),
            int(generator.integers(1, photons + 1)),
            int(generator.integers(-32768, 32768)),
        )
        for place in some(share.get("light", 0))
    }
    first = int(generator.integers(0, 1 << 50))
    traps = tuple({at: int(generator.exponential(20)) for at in some(share.get("trap", 0))} for _ in range(2))
    waiting = sorted({int(2 * first + entry) for entry in generator.integers(0, 4 * pulses + 1, 5)}) if traps[0] else []
    return Case(
        pulses,
        arrivals,
        {place: int(generator.integers(1, 4)) for place in some(share.get("dark", 0))},
        (traps[0], traps[1]),
        make_physics(generator, linear),
        generator.integers(0, 1 << 32, pulses, np.uint32),
        generator.integers(0, 1 << 63, pulses, np.uint64) * np.uint64(2) + generator.integers(0, 2, pulses, np.uint64),
        first,
        int(share.get("dead", 0)),
        gates,
        first + int(generator.integers(-3, 20)),
        waiting,
    )


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(
    "shares",
    [
        {},
        {"light": 1.0},
        {"light": 0.3, "dead": 5},
        {"light": 0.3, "photons": 6},
        {"light": 0.2, "photons": 200_000, "linear": 60_000.0, "dark": 0.01},
        {"dark": 0.1},
        {"dark": 1.0, "dead": 2},
        {"light": 0.1, "dark": 0.05, "trap": 0.5, "dead": 10},
        {"light": 0.5, "dark": 0.1, "trap": 1.0},
        {"light": 0.5, "delays": 1.0, "photons": 3, "dark": 0.05, "trap": 0.2, "dead": 3},
    ],
    ids=str,
)
def test_the_kernel_does_as_the_oracle(shares: dict[str, float], seed: int) -> None:
    expected = compare(make_case(seed, 1500, **shares))
    assert bool(expected.places) == bool(shares)


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 1 << 32),
    pulses=st.integers(1, 200),
    light=st.floats(0, 1),
    dark=st.floats(0, 1),
    trap=st.floats(0, 1),
    dead=st.integers(0, 300),
    photons=st.integers(1, 1 << 31),
)
def test_any_frame(seed: int, pulses: int, light: float, dark: float, trap: float, dead: int, photons: int) -> None:
    compare(make_case(seed, pulses, light=light, dark=dark, trap=trap, dead=dead, photons=photons))


def test_full_traps_take_no_more() -> None:
    case = make_case(1, 3000, light=1.0)
    case.traps = ({at: 100_000 + at for at in range(3000)}, dict.fromkeys(range(3000), 200_000))
    case.waiting = []
    assert len(compare(case).waiting) == TRAPS


def test_carriers_that_let_go_in_the_dead_time_are_gone() -> None:
    case = make_case(2, 100)
    case.first, case.live, case.dead = 1000, 1010, 20
    case.waiting = [2 * 1005, 2 * 1009 + 1, 2 * 1010, 2 * 1020 + 1, 2 * 1031 + 1]
    case.physics[76:78] = 1.0
    case.traps = ({}, {})
    found = compare(case)
    assert found.places == [10, 31]
    assert found.bits == [0, 1]


ARGUMENTS = [
    *("first", "pulses", "dead", "gaps", "states", "photons", "dark_places", "dark_masks"),
    *("avalanches_0", "delays_0", "avalanches_1", "delays_1", "bases", "words", "physics", "quantiles"),
    *("delays", "gates", "state", "out_gaps", "out_bases", "out_bits"),
]
COUNTING = {"states", "dark_masks", "avalanches_0", "avalanches_1"}
"""They tell how many there are: one too many makes another too short."""


@pytest.mark.parametrize("name", ARGUMENTS[3:])
def test_an_array_that_is_too_short_is_refused(name: str) -> None:
    case = make_case(3, 50, light=1.0, dark=0.5, trap=0.5, delays=1.0)
    arguments, _ = arrays_of(case)
    which = ARGUMENTS.index(name)
    whole = bytes(arguments[which])  # type: ignore[call-overload]
    if name in COUNTING:
        arguments[which] = whole + bytes(8)
    else:
        arguments[which] = bytearray(whole[:8] if name in {"words", "out_bits"} else whole[:-1])
    with pytest.raises(ValueError):
        _native.detect(*arguments)  # type: ignore[arg-type]


def test_numbers_out_of_range_are_refused() -> None:
    arguments, _ = arrays_of(make_case(4, 50, light=1.0))
    for at, value in ((0, 1 << 61), (1, 1 << 32), (2, 1 << 61), (0, 1 << 64), (1, -1)):
        with pytest.raises((ValueError, OverflowError)):
            _native.detect(*[value if at == place else one for place, one in enumerate(arguments)])  # type: ignore[arg-type]


def test_what_is_written_overlaps_nothing() -> None:
    arguments, written = arrays_of(make_case(5, 50, light=1.0))
    arguments[-2] = arguments[-1]
    with pytest.raises(ValueError, match="overlaps"):
        _native.detect(*arguments)  # type: ignore[arg-type]
    assert not any(written[-1])


def test_a_state_with_too_many_carriers_is_refused() -> None:
    arguments, (state, *_) = arrays_of(make_case(6, 50, light=1.0))
    state[8:16] = (TRAPS + 1).to_bytes(8, "little")
    with pytest.raises(ValueError, match="state"):
        _native.detect(*arguments)  # type: ignore[arg-type]
