"""The source: what arrives, against closed forms; and that Alice remembers what she sent.

Seeds are fixed, so a test gives the same numbers each time; bounds are five standard deviations.
"""

import math
import time
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise, product

import numpy as np
import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from numpy.typing import NDArray

from qhybridd.errors import PeerError, ProgramError
from qhybridd.optics.parameters import Source
from qhybridd.optics.randomness import Randomness
from qhybridd.optics.records import Arrivals, Light, Prepared, State
from qhybridd.optics.source import BATCH, Emitter, lit_probability, poisson, spread_levels

SOURCE = Source(intensities=(0.5, 0.1, 0.02), intensity_probabilities=(0.6, 0.3, 0.1), key_basis_probability=0.8)
LIGHT = Light(0.1, 2.0, 0.0)


def emitter(source: Source = SOURCE, seed: int = 1) -> Emitter:
    return Emitter(source, Randomness.from_seed(seed))


def emit(source: Source, pulses: int, transmission: float, least: int = 1, seed: int = 1) -> tuple[Emitter, Arrivals]:
    one = emitter(source, seed)
    return one, one.emit(0, pulses, transmission, 0.0, LIGHT, least)


def column(plane: bytes, count: int) -> NDArray[np.uint8]:
    return np.unpackbits(np.frombuffer(plane, np.uint8), count=count, bitorder="little")


def chosen(prepared: Prepared, count: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8], NDArray[np.uint8]]:
    """Bits, bases and intensities of the pulses that were recalled."""
    with prepared.bits.expose() as view:
        bits = column(bytes(view), count)
    low, high = (column(plane, count) for plane in prepared.intensities)
    return bits, column(prepared.bases, count), low + 2 * high


def near(count: float, trials: float, probability: float) -> None:
    """Within five standard deviations of a binomial number."""
    spread = math.sqrt(trials * probability * (1 - probability))
    assert abs(count - trials * probability) <= 5 * spread, (count, trials * probability, spread)


@pytest.mark.parametrize(("transmission", "least"), [(1.0, 1), (0.01, 1), (1.0, 2), (0.3, 2), (1.0, 4)])
def test_so_many_pulses_of_each_intensity_arrive(transmission: float, least: int) -> None:
    pulses = 4_000_000 if transmission == 1.0 and least == 1 else 60_000_000
    one, arrivals = emit(SOURCE, pulses, transmission, least)
    bits, bases, intensities = chosen(one.recall(0, pulses, arrivals.gaps.tobytes()), arrivals.count)
    choices = zip(SOURCE.intensities, SOURCE.intensity_probabilities, strict=True)
    for index, (mean, share) in enumerate(choices):
        found = int(np.count_nonzero(intensities == index))
        lit = 1 - math.fsum(poisson(mean * transmission, photons) for photons in range(least))
        near(found, pulses, share * lit)
    near(int(bits.sum()), arrivals.count, 0.5)
    near(int(bases.sum()), arrivals.count, 0.2)
    assert (arrivals.states == bits | bases << 1).all()
    assert arrivals.photons.min() == least
    assert int(arrivals.places()[-1]) < pulses
    assert arrivals.delays_ps is None
    assert arrivals.light is LIGHT


def test_choices_are_independent_of_each_other_and_of_the_pulse_before() -> None:
    one = emitter()
    pulses = 400_000
    gaps = np.ones(pulses, np.uint32)
    gaps[0] = 0
    bits, bases, intensities = chosen(one.recall(0, pulses, gaps.tobytes()), pulses)
    kinds = bits + 2 * bases + 4 * intensities.astype(np.int64)
    likely = np.array(
        [share * basis / 2 for share, basis, _ in product(SOURCE.intensity_probabilities, (0.8, 0.2), (0, 1))]
    )
    for found, trials, expected in (
        (np.bincount(kinds, minlength=12), pulses, likely),
        (np.bincount(kinds[:-1] * 12 + kinds[1:], minlength=144), pulses - 1, np.outer(likely, likely).ravel()),
        (np.bincount(kinds[:-2] * 12 + kinds[2:], minlength=144), pulses - 2, np.outer(likely, likely).ravel()),
    ):
        square = float(((found - trials * expected) ** 2 / (trials * expected)).sum())
        freedom = len(expected) - 1
        assert abs(square - freedom) < 5 * math.sqrt(2 * freedom)


