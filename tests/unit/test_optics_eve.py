"""What each attack does to a frame of light, without a receiver."""

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qhybridd.errors import OperatorError
from qhybridd.optics.eve import ATTACKS, Tally, make_attack
from qhybridd.optics.eve.splitting import plan
from qhybridd.optics.line import Line
from qhybridd.optics.parameters import Detector, Optics, Receiver, Source
from qhybridd.optics.randomness import Randomness
from qhybridd.optics.records import Arrivals, Light, Request, State

PULSES = 1 << 26
OPTICS = Optics()
BELOW = Request(thinning=OPTICS.receiver.thinning)
SEED = Randomness.from_seed(7)
SIGMAS = 5


@st.composite
def frames(draw: st.DrawFn) -> Arrivals:
    count = draw(st.integers(0, 60))
    generator = np.random.default_rng(draw(st.integers(0, 1 << 32)))
    gaps = generator.integers(1, 1000, count).astype(np.uint32)
    if count and draw(st.booleans()):
        gaps[0] = 0
    late = generator.integers(-32768, 32768, count).astype(np.int16) if draw(st.booleans()) else None
    return Arrivals(
        draw(st.integers(0, 1 << 50)),
        100_000,
        gaps,
        generator.integers(0, 8, count).astype(np.uint8),
        generator.integers(1, 6, count).astype(np.uint32),
        late,
        Light(draw(st.floats(-3, 3)), draw(st.floats(-1e3, 1e3)), 0.0),
    )


@pytest.mark.parametrize("name", ATTACKS)
@settings(max_examples=40, deadline=None)
@given(frame=frames(), fraction=st.sampled_from([0.0, 0.3, 1.0]))
def test_what_goes_on_is_a_frame_and_what_came_is_left_alone(name: str, frame: Arrivals, fraction: float) -> None:
    attack = make_attack(name, OPTICS, fraction, SEED)
    before = [np.array(part) for part in (frame.gaps, frame.states, frame.photons)]
    after = attack.act(frame, BELOW)
    assert all(map(np.array_equal, (frame.gaps, frame.states, frame.photons), before))
    assert (after.first, after.pulses) == (frame.first, frame.pulses)
    assert [part.dtype for part in (after.gaps, after.states, after.photons)] == [np.uint32, np.uint8, np.uint32]
    assert len(after.gaps) == len(after.states) == len(after.photons)
    assert after.delays_ps is None or (len(after.delays_ps), after.delays_ps.dtype) == (after.count, np.int16)
    assert np.all(after.photons > 0)
    assert np.all(after.gaps[1:] > 0)
    assert np.all(np.isin(after.places(), frame.places()))  # her pulses come when Alice's do
    told = attack.tally
    assert (told.pulses, told.passed) == (frame.pulses, after.count)
    assert told.passed + told.stopped == frame.count or name == "blinding"
    assert 0 <= told.bits <= told.touched <= told.passed


@pytest.mark.parametrize("name", ATTACKS)
@pytest.mark.parametrize("fibre", [True, False])
def test_an_attack_on_no_pulse_asks_for_what_the_fibre_would_have_brought(name: str, fibre: bool) -> None:
    below = replace(BELOW, fibre=fibre)
    asked = make_attack(name, OPTICS, 0.0, SEED).request(below)
    share = asked.thinning * (OPTICS.fibre.transmission if asked.fibre else 1)
    wanted = below.thinning * (OPTICS.fibre.transmission if fibre else 1)
    assert share == pytest.approx(wanted) or name == "blinding"
    assert asked.photons_least == 1


@pytest.mark.parametrize("name", [name for name in ATTACKS if name != "blinding"])
def test_an_attack_on_no_pulse_hands_on_what_came(name: str) -> None:
    attack = make_attack(name, OPTICS, 0.0, SEED)
    frame = Line(OPTICS.with_length(1.0), SEED).frame(0, 1 << 20, BELOW)
    after = attack.act(frame, BELOW)
    assert frame.photons.max() > 1
    assert np.array_equal(after.gaps, frame.gaps)
    assert np.array_equal(after.states, frame.states)
    assert np.array_equal(after.photons, frame.photons)
    assert after.delays_ps is None or not after.delays_ps.any()
    assert attack.tally == Tally(pulses=1 << 20, passed=frame.count)


def test_an_unknown_attack_names_the_nearest_and_a_share_is_from_0_to_1() -> None:
    with pytest.raises(OperatorError) as caught:
        make_attack("photon-splitting", OPTICS, 1.0, SEED)
    assert caught.value.code == "config.value"
    assert caught.value.hint == "Did you mean photon-number-splitting?"
    with pytest.raises(OperatorError) as caught:
        make_attack("x", OPTICS, 1.0, SEED)
    assert "intercept-resend" in caught.value.hint
    for fraction in (-0.1, 1.1, math.nan):
        with pytest.raises(OperatorError):
            make_attack("tap", OPTICS, fraction, SEED)


