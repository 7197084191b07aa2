"""Clicks of the receiver against closed forms: five standard deviations at fixed seeds, each bound also in per cent."""

import math
from dataclasses import replace

import numpy as np
import pytest

from qhybridd.errors import HostError, ProgramError
from qhybridd.optics.detectors import (
    click_spread_ps,
    dark_probability,
    dead_gates,
    efficiencies,
    gate_efficiency,
    gate_sigma_ps,
    kept_shares,
    middle_ps,
)
from qhybridd.optics.noise import draw_darks
from qhybridd.optics.parameters import Detector, Receiver, Source
from qhybridd.optics.randomness import Randomness
from qhybridd.optics.receiver import Station, assemble
from qhybridd.optics.records import Arrivals, Detections, Health, Light, State

SIGMAS = 5.0
PULSES = 4_000_000

QUIET = Detector(
    efficiency=0.2, dark_hz=0.0, afterpulse_probability=0.0, jitter_ps=0.0, ageing_per_year=0.0, gate_offset_ps=0.0
)
"""Nothing but an efficiency."""
PLAIN = Receiver(detectors=(QUIET, QUIET), visibility=1.0, dead_time_ns=0.0, reference_photons=1e15)
"""Two of them; a photon that comes is a click."""
SOURCE = Source()
PLAIN_LIGHT = Light()


def both(**changes: float) -> Receiver:
    """The plain receiver with changes to both its detectors."""
    return replace(PLAIN, detectors=(replace(QUIET, **changes), replace(QUIET, **changes)))


def shine(
    mean: float,
    *,
    pulses: int = PULSES,
    first: int = 0,
    state: int | None = None,
    light: Light = PLAIN_LIGHT,
    delay_ps: int | None = None,
    seed: int = 1,
) -> Arrivals:
    """Poissonian pulses of this mean photon number, in one state or in any of the four."""
    generator = np.random.default_rng(seed + first)
    photons = generator.poisson(mean, pulses)
    places = np.flatnonzero(photons)
    count = len(places)
    states = generator.integers(0, 4, count) if state is None else np.full(count, state)
    return Arrivals(
        first,
        pulses,
        np.diff(places, prepend=0).astype(np.uint32),
        states.astype(np.uint8),
        photons[places].astype(np.uint32),
        None if delay_ps is None else np.full(count, delay_ps, np.int16),
        light,
    )


def station(receiver: Receiver, source: Source = SOURCE, seed: int = 1) -> Station:
    return Station(receiver, source, Randomness.from_seed(seed))


def errors_of(arrivals: Arrivals, found: Detections) -> tuple[int, int]:
    """Clicks where bases match, and those of them with the wrong bit."""
    prepared = dict(zip(arrivals.places().tolist(), arrivals.states.tolist(), strict=True))
    places = np.cumsum(found.gaps, dtype=np.int64).tolist()
    matching = wrong = 0
    for place, basis, bit in zip(places, found.bases.tolist(), found.bits.tolist(), strict=True):
        state = prepared.get(place)
        if state is not None and (state >> 1 & 1) == basis:
            matching += 1
            wrong += (state & 1) != bit
    return matching, wrong


def close(count: float, expected: float, variance: float, percent: float) -> None:
    """Within five standard deviations, and these are less than so many per cent: an error of that size is seen."""
    assert SIGMAS * math.sqrt(variance) <= percent / 100 * expected
    assert abs(count - expected) <= SIGMAS * math.sqrt(variance)


def binomial(count: int, trials: int, probability: float, percent: float) -> None:
    close(count, trials * probability, trials * probability * (1 - probability), percent)


@pytest.mark.parametrize(("mean", "percent"), [(0.003, 5), (0.05, 2), (1.0, 0.5), (3.0, 0.3)])
def test_click_probability(mean: float, percent: float) -> None:
    """1 - (1 - p_dark)² exp(-μ): Poissonian light on two detectors, each with dark counts."""
    receiver = both(dark_hz=1e6)
    dark = dark_probability(receiver.detectors[0], SOURCE.repetition_hz)
    assert dark == pytest.approx(1e-3, rel=1e-3)
    found = station(receiver).detect(shine(mean))
    binomial(len(found.gaps), PULSES, 1 - (1 - dark) ** 2 * math.exp(-mean), percent)


