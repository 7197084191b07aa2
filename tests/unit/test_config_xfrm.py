"""XFRM tunnels in the configuration: what is taken, what is refused, and where the finger points."""

from ipaddress import ip_address, ip_network
from pathlib import Path

import pytest

from qhybridd.config import Config, ConfigError, XfrmConfig, parse_config
from qhybridd.config.records import REQID_LEAST, REQID_MOST, default_reqid
from qhybridd.errors import OperatorError

SOURCE = Path("/etc/qhybridd/qhybridd.toml")
WIREGUARD_KEY = "eHh4eHh4eHh4eHh4eHh4eHh4eHh4eHh4eHh4eHh4eHg="


def esp(*lines: str, name: str = "wan", without: str = "") -> str:
    """A tunnel's table with `lines` added or in place of its own."""
    usual = (
        "",
        f"[tunnel.{name}]",
        'target = "xfrm"',
        'peer = "berlin"',
        'local = "192.0.2.1"',
        'remote = "192.0.2.2"',
        'protects = ["10.2.0.0/16"]',
        'least = "pqc"',
    )
    keys = {line.partition(" ")[0] for line in lines}
    kept = [line for line in usual if line.partition(" ")[0] not in keys and not (without and line.startswith(without))]
    return "\n".join([*kept, *lines, ""])


def parse(text: str) -> Config:
    return parse_config(text, SOURCE)


def target(text: str) -> XfrmConfig:
    found = parse(text).tunnels["wan"].target
    assert isinstance(found, XfrmConfig)
    return found


def the_problem(text: str) -> OperatorError:
    with pytest.raises(ConfigError) as caught:
        parse(text)
    found = caught.value.problems
    assert len(found) == 1, [str(error) for error in found]
    return found[0]


# ---- what is taken


def test_the_least_that_can_be_written() -> None:
    tunnel = parse(esp()).tunnels["wan"]
    assert tunnel.target == XfrmConfig(ip_address("192.0.2.1"), ip_address("192.0.2.2"), default_reqid("wan"))
    assert tunnel.renew == "seamless"
    assert tunnel.interface == ""
    assert REQID_LEAST <= default_reqid("wan") <= REQID_MOST


def test_every_key_is_read() -> None:
    found = target(
        esp(
            'local = "2001:DB8::1"',
            'remote = "2001:db8::2"',
            'behind = ["10.1.0.0/16", "10.7.0.0/24"]',
            'mode = "tunnel"',
            'cipher = "chacha20-poly1305"',
            "replay_window = 4096",
            'interface = "ipsec0"',
            "if_id = 42",
            "encapsulation = 4500",
            'offload = "eth0"',
            "reqid = 0x51000007",
        )
    )
    assert found == XfrmConfig(
        ip_address("2001:db8::1"),
        ip_address("2001:db8::2"),
        0x51000007,
        (ip_network("10.1.0.0/16"), ip_network("10.7.0.0/24")),
        "tunnel",
        "chacha20-poly1305",
        4096,
        "ipsec0",
        42,
        4500,
        "eth0",
    )


def test_wireguard_can_be_named_too() -> None:
    text = (
        f'[tunnel.wan]\ntarget = "wireguard"\npeer = "berlin"\ninterface = "wg0"\nwireguard_peer = "{WIREGUARD_KEY}"\n'
        'protects = ["10.2.0.0/16"]\nleast = "pqc"\n'
    )
    assert parse(text) == parse(text.replace('target = "wireguard"\n', ""))


def test_transport_mode_is_between_the_gateways_themselves() -> None:
    text = esp('protects = ["192.0.2.2/32"]', 'mode = "transport"')
    assert target(text).behind == (ip_network("192.0.2.1/32"),)
    assert target(esp('protects = ["192.0.2.2/32"]', 'mode = "transport"', 'behind = ["192.0.2.1/32"]')).behind


@pytest.mark.parametrize(
    ("lines", "message", "hint"),
    [
        (('mode = "transport"',), "is not `remote`", 'protects = ["192.0.2.2/32"]'),
        (
            ('mode = "transport"', 'protects = ["192.0.2.2/32"]', 'behind = ["10.1.0.0/16"]'),
            "is not `local`",
            'behind = ["192.0.2.1/32"]',
        ),
    ],
)
def test_transport_mode_carries_nobody_else(lines: tuple[str, ...], message: str, hint: str) -> None:
    error = the_problem(esp(*lines))
    assert error.code == "config.value"
    assert message in error.message
    assert hint in error.hint


def test_a_second_is_period_enough() -> None:
    tunnel = parse(esp('period = "1s"', 'expiry = "3s"')).tunnels["wan"]
    assert (tunnel.period_s, tunnel.expiry_s) == (1, 3)


