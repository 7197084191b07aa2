"""A peer that holds the keys and is faulty all the same: it ends the block, by a reason of the list."""

import os
from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qhybridd.apps.bench.blocks import Block as Drawn
from qhybridd.distill import messages as msg
from qhybridd.distill.alice import Alice
from qhybridd.distill.bob import Bob
from qhybridd.distill.session import Block, Dropped, Kept, Session
from qhybridd.errors import CODES
from tests.pairs.distill_world import (
    FRAMES,
    ROOMY,
    STEPS,
    Pair,
    bits_of,
    check_wiped,
    drawn,
    terms,
)

Twist = Callable[[msg.Message], msg.Message]


class RogueAlice(Alice):
    twist: Twist

    def _seal(self, message: msg.Message) -> bytes:
        return super()._seal(self.twist(message))


class RogueBob(Bob):
    twist: Twist

    def _seal(self, message: msg.Message) -> bytes:
        return super()._seal(self.twist(message))


class Said:
    """One message of a peer, changed before it is sealed."""

    def __init__(self, kind: type[msg.Message], change: Callable[[Any], msg.Message]) -> None:
        self.kind, self.change = kind, change

    def __call__(self, message: msg.Message) -> msg.Message:
        return self.change(message) if isinstance(message, self.kind) else message


def less_punctured(framing: msg.WireFraming) -> msg.WireFraming:
    return msgspec.structs.replace(framing, punctured=framing.punctured - 1)


def said(kind: type[msg.Message], **fields: Callable[[Any], Any]) -> Said:
    return Said(kind, lambda m: msgspec.structs.replace(m, **{name: f(getattr(m, name)) for name, f in fields.items()}))


@pytest.mark.parametrize(
    ("rogue", "twist", "code"),
    [
        ("alice", said(msg.Open, block=lambda n: n + 1), "link.order"),
        ("alice", said(msg.Sifted, matching=lambda m: m + bytes(8)), "link.malformed"),
        ("alice", said(msg.Sifted, intensity_high=lambda m: b"\xff" * (len(m) - 8) + bytes(8)), "link.malformed"),
        ("alice", said(msg.Sifted, test=lambda t: t[:-8]), "link.malformed"),
        ("alice", said(msg.Syndromes, data=lambda d: d[:-8]), "link.malformed"),
        ("alice", said(msg.Hashes, seed=lambda s: s + b"x"), "link.malformed"),
        ("alice", said(msg.Amplify, seed=lambda s: s[:-1]), "link.malformed"),
        ("alice", said(msg.Amplify, disclosed=lambda n: n - 1), "link.terms"),
        ("alice", said(msg.Amplify, vacuum=lambda x: x + 1), "link.terms"),
        ("alice", said(msg.Amplify, single=lambda x: x * 1.0001), "link.terms"),
        ("alice", said(msg.Amplify, phase_error=lambda x: x * 1.0001), "link.terms"),
        ("alice", said(msg.Amplify, refill=lambda r: (r[0] + 16, r[1])), "link.terms"),
        ("alice", said(msg.Amplify, refill=lambda r: (r[0], r[1] - 16)), "link.terms"),
        ("alice", Said(msg.Amplify, lambda _: msg.Abort("link.made-up")), "link.aborted"),
        ("alice", Said(msg.Amplify, lambda _: msg.Hashes(bytes(16), bytes(16))), "link.order"),
        ("bob", said(msg.Detected, count=lambda n: n - 1), "link.malformed"),
        ("bob", said(msg.Detected, gaps=lambda g: g + bytes(8)), "link.malformed"),
        ("bob", said(msg.Detected, bases=lambda b: b + bytes(8)), "link.malformed"),
        ("bob", said(msg.Measured, framing=less_punctured), "link.malformed"),
        ("bob", said(msg.Measured, framing=lambda f: msgspec.structs.replace(f, code=f.code + 1)), "link.malformed"),
        ("bob", said(msg.Measured, framing=lambda _: None), "link.terms"),
        ("bob", said(msg.Measured, test_errors=lambda e: (e[0], 10**7)), "link.malformed"),
        ("bob", said(msg.Measured, test_errors=lambda e: (*e, 0)), "link.malformed"),
        ("bob", Said(msg.Decoded, lambda _: msg.Failed((2, 1))), "link.malformed"),
        ("bob", Said(msg.Decoded, lambda _: msg.Failed((1, FRAMES))), "link.malformed"),
        ("bob", said(msg.Checked, key_errors=lambda e: (10**6, e[1])), "link.malformed"),
        ("bob", said(msg.Checked, key_errors=lambda e: e[:1]), "link.malformed"),
        ("bob", said(msg.Checked, key_errors=lambda e: (e[0] + 10_000, e[1])), "link.attack"),
        ("bob", Said(msg.Accept, lambda _: msg.Decoded()), "link.order"),
    ],
)  # fmt: skip
def test_what_contradicts_the_rules_is_refused(rogue: str, twist: Said, code: str) -> None:
    result, end = with_rogue(rogue, twist)
    assert isinstance(result, Dropped) and result.code == code
    check_wiped(end)


