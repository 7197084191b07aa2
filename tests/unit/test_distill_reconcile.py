"""Reconciliation: Alice's Sender and Bob's Receiver over real codes, and what each discloses."""

import math
import random
import struct
from collections.abc import Callable, Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qhybridd.bits import Bits, packed_bytes
from qhybridd.distill import codes, rates, reconcile
from qhybridd.distill.codes import FrameSize
from qhybridd.distill.rates import Framing, choose_framing
from qhybridd.distill.reconcile import Receiver, Sender
from qhybridd.errors import HostError, PeerError, ProgramError


def bits(number: int, length: int) -> Bits:
    return Bits.adopt(number.to_bytes(packed_bytes(length), "little"), length)


def number(key: Bits) -> int:
    with key.expose() as view:
        return int.from_bytes(view, "little")


def keys(length: int, qber: float, seed: int = 1) -> tuple[Bits, Bits]:
    """Alice's key, and Bob's with about `qber` errors."""
    source = random.Random(seed)
    key = source.getrandbits(length)
    errors = sum(1 << at for at in source.sample(range(length), round(qber * length)))
    return bits(key, length), bits(key ^ errors, length)


def stream(seed: int = 7) -> Callable[[int], bytes]:
    """Random bytes that a test can foresee."""
    return random.Random(seed).randbytes


def settle(sender: Sender, receiver: Receiver, failed: Sequence[int]) -> int:
    """Tell more until nothing fails; how many rounds it took."""
    rounds = 0
    while failed:
        failed = receiver.take_more(failed, sender.more(failed))
        rounds += 1
        assert sender.disclosed == receiver.disclosed
    return rounds


SIZES = [(1, 0.02), (63, 0.02), (64, 0.02), (1000, 0.03), (9_999, 0.05), (30_001, 0.02), (150_001, 0.03)]


@pytest.mark.parametrize(("length", "qber"), SIZES)
def test_bob_ends_with_alices_key(length: int, qber: float) -> None:
    alice, bob = keys(length, qber)
    before = number(alice)
    framing = choose_framing(length, 1.3 * qber, FrameSize.MEDIUM if length > 100_000 else FrameSize.SMALL)
    sender, receiver = Sender(framing, alice, stream()), Receiver(framing, bob, qber)
    syndromes = sender.syndromes()
    assert len(syndromes) == framing.frames * packed_bytes(framing.syndrome_bits)
    failed = receiver.take(syndromes)
    settle(sender, receiver, failed)
    assert number(bob) == number(alice) == before
    if not failed:
        assert receiver.disclosed == sum(
            min(framing.bits_of(frame), framing.syndrome_bits - framing.punctured) for frame in range(framing.frames)
        )


