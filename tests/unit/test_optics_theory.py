"""Closed forms against published numbers, against sums and recursions, and the whole simulated link against them.

Seeds are fixed; statistical bounds are five standard deviations.
"""

import math
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from numpy.typing import NDArray

from qhybridd.errors import ProgramError
from qhybridd.optics.line import Line
from qhybridd.optics.parameters import Detector, Fibre, Optics, Receiver, Source
from qhybridd.optics.randomness import Randomness
from qhybridd.optics.receiver import Station
from qhybridd.optics.records import Detections, Request
from qhybridd.optics.source import poisson
from qhybridd.optics.theory import (
    GYS,
    Channel,
    Receiving,
    bare_rate,
    best_signal,
    decoy_rate,
    expected_counts,
    intercepted_error,
    live_share,
    multi_photon_probability,
    reach_km,
    splitting_transmission,
    survival,
    weak_decoy_bounds,
    weak_decoy_rate,
)

STILL = Fibre(drift_rad_per_sqrt_s=0.0, delay_drift_ps_per_sqrt_s=0.0)


# published numbers: Ma, Qi, Zhao, Lo, Phys. Rev. A 72, 012326 (2005), for the parameters of GYS


def test_infinite_decoys_reach_as_far_as_published() -> None:
    reach = reach_km(lambda km: decoy_rate(GYS.channel(km), 0.48, GYS.efficiency))
    assert reach == pytest.approx(142.05, abs=0.1)


def test_a_weak_decoy_and_a_vacuum_reach_as_far_as_published() -> None:
    reach = reach_km(lambda km: weak_decoy_rate(GYS.channel(km), 0.48, 0.05, GYS.efficiency))
    assert reach == pytest.approx(140.55, abs=0.1)


def test_the_best_intensity_is_the_published_one() -> None:
    for efficiency, best in ((1.22, 0.48), (1.0, 0.54)):
        found = best_signal(lambda signal, f=efficiency: decoy_rate(GYS.channel(40), signal, f))  # type: ignore[misc]
        assert found == pytest.approx(best, abs=0.01)


def test_bounds_are_as_far_from_the_truth_as_published() -> None:
    """Figure 1, at 40 km and a decoy of a quarter of the signal: 3.5 % less gain, 16.8 % more errors."""
    channel = GYS.channel(40)
    gain, error = weak_decoy_bounds(channel, 0.48, 0.12)
    assert 1 - gain / (0.48 * math.exp(-0.48) * channel.photon_yield(1)) == pytest.approx(0.035, abs=0.0005)
    assert error / channel.photon_error(1) - 1 == pytest.approx(0.168, abs=0.0005)


def test_without_decoys_the_reach_is_a_fraction() -> None:
    def rate(km: float) -> float:
        return max(bare_rate(GYS.channel(km), signal / 1000, GYS.efficiency) for signal in range(1, 100))

    assert reach_km(rate) < 142.05 / 3
    assert rate(20) < decoy_rate(GYS.channel(20), 0.48, GYS.efficiency) / 10
    assert bare_rate(GYS.channel(100), 0.48, GYS.efficiency) == 0


# the model of the channel


def test_gain_and_error_are_sums_over_photon_numbers() -> None:
    for channel in (Channel(0.045, 1.7e-6, 0.033), Channel(0.7, 1e-3, 0.01)):
        for mean in (0.05, 0.48, 2.0):
            yields = [poisson(mean, number) * channel.photon_yield(number) for number in range(60)]
            errors = [one * channel.photon_error(number) for number, one in enumerate(yields)]
            assert channel.gain(mean) == pytest.approx(math.fsum(yields), rel=1e-12)
            assert channel.error(mean) * channel.gain(mean) == pytest.approx(math.fsum(errors), rel=1e-12)


def test_without_light_half_of_the_clicks_are_wrong() -> None:
    dark = Channel(0.0, 1e-6, 0.01)
    assert dark.gain(0.5) == 1e-6
    assert dark.error(0.5) == pytest.approx(0.5)
    assert Channel(0.1, 1e-6, 0.01).photon_error(0) == pytest.approx(0.5)


def test_bounds_hold_for_each_decoy_and_approach_the_truth() -> None:
    for km in (0, 40, 100, 130):
        channel = GYS.channel(km)
        truth = (0.48 * math.exp(-0.48) * channel.photon_yield(1), channel.photon_error(1))
        previous = 0.0
        for weak in (0.3, 0.1, 0.03, 0.01):
            gain, error = weak_decoy_bounds(channel, 0.48, weak)
            assert previous < gain <= truth[0]
            assert error >= truth[1]
            previous = gain
        assert gain == pytest.approx(truth[0], rel=0.01)
    with pytest.raises(ProgramError):
        weak_decoy_rate(GYS.channel(10), 0.4, 0.4, 1.2)


