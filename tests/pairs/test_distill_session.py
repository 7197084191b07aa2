"""Two ends of a block in memory: keys that agree, blocks that are refused, and the accounts of both."""

import os
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qhybridd.apps.bench.blocks import STANDARD, make_block, make_link, pulses_for
from qhybridd.bits import Bits
from qhybridd.distill import messages as msg
from qhybridd.distill import session
from qhybridd.distill.accounts import assume_qber
from qhybridd.distill.alice import Alice
from qhybridd.distill.amplify import amplify
from qhybridd.distill.authenticate import LinkKeys
from qhybridd.distill.bob import Bob
from qhybridd.distill.pads import BLOCK_BYTES, FLOOR_BLOCKS, PAD_BYTES, TAGS_A_BLOCK
from qhybridd.distill.plan import plan, reconciliation_bits
from qhybridd.distill.rates import REVEAL_STEPS
from qhybridd.distill.session import HASH_ROUNDS, Block, Dropped, Kept
from qhybridd.errors import HostError, ProgramError
from qhybridd.secret import Secret
from tests.pairs.distill_world import (
    FRAMES,
    QBER,
    ROOMY,
    STEPS,
    TWO_DECOYS,
    Pair,
    bits_of,
    check_records,
    check_wiped,
    drawn,
    dropped,
    kept,
    link_keys,
    pads_of,
    terms,
    with_burst,
)

# ---- in the ordinary


def test_both_ends_keep_the_same_key() -> None:
    pair = Pair()
    alice, _ = kept(pair.block(drawn()))
    record = alice.record
    assert len(pair.sent) == STEPS
    assert record.outcome.kept and record.outcome.code == ""
    assert record.key_bits == terms().key_bits == record.refill_bits + record.net_bits
    assert record.net_bits == alice.key.length > 5000
    assert record.sizes.key_bits == sum(record.counted.key_clicks or ())
    assert record.qber_key == pytest.approx(QBER / 2, rel=0.2) and record.qber_test == pytest.approx(QBER, rel=0.2)
    assert record.disclosed.total <= record.terms.leakage_most
    assert record.authentication.kind == "distilled"
    assert record.authentication.tags_alice == record.authentication.tags_bob == STEPS // 2
    assert record.reconciliation is not None and record.reconciliation.efficiency is not None
    assert 1 < record.reconciliation.efficiency < 5
    assert pair.alice is not None and pair.bob is not None
    check_wiped(pair.alice)
    check_wiped(pair.bob)


def test_a_block_inherits_what_the_blocks_of_its_pads_left_to_chance() -> None:
    """The record has the sum of docs/security.md, over all blocks of the session that gave pads."""
    pair = Pair(link_keys(distilled=False), link_keys(distilled=False))
    own = 0.0
    for number in range(6):
        alice, bob = pair.block(drawn(number % 2 + 1))
        spent = alice.record.epsilons
        assert spent == bob.record.epsilons and isinstance(alice, Kept)
        assert spent.secrecy == pytest.approx(terms().protocol.epsilon_sec)
        assert 0 < spent.verification <= terms().protocol.epsilon_cor and 0 < spent.authentication < 1e-30
        assert spent.inherited == pytest.approx(own)
        assert spent.total == pytest.approx(spent.own + spent.inherited)
        own += spent.own
    assert pair.alice_keys.epsilon == pair.bob_keys.epsilon == pytest.approx(own)
    told = alice.record.to_dict()["epsilons"]
    assert isinstance(told, dict) and told["total"] == spent.total and told["secrecy"] == spent.secrecy


def test_the_key_is_split_without_overlap() -> None:
    whole: list[bytes] = []

    class Watched(Alice):
        def _make_key(self, corrected: Bits, seed: bytes, refill: tuple[int, int]) -> None:
            whole.append(bits_of(amplify(corrected, seed, self.terms.key_bits)))
            super()._make_key(corrected, seed, refill)

    pair = Pair()
    pair.begin(drawn())
    pair.alice = Watched(Block(pair.number, terms()), drawn().emissions, pair.alice_keys, os.urandom)
    alice, _ = kept(pair.run())
    each = PAD_BYTES * STEPS // 2
    assert alice.record.refill_bits == 2 * 8 * each
    forward, backward = (pads_of(pool) for pool in (pair.alice_keys.alice_to_bob, pair.alice_keys.bob_to_alice))
    assert whole[0][:each] in forward and whole[0][:each] not in backward
    assert whole[0][each : 2 * each] in backward and whole[0][each : 2 * each] not in forward
    rest = whole[0][2 * each :]
    assert bits_of(alice.key)[: len(rest)] == rest and not any(bits_of(alice.key)[len(rest) :])


