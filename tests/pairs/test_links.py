"""Two ends of a link in one event loop: what they distil is the same, and what happens between them costs keys only."""

import asyncio
import os
from collections.abc import Awaitable, Callable
from dataclasses import replace

import pytest

from qhybridd.clock import boottime
from qhybridd.config.records import Endpoint
from qhybridd.distill.authenticate import Role
from qhybridd.errors import HostError, OperatorError, PeerError
from qhybridd.keystore import KeyStore
from qhybridd.links import messages as msg
from qhybridd.links import parts
from qhybridd.links.link import LinkEnd
from qhybridd.optics.eve import ATTACKS, make_attack
from qhybridd.optics.parameters import Fibre
from qhybridd.optics.randomness import Randomness
from qhybridd.optics.records import Arrivals, Detections, Request
from qhybridd.secret import Secret
from qhybridd.status import FaultRequest
from tests.pairs.link_world import LINK, World, until, world

Story = Callable[[], Awaitable[None]]


def run(story: Story) -> None:
    asyncio.run(story())


def check_agreement(alice: KeyStore, bob: KeyStore) -> int:
    """Take every key out of both stores: each is the same at both ends. How many they were."""
    taken, now = 0, boottime()
    for mine, other in ((alice, bob), (bob, alice)):
        while mine.available_bits():
            key_ids, secret = mine.reserve(256, now)
            assert other.fetch(key_ids, 256, now) == secret and not secret.is_zero
            taken += 1
    assert alice.account.balanced and bob.account.balanced
    return taken


async def quiet(w: World) -> None:
    """No more blocks, and what was under way is done."""
    w.alice.fault(FaultRequest("north", "cut"))
    settled = w.bob.progress.dropped + 3
    await until(lambda: w.bob.progress.dropped >= settled)


async def unplugged(w: World) -> None:
    """Bob's end of the fibre is out, and the blocks that he had are done: neither end begins anything by itself."""
    assert w.bob._photons is not None
    w.bob._photons.cancel()
    idle = 0
    while idle < 10:
        await asyncio.sleep(0.02)
        busy = not w.bob.finished.empty() or w.bob._asked is not None
        idle = 0 if busy or w.bob._talk is not None or w.alice._talk is not None else idle + 1


def renewing(w: World) -> Callable[[], None]:
    """Give the ends the new sessions that they ask for, as a peer would: failed blocks took their pads."""

    def renew() -> None:
        if w.hers.renewals + w.his.renewals:
            w.hers.renewals = w.his.renewals = 0
            w.session(len(w.hers.sessions) + 1)

    return renew


def test_both_stores_hold_the_same_keys() -> None:
    async def story() -> None:
        async with world() as w:
            w.session(1)
            await until(lambda: w.bob.progress.kept >= 8)
            assert w.alice.status().state == w.bob.status().state == "up"
            assert w.bob.status().photons == "connected" and w.bob.status().synchronised
            await quiet(w)
            assert w.alice.progress.kept == w.bob.progress.kept
            assert w.alice.store.account.distilled_bits == w.bob.store.account.distilled_bits
            assert w.alice.store.account.waiting_bits == w.bob.store.account.waiting_bits == 0
            assert check_agreement(w.alice.store, w.bob.store) > 100
            assert w.hers.renewals == w.his.renewals == 0
            assert "defect" not in w.hers.lines.events() + w.his.lines.events()
            assert w.hers.lines.events().count("link up") == 1

    run(story)


@pytest.mark.parametrize(
    ("theirs", "words"),
    [
        (replace(LINK, role=Role.BOB, block_clicks=70_000), "block_clicks"),
        (replace(LINK, role=Role.BOB, qber_most=0.07), "the protocol"),
        (
            replace(LINK, role=Role.BOB, simulation=replace(LINK.simulation, fibre=Fibre(length_km=6.0))),
            "the simulation",
        ),
    ],
)
def test_ends_that_are_configured_differently_say_what_differs_and_distil_nothing(theirs: object, words: str) -> None:
    async def story() -> None:
        async with world(LINK, theirs) as w:  # type: ignore[arg-type]
            w.session(1)
            await until(lambda: w.bob.status().code == w.alice.status().code == "link.terms")
            assert words in w.bob.status().why or words in w.alice.status().why
            await asyncio.sleep(0.2)
            assert w.bob.status().photons == "waiting" and not w.bob.progress.kept + w.bob.progress.dropped

    run(story)


def test_ends_with_different_psks_say_so_both_and_distil_nothing() -> None:
    async def story() -> None:
        async with world() as w:
            w.bob._psk = Secret.adopt(bytes(range(32)))
            w.session(1)
            await until(lambda: all(end.status().why == "the two ends differ in the PSK" for end in (w.alice, w.bob)))
            assert not w.bob.progress.kept + w.bob.progress.dropped

    run(story)