def test_rates_fall_with_distance_and_end() -> None:
    for kind in (
        lambda km: decoy_rate(GYS.channel(km), 0.48, 1.22),
        lambda km: weak_decoy_rate(GYS.channel(km), 0.48, 0.05, 1.22),
        lambda km: bare_rate(GYS.channel(km), 0.01, 1.22),
    ):
        rates = [kind(float(km)) for km in range(0, 200, 5)]
        assert rates[0] > 0
        assert rates[-1] == 0
        assert all(near >= far for near, far in pairwise(rates))


def test_sifting_scales_a_rate() -> None:
    channel = GYS.channel(30)
    assert decoy_rate(channel, 0.48, 1.22, sifting=1.0) == pytest.approx(2 * decoy_rate(channel, 0.48, 1.22))


# dead time and afterpulses, by recursion over the gates


def renewal(rate: float, dead: int, gates: int) -> NDArray[np.float64]:
    """Probability of each gate to be live, the first one being so."""
    live = np.zeros(gates)
    live[0] = 1.0
    for gate in range(1, gates):
        live[gate] = live[gate - 1] * (1 - rate) + (live[gate - 1 - dead] * rate if gate > dead else 0.0)
    return live


@pytest.mark.parametrize(("rate", "dead"), [(0.01, 50), (0.3, 7), (0.002, 0)])
def test_the_share_of_live_gates_is_what_a_recursion_comes_to(rate: float, dead: int) -> None:
    live = renewal(rate, dead, 20_000)
    assert live[-5000:].mean() == pytest.approx(live_share(rate, dead), rel=1e-6)


@pytest.mark.parametrize(("rate", "dead", "decay"), [(0.01, 50, 100.0), (0.3, 7, 20.0), (0.002, 0, 5.0)])
def test_the_survival_of_an_afterpulse_is_a_sum_over_gates(rate: float, dead: int, decay: float) -> None:
    live = renewal(rate, dead, 5000)
    late = np.exp(-np.arange(5000) / decay) * -math.expm1(-1 / decay)
    assert survival(rate, dead, decay) == pytest.approx(float((live * late).sum()), rel=1e-9)


# attacks


def test_intercepting_all_gives_a_quarter() -> None:
    assert intercepted_error(0.0, 1.0) == 0.25
    assert intercepted_error(0.0, 0.3) == pytest.approx(0.075)
    assert intercepted_error(0.5, 0.7) == pytest.approx(0.5), "noise stays noise"
    assert intercepted_error(0.02, 0.0) == 0.02


def test_splitting_gives_as_many_clicks_as_the_channel_would() -> None:
    for mean in (0.1, 0.5):
        share = splitting_transmission(mean)
        assert -math.expm1(-share * mean) == pytest.approx(multi_photon_probability(mean))
        assert multi_photon_probability(mean) == pytest.approx(math.fsum(poisson(mean, n) for n in range(2, 40)))
    assert splitting_transmission(0.1) == pytest.approx(0.05, rel=0.1), "about μ/2"


# the whole link


def run(
    optics: Optics, frames: int, pulses: int, angle_rad: float = 0.0
) -> tuple[NDArray[np.int64], NDArray[np.int64], int]:
    """Clicks and errors of matching bases, shape (basis, intensity), and all clicks."""
    randomness = Randomness.from_seed(11)
    line = Line(optics, randomness.child("line"))
    station = Station(optics.receiver, optics.source, randomness.child("station"))
    clicks = np.zeros((2, len(optics.source.intensities)), np.int64)
    errors = np.zeros_like(clicks)
    station.detect(line.frame(0, pulses, Request(thinning=station.thinning)))  # it calibrates with the first light
    line.fibre.extra_angle_rad = angle_rad
    total = 0
    for frame in range(1, frames + 1):
        found = station.detect(line.frame(frame * pulses, pulses, Request(thinning=station.thinning)))
        total += len(found.gaps)
        count(line, found, clicks, errors)
    return clicks, errors, total


