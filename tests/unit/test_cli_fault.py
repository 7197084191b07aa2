"""`qhybridd fault`: what it asks of the daemon, and what it does not ask."""

import math
from dataclasses import replace
from pathlib import Path
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qhybridd.cli.fault import KINDS
from qhybridd.cli.main import main
from qhybridd.distill.authenticate import Role
from qhybridd.errors import OperatorError
from qhybridd.links.breaking import LineBreaking
from qhybridd.links.faults import FAULTS, check, describe
from qhybridd.optics.line import Line
from qhybridd.optics.parameters import Fibre, Optics
from qhybridd.optics.randomness import Randomness
from qhybridd.status import FaultKind, FaultReport, FaultRequest, answer, decode_request, encode_line, refusal
from tests.unit.test_cli import daemon


def ask(path: Path, *words: str, faults: tuple[str, ...] = ()) -> FaultRequest:
    """What a command asks of a daemon that takes it."""
    with daemon(path / "control.sock", encode_line(answer(FaultReport(list(faults))))) as heard:
        assert main(["--socket", str(path / "control.sock"), "fault", *words]) == 0
    (line,) = heard
    request = decode_request(line)
    assert isinstance(request, FaultRequest)
    return request


@pytest.mark.parametrize(
    ("words", "request_"),
    [
        (("fibre",), FaultRequest("fibre")),
        (("fibre", "cut"), FaultRequest("fibre", "cut")),
        (("fibre", "loss", "10"), FaultRequest("fibre", "loss", 10.0)),
        (("fibre", "misalignment", "-0.3"), FaultRequest("fibre", "misalignment", -0.3)),
        (("fibre", "efficiency", ".5"), FaultRequest("fibre", "efficiency", 0.5)),
        (("fibre", "dark", "1e3"), FaultRequest("fibre", "dark", 1000.0)),
        (("fibre", "clock", "-500"), FaultRequest("fibre", "clock", -500.0)),
        (("fibre", "eve", "intercept-resend"), FaultRequest("fibre", "eve", 1.0, "intercept-resend")),
        (("fibre", "eve", "tap", "--fraction", "0.25"), FaultRequest("fibre", "eve", 0.25, "tap")),
        (("fibre", "eve", "--mend"), FaultRequest("fibre", "eve", mend=True)),
        (("fibre", "--mend"), FaultRequest("fibre", mend=True)),
    ],
)
def test_the_words_become_one_request(words: tuple[str, ...], request_: FaultRequest, tmp_path: Path) -> None:
    assert ask(tmp_path, *words) == request_


def test_it_tells_what_is_broken(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ask(tmp_path, "fibre", faults=("the fibre is cut", "\x1b[2J"))
    assert capsys.readouterr().out.splitlines() == [
        "broken on purpose: the fibre is cut",
        "broken on purpose: \N{REPLACEMENT CHARACTER}[2J",
    ]
    ask(tmp_path, "fibre", "--mend")
    assert capsys.readouterr().out == "Nothing is broken on purpose at this end of fibre.\n"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((), "LINK"),
        (("fibre", "explode"), "'explode'"),
        (("fibre", "loss"), "loss takes a number"),
        (("fibre", "loss", "nan"), "'nan' is none"),
        (("fibre", "loss", "inf"), "'inf' is none"),
        (("fibre", "loss", "much"), "'much' is none"),
        (("fibre", "loss", "--mned"), "'--mned' is none"),
        (("fibre", "cut", "3"), "takes no value"),
        (("fibre", "loss", "3", "--mend"), "loss --mend takes no value"),
        (("fibre", "eve"), "name of an attack"),
        (("fibre", "loss", "3", "--fraction", "1"), "--fraction belongs"),
        (("fibre", "eve", "--fraction", "1", "--mend"), "--fraction belongs"),
    ],
)
def test_wrong_usage_asks_nothing(
    words: tuple[str, ...], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert not list(tmp_path.iterdir())
    assert main(["--socket", str(tmp_path / "nobody"), "fault", *words]) == 2
    assert message in capsys.readouterr().err


def test_a_refusal_is_shown_with_its_way_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    refused = encode_line(refusal("link.real", "link fibre is not simulated", "link fibre", "Leave it."))
    with daemon(tmp_path / "control.sock", refused):
        assert main(["--socket", str(tmp_path / "control.sock"), "fault", "fibre", "cut"]) == 1
    err = capsys.readouterr().err
    assert "link.real" in err and "Leave it." in err


def test_the_help_names_every_kind(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fault", "--help"]) == 0
    text = capsys.readouterr().out
    assert all(f"\n    {kind} " in text for kind in KINDS)
    assert max(map(len, text.splitlines())) <= 80


# ---- the table of faults, which both ends of the socket read


def test_every_kind_is_known_everywhere() -> None:
    assert set(KINDS) == set(FAULTS) == set(get_args(FaultKind))


def test_a_fault_belongs_to_one_end() -> None:
    check(FaultRequest("fibre", "loss", 3.0), Role.ALICE)
    check(FaultRequest("fibre"), Role.BOB)
    check(FaultRequest("fibre", mend=True), Role.BOB)
    for request, role in (
        (FaultRequest("fibre", "loss", 3.0), Role.BOB),
        (FaultRequest("fibre", "dark", 3.0), Role.ALICE),
        (FaultRequest("fibre", "eve", mend=True), Role.BOB),
    ):
        with pytest.raises(OperatorError, match="this gateway is") as caught:
            check(request, role)
        assert caught.value.code == "control.refused" and "other gateway" in caught.value.hint


@given(st.sampled_from(KINDS), st.floats() | st.sampled_from((math.nan, math.inf, -math.inf)))
def test_only_values_in_range_pass(kind: FaultKind, value: float) -> None:
    fault = FAULTS[kind]
    request = FaultRequest("fibre", kind, value, "tap")
    if fault.least <= value <= fault.most:
        check(request, fault.role)
        assert describe(request)
        return
    check(FaultRequest("fibre", kind, value, mend=True), fault.role)
    with pytest.raises(OperatorError) as caught:
        check(request, fault.role)
    assert caught.value.code == "control.refused" and kind in caught.value.message


@pytest.mark.parametrize("kind", [kind for kind in KINDS if FAULTS[kind].role is Role.ALICE])
def test_each_fault_of_the_line_is_felt_and_mended(kind: FaultKind) -> None:
    randomness = Randomness.from_seed(1)
    still = replace(Optics(), fibre=Fibre(drift_rad_per_sqrt_s=0.0, delay_drift_ps_per_sqrt_s=0.0))
    line = Line(still, randomness)
    breaking = LineBreaking(line, still, randomness)
    healthy = (line.fibre.step(60.0), line.attack)
    breaking.change(FaultRequest("fibre", kind, min(0.5, FAULTS[kind].most), "tap"))
    assert (line.fibre.step(60.0), line.attack) != healthy and breaking.told
    breaking.change(FaultRequest("fibre", kind, mend=True))
    assert (line.fibre.step(60.0), line.attack) == healthy and not breaking.told


def test_descriptions_say_how_much() -> None:
    assert describe(FaultRequest("fibre", "loss", 10.0)) == "10 dB of loss on top"
    told = describe(FaultRequest("fibre", "eve", 0.5, "blinding"))
    assert told == "an eavesdropper: blinding on 0.5 of the pulses"