def with_rogue(rogue: str, twist: Twist, block: Drawn | None = None) -> tuple[Kept | Dropped, Session]:
    """How a block ends at the honest end."""
    pair, block = Pair(), block or drawn()
    pair.begin(block)
    what = Block(pair.number, terms())
    if rogue == "alice":
        pair.alice = RogueAlice(what, block.emissions, pair.alice_keys, os.urandom)
        pair.alice.twist = twist  # type: ignore[method-assign]
    else:
        pair.bob = RogueBob(what, block.clicks, pair.bob_keys)
        pair.bob.twist = twist  # type: ignore[method-assign]
    alice, bob = pair.run()
    assert pair.alice is not None and pair.bob is not None
    return (bob, pair.bob) if rogue == "alice" else (alice, pair.alice)


def test_alice_cannot_go_on_with_what_bob_refuses() -> None:
    """He judges for himself, although it is she who says it."""
    early, _ = with_rogue("alice", Said(msg.Abort, lambda _: msg.Syndromes(b"")), drawn(qber=0.12))
    assert isinstance(early, Dropped) and early.code == "link.terms" and "QBER" in early.reason


def test_frames_fail_only_once_they_failed() -> None:
    """A frame that decoded cannot fail in a later round."""
    pair, roomy = Pair(), terms(ROOMY)
    pair.begin(drawn(), roomy, roomy)
    asked = iter([(0,), (1,)])

    class Fickle(Bob):
        def _tell(self, failed: tuple[int, ...]) -> msg.Message:
            super()._tell(failed)
            return msg.Failed(next(asked))

        def _decode_more(self, message: msg.More) -> msg.Message:
            return self._tell(())

    pair.bob = Fickle(Block(pair.number, roomy), drawn().clicks, pair.bob_keys)
    alice, _ = pair.run()
    assert isinstance(alice, Dropped) and alice.code == "link.malformed"


@pytest.mark.parametrize(
    ("twist", "code"),
    [
        (said(msg.FrameHashes, seed=lambda s: s[:-1]), "link.malformed"),
        (said(msg.FrameHashes, tags=lambda t: t[:-8]), "link.malformed"),
        (said(msg.Whole, data=lambda d: d[:-1]), "link.malformed"),
        (said(msg.Hashes, tag=lambda t: bytes(16)), "link.verification"),
    ],
)
def test_what_contradicts_the_rules_of_the_hashes_is_refused(twist: Said, code: str) -> None:
    """With a bit that flips in Bob's memory, so that the frames are compared."""

    class Flipped(Bob):
        def _compare(self, hashes: msg.Hashes) -> msg.Message:
            assert self._corrected is not None
            if self._hash_round == 0 and code != "link.verification":
                with self._corrected.expose() as words:
                    words[0] ^= 1
            return super()._compare(hashes)

    pair, roomy = Pair(), terms(ROOMY)
    pair.begin(drawn(), roomy, roomy)
    what = Block(pair.number, roomy)
    pair.bob = Flipped(what, drawn().clicks, pair.bob_keys)
    pair.alice = RogueAlice(what, drawn().emissions, pair.alice_keys, os.urandom)
    pair.alice.twist = twist  # type: ignore[method-assign]
    _, bob = pair.run()
    assert isinstance(bob, Dropped) and bob.code == code