def count(line: Line, found: Detections, clicks: NDArray[np.int64], errors: NDArray[np.int64]) -> None:
    prepared = line.recall(found.first, found.pulses, found.gaps.tobytes())
    with prepared.bits.expose() as view:
        columns = [
            np.unpackbits(np.frombuffer(plane, np.uint8), count=len(found.gaps), bitorder="little").astype(np.int64)
            for plane in (bytes(view), prepared.bases, *prepared.intensities)
        ]
    bits, bases, low, high = columns
    matching = bases == found.bases
    kind = (bases * 4 + low + 2 * high)[matching]
    wrong = (bits != found.bits)[matching]
    clicks += np.bincount(kind, minlength=8).reshape(2, 4)[:, : clicks.shape[1]]
    errors += np.bincount(kind[wrong], minlength=8).reshape(2, 4)[:, : clicks.shape[1]]


UNEQUAL = Receiver(
    detectors=(
        Detector(afterpulse_probability=0.1, dark_hz=5e4),
        Detector(efficiency=0.15, afterpulse_probability=0.05, gate_offset_ps=60.0, jitter_ps=120.0),
    ),
    visibility=0.95,
)
LOSSLESS = (Detector(efficiency=0.9), Detector(efficiency=0.7))
THREE = Source(
    intensities=(0.5, 0.1, 0.0),
    intensity_probabilities=(0.5, 0.25, 0.25),
    key_basis_probability=0.6,
    repetition_hz=5e8,
    intensity_spread=0.2,
)
BRIGHT = Optics(
    Source(intensities=(3.0, 0.5), intensity_probabilities=(0.5, 0.5), key_basis_probability=0.5),
    replace(STILL, length_km=0.0),
    replace(UNEQUAL, dead_time_ns=5.0, detectors=tuple(replace(one, afterpulse_probability=0.0) for one in LOSSLESS)),
)
"""Both detectors often click at once."""
SHORT = Optics(fibre=replace(STILL, length_km=20.0))
NOISY = replace(STILL, classical_channels=1, classical_dbm=-3.0)


@pytest.mark.parametrize(
    ("optics", "pulses", "angle_rad"),
    [
        (Optics(fibre=STILL), 100_000_000, 0.0),
        (Optics(fibre=STILL).with_length(2.0), 8_000_000, 0.0),
        (Optics(fibre=STILL).with_length(140.0), 4_000_000_000, 0.0),
        (Optics(fibre=STILL, receiver=Receiver(calibrate_above_rad=0.5)), 50_000_000, 0.1),
        (Optics(fibre=NOISY), 50_000_000, 0.0),
        (Optics(THREE, STILL, UNEQUAL), 50_000_000, 0.0),
        (replace(SHORT, receiver=replace(UNEQUAL, dead_time_ns=300.0)), 30_000_000, 0.0),
        (BRIGHT, 500_000, 0.0),
    ],
    ids=["50 km", "2 km", "140 km", "misaligned", "Raman", "unequal", "long dead time", "bright"],
)
def test_a_simulated_link_does_what_the_closed_form_says(optics: Optics, pulses: int, angle_rad: float) -> None:
    frames = 8
    clicks, errors, total = run(optics, frames, pulses, angle_rad)
    expected = expected_counts(optics, frames * pulses, angle_rad)
    for found, mean in (
        (clicks[0], expected.key_clicks),
        (errors[0], expected.key_errors),
        (clicks[1], expected.test_clicks),
        (errors[1], expected.test_errors),
    ):
        for one, likely in zip(found, mean, strict=True):
            assert abs(one - likely) < 5 * math.sqrt(likely) + 0.001 * likely, (found, mean)
    assert clicks.sum() > 200_000, "an error of one in a hundred would be seen"
    assert total < 1.001 * frames * pulses * Receiving(optics, angle_rad).click_probability


def test_unlike_bases_split_the_light() -> None:
    """Where one detector hardly sees anything, a click depends on where the light goes."""
    detectors = tuple(
        Detector(efficiency=one, dark_hz=0.0, afterpulse_probability=0.0, jitter_ps=0.0) for one in (0.9, 0.05)
    )
    receiver = Receiver(detectors=(detectors[0], detectors[1]), loss_db=0.0, visibility=1.0, dead_time_ns=0.0)
    source = Source(intensities=(4.0,), intensity_probabilities=(1.0,), key_basis_probability=0.7)
    link = Optics(source, replace(STILL, length_km=0.0, connectors=0), receiver)
    like, unlike = (math.exp(-3.6) + math.exp(-0.2)) / 2, math.exp(-1.9)
    assert Receiving(link).click_probability == pytest.approx(1 - 0.58 * like - 0.42 * unlike, rel=1e-9)
