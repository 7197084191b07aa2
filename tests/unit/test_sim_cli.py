"""`qhybridd sim` from the command line: summaries, files, plots, Ctrl-C."""

import csv
import importlib.util
from pathlib import Path
from typing import Any

import pytest

from qhybridd.apps.sim.link import SimulatedLink
from qhybridd.apps.sim.plot import check_output
from qhybridd.cli.main import main

FAST = ["--length", "10", "--set", "epsilon_sec=1e-4", "--set", "block_clicks=500000", "--seed", "7"]


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_a_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["sim", "run", *FAST, "--blocks", "2", "--csv", str(tmp_path / "run.csv")]) == 0
    out = capsys.readouterr().out
    assert "2 of 2 kept" in out and "bit/s" in out and "10 km" in out and "closed form" in out
    assert "Simulated optics" in out
    rows = rows_of(tmp_path / "run.csv")
    assert [row["block"] for row in rows] == ["1", "2"] and all(row["code"] == "" for row in rows)
    assert int(rows[1]["net_bits"]) > 0 and 0.005 < float(rows[1]["qber_key"]) < 0.03


def test_a_run_under_attack(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["sim", "run", *FAST, "--blocks", "1", "--attack", "intercept-resend", "--fraction", "0.5"]) == 0
    out = capsys.readouterr().out
    assert "0 of 1 kept" in out and "link.attack" in out and "50%" in out


