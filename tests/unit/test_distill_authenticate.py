"""Tags of a link's messages: against the definition, against an enemy, and the household of the pads."""

import hashlib
import hmac
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qhybridd._native import PolyHash
from qhybridd.crypto.kdf import Label, lp, u64
from qhybridd.distill import pads as household
from qhybridd.distill.authenticate import (
    MAX_LINK_BYTES,
    MAX_TRANSCRIPT_BYTES,
    Authenticator,
    Kind,
    LinkKeys,
    Pads,
    Role,
    epsilon_authentication,
    first_pads,
)
from qhybridd.distill.pads import BLOCK_BYTES, FIRST_BLOCKS, FLOOR_BLOCKS, PAD_BYTES, TAGS_A_BLOCK
from qhybridd.errors import HostError, PeerError, ProgramError
from qhybridd.secret import Secret

PSK = bytes(range(32))
SESSION = bytes(range(48))
LINK = b"fibre 1"
KEY = b"hash key 16 byte"


def text(secret: Secret) -> bytes:
    with secret.expose() as view:
        return bytes(view)


def some_pads(salt: int = 0, size: int = 4 * BLOCK_BYTES) -> Pads:
    return Pads(Secret.adopt(hashlib.shake_256(bytes([salt])).digest(size)))


def end(role: Role, *, block: int = 7, link: bytes = LINK, session: bytes = SESSION, key: bytes = KEY) -> Authenticator:
    """One end with fresh pads, the same at both: 1 from Alice to Bob, 2 from Bob to Alice."""
    send, receive = (1, 2) if role is Role.ALICE else (2, 1)
    return Authenticator(link, role, block, session, Secret.adopt(key), some_pads(send), some_pads(receive))


def ends(**changes: object) -> tuple[Authenticator, Authenticator]:
    return end(Role.ALICE), end(Role.BOB, **changes)  # type: ignore[arg-type]


def talk(alice: Authenticator, bob: Authenticator, messages: list[bytes]) -> list[bytes]:
    """Messages to and fro, each opened; the tags."""
    tags, sender, receiver = [], alice, bob
    for message in messages:
        tags.append(sender.seal(message))
        receiver.open(message, tags[-1])
        sender, receiver = receiver, sender
    return tags


def refused(receiver: Authenticator, message: bytes, tag: bytes, code: str = "link.authentication") -> None:
    """Refused, and dead from then on."""
    with pytest.raises(PeerError) as caught:
        receiver.open(message, tag)
    assert caught.value.code == code
    for call in (lambda: receiver.open(message, tag), lambda: receiver.seal(message)):
        with pytest.raises(ProgramError):
            call()


def test_a_tag_is_what_the_documents_say() -> None:
    alice, bob = ends()
    messages = [b"first", b"", bytes(1000), b"x" * 16]
    tags = talk(alice, bob, messages)
    hash_ = PolyHash(KEY)
    header = Label.LINK_TRANSCRIPT.encoded + lp(SESSION, LINK) + u64(7)
    hash_.absorb(header, 8 * len(header), 1 << 62)
    streams = [hashlib.shake_256(bytes([salt])).digest(64) for salt in (1, 2)]
    for number, (message, tag) in enumerate(zip(messages, tags, strict=True)):
        hash_.absorb(message, 8 * len(message), number << 1 | number % 2)
        at = number // 2 * 16
        assert tag == hash_.tag(streams[number % 2][at : at + 16])
    assert alice.pads_used == bob.pads_used == 4


