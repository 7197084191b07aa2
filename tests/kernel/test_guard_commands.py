"""`qhybridd guard load` and `close` beside traffic: a firewall that flushes while no daemon runs, and a sleep."""

import signal
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest

from qhybridd.apps.gateway import Gateway
from qhybridd.apps.lab import Lab
from qhybridd.clock import boottime
from tests.kernel.abilities import has_esp
from tests.netns.worlds import Plan, configs, hard_expiry_s, wait_arrivals, wait_silence

LATE_S = 1.0
"""The last packet may be so late."""
PATIENCE_S = 300.0
"""An emulated machine is slow."""
PLAN = Plan("esp", "seamless", 8, 90) if has_esp() else Plan("fast", "reset", 8, 40)
"""Time enough for a command to start, ten times slower in an emulated machine than on a real one."""


def command(gateway: Gateway, *words: str) -> str:
    whole = ["nsenter", f"--net={gateway.namespace.path}", sys.executable, "-m", "qhybridd", "--config"]
    done = subprocess.run(
        [*whole, str(gateway.config_file), *words], capture_output=True, text=True, timeout=PATIENCE_S, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture
def lab() -> Iterator[Lab]:
    with Lab(configs(PLAN)) as made:
        made.start_daemons()
        made.wait_open(PLAN.name, PATIENCE_S)
        made.capture()
        made.add_flow(PLAN.name).start()
        yield made
    assert made.leftovers() == []


def test_after_a_flush_without_a_daemon_it_passes_for_the_time_that_was_left(lab: Lab) -> None:
    (name, flow), alice = next(iter(lab.flows.items())), lab.gateways["alice"]
    wait_arrivals(lab, flow, PATIENCE_S)
    deadline = hard_expiry_s(lab, name)
    alice.stop(signal.SIGKILL)
    alice.namespace.run(["nft", "flush", "ruleset"])
    before = time.monotonic()
    told = command(alice, "guard", "load", "--restore")
    print(
        f"\n{name}: open after a flush without a daemon until the command was done, {time.monotonic() - before:.2f} s"
    )
    assert "1 tunnel guarded, 1 of them open." in told
    wait_arrivals(lab, flow, 20.0)
    last = wait_silence(lab, flow, 2 * PLAN.expiry_s)
    print(f"last packet {deadline - last:+.2f} s before the hard expiry")
    assert deadline - 10.0 < last < deadline + LATE_S, "neither cut short nor extended; bob's may be the earlier one"
    assert "BLOCKED" in command(alice, "guard", "show")
    alice.namespace.run(["nft", "flush", "ruleset"])
    assert "1 tunnel guarded, 0 of them open." in command(alice, "guard", "load", "--restore")
    assert lab.in_clear() == 0


def test_before_a_sleep_everything_shuts_and_stays_shut(lab: Lab) -> None:
    (name, flow), alice = next(iter(lab.flows.items())), lab.gateways["alice"]
    wait_arrivals(lab, flow, PATIENCE_S)
    assert command(alice, "guard", "close") == "1 tunnel shut.\n"
    shut = boottime()
    last = wait_silence(lab, flow, 20.0, for_s=10.0)
    print(f"\n{name}: shut by the daemon, last packet {last - shut:+.2f} s after the command")
    assert last < shut + 0.5, "also while both daemons agree on new keys"
    alice.stop(signal.SIGKILL)
    assert "1 tunnel guarded, 0 of them open." in command(alice, "guard", "load", "--restore")
    assert command(alice, "guard", "close") == "1 tunnel shut.\n"
    assert lab.in_clear() == 0