@pytest.mark.parametrize("least", [1, 2, 3])
def test_photon_numbers_are_poissonian(least: int) -> None:
    source = Source(intensities=(2.5, 0.7), intensity_probabilities=(0.5, 0.5))
    one, arrivals = emit(source, 600_000, 0.8, least)
    _, _, intensities = chosen(one.recall(0, 600_000, arrivals.gaps.tobytes()), arrivals.count)
    for index, mean in enumerate(source.intensities):
        photons = arrivals.photons[intensities == index]
        lit = lit_probability(mean * 0.8, least)
        for number in range(least, 9):
            near(int(np.count_nonzero(photons == number)), len(photons), poisson(mean * 0.8, number) / lit)


def test_the_number_of_arrivals_has_the_variance_of_independent_pulses() -> None:
    one = emitter()
    frames, pulses = 6000, 200
    counts = [one.emit(pulses * frame, pulses, 1.0, 0.0, LIGHT).count for frame in range(frames)]
    lit = math.fsum(
        share * -math.expm1(-mean)
        for mean, share in zip(SOURCE.intensities, SOURCE.intensity_probabilities, strict=True)
    )
    variance = pulses * lit * (1 - lit)
    assert abs(np.mean(counts) - pulses * lit) < 5 * math.sqrt(variance / frames)
    assert abs(np.var(counts) / variance - 1) < 5 * math.sqrt(2 / frames)


def test_gaps_are_geometric_and_leave_no_pulse_out() -> None:
    source = Source(intensities=(0.4,), intensity_probabilities=(1.0,))
    _, arrivals = emit(source, 3_000_000, 0.5)
    lit = -math.expm1(-0.2)
    for gap in range(1, 20):
        near(int(np.count_nonzero(arrivals.gaps[1:] == gap)), arrivals.count - 1, lit * (1 - lit) ** (gap - 1))
    for place in range(8):
        near(int(np.count_nonzero(arrivals.places() % 8 == place)), 3_000_000 / 8, lit)
    one = emitter(source)
    empty = [one.emit(7 * frame, 1, 1.0, 0.0, LIGHT) for frame in range(20_000)]
    near(sum(arrivals.count for arrivals in empty), 20_000, -math.expm1(-0.4))
    assert all(arrivals.gaps.tolist() == [0] * arrivals.count for arrivals in empty)


def test_a_fluctuating_intensity_has_its_mean_and_its_spread() -> None:
    levels = np.array(spread_levels(0.2))
    assert levels.mean() == pytest.approx(1, abs=1e-12)
    assert levels.std() == pytest.approx(0.2, rel=1e-12)
    assert levels.min() > 1 - 3 * 0.2
    source = Source(intensities=(4.0, 1.0), intensity_probabilities=(0.5, 0.5), intensity_spread=0.2)
    one, arrivals = emit(source, 400_000, 1.0)
    _, _, intensities = chosen(one.recall(0, 400_000, arrivals.gaps.tobytes()), arrivals.count)
    for index, mean in enumerate(source.intensities):
        photons = arrivals.photons[intensities == index].astype(np.float64)
        moments = [
            math.fsum(
                number**power * math.fsum(poisson(mean * level, number) for level in levels) / len(levels)
                for number in range(1, 60)
            )
            for power in (1, 2, 4)
        ]
        for power, moment, above in ((1, moments[0], moments[1]), (2, moments[1], moments[2])):
            total = float((photons**power).sum())
            assert abs(total - 200_000 * moment) < 5 * math.sqrt(200_000 * above)
        assert moments[1] - moments[0] ** 2 == pytest.approx(mean + (0.2 * mean) ** 2, rel=1e-3), "what is held against"


def test_vacuum_pulses_send_nothing() -> None:
    source = Source(intensities=(0.5, 0.0), intensity_probabilities=(0.5, 0.5))
    one, arrivals = emit(source, 100_000, 1.0)
    _, _, intensities = chosen(one.recall(0, 100_000, arrivals.gaps.tobytes()), arrivals.count)
    assert arrivals.count > 0
    assert not intensities.any()


