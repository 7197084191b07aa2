"""Each example is taken, as a text and with all of its files around it."""

from pathlib import Path

import pytest

from qhybridd.cli.main import main
from qhybridd.config import PeerConfig, load_config, parse_config
from qhybridd.crypto.identity import Identity
from qhybridd.keyfiles import create_identity, load_pins
from qhybridd.peerfile import export_peer

ROOT = Path(__file__).parents[2]
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
    config = load_config(site)
    pins = load_pins(config.peers, config.gateway.peers)
    assert all(len(found) == 1 for found in pins.values())
    assert main(["-c", str(site), "check"]) == 0
    assert f"{site} is right." in capsys.readouterr().out
