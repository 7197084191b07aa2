"""Where a table or a key stands in a TOML text, by line.

tomllib gives no positions. This scanner runs over a text that tomllib accepted, finds `[table]` headers and `key =`
lines, and steps over strings, arrays and inline tables. The tables of an array count from 0: the first `[[a.b]]` is
("a", "b", "0"). What stands inside an inline table is not looked into; `line` then falls back to the innermost thing
around it that was found, so that it may be coarse but not wrong.
"""

import re
import tomllib
from typing import Final

Path = tuple[str, ...]

_KEY: Final = r"""(?:[A-Za-z0-9_-]+|"(?:[^"\\\n]|\\.)*"|'[^'\n]*')"""
_DOTTED: Final = rf"{_KEY}(?:[ \t]*\.[ \t]*{_KEY})*"
_HEADER: Final = re.compile(rf"[ \t]*(\[{{1,2}})[ \t]*({_DOTTED})[ \t]*\]{{1,2}}")
_ASSIGN: Final = re.compile(rf"[ \t]*({_DOTTED})[ \t]*=")
_BARE: Final = re.compile(r"[A-Za-z0-9_.-]+")
MAX_DEPTH: Final = 8
"""Parts of a dotted key that are remembered; the schema has seven."""
# What may stand in a value: strings first, since brackets and `#` inside them mean nothing.
_TOKEN: Final = re.compile(
    r'"""(?:[^"\\]|\\.|"(?!""))*"{3,5}'
    r"|'''(?:[^']|'(?!''))*'{3,5}"
    r'|"(?:[^"\\\n]|\\.)*"'
    r"|'[^'\n]*'"
    r"|\#[^\n]*|[\[\]{}]|\n",
    re.DOTALL,
)


class Places:
    """The lines of one file's tables and keys."""

    __slots__ = ("_lines", "innermost", "last_table")

    def __init__(self, text: str) -> None:
        self._lines, self.last_table = _scan(text.replace("\r\n", "\n"))
        self.innermost: Path = next(reversed(self._lines), ())
        """The full path of what was found last."""

    def line(self, *path: str) -> int:
        """The line, from 1, of the key or table at `path`, or of the innermost thing around it; 0: unknown."""
        for size in range(len(path), 0, -1):
            found = self._lines.get(path[:size])
            if found is not None:
                return found
        return 0


def _scan(text: str) -> tuple[dict[Path, int], Path]:
    """The first line of each dotted path, and the table that the text ends in.

    One pass; a line that is neither header nor assignment is stepped over.
    """
    lines: dict[Path, int] = {}
    table: Path = ()
    members: dict[Path, int] = {}
    at = 0
    line = 1
    while at < len(text):
        header = _HEADER.match(text, at)
        assign = None if header else _ASSIGN.match(text, at)
        if header:
            table = _split(header[2])
            if header[1] == "[[":
                members[table] = members.get(table, -1) + 1
                table = (*table, str(members[table]))
            _note(lines, table, line)
            at = header.end()
        elif assign:
            _note(lines, table + _split(assign[1]), line)
            at = assign.end()
        at, line = _step_over(text, at, line)
    return lines, table


def _note(lines: dict[Path, int], path: Path, line: int) -> None:
    """Remember where `path` and, if new, what is around it begins."""
    for size in range(1, len(path) + 1):
        lines.setdefault(path[:size], line)


def _step_over(text: str, at: int, line: int) -> tuple[int, int]:
    """Go to the start of the next line that is not inside a string, an array or an inline table."""
    depth = 0
    for token in _TOKEN.finditer(text, at):
        what = token[0]
        line += what.count("\n")
        if what in ("[", "{"):
            depth += 1
        elif what in ("]", "}"):
            depth -= 1
        elif what == "\n" and depth <= 0:
            return token.end(), line
    return len(text), line


def _split(dotted: str) -> Path:
    """The first parts of a dotted key, unquoted by tomllib itself where they are quoted."""
    if _BARE.fullmatch(dotted):
        return tuple(dotted.split(".", MAX_DEPTH)[:MAX_DEPTH])
    try:
        table: object = tomllib.loads(f"{dotted} = 0")
    except tomllib.TOMLDecodeError:
        return (dotted,)
    parts: list[str] = []
    while isinstance(table, dict):
        key, table = next(iter(table.items()))
        parts.append(key)
    return tuple(parts[:MAX_DEPTH])