def test_darks_alone() -> None:
    receiver = both(dark_hz=2e6)
    dark = dark_probability(receiver.detectors[0], SOURCE.repetition_hz)
    found = station(receiver).detect(shine(0.0))
    binomial(len(found.gaps), PULSES, 1 - (1 - dark) ** 2, 5)
    close(found.health.clicks[0], PULSES * dark, PULSES * dark, 6)
    close(int(found.bits.sum()), len(found.gaps) / 2, len(found.gaps) / 4, 5)
    close(int(found.bases.sum()), len(found.gaps) * 0.2, len(found.gaps) * 0.16, 9)


def test_a_dark_factor_multiplies_them() -> None:
    bob = station(both(dark_hz=2e4))
    bob.dark_factor = 100.0
    found = bob.detect(shine(0.0))
    binomial(len(found.gaps), PULSES, 1 - math.exp(-2 * 2e-3), 5)


def test_gaps_between_clicks_are_geometric() -> None:
    """Variance (1 - p) / p² of a geometric gap: the clicks are independent of each other."""
    found = station(PLAIN).detect(shine(0.1))
    chance = 1 - math.exp(-0.1)
    variance = float(np.var(found.gaps[1:].astype(float)))
    assert variance == pytest.approx((1 - chance) / chance**2, rel=5 * math.sqrt(8 / len(found.gaps)))


@pytest.mark.parametrize("mean", [0.005, 0.1, 1.0])
def test_dead_time_that_no_click_prolongs(mean: float) -> None:
    """p / (1 + p·D) a gate (Knoll, Radiation Detection and Measurement, chapter 4: the non-paralysable case)."""
    receiver = replace(PLAIN, dead_time_ns=50.0)
    dead = dead_gates(receiver, SOURCE.repetition_hz)
    assert dead == 50
    found = station(receiver).detect(shine(mean))
    chance = 1 - math.exp(-mean)
    rate = chance / (1 + chance * dead)
    # a renewal process: the variance of the count is N σ² / τ², τ = D + 1/p, σ² = (1 - p)/p²
    variance = PULSES * rate**3 * (1 - chance) / chance**2
    close(len(found.gaps), PULSES * rate, variance + 1, 4)
    assert int(found.gaps[1:].min()) == dead + 1


def test_a_dead_time_goes_on_in_the_next_frame() -> None:
    receiver = replace(PLAIN, dead_time_ns=50.0)
    bob = station(receiver)
    bright = [shine(20.0, pulses=30, first=30 * index) for index in range(40)]
    places = [
        frame.first + int(place) for frame in map(bob.detect, bright) for place in np.cumsum(frame.gaps, dtype=np.int64)
    ]
    assert places == list(range(0, 1200, 51))


def test_a_jump_starts_fresh() -> None:
    bob = station(replace(PLAIN, dead_time_ns=1000.0))
    assert bob.detect(shine(20.0, pulses=10)).gaps.tolist() == [0]
    assert bob.detect(shine(20.0, pulses=10, first=10)).gaps.tolist() == []
    assert bob.detect(shine(20.0, pulses=10, first=30)).gaps.tolist() == [0]
    assert bob.detect(shine(20.0, pulses=10, first=0)).gaps.tolist() == [0]