def test_a_link_of_the_configuration(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = (
        '[peer.bob]\nendpoints = ["192.0.2.2:7420"]\n[link.north]\npeer = "bob"\nrole = "alice"\npsk = "north.psk"\n'
        'photons = "192.0.2.1:7421"\nblock_clicks = 20000\n[link.north.simulation.fibre]\nlength_km = 33\n'
    )
    file = tmp_path / "site.toml"
    file.write_text(text)
    for words in (["sim", "run", "--config", str(file)], ["--config", str(file), "sim", "run"]):
        assert main([*words, "--link", "north", "--blocks", "1"]) == 0
        out = capsys.readouterr().out
        assert "33 km" in out and "pays for no key" in out
    assert main(["sim", "run", "--config", str(file)]) == 2


def test_a_sweep_with_a_file_and_a_plot(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("matplotlib")
    files = [tmp_path / name for name in ("sweep.csv", "sweep.svg", "sweep.png")]
    words = ["sim", "sweep", *FAST, "--over", "distance", "0", "20", "2", "--csv", str(files[0])]
    assert main([*words, "--plot", str(files[1])]) == 0
    out = capsys.readouterr().out
    assert "over distance" in out
    rows = rows_of(files[0])
    assert [float(row["distance"]) for row in rows] == [0, 20]
    for row in rows:
        assert float(row["gain_0"]) == pytest.approx(float(row["expected_gain_0"]), rel=0.02)
        assert float(row["qber_key"]) == pytest.approx(float(row["expected_qber_key"]), rel=0.1)
        assert float(row["unlimited_key_bits_per_pulse"]) > float(row["expected_key_bits_per_pulse"])
        assert float(row["expected_key_bits_per_pulse"]) > float(row["key_bits_per_pulse"]) > 0
    picture = files[1].read_text()
    assert picture.startswith("<?xml") and "<svg" in picture and picture.count("<path") > 20
    assert main([*words, "--plot", str(files[2])]) == 0
    assert files[2].read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("over", ["qber", "intensity", "block-size"])
def test_other_sweeps(over: str, capsys: pytest.CaptureFixture[str]) -> None:
    begin, end = {"qber": ("1", "9"), "intensity": ("0.3", "0.5"), "block-size": ("2e4", "4e4")}[over]
    words = ["--length", "10", "--set", "block_clicks=30000", "--seed", "7", "--over", over, begin, end, "2"]
    assert main(["sim", "sweep", *words]) == 0
    assert f"over {over}" in capsys.readouterr().out


def test_a_short_day(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("matplotlib")
    words = [
        "--hours",
        "0.1",
        "--tunnels",
        "4",
        "--csv",
        str(tmp_path / "day.csv"),
        "--plot",
        str(tmp_path / "day.svg"),
    ]
    assert main(["sim", "day", *FAST, *words]) == 0
    out = capsys.readouterr().out
    assert "balance to the bit" in out and "left over" in out and "memory" in out
    assert "<svg" in (tmp_path / "day.svg").read_text()
    assert int(rows_of(tmp_path / "day.csv")[-1]["resident_bytes"]) > 0


@pytest.mark.parametrize("words", [["sweep", "--over", "distance", "0", "10", "2"], ["day"]])
def test_without_matplotlib_nothing_begins(
    words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    find = importlib.util.find_spec

    def none_found(name: str, package: str | None = None) -> Any:
        return None if name == "matplotlib" else find(name, package)

    def never(*_: object) -> None:
        raise AssertionError("the work began")

    monkeypatch.setattr(importlib.util, "find_spec", none_found)
    monkeypatch.setattr(SimulatedLink, "block", never)
    assert main(["sim", *words, "--plot", str(tmp_path / "rate.png")]) == 1
    assert "host.plot" in capsys.readouterr().err and not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (["sweep", "--over", "distance", "0", "10", "2", "--plot", "rate.jpeg"], "config.value"),
        (["sweep", "--over", "distance", "0", "2000", "2"], "config.value"),
        (["sweep", "--over", "intensity", "0", "1", "2"], "config.value"),
        (["run", "--csv", "/nowhere/at/all.csv"], "file.missing"),
        (["run", "--attack", "intercept"], "config.value"),
        (["run", "--set", "fibre.length=3"], "config.unknown-key"),
        (["run", "--set", "source.intensities=0.1,0.4"], "config.value"),
        (["run", "--set", "epsilon_sec=0"], "config.value"),
    ],
)
def test_what_is_refused(words: list[str], code: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["sim", *words]) == 1
    assert code in capsys.readouterr().err


def test_ctrl_c_shows_what_there_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    block = SimulatedLink.block

    def interrupted(self: SimulatedLink, *how: Any) -> Any:
        if self.blocks == 1:
            raise KeyboardInterrupt
        return block(self, *how)

    monkeypatch.setattr(SimulatedLink, "block", interrupted)
    assert main(["sim", "run", *FAST, "--csv", str(tmp_path / "run.csv")]) == 130
    out = capsys.readouterr().out
    assert "Interrupted after 1 of 4 blocks" in out and "1 of 1 kept" in out
    assert len(rows_of(tmp_path / "run.csv")) == 1
    assert main(["sim", "day", *FAST, "--csv", str(tmp_path / "day.csv")]) == 130
    out = capsys.readouterr().out
    assert "Interrupted" in out and "balance to the bit" in out and len(rows_of(tmp_path / "day.csv")) == 1
    assert main(["sim", "sweep", *FAST, "--over", "distance", "10", "20", "3"]) == 130
    assert "Interrupted after 0 of 3 steps" in capsys.readouterr().out


@pytest.mark.parametrize("rate", ["1GHz", "250 kHz", "2e6", "3mhz"])
def test_rates(rate: str, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["sim", "run", "--rate", rate, "--length", "10", "--set", "block_clicks=10000", "--blocks", "1"]
    assert main(words) == 0
    shown = {"1GHz": "1 GHz", "250 kHz": "250 kHz", "2e6": "2 MHz", "3mhz": "3 MHz"}[rate]
    assert shown in capsys.readouterr().out
    assert main(["sim", "run", "--rate", "fast"]) == 2


def test_help(capsys: pytest.CaptureFixture[str]) -> None:
    for words in ([], ["run"], ["sweep"], ["day"]):
        assert main(["sim", *words, "--help"]) == 0
        assert "Examples" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (["day", "--attack", "blnding"], 1, "Did you mean blinding?"),
        (["day", "--fraction", "0.5"], 2, "--fraction needs --attack"),
        (["run", "--fraction", "0.5"], 2, "--fraction needs --attack"),
        (["run", "--csv", "/"], 1, "cannot be written"),
    ],
)
def test_mistakes_are_told_before_the_work_begins(
    words: list[str], code: int, says: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(SimulatedLink, "block", lambda *_: pytest.fail("it began"))
    assert main(["sim", *words]) == code
    assert says in capsys.readouterr().err


def test_looking_at_a_file_leaves_it_as_it_is(tmp_path: Path) -> None:
    there, new = tmp_path / "there.csv", tmp_path / "new.csv"
    there.write_text("kept")
    check_output(there)
    check_output(new)
    assert there.read_text() == "kept" and not new.exists()


def test_a_sweep_says_why_there_is_no_key(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--length", "10", "--set", "block_clicks=20000", "--seed", "7", "--over", "distance", "0", "5", "2"]
    assert main(["sim", "sweep", *words]) == 0
    assert "blocks dropped: 2 × no key" in capsys.readouterr().out
