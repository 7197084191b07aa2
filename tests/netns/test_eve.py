"""The eavesdropper on a router between Alice and Bob: three namespaces, the real command, a real redirect."""

import asyncio
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import pytest

from qhybridd.config.records import Endpoint
from qhybridd.links.photons import PhotonReceiver, PhotonServer
from qhybridd.optics.records import Arrivals, Request
from qhybridd.telemetry.log import Log, open_log
from tests.netns.namespaces import Lab, inside
from tests.unit.photon_ends import LAYOUT, THINNING, Lower, Upper, same, until

PORT = 7421
SLOW = replace(LAYOUT, repetition_hz=2e7)
"""A frame each 50 ms."""
ADDRESSES = {
    4: ("10.77.1.1", "10.77.1.2", "10.77.2.2", "10.77.2.1"),
    6: ("fd77:1::1", "fd77:1::2", "fd77:2::2", "fd77:2::1"),
}
"""Alice, Eve on her side, Eve on Bob's side, Bob."""


@pytest.fixture
def lab() -> Iterator[Lab]:
    with Lab() as made:
        made.add("alice", "eve", "bob")
        a4, ae4, be4, b4 = ADDRESSES[4]
        a6, ae6, be6, b6 = ADDRESSES[6]
        made.veth(("alice", "fibre", (f"{a4}/24", f"{a6}/64")), ("eve", "to_alice", (f"{ae4}/24", f"{ae6}/64")))
        made.veth(("eve", "to_bob", (f"{be4}/24", f"{be6}/64")), ("bob", "fibre", (f"{b4}/24", f"{b6}/64")))
        made.forward("eve")
        for host, four, six in (("alice", ae4, ae6), ("bob", be4, be6)):
            made.ip(host, "route", "add", "default", "via", four)
            made.ip(host, "-6", "route", "add", "default", "via", six)
        yield made


class Alice:
    """Her end, in a thread with a loop of its own in her namespace."""

    def __init__(self) -> None:
        self.uppers: list[Upper] = []

    @contextmanager
    def serving(self, lab: Lab, address: str) -> Iterator[None]:
        ready, over = threading.Event(), threading.Event()

        def begin(request: Request) -> Upper:
            self.uppers.append(Upper(request, SLOW))
            return self.uppers[-1]

        async def serve() -> None:
            server = PhotonServer(Endpoint(address, PORT), 0, begin, Log(open_log("error")))
            await server.open()
            ready.set()
            await asyncio.to_thread(over.wait)
            await server.close()

        def run() -> None:
            with inside(lab.name("alice")):
                asyncio.run(serve())

        thread = threading.Thread(target=run)
        thread.start()
        try:
            assert ready.wait(5)
            yield
        finally:
            over.set()
            thread.join()

    def sent(self, run: bytes) -> list[Arrivals]:
        """The frames of one run."""
        return next(upper.sent for upper in self.uppers if upper.announce.run == run)


class Bob(Lower):
    """Keeps the frames of each run apart."""

    async def begin(self, announce: object) -> None:
        await super().begin(announce)  # type: ignore[arg-type]
        self.frames = []


def eve(lab: Lab, address: str, *more: str) -> "subprocess.Popen[str]":
    connect = f"[{address}]:{PORT}" if ":" in address else f"{address}:{PORT}"
    command = [sys.executable, "-m", "qhybridd", "--debug", "eve", "--intercept", "--connect", connect, *more]
    return subprocess.Popen(
        ["ip", "netns", "exec", lab.name("eve"), *command],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


async def next_run(bob: Bob, frames: int = 5) -> bytes:
    """Wait for a run after the present one, and some frames of it."""
    before = bob.runs[-1].run if bob.runs else b""
    async with asyncio.timeout(15):
        await until(lambda: bool(bob.runs) and bob.runs[-1].run != before and len(bob.frames) >= frames)
    return bob.runs[-1].run


async def on_bobs_side(lab: Lab, address: str, alice: Alice, how: signal.Signals) -> str:
    """First directly, then through her, then directly again; what she printed."""
    bob = Bob(10**9)
    receiver = PhotonReceiver(Endpoint(address, PORT), 0, Request(thinning=THINNING), bob, Log(open_log("error")))
    dialling = asyncio.create_task(receiver.run())
    run = await next_run(bob)
    assert all(map(same, bob.frames[:5], alice.sent(run)))

    process = eve(lab, address)
    try:
        run = await next_run(bob)
        for came, sent in zip(bob.frames[:5], alice.sent(run), strict=False):
            assert np.array_equal(came.gaps, sent.gaps)
            changed = np.count_nonzero(came.states != sent.states) / sent.count
            assert changed == pytest.approx(0.5, abs=0.05)  # wherever her basis was not Alice's
        assert "qhybridd_eve" in lab.run("eve", "nft", "list", "tables")
    finally:
        process.send_signal(how)
        said, _ = process.communicate(timeout=10)
    assert process.returncode == (-how if how == signal.SIGKILL else 0)
    assert lab.run("eve", "nft", "list", "ruleset") == ""

    run = await next_run(bob)
    assert all(map(same, bob.frames[:5], alice.sent(run)))
    dialling.cancel()
    await asyncio.gather(dialling, return_exceptions=True)
    return said


@pytest.mark.parametrize(
    ("version", "how"), [(4, signal.SIGINT), (6, signal.SIGTERM), (4, signal.SIGKILL)], ids=["v4", "v6", "killed"]
)
def test_both_ends_meet_her_while_she_is_there_and_each_other_afterwards(
    lab: Lab, version: int, how: signal.Signals
) -> None:
    address = ADDRESSES[version][0]
    alice = Alice()
    with alice.serving(lab, address), inside(lab.name("bob")):
        said = asyncio.run(on_bobs_side(lab, address, alice, how))
    if how != signal.SIGKILL:
        assert "simulated links only" in said
        assert "light goes through: 2e+07 pulses a second, a fibre of 5.6 dB" in said
        assert "bits known of those that went on" in said


def test_she_leaves_by_herself_and_a_second_one_is_refused(lab: Lab) -> None:
    first = eve(lab, ADDRESSES[4][0], "--for", "3")
    assert first.stdout is not None
    while "now end here" not in first.stdout.readline():
        pass
    second = eve(lab, ADDRESSES[4][0])
    said, _ = second.communicate(timeout=20)
    assert second.returncode == 1
    assert "host.intercept" in said
    said, _ = first.communicate(timeout=10)
    assert first.returncode == 0
    assert "what it came to" in said
    assert lab.run("eve", "nft", "list", "ruleset") == ""


def test_a_host_that_does_not_route_is_told_so(lab: Lab) -> None:
    lab.run("eve", "sysctl", "-qw", "net.ipv4.ip_forward=0")
    process = eve(lab, ADDRESSES[4][0])
    said, _ = process.communicate(timeout=20)
    assert process.returncode == 1
    assert "host.intercept" in said
    assert "net.ipv4.ip_forward" in said
