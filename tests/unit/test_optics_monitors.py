"""The judge of a block: what a healthy link never trips, and what each monitor sees."""

import math
from dataclasses import replace

import numpy as np
import pytest

from qhybridd.optics.monitors import SIGMAS, expected_square_ps2, judge, light_spread, noise_square_ps2
from qhybridd.optics.parameters import Detector, Optics, Receiver, Source
from qhybridd.optics.randomness import Randomness
from qhybridd.optics.receiver import Station
from qhybridd.optics.records import Arrivals, Health, Light

RECEIVER = Receiver()
PLAIN = Light()
FINE = Health((50_000, 50_000), 10, (1e-13, 1e-13), 0.0, 39.3, True, False, 0.0)


def code_of(*healths: Health, receiver: Receiver = RECEIVER) -> str | None:
    verdict = judge(receiver, healths)
    return verdict[0] if verdict else None


def shine(number: int, pulses: int, mean: float, light: Light = PLAIN, delays: tuple[int, ...] = ()) -> Arrivals:
    generator = np.random.default_rng(number)
    places = np.cumsum(generator.geometric(-math.expm1(-mean), int(1.2 * pulses * mean) + 1000)) - 1
    places = places[places < pulses]
    count = len(places)
    return Arrivals(
        number * pulses,
        pulses,
        np.diff(places, prepend=0).astype(np.uint32),
        generator.integers(0, 4, count).astype(np.uint8),
        np.ones(count, np.uint32),
        generator.choice(np.array(delays, np.int16), count) if delays else None,
        light,
    )


def run(
    receiver: Receiver, frames: int, mean: float, pulses: int = 1_000_000, **of_light: tuple[int, ...]
) -> list[Health]:
    bob = Station(receiver, Source(), Randomness.from_seed(5))
    return [bob.detect(shine(number, pulses, mean, **of_light)).health for number in range(frames)]  # type: ignore[arg-type]


def test_no_frames_no_complaint() -> None:
    assert judge(RECEIVER, []) is None
    assert code_of(FINE) is None


@pytest.mark.parametrize("which", [0, 1])
def test_a_current_in_one_frame_of_many_is_blinding(which: int) -> None:
    current = [1e-13, 1e-13]
    current[which] = 1.01e-10
    dazzled = replace(FINE, current_a=(current[0], current[1]))
    assert code_of(*[FINE] * 500, dazzled) == "link.blinding"
    assert code_of(*[FINE] * 500, replace(FINE, current_a=(0.99e-10, 0.99e-10))) is None


def test_more_than_a_tenth_out_of_sync() -> None:
    lost = replace(FINE, clicks=(0, 0), synchronised=False, timing_std_ps=0.0)
    assert code_of(*[FINE] * 9, lost) is None
    assert code_of(*[FINE] * 8, lost) == "link.sync"


def test_calibrating_is_no_fault() -> None:
    away = replace(FINE, clicks=(0, 0), calibrating=True, timing_std_ps=0.0)
    assert code_of(FINE, *[away] * 20) is None
    assert code_of(*[away] * 20) is None


def test_a_wide_spread() -> None:
    limit = math.sqrt(
        RECEIVER.timing_spread_most**2 * expected_square_ps2(RECEIVER)
        + SIGMAS * math.sqrt(2 / (100_000 - 11)) * noise_square_ps2(RECEIVER)
    )
    assert limit < 1.7 * math.sqrt(expected_square_ps2(RECEIVER))
    assert code_of(replace(FINE, timing_std_ps=limit * 0.999)) is None
    assert code_of(replace(FINE, timing_std_ps=limit * 1.001)) == "link.timing"


def test_frames_are_weighed_by_their_clicks() -> None:
    wide = replace(FINE, clicks=(50, 50), doubles=0, timing_std_ps=400.0)
    assert code_of(*[FINE] * 9, wide) is None
    assert code_of(*[FINE] * 9, replace(wide, clicks=(50_000, 50_000))) == "link.timing"


def test_unequal_detectors() -> None:
    total = 100_000
    limit = RECEIVER.imbalance_most + SIGMAS / math.sqrt(total)
    for sign in (1, -1):
        for factor, expected in ((0.99, None), (1.01, "link.mismatch")):
            more = round(total * (1 + sign * factor * limit) / 2)
            assert code_of(replace(FINE, clicks=(more, total - more))) == expected


def test_few_clicks_say_little() -> None:
    assert code_of(replace(FINE, clicks=(130, 100))) is None
    assert code_of(replace(FINE, clicks=(13_000, 10_000))) == "link.mismatch"


def test_the_gravest_comes_first() -> None:
    bad = replace(FINE, clicks=(90_000, 10_000), timing_std_ps=300.0, synchronised=False, current_a=(1e-9, 0.0))
    order = ["link.blinding", "link.sync", "link.timing", "link.mismatch"]
    mended = [bad]
    mended.append(replace(mended[-1], current_a=(0.0, 0.0)))
    mended.append(replace(mended[-1], synchronised=True))
    mended.append(replace(mended[-1], timing_std_ps=39.0))
    assert [code_of(health) for health in mended] == order