def test_an_end_at_which_nobody_dials_says_what_it_waits_for() -> None:
    async def story() -> None:
        async with world() as w:
            w.bob._look = lambda: None  # type: ignore[method-assign]
            w.session(1)
            await until(lambda: w.alice.status().state == "starting")
            assert w.alice.status().code == "link.photons" and w.alice.status().hint

    run(story)


def test_two_ends_of_the_same_role_refuse_each_other() -> None:
    async def story() -> None:
        async with world() as w:
            name = w.session(1)
            w.alice.receive(name, msg.Hello("north", Role.ALICE, w.alice._digests_in(name)))
            assert w.alice.status().code == "link.terms" and "alice" in w.alice.status().why

    run(story)


def test_a_session_that_ends_in_the_middle_of_a_block_costs_that_block() -> None:
    async def story() -> None:
        async with world() as w:
            session = w.session(1)
            for number in range(2, 6):
                kept = w.bob.progress.kept
                await until(lambda: w.bob.progress.kept > kept and w.bob.uses(session))  # noqa: B023
                w.cut(session)
                session = w.session(number)
            kept = w.bob.progress.kept
            await until(lambda: w.bob.progress.kept > kept + 4)
            await quiet(w)
            await until(lambda: not w.alice.store.account.waiting_bits)
            assert check_agreement(w.alice.store, w.bob.store) > 50
            assert w.bob.progress.dropped and "defect" not in w.hers.lines.events() + w.his.lines.events()

    run(story)


def test_a_session_in_which_another_life_of_the_link_spoke_gives_no_pads() -> None:
    async def story() -> None:
        async with world() as w:
            w.hers.claimed.add(((1).to_bytes(48, "big"), "north"))
            w.session(1)
            await until(lambda: w.hers.renewals == 1)
            await until(lambda: w.bob.progress.dropped >= 1)
            assert not w.alice.progress.kept
            w.session(2)
            await until(lambda: w.bob.progress.kept >= 1)

    run(story)


def test_one_that_cannot_dial_asks_the_other_for_a_session() -> None:
    async def story() -> None:
        async with world() as w:
            w.hers.can_dial = False
            w.hers.claimed.add(((1).to_bytes(48, "big"), "north"))
            w.session(1)
            await until(lambda: w.his.renewals == 1)

    run(story)


def test_a_lost_word_of_confirmation_is_made_up_for_by_the_listing() -> None:
    async def story() -> None:
        async with world() as w:
            w.hers.spoil = lambda message: [] if isinstance(message, msg.Stored) else [message]
            w.session(1)
            await until(lambda: w.bob.store.available_bits() > 0)
            await quiet(w)
            check_agreement(w.alice.store, w.bob.store)

    run(story)


def test_without_a_listing_a_key_counts_at_both_ends_too() -> None:
    async def story() -> None:
        async with world() as w:
            w.hers.spoil = w.his.spoil = lambda message: [] if isinstance(message, msg.Listing) else [message]
            w.session(1)
            await until(lambda: w.alice.store.available_bits() and w.bob.store.available_bits())
            await quiet(w)
            assert check_agreement(w.alice.store, w.bob.store)

    run(story)


def test_the_end_of_an_older_session_is_no_answer_of_the_one_in_use() -> None:
    async def story() -> None:
        async with world() as w:
            first = w.session(1)
            await until(lambda: w.bob.progress.kept >= 1)
            w.hers.spoil = lambda message: [] if isinstance(message, msg.Begin) else [message]
            second = w.session(2)
            await until(lambda: w.bob._asked is not None and w.bob._asked[0] == second)
            w.cut(first)
            await asyncio.sleep(0)
            assert w.bob._answer is not None and not w.bob._answer.done()

    run(story)


def test_an_end_that_is_refused_later_distils_no_more() -> None:
    async def story() -> None:
        async with world() as w:
            session = w.session(1)
            await until(lambda: w.bob.progress.kept >= 1)
            w.bob.receive(session, msg.Refuse("north", "link.terms"))
            assert w.bob.status().code == "link.terms" and not w.bob._usable.is_set()
            await until(lambda: w.bob._photons is None and w.alice.status().photons == "waiting")

    run(story)


def test_an_altered_part_ends_the_block_and_asks_for_a_new_session() -> None:
    def alter(message: msg.Message) -> list[msg.Message]:
        if isinstance(message, msg.Part) and message.number == 3:
            return [msg.Part(message.link, message.number, message.data[:-1] + bytes([message.data[-1] ^ 1]))]
        return [message]

    async def story() -> None:
        async with world() as w:
            w.hers.spoil = alter
            w.session(1)
            await until(lambda: w.bob.progress.dropped >= 1)
            assert w.bob.status().code == "link.authentication"
            assert w.his.renewals == 1
            w.session(2)
            kept = w.bob.progress.kept
            await until(lambda: w.bob.progress.kept >= kept + 2)

    run(story)