def test_noise_comes_unpolarised_and_on_top() -> None:
    source = Source(intensities=(0.05,), intensity_probabilities=(1.0,))
    pulses = 4_000_000
    arrivals = emitter(source).emit(0, pulses, 1.0, 0.02, LIGHT)
    noise = arrivals.states == State.UNPOLARISED
    signal = -math.expm1(-0.05)
    near(int(np.count_nonzero(~noise)), pulses, signal)
    near(int(np.count_nonzero(noise)), pulses, (1 - signal) * -math.expm1(-0.02))
    photons = float(arrivals.photons.sum())
    assert abs(photons - pulses * 0.07) < 5 * math.sqrt(pulses * 0.07)
    assert (arrivals.states[~noise] < State.UNPOLARISED).all()
    alone = emitter(source).emit(0, 100_000, 0.0, 0.02, LIGHT)
    near(alone.count, 100_000, -math.expm1(-0.02))
    assert (alone.states == State.UNPOLARISED).all()
    assert (np.diff(arrivals.places().astype(np.int64)) >= 1).all()


def test_no_light_no_arrival() -> None:
    for pulses, transmission, least in ((0, 1.0, 1), (10**9, 0.0, 1), (10**9, 1.0, 2000)):
        arrivals = emitter().emit(5, pulses, transmission, 0.0, LIGHT, least)
        assert (arrivals.first, arrivals.pulses, arrivals.count) == (5, pulses, 0)
        assert (arrivals.gaps.dtype, arrivals.states.dtype, arrivals.photons.dtype) == (np.uint32, np.uint8, np.uint32)


def test_alice_remembers_over_the_borders_of_frames() -> None:
    one = emitter()
    frames = [one.emit(1000 + 300_000 * k, 300_000, 0.7, 0.0, LIGHT) for k in range(3)]
    places = np.concatenate([frame.places() + np.uint64(300_000 * k) for k, frame in enumerate(frames)])
    assert len(places) > 3 * BATCH
    gaps = np.diff(places, prepend=np.uint64(0)).astype(np.uint32)
    bits, bases, _ = chosen(one.recall(1000, 900_000, gaps.tobytes()), len(gaps))
    assert (np.concatenate([frame.states for frame in frames]) == bits | bases << 1).all()


