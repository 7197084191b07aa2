"""The worst case as a formula, held against what can happen: every schedule of the keys that are left."""

from typing import Literal

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from qhybridd import status
from qhybridd.config import parse_config
from qhybridd.crypto import kem
from qhybridd.crypto.levels import Level
from qhybridd.daemon.report import _esp, _exposure
from qhybridd.exposure import STEPS, Supply, step_s, without_peer_s, without_qkd_s
from qhybridd.policy import Policy
from qhybridd.protocol.actions import SessionKeys
from qhybridd.protocol.exchange import Exchange
from qhybridd.protocol.outbox import Outbox
from qhybridd.protocol.standing import Standing
from qhybridd.secret import Secret
from tests.unit.test_config_xfrm import SOURCE, esp


def open_for(expiry_s: float, combined: list[float]) -> float:
    """Seconds from 0 on during which a key is valid, for keys that were combined at these moments."""
    total = until = 0.0
    for at in sorted(combined):
        begin, end = max(at, until, 0.0), at + expiry_s
        total += max(0.0, end - begin)
        until = max(until, end)
    return total


@given(
    period_s=st.integers(1, 600),
    margin_s=st.integers(2, 300),
    left_s=st.floats(0, 4000),
    reserved=st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), max_size=12),
    under_way=st.floats(0, 1),
)
@example(period_s=1, margin_s=2, left_s=0.0, reserved=[], under_way=1.0)
def test_no_schedule_gets_beyond_it(
    period_s: int, margin_s: int, left_s: float, reserved: list[tuple[float, float]], under_way: float
) -> None:
    """QKD ends at 0. One key is live, one may have been reserved for a rotation under way, the others are in store."""
    expiry_s, slack_s = period_s + margin_s, STEPS * step_s(period_s)
    combined = [0.0, under_way * slack_s]
    combined += [when * left_s + late * slack_s for when, late in reserved]
    supply = Supply(len(reserved), left_s if reserved else 0.0)
    assert open_for(expiry_s, combined) <= without_qkd_s(period_s, expiry_s, supply) + 1e-6


def test_it_is_reached() -> None:
    """The bound is no wider than what can happen: each key used as late as it keeps the tunnel open."""
    period_s, expiry_s, keys = 10, 15, 4
    slack_s = STEPS * step_s(period_s)
    combined = [0.0, slack_s] + [slack_s + number * expiry_s for number in range(1, keys + 1)]
    assert open_for(expiry_s, combined) == without_qkd_s(period_s, expiry_s, Supply(keys, 1e9))
    assert without_qkd_s(period_s, expiry_s, Supply(1000, 20.0)) == 20.0 + slack_s + expiry_s


def test_without_the_peer_it_is_the_expiry() -> None:
    assert without_peer_s(3) == 3
    assert open_for(3, [0.0]) == 3


def test_a_step_is_the_rotations_own() -> None:
    session = SessionKeys(b"s" * 48, b"a" * 48, b"b" * 48, Secret.adopt(b"e" * 48))
    for period_s in (1, 2, 7, 20, 600):
        policy = Policy(Level.PQC, period_s, 2 * period_s, reset=False, kems=(kem.ML_KEM_768,))
        exchange = Exchange(policy, Standing(), Outbox("wan"), session)
        assert exchange.attempt.deadline == step_s(period_s)


# ---- in the status

STORE = status.StoreStatus("ready", 0, 0, 0, 0, 0, 0, 0, 0, own_keys=2, own_left_s=900, peer_keys=7, peer_left_s=50)
LINK = """
[link.fibre]
peer = "berlin"
role = "alice"
psk = "fibre.psk"
photons = "192.0.2.1:7421"
[link.fibre.simulation]
"""


@pytest.mark.parametrize("least", ["pqc", "hybrid"])
def test_the_status_counts_the_keys_of_the_proposing_end(least: Literal["pqc", "hybrid"]) -> None:
    text = esp('period = "10s"', 'expiry = "20s"', f'least = "{least}"', 'qkd = "fibre"', "simulated = true") + LINK
    config = parse_config(text, SOURCE).tunnels["wan"]
    proposing = _exposure(config, STORE, b"\1", b"\2")
    assert proposing == status.ExposureStatus(20, 2 * 20 + 15 + 20, 2, falls_back=least == "pqc")
    answering = _exposure(config, STORE, b"\2", b"\1")
    assert (answering.qkd_keys, answering.qkd_gone_s) == (7, 50 + 15 + 20)
    assert _exposure(config, None, b"\1", b"\2").qkd_gone_s == 15 + 20


def test_a_tunnel_without_qkd_has_the_peer_to_lose() -> None:
    config = parse_config(esp('period = "10s"', 'expiry = "20s"'), SOURCE).tunnels["wan"]
    assert _exposure(config, None, b"\1", b"\2") == status.ExposureStatus(20)


def test_esp_is_told() -> None:
    config = parse_config(esp("encapsulation = 4500", 'interface = "ipsec0"', "if_id = 7"), SOURCE).tunnels["wan"]
    told = _esp(config.target)
    assert told is not None
    assert msgspec.json.decode(msgspec.json.encode(told)) == {
        "local": "192.0.2.1",
        "remote": "192.0.2.2",
        "mode": "tunnel",
        "cipher": "aes-256-gcm",
        "reqid": config.target.reqid,  # type: ignore[union-attr]
        "encapsulation": 4500,
        "if_id": 7,
    }
