"""Two rotation machines over targets with keys side by side (ESP): nothing is lost, whatever happens to a rotation."""

import pytest

from qhybridd.errors import HostError
from qhybridd.protocol import actions as act
from qhybridd.protocol.rotation_table import Phase
from tests.pairs.rotation_world import policy
from tests.pairs.seamless_world import EspEnd, EspWorld


def fresh(*, period_s: int = 120, hybrid: bool = False, seed: int = 1) -> EspWorld:
    """Two gateways, live for the first time."""
    rules = policy(seamless=True, period_s=period_s, hybrid=hybrid)
    world = EspWorld(seed, (rules, rules))
    for end in world.ends:
        end.start()
        end.feed(act.QkdSupply(ready=hybrid))
    world.link_up = True
    while not (world.agreed() and world.passes()):
        assert world.now < 1003
        world.run(0.1)
    for end in world.ends:
        end.sent = end.lost = 0  # the first packets may find the other guard shut for half a round trip
    return world


def epochs(world: EspWorld) -> list[int]:
    return [end.rotation.live.epoch if end.rotation and end.rotation.live else 0 for end in world.ends]


def phase(end: EspEnd) -> Phase:
    assert end.rotation is not None
    return end.rotation.phase


@pytest.mark.parametrize("hybrid", [False, True])
def test_a_hundred_rotations_at_one_a_second_lose_nothing(hybrid: bool) -> None:
    world = fresh(period_s=1, hybrid=hybrid)
    world.run(100)
    assert min(epochs(world)) > 100, "one a second: what a rotation takes is no part of it"
    assert min(end.sent for end in world.ends) >= 9_990
    assert world.lost == 0
    for end in world.ends:
        assert len(end.kernel.into) <= 6 and len(end.kernel.out) <= 6, "old associations go"


def test_an_idle_tunnel_rotates_in_time() -> None:
    world = fresh(period_s=10)
    for end in world.ends:
        end.idle = True
    world.run(101)
    assert world.agreed() and epochs(world)[0] >= 10


def test_rotate_now_forces_nothing() -> None:
    world = fresh()
    for expected in (2, 3):
        world.ends[expected % 2].feed(act.RotateNow(reset=True))
        world.run(1)
        assert epochs(world) == [expected, expected]
    assert world.lost == 0
    assert not [r for end in world.ends for r in end.reports if r.event == "resetting" and r.epoch > 1]


@pytest.mark.parametrize("cut_after_ms", range(0, 80, 3))
def test_a_cut_at_any_moment_loses_nothing(cut_after_ms: int) -> None:
    """The control channel dies at every moment of a rotation and stays away for 20 s."""
    world = fresh(period_s=60)
    world.proposer.feed(act.RotateNow(reset=False))
    world.run(cut_after_ms / 1000)
    world.link_up = False
    world.cut()
    world.run(20)
    world.link_up = True
    world.run(70)
    assert world.agreed() and world.passes() and world.lost == 0
    assert min(epochs(world)) >= 3


@pytest.mark.parametrize("installs", [True, False])
def test_in_doubt_the_first_packet_under_the_new_key_settles(installs: bool) -> None:
    """The commit went out, nothing came back: where the peer installed, its packets say so; else the old key stays."""
    world = fresh(period_s=60)
    world.proposer.feed(act.RotateNow(reset=False))
    while phase(world.proposer) is not Phase.COMMITTED:
        world.run(0.001)
    world.drop = 1.0
    if installs:
        while phase(world.answerer) is not Phase.OBSERVING:
            world.run(0.001)
    world.link_up = False
    world.cut()
    if not installs:
        world.answerer.stop()  # the commit finds nobody
        world.answerer.start()
    world.run(10)
    assert phase(world.proposer) is (Phase.OBSERVING if installs else Phase.DOUBT)
    assert any(r.event == "settled" and r.epoch == 2 for r in world.proposer.reports) is installs
    world.drop, world.link_up = 0.0, True
    world.run(5)
    assert world.agreed() and world.passes() and world.lost == 0
    assert epochs(world)[0] == (2 if installs else 3)


@pytest.mark.parametrize("side", [0, 1])
@pytest.mark.parametrize("after_ms", [0, *range(20, 80, 4), 500])
def test_a_restart_at_any_moment_of_a_rotation_loses_nothing(side: int, after_ms: int) -> None:
    world = fresh(period_s=60)
    world.proposer.feed(act.RotateNow(reset=False))
    world.run(after_ms / 1000)
    world.restart(world.ends[side], 2.0)
    world.run(20)
    assert world.agreed() and world.passes() and world.lost == 0
    assert not any(r.event == "closed" for end in world.ends for r in end.reports)


@pytest.mark.parametrize("kind", ["exchange", "reserve", "stage", "activate"])
@pytest.mark.parametrize("side", [0, 1])
def test_a_failing_step_loses_nothing(kind: str, side: int) -> None:
    world = fresh(period_s=10)
    world.ends[side].fail_next[kind] = 1
    world.run(30)
    assert world.ends[side].fail_next[kind] == 0
    assert world.agreed() and world.passes() and world.lost == 0
    assert any(r.event == "failed" for r in world.ends[side].reports)
    assert not any(r.event == "closed" for end in world.ends for r in end.reports)


@pytest.mark.parametrize("side", [0, 1])
def test_an_end_that_lost_everything_is_keyed_anew_by_force(side: int) -> None:
    world = fresh()
    world.ends[side].foreign_write()
    world.ends[side].feed(act.CloseNow(HostError("host.readback", "another program flushed the associations")))
    assert not world.passes()
    world.run(3)
    assert world.agreed() and world.passes()
    assert any(r.event == "resetting" for r in world.ends[1 - side].reports)


def test_closed_at_the_deadline_without_a_peer() -> None:
    world = fresh(period_s=2)
    world.link_up = False
    world.cut()
    deadline = min(end.guard_until for end in world.ends)
    world.run(deadline - world.now - 0.01)
    assert world.passes()
    world.run(0.05)
    assert not world.passes() and epochs(world) == [0, 0]
    assert not any(end.kernel.into or end.kernel.out for end in world.ends)
    world.link_up = True
    world.run(4)
    assert world.agreed() and world.passes()


@pytest.mark.parametrize("side", [0, 1])
def test_without_proof_at_one_end_the_old_key_ends_at_its_expiry(side: int) -> None:
    """ESP is lost in one direction: no epoch becomes live, and nothing is live for longer than it may be."""
    world = fresh(period_s=10)
    world.deaf = world.ends[side]
    live = epochs(world)
    deadline = max(end.guard_until for end in world.ends)
    world.run(deadline - world.now - 0.1)
    assert epochs(world) == live
    world.run(0.2)
    assert epochs(world) == [0, 0]
    world.run(60)
    assert epochs(world) == [0, 0], "nothing becomes live by half"
    world.deaf = None
    world.run(20)
    assert world.agreed() and world.passes()


@pytest.mark.parametrize(("step_s", "fits"), [(0.1, True), (0.3, True), (0.9, False)])
def test_slow_hosts_at_a_short_period(step_s: float, fits: bool) -> None:
    """Steps of hundreds of milliseconds, as on a loaded host, still fit into the expiry; what does not fit closes."""
    world = fresh(period_s=1)
    world.slowness = step_s / 0.005  # of an activation; the others take less
    world.run(60)
    closed = any(r.event == "closed" for end in world.ends for r in end.reports)
    assert closed is not fits
    assert world.lost == 0 or closed
    world.slowness = 1.0
    world.run(10)
    assert world.agreed() and world.passes()
