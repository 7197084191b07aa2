"""Links in the configuration, and what tunnels may take of them."""

import dataclasses
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qhybridd.config import ConfigError, Difference, Endpoint, LinkConfig, changes, load_config, parse_config
from qhybridd.config.places import Places
from qhybridd.crypto.identity import Identity
from qhybridd.crypto.levels import Level
from qhybridd.daemon.site import LinkSite, load_site, policy_of
from qhybridd.distill.authenticate import Role
from qhybridd.distill.terms import Bound
from qhybridd.errors import OperatorError
from qhybridd.keyfiles import create_identity
from qhybridd.optics.parameters import Detector, Fibre, Optics, Receiver, Source
from qhybridd.peerfile import export_peer
from qhybridd.secret import Secret
from tests.unit.test_config import OTHER_KEY, SOURCE, TUNNEL, as_toml, problems, the_problem, tunnel

LINK = """
[link.fibre]
peer = "berlin"
role = "alice"
psk = "fibre.psk"
photons = "192.0.2.1:7421"
"""
SIMULATED = "\n[link.fibre.simulation]\n"
RECORDS = {"source": Source, "fibre": Fibre, "receiver": Receiver}
QKD = ('qkd = "fibre"', "simulated = true")


def link(*lines: str, without: str = "", simulation: str = SIMULATED) -> str:
    """The least link with `lines` added; they begin at line 7 of the text."""
    kept = [line for line in LINK.splitlines() if not without or not line.startswith(without)]
    return "\n".join([*kept, *lines]) + simulation


# ---- what is taken


def test_the_least_link_has_the_defaults_of_the_record() -> None:
    assert parse_config(link(), SOURCE).links == {
        "fibre": LinkConfig(
            "fibre", "berlin", Role.ALICE, Path("/etc/qhybridd/fibre.psk"), Endpoint("192.0.2.1", 7421), Optics()
        )
    }


def test_every_key_of_a_link_is_read() -> None:
    text = """
[link.long-haul]
peer = "tokyo"
role = "bob"
psk = "/srv/link.psk"
photons = "alice.example:7500"
bound = "lim"
epsilon_sec = 1e-9
epsilon_cor = 1e-12
qber_most = 0.05
block_clicks = 2_000_000
capacity_keys = 512
max_age = "20s"
[link.long-haul.simulation.source]
intensities = [0.5, 0.1, 0]
intensity_probabilities = [0.6, 0.3, 0.1]
key_basis_probability = 0.9
repetition_hz = 250e6
intensity_spread = 0.02
[link.long-haul.simulation.fibre]
length_km = 25
connectors = 4
[link.long-haul.simulation.receiver]
loss_db = 3
[[link.long-haul.simulation.receiver.detectors]]
efficiency = 0.25
[[link.long-haul.simulation.receiver.detectors]]
dark_hz = 100
gate_offset_ps = -15
"""
    assert parse_config(text, SOURCE).links["long-haul"] == LinkConfig(
        name="long-haul",
        peer="tokyo",
        role=Role.BOB,
        psk=Path("/srv/link.psk"),
        photons=Endpoint("alice.example", 7500),
        simulation=Optics(
            Source((0.5, 0.1, 0.0), (0.6, 0.3, 0.1), 0.9, 250e6, 0.02),
            Fibre(length_km=25.0, connectors=4),
            Receiver(loss_db=3.0, detectors=(Detector(efficiency=0.25), Detector(dark_hz=100.0, gate_offset_ps=-15.0))),
        ),
        bound=Bound.LIM,
        epsilon_sec=1e-9,
        epsilon_cor=1e-12,
        qber_most=0.05,
        block_clicks=2_000_000,
        capacity_bits=512 * 256,
        max_age_s=20,
    )


def _fields() -> list[tuple[str, str]]:
    records = {**RECORDS, "detectors": Detector}
    return [
        (table, field.name)
        for table, kind in records.items()
        for field in dataclasses.fields(kind)
        if field.name != "detectors"
    ]


@pytest.mark.parametrize(("table", "key"), _fields())
def test_every_number_of_the_simulation_can_be_written(table: str, key: str) -> None:
    """As the records have it by default, written out; and a word in its place is refused at its line."""
    path = f"link.fibre.simulation.{table}"
    head, kind = f"[{path}]", RECORDS.get(table)
    value = getattr(kind() if kind else Detector(), key)
    shown = list(value) if isinstance(value, tuple) else value
    other = ""
    if table == "detectors":
        head = "[[link.fibre.simulation.receiver.detectors]]"
        other = f"{head}\n"
    written = parse_config(link(simulation=f"\n{head}\n{key} = {shown}\n{other}"), SOURCE).links["fibre"].simulation
    if table == "detectors":
        assert written.receiver.detectors == (Detector(), Detector())
    else:
        assert written == Optics()
    error = the_problem(link(simulation=f'\n{head}\n{key} = "x"\n{other}'))
    assert (error.code, error.where) == ("config.value", f"{SOURCE}:8")
    assert error.message.endswith("a list of numbers" if isinstance(value, tuple) else "number")
    assert key in error.hint