def test_a_choice_is_aes_of_the_pulses_number() -> None:
    """Worked out pulse by pulse, as docs/optics.md says."""
    randomness = Randomness.from_seed(9)
    cipher = Cipher(algorithms.AES(randomness.key("choices")), modes.ECB()).encryptor()
    first = 2**40 + 1
    gaps = [0, 1, 2, 2**32 - 1, 2**32 - 1, 6]
    bits, bases, intensities = chosen(
        Emitter(SOURCE, randomness).recall(first, 2**34, np.array(gaps, np.uint32).tobytes()), len(gaps)
    )
    for place, number in enumerate(np.cumsum(gaps, dtype=np.uint64) + np.uint64(first)):
        pair = cipher.update(int(number // 2).to_bytes(8, "little") + bytes(8))
        word = int.from_bytes(pair[8 * int(number % 2) :][:8], "little")
        assert bits[place] == word & 1
        assert bases[place] == ((word >> 1) % 2**31 >= round(0.8 * 2**31))
        assert intensities[place] == sum(word >> 32 >= round(share * 2**32) for share in (0.6, 0.9))


def test_every_intensity_has_its_two_bits() -> None:
    source = Source(intensities=(0.4, 0.3, 0.2, 0.1), intensity_probabilities=(0.25, 0.25, 0.25, 0.25))
    gaps = np.ones(40_000, np.uint32)
    _, _, intensities = chosen(emitter(source).recall(0, 40_001, gaps.tobytes()), 40_000)
    for index in range(4):
        near(int(np.count_nonzero(intensities == index)), 40_000, 0.25)


def test_what_was_recalled_of_nothing_is_empty() -> None:
    prepared = emitter().recall(3, 0, b"")
    assert (prepared.bases, prepared.bits.length, prepared.intensities) == (b"", 0, (b"", b""))


@pytest.mark.parametrize("gaps", [[10], [3, 0], [3, 7], [0, 9, 1], [2**32 - 1, 2**32 - 1]])
def test_clicks_outside_of_the_block_are_the_peers_fault(gaps: list[int]) -> None:
    one = emitter()
    with pytest.raises(PeerError) as caught:
        one.recall(100, 10, np.array(gaps, np.uint32).tobytes())
    assert caught.value.code == "link.malformed"
    assert one._recalling._words.is_zero


def test_half_a_gap_is_the_peers_fault() -> None:
    with pytest.raises(PeerError, match="7 bytes"):
        emitter().recall(0, 100, bytes(7))


def test_a_late_click_outside_leaves_nothing_behind() -> None:
    one = emitter()
    gaps = np.ones(BATCH + 100, np.uint32)
    with pytest.raises(PeerError):
        one.recall(0, BATCH + 50, gaps.tobytes())
    assert one._recalling._words.is_zero


def test_the_same_click_twice_is_refused_between_batches_too() -> None:
    gaps = np.ones(BATCH + 100, np.uint32)
    gaps[BATCH] = 0
    with pytest.raises(PeerError):
        emitter().recall(0, 10**6, gaps.tobytes())


def test_choices_are_wiped_after_each_use() -> None:
    one = emitter()
    arrivals = one.emit(0, 100_000, 1.0, 0.0, LIGHT)
    assert one._emitting._words.is_zero
    one.recall(0, 100_000, arrivals.gaps.tobytes())
    assert one._recalling._words.is_zero


def test_one_thread_emits_while_another_recalls() -> None:
    one, quiet = emitter(), emitter()
    gaps = np.ones(4 * BATCH, np.uint32)
    alone = chosen(quiet.recall(0, 10**6, gaps.tobytes()), len(gaps))
    with ThreadPoolExecutor(1) as pool:
        for frame in range(5):
            later = pool.submit(one.emit, frame * 300_000, 300_000, 1.0, 0.0, LIGHT)
            both = chosen(one.recall(0, 10**6, gaps.tobytes()), len(gaps))
            assert all((a == b).all() for a, b in zip(alone, both, strict=True))
            light = quiet.emit(frame * 300_000, 300_000, 1.0, 0.0, LIGHT)
            assert later.result().states.tobytes() == light.states.tobytes()


def test_the_same_seed_gives_the_same_light_and_another_another() -> None:
    a, b, c = (emit(SOURCE, 100_000, 0.5, seed=seed)[1] for seed in (4, 4, 5))
    assert a.gaps.tobytes() == b.gaps.tobytes()
    assert a.photons.tobytes() == b.photons.tobytes()
    assert a.states.tobytes() == b.states.tobytes()
    assert a.gaps.tobytes() != c.gaps.tobytes()
    one = emitter()
    twice = [one.emit(0, 100_000, 0.5, 0.0, LIGHT) for _ in range(2)]
    assert twice[0].gaps.tobytes() != twice[1].gaps.tobytes(), "loss is drawn anew, choices are not"


def test_cost_goes_with_the_arrivals() -> None:
    one = emitter()
    started = time.process_time()
    count = sum(one.emit(k * 4_000_000_000, 4_000_000_000, 1e-6, 0.0, LIGHT).count for k in range(10))
    assert count > 10_000
    assert time.process_time() - started < 0.5, "forty seconds of a gigahertz"


def test_impossible_frames_are_refused() -> None:
    one = emitter()
    for first, pulses in ((-1, 5), (0, -1), (0, 2**32), (2**63 - 5, 10)):
        with pytest.raises(ProgramError):
            one.emit(first, pulses, 0.5, 0.0, LIGHT)
    for transmission, noise, least in ((1.1, 0, 1), (-0.1, 0, 1), (math.nan, 0, 1), (0.5, -1, 1), (0.5, math.inf, 1)):
        with pytest.raises(ProgramError):
            one.emit(0, 5, transmission, noise, LIGHT, least)
    with pytest.raises(ProgramError):
        one.emit(0, 5, 0.5, 0.0, LIGHT, 0)
    for first, pulses in ((-1, 5), (0, -1), (2**63 - 5, 10)):
        with pytest.raises(ProgramError):
            one.recall(first, pulses, b"")


@pytest.mark.parametrize("least", [1, 2, 5])
def test_rare_photons_are_counted_exactly(least: int) -> None:
    for mean in (1e-9, 1e-3, 0.5, 4.0, 19.0):
        direct = math.fsum(poisson(mean, number) for number in range(least, 200))
        assert lit_probability(mean, least) == pytest.approx(direct, rel=1e-12)
    assert lit_probability(0.0, least) == 0
    values = [lit_probability(mean, least) for mean in (0.1, 0.2, 0.4, 5.0, 6.0)]
    assert all(a < b for a, b in pairwise(values))
