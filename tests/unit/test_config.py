"""The configuration: what is taken, what is refused, and where the finger points."""

import os
import tomllib
from ipaddress import ip_network
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qhybridd.config import (
    Changes,
    Config,
    ConfigError,
    Difference,
    Endpoint,
    GatewayConfig,
    PeerConfig,
    TunnelConfig,
    WireGuardConfig,
    changes,
    load_config,
    load_gateway,
    parse_config,
)
from qhybridd.config.load import MAX_FILE_BYTES
from qhybridd.config.places import Places
from qhybridd.crypto.levels import Level
from qhybridd.errors import OperatorError

KEY = "eHh4eHh4eHh4eHh4eHh4eHh4eHh4eHh4eHh4eHh4eHg="
OTHER_KEY = "eXl5eXl5eXl5eXl5eXl5eXl5eXl5eXl5eXl5eXl5eXk="
SOURCE = Path("/etc/qhybridd/qhybridd.toml")
TUNNEL = f"""
[tunnel.wan]
peer = "berlin"
interface = "wg0"
wireguard_peer = "{KEY}"
protects = ["10.2.0.0/16"]
least = "pqc"
"""


def problems(text: str) -> list[OperatorError]:
    with pytest.raises(ConfigError) as caught:
        parse_config(text, SOURCE)
    return list(caught.value.problems)


def the_problem(text: str) -> OperatorError:
    found = problems(text)
    assert len(found) == 1, [str(error) for error in found]
    return found[0]


def tunnel(*lines: str, without: str = "") -> str:
    """The ordinary tunnel with `lines` added; they begin at line 8."""
    kept = [line for line in TUNNEL.splitlines() if not without or not line.startswith(without)]
    return "\n".join([*kept, *lines])


# ---- what is taken


def test_every_key_is_read() -> None:
    text = f"""
[gateway]
identity = "id.key"
peers = "/srv/peers"
listen = ["0.0.0.0:7420", "[::]:7421"]
runtime = "run"
state = "state"
suites = ["x25519-mlkem1024"]
mark = 0
[peer.berlin]
endpoints = ["192.0.2.1:7420", "gw.example:7420", "[2001:DB8::1]:1"]
bootstrap_psk = "berlin.psk"
[tunnel.wan]
peer = "berlin"
interface = "wg0"
wireguard_peer = "{KEY}"
protects = ["10.2.0.0/16", "2001:db8:2::/48"]
except = ["10.2.3.0/24"]
renew = "reset"
period = "10s"
expiry = "1m"
least = "pqc"
kems = ["ml-kem-1024", "ml-kem-768"]
"""
    assert parse_config(text, SOURCE) == Config(
        GatewayConfig(
            identity=Path("/etc/qhybridd/id.key"),
            peers=Path("/srv/peers"),
            listen=(Endpoint("0.0.0.0", 7420), Endpoint("::", 7421)),
            runtime=Path("/etc/qhybridd/run"),
            state=Path("/etc/qhybridd/state"),
            suites=("x25519-mlkem1024",),
            mark=0,
        ),
        {
            "berlin": PeerConfig(
                "berlin",
                (Endpoint("192.0.2.1", 7420), Endpoint("gw.example", 7420), Endpoint("2001:db8::1", 1)),
                Path("/etc/qhybridd/berlin.psk"),
            )
        },
        {
            "wan": TunnelConfig(
                name="wan",
                peer="berlin",
                target=WireGuardConfig("wg0", b"x" * 32),
                protects=(ip_network("10.2.0.0/16"), ip_network("2001:db8:2::/48")),
                excepts=(ip_network("10.2.3.0/24"),),
                renew="reset",
                period_s=10,
                expiry_s=60,
                least=Level.PQC,
                kems=("ml-kem-1024", "ml-kem-768"),
            )
        },
    )


