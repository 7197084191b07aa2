"""The fibre as time passes: drifts, Raman noise, faults. Seeds are fixed; bounds are five standard deviations."""

import math
from dataclasses import replace

import numpy as np
import pytest

from qhybridd.errors import ProgramError
from qhybridd.optics.fibre import FibreState, open_gate_s, raman_photons, raman_w
from qhybridd.optics.parameters import Fibre
from qhybridd.optics.randomness import Randomness

STILL = Fibre(drift_rad_per_sqrt_s=0.0, delay_drift_ps_per_sqrt_s=0.0)
BUSY = replace(STILL, classical_channels=2, classical_dbm=-10.0)


def state(fibre: Fibre = STILL, seed: int = 1) -> FibreState:
    return FibreState(fibre, 1e9, 500.0, Randomness.from_seed(seed))


def walk(fibre: Fibre, step_s: float, steps: int, seed: int = 1) -> tuple[np.ndarray, np.ndarray]:
    one = state(fibre, seed)
    lights = [one.step(step_s).light for _ in range(steps)]
    return np.array([light.angle_rad for light in lights]), np.array([light.delay_ps for light in lights])


def test_a_still_fibre_loses_what_its_data_sheet_says() -> None:
    conditions = state().step(1.0)
    assert conditions.transmission == pytest.approx(10 ** -((50 * 0.2 + 2 * 0.25 + 12 * 0.02) / 10), rel=1e-12)
    assert conditions.noise_photons == 0
    assert (conditions.light.angle_rad, conditions.light.delay_ps, conditions.light.background_w) == (0, 0, 0)


@pytest.mark.parametrize("step_s", [0.1, 4.0])
def test_angle_and_delay_walk_at_random(step_s: float) -> None:
    """Increments are normal, independent of each other, and as large as the time asks for, however it is cut up."""
    steps = 6000
    angle, delay = walk(Fibre(drift_rad_per_sqrt_s=2e-3, delay_drift_ps_per_sqrt_s=0.5), step_s, steps)
    for path, drift in ((angle, 2e-3), (delay, 0.5)):
        moves = np.diff(path, prepend=0.0) / (drift * math.sqrt(step_s))
        assert abs(moves.mean()) < 5 / math.sqrt(steps)
        assert abs(moves.var() - 1) < 5 * math.sqrt(2 / steps)
        assert abs((moves**4).mean() - 3) < 5 * math.sqrt(96 / steps), "normal"
        assert abs((moves[1:] * moves[:-1]).mean()) < 5 / math.sqrt(steps)
    both = (np.diff(angle) / 2e-3 * np.diff(delay) / 0.5).mean() / step_s
    assert abs(both) < 5 / math.sqrt(steps)


def test_many_fibres_drift_as_far_as_one_expects() -> None:
    ends = np.array([walk(Fibre(drift_rad_per_sqrt_s=1e-3), 2.5, 4, seed)[0][-1] for seed in range(500)])
    assert abs(ends.var() / (1e-6 * 10) - 1) < 5 * math.sqrt(2 / 500)


def test_time_that_does_not_pass_changes_nothing() -> None:
    one = state(Fibre())
    before = one.step(5.0)
    assert one.step(0.0) == before


def test_raman_noise_of_a_worked_example() -> None:
    """One channel of 0 dBm beside 50 km with 10.74 dB of loss."""
    fibre = Fibre(classical_channels=1)
    assert raman_w(fibre) == pytest.approx(1e-3 * 2e-9 * 0.1 * 50 * 10**-1.074, rel=1e-12)
    per_second = raman_w(fibre) / (6.62607015e-34 * 299792458 / 1550e-9)
    assert per_second == pytest.approx(6.58e6, rel=1e-3)
    assert raman_photons(fibre, 5e-10) == pytest.approx(per_second * 5e-10, rel=1e-12)


