"""What the log shows, and what it must not."""

import json
from collections.abc import Iterator

import pytest
import structlog

from qhybridd.errors import OperatorError
from qhybridd.telemetry.log import open_log


@pytest.fixture(autouse=True)
def _forget() -> Iterator[None]:
    """The process's log must not go on to the stream that was captured here, which is closed by then."""
    yield
    structlog.reset_defaults()


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
