"""A simulated link in one process: repeatable, both ends agree, attacks and outages end as such, accounts balance."""

from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise

import pytest

from qhybridd.apps.sim import day as days
from qhybridd.apps.sim.day import Course, Day, balanced, resident_bytes, surplus
from qhybridd.apps.sim.events import Programme, usual_day
from qhybridd.apps.sim.link import NO_KEY, SimulatedLink, recut
from qhybridd.apps.sim.settings import at_rate, change, default_link
from qhybridd.apps.sim.totals import predict, total
from qhybridd.config.records import LinkConfig
from qhybridd.links.planning import lay_out
from qhybridd.optics.randomness import Randomness
from qhybridd.optics.records import Layout

DEVIATIONS = 5.0


def short_link(**changes: object) -> LinkConfig:
    """Ten kilometres, blocks that take a second or so."""
    link = change(default_link(), ["fibre.length_km=10", "epsilon_sec=1e-4", "block_clicks=400000"])
    return replace(link, **changes)  # type: ignore[arg-type]


@pytest.fixture
def link() -> Iterator[SimulatedLink]:
    simulated = SimulatedLink(short_link(), Randomness.from_seed(1))
    yield simulated
    simulated.wipe()


def keys_of(simulated: SimulatedLink) -> list[tuple[tuple[bytes, ...], bytes]]:
    """Everything that Alice can reserve, each key fetched at the other end."""
    keys = []
    while simulated.alice_store.available_bits() >= 256:
        ids, secret = simulated.alice_store.reserve(256, simulated.now)
        assert simulated.bob_store.fetch(ids, 256, simulated.now) == secret
        with secret.expose() as view:
            keys.append((ids, bytes(view)))
    return keys


def test_the_same_seed_gives_the_same_run() -> None:
    runs = []
    for seed in (1, 1, 2):
        simulated = SimulatedLink(short_link(), Randomness.from_seed(seed))
        blocks = [simulated.block() for _ in range(3)]
        assert blocks[-1].net_bits > 10_000
        runs.append(([replace(block) for block in blocks], keys_of(simulated)))
        simulated.wipe()
    (first, keys), (again, same_keys), (other, other_keys) = runs
    assert first == again and keys == same_keys
    assert len(keys) > 20 and len({key for _, key in keys}) == len(keys)
    assert [block.clicks for block in first] != [block.clicks for block in other] and keys != other_keys


def test_blocks_follow_each_other_and_are_counted(link: SimulatedLink) -> None:
    blocks = [link.block() for _ in range(3)]
    assert [block.number for block in blocks] == [1, 2, 3] and link.now == blocks[-1].end_s
    assert all(a.end_s == b.begin_s for a, b in pairwise(blocks))
    for block in blocks:
        assert block.code == "" and block.record is not None
        assert block.key_bits == block.net_bits + block.refill_bits
        assert sum(block.counts.key_clicks) == block.record.sizes.key_bits
        assert block.instruments.frames == link.layout.block_frames
    optics = link.link.simulation
    totals, expected = total(optics, blocks), predict(optics)
    assert totals.kept == 3 and totals.net_bits == sum(block.net_bits for block in blocks)
    sent = totals.pulses * (0.8**2 + 0.2**2) * 0.7
    assert totals.gain(0).value == (totals.counts.key_clicks[0] + totals.counts.test_clicks[0]) / sent
    for index in range(2):
        gain, rate = totals.gain(index), totals.error_rate(index)
        assert abs(gain.value - expected.gains[index]) < DEVIATIONS * gain.deviation
        assert abs(rate.value - expected.error_rates[index]) < DEVIATIONS * rate.deviation
    assert surplus(link.alice_store) == surplus(link.bob_store) == 0
    assert link.alice_store.account.distilled_bits == sum(block.key_bits for block in blocks)


def test_what_is_counted_is_what_the_two_ends_found(link: SimulatedLink, monkeypatch: pytest.MonkeyPatch) -> None:
    block = link.block()
    other = SimulatedLink(short_link(), Randomness.from_seed(1))
    monkeypatch.setattr("qhybridd.apps.sim.link._counts_of", lambda _: None)
    assert other.block().counts == block.counts
    other.wipe()


def test_an_eavesdropper_comes_and_goes(link: SimulatedLink) -> None:
    assert link.block().code == ""
    link.attack("intercept-resend")
    seen = link.block()
    assert seen.code == "link.attack" and seen.net_bits == 0
    assert seen.qber_key == pytest.approx(0.257, abs=0.01) and seen.qber_test == pytest.approx(0.257, abs=0.02)
    link.attack(None)
    assert link.block().code == ""


