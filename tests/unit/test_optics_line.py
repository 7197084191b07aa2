"""The line: source and fibre together, and who may stand between them."""

from dataclasses import dataclass, field, replace

import numpy as np
import pytest

from qhybridd.optics.line import Line
from qhybridd.optics.parameters import Fibre, Optics, Source
from qhybridd.optics.randomness import Randomness
from qhybridd.optics.records import Arrivals, Light, Request

STILL = Optics(fibre=Fibre(drift_rad_per_sqrt_s=0.0, delay_drift_ps_per_sqrt_s=0.0))
PULSES = 10_000_000


@dataclass
class Recorder:
    """Notes what it sees, and sends everything on an instant late."""

    wish: Request | None = None
    asked: list[Request] = field(default_factory=list)
    acted: list[Request] = field(default_factory=list)
    seen: list[Arrivals] = field(default_factory=list)

    def request(self, below: Request) -> Request:
        self.asked.append(below)
        return self.wish or below

    def act(self, arrivals: Arrivals, below: Request) -> Arrivals:
        self.acted.append(below)
        self.seen.append(arrivals)
        return replace(arrivals, light=replace(arrivals.light, delay_ps=arrivals.light.delay_ps + 1000.0))


def expected(optics: Optics, share: float) -> float:
    """Mean number of arrivals where so many of the photons pass."""
    source = optics.source
    return PULSES * sum(
        probability * -np.expm1(-mean * share)
        for mean, probability in zip(source.intensities, source.intensity_probabilities, strict=True)
    )


def test_light_at_the_end_has_gone_through_the_fibre_and_is_thinned() -> None:
    line = Line(STILL, Randomness.from_seed(1))
    for thinning in (1.0, 0.1):
        arrivals = line.frame(0, PULSES, Request(thinning=thinning))
        mean = expected(STILL, STILL.fibre.transmission * thinning)
        assert abs(arrivals.count - mean) < 5 * mean**0.5
        assert (arrivals.first, arrivals.pulses, arrivals.light) == (0, PULSES, Light())


def test_before_the_fibre_there_is_neither_loss_nor_noise_nor_turning() -> None:
    noisy = replace(STILL.fibre, classical_channels=40)
    optics = replace(STILL, fibre=noisy)
    line = Line(optics, Randomness.from_seed(2))
    line.fibre.extra_angle_rad = 0.5
    assert (line.frame(0, PULSES, Request(thinning=0.01)).states == 4).any()
    arrivals = line.frame(PULSES, PULSES, Request(fibre=False, thinning=0.01))
    mean = expected(optics, 0.01)
    assert abs(arrivals.count - mean) < 5 * mean**0.5
    assert arrivals.light == Light()
    assert not (arrivals.states == 4).any()
    line.fibre.cut = True
    assert line.frame(2 * PULSES, PULSES, Request(fibre=False, thinning=0.01)).count > 0
    assert line.frame(3 * PULSES, PULSES, Request()).count == 0


def test_pulses_with_too_few_photons_are_left_out() -> None:
    line = Line(STILL, Randomness.from_seed(3))
    arrivals = line.frame(0, PULSES, Request(fibre=False, photons_least=3))
    assert arrivals.count > 0
    assert arrivals.photons.min() == 3


def test_noise_is_thinned_as_light_is() -> None:
    optics = Optics(
        Source(intensities=(1e-9,), intensity_probabilities=(1.0,)), replace(STILL.fibre, classical_channels=5)
    )
    line = Line(optics, Randomness.from_seed(4))
    full = line.fibre.step(0.0).noise_photons
    for thinning in (1.0, 0.25):
        arrivals = line.frame(0, PULSES, Request(thinning=thinning))
        mean = PULSES * full * thinning
        assert abs(arrivals.photons.sum() - mean) < 5 * mean**0.5


def test_an_attack_stands_between() -> None:
    line = Line(STILL, Randomness.from_seed(5))
    below = Request(thinning=0.1)
    eve = Recorder(wish=Request(fibre=False, thinning=0.5, photons_least=2))
    line.attack = eve
    arrivals = line.frame(0, PULSES, below)
    assert eve.asked == eve.acted == [below]
    assert eve.seen[0].light == Light()
    assert eve.seen[0].photons.min() == 2
    assert arrivals.light.delay_ps == 1000.0
    line.attack = None
    assert line.frame(PULSES, PULSES, below).light.delay_ps == 0
    assert len(eve.seen) == 1


def test_the_fibre_ages_by_the_time_of_the_frames() -> None:
    line = Line(STILL, Randomness.from_seed(6))
    line.fibre.loss_db_per_hour = 3600.0
    for frame in range(5):
        line.frame(frame * PULSES, PULSES, Request())
    lost_db = 5 * PULSES / STILL.source.repetition_hz
    assert line.fibre.step(0.0).transmission == pytest.approx(STILL.fibre.transmission * 10 ** (-lost_db / 10))


def test_alice_recalls_what_came_through() -> None:
    line = Line(STILL, Randomness.from_seed(7))
    arrivals = line.frame(50, PULSES, Request())
    prepared = line.recall(50, PULSES, arrivals.gaps.tobytes())
    with prepared.bits.expose() as view:
        bits = np.unpackbits(np.frombuffer(view, np.uint8), count=arrivals.count, bitorder="little")
        assert (bits == arrivals.states & 1).all()
        del bits


def test_the_same_seed_gives_the_same_run() -> None:
    runs = []
    for seed in (8, 8, 9):
        line = Line(Optics(), Randomness.from_seed(seed))
        frames = [line.frame(k * PULSES, PULSES, Request()) for k in range(3)]
        runs.append([(one.gaps.tobytes(), one.states.tobytes(), one.light) for one in frames])
    assert runs[0] == runs[1]
    assert runs[0] != runs[2]
