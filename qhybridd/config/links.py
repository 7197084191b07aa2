"""The `[link.NAME]` tables: a link's own keys, and its simulation, whose keys are the fields of its records."""

from dataclasses import fields
from typing import Any, Final, TypeVar

from qhybridd.config import values
from qhybridd.config.records import DEFAULT_PHOTON_PORT, KEY_BITS, Config, Endpoint, LinkConfig
from qhybridd.config.tables import Problems, Table
from qhybridd.distill.authenticate import Role
from qhybridd.distill.terms import Bound
from qhybridd.errors import OperatorError
from qhybridd.optics.parameters import Detector, Fibre, Optics, Receiver, Source

BLOCK_CLICKS_LEAST: Final = 10_000
"""Fewer give no key under any bound."""
BLOCK_CLICKS_MOST: Final = 1 << 26
"""Above it the messages of a block exceed what either end takes."""
CAPACITY_KEYS_LEAST: Final = 16
CAPACITY_KEYS_MOST: Final = 1 << 20
"""32 MiB of locked memory for each direction."""
ANY_HOST: Final = ("0.0.0.0", "::")  # noqa: S104 - compared with, not bound to
NUMBERS: Final = tuple[float, ...]

R = TypeVar("R", Source, Fibre, Receiver, Detector)


def read_link(table: Table) -> LinkConfig:
    """One link. What is wrong is noted, and has a stand-in."""
    stand_in = LinkConfig("", "", Role.ALICE, table.problems.source, Endpoint("", 0))
    role = table.need("role", str, _role, stand_in.role)
    link = LinkConfig(
        name=table.path[-1],
        peer=table.need("peer", str, values.peer_name, ""),
        role=role,
        psk=table.need_path("psk"),
        photons=table.need("photons", str, _listener if role is Role.ALICE else _endpoint, stand_in.photons),
        simulation=_read_simulation(table),
        bound=table.get("bound", str, _bound, stand_in.bound),
        epsilon_sec=table.get("epsilon_sec", float, float, stand_in.epsilon_sec),
        epsilon_cor=table.get("epsilon_cor", float, float, stand_in.epsilon_cor),
        qber_most=table.get("qber_most", float, float, stand_in.qber_most),
        block_clicks=table.get("block_clicks", int, _block_clicks, stand_in.block_clicks),
        capacity_bits=table.get("capacity_keys", int, _capacity_bits, stand_in.capacity_bits),
        max_age_s=table.get_duration("max_age", stand_in.max_age_s),
    )
    table.finish()
    return link


def _read_simulation(table: Table) -> Optics:
    simulation = table.table("simulation")
    if simulation is None:
        if not table.problems.noted(*table.path, "simulation"):
            hint = f"Write `[{'.'.join(table.path)}.simulation]` on a line of its own: it may be empty."
            message = "the table `simulation` is missing, and every link is simulated so far"
            table.note("", "config.value", message, hint)
        return Optics()
    source, fibre, receiver = (simulation.table(name) for name in ("source", "fibre", "receiver"))
    optics = Optics(
        _build(Source, source) if source else Source(),
        _build(Fibre, fibre) if fibre else Fibre(),
        _read_receiver(receiver) if receiver else Receiver(),
    )
    simulation.finish()
    return optics


def _read_receiver(table: Table) -> Receiver:
    tables = table.array("detectors")
    detectors = tuple(_build(Detector, detector) for detector in tables)
    if not detectors:
        return _build(Receiver, table)
    if len(detectors) != 2:
        hint = f"Write `[[{'.'.join(table.path)}.detectors]]` twice: for the bit 0 and for the bit 1."
        table.note("detectors", "config.value", f"a receiver has two detectors, not {len(detectors)}", hint)
        return _build(Receiver, table)
    return _build(Receiver, table, detectors=detectors)


