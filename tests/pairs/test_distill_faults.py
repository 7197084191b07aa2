"""Somebody between Alice and Bob: a fault may end a block, and never makes two keys."""

from collections.abc import Iterator
from functools import cache
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qhybridd.distill import messages as msg
from qhybridd.distill.pads import Pads
from qhybridd.distill.session import Dropped, Kept, Session
from qhybridd.errors import CODES
from tests.pairs.distill_world import (
    ROOMY,
    STEPS,
    Pair,
    check_wiped,
    drawn,
    kept,
    link_keys,
    pads_of,
    terms,
)


def corrupted(
    data: bytes, kind: str, at: int, noise: bytes, past: list[bytes], other: list[bytes], step: int
) -> bytes | None:
    """What arrives instead; None for nothing."""
    match kind:
        case "flip":
            bit = at % (8 * len(data))
            return data[: bit // 8] + bytes([data[bit // 8] ^ 1 << bit % 8]) + data[bit // 8 + 1 :]
        case "flip near the end":
            bit = 8 * len(data) - 1 - at % 256
            return data[: bit // 8] + bytes([data[bit // 8] ^ 1 << bit % 8]) + data[bit // 8 + 1 :]
        case "truncate":
            return data[: at % len(data)]
        case "extend":
            return data + noise
        case "noise":
            return noise
        case "another block's":
            return other[step]
        case "an old one":
            return past[at % step] if step else b""
        case _:
            return None


@cache
def another() -> list[bytes]:
    """The messages of another block of the same link and session, of the same clicks."""
    pair = Pair()
    kept(pair.block(drawn()))
    pair.block(drawn())
    return pair.sent


FAULTS = ["flip", "flip near the end", "truncate", "extend", "noise", "another block's", "an old one", "drop"]


@settings(max_examples=150)
@given(
    step=st.integers(0, STEPS - 1),
    kind=st.sampled_from([*FAULTS, "repeat", "reflect"]),
    at=st.integers(0, 1 << 24),
    noise=st.binary(min_size=1, max_size=64),
)
def test_a_fault_never_makes_two_keys(step: int, kind: str, at: int, noise: bytes) -> None:
    pair = Pair()
    pair.begin(drawn())
    alice, bob = pair.alice, pair.bob
    assert alice is not None and bob is not None
    met = False

    def mediate(number: int, data: bytes) -> list[bytes]:
        nonlocal met
        if number != step:
            return [data]
        met = True
        if kind == "repeat":
            return [data, data]
        if kind == "reflect":
            sender: Session = (alice, bob)[number % 2]
            if sender.result is None:
                assert sender.receive(data) is None and isinstance(sender.result, Dropped)
                assert sender.result.code in ("link.authentication", "link.order")
            return []
        arrives = corrupted(data, kind, at, noise, pair.sent, another(), step)
        return [] if arrives is None else [arrives]

    results = pair.run(mediate)
    assert met
    last = step == STEPS - 1
    receiver = results[(step + 1) % 2]
    sender = results[step % 2]
    if kind == "repeat" and step >= STEPS - 2:
        kept(results)  # the first of the two was all that the receiver waited for
    else:
        assert isinstance(receiver, Dropped)
        # Whoever sent the last message cannot know that it came; a repeated `Checked` comes when Amplify is on its way.
        alone = last or (kind == "repeat" and step == STEPS - 3)
        assert isinstance(sender, Kept if alone else Dropped)
        assert alone <= (sender is results[1])
        if kind not in ("drop", "reflect"):
            assert receiver.code in ("link.authentication", "link.malformed", "link.order")
    for end, result in zip((alice, bob), results, strict=True):
        check_wiped(end)
        if isinstance(result, Dropped):
            assert result.code in CODES and result.reason
            assert not result.record.outcome.kept and result.record.key_bits == 0
            assert result.record.outcome.code == result.code


@settings(max_examples=25)
@given(data=st.data())
def test_a_fault_in_the_rounds_of_failed_frames(data: st.DataObject) -> None:
    """The same where frames fail, are rescued, differ and are disclosed."""
    pair, roomy = Pair(), terms(ROOMY)
    pair.begin(drawn(), roomy, roomy)
    bob = pair.bob
    assert bob is not None
    step, bit = data.draw(st.integers(STEPS - 4, STEPS + 5)), data.draw(st.integers(0, 1 << 20))

    def mediate(number: int, message: bytes) -> list[bytes]:
        if isinstance(msg.decode(message[:-16]), msg.Hashes) and bob._hash_round == 0:
            assert bob._corrected is not None
            with bob._corrected.expose() as words:
                words[0] ^= 1
        if number != step:
            return [message]
        return [corrupted(message, "flip", bit, b"", [], [], step) or b""]

    results = pair.run(mediate)
    assert isinstance(results[(step + 1) % 2], Dropped)
    assert isinstance(results[step % 2], Kept if step == STEPS + 5 else Dropped)


# ---- pads


@pytest.fixture
def taken(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[tuple[Pads, bytes]]]:
    """Every pad that was taken, by whom."""
    seen: list[tuple[Pads, bytes]] = []
    original = Pads.take

    def take(self: Pads, nbytes: int) -> Any:
        pad = original(self, nbytes)
        with pad.expose() as view:
            seen.append((self, bytes(view)))
        return pad

    monkeypatch.setattr(Pads, "take", take)
    yield seen


def test_pads_never_repeat(taken: list[tuple[Pads, bytes]]) -> None:
    """Over blocks that are kept and refused, a block that is cut off, and the session after it."""
    pools: tuple[set[Pads], set[Pads]] = (set(), set())
    for session in (1, 2):
        pair = Pair(link_keys(session=session, distilled=False), link_keys(session=session, distilled=False))
        for mine, keys in zip(pools, (pair.alice_keys, pair.bob_keys), strict=True):
            mine |= {keys.alice_to_bob, keys.bob_to_alice}
        for number in range(6):
            refused = number % 3 == 1
            results = pair.block(drawn(qber=0.12) if refused else drawn(number % 2 + 1))
            assert all(isinstance(result, Dropped) == refused for result in results)
        assert pads_of(pair.alice_keys.alice_to_bob) == pads_of(pair.bob_keys.alice_to_bob)
        pair.begin(drawn())
        pair.run(lambda step, data: [] if step == 4 else [data])
    for mine in pools:
        pads = [pad for pool, pad in taken if pool in mine]
        assert len(pads) == len(set(pads)) > 80


@pytest.mark.parametrize("step", [0, 3, STEPS - 1])
def test_no_block_begins_where_the_ends_may_have_taken_different_pads(step: int) -> None:
    """Else what was a pad at one end, on the line, could become a hash key at the other."""
    pair = Pair()
    pair.begin(drawn())
    pair.run(lambda number, data: [] if number == step else [data])
    assert pair.alice_keys.blocks_left == 0
    assert (pair.bob_keys.blocks_left > 0) == (step == STEPS - 1), "Bob kept that block, and cannot know"
    for result in pair.block(drawn()):
        assert isinstance(result, Dropped) and result.code in ("link.pads", "link.aborted")


def test_a_block_that_is_given_up_in_turn_leaves_the_pads_in_step() -> None:
    pair = Pair()
    pair.block(drawn(qber=0.12))
    assert pair.alice_keys.blocks_left == pair.bob_keys.blocks_left > 0
    kept(pair.block(drawn()))
