"""Judging a block by its terms, planning the terms, and the sum of the epsilons."""

import math
import re
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qhybridd.distill import bounds
from qhybridd.distill.budget import budget_of
from qhybridd.distill.estimate import Accepted, Refused, check_length, judge, judge_early
from qhybridd.distill.plan import Expected, LinkModel, average, plan, reconciliation_bits
from qhybridd.distill.sift import Counts
from qhybridd.distill.terms import Bound, Protocol, Terms
from qhybridd.errors import ProgramError

PULSES = 10**9
LINK = LinkModel(transmission=0.05, dark_probability=1e-6, misalignment=0.015)
ONE = Protocol((0.5, 0.15), (0.8, 0.2), 0.9, Bound.WIESEMANN_ONE, 1e-10, 1e-12, 0.06)
TWO = Protocol((0.5, 0.15, 0.001), (0.7, 0.2, 0.1), 0.9, Bound.WIESEMANN_TWO, 1e-10, 1e-12, 0.06)
PROTOCOLS = [replace(ONE if bound.decoys == 1 else TWO, bound=bound) for bound in Bound]


def terms_of(protocol: Protocol) -> Terms:
    expected = LINK.expect(protocol, PULSES)
    return plan(protocol, PULSES, expected, int(reconciliation_bits(expected, 1.2)))


def counted(expected: Expected) -> Counts:
    def whole(values: tuple[float, ...]) -> tuple[int, ...]:
        return tuple(round(value) for value in values)

    return Counts(
        whole(expected.key_clicks),
        whole(expected.key_errors),
        whole(expected.test_clicks),
        whole(expected.test_errors),
    )


def scaled(counts: Counts, **factors: float) -> Counts:
    return replace(counts, **{name: tuple(int(n * by) for n in getattr(counts, name)) for name, by in factors.items()})


TERMS = terms_of(ONE)
COUNTS = counted(LINK.expect(ONE, PULSES))


# ---- judging


def test_a_healthy_block_is_accepted() -> None:
    verdict = judge(TERMS, COUNTS, TERMS.leakage_most)
    assert isinstance(verdict, Accepted)
    assert verdict.key_bits == TERMS.key_bits > 100_000
    assert verdict.single >= TERMS.single_least
    assert verdict.phase_error <= TERMS.phase_error_most
    assert verdict.qber_key == pytest.approx(0.015, abs=1e-3)
    assert verdict.leakage == TERMS.leakage_most


def test_the_length_is_fixed() -> None:
    """A block better than its terms gives no bit more."""
    better = scaled(COUNTS, key_errors=0.5, test_errors=0.5)
    verdict = judge(TERMS, better, 0)
    assert isinstance(verdict, Accepted)
    assert verdict.key_bits == TERMS.key_bits


@pytest.mark.parametrize(
    ("factors", "leakage", "code"),
    [
        ({"key_errors": 5.0}, 0, "link.attack"),
        ({"test_errors": 5.0}, 0, "link.attack"),
        ({"test_errors": 2.0}, 0, "link.attack"),  # below the threshold, but the phase error is not
        (dict.fromkeys(("key_clicks", "key_errors", "test_clicks", "test_errors"), 0.5), 0, "link.outage"),
        ({"test_clicks": 0.9, "test_errors": 0.9}, 0, "link.outage"),
        ({}, TERMS.leakage_most + 1, "link.leakage"),
        ({"test_errors": 5.0}, TERMS.leakage_most + 1, "link.attack"),
    ],
)
def test_refusals(factors: dict[str, float], leakage: int, code: str) -> None:
    verdict = judge(TERMS, scaled(COUNTS, **factors), leakage)
    assert isinstance(verdict, Refused)
    assert verdict.code == code


@pytest.mark.parametrize("basis", ["key", "test"])
def test_the_qber_of_either_basis_counts(basis: str) -> None:
    verdict = judge(TERMS, scaled(COUNTS, **{f"{basis}_errors": 5.0}), 0)
    assert isinstance(verdict, Refused)
    assert verdict.code == "link.attack"
    assert verdict.reason.startswith("QBER") and f"in the {basis} basis" in verdict.reason


def test_a_cut_fibre_is_no_attack() -> None:
    """Few clicks, half of them wrong."""
    noise = Counts((900, 300), (450, 150), (12, 4), (6, 2))
    assert judge(TERMS, noise, 0) == Refused(
        "link.outage", f"1200 clicks in the key basis, {TERMS.key_clicks_least} are the least"
    )
    assert judge(TERMS, Counts((0, 0), (0, 0), (0, 0), (0, 0)), 0) == Refused(
        "link.outage", f"0 clicks in the key basis, {TERMS.key_clicks_least} are the least"
    )