def test_the_bounds_of_a_range_are_within_it() -> None:
    for key, least, most in (("block_clicks", 10_000, 1 << 26), ("capacity_keys", 16, 1 << 20)):
        for value in (least, most):
            assert parse_config(link(f"{key} = {value}"), SOURCE)
        for value in (least - 1, most + 1):
            assert f"between {least} and {most}" in the_problem(link(f"{key} = {value}")).message


# ---- what is refused


@pytest.mark.parametrize("key", ["peer", "role", "psk", "photons"])
def test_what_a_link_cannot_be_without(key: str) -> None:
    error = the_problem(link(without=key))
    assert error.message == f"link.fibre: the key `{key}` is missing"
    assert error.where == f"{SOURCE}:2"


@pytest.mark.parametrize(
    ("line", "message", "hint"),
    [
        ('role = "eve"', "no end of a link", "alice"),
        ('photons = "192.0.2.1"', "names no port", ":7421"),
        ('photons = "gw.example:7421"', "listening needs an address", "address"),
        ('bound = "rusc"', "is no bound", '"rusca"'),
        ("epsilon_sec = 0.0", "wanted is a number", ""),
        ("epsilon_cor = 2", "wanted is a number", ""),
        ('epsilon_sec = "small"', "must be a number", "1e-10"),
        ("qber_most = 0.5", "below 0.5", ""),
        ("qber_most = nan", "below 0.5", ""),
        ("block_clicks = 9999", "is not between 10000 and", ""),
        ("block_clicks = 1e6", "must be a whole number", "without a point"),
        ("capacity_keys = 15", "is not between 16 and", ""),
        ("capacity_keys = 2_000_000", "is not between 16 and", ""),
        ("max_age = 3600", "must be a string", '"3600s"'),
        ('max_age = "25h"', "not between", ""),
        ("capacty_keys = 64", "no such key", '"capacity_keys"'),
        ("seed = 1", "no such key", ""),
    ],
)
def test_a_wrong_key_is_found(line: str, message: str, hint: str) -> None:
    key = line.partition(" ")[0]
    error = the_problem(link(line, without=key))
    assert message in error.message and hint in error.hint
    assert error.message.startswith(f"link.fibre.{key}")
    text = link(line, without=key).splitlines()
    assert error.where == f"{SOURCE}:{text.index(line) + 1}"


@pytest.mark.parametrize(
    ("table", "line", "message"),
    [
        ("source", "repetition_hz = 1e20", "from 1000 to 1e+11"),
        ("source", "repetition_hz = inf", "from 1000 to 1e+11"),
        ("source", "intensities = [0.4]", "as many probabilities"),
        ("source", "intensities = [0.1, 0.4]", "the brightest first"),
        ("source", "intensities = [0.4, true]", "a list of numbers"),
        ("source", "intensities = [0.4, 0.4]", "a signal brighter than the decoy"),
        ("source", "intensity_probabilities = [0.5, 0.6]", "sum of 1"),
        ("source", "key_basis_probability = 1.0", "below 1"),
        ("fibre", "length_km = -1", "from 0 to 1000"),
        ("fibre", "connectors = 1.5", "a whole number"),
        ("fibre", "length = 3", "no such key"),
        ("receiver", "visibility = 1.1", "from 0 to 1"),
        ("receiver", "detectors = 3", "must be a list"),
        ("receiver", "detectors = [1, 2]", "an array of tables"),
    ],
)
def test_a_wrong_number_of_the_simulation_is_found(table: str, line: str, message: str) -> None:
    error = the_problem(link(simulation=f"\n[link.fibre.simulation.{table}]\n{line}\n"))
    assert message in error.message
    assert error.message.startswith(f"link.fibre.simulation.{table}.{line.partition(' ')[0]}: ")
    assert error.where == f"{SOURCE}:8"


def test_all_that_is_wrong_with_one_record_is_told_at_once() -> None:
    simulation = "\n[link.fibre.simulation.fibre]\nlength_km = -1\nloss_db_per_km = -1\nconnectors = 2\nsplice_db = 9\n"
    found = problems(link(simulation=simulation))
    assert [error.where for error in found] == [f"{SOURCE}:{line}" for line in (8, 9, 11)]


