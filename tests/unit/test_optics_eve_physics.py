"""Each attack between the real source and the real receiver: its mark on errors, gains, monitors, and who sees it."""

import math
from dataclasses import dataclass, replace
from functools import cache

import numpy as np
import pytest
from numpy.typing import NDArray

from qhybridd.bits import packed_bytes
from qhybridd.distill.estimate import Accepted, Refused
from qhybridd.distill.estimate import judge as judge_counts
from qhybridd.distill.plan import Expected, plan, reconciliation_bits
from qhybridd.distill.sift import Counts
from qhybridd.distill.terms import Bound, Protocol, Terms
from qhybridd.optics.eve import Attack, Tally, make_attack
from qhybridd.optics.line import Line
from qhybridd.optics.parameters import Detector, Fibre, Optics, Receiver
from qhybridd.optics.randomness import Randomness
from qhybridd.optics.receiver import Station, assemble, judge
from qhybridd.optics.records import Arrivals, Health, Request
from qhybridd.optics.theory import expected_counts

FRAME_PULSES = 1 << 26
FRAMES = 8
PULSES = FRAMES * FRAME_PULSES
SIGMAS = 5
STILL = Optics(fibre=Fibre(drift_rad_per_sqrt_s=0.0, delay_drift_ps_per_sqrt_s=0.0))
"""The default link, without the drifts that would blur what is to be measured."""
FLAWLESS = replace(
    STILL,
    receiver=replace(
        STILL.receiver,
        visibility=1.0,
        detectors=(Detector(dark_hz=0.0, afterpulse_probability=0.0),) * 2,
        reference_photons=1e12,
    ),
)
QBER_MOST = 0.06


@dataclass(frozen=True)
class Block:
    """A block as both ends and she know it."""

    counts: Counts
    healths: tuple[Health, ...]
    tally: Tally
    sifted: int
    hers: int
    """Of the sifted bits of the key basis: how many Bob has that are the states' that she sent, where she did."""

    @property
    def clicks(self) -> int:
        return sum(self.counts.key_clicks) + sum(self.counts.test_clicks)

    @property
    def errors(self) -> int:
        return sum(self.counts.key_errors) + sum(self.counts.test_errors)

    @property
    def qber(self) -> float:
        return self.errors / self.clicks


class Watched:
    """Her attack, with a note of what she sends on."""

    def __init__(self, attack: Attack) -> None:
        self.name, self._attack, self.sent = attack.name, attack, list[Arrivals]()

    def request(self, below: Request) -> Request:
        return self._attack.request(below)

    def act(self, arrivals: Arrivals, below: Request) -> Arrivals:
        self.sent.append(self._attack.act(arrivals, below))
        return self.sent[-1]

    @property
    def tally(self) -> Tally:
        return self._attack.tally


def unpacked(plane: bytes | memoryview, count: int) -> NDArray[np.uint8]:
    return np.unpackbits(np.frombuffer(plane, np.uint8), count=count, bitorder="little")


@cache
def block(name: str, fraction: float = 1.0, optics: Optics = STILL, frames: int = FRAMES) -> Block:
    """A block with an attack; with "" nobody is there."""
    randomness = Randomness.from_seed(11)
    line, station = Line(optics, randomness.child("line")), Station(optics.receiver, optics.source, randomness)
    attack = Watched(make_attack(name or "tap", optics, fraction, randomness.child("eve")))
    if name:
        line.attack = attack
    asked = Request(thinning=station.thinning)
    found = [station.detect(line.frame(k * FRAME_PULSES, FRAME_PULSES, asked)) for k in range(frames)]
    healths = tuple(frame.health for frame in found)
    clicks = assemble(found, frames * FRAME_PULSES)
    prepared = line.recall(0, frames * FRAME_PULSES, clicks.gaps)
    n = clicks.count
    bases, theirs = unpacked(clicks.bases, n), unpacked(prepared.bases, n)
    with clicks.bits.expose() as view, prepared.bits.expose() as other:
        bits, wrong = unpacked(view, n), unpacked(view, n) != unpacked(other, n)
    index = unpacked(prepared.intensities[0], n)
    assert packed_bytes(n) == len(clicks.bases)

    def count(basis: int, which: NDArray[np.bool_]) -> tuple[int, ...]:
        return tuple(int(np.count_nonzero((bases == basis) & (theirs == basis) & (index == i) & which)) for i in (0, 1))

    every = np.ones(n, np.bool_)
    counts = Counts(count(0, every), count(0, wrong), count(1, every), count(1, wrong))
    hers = 0
    if attack.sent:
        places = np.cumsum(np.frombuffer(clicks.gaps, np.uint32), dtype=np.uint64)
        sent = np.concatenate([frame.places() + np.uint64(frame.first) for frame in attack.sent])
        states = np.concatenate([frame.states for frame in attack.sent])
        at = np.minimum(np.searchsorted(sent, places), len(sent) - 1)
        same = (sent[at] == places) & (states[at] == bits | bases << 1)
        hers = int(np.count_nonzero(same & (bases == 0) & (theirs == 0)))
    return Block(counts, healths, attack.tally, sum(count(0, every)), hers)