def test_an_optimistic_framing_ends_with_every_frame_whole() -> None:
    """Chosen for 1 %, met by 9 %: no frame decodes, every one is disclosed, and not a bit more than it holds."""
    length = 30_001
    alice, bob = keys(length, 0.09)
    framing = choose_framing(length, 0.01, FrameSize.SMALL)
    sender, receiver = Sender(framing, alice, stream()), Receiver(framing, bob, 0.01)
    failed = receiver.take(sender.syndromes())
    assert failed == tuple(range(framing.frames))
    syndromes = framing.frames * (framing.syndrome_bits - framing.punctured)
    assert sender.disclosed == receiver.disclosed == framing.disclosed == syndromes
    for step in range(1, reconcile.WHOLE):
        told = sender.more(failed)
        share = rates.revealed(framing.punctured, step - 1) - (
            rates.revealed(framing.punctured, step - 2) if step > 1 else 0
        )
        assert len(told) == framing.frames * ((share + 7) // 8)
        failed = receiver.take_more(failed, told)
        assert failed == tuple(range(framing.frames))
        syndromes += framing.frames * share
        assert sender.disclosed == receiver.disclosed == syndromes
    told = sender.more(failed)
    assert len(told) == sum((framing.bits_of(frame) + 7) // 8 for frame in failed)
    assert receiver.take_more(failed, told) == ()
    assert sender.disclosed == receiver.disclosed == length
    assert number(bob) == number(alice)


def test_frames_that_fail_are_rescued_by_revealed_bits() -> None:
    """From too few errors to fail up to more than all the punctured bits can help with."""
    length = 40_000
    made = choose_framing(length, 0.03, FrameSize.SMALL)
    framing = Framing(made.code, math.floor(rates.PUNCTURED_MOST * made.syndrome_bits), made.frames, length)
    rounds = []
    for qber in [0.010 + 0.0015 * step for step in range(45)]:
        alice, bob = keys(length, qber)
        sender, receiver = Sender(framing, alice, stream()), Receiver(framing, bob, qber)
        rounds.append(settle(sender, receiver, receiver.take(sender.syndromes())))
        assert number(bob) == number(alice)
    assert rounds[0] == 0
    assert rounds[-1] == reconcile.WHOLE
    assert any(0 < taken < reconcile.WHOLE for taken in rounds)


def test_what_is_told_are_the_punctured_bits_and_the_syndrome_is_of_the_word() -> None:
    """Everything that leaves Alice, against integers."""
    framing = choose_framing(20_000, 0.02, FrameSize.SMALL)
    n, m, p, k = framing.record.bits, framing.syndrome_bits, framing.punctured, framing.frame_bits
    alice, _ = keys(20_000, 0.02)
    sender, source = Sender(framing, alice, stream()), stream()
    spare = (n - p) % 64
    hidden = []
    for _ in range(framing.frames):
        drawn = int.from_bytes(source((p + spare) // 8), "little")
        hidden.append(drawn >> spare)
    told = sender.syndromes()
    checks = parity_checks(framing.code)
    for frame in range(framing.frames):
        part = number(alice) >> frame * k & (1 << framing.bits_of(frame)) - 1
        word = part | hidden[frame] << (n - p)
        syndrome = int.from_bytes(told[frame * packed_bytes(m) :][: packed_bytes(m)], "little")
        for check in range(m):
            assert syndrome >> check & 1 == sum(word >> bit for bit in checks(check)) & 1
    first, before = list(range(framing.frames)), 0
    for step in range(1, reconcile.WHOLE):
        upto = rates.revealed(p, step - 1)
        size = (upto - before + 7) // 8
        told = sender.more(first)
        for frame in first:
            share = int.from_bytes(told[frame * size :][:size], "little")
            assert share == hidden[frame] >> before & (1 << (upto - before)) - 1
        before = upto


def edges(code: int) -> list[list[tuple[int, int]]]:
    """For each base row its columns and shifts."""
    table, rows, at = codes.table(code), [], 8
    while at < len(table):
        (degree,) = struct.unpack_from("<H", table, at)
        rows.append([struct.unpack_from("<HH", table, at + 2 + 4 * i) for i in range(degree)])
        at += 2 + 4 * degree
    return rows


def parity_checks(code: int) -> Callable[[int], list[int]]:
    """The bits that a check covers."""
    rows, z = edges(code), codes.catalogue()[code].lifting
    return lambda check: [column * z + (check % z + shift) % z for column, shift in rows[check // z]]


def test_the_punctured_bits_cover_as_many_bits_of_the_syndrome() -> None:
    """So that a syndrome of m bits says m − p bits of the key: the punctured columns have full rank.

    They have if one can take them away one by one, each by a row that has it as its only one of those left.
    """
    for code in codes.catalogue():
        most = math.floor(rates.PUNCTURED_MOST * code.checks)
        columns = set(range((code.bits - most) // code.lifting, code.columns))
        rows = [{column for column, _ in row} & columns for row in edges(code.number)]
        while single := next((row for row in rows if len(row) == 1), None):
            columns -= single
            rows = [row - single for row in rows]
        assert not columns, f"code {code.number}: {columns}"


def test_a_full_frame_ends_where_the_punctured_bits_begin() -> None:
    """No shortened zeros, or less than a word of them."""
    made = choose_framing(9_000, 0.03, FrameSize.SMALL)
    for punctured in (made.punctured, made.punctured + 1, made.punctured // 64 * 64, 0):
        length = (made.record.bits - punctured) // 64 * 64
        framing = Framing(made.code, punctured, 1, length)
        alice, bob = keys(length, 0.01, seed=punctured)
        sender, receiver = Sender(framing, alice, stream()), Receiver(framing, bob, 0.01)
        settle(sender, receiver, receiver.take(sender.syndromes()))
        assert number(bob) == number(alice)


def test_differing_frames_are_replaced() -> None:
    framing = choose_framing(30_001, 0.03, FrameSize.SMALL)
    alice, bob = keys(30_001, 0.01)
    sender, receiver = Sender(framing, alice, stream()), Receiver(framing, bob, 0.02)
    assert receiver.take(sender.syndromes()) == ()
    last = framing.frames - 1
    wrong = number(bob) ^ 1 << 5 ^ 1 << 30_000
    with bob.expose() as view:
        view[:] = wrong.to_bytes(len(view), "little")
    before = receiver.disclosed
    receiver.take_whole((0, last), sender.whole((0, last)))
    assert number(bob) == number(alice)
    assert sender.disclosed == receiver.disclosed
    syndrome = framing.syndrome_bits - framing.punctured
    assert sender.disclosed - before == framing.bits_of(0) + framing.bits_of(last) - 2 * syndrome


def test_both_know_the_same_revealed_bits() -> None:
    framing = choose_framing(30_001, 0.01, FrameSize.SMALL)
    alice, bob = keys(30_001, 0.1)
    source, spare = stream(), (framing.record.bits - framing.punctured) % 64
    size = packed_bytes(framing.punctured + spare)
    hidden = [int.from_bytes(source(size), "little") >> spare for _ in range(framing.frames)]
    sender, receiver = Sender(framing, alice, stream()), Receiver(framing, bob, 0.01)
    failed = receiver.take(sender.syndromes())
    for step in range(1, reconcile.WHOLE):
        assert receiver.take_more(failed, sender.more(failed)) == failed
        known = (1 << rates.revealed(framing.punctured, step - 1)) - 1
        assert receiver._hidden == {frame: hidden[frame] & known for frame in failed}


def test_the_frames_of_a_batch_are_of_one_length() -> None:
    framing = choose_framing(30_001, 0.01, FrameSize.SMALL)
    batches = list(reconcile._Block(framing, keys(30_001, 0)[0]).batches(range(framing.frames)))
    assert [frame for batch in batches for frame in batch] == list(range(framing.frames))
    assert all(len({framing.bits_of(frame) for frame in batch}) == 1 for batch in batches)
    assert framing.bits_of(0) != framing.bits_of(framing.frames - 1)


@pytest.mark.parametrize("batch", [1, 3])
def test_any_batch_gives_the_same(monkeypatch: pytest.MonkeyPatch, batch: int) -> None:
    framing = choose_framing(45_000, 0.02, FrameSize.SMALL)
    assert framing.frames > 3
    alice, bob = keys(45_000, 0.021)
    before = Sender(framing, alice, stream()).syndromes()
    monkeypatch.setattr(reconcile, "BATCH", batch)
    sender, receiver = Sender(framing, alice, stream()), Receiver(framing, bob, 0.02)
    syndromes = sender.syndromes()
    assert syndromes == before
    settle(sender, receiver, receiver.take(syndromes))
    assert number(bob) == number(alice)


@pytest.fixture(scope="module")
def hopeless() -> tuple[Framing, bytes, int, int]:
    """A framing, its syndromes, Alice's key and one of Bob's that does not decode."""
    framing = choose_framing(5_000, 0.01)
    alice, bob = keys(5_000, 0.1)
    return framing, Sender(framing, alice, stream()).syndromes(), number(alice), number(bob)


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_foreign_bytes_of_any_size(hopeless: tuple[Framing, bytes, int, int], data: st.DataObject) -> None:
    """Refused with link.malformed and no effect, or of the right size."""
    framing, syndromes, _, bob = hopeless
    key = bits(bob, 5_000)
    receiver = Receiver(framing, key, 0.01)
    foreign = data.draw(st.binary(max_size=40) | st.integers(0, len(syndromes)).map(lambda n: syndromes[:n]))
    if len(foreign) != len(syndromes):
        with pytest.raises(PeerError) as caught:
            receiver.take(foreign)
        assert caught.value.code == "link.malformed"
    failed = receiver.take(syndromes)
    before = receiver.disclosed
    size = framing.frames * ((rates.revealed(framing.punctured, 0) + 7) // 8)
    foreign = data.draw(st.binary(max_size=60) | st.integers(0, size + 9).filter(lambda n: n != size).map(bytes))
    if len(foreign) != size:
        with pytest.raises(PeerError):
            receiver.take_more(failed, foreign)
        with pytest.raises(PeerError):
            receiver.take_whole(failed, foreign)
    assert receiver.disclosed == before
    assert number(key) == bob


def test_bits_behind_the_end_of_a_share_are_refused(hopeless: tuple[Framing, bytes, int, int]) -> None:
    framing = Framing(hopeless[0].code, 77, 1, 4_999)
    alice, bob = keys(4_999, 0.1)
    receiver = Receiver(framing, bob, 0.01)
    failed = receiver.take(Sender(framing, alice, stream()).syndromes())
    share = rates.revealed(77, 0)
    assert share % 8
    with pytest.raises(PeerError, match="not what was asked"):
        receiver.take_more(failed, bytes(share // 8) + b"\xff")
    with pytest.raises(PeerError, match="not what was asked"):
        receiver.take_whole(failed, bytes(4_999 // 8) + b"\x80")
    assert number(bob) == number(keys(4_999, 0.1)[1])


@pytest.mark.parametrize("frames", [(), (1, 0), (0, 0), (-1,), (99,), (0, 99)])
def test_a_list_that_is_none_is_refused(frames: tuple[int, ...]) -> None:
    framing = choose_framing(30_000, 0.02, FrameSize.SMALL)
    sender = Sender(framing, keys(30_000, 0)[0], stream())
    for call in (sender.more, sender.whole):
        with pytest.raises(PeerError) as caught:
            call(frames)
        assert caught.value.code == "link.malformed"
    assert sender.disclosed == framing.disclosed


def test_a_frame_is_disclosed_whole_once() -> None:
    framing = choose_framing(30_000, 0.02, FrameSize.SMALL)
    sender = Sender(framing, keys(30_000, 0)[0], stream())
    sender.whole((1,))
    for call in (sender.more, sender.whole):
        with pytest.raises(PeerError, match="whole"):
            call((0, 1))


def test_misuse_is_refused() -> None:
    framing = choose_framing(30_000, 0.02, FrameSize.SMALL)
    alice, bob = keys(29_999, 0.02)
    with pytest.raises(ProgramError):
        Sender(framing, alice, stream())
    with pytest.raises(ProgramError):
        Receiver(framing, bob, 0.02)
    framing = choose_framing(30_000, 0.03, FrameSize.SMALL)
    alice, bob = keys(30_000, 0.01)
    for qber in (0, 0.5):
        with pytest.raises(ProgramError):
            Receiver(framing, bob, qber)
    sender, receiver = Sender(framing, alice, stream()), Receiver(framing, bob, 0.02)
    syndromes = sender.syndromes()
    assert receiver.take(syndromes) == ()
    with pytest.raises(ProgramError):
        receiver.take(syndromes)
    with pytest.raises(ProgramError):
        receiver.take_more((0,), sender.more((0,)))


def test_wiped_ends_hold_nothing() -> None:
    framing = choose_framing(5_000, 0.01)
    alice, bob = keys(5_000, 0.1)
    sender, receiver = Sender(framing, alice, stream()), Receiver(framing, bob, 0.01)
    failed = receiver.take(sender.syndromes())
    sender.wipe()
    receiver.wipe()
    assert not any(sender.more(failed))
    assert receiver._waiting == {}
    assert not alice.secret.is_zero, "the key is its owner's"


def test_no_locked_memory_is_the_hosts_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    class Full:
        bits, checks = 12800, 2048

        def syndromes(self, *_: object) -> None:
            raise MemoryError("cannot lock")

        decode = syndromes

    framing = choose_framing(1_000, 0.02)
    alice, bob = keys(1_000, 0.02)
    monkeypatch.setattr(reconcile.codes, "load", lambda code: Full())
    sender, receiver = Sender(framing, alice, stream()), Receiver(framing, bob, 0.02)
    size = framing.frames * packed_bytes(framing.syndrome_bits)
    for call in (sender.syndromes, lambda: receiver.take(bytes(size))):
        with pytest.raises(HostError) as caught:
            call()
        assert caught.value.code == "host.memory"
