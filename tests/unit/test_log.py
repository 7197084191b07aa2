"""What the log shows, and what it must not."""

import json

import pytest

from qhybridd.errors import OperatorError
from qhybridd.telemetry.log import open_log


def fail(secret: bytes) -> None:
    raise ValueError(f"a bad key: {secret.hex()}")


def test_a_defect_is_told_by_kind_and_place_and_shows_no_value(capsys: pytest.CaptureFixture[str]) -> None:
    log = open_log("debug").bind(tunnel="wan")
    try:
        fail(b"\xab\xcd\xef" * 8)
    except ValueError as error:
        log.defect(error)
    text = capsys.readouterr().err
    line = json.loads(text)
    assert (line["event"], line["kind"], line["tunnel"]) == ("defect", "ValueError", "wan")
    assert line["frames"][-1].startswith("test_log.py:") and line["frames"][-1].endswith(" fail")
    assert "abcdef" not in text and "xab" not in text


def test_a_level_that_does_not_exist_is_the_operators_to_mend() -> None:
    with pytest.raises(OperatorError, match="verbose"):
        open_log("verbose")


def test_no_control_character_reaches_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    open_log().info("told", text="\x1b[31mred\n")
    assert json.loads(capsys.readouterr().err)["text"] == "?[31mred?"