@pytest.mark.parametrize(
    ("fault", "code"),
    [
        (FaultRequest("north", "eve", 1.0, "intercept-resend"), "link.attack"),
        (FaultRequest("north", "eve", 1.0, "blinding"), "link.blinding"),
        (FaultRequest("north", "cut"), "link.outage"),
        (FaultRequest("north", "loss", 12.0), "link.outage"),
    ],
)
def test_what_alters_the_light_stops_the_keys_and_they_come_back_after_it(fault: FaultRequest, code: str) -> None:
    async def story() -> None:
        async with world(paced=True) as w:
            w.session(1)
            await until(lambda: w.bob.progress.kept >= 2)
            w.alice.fault(fault)
            assert len(w.alice.status().faults) == 1
            await until(lambda: w.bob.status().code == w.alice.status().code == code)
            kept = w.bob.progress.kept
            await until(lambda: w.bob.progress.dropped >= 8)
            assert w.bob.progress.kept == kept
            w.alice.fault(FaultRequest("north", mend=True))
            assert not w.alice.status().faults
            await until(lambda: w.bob.progress.kept > kept + 2, renewing(w))
            assert "link recovered" in w.hers.lines.events()
            attack = code in ("link.attack", "link.blinding")
            assert ("attack" in w.his.lines.events()) is attack
            await quiet(w)
            check_agreement(w.alice.store, w.bob.store)

    run(story)


def test_a_worse_link_is_planned_anew_and_keeps_giving_keys() -> None:
    async def story() -> None:
        async with world() as w:
            w.session(1)
            await until(lambda: w.bob.progress.kept >= 2)
            before = w.alice._planner.terms
            w.alice.fault(FaultRequest("north", "loss", 0.4))
            await until(lambda: w.bob.progress.dropped >= 3)
            kept = w.bob.progress.kept
            await until(lambda: w.bob.progress.kept >= kept + 4)
            after = w.alice._planner.terms
            assert before is not None and after is not None and after.key_clicks_least < before.key_clicks_least

    run(story)


def test_a_turned_fibre_is_calibrated_away_and_called_so() -> None:
    async def story() -> None:
        async with world() as w:
            w.session(1)
            await until(lambda: w.bob.progress.kept >= 1)
            w.alice.fault(FaultRequest("north", "misalignment", 0.3))
            told = [cable.lines.lines for cable in (w.his, w.hers)]
            await until(lambda: all(any(line.get("code") == "link.calibration" for line in lines) for lines in told))
            kept = w.bob.progress.kept
            await until(lambda: w.bob.progress.kept > kept)

    run(story)


def test_faults_are_refused_at_the_end_that_does_not_have_them() -> None:
    async def story() -> None:
        async with world() as w:
            for end, kind in ((w.alice, "dark"), (w.bob, "cut")):
                with pytest.raises(OperatorError) as refused:
                    end.fault(FaultRequest("north", kind, 2.0))  # type: ignore[arg-type]
                assert refused.value.code == "control.refused" and "other gateway" in refused.value.hint
            with pytest.raises(OperatorError, match="is no attack"):
                w.alice.fault(FaultRequest("north", "eve", 1.0, "magic"))
            w.bob.fault(FaultRequest("north", "dark", 3.0))
            w.bob.fault(FaultRequest("north", "clock", -20.0))
            assert w.bob._station.dark_factor == 3.0 and w.bob._station.clock_offset_ps == -20.0
            assert len(w.bob.faults) == 2
            w.bob.fault(FaultRequest("north", "clock", mend=True))
            w.bob.fault(FaultRequest("north"))
            assert len(w.bob.faults) == 1 and w.bob._station.clock_offset_ps == 0.0

    run(story)


def test_no_block_is_distilled_twice_and_none_that_was_not_emitted() -> None:
    async def story() -> None:
        async with world() as w:
            session = w.session(1)
            await until(lambda: w.bob.progress.kept >= 2)
            await unplugged(w)
            run_ = w.alice._runs[-1].announce.run
            begun = sum(isinstance(message, msg.Begin) for message in w.hers.sent)
            for block in (0, 1 << 40):
                w.hers.sent.clear()
                w.alice.receive(session, msg.Ready("north", run_, block))
                await until(lambda: any(isinstance(m, msg.Skip) and m.block == block for m in w.hers.sent))  # noqa: B023
            w.hers.sent.clear()
            w.alice.receive(session, msg.Ready("north", os.urandom(16), 0))
            await until(lambda: any(isinstance(m, msg.Skip) for m in w.hers.sent))
            assert begun >= 2 and not any(isinstance(message, msg.Begin) for message in w.hers.sent)

    run(story)