def test_a_link_is_simulated_and_says_so() -> None:
    error = the_problem(link(simulation=""))
    assert "every link is simulated" in error.message and "[link.fibre.simulation]" in error.hint
    error = the_problem(link("simulation = true", simulation=""))
    assert (error.where, "must be a table" in error.message) == (f"{SOURCE}:7", True)
    assert "[link.fibre.simulation]" in error.hint


def test_a_simulation_has_three_tables() -> None:
    error = the_problem(link(simulation=f"{SIMULATED}seed = 1\n"))
    assert (error.code, error.where) == ("config.unknown-key", f"{SOURCE}:8")
    error = the_problem(link(simulation="\n[link.fibre.simulation.fiber]\n"))
    assert error.hint == 'Did you mean "fibre"?'


@pytest.mark.parametrize("count", [1, 3])
def test_a_receiver_has_two_detectors(count: int) -> None:
    table = "\n[[link.fibre.simulation.receiver.detectors]]\nefficiency = 0.1\n"
    error = the_problem(link(simulation=table * count))
    assert f"two detectors, not {count}" in error.message


def test_the_finger_points_at_the_detector() -> None:
    table = "\n[[link.fibre.simulation.receiver.detectors]]\n"
    found = problems(link(simulation=f"{table}efficiency = 0.1\ndark = 1{table}efficiency = 7\n"))
    assert [(error.where, error.code) for error in found] == [
        (f"{SOURCE}:9", "config.unknown-key"),
        (f"{SOURCE}:11", "config.value"),
    ]
    assert found[0].hint == 'Did you mean "dark_hz"?'
    assert "detectors.1.efficiency" in found[1].message


def test_the_number_of_decoys_is_the_bounds() -> None:
    error = the_problem(link('bound = "wiesemann-2"'))
    assert "3 of them for the bound wiesemann-2" in error.message and "source.intensities" in error.message


def test_two_links_do_not_listen_in_one_place() -> None:
    second = link().replace("[link.fibre", "[link.other")
    error = the_problem(link() + second)
    assert (error.code, error.where) == ("config.duplicate", f"{SOURCE}:13")
    assert "link fibre" in error.message
    assert the_problem(link() + second.replace("192.0.2.1", "0.0.0.0")).code == "config.duplicate"
    parse_config(link() + second.replace("7421", "7422"), SOURCE)
    parse_config(link() + second.replace("192.0.2.1", "192.0.2.9"), SOURCE)
    parse_config((link() + second).replace('"alice"', '"bob"'), SOURCE)  # dialling, both may go to one host
    assert "gateway.listen" in the_problem(link().replace("7421", "7420")).message


def test_a_link_has_a_name_that_the_wire_takes() -> None:
    error = the_problem(link().replace("link.fibre", 'link."a b"'))
    assert "cannot be the name of a link" in error.message
    assert "Every link has a table" in the_problem('[link]\nfibre = "x"\n').hint


# ---- what tunnels take


def test_a_tunnel_takes_the_keys_of_a_simulated_link_where_that_is_written() -> None:
    strict = tunnel(*QKD, without="least") + link()
    read = parse_config(strict, SOURCE).tunnels["wan"]
    assert (read.least, read.qkd, read.simulated) == (Level.HYBRID, "fibre", True)
    assert policy_of(read).qkd
    for least in ("hybrid", "pqc"):
        text = tunnel(f'least = "{least}"', 'qkd = "fibre"', without="least") + link()
        error = the_problem(text)
        assert (error.code, error.where) == ("source.simulated", f"{SOURCE}:8")
        assert "simulated = true" in error.hint
        assert the_problem(text.replace('qkd = "fibre"', 'qkd = "fibre"\nsimulated = false')) is not None
        parse_config(text.replace('qkd = "fibre"', 'qkd = "fibre"\nsimulated = true'), SOURCE)


def test_without_a_link_a_tunnel_is_not_hybrid() -> None:
    assert not policy_of(parse_config(TUNNEL, SOURCE).tunnels["wan"]).qkd
    error = the_problem(tunnel(without="least") + link())
    assert error.code == "source.none" and 'qkd = "LINK"' in error.hint and 'least = "pqc"' in error.hint
    error = the_problem(tunnel("simulated = true"))
    assert (error.code, error.where) == ("config.value", f"{SOURCE}:8")
    assert the_problem(tunnel('simulated = "yes"')).hint.endswith("simulated = true.")
    error = the_problem(tunnel('least = "classical"', *QKD, without="least") + link())
    assert error.code == "config.policy"