def test_photon_number_splitting_is_an_attack() -> None:
    """As many clicks and no more errors, but the decoy is dimmer than single photons would have it."""
    bright, dim = COUNTS.key_clicks
    moved = dim // 3
    verdict = judge(TERMS, replace(COUNTS, key_clicks=(bright + moved, dim - moved)), 0)
    assert isinstance(verdict, Refused)
    assert verdict.code == "link.attack"
    assert "single photons" in verdict.reason


def test_vacuum_that_was_counted_on() -> None:
    """Where the terms pay for vacuum clicks, a block with fewer is an outage."""
    terms = replace(TERMS, vacuum_least=10.0, key_bits=0)
    verdict = judge(terms, COUNTS, 0)
    assert isinstance(verdict, Refused)
    assert verdict.code == "link.outage"
    assert "vacuum" in verdict.reason


def test_early() -> None:
    test, errors, key = sum(COUNTS.test_clicks), sum(COUNTS.test_errors), sum(COUNTS.key_clicks)
    assert judge_early(TERMS, test, errors, key) is None
    attack, outage = judge_early(TERMS, test, test // 10, key), judge_early(TERMS, test // 2, errors, key)
    assert attack is not None and attack.code == "link.attack"
    assert outage is not None and outage.code == "link.outage"


def test_the_threshold_itself_passes() -> None:
    protocol = replace(ONE, qber_most=0.0625)
    terms = replace(TERMS, protocol=protocol, test_clicks_least=1, key_clicks_least=1)
    assert judge_early(terms, 1600, 100, 1) is None
    assert judge_early(terms, 1600, 101, 1) is not None


def test_terms_that_promise_too_much() -> None:
    check_length(TERMS)
    greedy = replace(TERMS, key_bits=TERMS.key_bits + 1)
    for check in (lambda: check_length(greedy), lambda: judge(greedy, COUNTS, 0)):
        with pytest.raises(ProgramError):
            check()
    with pytest.raises(ProgramError):
        check_length(replace(TERMS, key_bits=-1))


@given(data=st.data())
def test_accepted_means_that_every_term_is_met(data: st.DataObject) -> None:
    def near(values: tuple[int, ...]) -> tuple[int, ...]:
        return tuple(data.draw(st.integers(int(value * 0.97), int(value * 1.03))) for value in values)

    counts = Counts(
        near(COUNTS.key_clicks), near(COUNTS.key_errors), near(COUNTS.test_clicks), near(COUNTS.test_errors)
    )
    leakage = data.draw(st.integers(TERMS.leakage_most - 2, TERMS.leakage_most + 2))
    proven = bounds.estimate(ONE, counts)
    met = (
        sum(counts.key_clicks) >= TERMS.key_clicks_least
        and sum(counts.test_clicks) >= TERMS.test_clicks_least
        and proven.vacuum >= TERMS.vacuum_least
        and proven.single >= TERMS.single_least
        and proven.phase_error <= TERMS.phase_error_most
        and leakage <= TERMS.leakage_most
        and sum(counts.key_errors) <= ONE.qber_most * sum(counts.key_clicks)
        and sum(counts.test_errors) <= ONE.qber_most * sum(counts.test_clicks)
    )
    assert isinstance(judge(TERMS, counts, leakage), Accepted) == met


# ---- planning


@pytest.mark.parametrize("protocol", PROTOCOLS, ids=lambda protocol: protocol.bound.value)
def test_healthy_blocks_pass_as_often_as_planned(protocol: Protocol) -> None:
    terms = terms_of(protocol)
    expected = LINK.expect(protocol, PULSES)
    random = np.random.default_rng(5)
    refused = 0
    for _ in range(1000):
        wrong = [random.poisson(errors) for errors in (expected.key_errors, expected.test_errors)]
        clicks = [
            random.poisson(np.subtract(all_of_them, errors)) + drawn
            for all_of_them, errors, drawn in zip(
                (expected.key_clicks, expected.test_clicks),
                (expected.key_errors, expected.test_errors),
                wrong,
                strict=True,
            )
        ]
        counts = Counts(*(tuple(part.tolist()) for part in (clicks[0], wrong[0], clicks[1], wrong[1])))
        refused += isinstance(judge(terms, counts, 0), Refused)
    assert refused <= 6  # 1 is expected; 7 or more have a probability of 10^-4


@pytest.mark.parametrize("protocol", PROTOCOLS, ids=lambda protocol: protocol.bound.value)
def test_the_margin_is_cheap(protocol: Protocol) -> None:
    """The key of the plan is that of the estimates, less some per cent."""
    terms = terms_of(protocol)
    proven = bounds.estimate(protocol, LINK.expect(protocol, PULSES))
    ideal = bounds.key_length(protocol, proven.vacuum, proven.single, proven.phase_error, terms.leakage_most)
    assert 0.85 * ideal < terms.key_bits < ideal
    surer = plan(protocol, PULSES, LINK.expect(protocol, PULSES), terms.leakage_most, 0.999999)
    assert surer.key_bits < terms.key_bits


def test_a_hopeless_link_pays_nothing() -> None:
    dark = LinkModel(transmission=1e-7, dark_probability=1e-6, misalignment=0.015)
    terms = plan(ONE, 10**6, dark.expect(ONE, 10**6), 10)
    assert terms.key_bits == 0
    check_length(terms)


def test_average_of_blocks() -> None:
    expected = average([Counts((1, 2), (0, 1), (3, 4), (0, 0)), Counts((2, 2), (1, 1), (3, 6), (1, 0))])
    assert expected == Expected((1.5, 2.0), (0.5, 1.0), (3.0, 5.0), (0.5, 0.0))
    with pytest.raises(ProgramError):
        average([])


def test_the_model_is_the_channel() -> None:
    """One pulse: clicks and errors add up as probabilities do."""
    protocol = replace(ONE, key_basis_probability=0.5)
    expected = LinkModel(1.0, 0.0, 0.1).expect(protocol, 4)
    assert expected.key_clicks[0] == pytest.approx(0.8 * (1 - np.exp(-0.5)))
    assert expected.key_errors[0] == pytest.approx(0.1 * expected.key_clicks[0])
    silent = LinkModel(0.0, 1e-3, 0.1).expect(protocol, 4)
    assert sum(silent.test_clicks) == pytest.approx(1e-3)
    assert sum(silent.test_errors) == pytest.approx(5e-4)


def test_reconciliation_bits() -> None:
    assert reconciliation_bits(Expected((0.0, 0.0), (0.0, 0.0), (0.0, 0.0), (0.0, 0.0)), 1.2) == 0
    half = Expected((60.0, 40.0), (30.0, 20.0), (0.0, 0.0), (0.0, 0.0))
    assert reconciliation_bits(half, 1.2) == pytest.approx(120)


@pytest.mark.parametrize("wrong", [{"pass_probability": 1.0}, {"pulses": 0}, {"leakage_most": -1}])
def test_plans_that_cannot_be(wrong: dict[str, float]) -> None:
    arguments: dict[str, object] = {"pulses": PULSES, "leakage_most": 0, "pass_probability": 0.9} | wrong
    with pytest.raises(ProgramError):
        plan(ONE, expected=LINK.expect(ONE, PULSES), **arguments)  # type: ignore[arg-type]


# ---- the budget


@pytest.mark.parametrize("protocol", PROTOCOLS, ids=lambda protocol: protocol.bound.value)
def test_the_secrecy_terms_sum_to_epsilon_sec(protocol: Protocol) -> None:
    spent = budget_of(protocol, verification=1e-30, authentication=3e-20, inherited=2e-20)
    assert spent.secrecy == pytest.approx(protocol.epsilon_sec, rel=1e-12)
    assert spent.total == pytest.approx(protocol.epsilon_sec + 1e-30 + 5e-20, rel=1e-12)
    assert spent.own == pytest.approx(protocol.epsilon_sec + 1e-30 + 3e-20, rel=1e-12)


def test_the_budget_is_the_table_of_the_documentation() -> None:
    """docs/security.md: every row is a field, and the shares of ε_sec in it are those of the proofs."""
    text = (Path(__file__).parents[2] / "docs" / "security.md").read_text()
    spent = budget_of(ONE, verification=0.0, authentication=0.0)
    table = text.split("## The epsilons of one block")[1].split("\n\nBesides")[0]
    rows = re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE)
    assert rows == [field.name for field in fields(spent)]
    shares = {"LIM": (12, 8, 1), "RUSCA": (10, 8, 1), "WIESEMANN_ONE": (10, 4, 1), "WIESEMANN_TWO": (12, 4, 1)}
    for name, wanted in shares.items():
        found = bounds.shares(Bound[name])
        assert (found.estimation, found.smoothing, found.amplification) == wanted
        assert f"| `{Bound[name].value}` | {wanted[0]} | {wanted[1]} | {wanted[2]} | {sum(wanted)} |" in text


def test_tags_too_short_for_epsilon_cor() -> None:
    with pytest.raises(ProgramError):
        budget_of(ONE, verification=2 * ONE.epsilon_cor, authentication=0.0)
    with pytest.raises(ProgramError):
        budget_of(ONE, verification=math.nan, authentication=0.0)
