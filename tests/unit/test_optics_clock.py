"""The clock and the angle of the receiver: followed, lost and found again, calibrated; as parts, and in the station."""

import math
from dataclasses import replace

import numpy as np
import pytest

from qhybridd.optics.alignment import Alignment
from qhybridd.optics.clock import ReceiverClock
from qhybridd.optics.parameters import Receiver, Source
from qhybridd.optics.randomness import Randomness
from qhybridd.optics.receiver import Station, judge
from qhybridd.optics.records import Arrivals, Detections, Light

PLAIN = Light()
PULSES = 200_000
"""Of a frame, 0.2 ms of the link."""
RECEIVER = replace(Receiver(), reacquire_s=1e-3, calibration_s=1e-3, reference_photons=1e8, calibrate_above_rad=0.12)
FRAME_S = PULSES / Source().repetition_hz


def frame(number: int, light: Light = PLAIN, mean: float = 0.01) -> Arrivals:
    generator = np.random.default_rng(number)
    places = np.flatnonzero(generator.random(PULSES) < mean)
    count = len(places)
    return Arrivals(
        number * PULSES,
        PULSES,
        np.diff(places, prepend=0).astype(np.uint32),
        generator.integers(0, 4, count).astype(np.uint8),
        np.ones(count, np.uint32),
        None,
        light,
    )


class Run:
    """A station, frame after frame."""

    def __init__(self, receiver: Receiver = RECEIVER) -> None:
        self.bob = Station(receiver, Source(), Randomness.from_seed(3))
        self.number = 0

    def step(self, light: Light = PLAIN, mean: float = 0.01) -> Detections:
        found = self.bob.detect(frame(self.number, light, mean))
        self.number += 1
        return found

    def steps(self, number: int, light: Light = PLAIN, mean: float = 0.01) -> list[Detections]:
        return [self.step(light, mean) for _ in range(number)]


def quiet() -> np.random.Generator:
    return np.random.default_rng(1)


def test_the_loop_settles_on_the_offset() -> None:
    clock = ReceiverClock(300.0, 1.0, quiet())
    clock.restart(0.0)
    for _ in range(40):
        assert clock.step(150.0, 0.1, True)
        clock.follow(clock.error_ps(150.0), 10_000)
    assert abs(clock.error_ps(150.0)) < 1e-6


def test_few_clicks_move_it_little() -> None:
    clock = ReceiverClock(300.0, 1.0, quiet())
    clock.restart(0.0)
    before = clock.error_ps(0.0)
    clock.follow(100.0, 2)
    assert before - 1 < clock.error_ps(0.0) < before
    clock.follow(100.0, 1_000_000)
    assert before - 51 < clock.error_ps(0.0) < before - 49


def test_beyond_its_range_it_loses_the_light_and_searches() -> None:
    clock = ReceiverClock(300.0, 1.0, quiet())
    clock.restart(0.0)
    assert clock.step(250.0, 0.25, True)
    assert [clock.step(400.0, 0.25, True) for _ in range(6)] == [False] * 4 + [True] * 2
    assert abs(clock.error_ps(400.0)) < 50


def test_without_light_nothing_is_lost_and_nothing_found() -> None:
    clock = ReceiverClock(300.0, 1.0, quiet())
    clock.restart(0.0)
    assert clock.step(1e6, 10.0, False)
    assert not clock.step(1e6, 0.1, True)
    assert not clock.step(1e6, 10.0, False)
    assert not clock.step(1e6, 0.1, True)
    assert clock.step(1e6, 0.1, True)


def test_a_restart_ends_a_search() -> None:
    clock = ReceiverClock(300.0, 1e9, quiet())
    clock.restart(0.0)
    assert not clock.step(1e4, 1.0, True)
    clock.restart(1e4)
    assert clock.step(1e4, 1.0, True)


def test_the_angle_is_read_with_shot_noise() -> None:
    """1 / (2 √n) for n photons."""
    alignment = Alignment(replace(Receiver(), reference_photons=1e4, calibrate_above_rad=0.12), quiet())
    alignment.restart(0.0)
    read = np.array([alignment.step(0.05, 1.0)[0] for _ in range(4000)])
    expected = 0.5 / math.sqrt(1e4)
    assert float(np.std(read)) == pytest.approx(expected, rel=5 / math.sqrt(8000))
    truth = alignment.error_rad(0.05)
    assert float(np.mean(read)) == pytest.approx(truth, abs=5 * expected / math.sqrt(4000))


def test_a_calibration_takes_its_time_and_compensates() -> None:
    alignment = Alignment(replace(Receiver(), calibrate_above_rad=0.12), quiet())
    alignment.restart(1.0)
    assert alignment.step(1.1, 0.5) == (pytest.approx(0.1, abs=5e-3), False)
    spent = [alignment.step(1.2, 0.5) for _ in range(5)]
    assert [calibrating for _, calibrating in spent] == [True, True, True, True, False]
    assert abs(alignment.error_rad(1.2)) < 5e-3
    assert not alignment.calibrating


