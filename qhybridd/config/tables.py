"""Reading one TOML table strictly: every key is asked for by name and type, and what nobody asked for is refused.

Nothing raises here: each problem is noted with its file and line, so that one run shows all of them.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, TypeVar

import msgspec

from qhybridd.config.places import Places
from qhybridd.config.values import duration, nearest
from qhybridd.config.values import path as read_path
from qhybridd.errors import OperatorError

R = TypeVar("R")
T = TypeVar("T")

MAX_PROBLEMS: Final = 100
"""More than a reader will mend in one go."""
MAX_LIST: Final = 4096
"""Entries of one array."""

_KINDS: Final[dict[Any, tuple[str, str]]] = {
    str: ("a string in quotes", 'Put it in quotes, e.g. {key} = "{value}".'),
    int: ("a whole number", "Write it without quotes and without a point, e.g. {key} = 42."),
    float: ("a number", "Write it without quotes, e.g. {key} = 0.4 or {key} = 1e-10."),
    bool: ("true or false", "Write it without quotes: {key} = true."),
    tuple[float, ...]: ("a list of numbers", "Write numbers in brackets, e.g. {key} = [0.4, 0.12]."),
    dict: ("a table", "Write `[{key}]` on a line of its own, and its keys below."),
    list: ("a list", 'Put it in brackets, e.g. {key} = ["{value}"].'),
}


class Problems:
    """What is wrong with one file."""

    __slots__ = ("_found", "_noted", "places", "source")

    def __init__(self, source: Path, places: Places) -> None:
        self.source = source
        self.places = places
        self._found: list[tuple[int, OperatorError]] = []
        self._noted: set[tuple[str, ...]] = set()

    def where(self, *path: str) -> str:
        """`FILE:LINE` of the key or table at `path`, or the file alone."""
        line = self.places.line(*path)
        return f"{self.source}:{line}" if line else str(self.source)

    def add(self, path: tuple[str, ...], code: str, message: str, hint: str = "") -> None:
        """Note a problem with the key or table at `path`."""
        name = ".".join(path)
        text = f"{name}: {message}" if name else message
        self._noted.add(path)
        self._found.append((self.places.line(*path), OperatorError(code, text, where=self.where(*path), hint=hint)))

    def noted(self, *path: str) -> bool:
        """Whether something is wrong with just this key, so that its value is a stand-in."""
        return path in self._noted

    @property
    def found(self) -> tuple[OperatorError, ...]:
        """All of them in the order of the file, up to `MAX_PROBLEMS`."""
        return tuple(error for _, error in sorted(self._found, key=lambda pair: pair[0])[:MAX_PROBLEMS])


class Table:
    """One table of the file, at `path`."""

    __slots__ = ("_asked", "_raw", "path", "problems")

    def __init__(self, raw: dict[str, Any], path: tuple[str, ...], problems: Problems) -> None:
        self.path = path
        self.problems = problems
        self._raw = raw
        self._asked: list[str] = []

    def __contains__(self, key: str) -> bool:
        return key in self._raw

    def note(self, key: str, code: str, message: str, hint: str = "") -> None:
        """Note a problem with one key, or with the table itself when `key` is empty."""
        self.problems.add((*self.path, key) if key else self.path, code, message, hint)

    def get(self, key: str, kind: type[R], read: Callable[[R], T], default: T, *, hint: str = "") -> T:
        """The value of an optional key; `default` also when it is wrong, which is noted.

        `hint` replaces the usual one for a value of another kind; `{value}` in it stands for what was written.
        """
        self._asked.append(key)
        return self._read(key, kind, read, default, hint) if key in self._raw else default

    def need(self, key: str, kind: type[R], read: Callable[[R], T], stand_in: T) -> T:
        """The value of a key that must be there; `stand_in` when it is not or is wrong, which is noted."""
        self._asked.append(key)
        if key in self._raw:
            return self._read(key, kind, read, stand_in, "")
        self.note("", "config.value", f"the key `{key}` is missing", f"Add `{key} = …` to the table.")
        return stand_in

    def get_list(self, key: str, read: Callable[[str], T], default: tuple[T, ...]) -> tuple[T, ...]:
        """An optional array of strings, each read by `read`; a repeated one is noted."""
        return self.get(key, list, lambda items: self._read_list(key, items, read), default)

    def need_list(self, key: str, read: Callable[[str], T]) -> tuple[T, ...]:
        """An array of strings that must be there and hold something; empty when it is wrong, which is noted."""
        if self._raw.get(key) == []:
            self.note(key, "config.value", "the list is empty", "List at least one.")
        return self.need(key, list, lambda items: self._read_list(key, items, read), ())

    def refuse(self, key: str, hint: str) -> None:
        """Note a key that has no place in this table though it has one in others, if it is there."""
        self._asked.append(key)
        if key in self._raw:
            self.note(key, "config.unknown-key", "no such key here", hint)

    def get_path(self, key: str, default: Path) -> Path:
        """A path; a relative one counts from the directory of the file."""
        return self.get(key, str, self._resolve, default)

    def need_path(self, key: str) -> Path:
        """The same where there must be one; the file's own path is its stand-in."""
        return self.need(key, str, self._resolve, self.problems.source)

    def get_duration(self, key: str, default_s: int) -> int:
        """Seconds; a bare number gets the hint that it deserves."""
        return self.get(key, str, duration, default_s, hint='Write the unit: {key} = "{value}s".')

    def _resolve(self, text: str) -> Path:
        return self.problems.source.parent / read_path(text)

    def table(self, key: str) -> "Table | None":
        """An optional table under `key`."""
        hint = f"Write `[{'.'.join((*self.path, key))}]` on a line of its own, and its keys below."
        raw: dict[str, Any] | None = self.get(key, dict, lambda table: table, None, hint=hint)
        return None if raw is None else Table(raw, (*self.path, key), self.problems)

    def array(self, key: str) -> list["Table"]:
        """The tables of an optional array, `[[key]]` each; the path of the first one ends in `0`."""
        hint = f"Write `[[{'.'.join((*self.path, key))}]]` on a line of its own for each, and its keys below."
        items: list[Any] = self.get(key, list, lambda found: found, [], hint=hint)
        if not all(isinstance(item, dict) for item in items):
            self.note(key, "config.value", "this must be an array of tables", hint)
            return []
        return [Table(raw, (*self.path, key, str(index)), self.problems) for index, raw in enumerate(items)]

    def tables(self, key: str, name: Callable[[str], str]) -> list["Table"]:
        """The named tables under `key`, for instance `[peer.berlin]`; each name is checked."""
        self._asked.append(key)
        children = self._raw.get(key, {})
        path = (*self.path, key)
        if not isinstance(children, dict):
            self.problems.add(path, "config.value", "this is a table of tables", f"Write `[{key}.NAME]`.")
            return []
        found: list[Table] = []
        for child, raw in children.items():
            if not isinstance(raw, dict):
                self.problems.add(
                    (*path, child),
                    "config.unknown-key",
                    "no such key here",
                    f"Every {key} has a table: `[{key}.NAME]`.",
                )
                continue
            try:
                name(child)
            except OperatorError as error:
                self.problems.add((*path, child), error.code, error.message, error.hint)
            found.append(Table(raw, (*path, child), self.problems))
        return found

    def finish(self) -> None:
        """Note every key that nobody asked for."""
        for key, value in self._raw.items():
            if key not in self._asked:
                what = "no such table" if isinstance(value, dict) else "no such key"
                self.note(key, "config.unknown-key", what, nearest(key, tuple(self._asked)))

    def _read(self, key: str, kind: type[R], read: Callable[[R], T], default: T, hint: str) -> T:
        raw = self._raw[key]
        try:
            return read(msgspec.convert(raw, kind, strict=True))
        except msgspec.ValidationError:
            expected, usual = _KINDS[kind]
            shown = raw if isinstance(raw, str | int | float) and len(str(raw)) <= 64 else "…"
            self.note(key, "config.value", f"this must be {expected}", (hint or usual).format(key=key, value=shown))
        except OperatorError as error:
            self.note(key, error.code, error.message, error.hint)
        return default

    def _read_list(self, key: str, items: list[Any], read: Callable[[str], T]) -> tuple[T, ...]:
        """Each item by `read`; what is wrong is noted and left out."""
        if len(items) > MAX_LIST:
            self.note(key, "config.value", f"more than {MAX_LIST} entries", "Sum prefixes up, or split the tunnel.")
            return ()
        values: list[T] = []
        seen: set[T] = set()
        for item in items:
            if not isinstance(item, str):
                self.note(key, "config.value", f"the entry {item!r} must be a string", f'Write {key} = ["…", "…"].')
                continue
            try:
                value = read(item)
            except OperatorError as error:
                self.note(key, error.code, error.message, error.hint)
                continue
            if value in seen:
                self.note(key, "config.duplicate", f'"{item}" stands here twice', "Remove one of the two.")
            seen.add(value)
            values.append(value)
        return tuple(values)