def test_two_decoys() -> None:
    alice, _ = kept(Pair().block(drawn(protocol=TWO_DECOYS)))
    assert len(alice.record.counted.key_clicks or ()) == 3


def test_a_block_of_the_field() -> None:
    """A million sifted bits, ε_sec of 10^-10, 2 % QBER, from the PSK's pads."""
    link = make_link(0.02)
    pulses = pulses_for(1_000_000, STANDARD, link)
    expected = link.expect(STANDARD, pulses)
    ours = plan(STANDARD, pulses, expected, int(reconciliation_bits(expected, 1.35)) + 2000)
    pair = Pair(link_keys(distilled=False), link_keys(distilled=False))
    alice, _ = kept(pair.block(make_block(STANDARD, link, pulses, 3), alice_terms=ours, bob_terms=ours))
    assert alice.record.net_bits > 200_000 and alice.record.authentication.kind == "computational"
    assert alice.record.refill_bits == 8 * (2 * FLOOR_BLOCKS * BLOCK_BYTES + PAD_BYTES * len(pair.sent))
    again, _ = kept(pair.block(make_block(STANDARD, link, pulses, 4), alice_terms=ours, bob_terms=ours))
    assert again.record.authentication.kind == "distilled"


def test_block_after_block_under_one_link() -> None:
    pair, ids, keys = Pair(), set(), set()
    for seed in range(4):
        alice, _ = kept(pair.block(drawn(seed % 2 + 1)))
        ids.add(alice.key_id)
        keys.add(bits_of(alice.key))
        assert pads_of(pair.alice_keys.alice_to_bob) == pads_of(pair.bob_keys.alice_to_bob)
        assert pads_of(pair.alice_keys.bob_to_alice) == pads_of(pair.bob_keys.bob_to_alice)
    assert len(ids) == len(keys) == 4


def test_the_first_blocks_of_a_session_fill_the_pads() -> None:
    """All of a short key goes to the tags; the kind of authentication changes when the pads do."""
    pair = Pair(link_keys(distilled=False), link_keys(distilled=False))
    kinds, nets = [], []
    for seed in range(9):
        alice, bob = pair.block(drawn(seed % 2 + 1))
        assert isinstance(alice, Kept) and isinstance(bob, Kept)
        check_records(alice.record, bob.record)
        kinds.append(alice.record.authentication.kind)
        nets.append(alice.record.net_bits)
        assert alice.record.refill_bits + alice.record.net_bits == alice.record.key_bits
    assert kinds[0] == "computational" and kinds[-1] == "distilled"
    assert nets[0] < 128 and nets[-1] > 5000


def test_the_disclosed_bits_are_all_that_went_over_the_line() -> None:
    """Held against the messages themselves: bits of syndromes less the punctured ones, of tags, of answers."""
    pair = Pair()
    bodies: list[msg.Message] = []
    pair.begin(drawn())

    def look(_: int, data: bytes) -> list[bytes]:
        bodies.append(msg.decode(data[:-16]))
        return [data]

    alice, _ = kept(pair.run(look))
    framing = next(m.framing for m in bodies if isinstance(m, msg.Measured))
    syndromes = next(m.data for m in bodies if isinstance(m, msg.Syndromes))
    checked = next(m.key_errors for m in bodies if isinstance(m, msg.Checked))
    spent = alice.record.disclosed
    assert framing is not None
    assert spent.syndromes == 8 * len(syndromes) - framing.frames * framing.punctured
    assert spent.verification == 128
    assert spent.answers == framing.frames + 1 + sum(n.bit_length() for n in alice.record.counted.key_clicks or ())
    assert sum(checked) == sum(alice.record.counted.key_errors or ())