def test_tallies_add_up() -> None:
    assert Tally(1, 2, 3, 4, 5, 0.5) + Tally(10, 20, 30, 40, 50, 0.25) == Tally(11, 22, 33, 44, 55, 0.75)


# ---- intercept and resend


def test_half_of_what_she_measures_is_what_alice_prepared() -> None:
    frame = Line(OPTICS, SEED).frame(0, PULSES, BELOW)
    attack = make_attack("intercept-resend", OPTICS, 0.6, SEED)
    after = attack.act(frame, BELOW)
    assert np.array_equal(after.photons, frame.photons)
    told, n = attack.tally, frame.count
    assert abs(told.touched - 0.6 * n) < SIGMAS * math.sqrt(0.24 * n)
    assert abs(told.bits - told.touched / 2) < SIGMAS * math.sqrt(told.touched / 4)
    turned = ((after.states ^ frame.states) & State.TEST_BASIS) != 0
    assert np.count_nonzero(turned) == told.touched - told.bits
    assert np.array_equal(after.states[~turned], frame.states[~turned])
    wrong = np.count_nonzero((after.states ^ frame.states)[turned] & State.BIT)
    assert abs(wrong - turned.sum() / 2) < SIGMAS * math.sqrt(turned.sum() / 4)


def test_noise_that_is_measured_is_sent_on_in_a_state_and_is_no_bit_of_alice() -> None:
    frame = Arrivals(
        0, 4000, np.ones(4000, np.uint32), np.full(4000, 4, np.uint8), np.ones(4000, np.uint32), None, Light()
    )
    attack = make_attack("intercept-resend", OPTICS, 1.0, SEED)
    after = attack.act(frame, BELOW)
    assert attack.tally.bits == 0
    counts = np.bincount(after.states, minlength=8)
    assert counts[4:].sum() == 0
    assert np.all(abs(counts[:4] - 1000) < SIGMAS * math.sqrt(750))


# ---- photon-number splitting


@pytest.mark.parametrize("length_km", [0.0, 10.0, 25.0, 50.0, 120.0])
@pytest.mark.parametrize("fraction", [0.0, 0.01, 0.5, 1.0])
def test_split_light_is_planned_to_click_as_often_as_the_fibres(length_km: float, fraction: float) -> None:
    optics = OPTICS.with_length(length_km)
    planned = plan(optics, fraction, BELOW)
    assert 0 <= planned.single_share <= 1
    assert 0 <= planned.split_share <= 1
    assert planned.thinning <= math.sqrt(BELOW.thinning) * (1 + 1e-12)
    clicks, split, honest = 0.0, 0.0, 0.0
    for mu, share in zip(optics.source.intensities, optics.source.intensity_probabilities, strict=True):
        mean = mu * planned.thinning
        several = 1 - math.exp(-mean) * (1 + mean)
        clicks += share * (several + mean * math.exp(-mean) * planned.single_share)
        split += share * several * planned.split_share
        honest += share * (1 - math.exp(-mu * BELOW.thinning * optics.fibre.transmission))
    assert clicks == pytest.approx(honest, rel=1e-6)
    if length_km >= 50:
        assert split == pytest.approx(fraction * honest, rel=1e-6, abs=1e-15)