def test_defaults_fail_closed() -> None:
    config = parse_config(TUNNEL, SOURCE)
    assert config.gateway == GatewayConfig()
    read = config.tunnels["wan"]
    assert (read.renew, read.period_s, read.expiry_s, read.kems) == ("wait", 120, 300, ("ml-kem-768",))
    error = the_problem(tunnel(without="least"))
    assert (error.code, error.where) == ("source.none", f"{SOURCE}:2")
    assert 'least = "pqc"' in error.hint


def test_listen_may_be_empty() -> None:
    assert parse_config("[gateway]\nlisten = []\n", SOURCE).gateway.listen == ()


@pytest.mark.parametrize(
    ("text", "seconds"), [("120s", 120), ("5m", 300), ("1h", 3600), ("1h30m", 5400), ("2m5s", 125), ("24h", 86400)]
)
def test_durations(text: str, seconds: int) -> None:
    lines = tunnel('renew = "reset"', 'period = "2s"', f'expiry = "{text}"')
    assert parse_config(lines, SOURCE).tunnels["wan"].expiry_s == seconds


# ---- what is refused, and where


@pytest.mark.parametrize(
    ("line", "code", "message", "hint"),
    [
        ('perriod = "120s"', "config.unknown-key", "tunnel.wan.perriod: no such key", 'Did you mean "period"?'),
        ("period = 120", "config.value", "must be a string", 'period = "120s"'),
        ('period = "120"', "config.value", "has no unit", '"120s" for seconds'),
        ('period = "2 minutes"', "config.value", "is no duration", '"1h30m"'),
        ('period = "100ms"', "config.value", "is no duration", '"120s"'),
        ('period = "1m1h"', "config.value", "is no duration", "largest first"),
        ('period = "0s"', "config.value", "not between 1s and 24h", ""),
        ('period = "25h"', "config.value", "not between 1s and 24h", ""),
        ('period = "٣s"', "config.value", "is no duration", ""),
        ('expiry = "299s"', "config.policy", "WireGuard takes a new key only at its own handshake", 'expiry = "300s"'),
        ('renew = "never"', "config.value", '"never" is no way to renew', '"reset"'),
        ('except = ["10.3.0.0/24"]', "config.value", "no part of what the tunnel protects", ""),
        ('except = ["10.2.0.0/16"]', "config.value", "protected and excepted at once", "Remove it"),
        ('except = ["10.2.0.0/24", "10.2.0.0/24"]', "config.duplicate", "twice", ""),
        ('except = ["10.2.1.0/16"]', "config.value", "bits set behind", 'Did you mean "10.2.0.0/16"?'),
        ('except = ["10.2.1.5"]', "config.value", "has no prefix length", '"10.2.0.1/32"'),
        ('except = "10.2.1.0/24"', "config.value", "must be a list", 'except = ["10.2.1.0/24"]'),
        ("except = [3]", "config.value", "the entry 3 must be a string", ""),
        ('kems = ["hqc-256"]', "config.value", "the first KEM must be a built-in one", "ml-kem-768"),
        ("kems = []", "config.value", "the first KEM must be a built-in one", "ml-kem-768"),
        ('kems = ["ml-kem-768", "kyber"]', "config.value", "no KEM is called 'kyber'", "ML-KEM-768"),
        ("x.y = 3", "config.unknown-key", "tunnel.wan.x: no such table", ""),
    ],
)
def test_one_wrong_line_is_found(line: str, code: str, message: str, hint: str) -> None:
    error, *_ = problems(tunnel("# a comment", line))
    assert error.code == code
    assert message in error.message
    assert hint in error.hint
    assert error.where == f"{SOURCE}:9"


@pytest.mark.parametrize(
    ("key", "line", "message"),
    [
        ("peer", 'peer = "a.b"', "cannot be the name of a peer"),
        ("interface", 'interface = "sixteen-letters-"', "cannot be the name of an interface"),
        ("interface", 'interface = "wg/0"', "cannot be the name of an interface"),
        ("interface", 'interface = ".."', "cannot be the name of an interface"),
        ("wireguard_peer", 'wireguard_peer = "AAAA"', "has 32 bytes"),
        ("wireguard_peer", f'wireguard_peer = "{KEY[:-2]}h="', "WireGuard public key"),
        ("wireguard_peer", f'wireguard_peer = "{"A" * 43}="', "all-zero"),
        ("wireguard_peer", 'wireguard_peer = "é"', "no base64"),
        ("protects", "protects = []", "the list is empty"),
        ("least", 'least = "pcq"', "is no level"),
        ("least", 'least = "classical"', "time budget"),
    ],
)
def test_a_wrong_required_value_is_found(key: str, line: str, message: str) -> None:
    error = the_problem(tunnel(line, without=key))
    assert message in error.message
    assert error.where == f"{SOURCE}:7"


