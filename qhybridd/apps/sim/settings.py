"""What link is simulated: the defaults, a link of a configuration, and single parameters that were changed.

Parameters have the names that they have in a configuration (docs/config.md).
"""

from collections.abc import Callable, Iterable
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, Final

from qhybridd.config import values
from qhybridd.config.links import (
    BLOCK_CLICKS_LEAST,
    BLOCK_CLICKS_MOST,
    CAPACITY_KEYS_LEAST,
    CAPACITY_KEYS_MOST,
    NUMBERS,
)
from qhybridd.config.load import parse_config, read_text
from qhybridd.config.records import KEY_BITS, Endpoint, LinkConfig
from qhybridd.distill.authenticate import Role
from qhybridd.distill.terms import Bound
from qhybridd.errors import OperatorError
from qhybridd.optics.parameters import Detector, Fibre, Optics, Receiver, Source

NAME: Final = "sim"
COUNT_MOST: Final = 1000
"""Of anything that is counted: each record has its own limits below that."""
RECORDS: Final[dict[str, type]] = {"source": Source, "fibre": Fibre, "receiver": Receiver, "detectors": Detector}


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise OperatorError("config.value", f"{text!r} is no number") from None


def _whole(least: int, most: int) -> Callable[[str], int]:
    def read(text: str) -> int:
        number = _number(text)
        if not (least <= number <= most and number.is_integer()):
            raise OperatorError("config.value", f"wanted is a whole number from {least} to {most}")
        return int(number)

    return read


def _capacity(text: str) -> int:
    return KEY_BITS * _whole(CAPACITY_KEYS_LEAST, CAPACITY_KEYS_MOST)(text)


def _bound(text: str) -> Bound:
    try:
        return Bound(text)
    except ValueError:
        known = tuple(bound.value for bound in Bound)
        raise OperatorError("config.value", f"one of {', '.join(known)}", hint=values.nearest(text, known)) from None


LINK_KEYS: Final[dict[str, tuple[str, Callable[[str], object]]]] = {
    "bound": ("bound", _bound),
    "epsilon_sec": ("epsilon_sec", _number),
    "epsilon_cor": ("epsilon_cor", _number),
    "qber_most": ("qber_most", _number),
    "block_clicks": ("block_clicks", _whole(BLOCK_CLICKS_LEAST, BLOCK_CLICKS_MOST)),
    "capacity_keys": ("capacity_bits", _capacity),
    "max_age": ("max_age_s", values.duration),
}
"""Keys of a link itself: the field of its record, and how the value is read."""


def default_link() -> LinkConfig:
    """A link with every default. There is no peer, and no file is opened."""
    return LinkConfig(NAME, NAME, Role.ALICE, Path(), Endpoint("", 0))


def link_of(file: Path, name: str) -> LinkConfig:
    """A link of a configuration, of which no other file is opened. Raises `OperatorError`."""
    links = parse_config(read_text(file), file).links
    if name not in links:
        hint = values.nearest(name, tuple(links)) if links else "It has no link: see docs/config.md for an example."
        raise OperatorError("config.reference", f"there is no link {name!r}", where=str(file), hint=hint)
    return links[name]


def change(link: LinkConfig, settings: Iterable[str]) -> LinkConfig:
    """The link with parameters changed, each `KEY=VALUE`, all at once. Raises `OperatorError` (config.*).

    `detectors.KEY` changes both detectors, `detectors.0.KEY` the one for the bit 0; lists have commas.
    """
    optics, own = link.simulation, {}
    changes: dict[str, dict[str, object]] = {}
    for setting in settings:
        key, equals, text = setting.partition("=")
        if not equals:
            raise OperatorError("config.value", f"{setting}: wanted is KEY=VALUE", hint="E.g. fibre.length_km=80.")
        group, _, field = key.rpartition(".")
        try:
            if not group and key in LINK_KEYS:
                field, read = LINK_KEYS[key]
                own[field] = read(text)
            else:
                changes.setdefault(group, {})[field] = _read(_record_of(group, key), field, key, text)
        except OperatorError as error:
            raise _at(key, error) from None
    return replace(link, simulation=_change_optics(optics, changes), **own)  # type: ignore[arg-type]  # checked above


def at_rate(link: LinkConfig, repetition_hz: float) -> LinkConfig:
    """The same gates opened more or less often: what a gate does by itself, dark counts, stays as it is.

    Raises `OperatorError` for a rate that no source has.
    """
    optics = link.simulation
    faster = repetition_hz / optics.source.repetition_hz
    source = _replace(optics.source, "source", {"repetition_hz": repetition_hz})
    first, second = (replace(one, dark_hz=one.dark_hz * faster) for one in optics.receiver.detectors)
    receiver = replace(optics.receiver, detectors=(first, second))
    return replace(link, simulation=replace(optics, source=source, receiver=receiver))


def parameters() -> list[str]:
    """The names of all parameters that `change` takes."""
    optical = [f"{group}.{field.name}" for group, record in RECORDS.items() for field in _numbers_of(record)]
    return optical + list(LINK_KEYS)


def _change_optics(optics: Optics, changes: dict[str, dict[str, Any]]) -> Optics:
    receiver = optics.receiver
    first, second = receiver.detectors
    first = _replace(first, "detectors", changes.get("detectors", {}) | changes.get("detectors.0", {}))
    second = _replace(second, "detectors", changes.get("detectors", {}) | changes.get("detectors.1", {}))
    return Optics(
        _replace(optics.source, "source", changes.get("source", {})),
        _replace(optics.fibre, "fibre", changes.get("fibre", {})),
        _replace(receiver, "receiver", changes.get("receiver", {}) | {"detectors": (first, second)}),
    )


def _replace(record: Any, group: str, changed: dict[str, Any]) -> Any:
    try:
        return replace(record, **changed)
    except OperatorError as error:
        raise OperatorError(error.code, f"{group}.{error.message}", hint=error.hint) from None


def _record_of(group: str, key: str) -> type:
    name, _, number = group.partition(".")
    if name not in RECORDS or number not in ({"", "0", "1"} if name == "detectors" else {""}):
        raise OperatorError("config.unknown-key", "no such parameter", hint=values.nearest(key, tuple(parameters())))
    return RECORDS[name]


def _numbers_of(record: type) -> list[Any]:
    return [field for field in fields(record) if field.name != "detectors"]


def _read(record: type, name: str, key: str, text: str) -> object:
    found = {field.name: field.type for field in _numbers_of(record)}
    if name not in found:
        raise OperatorError("config.unknown-key", "no such parameter", hint=values.nearest(key, tuple(parameters())))
    if found[name] == NUMBERS:
        return tuple(_number(part) for part in text.split(","))
    return _whole(0, COUNT_MOST)(text) if found[name] is int else _number(text)


def _at(key: str, error: OperatorError) -> OperatorError:
    return OperatorError(error.code, f"{key}: {error.message}", hint=error.hint)