def _build(kind: type[R], table: Table, **given: Any) -> R:
    """A record from the numbers of a table; each one that the record refuses is noted, and takes its default."""
    numbers: dict[str, Any] = {}
    for field in fields(kind):
        if field.name == "detectors":
            continue
        hint = "Write numbers in brackets, e.g. {key} = [0.4, 0.12]." if field.type == NUMBERS else ""
        number: Any = table.get(field.name, field.type, lambda value: value, None, hint=hint)  # type: ignore[arg-type]  # a real type: nothing defers annotations there
        if number is not None:
            numbers[field.name] = number
    table.finish()
    while True:
        try:
            return kind(**given, **numbers)
        except OperatorError as error:
            key, wanted = _refused(error)
            if not table.problems.noted(*table.path, key):
                table.note(key, error.code, wanted, error.hint)
            if numbers.pop(key, None) is None:
                return kind()


def check_links(config: Config, problems: Problems) -> None:
    """What must hold for each link, and between them."""
    listening: dict[int, list[tuple[str, str]]] = {}
    for endpoint in config.gateway.listen:
        listening.setdefault(endpoint.port, []).append((endpoint.host, "the control channel (gateway.listen)"))
    for link in config.links.values():
        path = ("link", link.name)
        _check_protocol(link, problems)
        if link.role is not Role.ALICE or problems.noted(*path, "photons") or problems.noted(*path, "role"):
            continue
        host, port = link.photons.host, link.photons.port
        taken = listening.setdefault(port, [])
        for other, whose in taken:
            if host == other or {host, other} & set(ANY_HOST):
                message = f'"{link.photons}" is taken by {whose}'
                hint = f"Each link listens on a port of its own: {DEFAULT_PHOTON_PORT}, {DEFAULT_PHOTON_PORT + 1}, …"
                problems.add((*path, "photons"), "config.duplicate", message, hint)
                break
        taken.append((host, f"link {link.name}"))


def _check_protocol(link: LinkConfig, problems: Problems) -> None:
    """Whether the key length's proof holds for what the source sends."""
    path = ("link", link.name)
    try:
        link.protocol  # noqa: B018 - making it is the check
    except OperatorError as error:
        key, wanted = _refused(error)
        source = key in Source.__dataclass_fields__
        at = (*path, "simulation", "source", key) if source else (*path, key)
        if not problems.noted(*at) and not problems.noted(*path, "simulation"):
            problems.add(at, error.code, wanted, error.hint)


def _refused(error: OperatorError) -> tuple[str, str]:
    """The key that a record refused, and why: its messages are `key: reason`."""
    key, _, wanted = error.message.partition(": ")
    return key, wanted


def _role(text: str) -> Role:
    for role in Role:
        if text == role.value:
            return role
    raise values.unfit(f'"{text}" is no end of a link', 'Write "alice" for the source or "bob" for the detectors.')


def _bound(text: str) -> Bound:
    for bound in Bound:
        if text == bound.value:
            return bound
    raise values.unfit(f'"{text}" is no bound', values.nearest(text, tuple(bound.value for bound in Bound)))


def _endpoint(text: str) -> Endpoint:
    return values.endpoint(text, DEFAULT_PHOTON_PORT)


def _listener(text: str) -> Endpoint:
    return values.listener(text, DEFAULT_PHOTON_PORT)


def _block_clicks(number: int) -> int:
    if not BLOCK_CLICKS_LEAST <= number <= BLOCK_CLICKS_MOST:
        raise values.unfit(f"{number} is not between {BLOCK_CLICKS_LEAST} and {BLOCK_CLICKS_MOST}")
    return number


def _capacity_bits(keys: int) -> int:
    if not CAPACITY_KEYS_LEAST <= keys <= CAPACITY_KEYS_MOST:
        raise values.unfit(f"{keys} is not between {CAPACITY_KEYS_LEAST} and {CAPACITY_KEYS_MOST}")
    return keys * KEY_BITS
