"""Two daemons with a tunnel over ESP: what they do about restarts, and about others who change XFRM or the clock."""

import os
import time
from collections.abc import Iterator
from dataclasses import replace

import pytest

from qhybridd.apps.flow import Flow
from qhybridd.apps.lab import Lab
from tests.kernel.abilities import has_esp
from tests.netns.worlds import SEAMLESS, configs, epochs, wait_arrivals, wait_epoch

pytestmark = [pytest.mark.slow, pytest.mark.skipif(not has_esp(), reason="this kernel has no ESP")]

STEADY = replace(SEAMLESS, period_s=3, expiry_s=300)
"""A daemon must be back before the expiry, and software emulation is slow: one takes half a minute to start or more."""
BEFORE_S = 300.0
AGAIN_S = 120.0
INTERVAL_MS = 40.0
"""Between two packets, each way."""


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    with Lab(configs(STEADY)) as lab:
        lab.start_daemons()
        try:
            lab.wait_open("esp", BEFORE_S)
        except BaseException as error:
            for gateway in lab.gateways.values():
                error.add_note(gateway.last_words())
            raise
        yield lab


@pytest.fixture
def flow(lab: Lab) -> Iterator[Flow]:
    """Traffic both ways, open and keyed."""
    wait_epoch(lab, "esp", 0, AGAIN_S)
    flow = lab.add_flow("esp", INTERVAL_MS)
    flow.start()
    wait_arrivals(lab, flow, AGAIN_S)
    yield flow
    flow.remove()


def nothing_lost(lab: Lab, flow: Flow) -> None:
    reading = flow.finish()
    assert reading.lost == 0, "\n".join((str(reading), *(one.last_words(30) for one in lab.gateways.values())))


def inside(lab: Lab, gateway: str, *command: str) -> str:
    return lab.gateways[gateway].namespace.run(command)


def policies(lab: Lab, gateway: str) -> list[str]:
    """Selectors and directions, without what a rotation changes."""
    lines = inside(lab, gateway, "ip", "xfrm", "policy", "list", "nosock").splitlines()
    return sorted(line.strip() for line in lines if line.startswith("src") or "dir" in line)


def test_a_tunnel_opens_and_rotates(lab: Lab, flow: Flow) -> None:
    first = wait_epoch(lab, "esp", 0, AGAIN_S)
    assert wait_epoch(lab, "esp", first + 2, AGAIN_S) > first
    nothing_lost(lab, flow)


@pytest.mark.parametrize("name", ["alice", "bob"])
def test_a_restart_loses_nothing(lab: Lab, flow: Flow, name: str) -> None:
    gateway = lab.gateways[name]
    before = epochs(lab, "esp")
    gateway.stop()
    lab.start_daemon(gateway)
    after = wait_epoch(lab, "esp", max(before), AGAIN_S)
    wait_epoch(lab, "esp", after, AGAIN_S)
    nothing_lost(lab, flow)
    assert "adopted" in gateway.last_words(400)


@pytest.mark.parametrize("what", ["state", "policy"])
def test_what_others_flush_is_put_back_and_keyed_anew(lab: Lab, flow: Flow, what: str) -> None:
    before, demanded = max(epochs(lab, "esp")), policies(lab, "alice")
    assert demanded
    inside(lab, "alice", "ip", "xfrm", what, "flush")
    began = time.monotonic()
    while policies(lab, "alice") != demanded:
        assert time.monotonic() - began < 2, policies(lab, "alice")
        time.sleep(0.02)
    wait_epoch(lab, "esp", before, AGAIN_S)
    wait_arrivals(lab, flow, AGAIN_S)
    print(f"\n{what} flushed: policies back after {time.monotonic() - began:.2f} s")


@pytest.mark.skipif(os.environ.get("QHYBRIDD_MACHINE") != "1", reason="this clock is not ours to set")
@pytest.mark.parametrize("by_s", [3600, -3600])
def test_a_set_clock_costs_nothing(lab: Lab, flow: Flow, by_s: int) -> None:
    """Lifetimes of associations follow the wall clock."""
    before = max(epochs(lab, "esp"))
    time.clock_settime(time.CLOCK_REALTIME, time.time() + by_s)
    try:
        later = wait_epoch(lab, "esp", before + 1, AGAIN_S)
        wait_epoch(lab, "esp", later + 4, AGAIN_S)
        assert "clock set" in lab.gateways["alice"].last_words(400)
        nothing_lost(lab, flow)
    finally:
        time.clock_settime(time.CLOCK_REALTIME, time.time() - by_s)
