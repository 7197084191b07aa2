"""The acceptance test of a block: what its counts prove, held against the terms that were fixed before it.

Accepted blocks give a key of `Terms.key_bits`, never more and never less. A refused one gives nothing, and its reason
is an attack, an outage or too much disclosed; docs/security.md says why the proof allows exactly this test.
"""

from dataclasses import dataclass
from typing import Literal

from qhybridd.distill import bounds
from qhybridd.distill.sift import Counts
from qhybridd.distill.terms import Terms
from qhybridd.errors import ProgramError

Refusal = Literal["link.attack", "link.outage", "link.leakage"]


@dataclass(frozen=True, slots=True)
class Accepted:
    """A block that met every term."""

    key_bits: int
    """ℓ, of the terms."""
    vacuum: float
    """s_X0, at least."""
    single: float
    """s_X1, at least."""
    phase_error: float
    """φ_X1, at most."""
    qber_key: float
    qber_test: float
    leakage: int
    """Bits disclosed."""


@dataclass(frozen=True, slots=True)
class Refused:
    """A block that missed a term; nothing of it is kept."""

    code: Refusal
    reason: str


def judge(terms: Terms, counts: Counts, leakage: int) -> Accepted | Refused:
    """Hold the counts of a corrected and verified block, and all bits disclosed about its key, to the terms.

    Raises `ProgramError` for counts that cannot be, and for terms that promise more key than they pay.
    """
    check_length(terms)
    proven = bounds.estimate(terms.protocol, counts)
    key_clicks, test_clicks = sum(counts.key_clicks), sum(counts.test_clicks)
    key_errors, test_errors = sum(counts.key_errors), sum(counts.test_errors)
    refused = (
        _judge_counts(terms, test_clicks, key_clicks)
        or _judge_errors(terms, "test", test_clicks, test_errors)
        or _judge_errors(terms, "key", key_clicks, key_errors)
        or _judge_leakage(terms, leakage)
        or _judge_estimates(terms, proven)
    )
    if refused:
        return refused
    return Accepted(
        key_bits=terms.key_bits,
        vacuum=proven.vacuum,
        single=proven.single,
        phase_error=proven.phase_error,
        qber_key=key_errors / key_clicks if key_clicks else 0.0,
        qber_test=test_errors / test_clicks if test_clicks else 0.0,
        leakage=leakage,
    )


def judge_early(terms: Terms, test_clicks: int, test_errors: int, key_clicks: int) -> Refused | None:
    """What can be refused before reconciliation, on totals over the intensities; None: go on."""
    return _judge_counts(terms, test_clicks, key_clicks) or _judge_errors(terms, "test", test_clicks, test_errors)


def check_length(terms: Terms) -> None:
    """Raises `ProgramError` for terms whose key is longer than they pay for, whoever made them."""
    paid = bounds.key_length(
        terms.protocol, terms.vacuum_least, terms.single_least, terms.phase_error_most, terms.leakage_most
    )
    if not 0 <= terms.key_bits <= paid:
        raise ProgramError("program.argument", f"the terms pay for {paid} bits of key, not {terms.key_bits}")


def _judge_counts(terms: Terms, test_clicks: int, key_clicks: int) -> Refused | None:
    """Before the error rates: a cut fibre leaves few clicks, and of those, noise, half are wrong."""
    for basis, clicks, least in (
        ("key", key_clicks, terms.key_clicks_least),
        ("test", test_clicks, terms.test_clicks_least),
    ):
        if clicks < least:
            return Refused("link.outage", f"{clicks} clicks in the {basis} basis, {least} are the least")
    return None


def _judge_errors(terms: Terms, basis: str, clicks: int, errors: int) -> Refused | None:
    most = terms.protocol.qber_most
    if errors > most * clicks:
        return Refused("link.attack", f"QBER {errors / clicks:.2%} in the {basis} basis, {most:.2%} is the most")
    return None


def _judge_leakage(terms: Terms, leakage: int) -> Refused | None:
    if leakage > terms.leakage_most:
        return Refused("link.leakage", f"{leakage} bits disclosed, {terms.leakage_most} are the most")
    return None


def _judge_estimates(terms: Terms, proven: bounds.Estimates) -> Refused | None:
    """With clicks enough, too few single photons among them or too high a phase error is what an attack looks like.

    Splitting photon numbers leaves the number of clicks and the error rate as they were, and shows only here. Fewer
    clicks of vacuum pulses are no sign of anybody.
    """
    if not proven.single >= terms.single_least:
        found = f"{proven.single:.0f} clicks are surely of single photons, {terms.single_least:.0f} are the least"
        return Refused("link.attack", found)
    if not proven.phase_error <= terms.phase_error_most:
        found = f"a phase error of {proven.phase_error:.2%} is possible, {terms.phase_error_most:.2%} is the most"
        return Refused("link.attack", found)
    if not proven.vacuum >= terms.vacuum_least:
        found = f"{proven.vacuum:.0f} clicks are surely of vacuum pulses, {terms.vacuum_least:.0f} are the least"
        return Refused("link.outage", found)
    return None