@pytest.mark.parametrize("key", ["peer", "interface", "wireguard_peer", "protects"])
def test_a_missing_key_points_at_the_table(key: str) -> None:
    error = the_problem(tunnel(without=key))
    assert (error.where, error.code) == (f"{SOURCE}:2", "config.value")
    assert f"`{key}` is missing" in error.message


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('listen = ["0.0.0.0"]', "names no port"),
        ('listen = ["0.0.0.0:0"]', "names no port"),
        ('listen = ["0.0.0.0:65536"]', "names no port"),
        ('listen = ["::1:7420"]', "needs brackets"),
        ('listen = ["[::g]:7420"]', "is no IPv6 address"),
        ('listen = ["10.0.0.256:7420"]', "is no IPv4 address"),
        ('listen = ["gw.example:7420"]', "listening needs an address"),
        ('listen = ["-x:7420"]', "names no host"),
        ('suites = ["x25519-mlkem512"]', "is no suite"),
        ("suites = []", "the list is empty"),
        ("mark = -1", "is not between"),
        ("mark = 0x100000000", "is not between"),
        ('mark = "0x7148"', "must be a whole number"),
        ("mark = true", "must be a whole number"),
        ('identity = ""', "is no path"),
        (f'runtime = "/{"r" * 120}"', "longer than the 107 bytes"),
        ('identiy = "x"', "no such key"),
    ],
)
def test_a_wrong_gateway_key_is_found(line: str, message: str) -> None:
    error = the_problem(f"[gateway]\n{line}\n")
    assert message in error.message
    assert error.where == f"{SOURCE}:2"


def test_reset_needs_a_margin() -> None:
    assert parse_config(tunnel('renew = "reset"', 'period = "10s"', 'expiry = "15s"'), SOURCE)
    error = the_problem(tunnel('renew = "reset"', 'period = "10s"', 'expiry = "14s"'))
    assert (error.code, error.where) == ("config.policy", f"{SOURCE}:10")
    assert 'expiry = "15s"' in error.hint
    assert "no time for one" in the_problem(tunnel('renew = "reset"', 'period = "1s"', 'expiry = "14s"')).message


def test_a_prefix_belongs_to_one_tunnel() -> None:
    second = TUNNEL.replace("[tunnel.wan]", "[tunnel.lab]").replace(KEY, OTHER_KEY)
    error = the_problem(TUNNEL + second)
    assert (error.code, error.where) == ("config.duplicate", f"{SOURCE}:13")
    assert f"tunnel wan too ({SOURCE}:6)" in error.message
    parse_config(TUNNEL + second.replace("10.2.0.0/16", "10.2.3.0/24"), SOURCE)  # nested ones are told apart


def test_a_wireguard_peer_belongs_to_one_tunnel() -> None:
    second = TUNNEL.replace("[tunnel.wan]", "[tunnel.lab]").replace("10.2.0.0/16", "10.3.0.0/16")
    error = the_problem(TUNNEL + second)
    assert (error.code, error.where) == ("config.duplicate", f"{SOURCE}:12")
    parse_config(TUNNEL + second.replace("wg0", "wg1"), SOURCE)


def test_all_problems_come_together_in_order() -> None:
    text = '[gateway]\nmark = "x"\n' + tunnel("periods = 3", 'expiry = "1"', without="peer") + "\n[extra]\n"
    lines = [int(error.where.rpartition(":")[2]) for error in problems(text)]
    assert lines == [2, 4, 9, 10, 11]
    with pytest.raises(ConfigError, match=r"and 4 more"):
        parse_config(text, SOURCE)


