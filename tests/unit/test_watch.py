"""What the demo concludes from a look, and how it shows it."""

import io
from pathlib import Path

from rich.console import Console

from qhybridd.apps.demo import LENIENT, LINK, NAMES, ORDINARY, STRICT, read_configs
from qhybridd.apps.flow import Direction, Reading
from qhybridd.apps.screen import Observation, summary
from qhybridd.apps.traffic import Account
from qhybridd.apps.watch import Look
from qhybridd.config import parse_config
from qhybridd.crypto.levels import Level
from qhybridd.distill.authenticate import Role
from qhybridd.status import GatewayStatus, Status, TunnelStatus


def _tunnel(state: str, epoch: int, expires_in_s: float | None) -> TunnelStatus:
    return TunnelStatus(
        name=STRICT, peer="x", interface="wg0", state=state, why="", level="pqc",
        simulated=False, epoch=epoch, phase="idle",
        key_age_s=1.0, expires_in_s=expires_in_s, last_handshake_s=1.0, renew="reset", period_s=10, expiry_s=20,
        rotations=epoch, failures=0, rx_bytes=0, tx_bytes=0,
    )  # fmt: skip


def _look(*tunnels: TunnelStatus | None) -> Look:
    gateway = GatewayStatus(fingerprint="00", short="x", version="1", uptime_s=1.0)
    each = {
        name: Status(gateway, [], [tunnel]) if tunnel else None for name, tunnel in zip(NAMES, tunnels, strict=True)
    }
    return Look(100.0, each, {})


def test_a_look_says_what_both_gateways_agree_on() -> None:
    both = _look(_tunnel("open", 3, 12.0), _tunnel("open", 3, 12.5))
    assert (both.states(STRICT), both.epoch(STRICT), both.deadline_s(STRICT)) == ({"open"}, 3, 112.5)
    between = _look(_tunnel("open", 3, 2.0), _tunnel("closed", 4, None))
    assert (between.states(STRICT), between.epoch(STRICT), between.deadline_s(STRICT)) == ({"open", "closed"}, 0, 102.0)
    silent = _look(_tunnel("open", 3, 2.0), None)
    assert (silent.states(STRICT), silent.epoch(STRICT)) == ({"open", "silent"}, 0)
    assert _look(_tunnel("closed", 3, 5.0), _tunnel("closed", 3, None)).deadline_s(STRICT) == 0


def test_the_last_arrival_is_the_later_one_of_both_directions() -> None:
    one, other = Account(last_arrival_s=4.0, sent=3, received=2), Account(last_arrival_s=5.0, sent=1, received=3)
    reading = Reading(Direction(one, other), Direction(other, one))
    assert (reading.last_arrival_s, reading.sent, reading.received) == (5.0, 4, 5)


def test_a_missing_observation_is_marked() -> None:
    stream = io.StringIO()
    seen = [Observation("it closes", "at once", held=True), Observation("it opens", "never", held=False)]
    Console(file=stream, width=100).print(summary(seen, "Observed"))
    lines = stream.getvalue().splitlines()
    assert any("✓" in line and "it closes" in line for line in lines)
    assert any("✗" in line and "never" in line for line in lines)


def test_the_demo_runs_on_two_good_configurations() -> None:
    parsed = {name: parse_config(text, Path(f"{name}.toml")) for name, text in read_configs().items()}
    alice, bob = (parsed[name] for name in NAMES)
    assert alice.tunnels.keys() == bob.tunnels.keys() == {ORDINARY, STRICT, LENIENT}
    for name, tunnel in alice.tunnels.items():
        other = bob.tunnels[name]
        assert (tunnel.renew, tunnel.period_s, tunnel.expiry_s) == (other.renew, other.period_s, other.expiry_s)
        assert not set(tunnel.protects) & set(other.protects)
    assert (alice.tunnels[ORDINARY].renew, alice.tunnels[ORDINARY].period_s) == ("wait", 120)
    for name in (STRICT, LENIENT):
        assert (alice.tunnels[name].renew, alice.tunnels[name].expiry_s) == ("reset", 20)
    assert (alice.tunnels[STRICT].least, alice.tunnels[LENIENT].least) == (Level.HYBRID, Level.PQC)
    ends = (alice.links[LINK], bob.links[LINK])
    assert [end.role for end in ends] == [Role.ALICE, Role.BOB]
    assert ends[0].simulation == ends[1].simulation
