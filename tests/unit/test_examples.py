"""Each example is taken, as a text and with all of its files around it."""

from dataclasses import fields, replace
from pathlib import Path

import pytest

from qhybridd.cli.main import main
from qhybridd.config import LinkConfig, PeerConfig, XfrmConfig, load_config, parse_config
from qhybridd.crypto.identity import Identity
from qhybridd.distill.authenticate import Role
from qhybridd.keyfiles import create_identity, load_pins
from qhybridd.optics.parameters import Detector, Fibre, Receiver, Source
from qhybridd.peerfile import export_peer

ROOT = Path(__file__).parents[2]
PAIR = ("paris", "berlin")
EXAMPLES = sorted((ROOT / "configs").rglob("*.toml"))


def test_there_are_examples() -> None:
    assert {path.name for path in EXAMPLES} >= {"minimal.toml", "paris.toml", "berlin.toml", "fast.toml"}


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_the_text_is_taken(path: Path) -> None:
    config = parse_config(path.read_text(), path)
    assert config.tunnels
    assert all(tunnel.protects for tunnel in config.tunnels.values())


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_it_is_taken_with_its_files(path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = path.read_text().replace("/etc/qhybridd", str(tmp_path))
    if "[gateway]" not in text:
        text = "[gateway]\n" + text
    for key, name in (("identity", "identity.key"), ("peers", "peers")):
        if f"\n{key} =" not in text:
            text = text.replace("[gateway]\n", f'[gateway]\n{key} = "{name}"\n')
    site = tmp_path / "qhybridd.toml"
    site.write_text(text)
    peers = tmp_path / "peers"
    peers.mkdir()
    create_identity(tmp_path / "identity.key", Identity.generate())
    draft = parse_config(text, site)
    for name in {tunnel.peer for tunnel in draft.tunnels.values()}:
        (peers / f"{name}.peer").write_text(export_peer(Identity.generate(), name, ()))
        psk = draft.peers.get(name, PeerConfig(name)).bootstrap_psk
        if psk:
            psk.touch(mode=0o600)
            psk.write_text("eHh4eHh4eHh4eHh4eHh4eHh4eHh4eHh4eHh4eHh4eHg=\n")
    for link in draft.links.values():
        link.psk.touch(mode=0o600)
        link.psk.write_text("eXl5eXl5eXl5eXl5eXl5eXl5eXl5eXl5eXl5eXl5eXk=\n")
    config = load_config(site)
    assert config.links.keys() == draft.links.keys()
    pins = load_pins(config.peers, config.gateway.peers)
    assert all(len(found) == 1 for found in pins.values())
    assert main(["-c", str(site), "check"]) == 0
    assert f"{site} is right." in capsys.readouterr().out


def test_both_ends_of_the_link_describe_one_link() -> None:
    """What one of them writes out are the defaults of the other."""
    ends = [parse_config((ROOT / f"configs/link-{name}.toml").read_text(), ROOT).links["fibre"] for name in PAIR]
    assert {end.role for end in ends} == set(Role)
    alike = [replace(end, peer="", role=Role.ALICE) for end in ends]
    assert alike[0] == alike[1]


@pytest.mark.parametrize("table", [LinkConfig, Source, Fibre, Receiver, Detector])
def test_the_example_and_the_manual_name_every_key(
    table: type[LinkConfig | Source | Fibre | Receiver | Detector],
) -> None:
    example = (ROOT / "configs/link-paris.toml").read_text()
    manual = (ROOT / "docs/config.md").read_text()
    keys = {field.name for field in fields(table)} - {"name", "simulation", "detectors"}
    renamed = {"capacity_bits": "capacity_keys", "max_age_s": "max_age"} if table is LinkConfig else {}
    for key in (renamed.get(key, key) for key in keys):
        assert f"\n{key} = " in example
        assert f"| `{key}` |" in manual


def test_the_example_and_the_manual_name_every_key_of_xfrm() -> None:
    example = (ROOT / "configs/xfrm-paris.toml").read_text()
    manual = (ROOT / "docs/config.md").read_text()
    for key in (field.name for field in fields(XfrmConfig)):
        assert f"\n{key} = " in example or f"\n# {key} = " in example, key
        assert f"`{key}`" in manual, key


def test_both_ends_of_the_ipsec_tunnels_fit() -> None:
    paris, berlin = (parse_config((ROOT / f"configs/xfrm-{name}.toml").read_text(), ROOT).tunnels for name in PAIR)
    for name, one in paris.items():
        near, far = one.target, berlin[name].target
        assert isinstance(near, XfrmConfig)
        assert isinstance(far, XfrmConfig)
        assert (near.local, near.remote) == (far.remote, far.local)
        assert (near.mode, near.cipher, near.encapsulation) == (far.mode, far.cipher, far.encapsulation)
        assert (one.period_s, one.expiry_s) == (berlin[name].period_s, berlin[name].expiry_s)
    near, far = paris["wan"], berlin["wan"]
    assert isinstance(near.target, XfrmConfig)
    assert isinstance(far.target, XfrmConfig)
    assert (near.protects, near.target.behind) == (far.target.behind, far.protects)