def test_a_mixture_is_taken_apart() -> None:
    generator = np.random.default_rng(1)
    noise_share, light, noise = 0.2, 40.0, 210.0
    times = np.where(
        generator.random(400_000) < noise_share,
        generator.normal(0, noise, 400_000),
        generator.normal(0, light, 400_000),
    )
    found = light_spread(float(np.var(times)), noise**2, len(times), noise_share * len(times))
    assert found == pytest.approx(light, rel=0.03)
    assert light_spread(noise**2, noise**2, 10_000, 6000.0) == 0.0
    assert light_spread(1.0, noise**2, 10_000, 2000.0) == 0.0
    assert light_spread(light**2, noise**2, 19, 0.0) == 0.0
    assert light_spread(light**2, noise**2, 20, 0.0) == light


def test_what_gate_and_jitter_explain() -> None:
    plain = Detector(gate_offset_ps=-300.0)
    apart = replace(RECEIVER, detectors=(plain, replace(plain, gate_offset_ps=300.0)))
    sigma, jitter = 500 / math.sqrt(8 * math.log(2)), 40.0
    each = (sigma * jitter) ** 2 / (sigma**2 + jitter**2)
    pulled = 300.0 * jitter**2 / (sigma**2 + jitter**2)
    assert expected_square_ps2(apart) == pytest.approx(each + pulled**2)
    assert noise_square_ps2(apart) == pytest.approx(sigma**2 + 300.0**2)
    receiver = replace(apart, visibility=1.0)
    health = run(receiver, 12, 0.02)[-1]
    assert health.timing_std_ps**2 == pytest.approx(expected_square_ps2(apart), rel=0.25)


@pytest.mark.parametrize("length_km", [0.0, 50.0, 100.0, 150.0, 300.0])
def test_a_healthy_link_stays_far_below_every_threshold(length_km: float) -> None:
    """Each statistic of 40 blocks, in standard deviations of a block: none near the six that a threshold leaves.

    The imbalance is tried without its allowance, the spread with a hundredth of its own.
    """
    optics = Optics().with_length(length_km)
    mean = 0.35 * optics.fibre.transmission * optics.receiver.thinning
    pulses = 500_000 if length_km < 100 else 20_000_000
    receiver = optics.receiver
    tight = replace(receiver, imbalance_most=0.0, timing_spread_most=1.02)
    healths = run(receiver, 40, mean, pulses)
    assert [judge(receiver, [health]) for health in healths] == [None] * 40
    assert [judge(tight, [health]) for health in healths[5:]] == [None] * 35
    assert judge(tight, healths[5:]) is None


@pytest.mark.parametrize("changes", [{"dark_hz": 2e5}, {"afterpulse_probability": 0.1}, {"gate_ps": 200.0}])
def test_noisy_detectors_are_no_attack(changes: dict[str, float]) -> None:
    first, second = RECEIVER.detectors
    receiver = replace(RECEIVER, detectors=(replace(first, **changes), replace(second, **changes)))
    assert judge(receiver, run(receiver, 10, 0.003)) is None


def test_a_cut_is_no_attack() -> None:
    """Unequal dark counts, dropped clicks and wide times: they are not of the light."""
    worse = replace(RECEIVER.detectors[1], efficiency=0.1, dark_hz=5000.0)
    receiver = replace(RECEIVER, detectors=(RECEIVER.detectors[0], worse))
    healths = run(receiver, 10, 1e-12, 100_000_000)
    assert sum(sum(health.clicks) for health in healths) > 3000
    assert judge(receiver, healths) is None


def test_more_dark_counts_are_no_attack() -> None:
    bob = Station(RECEIVER, Source(), Randomness.from_seed(5))
    bob.dark_factor = 200.0
    assert judge(RECEIVER, [bob.detect(shine(number, 2_000_000, 0.003)).health for number in range(10)]) is None


def test_blinding_is_seen_by_its_current() -> None:
    healths = run(RECEIVER, 3, 0.003, light=Light(background_w=1e-9))  # type: ignore[arg-type]
    assert code_of(*healths) == "link.blinding"


def test_shifted_pulses_are_seen_by_their_times() -> None:
    """Early or late at random: the mean stays, the spread does not."""
    healths = run(RECEIVER, 5, 0.003, delays=(-250, 250))
    assert abs(float(np.mean([health.timing_mean_ps for health in healths]))) < 20
    assert code_of(*healths) == "link.timing"
    assert code_of(*run(RECEIVER, 5, 0.003, delays=(-5, 5))) is None


def test_a_detector_that_differs_from_its_data_sheet_is_a_mismatch() -> None:
    """Pulses that come late by more than the gates are apart favour one detector."""
    first, second = RECEIVER.detectors
    receiver = replace(RECEIVER, detectors=(first, replace(second, gate_offset_ps=200.0)), timing_spread_most=100.0)
    bob = Station(receiver, Source(), Randomness.from_seed(5))
    assert judge(receiver, [bob.detect(shine(number, 1_000_000, 0.01)).health for number in range(3)]) is None
    bob.clock_offset_ps = 150.0
    assert code_of(bob.detect(shine(3, 1_000_000, 0.01)).health, receiver=receiver) == "link.mismatch"