def test_afterpulses() -> None:
    """Each click has p more after it; with nothing in between there are 1 / (1 - p) clicks for each first one.

    Their delays after the dead time are exponential, in whole gates.
    """
    share, decay, apart, dead = 0.4, 50.0, 1000, 20
    receiver = replace(both(afterpulse_probability=share, afterpulse_decay_ns=decay), dead_time_ns=dead)
    pulses = 40_000_000
    places = np.arange(0, pulses, apart)
    count = len(places)
    gaps = np.diff(places, prepend=0).astype(np.uint32)
    zeros, photons = np.zeros(count, np.uint8), np.full(count, 60, np.uint32)
    firsts = Arrivals(0, pulses, gaps, zeros, photons, None, Light())
    found = station(receiver, replace(SOURCE, key_basis_probability=1.0)).detect(firsts)
    # a cascade of Bernoulli offspring is geometric
    close(len(found.gaps), count / (1 - share), count * share / (1 - share) ** 2, 2)
    assert not found.bits.any() and found.health.doubles == 0
    at = np.cumsum(found.gaps, dtype=np.int64)
    steps = np.diff(at)
    waits = steps[(at[:-1] % apart == 0) & (at[1:] % apart != 0)] - dead - 1
    assert waits.min() == 0
    close(len(waits), count * share, count * share * (1 - share), 4)
    ratio = math.exp(-1 / decay)
    assert waits.mean() == pytest.approx(ratio / (1 - ratio), rel=SIGMAS / math.sqrt(len(waits)))


def test_afterpulses_come_in_the_next_frame() -> None:
    receiver = both(afterpulse_probability=0.5, afterpulse_decay_ns=1e4)
    bob = station(receiver)
    bob.detect(shine(3.0, pulses=3000))
    dark = sum(len(bob.detect(shine(0.0, pulses=3000, first=3000 * step)).gaps) for step in range(1, 20))
    assert dark > 700


@pytest.mark.parametrize("angle", [0.0, 0.1, -0.35, math.pi / 4])
@pytest.mark.parametrize("visibility", [1.0, 0.9])
def test_errors_of_a_turned_photon(angle: float, visibility: float) -> None:
    """V sin²θ + (1 - V) / 2, the same in both bases, where the frame before was straight and nothing is compensated."""
    bob = station(replace(PLAIN, visibility=visibility, calibrate_above_rad=2.0))
    bob.detect(shine(0.02, pulses=1000))
    arrivals = shine(0.02, first=1000, light=Light(angle_rad=angle))
    arrivals = replace(arrivals, photons=np.ones(arrivals.count, np.uint32))
    found = bob.detect(arrivals)
    assert 0.99 * arrivals.count < len(found.gaps) <= arrivals.count  # the gate is not quite hit
    matching, wrong = errors_of(arrivals, found)
    binomial(matching, len(found.gaps), 0.5, 2)
    chance = visibility * math.sin(angle) ** 2 + (1 - visibility) / 2
    if chance:
        binomial(wrong, matching, chance, 26)
    else:
        assert wrong == 0


@pytest.mark.parametrize("kind", [0, 1, 2, 3])
def test_each_state_in_each_basis(kind: int) -> None:
    for key_share, basis in ((1.0, 0), (0.0, 1)):
        source = replace(SOURCE, key_basis_probability=key_share)
        found = station(PLAIN, source).detect(shine(0.02, state=kind, pulses=400_000))
        ones, count = int(found.bits.sum()), len(found.gaps)
        assert set(found.bases.tolist()) == {basis}
        if (kind >> 1) == basis:
            assert ones == (count if kind & 1 else 0)
        else:
            binomial(ones, count, 0.5, 7)


def test_light_in_no_state_gives_either_bit() -> None:
    for kind in (State.UNPOLARISED, State.UNPOLARISED | State.BIT | State.TEST_BASIS):
        found = station(PLAIN).detect(shine(0.02, state=int(kind)))
        binomial(int(found.bits.sum()), len(found.gaps), 0.5, 2)


def test_bases_are_chosen_with_their_bias() -> None:
    found = station(PLAIN, replace(SOURCE, key_basis_probability=0.9)).detect(shine(0.05))
    binomial(int(found.bases.sum()), len(found.gaps), 0.1, 4)


def test_double_clicks() -> None:
    """(1 - exp(-μ/2))² for light halved between two detectors; their bits are random."""
    mean = 0.8
    found = station(PLAIN).detect(shine(mean, state=int(State.UNPOLARISED)))
    chance = (1 - math.exp(-mean / 2)) ** 2
    binomial(found.health.doubles, PULSES, chance, 1)
    assert sum(found.health.clicks) == len(found.gaps) + found.health.doubles
    binomial(int(found.bits.sum()), len(found.gaps), 0.5, 1)