def test_raman_noise_has_its_maximum_where_loss_takes_over() -> None:
    """P ∝ L e^(-αL): largest at 1/α, which is 21.7 km for 0.2 dB/km."""
    fibre = Fibre(classical_channels=1, connectors=0, splice_db=0.0)
    lengths = np.arange(1.0, 100.0, 0.1)
    noise = [raman_w(replace(fibre, length_km=float(length))) for length in lengths]
    assert lengths[int(np.argmax(noise))] == pytest.approx(10 / (0.2 * math.log(10)), abs=0.1)
    assert raman_w(replace(fibre, length_km=0.0)) == 0


def test_noise_goes_with_the_power_beside_it() -> None:
    one = raman_w(BUSY)
    assert raman_w(replace(BUSY, classical_channels=4)) == pytest.approx(2 * one)
    assert raman_w(replace(BUSY, classical_dbm=0.0)) == pytest.approx(10 * one)
    assert raman_w(replace(BUSY, filter_nm=0.2)) == pytest.approx(2 * one)
    assert raman_w(replace(BUSY, classical_channels=0)) == 0


def test_a_gate_is_open_as_long_as_its_area() -> None:
    sigma = 500 / 2.354820045
    times = np.linspace(-2000, 2000, 400_001)
    area = float(np.exp(-(times**2) / (2 * sigma**2)).sum() * (times[1] - times[0]))
    assert open_gate_s(500.0, 1e9) == pytest.approx(area * 1e-12, rel=1e-6)
    assert open_gate_s(5000.0, 1e9) == 1e-9, "never longer than a period"


def test_a_cut_is_dark_and_mends() -> None:
    one = state(BUSY)
    before = one.step(1.0)
    assert before.noise_photons > 0
    one.cut = True
    during = one.step(1.0)
    assert (during.transmission, during.noise_photons) == (0, 0)
    one.cut = False
    assert one.step(1.0) == before


def test_extra_loss_dims_light_and_noise() -> None:
    one = state(BUSY)
    before = one.step(1.0)
    one.extra_loss_db = 3.0
    after = one.step(1.0)
    assert after.transmission == pytest.approx(before.transmission * 10**-0.3)
    assert after.noise_photons == pytest.approx(before.noise_photons * 10**-0.3)
    one.extra_loss_db = -100.0
    assert one.step(1.0).transmission <= 1, "no fibre amplifies single photons"


def test_a_slow_degradation_grows_with_time() -> None:
    one = state()
    healthy = one.step(0.0).transmission
    one.loss_db_per_hour = 2.0
    for _ in range(10):
        worse = one.step(180.0).transmission
    assert worse == pytest.approx(healthy * 10**-0.1)
    assert one.extra_loss_db == 0, "what somebody else sets is not written to"
    one.loss_db_per_hour = 0.0
    assert one.step(1.0).transmission == pytest.approx(healthy), "mended"


def test_misalignment_is_added() -> None:
    one = state()
    one.extra_angle_rad = 0.3
    light = one.step(1.0).light
    assert (light.angle_rad, light.delay_ps) == (0.3, 0.0)


def test_a_disturbance_decays() -> None:
    one = state()
    one.disturb(0.5, 2.0)
    one.disturb(-0.1, 8.0)
    assert one.step(0.0).light.angle_rad == pytest.approx(0.4)
    assert one.step(2.0).light.angle_rad == pytest.approx(0.5 / math.e - 0.1 * math.exp(-0.25))
    assert one.step(1.0).light.angle_rad == pytest.approx(0.5 * math.exp(-1.5) - 0.1 * math.exp(-3 / 8))
    one.step(400.0)
    assert one.step(1.0).light.angle_rad == 0
    assert not one._disturbances, "nothing is kept of what is over"


def test_impossible_steps_are_refused() -> None:
    one = state()
    for seconds in (-1.0, math.inf, math.nan):
        with pytest.raises(ProgramError):
            one.step(seconds)
    for strength, seconds in ((math.nan, 1.0), (0.1, 0.0), (0.1, math.inf)):
        with pytest.raises(ProgramError):
            one.disturb(strength, seconds)
