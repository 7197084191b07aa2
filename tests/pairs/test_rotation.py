"""Two rotation machines together: the ordinary course, and each fault by itself."""

import pytest

from qhybridd.errors import HostError
from qhybridd.protocol import actions as act
from tests.pairs.rotation_world import World, policy


def fresh(*, reset: bool = False, period_s: int = 120, hybrid: bool = False, seed: int = 1) -> World:
    rules = policy(reset=reset, period_s=period_s, hybrid=hybrid)
    world = World(seed, (rules, rules))
    for end in world.ends:
        end.start()
        if hybrid:
            end.feed(act.QkdSupply(ready=True))
    world.link_up = True
    return world


def live_epochs(world: World) -> list[int]:
    return [end.rotation.live.epoch if end.rotation and end.rotation.live else 0 for end in world.ends]


@pytest.mark.parametrize("hybrid", [False, True])
@pytest.mark.parametrize("reset", [False, True])
def test_first_epoch_opens_quickly_and_rotations_follow(reset: bool, hybrid: bool) -> None:
    world = fresh(reset=reset, period_s=10 if reset else 120, hybrid=hybrid)
    world.run(3)
    assert world.agreed() and live_epochs(world) == [1, 1]
    assert world.passes()
    world.run(130)
    assert world.agreed() and live_epochs(world)[0] >= (12 if reset else 2)


def test_an_ordinary_tunnel_always_passes_packets() -> None:
    world = fresh()
    world.run(3)
    for _ in range(12_000):
        world.run(0.1)
        assert world.passes()
    assert live_epochs(world)[0] >= 10


def test_an_idle_tunnel_rotates_too() -> None:
    world = fresh()
    for end in world.ends:
        end.idle = True
    world.run(1300)
    assert world.agreed() and live_epochs(world)[0] >= 9


def test_closed_at_the_deadline_without_a_peer() -> None:
    world = fresh()
    world.run(3)
    world.link_up = False
    world.cut()
    deadline = min(end.guard_until for end in world.ends)
    world.run(deadline - world.now - 0.01)
    assert world.passes()
    world.run(0.05)
    assert not world.passes() and live_epochs(world) == [0, 0]
    world.link_up = True
    world.run(4)
    assert world.agreed() and world.passes()


def test_restart_adopts_and_loses_nothing() -> None:
    world = fresh()
    world.run(30)
    for end in world.ends:
        world.restart(end, 2.0)
        for _ in range(100):
            world.run(0.1)
            assert world.passes()
        assert world.agreed() and live_epochs(world) == [1, 1]
    world.run(300)
    assert world.agreed() and live_epochs(world)[0] >= 3


def test_the_answerer_can_ask_for_a_rotation() -> None:
    world = fresh()
    world.run(30)
    world.answerer.feed(act.RotateNow(reset=True))
    world.run(2)
    assert live_epochs(world) == [2, 2] and world.passes()


def test_rotate_now_replaces_a_rotation_that_waits_for_a_handshake() -> None:
    world = fresh()
    world.run(30)
    world.proposer.feed(act.RotateNow(reset=False))
    world.run(2)
    assert live_epochs(world) == [1, 1]
    world.proposer.feed(act.RotateNow(reset=True))
    world.run(2)
    assert live_epochs(world) == [3, 3] and world.passes()


def test_a_foreign_change_closes_and_rekeys() -> None:
    world = fresh()
    world.run(30)
    world.answerer.feed(act.CloseNow(HostError("host.readback", "another program wrote a PSK")))
    assert world.answerer.guard_until == 0.0 and not world.passes()
    world.run(3)
    assert world.agreed() and world.passes()


def test_a_revoked_peer_is_closed_for_good() -> None:
    world = fresh()
    world.run(30)
    world.answerer.feed(act.Revoke())
    assert not world.passes()
    world.run(400)
    assert live_epochs(world) == [0, 0]
    assert any(r.error and r.error.code == "tunnel.revoked" for r in world.answerer.reports)