def test_saturation() -> None:
    """However bright, one click each dead time."""
    found = station(replace(PLAIN, dead_time_ns=99.0)).detect(shine(20.0, pulses=1_000_000))
    assert len(found.gaps) == 10_000


def test_bits_of_double_clicks_are_random_in_the_right_basis() -> None:
    """Dark counts of both detectors at once."""
    found = station(both(dark_hz=1e9)).detect(shine(0.0, pulses=500_000))
    chance = (1 - math.exp(-1)) ** 2
    binomial(found.health.doubles, 500_000, chance, 1)
    binomial(int(found.bits.sum()), len(found.gaps), 0.5, 1)


@pytest.mark.parametrize("delay", [None, -300, 0, 150, 400])
def test_the_gate_and_the_jitter(delay: int | None) -> None:
    """Two normal curves convolved: σ_g / √(σ_g² + σ_j²) · exp(-t² / (2 (σ_g² + σ_j²)))."""
    receiver = both(jitter_ps=120.0, gate_ps=400.0)
    sigma = 400.0 / math.sqrt(8 * math.log(2))
    wide = sigma**2 + 120.0**2
    factor = sigma / math.sqrt(wide) * math.exp(-((delay or 0) ** 2) / (2 * wide))
    assert gate_efficiency(receiver.detectors[0], delay or 0.0) == pytest.approx(factor)
    bob = station(receiver)
    for index in range(10):  # the clock finds the light
        bob.detect(shine(1.0, pulses=100_000, first=100_000 * index))
    found = bob.detect(shine(0.1, first=1_000_000, delay_ps=delay))
    count = len(found.gaps)
    binomial(count, PULSES, 1 - math.exp(-0.1 * factor), 4)
    spread = sigma * 120.0 / math.sqrt(wide)
    assert click_spread_ps(receiver.detectors[0]) == pytest.approx(spread)
    assert found.health.timing_std_ps == pytest.approx(spread, rel=SIGMAS / math.sqrt(2 * count))
    mean = (delay or 0) * sigma**2 / wide
    assert found.health.timing_mean_ps == pytest.approx(mean, abs=SIGMAS * spread / math.sqrt(count) + 1.0)


def test_detectors_that_differ_are_made_equal() -> None:
    """The receiver drops clicks of the better one at random; what it gets then is twice the worse one's."""
    first, second = replace(QUIET, efficiency=0.25, jitter_ps=40.0), replace(QUIET, efficiency=0.15, jitter_ps=40.0)
    receiver = replace(PLAIN, detectors=(first, replace(second, gate_offset_ps=60.0)))
    assert receiver.thinning == pytest.approx(0.25 * 10**-0.25)
    found = station(receiver).detect(shine(0.02))
    worse = min(efficiencies(receiver)) / 0.25
    count = len(found.gaps)
    close(count, PULSES * 0.02 * worse, PULSES * 0.02 * worse, 3)
    binomial(found.health.clicks[0], count, 0.5, 3)
    assert kept_shares(receiver)[0] == pytest.approx(0.6)


def test_a_fault_of_efficiency() -> None:
    bob = station(PLAIN)
    bob.efficiency_factor = 0.5
    found = bob.detect(shine(0.02))
    binomial(len(found.gaps), PULSES, 1 - math.exp(-0.01), 3)


def test_ageing() -> None:
    """Half a year at 40 % a year: √0.6. The time is that of the link: one slow pulse a millisecond."""
    slow = replace(SOURCE, repetition_hz=1e3)
    bob = station(replace(both(ageing_per_year=0.4), calibrate_above_rad=2.0), slow)
    half_year = int(365.25 * 86400 / 2 * 1e3)
    at = 0
    while at < half_year:
        pulses = min(half_year - at, 4_000_000_000)
        bob.detect(replace(shine(0.0, pulses=1), first=at, pulses=pulses))
        at += pulses
    found = bob.detect(shine(0.05, pulses=2_000_000, first=half_year))
    binomial(len(found.gaps), 2_000_000, 1 - math.exp(-0.05 * math.sqrt(0.6)), 2)