@pytest.mark.parametrize(
    ("text", "line", "code", "hint"),
    [
        ("[peer.a]\n[peer.b]\n[peer.a]\n", 3, "config.duplicate", "at line 1"),
        ("[gateway]\nmark = 1\nstate = 'x'\nmark = 2\n", 4, "config.duplicate", "at line 2"),
        ("[gateway]\nmark = \n", 2, "config.syntax", ""),
        ("[gateway]\nmark = 1 2\n", 2, "config.syntax", ""),
        ('[gateway]\nstate = "', 2, "config.syntax", ""),
        ("x = " + "[" * 5000, 1, "config.syntax", ""),
    ],
)
def test_no_toml(text: str, line: int, code: str, hint: str) -> None:
    error = the_problem(text)
    assert (error.where, error.code) == (f"{SOURCE}:{line}", code)
    assert hint in error.hint


# ---- the files around it


def site(tmp_path: Path) -> Path:
    """A configuration with all of its files."""
    (tmp_path / "peers").mkdir()
    for name in ("identity.key", "peers/berlin.peer", "peers/berlin.next.peer", "peers/tokyo.peer", "b.psk"):
        (tmp_path / name).touch()
    path = tmp_path / "q.toml"
    path.write_text(
        '[gateway]\nidentity = "identity.key"\npeers = "peers"\n[peer.berlin]\nbootstrap_psk = "b.psk"\n' + TUNNEL
    )
    return path


def test_peer_files_are_counted_in(tmp_path: Path) -> None:
    peers = load_config(site(tmp_path)).peers
    assert [path.name for path in peers["berlin"].files] == ["berlin.peer", "berlin.next.peer"]
    assert peers["tokyo"] == PeerConfig("tokyo", files=(tmp_path / "peers/tokyo.peer",))


def test_a_peer_of_whom_all_was_revoked_keeps_its_tunnels(tmp_path: Path) -> None:
    """A daemon that starts after the revocation must still load its guard."""
    path = site(tmp_path)
    (tmp_path / "peers/revoked").mkdir()
    for name in ("berlin.peer", "berlin.next.peer"):
        (tmp_path / "peers" / name).rename(tmp_path / "peers/revoked" / f"{'a' * 96}.{name}")
    config = load_config(path)
    assert config.peers["berlin"].files == () and list(config.tunnels) == ["wan"]
    path.write_text(path.read_text().replace('[peer.berlin]\nbootstrap_psk = "b.psk"\n', ""))
    assert load_config(path).peers["berlin"] == PeerConfig("berlin")


@pytest.mark.parametrize(
    ("gone", "code", "line", "hint"),
    [
        ("identity.key", "file.missing", 2, "keygen"),
        ("b.psk", "file.missing", 5, "wg genpsk"),
        ("peers/berlin.peer", "config.reference", 4, "peer add --name berlin"),
        ("peers", "file.missing", 3, "install -d"),
    ],
)
def test_a_missing_file_is_named(tmp_path: Path, gone: str, code: str, line: int, hint: str) -> None:
    path = site(tmp_path)
    target = tmp_path / gone
    if target.is_dir():
        for file in target.iterdir():
            file.unlink()
        target.rmdir()
    else:
        target.unlink()
        (tmp_path / "peers/berlin.next.peer").unlink(missing_ok=gone.startswith("peers"))
    with pytest.raises(ConfigError) as caught:
        load_config(path)
    error = caught.value.problems[0]
    assert (error.code, error.where) == (code, f"{path}:{line}")
    assert hint in error.hint


@pytest.mark.parametrize(("name", "line"), [("q.toml", 1), ("peers", 3)])
def test_what_anybody_may_change_is_refused(tmp_path: Path, name: str, line: int) -> None:
    path = site(tmp_path)
    target = tmp_path / name
    target.chmod(target.stat().st_mode | 0o002)
    with pytest.raises(ConfigError) as caught:
        load_config(path)
    (error,) = caught.value.problems
    assert (error.code, error.where) == ("file.mode", f"{path}:{line}" if line > 1 else str(path))
    assert f"chmod o-w {target}" in error.message