@settings(max_examples=40)
@given(
    st.lists(st.binary(max_size=70), min_size=1, max_size=8),
    st.data(),
)
def test_any_altered_bit_is_refused(messages: list[bytes], data: st.DataObject) -> None:
    alice, bob = ends()
    victim = data.draw(st.integers(0, len(messages) - 1))
    talk(alice, bob, messages[:victim])
    sender, receiver = (alice, bob) if victim % 2 == 0 else (bob, alice)
    message, tag = bytearray(messages[victim]), bytearray(sender.seal(messages[victim]))
    bit = data.draw(st.integers(0, 8 * (len(message) + len(tag)) - 1))
    target, at = (message, bit) if bit < 8 * len(message) else (tag, bit - 8 * len(message))
    target[at // 8] ^= 1 << at % 8
    refused(receiver, bytes(message), bytes(tag))


@given(st.binary(max_size=40), st.integers(1, 40), st.binary(max_size=32))
def test_another_length_is_refused(message: bytes, cut: int, more: bytes) -> None:
    for forged in {message[:-cut], message + more, message + bytes(1), bytes(16) + message} - {message}:
        alice, bob = ends()
        refused(bob, forged, alice.seal(message))
    for size in (0, 15, 17):
        alice, bob = ends()
        refused(bob, message, (alice.seal(message) + b"\0")[:size])


def test_a_dropped_message_shows_at_the_next() -> None:
    alice, bob = ends()
    talk(alice, bob, [b"a"])
    bob.seal(b"lost")
    with pytest.raises(ProgramError):  # Alice waits: she cannot go on by herself
        alice.seal(b"next")
    alice, bob = ends()
    alice.seal(b"lost")
    refused(alice, b"lost", bytes(16))


def test_a_repeated_message_is_refused() -> None:
    alice, bob = ends()
    tag = alice.seal(b"a")
    bob.open(b"a", tag)
    refused(bob, b"a", tag, "link.order")
    alice, bob = ends()
    tag = talk(alice, bob, [b"a", b"b"])[0]
    alice.seal(b"c")
    refused(bob, b"a", tag)


def test_reordered_messages_are_refused() -> None:
    alice, bob = ends()
    tags = talk(alice, bob, [b"a", b"b", b"c"])
    late = end(Role.BOB)
    refused(late, b"c", tags[2])


def test_a_message_that_comes_back_is_refused() -> None:
    alice, bob = ends()
    tag = alice.seal(b"a")
    refused(alice, b"a", tag)
    alice, bob = ends()
    tags = talk(alice, bob, [b"a", b"a"])
    refused(bob, b"a", tags[1])


@pytest.mark.parametrize(
    "changes",
    [
        {"block": 8},
        {"link": b"fibre 2"},
        {"session": bytes(48)},
        {"key": b"another hash key"},
    ],
)
def test_another_block_link_session_or_key_is_refused(changes: dict[str, object]) -> None:
    """Even under the same pads: all of them stand under the tag."""
    alice, bob = ends(**changes)
    refused(bob, b"a", alice.seal(b"a"))


def test_an_earlier_message_that_one_end_never_saw_is_refused() -> None:
    """A tag stands for the transcript, not for its message."""
    alice, other = ends()
    other.open(b"a", alice.seal(b"a"))
    tag = other.seal(b"b")
    forger = end(Role.ALICE)
    forger.seal(b"A")
    refused(forger, b"b", tag)


def test_another_sessions_tags_are_refused() -> None:
    """Keys of two sessions have nothing in common."""
    first, second = (LinkKeys(Secret.adopt(PSK), session, LINK) for session in (SESSION, SESSION[::-1]))
    tag = first.authenticator(Role.ALICE, 1).seal(b"a")
    refused(second.authenticator(Role.BOB, 1), b"a", tag)
    assert first.hash_key != second.hash_key


@pytest.mark.parametrize("heard", [0, 1, 2, 3])
def test_of_everything_that_was_ever_said_one_message_is_accepted(heard: int) -> None:
    """An enemy with all messages of three blocks and another session, who joins any of them with any tag."""
    messages = [b"m", b"n", b"m", b"n"]
    said: list[tuple[bytes, bytes]] = []
    for session in (SESSION, SESSION[::-1]):
        keys = [LinkKeys(Secret.adopt(PSK), session, LINK) for _ in range(2)]
        for block in range(3):
            alice, bob = keys[0].authenticator(Role.ALICE, block), keys[1].authenticator(Role.BOB, block)
            said += zip(messages, talk(alice, bob, messages), strict=True)
    accepted = set()
    for message in {message for message, _ in said}:
        for tag in {tag for _, tag in said}:
            keys = [LinkKeys(Secret.adopt(PSK), SESSION, LINK) for _ in range(2)]
            ends = keys[0].authenticator(Role.ALICE, 0), keys[1].authenticator(Role.BOB, 0)
            talk(*ends, messages[:heard])
            receiver = ends[1 - heard % 2]
            try:
                receiver.open(message, tag)
                accepted.add((message, tag))
            except PeerError:
                pass
    assert accepted == {said[heard]}


def test_the_same_message_never_has_the_same_tag() -> None:
    keys = LinkKeys(Secret.adopt(PSK), SESSION, LINK)
    tags = {keys.authenticator(Role.ALICE, block).seal(b"a") for block in range(FIRST_BLOCKS)}
    assert len(tags) == FIRST_BLOCKS


def test_turns_are_kept() -> None:
    alice, bob = ends()
    with pytest.raises(ProgramError):
        bob.seal(b"a")
    bob.open(b"a", alice.seal(b"a"))  # a mistake of the program kills nobody
    with pytest.raises(ProgramError):
        alice.seal(b"b")
    alice.open(b"b", bob.seal(b"b"))


def test_a_pad_is_gone_in_any_case() -> None:
    send, receive = some_pads(1), some_pads(2)
    before = send.available_bytes
    alice = Authenticator(LINK, Role.ALICE, 1, SESSION, Secret.adopt(KEY), send, receive)
    alice.seal(b"a")
    assert (send.available_bytes, receive.available_bytes) == (before - PAD_BYTES, before)
    refused(alice, b"b", bytes(16))
    assert (send.available_bytes, receive.available_bytes) == (before - PAD_BYTES, before - PAD_BYTES)
    bob = Authenticator(LINK, Role.BOB, 1, SESSION, Secret.adopt(KEY), receive, send)
    bob.wipe()
    with pytest.raises(ProgramError):
        bob.open(b"a", bytes(16))


def test_a_block_has_so_many_messages_and_no_more() -> None:
    alice, bob = ends()
    talk(alice, bob, [b"x"] * 2 * TAGS_A_BLOCK)
    with pytest.raises(HostError, match="at most"):
        alice.seal(b"x")
    with pytest.raises(ProgramError):
        alice.seal(b"x")


def test_a_transcript_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("qhybridd.distill.authenticate.MAX_TRANSCRIPT_BYTES", 100)
    alice, bob = ends()
    talk(alice, bob, [bytes(50), bytes(50)])
    with pytest.raises(ProgramError, match="too long"):
        alice.seal(b"x")
    refused(bob, b"x", bytes(16), "link.malformed")


@given(st.lists(st.binary(max_size=100), min_size=1, max_size=10), st.binary(min_size=1, max_size=MAX_LINK_BYTES))
def test_epsilon_counts_each_block_of_each_tag(messages: list[bytes], link: bytes) -> None:
    alice, bob = end(Role.ALICE, link=link), end(Role.BOB, link=link)
    talk(alice, bob, messages)
    header = len(Label.LINK_TRANSCRIPT.encoded) + 8 + 48 + len(link) + 8
    blocks, total = -(-header // 16) + 1, 0
    for message in messages:
        blocks += -(-len(message) // 16) + 1
        total += blocks
    assert alice.epsilon == bob.epsilon == Fraction(total, 2**128)
    assert alice.epsilon <= epsilon_authentication(sum(map(len, messages)), len(messages))


def test_epsilon_of_the_longest_block() -> None:
    tags = 2 * TAGS_A_BLOCK
    assert epsilon_authentication(MAX_TRANSCRIPT_BYTES, tags) < tags * Fraction(1, 2**101)
    assert epsilon_authentication(0, 0) == 0
    for wrong in ((-1, 1), (1, -1)):
        with pytest.raises(ProgramError):
            epsilon_authentication(*wrong)


@pytest.mark.parametrize(
    "wrong",
    [
        {"link": b""},
        {"link": bytes(MAX_LINK_BYTES + 1)},
        {"session": bytes(47)},
        {"block": -1},
        {"block": 1 << 64},
        {"key": bytes(16)},
        {"key": b"short"},
    ],
)
def test_what_makes_no_header_or_key_is_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ProgramError):
        end(Role.ALICE, **wrong)  # type: ignore[arg-type]


# ---- the pads


def test_first_pads_are_what_the_documents_say() -> None:
    hash_key, forward, backward = first_pads(Secret.adopt(PSK), SESSION, LINK)
    context = lp(SESSION, LINK)
    salt = hashlib.sha384(Label.LINK_SECRET.encoded).digest()
    root = hmac.digest(salt, lp(PSK) + context, "sha384")

    def expand(label: Label, info: bytes) -> bytes:
        return hmac.digest(root, label.encoded + lp(info) + b"\1", "sha384")

    assert text(hash_key) == expand(Label.LINK_HASH_KEY, context)[:16]
    for pads, label in ((forward, Label.LINK_PADS_FORWARD), (backward, Label.LINK_PADS_BACKWARD)):
        stream = b"".join(expand(label, context + u64(number)) for number in range(1000))
        assert pads.available_bytes == FIRST_BLOCKS * BLOCK_BYTES
        pieces = [text(pads.take(size)) for size in (16, 1, 31, 48, 1000)]
        assert b"".join(pieces) == stream[:1096]
        assert text(pads.take(pads.available_bytes)) == stream[1096 : FIRST_BLOCKS * BLOCK_BYTES]


def test_every_input_changes_every_output() -> None:
    seen = set()
    for psk, session, link in (
        (PSK, SESSION, LINK),
        (PSK[::-1], SESSION, LINK),
        (PSK, SESSION[::-1], LINK),
        (PSK, SESSION, b"fibre 2"),
    ):
        key, forward, backward = first_pads(Secret.adopt(psk), session, link)
        seen |= {text(key), text(forward.take(16)), text(backward.take(16))}
    assert len(seen) == 12


def test_without_a_psk_there_is_nothing() -> None:
    for psk, session, link in (
        (bytes(32), SESSION, LINK),
        (b"p" * 31, SESSION, LINK),
        (PSK, b"", LINK),
        (PSK, SESSION, b""),
    ):
        with pytest.raises(ProgramError):
            first_pads(Secret.adopt(psk), session, link)


@given(st.lists(st.integers(1, 200), min_size=1, max_size=30), st.lists(st.integers(1, 100), min_size=1, max_size=8))
def test_pads_come_in_order_and_once(takes: list[int], parts: list[int]) -> None:
    whole = hashlib.shake_256(b"x").digest(sum(parts))
    reservoir, at = household.Reservoir(), 0
    for size in parts:
        reservoir.add(Secret.adopt(whole[at : at + size]))
        at += size
    at = 0
    for size in takes:
        if at + size > len(whole):
            with pytest.raises(HostError):
                reservoir.take(size)
            continue
        assert text(reservoir.take(size)) == whole[at : at + size]
        at += size
        assert reservoir.available_bytes == len(whole) - at


def test_what_was_taken_is_wiped() -> None:
    source = Secret.adopt(b"a" * 64)
    reservoir = household.Reservoir()
    reservoir.add(source)
    reservoir.take(40)
    assert text(source) == bytes(40) + b"a" * 24
    reservoir.wipe()
    assert source.is_zero
    with pytest.raises(HostError):
        reservoir.take(1)


def test_a_refill_is_distilled() -> None:
    pads = some_pads()
    assert (pads.kind, pads.wanted_bytes) == (Kind.COMPUTATIONAL, FLOOR_BLOCKS * BLOCK_BYTES)
    pads.refill(Secret.adopt(b"d" * BLOCK_BYTES))
    assert pads.wanted_bytes == (FLOOR_BLOCKS - 1) * BLOCK_BYTES
    assert pads.blocks_left == 5
    assert text(pads.take(16)) != b"d" * 16, "a block that began goes on with what it began with"
    assert pads.begin_block() is Kind.DISTILLED
    assert text(pads.take(16)) == b"d" * 16
    for wrong in (bytes(16), b"d" * 15, b"d" * 17, b"d" * (household.MAX_REFILL_BYTES + 16)):
        with pytest.raises(ProgramError):
            pads.refill(Secret.adopt(wrong))


def test_a_block_begins_only_with_all_the_pads_that_it_may_need() -> None:
    enough = some_pads(1, TAGS_A_BLOCK * PAD_BYTES)
    short = some_pads(2, TAGS_A_BLOCK * PAD_BYTES - 1)
    with pytest.raises(HostError) as caught:
        Authenticator(LINK, Role.ALICE, 1, SESSION, Secret.adopt(KEY), enough, short)
    assert caught.value.code == "link.pads"
    with pytest.raises(HostError):
        Authenticator(LINK, Role.BOB, 1, SESSION, Secret.adopt(KEY), short, enough)
    alice = Authenticator(LINK, Role.ALICE, 1, SESSION, Secret.adopt(KEY), enough, some_pads(2))
    bob = Authenticator(LINK, Role.BOB, 1, SESSION, Secret.adopt(KEY), some_pads(2), some_pads(1))
    talk(alice, bob, [b"x"] * 2 * TAGS_A_BLOCK)
    assert enough.available_bytes == 0


def fail_a_block(alice: LinkKeys, bob: LinkKeys, block: int) -> Kind:
    """A block that fails after its last message."""
    ends = alice.authenticator(Role.ALICE, block), bob.authenticator(Role.BOB, block)
    talk(*ends, [b"m"] * 2 * TAGS_A_BLOCK)
    assert ends[0].kind is ends[1].kind
    return ends[0].kind


def test_so_many_blocks_may_fail_in_a_row() -> None:
    alice, bob = (LinkKeys(Secret.adopt(PSK), SESSION, LINK) for _ in range(2))
    done = 0
    while left := alice.blocks_left:
        assert fail_a_block(alice, bob, done) is Kind.COMPUTATIONAL
        assert alice.blocks_left in (left, left - 1)
        done += 1
    assert done >= FIRST_BLOCKS
    with pytest.raises(HostError):
        alice.authenticator(Role.ALICE, done)


def refill(keys: LinkKeys, forward: int, backward: int, salt: int = 9) -> None:
    stream = hashlib.shake_256(bytes([salt])).digest(forward + backward)
    keys.alice_to_bob.refill(Secret.adopt(stream[:forward]))
    keys.bob_to_alice.refill(Secret.adopt(stream[forward:]))


def test_a_block_is_distilled_only_if_everything_is() -> None:
    alice, bob = (LinkKeys(Secret.adopt(PSK), SESSION, LINK) for _ in range(2))
    assert fail_a_block(alice, bob, 0) is Kind.COMPUTATIONAL
    for keys in (alice, bob):
        refill(keys, BLOCK_BYTES, BLOCK_BYTES - 2 * PAD_BYTES)
    assert fail_a_block(alice, bob, 1) is Kind.COMPUTATIONAL, "those of Bob to Alice are not"
    for keys in (alice, bob):
        refill(keys, 2 * BLOCK_BYTES, 2 * BLOCK_BYTES, salt=10)
    before = text(alice.hash_key)
    assert fail_a_block(alice, bob, 2) is Kind.DISTILLED
    assert text(alice.hash_key) != before, "each distilled block has a hash key of its own"
    assert fail_a_block(alice, bob, 3) is Kind.DISTILLED
    assert fail_a_block(alice, bob, 4) is Kind.COMPUTATIONAL, "then the first pads serve again"


def test_a_distilled_hash_key_serves_for_one_block() -> None:
    """Pads enough for the tags of a block, but none for its hash key: the last block's is no new one."""
    alice, bob = (LinkKeys(Secret.adopt(PSK), SESSION, LINK) for _ in range(2))
    for keys in (alice, bob):
        refill(keys, BLOCK_BYTES + TAGS_A_BLOCK * PAD_BYTES, 2 * BLOCK_BYTES)
    assert fail_a_block(alice, bob, 0) is Kind.DISTILLED
    assert fail_a_block(alice, bob, 1) is Kind.COMPUTATIONAL


def test_the_blocks_of_a_session_are_numbered_upwards() -> None:
    """Twice the same number would be two keys of one ID."""
    keys = LinkKeys(Secret.adopt(PSK), SESSION, LINK)
    keys.authenticator(Role.ALICE, 5)
    for block in (5, 4, -1):
        with pytest.raises(ProgramError):
            keys.authenticator(Role.ALICE, block)
    keys.authenticator(Role.ALICE, 7)


def test_retired_keys_begin_no_block() -> None:
    keys = LinkKeys(Secret.adopt(PSK), SESSION, LINK)
    keys.retire()
    assert keys.blocks_left == 0
    with pytest.raises(HostError, match="out of step"):
        keys.authenticator(Role.ALICE, 1)


def test_distilled_pads_under_a_computational_hash_key_are_computational() -> None:
    pools = [some_pads(1), some_pads(2)]
    for pool in pools:
        pool.refill(Secret.adopt(b"d" * BLOCK_BYTES))
    keyed = Secret.adopt(KEY)
    assert Authenticator(LINK, Role.ALICE, 1, SESSION, keyed, *pools).kind is Kind.COMPUTATIONAL
    distilled = Authenticator(LINK, Role.ALICE, 1, SESSION, keyed, *pools, hash_kind=Kind.DISTILLED)
    assert distilled.kind is Kind.DISTILLED


def test_keys_are_forgotten() -> None:
    keys = LinkKeys(Secret.adopt(PSK), SESSION, LINK)
    keys.wipe()
    assert keys.hash_key.is_zero
    assert keys.blocks_left == 0
