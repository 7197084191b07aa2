"""Alice's plans: blocks of the size asked for, terms that healthy blocks meet, and what she learns of blocks."""

import math
from dataclasses import replace
from pathlib import Path

import pytest

from qhybridd.config.records import Endpoint, LinkConfig
from qhybridd.distill.authenticate import Role
from qhybridd.distill.budget import budget_of
from qhybridd.distill.estimate import Accepted, check_length, judge
from qhybridd.distill.plan import Expected
from qhybridd.distill.rates import choose_framing
from qhybridd.distill.record import Authentication, BlockRecord, Counted, Disclosed, Outcome, Sizes
from qhybridd.distill.sift import Counts
from qhybridd.distill.terms import Terms
from qhybridd.errors import OperatorError
from qhybridd.links.photon_frames import MAX_BLOCK_FRAMES, MAX_FRAME_PULSES
from qhybridd.links.planning import FRAME_ARRIVALS_MOST, FRAME_S, REFUSED_MOST, Planner, lay_out, leakage_budget
from qhybridd.optics.eve import make_attack
from qhybridd.optics.line import Line
from qhybridd.optics.parameters import Detector, Optics, Receiver, Source
from qhybridd.optics.randomness import Randomness
from qhybridd.optics.receiver import Station
from qhybridd.optics.receiver import judge as judge_health
from qhybridd.optics.records import Request
from qhybridd.optics.theory import expected_counts

CLICKS = 2_000_000
CONFIG = LinkConfig("north", "bob", Role.ALICE, Path("psk"), Endpoint("192.0.2.1", 7421), block_clicks=CLICKS)
OPTICS = CONFIG.simulation
LAYOUT = lay_out(OPTICS, CLICKS)


def counts(clicks: float = 1.0, errors: float = 1.0) -> Counts:
    """Those of a block of so many times what the data sheet lets expect."""
    found = expected_counts(OPTICS, LAYOUT.block_pulses)
    key, test = (tuple(round(clicks * n) for n in numbers) for numbers in (found.key_clicks, found.test_clicks))
    wrong = [tuple(round(clicks * errors * n) for n in numbers) for numbers in (found.key_errors, found.test_errors)]
    return Counts(key, wrong[0], test, wrong[1])


def record(terms: Terms, found: Counts, code: str = "", *, key_errors: bool = True) -> BlockRecord:
    """A block that was kept, or dropped for `code`."""
    counted = Counted(found.key_clicks, found.key_errors if key_errors else None, found.test_clicks, found.test_errors)
    return BlockRecord(
        link="north", block=1, role="alice", key_id="", bound="", terms=terms, sizes=Sizes(terms.pulses),
        counted=counted, qber_key=None, qber_test=None, reconciliation=None, disclosed=Disclosed(), estimates=None,
        key_bits=0, refill_bits=0, net_bits=0,
        epsilons=budget_of(terms.protocol, verification=0.0, authentication=0.0, inherited=0.0),
        authentication=Authentication("none", 0, 0, 0), outcome=Outcome(not code, code, "", "alice", ""),
    )  # fmt: skip


def planner() -> Planner:
    return Planner(CONFIG.protocol, OPTICS, LAYOUT.block_pulses)


def terms_of(plan: Planner) -> Terms:
    assert plan.terms is not None
    return plan.terms


# ---- layout


@pytest.mark.parametrize("length_km", [0, 10, 50, 100, 150])
@pytest.mark.parametrize("clicks", [10_000, 1_000_000, 20_000_000])
def test_a_block_has_the_clicks_asked_for_in_frames_that_fit(length_km: float, clicks: int) -> None:
    optics = Optics().with_length(length_km)
    layout = lay_out(optics, clicks)
    expected = math.fsum(expected_counts(optics, layout.block_pulses).key_clicks)
    assert clicks <= expected * (1 + 1e-6) and expected < clicks * 1.01 + 50
    assert layout.frame_s <= FRAME_S * 1.0001 and layout.frame_pulses <= MAX_FRAME_PULSES
    assert layout.block_frames <= MAX_BLOCK_FRAMES
    light = expected_counts(optics, layout.frame_pulses)
    assert math.fsum(light.key_clicks + light.test_clicks) <= FRAME_ARRIVALS_MOST


def test_the_monitors_of_a_slow_link_see_a_time_shift_too() -> None:
    """In 50 ms of a source of 100 kHz there are a dozen clicks, and of so few the times are not judged."""
    apart = tuple(Detector(dark_hz=10, gate_offset_ps=offset) for offset in (-150.0, 150.0))
    optics = Optics(Source(repetition_hz=1e5), receiver=Receiver(detectors=(apart[0], apart[1])))
    layout = lay_out(optics, 20_000)
    found = {}
    for attack in ("tap", "time-shift"):
        randomness = Randomness.from_seed(4)
        line, bob = Line(optics, randomness.child("line")), Station(optics.receiver, optics.source, randomness)
        line.attack = make_attack(attack, optics, 1.0, randomness.child("attack"))
        healths = []
        for number in range(layout.block_frames):
            light = line.frame(number * layout.frame_pulses, layout.frame_pulses, Request(thinning=bob.thinning))
            healths.append(bob.detect(light).health)
        found[attack] = judge_health(optics.receiver, healths)
    assert found["tap"] is None
    assert found["time-shift"] is not None and found["time-shift"][0] == "link.timing"