def test_half_a_turn_is_no_misalignment() -> None:
    alignment = Alignment(replace(Receiver(), calibrate_above_rad=0.12), quiet())
    alignment.restart(0.0)
    read, calibrating = alignment.step(math.pi + 0.05, 1.0)
    assert read == pytest.approx(0.05, abs=5e-3) and not calibrating
    read, calibrating = alignment.step(math.pi - 0.3, 1.0)
    assert read == pytest.approx(-0.3, abs=5e-3) and calibrating


def test_a_station_follows_a_slow_drift() -> None:
    """Two picoseconds a frame, far beyond the capture range in the end; a first-order loop lags by drift over gain."""
    run = Run()
    for number in range(400):
        found = run.step(Light(delay_ps=2.0 * number))
        assert found.health.synchronised
    assert len(found.gaps) > 0.8 * 0.01 * PULSES / (1 + 0.01 * 50)
    lag = np.mean([run.step(Light(delay_ps=2.0 * number)).health.timing_mean_ps for number in range(400, 500)])
    assert 3.0 < lag < 6.0


def test_a_jump_within_the_range_is_followed() -> None:
    run = Run()
    before = sum(len(found.gaps) for found in run.steps(20))
    run.bob.clock_offset_ps = 200.0
    first, *_, last = run.steps(30)
    assert first.health.synchronised and 150 < first.health.timing_mean_ps < 220
    assert len(first.gaps) < 0.85 * before / 20
    assert abs(last.health.timing_mean_ps) < 5


def test_a_jump_beyond_gives_no_key_and_a_fault_of_its_own() -> None:
    run = Run()
    run.steps(10)
    run.bob.clock_offset_ps = 1000.0
    found = run.steps(10)
    assert [one.health.synchronised for one in found] == [False] * 5 + [True] * 5
    assert [len(one.gaps) > 0 for one in found] == [False] * 5 + [True] * 5
    verdict = judge(RECEIVER, [one.health for one in found])
    assert verdict is not None and verdict[0] == "link.sync"
    assert judge(RECEIVER, [one.health for one in found[5:]]) is None


@pytest.mark.parametrize("gate_ps", [60.0, 100.0, 200.0, 500.0])
def test_no_jump_leaves_a_narrow_gate_in_the_dark(gate_ps: float) -> None:
    """Within the range that is captured on paper a narrow gate may see no light, and then nothing to follow."""
    first, second = (replace(detector, gate_ps=gate_ps) for detector in RECEIVER.detectors)
    for jump_ps in (50.0, 120.0, 200.0, 290.0, 400.0):
        run = Run(replace(RECEIVER, detectors=(first, second)))
        before = len(run.steps(3)[-1].gaps)
        run.bob.clock_offset_ps = jump_ps
        assert len(run.steps(15)[-1].gaps) > 0.85 * before, jump_ps


def test_a_cut_does_not_lead_the_clock_astray() -> None:
    run = Run()
    run.steps(20)
    dark = run.steps(300, mean=0.0)
    assert all(one.health.synchronised and one.health.timing_std_ps == 0 for one in dark)
    again = run.step()
    assert again.health.synchronised and abs(again.health.timing_mean_ps) < 5


def test_a_turned_fibre_is_calibrated_away() -> None:
    run = Run()
    run.steps(3)
    found = run.steps(9, Light(angle_rad=0.3))
    assert [one.health.calibrating for one in found] == [True] * 5 + [False] * 4
    assert [len(one.gaps) > 0 for one in found] == [False] * 5 + [True] * 4
    assert found[0].health.angle_rad == pytest.approx(0.3, abs=1e-3)
    assert found[-1].health.angle_rad == pytest.approx(0.0, abs=1e-3)
    assert judge(RECEIVER, [one.health for one in found]) is None


def test_a_small_angle_is_left() -> None:
    run = Run()
    run.steps(3)
    found = run.steps(3, Light(angle_rad=0.1))
    assert not any(one.health.calibrating for one in found)
    assert found[-1].health.angle_rad == pytest.approx(0.1, abs=1e-3)


def test_a_calibration_waits_for_light() -> None:
    run = Run()
    run.step()
    run.step(Light(angle_rad=0.3))
    assert all(one.health.calibrating for one in run.steps(20, Light(angle_rad=0.3), mean=0.0))
    found = run.steps(6, Light(angle_rad=0.3))
    assert [one.health.calibrating for one in found] == [True] * 4 + [False] * 2


def test_a_new_run_finds_light_and_angle_before_it_begins() -> None:
    run = Run()
    light = Light(angle_rad=0.7, delay_ps=5e4)
    assert all(one.health.synchronised and not one.health.calibrating for one in run.steps(3, light))
    run.number += 1
    light = Light(angle_rad=-0.7, delay_ps=-5e4)
    found = run.steps(3, light)
    assert all(one.health.synchronised and not one.health.calibrating and len(one.gaps) for one in found)
