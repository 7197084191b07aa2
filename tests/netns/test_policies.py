"""The policies of XFRM tunnels around a running daemon: put, put back, taken away. They need no ESP of the kernel."""

import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest

from qhybridd.apps.gateway import Gateway
from qhybridd.apps.lab import Lab
from tests.netns.worlds import SEAMLESS, configs

RARE = replace(SEAMLESS, period_s=120, expiry_s=300)
FOREIGN = ("src", "203.0.113.0/24", "dst", "198.51.100.0/24", "dir", "out")


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    with Lab(configs(RARE)) as lab:
        lab.start_daemons()
        yield lab


@pytest.fixture
def alice(lab: Lab) -> Gateway:
    gateway = lab.gateways["alice"]
    lab.wait(lambda: len(policies(gateway)) == 5, 20, "all policies stand")
    return gateway


def policies(gateway: Gateway) -> list[str]:
    """One line each, without the sockets' own and without what a rotation changes."""
    text = gateway.namespace.run(("ip", "-o", "xfrm", "policy", "list", "nosock"))
    return sorted(line.partition("tmpl")[0] for line in text.splitlines() if line.strip())


def seconds_until(condition: Callable[[], bool], most_s: float = 5.0) -> float:
    began = time.monotonic()
    while not condition():
        assert time.monotonic() - began < most_s
        time.sleep(0.01)
    return time.monotonic() - began


def test_flushed_policies_are_back_at_once(alice: Gateway) -> None:
    before = policies(alice)
    took_s = []
    for _ in range(5):  # an attempt at a rotation puts them back too, but it does not come so often
        alice.namespace.run(("ip", "xfrm", "policy", "flush"))
        took_s.append(seconds_until(lambda: policies(alice) == before, 60))
    print(f"\npolicies back after each flush, ms: {', '.join(f'{took * 1000:.0f}' for took in took_s)}")
    assert max(took_s) < 0.5


def test_one_that_is_deleted_is_back_and_a_foreign_one_stays(alice: Gateway) -> None:
    before = policies(alice)
    alice.namespace.run(("ip", "xfrm", "policy", "add", *FOREIGN, "action", "block"))
    (theirs,) = set(policies(alice)) - set(before)
    told = alice.log_file.read_text().count("policies restored")
    delete = ("src", "10.77.1.0/24", "dst", "10.77.2.0/24", "dir", "out")
    alice.namespace.run(("ip", "xfrm", "policy", "delete", *delete))
    seconds_until(lambda: policies(alice) == sorted((*before, theirs)))
    seconds_until(lambda: alice.log_file.read_text().count("policies restored") == told + 1)
    alice.namespace.run(("ip", "xfrm", "policy", "delete", *FOREIGN))
    assert policies(alice) == before


def test_they_outlive_the_daemon_and_go_with_the_tunnel(lab: Lab, alice: Gateway) -> None:
    before = policies(alice)
    alice.stop()
    assert policies(alice) == before
    lab.start_daemon(alice)
    lab.wait(lambda: alice.status() is not None, 20, "alice's daemon answers")
    assert policies(alice) == before
    text = alice.config_file.read_text()
    alice.config_file.write_text(text[: text.index("[tunnel.")])
    command = (sys.executable, "-m", "qhybridd", "--config", str(alice.config_file), "reload")
    assert alice.namespace.run(command) == "removed tunnel esp\n"
    seconds_until(lambda: policies(alice) == [])