def test_a_revoked_peer_keeps_no_other_tunnel_from_starting(tmp_path: Path) -> None:
    path = site(tmp_path)
    (tmp_path / "peers/berlin.next.peer").unlink()
    (tmp_path / "peers/berlin.peer").unlink()
    with pytest.raises(ConfigError):
        load_config(path)
    (tmp_path / "peers/revoked").mkdir()
    (tmp_path / f"peers/revoked/{'ab' * 48}.berlin.peer").touch()
    config = load_config(path)
    assert config.peers["berlin"].files == ()
    assert config.tunnels["wan"].peer == "berlin"


def test_an_unknown_peer_is_suggested(tmp_path: Path) -> None:
    path = site(tmp_path)
    path.write_text(path.read_text().replace('peer = "berlin"', 'peer = "berlim"'))
    with pytest.raises(ConfigError) as caught:
        load_config(path)
    assert [error.hint for error in caught.value.problems] == ['Did you mean "berlin"?']


def test_a_link_is_no_identity(tmp_path: Path) -> None:
    path = site(tmp_path)
    (tmp_path / "identity.key").rename(tmp_path / "elsewhere")
    (tmp_path / "identity.key").symlink_to("elsewhere")
    with pytest.raises(ConfigError, match="no regular file"):
        load_config(path)


def test_files_that_are_none(tmp_path: Path) -> None:
    for name, code in (("missing", "file.missing"), (".", "file.unreadable")):
        with pytest.raises(OperatorError) as caught:
            load_config(tmp_path / name)
        assert caught.value.code == code
    bad = tmp_path / "latin1.toml"
    bad.write_bytes(b"# ok\n# \xe9\n")
    with pytest.raises(OperatorError) as caught:
        load_config(bad)
    assert (caught.value.code, caught.value.where) == ("config.syntax", f"{bad}:2")
    with bad.open("wb") as file:
        os.truncate(file.fileno(), MAX_FILE_BYTES + 1)
    with pytest.raises(OperatorError, match="longer than"):
        load_config(bad)


def test_the_gateway_table_can_be_read_alone(tmp_path: Path) -> None:
    path = tmp_path / "q.toml"
    path.write_text("[gateway]\nmark = 7\n[tunnel.wan]\nperiod = 3\n[odd]\n")
    assert load_gateway(path).mark == 7
    path.write_text("[gateway]\nmrak = 7\n")
    with pytest.raises(ConfigError, match="mrak"):
        load_gateway(path)


# ---- lines


def test_places_step_over_what_looks_like_a_key() -> None:
    text = '''# [gateway]
[gateway] # mark = 1
listen = [ # identity = 3
  "a ] [peer.x]", 'b',
  # state = "x"
]
text = """
[peer.no]
mark = 1 \\"""
"""
'quoted key' = "x"  # y = 1
mark = 2
"dot.ted".b = 1
inline = { a = [1,
  2], b = 3 }
last = \'\'\'
  z = 1\'\'\'
[ tunnel . "w" ]
nested = [ [1],
  ["peer"],
]
a.b.c = 1
'''
    tomllib.loads(text.replace("{ a = [1,\n  2], b = 3 }", "1\n"))  # the rest is TOML
    places = Places(text)
    assert places.line("gateway") == 2
    assert places.line("gateway", "listen") == 3
    assert places.line("gateway", "text") == 7
    assert places.line("gateway", "quoted key") == 11
    assert places.line("gateway", "mark") == 12
    assert places.line("gateway", "dot.ted", "b") == 13
    assert places.line("gateway", "inline", "b") == 14  # not looked into: the line of what is around it
    assert places.line("gateway", "last") == 16
    assert places.line("tunnel", "w", "a", "b") == 22
    assert places.line("gateway", "identity") == 2
    assert places.line("peer", "no") == 0
    assert Places(text.replace("\n", "\r\n")).line("gateway", "mark") == 12