@pytest.mark.parametrize(("length_km", "fraction"), [(50.0, 1.0), (50.0, 0.4), (30.0, 1.0)])
def test_as_many_pulses_come_to_bob_as_without_her(length_km: float, fraction: float) -> None:
    optics = OPTICS.with_length(length_km)
    line = Line(optics, SEED)
    honest = line.frame(0, PULSES // 4, BELOW).count
    line.attack = attack = make_attack("photon-number-splitting", optics, fraction, SEED)
    after = line.frame(PULSES // 4, PULSES // 4, BELOW)
    assert abs(after.count - honest) < SIGMAS * math.sqrt(after.count + honest)
    told = attack.tally
    if length_km == 50:
        assert abs(told.touched - fraction * told.passed) <= SIGMAS * math.sqrt(told.passed / 4)
    assert told.bits == told.photons_kept == told.touched
    assert attack.request(BELOW).photons_least == (2 if length_km == 50 and fraction == 1 else 1)
    assert (told.stopped > 0) == (attack.request(BELOW).photons_least == 1)


# ---- beam splitting


@pytest.mark.parametrize(
    ("optics", "thinning", "pulses"),
    [(OPTICS, BELOW.thinning, PULSES), (Optics(Source((3.0, 0.5), (0.5, 0.5))).with_length(5.0), 0.8, 1 << 18)],
)
def test_what_the_fibre_would_have_lost_is_hers(optics: Optics, thinning: float, pulses: int) -> None:
    line = Line(optics, SEED)
    line.attack = attack = make_attack("beam-splitting", optics, 1.0, SEED)
    line.frame(0, pulses, Request(thinning=thinning))
    told, lost = attack.tally, 1 - optics.fibre.transmission
    through = thinning * optics.fibre.transmission
    chosen = list(zip(optics.source.intensities, optics.source.intensity_probabilities, strict=True))
    lit = [share * -math.expm1(-mu * through) for mu, share in chosen]
    known = sum(p * -math.expm1(-mu * lost) for p, (mu, _) in zip(lit, chosen, strict=True)) / sum(lit)
    kept = sum(p * mu * lost for p, (mu, _) in zip(lit, chosen, strict=True)) / sum(lit)
    n = told.passed
    assert abs(told.bits - known * n) < SIGMAS * math.sqrt(known * (1 - known) * n)
    assert abs(told.photons_kept - kept * n) < SIGMAS * math.sqrt(kept * (1 + max(optics.source.intensities)) * n)


# ---- time-shift


RECEIVERS = (
    Receiver(),
    Receiver(detectors=(Detector(gate_offset_ps=-120.0), Detector(gate_offset_ps=100.0, gate_ps=400.0))),
    Receiver(detectors=(Detector(), Detector())),
)


@pytest.mark.parametrize("receiver", RECEIVERS)
@pytest.mark.parametrize("fraction", [1.0, 0.4])
def test_shifted_pulses_are_as_many_more_as_the_gates_lose(receiver: Receiver, fraction: float) -> None:
    optics = replace(OPTICS, receiver=receiver)
    below = Request(thinning=receiver.thinning)
    attack = make_attack("time-shift", optics, fraction, SEED)
    line = Line(optics, SEED)
    line.attack = attack
    after = line.frame(0, PULSES // 4, below)
    assert after.delays_ps is not None
    middle = sum(detector.gate_offset_ps for detector in receiver.detectors) / 2
    seen = []
    for detector in receiver.detectors:
        square = (detector.gate_ps / 2.3548) ** 2 + detector.jitter_ps**2
        curve = np.exp(-((after.delays_ps + middle - detector.gate_offset_ps) ** 2) / (2 * square))
        seen.append(float(curve.sum()) / math.exp(-((middle - detector.gate_offset_ps) ** 2) / (2 * square)))
    honest = (
        PULSES
        // 4
        * sum(
            share * -math.expm1(-mu * below.thinning * optics.fibre.transmission)
            for mu, share in zip(optics.source.intensities, optics.source.intensity_probabilities, strict=True)
        )
    )
    assert sum(seen) / 2 == pytest.approx(honest, abs=SIGMAS * math.sqrt(honest), rel=0.01)
    assert seen[0] / seen[1] == pytest.approx(1.0, abs=0.02)
    told = attack.tally.bits / attack.tally.passed
    assert told == pytest.approx(0.0, abs=1e-9) if receiver.detectors[0] == receiver.detectors[1] else told > 0.001


# ---- blinding


def test_bright_pulses_pass_the_threshold_whole_and_not_in_half() -> None:
    attack = make_attack("blinding", OPTICS, 0.5, SEED)
    line = Line(OPTICS, SEED)
    line.attack = attack
    blinded = 0
    for k in range(20):
        after = line.frame(k << 18, 1 << 18, BELOW)
        bright = after.light.background_w > 0
        blinded += bright
        if bright:
            threshold = OPTICS.receiver.detectors[0].linear_photons * BELOW.thinning
            assert np.all((threshold * 1.2 < after.photons) & (after.photons < threshold * 1.8))
        else:
            assert after.photons.max() < 10
    assert 4 <= blinded <= 16


def test_photons_of_a_source_with_more_intensities_are_taken_for_what_they_probably_are() -> None:
    source = Source((0.6, 0.2, 0.0), (0.5, 0.3, 0.2))
    optics = replace(OPTICS, source=source).with_length(5.0)
    line = Line(optics, SEED)
    line.attack = attack = make_attack("beam-splitting", optics, 1.0, SEED)
    line.frame(0, PULSES // 16, BELOW)
    assert 0 < attack.tally.bits < attack.tally.passed
    assert attack.tally.photons_kept > attack.tally.bits