def test_blinded_detectors_see_bright_pulses_alone() -> None:
    """In linear mode n photons click where their share reaches the threshold: in Eve's basis, not in the other."""
    receiver = both(dark_hz=1e6, afterpulse_probability=0.1)
    bright = Light(background_w=2e-9)
    bob = station(receiver)
    nothing = bob.detect(shine(5.0, light=bright, pulses=100_000))
    assert len(nothing.gaps) == 0
    photons = round(1.4 * 1e5 * receiver.thinning)
    arrivals = shine(0.01, light=bright, first=100_000)
    arrivals = replace(arrivals, photons=np.full(arrivals.count, photons, np.uint32))
    found = bob.detect(arrivals)
    matching, wrong = errors_of(arrivals, found)
    assert wrong == 0 and matching == len(found.gaps)
    binomial(matching, arrivals.count, 0.5, 3)
    assert found.health.doubles == 0
    more = bob.detect(replace(arrivals, first=100_000 + PULSES, photons=arrivals.photons * 2))
    assert len(more.gaps) == arrivals.count
    binomial(more.health.doubles, arrivals.count, 0.5, 3)


def test_no_afterpulse_comes_out_of_linear_mode() -> None:
    bob = station(both(afterpulse_probability=0.5, afterpulse_decay_ns=1e4))
    assert len(bob.detect(shine(3.0, pulses=3000)).gaps) > 2000
    assert len(bob.detect(shine(0.0, pulses=3000, first=3000, light=Light(background_w=1e-9))).gaps) == 0
    assert len(bob.detect(shine(0.0, pulses=3000, first=6000)).gaps) == 0


def test_light_below_blinding_makes_noise() -> None:
    """Half a microwatt is 3.9·10^12 photons a second; here a tenth of a nanowatt, seen in every open gate."""
    power = 1e-10
    found = station(PLAIN).detect(shine(0.0, light=Light(background_w=power)))
    open_s = math.sqrt(2 * math.pi) * gate_sigma_ps(QUIET) * 1e-12
    photons = power / 1.2816e-19 * open_s * PLAIN.thinning
    binomial(len(found.gaps), PULSES, 1 - math.exp(-photons), 2)


def test_light_just_below_blinding_is_drawn_at_the_cost_of_its_clicks() -> None:
    generator = np.random.default_rng(3)
    places, masks = draw_darks(generator, (0.23, 0.23), 50_000_000, 1_000)
    assert 1_000 <= len(places) == len(masks) <= 2_000
    first, second = (places[masks >> which & 1 > 0] for which in (0, 1))
    assert len(first) == len(second) == 1_000
    assert abs(float(first[-1]) - 1_000 / 0.23) < 5 * math.sqrt(1_000 * 0.77) / 0.23
    few = draw_darks(generator, (0.23, 0.23), 100, 1_000)[0]
    assert len(few) < 100
    assert int(few[-1]) < 100


def test_photocurrents() -> None:
    receiver = both(responsivity_a_per_w=0.9)
    found = station(receiver).detect(shine(0.0, light=Light(background_w=2e-9), pulses=1_000_000))
    assert found.health.current_a == pytest.approx((0.9 * 2e-9 * 10**-0.25,) * 2)
    dark = station(replace(receiver, dead_time_ns=50.0)).detect(shine(0.5, pulses=1_000_000))
    assert all(0 < current < receiver.current_most_a / 10 for current in dark.health.current_a)


def test_the_same_seed_gives_the_same_run_and_another_does_not() -> None:
    frames = [shine(0.01, pulses=100_000, first=100_000 * index) for index in range(3)]
    runs = []
    for seed in (1, 1, 2):
        bob = station(Receiver(), seed=seed)
        runs.append([bob.detect(frame) for frame in frames])
    for one, same, other in zip(*runs, strict=True):
        assert one.health == same.health
        assert np.array_equal(one.gaps, same.gaps) and np.array_equal(one.bits, same.bits)
        assert not np.array_equal(one.gaps, other.gaps)


