"""Two real daemons that cannot come together: each one's status names the reason and the way out."""

import pytest

from qhybridd.apps.gateway import Gateway
from qhybridd.apps.lab import Lab
from qhybridd.status import PeerStatus
from tests.netns.worlds import ORDINARY, configs, run_for


def _add_psk(gateway: Gateway) -> None:
    """A bootstrap PSK at this end alone."""
    file = gateway.directory / "b.psk"
    file.write_text("cHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHA=\n")
    file.chmod(0o600)
    peer = next(iter(gateway.config.peers))
    table = f"[peer.{peer}]\n"
    text = gateway.config_file.read_text()
    gateway.config_file.write_text(text.replace(table, f'{table}bootstrap_psk = "b.psk"\n'))


def _insist(gateway: Gateway, suite: str) -> None:
    text = gateway.config_file.read_text()
    gateway.config_file.write_text(text.replace("[gateway]\n", f'[gateway]\nsuites = ["{suite}"]\n'))


def _peer(gateway: Gateway) -> PeerStatus | None:
    status = gateway.status()
    return status.peers[0] if status is not None and status.peers else None  # none while it starts


def _says(gateway: Gateway, code: str) -> bool:
    seen = _peer(gateway)
    return seen is not None and f"[{code}]" in seen.why


@pytest.mark.parametrize("code", ["peer.psk", "peer.suite"])
def test_both_ends_say_why_there_is_no_session(code: str) -> None:
    with Lab(configs(ORDINARY)) as lab:
        alice, bob = lab.gateways.values()
        if code == "peer.psk":
            _add_psk(alice)
        else:
            _insist(alice, "x25519-mlkem768")
            _insist(bob, "x25519-mlkem1024")
        lab.start_daemons()
        lab.wait(lambda: _says(alice, code) and _says(bob, code), 15, "both ends name the reason")
        run_for(lab, 3.0)  # each has dialled again and met silence
        for end in (alice, bob):
            seen = _peer(end)
            assert seen is not None and seen.session == "down"
            assert f"[{code}]" in seen.why
            assert seen.hint
            assert "peer.downgrade" not in end.log_file.read_text()  # nobody pushes anybody down a list
    assert lab.leftovers() == []