@cache
def terms(bound: Bound = Bound.WIESEMANN_ONE, frames: int = FRAMES) -> Terms:
    """What a block of the honest link is held to, from closed forms alone."""
    pulses = frames * FRAME_PULSES
    source = STILL.source
    protocol = Protocol(
        source.intensities,
        source.intensity_probabilities,
        source.key_basis_probability,
        bound,
        1e-10,
        1e-12,
        QBER_MOST,
    )
    found = expected_counts(STILL, pulses)
    expected = Expected(found.key_clicks, found.key_errors, found.test_clicks, found.test_errors)
    return plan(protocol, pulses, expected, round(1.3 * reconciliation_bits(expected, 1.2)))


def verdict(found: Block, bound: Bound = Bound.WIESEMANN_ONE) -> Accepted | Refused:
    planned = terms(bound, len(found.healths))
    return judge_counts(planned, found.counts, planned.leakage_most)


def assert_as_many(one: int, other: int) -> None:
    """Two Poissonian counts of the same mean."""
    assert abs(one - other) < SIGMAS * math.sqrt(one + other)


def assert_share(part: int, whole: int, share: float) -> None:
    assert abs(part - share * whole) < SIGMAS * math.sqrt(max(share * (1 - share), 1 / whole) * whole)


# ---- nobody


def test_an_honest_block_is_accepted_and_pays_for_a_key() -> None:
    honest = block("")
    assert judge(STILL.receiver, honest.healths) is None
    accepted = verdict(honest)
    assert isinstance(accepted, Accepted)
    assert accepted.key_bits > 50_000
    expected = expected_counts(STILL, PULSES)
    for found, wanted in zip(honest.counts.key_clicks, expected.key_clicks, strict=True):
        assert abs(found - wanted) < SIGMAS * math.sqrt(wanted)


@pytest.mark.parametrize("name", ["tap", "intercept-resend", "beam-splitting"])
def test_nothing_is_seen_of_a_tap_and_of_attacks_on_no_pulse(name: str) -> None:
    assert block(name, 1.0 if name == "tap" else 0.0).counts == block("").counts


@pytest.mark.parametrize("name", ["photon-number-splitting", "time-shift", "blinding"])
def test_attacks_on_no_pulse_leave_the_statistics_alone(name: str) -> None:
    idle, honest = block(name, 0.0), block("")
    for mine, theirs in zip(idle.counts.key_clicks, honest.counts.key_clicks, strict=True):
        assert_as_many(mine, theirs)
    assert_as_many(idle.errors, honest.errors)
    assert judge(STILL.receiver, idle.healths) is None
    assert isinstance(verdict(idle), Accepted)


# ---- intercept and resend


def test_full_intercept_resend_gives_25_percent_errors_in_both_bases_and_all_intensities() -> None:
    found = block("intercept-resend", optics=FLAWLESS).counts
    assert block("", optics=FLAWLESS).errors == 0
    for clicks, errors in (
        *zip(found.key_clicks, found.key_errors, strict=True),
        *zip(found.test_clicks, found.test_errors, strict=True),
    ):
        assert_share(errors, clicks, 0.25)


@pytest.mark.parametrize("fraction", [0.1, 0.4, 1.0])
def test_a_share_of_the_pulses_gives_a_quarter_of_it_as_errors(fraction: float) -> None:
    flawless = block("intercept-resend", fraction, FLAWLESS)
    assert_share(flawless.errors, flawless.clicks, fraction / 4)
    found, honest = block("intercept-resend", fraction), block("")
    assert_share(found.errors, found.clicks, fraction / 4 + honest.qber * (1 - fraction / 2))
    for mine, theirs in zip(found.counts.key_clicks, honest.counts.key_clicks, strict=True):
        assert_as_many(mine, theirs)  # nothing but the errors changes
    assert judge(STILL.receiver, found.healths) is None


def test_intercept_resend_is_refused_for_its_errors_and_she_knows_half_of_the_bits() -> None:
    found = block("intercept-resend")
    refused = verdict(found)
    assert isinstance(refused, Refused)
    assert refused.code == "link.attack"
    assert "QBER" in refused.reason
    assert_share(round(found.tally.bits), found.tally.passed, 0.5)