def test_tunnels_may_share_an_interface_and_the_addresses() -> None:
    shared = ('interface = "ipsec0"', "if_id = 7")
    text = esp(*shared) + esp(*shared, 'protects = ["10.3.0.0/16"]', name="lab")
    assert len(parse(text).tunnels) == 2


def test_what_is_protected_may_hold_the_underlay() -> None:
    """ESP passes by its addresses and the control channel by its mark, unlike in a WireGuard tunnel."""
    peer = '[peer.berlin]\nendpoints = ["192.0.2.2:7420"]\n'
    wide = peer + esp('protects = ["0.0.0.0/0"]')
    assert parse(wide)
    elsewhere = the_problem(wide.replace("192.0.2.2:7420", "192.0.2.3:7420"))
    assert elsewhere.hint == 'Leave it out: except = ["192.0.2.3/32"].', "only the end of the tunnel is let through"
    error = the_problem("[gateway]\nmark = 0\n" + wide)
    assert error.code == "config.policy"
    assert "WireGuard" not in error.message
    assert error.hint == 'Leave it out: except = ["192.0.2.2/32"].'


# ---- what is refused


@pytest.mark.parametrize(
    ("line", "code", "message", "hint"),
    [
        ('target = "ipsec"', "config.value", '"ipsec" is no target', "wireguard, xfrm"),
        ('local = "192.0.2.1/32"', "config.value", "is no address", "192.0.2.1"),
        ('local = "gw.example"', "config.value", "is no address", "192.0.2.1"),
        ('remote = "fe80::1"', "config.value", "link-local", ""),
        ('remote = "fe80::1%eth0"', "config.value", "link-local", ""),
        ('remote = "ff02::1"', "config.value", "no address of one gateway", ""),
        ('remote = "0.0.0.0"', "config.value", "no address of one gateway", ""),
        ('remote = "127.0.0.1"', "config.value", "no address of one gateway", ""),
        ('remote = "::ffff:192.0.2.2"', "config.value", "in disguise", '"192.0.2.2"'),
        ('remote = "192.0.2.1"', "config.value", "`local` too", "the other gateway"),
        ('remote = "2001:db8::2"', "config.value", "two families", "two IPv4 or two IPv6"),
        ('behind = ["10.1.0.1/16"]', "config.value", "bits set", "10.1.0.0/16"),
        ("behind = []", "config.value", "the list is empty", "remove the key"),
        ('behind = ["2001:db8:1::/48"]', "config.value", "nothing of that family", "0.0.0.0/0"),
        (
            'behind = ["10.2.7.0/24"]',
            "config.value",
            'lies in the protected "10.2.0.0/16"',
            '"10.2.7.0/24" to `except`',
        ),
        ('mode = "transprt"', "config.value", "no mode of ESP", '"transport"'),
        ('cipher = "aes-128-gcm"', "config.value", "no cipher", '"aes-256-gcm"'),
        ("replay_window = 31", "config.value", "not between 32 and 4096", ""),
        ("replay_window = 200", "config.value", "no power of two", "Write 128 or 256."),
        ("replay_window = 4097", "config.value", "not between 32 and 4096", ""),
        ('replay_window = "64"', "config.value", "a whole number", ""),
        ('interface = "ipsec0"', "config.value", "names none", "if_id"),
        ("if_id = 7", "config.value", "names none", "interface"),
        ("if_id = 0", "config.value", "not between 1", ""),
        ("encapsulation = 0", "config.value", "no UDP port", "4500"),
        ("encapsulation = 65536", "config.value", "no UDP port", "4500"),
        ("encapsulation = 7420", "config.value", "probes", "4500"),
        ('offload = "a/b"', "config.value", "name of an interface", ""),
        ("reqid = 7", "config.value", "not between 0x51000000 and 0x51ffffff", "Remove the key"),
        ("reqid = 0x52000000", "config.value", "not between 0x51000000 and 0x51ffffff", "Remove the key"),
        ('renew = "wait"', "config.unknown-key", "no such key here", "no packet is lost"),
        (f'wireguard_peer = "{WIREGUARD_KEY}"', "config.unknown-key", "no such key here", "WireGuard"),
        ('expiry = "121s"', "config.policy", "plus 2 s", '"122s"'),
    ],
)
def test_one_wrong_line_is_found(line: str, code: str, message: str, hint: str) -> None:
    text = esp(line)
    at = text.splitlines().index(line) + 1
    if line.startswith('target = "ipsec"'):
        with pytest.raises(ConfigError) as caught:
            parse(text)
        error = next(found for found in caught.value.problems if "target" in found.message)
    else:
        error = the_problem(text)
    assert error.code == code
    assert message in error.message, error.message
    assert hint in error.hint, error.hint
    assert error.where == f"{SOURCE}:{at}"