def test_a_dark_link_has_no_blocks() -> None:
    dark = replace(Optics(), source=Source(key_basis_probability=0.0))
    with pytest.raises(OperatorError) as refused:
        lay_out(dark, 1000)
    assert refused.value.code == "config.value"


# ---- terms


def test_the_first_terms_are_met_by_what_the_data_sheet_lets_expect_and_by_somewhat_less() -> None:
    terms = terms_of(planner())
    check_length(terms)
    for clicks, errors in ((1.0, 1.0), (0.97, 1.1)):
        found = counts(clicks, errors)
        leakage = choose_framing(sum(found.key_clicks), sum(found.test_errors) / sum(found.test_clicks)).disclosed
        assert isinstance(judge(terms, found, leakage), Accepted)
    assert not isinstance(judge(terms, counts(0.8), 0), Accepted)


def test_kept_blocks_make_the_terms_tighter_and_the_key_longer() -> None:
    plan = planner()
    first = terms_of(plan)
    assert plan.note(record(first, counts()))
    assert terms_of(plan).key_bits > first.key_bits and terms_of(plan).key_clicks_least > first.key_clicks_least
    assert not plan.note(record(first, counts()))


@pytest.mark.parametrize("code", ["link.outage", "link.attack", "link.leakage"])
@pytest.mark.parametrize("key_errors", [True, False])
def test_after_three_refusals_in_a_row_a_worse_link_is_planned_for(code: str, *, key_errors: bool) -> None:
    plan = planner()
    first = terms_of(plan)
    worse = record(first, counts(0.7, 1.3), code, key_errors=key_errors)
    for _ in range(REFUSED_MOST - 1):
        assert not plan.note(worse)
    assert plan.note(record(first, counts())) and plan.terms is not None  # one that was kept between them
    for _ in range(REFUSED_MOST - 1):
        assert not plan.note(worse)
    assert plan.note(worse)
    assert 0 < terms_of(plan).key_bits < first.key_bits
    assert isinstance(judge(terms_of(plan), counts(0.7, 1.3), 0), Accepted)


@pytest.mark.parametrize(
    ("found", "code"),
    [
        (counts(0.01), "link.outage"),  # pays for no key
        (counts(1.0, 9.0), "link.attack"),  # more errors than the protocol allows
        (counts(0.7), "link.aborted"),
        (counts(0.7), "link.authentication"),
    ],
)
def test_what_gives_no_key_or_says_nothing_of_the_light_changes_no_plan(found: Counts, code: str) -> None:
    plan = planner()
    first = terms_of(plan)
    for _ in range(3 * REFUSED_MOST):
        assert not plan.note(record(first, found, code))
    assert plan.terms == first


def test_more_errors_than_the_protocol_allows_are_not_planned_for_though_they_paid() -> None:
    found = counts(1.0, 1.4)
    qber = max(sum(found.test_errors) / sum(found.test_clicks), sum(found.key_errors) / sum(found.key_clicks))
    for share, learns in ((1.01, True), (0.99, False)):
        plan = Planner(replace(CONFIG.protocol, qber_most=share * qber), OPTICS, LAYOUT.block_pulses)
        first = terms_of(plan)
        assert any(plan.note(record(first, found, "link.attack")) for _ in range(REFUSED_MOST)) is learns


def test_a_link_that_gets_better_again_is_planned_for_again() -> None:
    plan = planner()
    first = terms_of(plan)
    for _ in range(REFUSED_MOST):
        plan.note(record(first, counts(0.5, 1.5), "link.outage"))
    worse = terms_of(plan)
    for _ in range(REFUSED_MOST):
        plan.note(record(worse, counts(), "link.leakage", key_errors=False))
    assert terms_of(plan).key_bits > worse.key_bits
    framing = choose_framing(sum(counts().key_clicks), sum(counts().test_errors) / sum(counts().test_clicks))
    assert isinstance(judge(terms_of(plan), counts(), framing.disclosed), Accepted)


def test_a_block_that_counted_nothing_is_no_reason_to_plan() -> None:
    plan = planner()
    terms = terms_of(plan)
    nothing = replace(record(terms, counts(), "link.outage"), counted=Counted())
    assert not any(plan.note(nothing) for _ in range(9))


def test_small_blocks_pay_for_no_key() -> None:
    assert Planner(CONFIG.protocol, OPTICS, lay_out(OPTICS, 20_000).block_pulses).terms is None


def test_no_budget_for_errors_that_no_code_corrects() -> None:
    expected = Expected((1e6,), (1.2e5,), (1e5,), (1.2e4,))
    assert leakage_budget(expected, 1.0) is None
    assert leakage_budget(replace(expected, key_errors=(1e4,), test_errors=(1e3,)), 1.0) is not None
