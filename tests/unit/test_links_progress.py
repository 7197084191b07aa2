"""What is told of a link, and the messages of one block as they come."""

import asyncio
from dataclasses import replace

import pytest

from qhybridd.errors import PeerError
from qhybridd.links import parts
from qhybridd.links.progress import RATE_S, Progress, told
from qhybridd.links.talk import Talk
from tests.unit.test_links_planning import counts, planner, record, terms_of

KEPT = replace(record(terms_of(planner()), counts()), net_bits=6000, qber_test=0.01)
ATTACK = PeerError("link.attack", "QBER 25 % in the test basis")


def test_a_link_comes_up_fails_and_recovers() -> None:
    progress = Progress()
    assert progress.standing(None).state == "starting"
    assert [progress.note_kept(KEPT, 1.0, 10.0), progress.note_kept(KEPT, 1.0, 11.0)] == ["up", "kept"]
    assert progress.standing(None).state == "up" and progress.qber_test == 0.01
    assert progress.note_dropped(ATTACK, replace(KEPT, qber_test=0.25), 1.0) == "attack"
    standing = progress.standing(None)
    assert (standing.state, standing.code, standing.hint) == ("down", "link.attack", ATTACK.hint)
    assert progress.qber_test == 0.25
    assert progress.note_dropped(PeerError("link.outage", "dark"), None, 1.0) == "dropped"
    assert progress.note_kept(KEPT, 1.0, 20.0) == "recovered"
    assert (progress.kept, progress.dropped, progress.kept_at) == (3, 2, 20.0)


def test_what_keeps_blocks_from_coming_goes_before_the_last_block() -> None:
    progress = Progress()
    progress.note_kept(KEPT, 1.0, 10.0)
    assert progress.standing(PeerError("peer.silent", "no session")).code == "peer.silent"


def test_the_key_rate_is_that_of_the_last_minute() -> None:
    progress = Progress()
    assert progress.key_bits_per_s(0.0) == 0
    for second in range(1, 11):
        progress.note_kept(KEPT, 1.0, float(second))
    assert progress.key_bits_per_s(10.0) == pytest.approx(6000.0)
    assert progress.key_bits_per_s(RATE_S) == pytest.approx(60_000 / RATE_S)
    assert progress.key_bits_per_s(RATE_S + 5.5) == pytest.approx(30_000 / RATE_S)
    assert progress.key_bits_per_s(1e6) == 0


def test_a_code_of_another_version_is_told_all_the_same() -> None:
    assert told("link.sync", "x").code == "link.sync"
    error = told("link.tomorrow", "Bob cannot use it")
    assert error.code == "link.aborted" and "link.tomorrow" in error.message


# ---- the messages of a block


def test_a_message_in_parts_comes_whole_and_the_next_one_after_it() -> None:
    async def story() -> None:
        talk = Talk(b"session", 3)
        long = bytes(range(256)) * 4096
        for part in parts.split(long):
            talk.take(part)
        assert await talk.next() == long
        waiting = asyncio.ensure_future(talk.next())
        await asyncio.sleep(0)
        assert not waiting.done()
        for part in parts.split(b"short"):
            talk.take(part)
        assert await waiting == b"short"

    asyncio.run(story())


@pytest.mark.parametrize("bad", [[b"\x00tail"], [*parts.split(b"one"), *parts.split(b"two")], [b""]])
def test_parts_that_do_not_follow_end_the_block(bad: list[bytes]) -> None:
    async def story() -> None:
        talk = Talk(b"session", 3)
        for part in bad:
            talk.take(part)
        with pytest.raises(PeerError) as refused:
            while True:
                await talk.next()
        assert refused.value.code in ("link.malformed", "link.order")
        with pytest.raises(PeerError):
            await talk.next()

    asyncio.run(story())


def test_silence_ends_a_block_and_each_part_puts_that_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("qhybridd.links.talk.SILENCE_S", 0.3)

    async def story() -> None:
        talk = Talk(b"session", 3)
        waiting = asyncio.ensure_future(talk.next())
        pieces = list(parts.split(bytes(4 * parts.PART_BYTES)))
        for part in pieces[:3]:
            await asyncio.sleep(0.15)
            talk.take(part)
        await asyncio.sleep(0.15)
        assert not waiting.done()
        with pytest.raises(PeerError, match="nothing of the block came"):
            await waiting

    asyncio.run(story())


def test_a_failure_ends_the_wait_after_what_came_before_it() -> None:
    async def story() -> None:
        talk = Talk(b"session", 3)
        for part in parts.split(b"last"):
            talk.take(part)
        talk.fail(ATTACK)
        assert await talk.next() == b"last"
        with pytest.raises(PeerError, match="QBER"):
            await talk.next()

    asyncio.run(story())