# ---- frames that fail


def test_a_frame_that_fails_is_rescued_or_disclosed_whole() -> None:
    pair = Pair()
    roomy = terms(ROOMY)
    alice, _ = kept(pair.block(with_burst(drawn(), 25), alice_terms=roomy, bob_terms=roomy))
    found = alice.record.reconciliation
    assert found is not None and found.failed == 1
    assert alice.record.disclosed.reveals > 0
    assert (found.undecoded == 1) == (alice.record.disclosed.whole > 0)


@pytest.mark.parametrize("frame", [0, FRAMES - 1])
def test_a_frame_that_decodes_to_something_else_is_found_and_disclosed(frame: int) -> None:
    """A bit of memory flips at Bob after his frames had their syndromes."""
    pair, roomy = Pair(), terms(ROOMY)
    pair.begin(drawn(), roomy, roomy)
    bob = pair.bob
    assert bob is not None

    def flip(number: int, data: bytes) -> list[bytes]:
        if isinstance(msg.decode(data[:-16]), msg.Hashes) and bob._hash_round == 0:
            assert bob._corrected is not None and bob._framing is not None
            with bob._corrected.expose() as words:
                words[frame * bob._framing.frame_bits // 8] ^= 1
        return [data]

    alice, _ = kept(pair.run(flip))
    assert alice.record.reconciliation is not None and alice.record.reconciliation.differing == 1
    assert alice.record.disclosed.whole > 10_000
    assert alice.record.disclosed.verification == 2 * 128 + FRAMES * 64
    assert len(pair.sent) == STEPS + 6


def test_two_rounds_of_hashes_and_no_more() -> None:
    pair, roomy = Pair(), terms(ROOMY)
    pair.begin(drawn(), roomy, roomy)
    bob = pair.bob
    assert bob is not None

    def flip(number: int, data: bytes) -> list[bytes]:
        if isinstance(msg.decode(data[:-16]), msg.Hashes):
            assert bob._corrected is not None
            with bob._corrected.expose() as words:
                words[0] ^= 1
        return [data]

    dropped(pair.run(flip), "link.verification")


# ---- blocks that are refused


def test_too_many_errors_are_an_attack() -> None:
    alice, bob = dropped(Pair().block(drawn(qber=0.12)), "link.attack")
    assert alice.record.outcome.ended_by == "alice"
    assert bob.record.qber_test == pytest.approx(0.12, rel=0.1)
    assert alice.record.disclosed.total == 0 and alice.record.key_bits == 0


def test_few_clicks_are_an_outage() -> None:
    for share in (0.5, 0.97, 0.0):
        alice, _ = dropped(Pair().block(drawn(share=share)), "link.outage")
        assert alice.record.sizes.clicks == drawn(share=share).count


def test_errors_in_the_key_basis_alone_are_an_attack() -> None:
    tight = replace(terms(ROOMY), protocol=replace(terms().protocol, qber_most=0.006))
    alice, _ = dropped(Pair().block(with_burst(drawn(), 60), alice_terms=tight, bob_terms=tight), "link.attack")
    assert alice.record.qber_key is not None and alice.record.qber_key > 0.006
    assert alice.record.estimates is not None


def test_more_to_disclose_than_the_terms_allow() -> None:
    alice, _ = dropped(Pair().block(with_burst(drawn(), 12)), "link.leakage")
    assert alice.record.disclosed.total <= terms().leakage_most


@settings(max_examples=40)
@given(data=st.data())
def test_both_ends_count_alike_wherever_the_terms_stop_them(data: st.DataObject) -> None:
    """Any message may be the last that is allowed: the end that would go over stops, and both tell the same."""
    pair, roomy, block = Pair(), terms(ROOMY), with_burst(drawn(), 25)
    alice, _ = kept(pair.block(block, alice_terms=roomy, bob_terms=roomy))
    spent = alice.record.disclosed
    steps = [0, spent.syndromes, FRAMES, 1, spent.reveals, spent.whole, 128, spent.answers]
    near = data.draw(st.sampled_from([sum(steps[: n + 1]) for n in range(len(steps))]))
    most = min(spent.total - 1, max(0, near + data.draw(st.integers(-8, 8))))
    tight = replace(roomy, leakage_most=most)
    alice_dropped, _ = dropped(pair.block(block, alice_terms=tight, bob_terms=tight), "link.leakage")
    assert alice_dropped.record.disclosed.total <= most
    exact = replace(roomy, leakage_most=spent.total)
    kept(pair.block(block, alice_terms=exact, bob_terms=exact))


def test_the_longest_block_has_pads_for_all_its_messages() -> None:
    rounds = 2 * (HASH_ROUNDS - 1)
    each = STEPS // 2 + len(REVEAL_STEPS) + rounds + HASH_ROUNDS - 1
    assert each + 1 <= TAGS_A_BLOCK


def test_terms_that_differ() -> None:
    other = replace(terms(), phase_error_most=terms().phase_error_most - 1e-6)
    alice, bob = Pair().block(drawn(), bob_terms=other)
    assert isinstance(alice, Dropped) and isinstance(bob, Dropped) and alice.code == bob.code == "link.terms"
    assert "phase_error_most" in bob.reason and bob.record.outcome.ended_by == "bob"
    wider = replace(terms(), protocol=replace(terms().protocol, epsilon_sec=0.02), key_bits=1000)
    _, bob = Pair().block(drawn(), bob_terms=wider)
    assert isinstance(bob, Dropped) and "epsilon_sec, key_bits" in bob.reason


def test_a_wrong_psk_ends_every_block() -> None:
    pair = Pair(link_keys(), link_keys(bytes(range(1, 33)), distilled=False))
    alice, bob = pair.block(drawn())
    assert isinstance(bob, Dropped) and bob.code == "link.authentication"
    assert isinstance(alice, Dropped) and alice.code == "link.aborted"


def test_other_session_other_keys() -> None:
    alice, bob = Pair(link_keys(session=1), link_keys(session=2)).block(drawn())
    assert isinstance(alice, Dropped) and isinstance(bob, Dropped) and bob.code == "link.authentication"


def test_a_link_without_pads_drops_the_block_with_a_record() -> None:
    pair = Pair(link_keys(distilled=False), link_keys(distilled=False))
    for keys in (pair.alice_keys, pair.bob_keys):
        while keys.alice_to_bob.blocks_left:
            keys.alice_to_bob.begin_block()
            keys.alice_to_bob.take(272)
    alice, bob = pair.block(drawn())
    for end in (alice, bob):
        assert isinstance(end, Dropped) and end.code in ("link.pads", "link.aborted")
    assert alice.record.outcome.code == "link.pads" and alice.record.authentication.kind == "none"


def test_an_abort_in_its_turn_is_heard() -> None:
    """A host without memory at Alice: Bob hears a code of his own list, and no more."""

    class Poor(Alice):
        def _sift(self, detected: msg.Detected) -> msg.Message:
            raise HostError("host.memory", "no locked memory is left")

    pair = Pair()
    pair.begin(drawn())
    pair.alice = Poor(Block(pair.number, terms()), drawn().emissions, pair.alice_keys, bytes)
    alice, bob = pair.run()
    assert isinstance(alice, Dropped) and alice.code == "host.memory"
    assert isinstance(bob, Dropped) and bob.code == "link.aborted" and "host.memory" in bob.reason
    assert bob.record.outcome.ended_by == "alice"


def test_a_defect_ends_the_block_and_goes_on_its_way() -> None:
    pair = Pair()

    def broken(_: int) -> bytes:
        raise RuntimeError("on purpose")

    pair.begin(drawn(), random=broken)
    with pytest.raises(RuntimeError):
        pair.run()
    assert pair.alice is not None and isinstance(pair.alice.result, Dropped)
    assert pair.alice.result.code == "program.state"
    check_wiped(pair.alice)


@pytest.mark.parametrize("call", range(3))
@pytest.mark.parametrize("end", ["alice", "bob"])
def test_no_memory_left_to_split_the_key_drops_it_at_both_ends(
    monkeypatch: pytest.MonkeyPatch, end: str, call: int
) -> None:
    """Wherever it runs out: neither end keeps the key, and none of it is among the pads."""
    pair = Pair()
    pair.begin(drawn())
    calls = 0

    def poor(*arguments: object) -> None:
        nonlocal calls
        calls += 1
        if calls == call + 1:
            raise HostError("host.memory", "no locked memory is left")

    victim = pair.alice if end == "alice" else pair.bob
    assert victim is not None
    original = victim._make_key

    def make_key(corrected: Bits, seed: bytes, refill: tuple[int, int]) -> None:
        with monkeypatch.context() as patch:
            cut, zeros = session._cut, Bits.zeros
            patch.setattr(session, "_cut", lambda *given: (poor(), cut(*given))[1])
            patch.setattr(session.Bits, "zeros", lambda bits: (poor(), zeros(bits))[1])
            original(corrected, seed, refill)

    monkeypatch.setattr(victim, "_make_key", make_key)
    before = pads_of(pair.alice_keys.alice_to_bob)
    results = pair.run()
    assert all(isinstance(result, Dropped) for result in results)
    assert {result.code for result in results if isinstance(result, Dropped)} == {"host.memory", "link.aborted"}
    for keys in (pair.alice_keys, pair.bob_keys):
        assert before.endswith(pads_of(keys.alice_to_bob)) and keys.blocks_left > 0


# ---- misuse


def test_after_the_end_and_out_of_order_every_call_raises() -> None:
    pair = Pair()
    pair.begin(drawn())
    alice, bob = pair.alice, pair.bob
    assert alice is not None and bob is not None
    for call in (lambda: alice.receive(b"x" * 40), lambda: bob.receive(b"x" * 40)):
        with pytest.raises(ProgramError) as caught:
            call()
        assert caught.value.code == "program.state" and alice.result is None
    with pytest.raises(ProgramError):
        alice.give_up("no.code", "")
    kept(pair.run())
    for end in (alice, bob):
        before = end.result
        for call in (
            end.start,
            lambda end=end: end.receive(b"x" * 40),
            lambda end=end: end.give_up("link.aborted", ""),
        ):
            with pytest.raises(ProgramError) as caught:
                call()
            assert caught.value.code == "program.state"
        assert end.result is before


def test_started_once() -> None:
    pair = Pair()
    pair.begin(drawn())
    assert pair.alice is not None and pair.bob is not None
    for end in (pair.alice, pair.bob):
        end.start()
        with pytest.raises(ProgramError):
            end.start()
        assert end.result is None
        end.give_up("link.aborted", "enough")
        assert isinstance(end.result, Dropped) and end.result.reason == "enough"
        check_wiped(end)


def test_a_link_of_any_name_leaves_a_record() -> None:
    bob = Bob(Block(1, terms()), drawn().clicks, LinkKeys(Secret.adopt(bytes(range(32))), bytes(48), b"\xff"))
    bob.give_up("link.aborted", "enough")
    assert isinstance(bob.result, Dropped) and bob.result.record.link == "\\xff"


def test_what_makes_no_block() -> None:
    keys, block = link_keys(), drawn()
    for wrong in (
        replace(terms(), key_bits=0),
        replace(terms(), key_bits=terms().key_bits + 1),
        replace(terms(), key_clicks_least=terms().key_bits - 1),
        replace(terms(), protocol=replace(terms().protocol, epsilon_cor=1e-34)),
    ):
        with pytest.raises(ProgramError):
            Alice(Block(1, wrong), block.emissions, keys, bytes)
    with pytest.raises(ProgramError):
        Alice(Block(1 << 63, terms()), block.emissions, keys, bytes)
    with pytest.raises(ProgramError):
        Bob(Block(1, terms()), replace(block.clicks, pulses=5), keys)


# ---- the rule for the rate


@given(st.integers(0, 1000), st.integers(0, 10**6))
def test_the_assumed_error_rate(errors: int, more: int) -> None:
    bits = errors + more
    rate = assume_qber(errors, bits)
    assert 0.005 <= rate <= 0.10
    if bits:
        assert rate >= min(0.10, errors / bits)
    assert assume_qber(errors + 1, bits + 1) >= rate


def test_the_margin_goes_with_the_sample() -> None:
    assert assume_qber(2, 100) > 0.04
    assert assume_qber(2000, 100_000) == pytest.approx(0.02, rel=0.03)