def twisted(message: msg.Message, data: st.DataObject) -> msg.Message:
    """Another value in one field, of the right type and within the bounds of the message."""
    fields = message.__struct_fields__
    if not fields:
        return data.draw(st.sampled_from([msg.Decoded(), msg.Differ(), msg.Accept(), msg.Failed((0,)), msg.More(b"")]))
    name = data.draw(st.sampled_from(fields))
    value = getattr(message, name)
    new: Any
    match value:
        case bytes():
            at = data.draw(st.integers(0, max(0, len(value) - 1)))
            edited = bytearray(value)
            if value:
                edited[at] ^= data.draw(st.integers(1, 255))
            changed = bytes(edited)
            if name == "tag":
                new = changed
            elif name == "seed" and len(value) == 16:
                new = data.draw(st.sampled_from([changed, value + b"x", value[:-1]]))
            else:
                new = data.draw(st.sampled_from([changed, b"", value[:-8], value + bytes(8), b"\xff" * len(value)]))
        case int():
            new = data.draw(st.sampled_from([0, value + 1, max(0, value - 1), 2 * value]))
        case float():
            new = min(1.0, value * 1.01 + 0.001) if name == "phase_error" else value * 1.01 + 1.0
        case tuple():
            edit = data.draw(st.sampled_from(["more", "shorter", "longer", "zero"]))
            new = {
                "more": (value[0] + 1, *value[1:]),
                "shorter": value[:-1],
                "longer": (*value, 1),
                "zero": (0,) * len(value),
            }[edit]
        case msg.WireFraming():
            part = data.draw(st.sampled_from(value.__struct_fields__))
            new = msgspec.structs.replace(value, **{part: getattr(value, part) + 1})
        case _:
            new = None if name == "framing" else value
    return msgspec.structs.replace(message, **{name: new})


@settings(max_examples=120)
@given(data=st.data(), rogue=st.sampled_from(["alice", "bob"]), turn=st.integers(0, STEPS // 2 - 1))
def test_a_faulty_peer_ends_the_block_and_nothing_else(data: st.DataObject, rogue: str, turn: int) -> None:
    """No message of a peer that holds the keys makes this end fail otherwise than by a reason of its list."""
    pair = Pair()
    pair.begin(drawn())
    count, changed = 0, False

    def twist(message: msg.Message) -> msg.Message:
        nonlocal count, changed
        count += 1
        if count - 1 != turn:
            return message
        other = twisted(message, data)
        changed = other != message
        return other

    block = Block(pair.number, terms())
    if rogue == "alice":
        pair.alice = RogueAlice(block, drawn().emissions, pair.alice_keys, lambda n: b"\x5a" * n)
        pair.alice.twist = twist  # type: ignore[method-assign, assignment]
    else:
        pair.bob = RogueBob(block, drawn().clicks, pair.bob_keys)
        pair.bob.twist = twist  # type: ignore[method-assign, assignment]
    alice, bob = pair.run()
    honest, end = (bob, pair.bob) if rogue == "alice" else (alice, pair.alice)
    assert end is not None
    check_wiped(end)
    if isinstance(honest, Dropped):
        assert honest.code.startswith("link.") and honest.code in CODES
    elif isinstance(alice, Kept) and isinstance(bob, Kept) and not changed:
        assert bits_of(alice.key) == bits_of(bob.key)