def test_without_a_session_photons_wait_and_do_not_pile_up() -> None:
    async def story() -> None:
        async with world() as w:
            session = w.session(1)
            await until(lambda: w.bob.progress.kept >= 1)
            w.cut(session)
            await until(w.bob.finished.full)
            await asyncio.sleep(1.0)
            frames = w.alice._runs[-1]._frames
            await asyncio.sleep(0.5)
            assert w.alice._runs[-1]._frames == frames  # the socket is full, and Alice computes nothing more
            kept = w.bob.progress.kept
            w.session(2)
            await until(lambda: w.bob.progress.kept > kept + 5)

    run(story)


def test_a_link_that_pays_for_no_key_says_so() -> None:
    async def story() -> None:
        async with world(replace(LINK, block_clicks=20_000, epsilon_sec=1e-10)) as w:
            w.session(1)
            await until(lambda: w.bob.progress.dropped >= 2)
            assert w.alice.status().code == w.bob.status().code == "link.outage"
            assert "block_clicks" in w.alice.status().hint

    run(story)


def test_alice_goes_on_without_her_endpoint_until_she_has_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("qhybridd.links.alice.RETRY_S", 0.05)

    async def story() -> None:
        async with world() as w:
            port = w.alice.photons_port
            async with world(replace(LINK, photons=Endpoint("127.0.0.1", port))) as other:
                assert other.alice.status().code == "peer.silent"
                other.session(1)
                assert any(line.get("code") == "host.socket" for line in other.hers.lines.lines)
                await w.alice._server.close()
                await until(lambda: other.alice._server._server is not None)

    run(story)


def test_a_stopped_end_has_no_secret_left() -> None:
    async def story() -> None:
        ends: list[LinkEnd] = []
        async with world() as w:
            session = w.session(1)
            ends += [w.alice, w.bob]
            await until(lambda: w.bob.progress.kept >= 6 and w.bob.uses(session))
        for end in ends:
            assert not end.store.available_bits() and not end._contacts and not end._tasks
            assert end.store.account.balanced
            with pytest.raises(HostError, match="256 are needed"):
                end.store.reserve(256, boottime())

    run(story)


def test_nobody_makes_alice_shine_more_than_memory_holds() -> None:
    source = replace(LINK.simulation.source, repetition_hz=1e10)
    long = replace(LINK, simulation=replace(LINK.simulation, source=source, fibre=Fibre(length_km=100.0)))

    async def story() -> None:
        async with world(long) as w:
            for request in (Request(fibre=False), Request(fibre=False, thinning=0.5, photons_least=1)):
                with pytest.raises(PeerError, match="more light"):
                    w.alice._begin_run(request)
            for name in ATTACKS:
                for fraction in (0.3, 1.0):
                    attack = make_attack(name, long.simulation, fraction, Randomness.from_seed(1))
                    w.alice._begin_run(attack.request(Request(thinning=w.bob._station.thinning)))

    run(story)


def test_a_link_that_ends_with_its_session_leaves_no_keys_of_it() -> None:
    async def story() -> None:
        async with world() as w:
            session = w.session(1)
            await until(lambda: w.bob.progress.kept >= 1)
            await until(lambda: w.alice.uses(session))
            contact = w.alice._contacts[session]
            w.alice.session_down(session)
            await LinkEnd.stop(w.alice)  # before the block hears of it
            assert contact.keys is not None and contact.keys.hash_key.is_zero
            assert not contact.keys.alice_to_bob.available_bytes

    run(story)


def test_bits_of_a_block_that_nobody_waits_for_any_longer_are_wiped() -> None:
    async def story() -> None:
        async with world() as w:
            seen = list[Detections]()
            detect = w.bob._station.detect

            def watch(arrivals: Arrivals) -> Detections:
                seen.append(detect(arrivals))
                return seen[-1]

            w.bob._station.detect = watch  # type: ignore[method-assign]
            w.session(1)
            for task in w.bob._tasks:
                task.cancel()  # nobody takes blocks
            await until(lambda: len(seen) == 3 * w.bob.layout.block_frames)
            await asyncio.sleep(0.05)
            await w.bob.stop()
            assert not any(detections.bits.any() for detections in seen)

    run(story)


def test_a_peer_fills_no_memory_with_a_message_of_a_block() -> None:
    """As long as it may be anywhere, but not on a link of small blocks."""

    def promise(message: msg.Message) -> list[msg.Message]:
        if isinstance(message, msg.Part) and message.data[0]:
            return [
                msg.Part("north", message.number, b"\x01" + (64 << 20).to_bytes(4, "big") + bytes(parts.PART_BYTES))
            ]
        return [message]

    async def story() -> None:
        async with world() as w:
            w.his.spoil = promise
            w.session(1)
            await until(lambda: w.alice.progress.dropped)
            assert w.alice.progress.trouble is not None and w.alice.progress.trouble.code == "link.malformed"

    run(story)