def test_the_link_of_a_tunnel_leads_to_its_peer() -> None:
    error = the_problem(tunnel(*QKD) + link().replace("berlin", "tokyo"))
    assert (error.code, error.where) == ("config.reference", f"{SOURCE}:8")
    assert "leads to tokyo" in error.message
    error = the_problem(tunnel('qkd = "fiber"', "simulated = true") + link())
    assert (error.code, error.hint) == ("config.reference", 'Did you mean "fibre"?')
    error = the_problem(tunnel(*QKD))
    assert error.hint == "Define it: `[link.fibre]`."


# ---- the files around it


def site(tmp_path: Path, text: str) -> Path:
    """A configuration with all of its files."""
    (tmp_path / "peers").mkdir()
    create_identity(tmp_path / "identity.key", Identity.generate())
    (tmp_path / "peers/berlin.peer").write_text(export_peer(Identity.generate(), "berlin", ()))
    psk = tmp_path / "fibre.psk"
    psk.touch(mode=0o600)
    psk.write_text(OTHER_KEY + "\n")
    path = tmp_path / "q.toml"
    path.write_text('[gateway]\nidentity = "identity.key"\npeers = "peers"\n' + text)
    return path


def test_the_psk_is_read_with_the_site(tmp_path: Path) -> None:
    loaded = load_site(site(tmp_path, tunnel(*QKD) + link()))
    assert loaded.links == {"fibre": LinkSite(loaded.config.links["fibre"], Secret.adopt(bytearray(b"y" * 32)))}


def test_a_psk_that_others_can_read_is_refused(tmp_path: Path) -> None:
    path = site(tmp_path, link())
    (tmp_path / "fibre.psk").chmod(0o640)
    with pytest.raises(OperatorError) as caught:
        load_site(path)
    assert (caught.value.code, caught.value.where) == ("file.mode", str(tmp_path / "fibre.psk"))


def test_a_missing_psk_is_named(tmp_path: Path) -> None:
    path = site(tmp_path, link())
    (tmp_path / "fibre.psk").unlink()
    with pytest.raises(ConfigError) as caught:
        load_config(path)
    (error,) = caught.value.problems
    assert (error.code, error.where) == ("file.missing", f"{path}:8") and "wg genpsk" in error.hint


def test_a_link_leads_to_a_known_peer(tmp_path: Path) -> None:
    path = site(tmp_path, link().replace("berlin", "berlim"))
    with pytest.raises(ConfigError) as caught:
        load_config(path)
    (error,) = caught.value.problems
    assert (error.code, error.hint) == ("config.reference", 'Did you mean "berlin"?')
    assert error.message.startswith("link.fibre.peer")


# ---- reload, lines, noise


def test_changed_links_are_told() -> None:
    old = parse_config(link(), SOURCE)
    assert not changes(old, parse_config(link(), SOURCE))
    longer = parse_config(link(simulation="\n[link.fibre.simulation.fibre]\nlength_km = 51\n"), SOURCE)
    assert changes(old, longer).links == Difference(changed=("fibre",))
    assert changes(old, longer)
    other = parse_config(link().replace("link.fibre", "link.other"), SOURCE)
    assert changes(old, other).links == Difference(added=("other",), removed=("fibre",))


def test_places_tell_the_tables_of_an_array_apart() -> None:
    places = Places("[[a.b]]\nx = 1\n[[a.b]]\nx = 2\n\n[c]\ny = 1\n[[ a . b ]]\nz = 3\n")
    assert [places.line("a", "b", str(index), "x") for index in (0, 1)] == [2, 4]
    assert (places.line("a", "b", "2", "z"), places.line("a", "b"), places.line("a", "b", "3")) == (9, 1, 1)
    assert places.line("c", "y") == 7


numbers = st.integers() | st.floats() | st.booleans() | st.sampled_from(["1", ""])
keys = st.sampled_from([name for _, name in _fields()] + ["detectors", "x"])
tables = st.sampled_from(["", ".source", ".fibre", ".receiver"])


@given(st.dictionaries(keys, numbers | st.lists(numbers, max_size=4), max_size=6), tables)
def test_no_number_breaks_the_parser(pairs: dict[str, object], table: str) -> None:
    lines = "".join(f"{key} = {as_toml(value)}\n" for key, value in pairs.items())
    try:
        parse_config(link(simulation=f"\n[link.fibre.simulation{table}]\n{lines}"), SOURCE)
    except ConfigError as error:
        assert all(problem.where.startswith(f"{SOURCE}:") for problem in error.problems)
