"""The benchmark command: its stages run, its verdicts are right, and Ctrl-C leaves what was measured."""

import json
from collections.abc import Iterator

import pytest

from qhybridd import _native
from qhybridd.apps.bench import run
from qhybridd.apps.bench.options import Options
from qhybridd.apps.bench.readings import Goal, Reading, fastest, frequency_hz
from qhybridd.cli.bench import STAGES
from qhybridd.cli.main import main


def test_the_command_names_the_stages_that_there_are() -> None:
    assert list(run.STAGES) == list(STAGES)


def test_a_stage_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "--quick", "--stage", "sifting", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["machine"]["instruction_set"] == _native.instruction_set()
    assert [reading["stage"] for reading in report["readings"]] == ["sifting"] * 4
    assert all(reading["figure"] > 0 for reading in report["readings"])


def test_a_stage_as_a_table(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "--quick", "--stage", "sifting"]) == 0
    out = capsys.readouterr().out
    assert "Mclicks/s (≥ 200)" in out and "GHz" in out


def some_readings(_: Options) -> Iterator[Reading]:
    yield Reading("a", "good", 2, "Mb/s", Goal(1))
    yield Reading("a", "bad", 2, "Mb/s", Goal(1), efficiency=1.2, efficiency_goal=Goal(1.1, at_most=True))
    raise KeyboardInterrupt


@pytest.mark.skipif(_native.instruction_set() != "avx512", reason="goals are judged with AVX-512 alone")
def test_an_interrupted_run_shows_what_there_is(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(run.STAGES, "sifting", some_readings)
    assert main(["bench", "--stage", "sifting"]) == 130
    shown = capsys.readouterr()
    assert "Interrupted" in shown.err and "goals missed in 1 lines" in shown.out
    assert "2 Mb/s (≥ 1) ✓" in shown.out and "1.200 (≤ 1.1) ✗" in shown.out


def test_goals_are_judged_with_avx512_alone() -> None:
    reading = Reading("a", "bad", 1, "Mb/s", Goal(2))
    before = _native.instruction_set()
    try:
        _native.use_instruction_set("portable")
        assert not reading.missed
    finally:
        _native.use_instruction_set(before)
    assert reading.missed == (before == "avx512")


def test_timing() -> None:
    calls: list[str] = []
    timed = fastest(lambda: calls.append("work"), least_s=0.0, prepare=lambda: calls.append("prepare"))
    assert calls == ["prepare", "work"] * 2
    assert 0 < timed.seconds < 0.1
    if frequency_hz():
        assert 2e8 < frequency_hz() < 1e10
        assert timed.cycles(1) == timed.seconds * timed.hertz


def test_wrong_options(capsys: pytest.CaptureFixture[str]) -> None:
    for words in (["--stage", "nonsense"], ["--qber", "40"], ["--qber", "0.02"]):
        assert main(["bench", *words]) == 2
    assert "Usage:" in capsys.readouterr().err