def test_blinding_is_refused_before_distillation_and_counted_all_the_same(link: SimulatedLink) -> None:
    link.attack("blinding")
    seen = link.block()
    assert seen.code == "link.blinding" and seen.record is None
    assert seen.instruments.current_a > link.link.simulation.receiver.current_most_a
    assert sum(seen.counts.key_clicks) > 1000 and seen.qber_key is not None and seen.qber_key < 0.05


def test_a_cut_is_no_key_and_mended_by_itself(link: SimulatedLink) -> None:
    link.line.fibre.cut = True
    cut = link.block()
    assert cut.code == "link.outage" and cut.net_bits == 0 and cut.clicks < 5000
    link.line.fibre.cut = False
    assert [link.block().code for _ in range(2)][-1] == ""


def test_a_block_that_pays_for_nothing_is_counted() -> None:
    simulated = SimulatedLink(short_link(block_clicks=20_000), Randomness.from_seed(3))
    block = simulated.block()
    assert block.code == NO_KEY and block.key_bits == 0
    assert block.qber_key is not None and sum(block.counts.key_clicks) == pytest.approx(20_000, rel=0.05)
    assert simulated.alice_store.account.distilled_bits == 0


def test_a_link_that_fails_for_long_gets_new_sessions() -> None:
    """Blocks that are dropped use up pads: another session brings new ones."""
    simulated = SimulatedLink(short_link(), Randomness.from_seed(4))
    simulated.block()
    assert simulated.sessions == 1
    assert simulated._keys is not None
    simulated._keys[1].retire()
    assert simulated.block().code == "" and simulated.sessions == 2
    simulated.wipe()


@pytest.mark.parametrize("km", [0.0, 50.0, 150.0])
def test_longer_frames_make_the_same_blocks(km: float) -> None:
    optics = default_link().simulation.with_length(km)
    layout = lay_out(optics, 1_000_000)
    cut = recut(optics, layout)
    assert layout.block_pulses <= cut.block_pulses <= layout.block_pulses + cut.block_frames
    assert cut.frame_pulses >= layout.frame_pulses and cut.frame_s <= 1.01
    assert recut(optics, Layout(1e9, 1, 7)).block_pulses == 7


# ---- a day


def short_day(**changes: object) -> Day:
    """An hour in which everything happens that happens in a day."""
    link = change(at_rate(default_link(), 1e6), ["fibre.length_km=25", "epsilon_sec=1e-4", "block_clicks=400000"])
    plan = Day(replace(link, max_age_s=300), 1.0, 15, 60.0, Randomness.from_seed(5), attack="intercept-resend")
    return replace(plan, **changes)  # type: ignore[arg-type]


def test_a_day_balances_to_the_bit_and_keeps_its_memory() -> None:
    course = Course.of(short_day())
    course.run()
    alice, bob = course.link.alice_store.account, course.link.bob_store.account
    codes = {block.code for block in course.blocks}
    assert {"", "link.attack"} < codes and len(course.blocks) > 20
    assert balanced(course) and alice.balanced and bob.balanced
    net = sum(block.net_bits for block in course.blocks)
    refill = sum(block.refill_bits for block in course.blocks)
    assert alice.distilled_bits == bob.distilled_bits == net + refill
    assert alice.authentication_bits == bob.authentication_bits == refill
    assert alice.used_bits == bob.used_bits == 256 * course.tunnels.rotations > 0
    assert min(alice.expired_bits, alice.burnt_bits, bob.burnt_bits) > 0
    assert (alice.own_bits, alice.peer_bits) == (bob.peer_bits, bob.own_bits) and not alice.waiting_bits
    assert course.tunnels.starved > 0 and course.tunnels.failed > 0
    settled = course.moments[days.SETTLED_BLOCKS + 2].resident_bytes
    assert 0 < course.moments[-1].resident_bytes < settled + 8 * 2**20 and resident_bytes() > 0
    course.link.wipe()
    assert course.link.alice_store.available_bits() == 0


def test_an_account_that_is_wrong_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    course = Course.of(short_day(hours=0.01))
    course.run()
    assert balanced(course)
    course.link.bob_store._used += 1
    assert not balanced(course) and surplus(course.link.bob_store) == -1
    course.link.wipe()


def test_events_begin_go_on_and_end() -> None:
    simulated = SimulatedLink(short_link(), Randomness.from_seed(6))
    fibre, programme = simulated.line.fibre, Programme(usual_day(1000.0, "tap"))
    seen = []
    for now in range(0, 1000, 5):
        programme.at(simulated, float(now))
        seen.append((fibre.cut, fibre.extra_loss_db, simulated.line.attack is not None))
    cuts, losses, attacks = zip(*seen, strict=True)
    assert 0 < sum(cuts) < 20 and 0 < sum(attacks) < 20 and not (seen[0][0] or seen[-1][0] or seen[-1][2])
    assert 0.9 < max(losses) < 1.0 and losses[-1] == 0
    simulated.wipe()
