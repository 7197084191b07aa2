"""Every error code has a hint and a description, and is really used."""

import ast
import re
from pathlib import Path

from qhybridd import errors
from qhybridd.errors import CODES, HostError, OperatorError, PeerError, ProgramError, QhybriddError

ROOT = Path(__file__).parents[2]
CLASSES = (OperatorError, PeerError, HostError, ProgramError)
ERRORS = {kind.__name__ for kind in (QhybriddError, *CLASSES)}
AREAS = {code.split(".")[0] for code in CODES}
FILES = {"control.sock"}
"""Names of files that look like codes."""
CODE = re.compile(rf"(?:{'|'.join(sorted(AREAS))})\.[a-z]+(?:-[a-z]+)*")


def codes_used(source: str) -> set[str]:
    """The codes in `source`: what an error's constructor gets first, and every literal that looks like a code."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Constant) and is_code(node.value):
            found.add(node.value)
        if isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
            name = node.func.id if isinstance(node.func, ast.Name) else getattr(node.func, "attr", "")
            if name in ERRORS:
                found.add(node.args[0].value)
    return found


def is_code(value: object) -> bool:
    return isinstance(value, str) and value not in FILES and CODE.fullmatch(value) is not None


def test_every_code_in_the_source_is_known() -> None:
    sources = [path.read_text() for path in (ROOT / "qhybridd").rglob("*.py")]
    raised = set().union(*map(codes_used, sources))
    assert len(raised) > 20
    assert raised - CODES.keys() == set()


def test_an_unknown_code_is_seen() -> None:
    assert codes_used('raise OperatorError("file.lost", "text")') - CODES.keys() == {"file.lost"}
    assert codes_used('problems.add(path, "config.vaule", "text")') - CODES.keys() == {"config.vaule"}
    assert codes_used('raise PeerError("odd", "text")') - CODES.keys() == {"odd"}
    assert codes_used('raise errors.HostError("host.fire", f"{x}", where="")') - CODES.keys() == {"host.fire"}


def test_every_code_has_a_hint() -> None:
    for code, hint in CODES.items():
        assert is_code(code), code
        assert len(hint) > 10, code
        assert hint.rstrip().endswith((".", "?")), code


def test_every_code_is_documented_once() -> None:
    text = (ROOT / "docs" / "errors.md").read_text()
    rows = re.findall(r"^\| `([a-z.-]+)` \| (\w+) \| (.+?) \| (.+?) \|$", text, re.MULTILINE)
    assert sorted(code for code, *_ in rows) == sorted(CODES)
    blames = {kind.blame for kind in CLASSES}
    for code, blame, meaning, remedy in rows:
        assert blame in blames, code
        assert len(meaning) > 15, code
        assert len(remedy) > 15, code


def test_an_error_says_what_where_and_how_to_mend_it() -> None:
    error = OperatorError("file.exists", "the file is there", where="/etc/x")
    assert str(error) == "/etc/x: the file is there [file.exists]"
    assert error.hint == CODES["file.exists"]
    assert OperatorError("file.exists", "x", hint="own").hint == "own"


def test_each_class_names_somebody() -> None:
    for kind in CLASSES:
        assert issubclass(kind, QhybriddError)
    assert [kind.blame for kind in CLASSES] == ["operator", "peer", "host", "program"]
    assert errors.QhybriddError.blame == "program"