names = st.text("abcXYZ019_-", min_size=1, max_size=8)
strings = st.text(max_size=20).map(
    lambda text: '"' + "".join(f"\\u{ord(char):04x}" if ord(char) < 0xD800 else "x" for char in text) + '"'
)
noise = st.sampled_from(
    ["3", "[1, 2]", '["#", "]"]', "[\n 'x = 1',\n # [a]\n]", '"""\n[t]\nk = 1\n"""', "'''\n]]'''", "{ a = 1 }", "''"]
)


@given(st.lists(st.tuples(names, st.lists(st.tuples(names, noise | strings), max_size=5)), max_size=5))
def test_places_find_every_key_that_tomllib_finds(tables: list[tuple[str, list[tuple[str, str]]]]) -> None:
    text = ""
    truth: dict[tuple[str, ...], int] = {}
    for table, pairs in tables:
        if (table,) in truth:
            continue
        truth[(table,)] = text.count("\n") + 1
        text += f"[{table}]\n"
        for key, value in pairs:
            if (table, key) not in truth:
                truth[(table, key)] = text.count("\n") + 1
                text += f"{key} = {value}\n"
    tomllib.loads(text)
    places = Places(text)
    for path, line in truth.items():
        assert places.line(*path) == line


@given(st.text() | st.text("[]{}=\"'\\#\n .abc1", max_size=200))
def test_no_text_breaks_the_parser(text: str) -> None:
    try:
        parse_config(text, SOURCE)
    except ConfigError as error:
        assert error.problems


values = st.recursive(
    st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.sampled_from(["120s", "10.0.0.0/8", KEY, "wg0", "pqc", ""]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(names, inner, max_size=3),
    max_leaves=6,
)
keys = st.sampled_from([*TunnelConfig.__dataclass_fields__, "except", "period", "expiry", "gateway", "mark", "listen"])


def as_toml(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        return f"[{', '.join(map(as_toml, value))}]"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key} = {as_toml(inner)}" for key, inner in value.items()) + "}"
    return f'"{value}"' if isinstance(value, str) else str(value)


@given(
    st.dictionaries(keys, values, max_size=8), st.sampled_from(["[gateway]", "[peer.a]", "[tunnel.a]", "[tunnel]", ""])
)
def test_no_value_breaks_the_parser(pairs: dict[str, object], head: str) -> None:
    text = head + "\n" + "".join(f"{key} = {as_toml(value)}\n" for key, value in pairs.items())
    try:
        parse_config(text, SOURCE)
    except ConfigError as error:
        assert all(problem.where.startswith(f"{SOURCE}") for problem in error.problems)


# ---- reload


def test_changes_name_what_differs() -> None:
    old = parse_config(TUNNEL + "[peer.berlin]\n[peer.tokyo]\n", SOURCE)
    assert changes(old, old) == Changes((), Difference(), Difference())
    assert not changes(old, old)
    new = parse_config(
        "[gateway]\nmark = 1\n[peer.tokyo]\nendpoints = ['a:1']\n[peer.rome]\n"
        + tunnel('expiry = "10m"')
        + TUNNEL.replace("wan", "lab").replace("wg0", "wg1").replace("10.2", "10.3"),
        SOURCE,
    )
    assert changes(old, new) == Changes(
        ("mark",),
        Difference(added=("rome",), removed=("berlin",), changed=("tokyo",)),
        Difference(added=("lab",), changed=("wan",)),
    )


def test_an_underlay_within_what_is_protected_is_refused_with_the_way_out() -> None:
    peer = '[peer.berlin]\nendpoints = ["192.0.2.1:7420", "gw.example:7420"]\n'
    wide = tunnel('protects = ["10.2.0.0/16", "0.0.0.0/0"]', without="protects")
    error = the_problem(peer + wide)
    assert error.code == "config.policy" and 'except = ["192.0.2.1/32"]' in error.hint
    assert "192.0.2.1:7420" in error.message
    parse_config(peer + wide + '\nexcept = ["192.0.2.0/24"]\n', SOURCE)