def test_a_little_of_it_is_refused_though_the_errors_alone_would_pass() -> None:
    found = block("intercept-resend", 0.1)
    assert found.qber < QBER_MOST
    refused = verdict(found)
    assert isinstance(refused, Refused)
    assert refused.code == "link.attack"
    assert "QBER" not in refused.reason


# ---- photon-number splitting


@pytest.mark.parametrize("bound", [Bound.WIESEMANN_ONE, Bound.RUSCA])
def test_photon_number_splitting_is_caught_by_the_decoys_and_by_nothing_else(bound: Bound) -> None:
    found, honest = block("photon-number-splitting"), block("")
    assert_as_many(found.clicks, honest.clicks)
    assert_as_many(found.errors, honest.errors)
    assert judge(STILL.receiver, found.healths) is None
    assert found.tally.bits == found.tally.passed  # she has a photon of every pulse that Bob sees
    for mine, theirs in zip(found.healths, honest.healths, strict=True):
        assert_as_many(sum(mine.clicks), sum(theirs.clicks))
    # the mark: of the pulses that Bob sees, fewer are of the dim kind
    assert found.counts.key_clicks[1] < 0.5 * honest.counts.key_clicks[1]
    refused = verdict(found, bound)
    assert isinstance(refused, Refused)
    assert refused.code == "link.attack"
    assert "single photons" in refused.reason


def test_splitting_half_of_bobs_clicks_is_caught_too() -> None:
    found, honest = block("photon-number-splitting", 0.5, frames=2), block("", frames=2)
    assert_as_many(found.clicks, honest.clicks)
    assert_share(round(found.tally.bits), found.tally.passed, 0.5)
    refused = verdict(found)
    assert isinstance(refused, Refused)
    assert refused.code == "link.attack"
    assert "single photons" in refused.reason


def test_without_decoys_it_would_not_be_caught() -> None:
    """The same clicks and errors, told as those of one intensity: nothing in them differs from the honest ones."""
    found, honest = block("photon-number-splitting").counts, block("").counts
    assert_as_many(sum(found.key_clicks), sum(honest.key_clicks))
    assert_as_many(sum(found.test_clicks), sum(honest.test_clicks))
    assert_as_many(sum(found.test_errors), sum(honest.test_errors))


# ---- beam splitting


def test_beam_splitting_changes_nothing_and_the_key_is_shorter_than_what_she_lacks() -> None:
    found = block("beam-splitting")
    assert found.counts == block("").counts
    accepted = verdict(found)
    assert isinstance(accepted, Accepted)
    share = found.tally.bits / found.tally.passed
    assert 0.25 < share < 0.35
    assert accepted.single < (1 - share) * found.sifted
    assert accepted.key_bits < accepted.single


# ---- time-shift


def test_time_shift_is_caught_by_the_clicks_times_and_not_by_errors() -> None:
    found, honest = block("time-shift"), block("")
    assert_as_many(found.clicks, honest.clicks)
    assert_as_many(found.errors, honest.errors)
    assert isinstance(verdict(found), Accepted)
    told = judge(STILL.receiver, found.healths)
    assert told is not None
    assert told[0] == "link.timing"


def test_what_a_shift_tells_grows_with_the_detectors_mismatch() -> None:
    apart = replace(STILL.receiver.detectors[0], gate_offset_ps=-150.0)
    other = replace(STILL.receiver.detectors[1], gate_offset_ps=150.0)
    receiver = Receiver(detectors=(apart, other))
    found = block("time-shift", optics=replace(STILL, receiver=receiver), frames=2)
    told = judge(receiver, found.healths)
    assert told is not None
    assert told[0] == "link.timing"
    assert found.tally.bits / found.tally.touched > 50 * block("time-shift").tally.bits / PULSES


# ---- blinding


def test_blinding_is_caught_by_the_monitor_and_not_by_errors_or_decoys() -> None:
    found, honest = block("blinding"), block("")
    assert found.qber < honest.qber
    assert found.clicks == pytest.approx(honest.clicks, rel=0.02)
    assert isinstance(verdict(found), Accepted)
    told = judge(STILL.receiver, found.healths)
    assert told is not None
    assert told[0] == "link.blinding"


def test_all_of_a_blinded_bobs_key_is_hers() -> None:
    found = block("blinding")
    assert found.hers == found.sifted
    assert found.hers > 100_000


def test_a_block_with_some_blinded_frames_is_caught() -> None:
    found = block("blinding", 0.3)
    told = judge(STILL.receiver, found.healths)
    assert 0 < found.tally.touched < found.tally.passed
    assert told is not None
    assert told[0] == "link.blinding"