@pytest.mark.parametrize("key", ["local", "remote", "protects", "peer"])
def test_a_missing_key_points_at_the_table(key: str) -> None:
    error = the_problem(esp(without=key))
    assert f"the key `{key}` is missing" in error.message
    assert error.where == f"{SOURCE}:2"


@pytest.mark.parametrize("key", ["local", "behind", "mode", "reqid"])
def test_keys_of_xfrm_in_a_wireguard_tunnel(key: str) -> None:
    text = (
        f'[tunnel.wan]\npeer = "berlin"\ninterface = "wg0"\nwireguard_peer = "{WIREGUARD_KEY}"\n'
        f'protects = ["10.2.0.0/16"]\nleast = "pqc"\n{key} = "x"\n'
    )
    error = the_problem(text)
    assert error.code == "config.unknown-key"
    assert 'target = "xfrm"' in error.hint
    assert error.where == f"{SOURCE}:7"


def test_one_reqid_one_tunnel() -> None:
    text = esp("reqid = 0x51000001") + esp("reqid = 0x51000001", 'protects = ["10.3.0.0/16"]', name="lab")
    error = the_problem(text)
    assert error.code == "config.duplicate"
    assert f"tunnel wan too ({SOURCE}:2)" in error.message
    assert error.where == f"{SOURCE}:{text.splitlines().index('reqid = 0x51000001', 10) + 1}"


def test_a_default_reqid_that_is_taken_points_at_the_table() -> None:
    text = esp(f"reqid = {default_reqid('lab')}") + esp('protects = ["10.3.0.0/16"]', name="lab")
    error = the_problem(text)
    assert error.code == "config.duplicate"
    assert error.where == f"{SOURCE}:{text.splitlines().index('[tunnel.lab]') + 1}"


def test_a_prefix_belongs_to_one_tunnel_of_either_kind() -> None:
    error = the_problem(esp() + esp(name="lab"))
    assert error.code == "config.duplicate"
    assert "protected by tunnel wan too" in error.message


@pytest.mark.parametrize(
    ("first", "second", "message"),
    [
        (('interface = "ipsec0"', "if_id = 7"), ('interface = "ipsec0"', "if_id = 8"), "ipsec0 has if_id 7 in tunnel"),
        (('interface = "ipsec0"', "if_id = 7"), ('interface = "ipsec1"', "if_id = 7"), "7 is the if_id of ipsec0"),
    ],
)
def test_an_xfrm_interface_has_one_number(first: tuple[str, ...], second: tuple[str, ...], message: str) -> None:
    error = the_problem(esp(*first) + esp(*second, 'protects = ["10.3.0.0/16"]', name="lab"))
    assert error.code == "config.duplicate"
    assert message in error.message


def test_a_wireguard_device_is_no_xfrm_interface() -> None:
    text = (
        f'[tunnel.lab]\npeer = "berlin"\ninterface = "wg0"\nwireguard_peer = "{WIREGUARD_KEY}"\n'
        'protects = ["10.3.0.0/16"]\nleast = "pqc"\n'
    )
    error = the_problem(text + esp('interface = "wg0"', "if_id = 7"))
    assert "wg0 is a WireGuard device in tunnel lab" in error.message


def test_esp_is_not_put_into_another_tunnels_esp() -> None:
    wide = 'protects = ["192.0.2.0/24"]'
    error = the_problem(esp() + esp(wide, 'remote = "198.51.100.2"', name="lab"))
    assert error.code == "config.policy"
    assert "covers 192.0.2.2, the remote end of tunnel wan" in error.message
    assert error.hint == 'Leave it out: except = ["192.0.2.2/32"].'
    assert parse(esp() + esp(wide, 'except = ["192.0.2.2/32"]', 'remote = "198.51.100.2"', name="lab"))
    own = 'protects = ["10.2.0.0/16", "192.0.2.2/32"]'
    assert parse(esp(own) + esp(wide, 'remote = "198.51.100.2"', name="lab")), "the longer prefix wins"


def test_what_is_behind_may_lie_in_a_protected_prefix_that_excepts_it() -> None:
    lines = ('protects = ["10.0.0.0/8"]', 'behind = ["10.1.0.0/16"]', 'except = ["10.1.0.0/16"]')
    assert target(esp(*lines)).behind == (ip_network("10.1.0.0/16"),)
    assert target(esp('behind = ["0.0.0.0/0"]')).behind