def test_a_frame_has_pulses_and_not_too_many() -> None:
    for pulses in (0, 1 << 32):
        with pytest.raises(ProgramError):
            station(PLAIN).detect(replace(shine(0.0, pulses=1), pulses=pulses))


def detections(first: int, pulses: int, places: list[int], seed: int = 1) -> Detections:
    generator = np.random.default_rng(seed + first)
    count = len(places)
    return Detections(
        first,
        pulses,
        np.diff(np.array(places, np.int64), prepend=0).astype(np.uint32),
        generator.integers(0, 2, count).astype(np.uint8),
        generator.integers(0, 2, count).astype(np.uint8),
        Health((0, 0), 0, (0.0, 0.0), 0.0, 0.0, True, False, 0.0),
    )


def test_frames_make_a_block() -> None:
    places = [[0, 3, 9], [], [0], [9], [5], [], []]
    frames = [detections(70 + 10 * index, 10, inside) for index, inside in enumerate(places)]
    bases = [int(bit) for frame in frames for bit in frame.bases]
    bits = [int(bit) for frame in frames for bit in frame.bits]
    block = assemble(frames, 70)
    assert (block.pulses, block.count) == (70, 6)
    expected = [10 * index + place for index, inside in enumerate(places) for place in inside]
    assert np.cumsum(np.frombuffer(block.gaps, np.uint32)).tolist() == expected
    assert np.unpackbits(np.frombuffer(block.bases, np.uint8), bitorder="little")[:6].tolist() == bases
    assert len(block.bases) == 8 and len(block.bits) == 6
    with block.bits.expose() as words:
        assert np.unpackbits(np.frombuffer(words, np.uint8), bitorder="little").tolist() == bits + [0] * 58
    assert not any(frame.bits.any() for frame in frames)


@pytest.mark.parametrize("seed", range(5))
def test_any_frames_make_a_block(seed: int) -> None:
    generator = np.random.default_rng(seed)
    hits = generator.random((9, 50)) < [0.02, 0.3, 0.9][seed % 3]
    frames = [detections(50 * index, 50, np.flatnonzero(row).tolist()) for index, row in enumerate(hits)]
    block = assemble(frames, 450)
    assert np.cumsum(np.frombuffer(block.gaps, np.uint32)).tolist() == np.flatnonzero(hits.ravel()).tolist()


def test_an_empty_block() -> None:
    block = assemble([detections(0, 10, [])], 10)
    assert (block.count, block.gaps, block.bases, len(block.bits)) == (0, b"", b"", 0)


def test_frames_that_are_no_block_are_refused() -> None:
    one, two, four = detections(0, 10, [1]), detections(10, 10, [1]), detections(30, 10, [1])
    for frames, pulses in (([one, four], 20), ([two, one], 20), ([one, two], 30), ([], 10), ([one, one], 20)):
        with pytest.raises(ProgramError):
            assemble(frames, pulses)
    assert len(assemble([one, two], 20).bits) == 2


def test_a_gap_of_more_than_32_bits_is_an_outage() -> None:
    long = (1 << 32) - 1
    frames = [detections(0, 10, list(range(10))), detections(10, long, []), detections(10 + long, 20, [9])]
    assert frames[0].bits.any()
    with pytest.raises(HostError, match="without a click") as caught:
        assemble(frames, 30 + long)
    assert caught.value.code == "link.outage"
    assert not any(frame.bits.any() for frame in frames)
    frames = [detections(0, 10, [9]), detections(10, long - 10, []), detections(long, 20, [9])]
    gaps = np.frombuffer(assemble(frames, 20 + long).gaps, np.uint32)
    assert gaps.tolist() == [9, long]


def test_the_middle_is_between_the_gates() -> None:
    assert middle_ps(Receiver()) == 10.0