@pytest.mark.parametrize("kind", ["exchange", "reserve", "stage", "activate", "open"])
@pytest.mark.parametrize("side", [0, 1])
@pytest.mark.parametrize("reset", [False, True])
def test_a_failing_step_is_made_up_for(kind: str, side: int, reset: bool) -> None:
    world = fresh(reset=reset, period_s=10 if reset else 120)
    world.run(3)
    world.ends[side].fail_next[kind] = 2
    world.run(20 if reset else 400)
    assert world.ends[side].fail_next[kind] == 0
    world.run(20)
    assert world.agreed() and world.passes()


@pytest.mark.parametrize("cut_after_ms", range(0, 80, 3))
@pytest.mark.parametrize("reset", [False, True])
def test_a_cut_at_any_moment_heals(cut_after_ms: int, reset: bool) -> None:
    """The control channel dies at every moment of a rotation and stays away for 20 s."""
    period_s = 60 if reset else 120
    world = fresh(reset=reset, period_s=period_s)
    world.run(30)
    world.proposer.feed(act.RotateNow(reset=False))
    world.run(cut_after_ms / 1000)
    world.link_up = False
    world.cut()
    for _ in range(200):
        world.run(0.1)
        if not reset:
            assert world.passes()
    world.link_up = True
    if not reset:
        for _ in range(2500):
            world.run(0.1)
            assert world.passes()
    world.run(period_s)
    assert world.agreed() and world.passes()


def test_in_doubt_without_a_peer_the_proposer_tries_both_keys() -> None:
    """The peer installed, the answer never came, and the control channel stays away: traffic goes on to the expiry."""
    world = fresh()
    world.run(30)
    world.proposer.feed(act.RotateNow(reset=False))
    while not any(r.event == "installed" and r.epoch == 2 for r in world.answerer.reports):
        world.run(0.001)
    world.link_up = False
    world.cut()
    world.run(1)
    assert world.proposer.rotation is not None
    assert world.proposer.rotation.phase.value == "in doubt"
    for _ in range(2500):
        world.run(0.1)
        assert world.passes()
    assert any(r.event == "settled" and r.epoch == 2 for r in world.proposer.reports)
    world.link_up = True
    world.run(5)
    assert world.agreed()


def _until_both_hold(world: World, epoch: int) -> None:
    """Run until both ends' devices hold `epoch`, which waits for a handshake."""
    while not all(any(r.event == "installed" and r.epoch == epoch for r in end.reports) for end in world.ends):
        world.run(0.01)


@pytest.mark.parametrize("side", [0, 1])
def test_a_key_that_was_not_proven_before_a_restart_is_replaced_at_once(side: int) -> None:
    world = fresh()
    world.run(30)
    world.proposer.feed(act.RotateNow(reset=False))
    _until_both_hold(world, 2)
    world.restart(world.ends[side], 1.0)
    world.run(10)
    assert any(r.event == "installed" and r.epoch == 3 for r in world.answerer.reports)
    assert world.passes()


def test_a_lost_word_of_proof_is_made_up_for_by_the_next_session() -> None:
    world = fresh()
    world.run(30)
    world.proposer.feed(act.RotateNow(reset=False))
    _until_both_hold(world, 2)
    world.drop = 1.0
    world.run(100)
    assert live_epochs(world) == [1, 1], "nothing is live before the peer's word"
    world.drop = 0.0
    world.cut()
    world.run(5)
    assert live_epochs(world) == [2, 2], "no further epoch is needed"


def test_the_chain_key_moves_on_with_every_live_epoch_and_is_shared() -> None:
    world = fresh(reset=True, period_s=10)
    seen = set()
    for _ in range(4):
        world.run(10)
        chains = [end.rotation.standing.chain_tag for end in world.ends if end.rotation]
        assert chains[0] == chains[1] != b""
        seen.add(chains[0])
    assert len(seen) == 4


def test_ordinary_epochs_keep_in_step_with_the_handshakes() -> None:
    """A key is installed a few seconds before the handshake at which it enters, and never misses it."""
    world = fresh()
    world.run(3)
    for expected in range(2, 9):
        began = world.now
        while live_epochs(world) != [expected, expected]:
            world.run(0.5)
            assert world.now < began + 126
        ages = [world.now - end.rotation.live.combined_at for end in world.ends if end.rotation and end.rotation.live]
        assert max(ages) < 20
