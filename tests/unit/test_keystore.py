"""The key store of one end: what it gives, what it refuses, what it forgets, what it counts."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qhybridd import keystore as package
from qhybridd.crypto.kdf import Label, lp, sha384, u64
from qhybridd.distill.authenticate import Role
from qhybridd.errors import HostError, ProgramError
from qhybridd.keystore import Account, KeyStore, ListedBlock, Mark, StoreListing
from qhybridd.keystore.account import Gauge, Outlook
from qhybridd.keystore.listing import MAX_BLOCKS, MAX_OUTSTANDING, MAX_UNITS
from qhybridd.keystore.store import CONFIRM_S, MAX_GONE, ON_ITS_WAY_S
from qhybridd.secret import Secret
from tests.unit.stores import (
    MAX_AGE_S,
    block_key,
    exchange,
    fill,
    key_id,
    pair,
    secrets_in,
    secrets_of,
    store,
    text_of,
    unit_bytes,
)

A, B = Role.ALICE, Role.BOB


def books(end: KeyStore) -> Account:
    """Its account, which must be balanced."""
    account = end.account
    assert account.balanced, account
    return account


# ---- keys


@pytest.mark.parametrize(("role", "bits"), [(A, 2560), (B, 2560), (A, 2816), (B, 2816), (A, 256), (A, 2815)])
def test_keys_are_cut_out_of_the_block_oldest_first(role: Role, bits: int) -> None:
    alice, bob = pair()
    fill(alice, bob, bits=bits)
    own, peer = (alice, bob) if role is A else (bob, alice)
    units = bits // 256
    mine = (units + 1) // 2 if role is A else units // 2
    assert own.available_bits() == 256 * mine
    for number in range(mine):
        key_ids, secret = own.reserve(256, 1.0)
        assert key_ids == (sha384(Label.UNIT_KEY_ID.encoded, lp(key_id(1), role.value.encode()), u64(number))[:16],)
        assert text_of(secret) == unit_bytes(1, bits, role, number)
        assert peer.fetch(key_ids, 256, 1.0) == secret
    with pytest.raises(HostError, match=r"source\.empty"):
        own.reserve(256, 1.0)
    assert books(own).used_bits == books(peer).used_bits == 256 * mine


def test_the_outlook_counts_what_can_still_be_had_and_for_how_long() -> None:
    alice, bob = pair()
    assert alice.outlook(0.0) == Outlook(0, 0.0, 0, 0.0)
    fill(alice, bob, number=1, bits=1280)
    seen = alice.outlook(10.0)
    assert (seen.own_keys, seen.peer_keys) == (3, 2)
    born = 10.0 + seen.own_left_s - MAX_AGE_S
    assert seen.peer_left_s == seen.own_left_s > 0
    waiting = key_id(2)
    alice.add(waiting, block_key(2, 512), 0, 20.0)
    assert alice.outlook(20.0) == Outlook(4, MAX_AGE_S, 3, MAX_AGE_S), "it waits, and may be had yet"
    alice.discard(waiting)
    alice.reserve(768, 21.0)
    assert alice.outlook(21.0) == Outlook(0, 0.0, 2, born + MAX_AGE_S - 21.0)
    assert bob.outlook(21.0).own_keys == 2


def test_several_keys_run_over_blocks_in_order() -> None:
    alice, bob = pair()
    for number in (1, 2):
        fill(alice, bob, number=number, bits=1024)
    key_ids, secret = alice.reserve(768, 1.0)
    wanted = [unit_bytes(1, 1024, A, 0), unit_bytes(1, 1024, A, 1), unit_bytes(2, 1024, A, 0)]
    assert text_of(secret) == b"".join(wanted)
    assert text_of(bob.fetch(key_ids, 768, 2.0)) == text_of(secret)
    assert alice.available_bits() == books(bob).peer_bits == 256


def test_both_ends_reserve_at_once() -> None:
    alice, bob = pair()
    fill(alice, bob)
    hers, his = alice.reserve(256, 1.0), bob.reserve(256, 1.0)
    assert hers[1] != his[1]
    assert bob.fetch(hers[0], 256, 1.0) == hers[1] and alice.fetch(his[0], 256, 1.0) == his[1]


@pytest.mark.parametrize("bits", [0, -256, 128, 257, 256 * 17])
def test_odd_sizes_are_a_misuse(bits: int) -> None:
    alice, _ = pair()
    fill(alice, bits=1 << 14)
    with pytest.raises(ProgramError):
        alice.reserve(bits, 1.0)
    assert books(alice).used_bits == 0


def test_too_little_takes_nothing() -> None:
    alice, _ = pair()
    fill(alice, bits=1024)
    with pytest.raises(HostError, match="512 bits of key are in store, 768 are needed"):
        alice.reserve(768, 1.0)
    assert alice.available_bits() == 512 and alice.listing().outstanding == ()


def test_what_was_used_is_used_once() -> None:
    alice, bob = pair()
    fill(alice, bob)
    key_ids, _ = alice.reserve(256, 1.0)
    bob.fetch(key_ids, 256, 1.0)
    for end in (alice, bob):
        with pytest.raises(HostError, match=r"source\.lost"):
            end.fetch(key_ids, 256, 1.0)


def test_a_direction_is_fetched_by_the_other_end_alone() -> None:
    alice, bob = pair()
    fill(alice, bob)
    key_ids, _ = alice.reserve(256, 1.0)
    own = [alice._blocks[key_id(1)].own.id_of(number) for number in alice._blocks[key_id(1)].own]
    for key in (*key_ids, *own):
        with pytest.raises(HostError, match=r"source\.lost"):
            alice.fetch((key,), 256, 1.0)
    assert alice.available_bits() == 1024


@pytest.mark.parametrize("wrong", ["unknown", "one too many", "twice", "twice too many", "bits", "none"])
def test_a_fetch_that_fails_burns_all_that_it_named(wrong: str) -> None:
    alice, bob = pair()
    fill(alice, bob)
    key_ids, _ = alice.reserve(512, 1.0)
    named, bits = {
        "unknown": ((*key_ids, bytes(16)), 768),
        "one too many": ((*key_ids, bytes(16)), 512),
        "twice too many": ((*key_ids, key_ids[0]), 512),
        "twice": ((*key_ids, key_ids[0]), 768),
        "bits": (key_ids, 256),
        "none": ((), 0),
    }[wrong]
    with pytest.raises(HostError, match=r"source\.lost"):
        bob.fetch(named, bits, 1.0)
    assert books(bob).burnt_bits == (0 if wrong == "none" else 512)
    if wrong != "none":
        with pytest.raises(HostError, match=r"source\.lost"):
            bob.fetch(key_ids, 512, 1.0)


def test_what_is_reserved_and_not_used_is_burnt_at_both_ends() -> None:
    alice, bob = pair()
    fill(alice, bob)
    kept = [*secrets_in(bob._blocks[key_id(1)].peer)[:2]]
    key_ids, _ = alice.reserve(512, 1.0)
    alice.burn(key_ids, 2.0)
    alice.burn(key_ids, 3.0)
    assert (books(alice).used_bits, books(alice).burnt_bits) == (0, 512)
    assert alice.listing().outstanding == ()
    bob.burn(key_ids, 2.0)
    assert (books(bob).used_bits, books(bob).burnt_bits) == (0, 512) and all(unit.is_zero for unit in kept)
    with pytest.raises(HostError, match=r"source\.lost"):
        bob.fetch(key_ids, 512, 3.0)


# ---- blocks


def test_nothing_is_reserved_before_the_peer_confirmed() -> None:
    alice, bob = pair()
    fill(alice, bob, confirm=False)
    assert alice.mark is Mark.EMPTY and books(alice).waiting_bits == 2560
    with pytest.raises(HostError, match=r"source\.empty"):
        alice.reserve(256, 1.0)
    alice.confirm(key_id(1), 1.0)
    assert books(alice).own_bits == books(alice).peer_bits == 1280 and books(alice).waiting_bits == 0
    key_ids, secret = alice.reserve(256, 1.0)
    assert bob.fetch(key_ids, 256, 1.0) == secret, "the peer reserved it, so the peer has the block"
    assert books(bob).waiting_bits == 2304 and bob.available_bits() == 0


def test_keys_of_a_confirmed_block_do_not_wait_for_an_older_one() -> None:
    alice, _ = pair()
    fill(alice, number=1, bits=512, confirm=False)
    fill(alice, number=2, bits=512)
    assert text_of(alice.reserve(256, 1.0)[1]) == unit_bytes(2, 512, A, 0)
    alice.confirm(key_id(1), 1.0)
    assert text_of(alice.reserve(256, 1.0)[1]) == unit_bytes(1, 512, A, 0)


def test_a_discarded_block_is_burnt() -> None:
    alice, _ = pair()
    fill(alice, confirm=False, bits=2600)
    held = secrets_of(alice)
    alice.discard(key_id(1))
    alice.discard(key_id(1))
    alice.confirm(key_id(1), 0.0)
    assert books(alice).burnt_bits == 2600 and all(unit.is_zero for unit in held) and len(held) == 10


def test_a_block_that_nobody_confirms_is_burnt_in_time() -> None:
    alice, _ = pair()
    fill(alice, confirm=False)
    assert alice.next_deadline() == CONFIRM_S
    alice.tick(CONFIRM_S - 0.1)
    assert books(alice).waiting_bits == 2560
    alice.tick(CONFIRM_S)
    assert books(alice).burnt_bits == 2560 and alice.next_deadline() is None


def test_a_block_comes_once() -> None:
    alice, _ = pair()
    fill(alice)
    refused = block_key(1, 2560)
    with pytest.raises(ProgramError):
        alice.add(key_id(1), refused, 0, 1.0)
    assert refused.secret.is_zero and books(alice).distilled_bits == 2560
    alice.discard(key_id(1))
    with pytest.raises(ProgramError):
        fill(alice)
    with pytest.raises(ProgramError):
        alice.add(b"short", block_key(2, 256), 0, 1.0)
    with pytest.raises(ProgramError):
        alice.add(key_id(2), block_key(2, 256), -1, 1.0)


def test_the_memory_of_past_blocks_is_bounded() -> None:
    alice, _ = pair()
    for number in range(MAX_GONE + 3):
        fill(alice, number=number, bits=256)
        alice.discard(key_id(number))
    assert len(alice._gone) == MAX_GONE
    with pytest.raises(ProgramError):
        fill(alice, number=MAX_GONE + 2, bits=256)


@given(st.integers(0, 3000), st.integers(0, 5000))
def test_every_bit_of_a_block_is_counted(bits: int, pads: int) -> None:
    alice, _ = pair()
    alice.add(key_id(1), block_key(1, bits), pads, 0.0)
    account = books(alice)
    assert (account.distilled_bits, account.authentication_bits) == (bits + pads, pads)
    assert (account.burnt_bits, account.waiting_bits) == (bits % 256, bits // 256 * 256)


def test_without_locked_memory_the_block_is_burnt(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[Secret] = []

    class Scarce(Secret):
        __slots__ = ()

        def __init__(self, size: int) -> None:
            if len(made) == 7:
                raise HostError("host.memory", "none left")
            super().__init__(size)
            made.append(self)

    alice, _ = pair()
    key = block_key(1, 2560)
    monkeypatch.setattr(package.block, "Secret", Scarce)
    with pytest.raises(HostError, match=r"host\.memory"):
        alice.add(key_id(1), key, 100, 0.0)
    assert key.secret.is_zero and len(made) == 7 and all(unit.is_zero for unit in made)
    assert books(alice) == Account(2660, 0, 0, 2560, 100, 0, 0, 0)


def test_without_locked_memory_a_fetch_burns_and_a_reservation_takes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(size: int) -> Secret:
        raise HostError("host.memory", f"no {size} bytes left")

    alice, bob = pair()
    fill(alice, bob)
    key_ids, _ = alice.reserve(512, 1.0)
    monkeypatch.setattr(package.store, "Secret", refuse)
    with pytest.raises(HostError, match=r"host\.memory"):
        alice.reserve(256, 1.0)
    with pytest.raises(HostError, match=r"host\.memory"):
        bob.fetch(key_ids, 512, 1.0)
    assert (alice.available_bits(), books(alice).used_bits) == (768, 512)
    assert (books(bob).burnt_bits, books(bob).used_bits) == (512, 0)


# ---- what is left of secrets


def test_the_block_itself_is_wiped_as_it_is_cut() -> None:
    alice, _ = pair()
    key = block_key(1, 2600)
    alice.add(key_id(1), key, 0, 0.0)
    with key.expose() as text:
        assert bytes(text) == bytes(len(text))


def test_a_used_key_is_wiped_at_once() -> None:
    alice, bob = pair()
    fill(alice, bob)
    hers, his = secrets_in(alice._blocks[key_id(1)].own), secrets_in(bob._blocks[key_id(1)].peer)
    key_ids, secret = alice.reserve(512, 1.0)
    assert [unit.is_zero for unit in hers] == [True, True, False, False, False]
    assert not secret.is_zero
    bob.fetch(key_ids, 512, 1.0)
    assert [unit.is_zero for unit in his] == [True, True, False, False, False]


@pytest.mark.parametrize("how", ["wipe", "expiry", "room", "listing", "unlisted"])
def test_whatever_leaves_is_wiped(how: str) -> None:
    alice, bob = pair(capacity_bits=1280)
    fill(alice)
    held = secrets_of(alice)
    assert len(held) == 10 and not any(unit.is_zero for unit in held)
    match how:
        case "wipe":
            alice.wipe()
        case "expiry":
            alice.tick(MAX_AGE_S + ON_ITS_WAY_S)
        case "room":
            fill(alice, number=2, bits=2560)
            fill(alice, number=3, bits=2560)
        case "listing":
            alice.meet(StoreListing((ListedBlock(key_id(1), 5, 5),)), 1.0)
        case "unlisted":
            alice.meet(bob.listing(), 1.0)
    assert all(unit.is_zero for unit in held)
    account = books(alice)
    assert account.expired_bits + account.burnt_bits == (3840 if how == "room" else 2560)
    if how == "room":
        assert alice.available_bits() == 1280 and books(alice).peer_bits == 2560
    else:
        assert secrets_of(alice) == [] and alice.mark is Mark.EMPTY and not alice._index


# ---- time and room


def test_keys_expire_at_their_owner_first() -> None:
    alice, _ = pair()
    fill(alice)
    fill(alice, number=2, bits=512, now=100.0)
    alice.tick(CONFIRM_S)
    assert alice.next_deadline() == MAX_AGE_S
    alice.tick(MAX_AGE_S - 0.1)
    assert alice.available_bits() == 1536
    alice.tick(MAX_AGE_S)
    assert (alice.available_bits(), books(alice).peer_bits, books(alice).expired_bits) == (256, 1536, 1280)
    assert alice.next_deadline() == MAX_AGE_S + ON_ITS_WAY_S
    alice.tick(MAX_AGE_S + ON_ITS_WAY_S)
    assert (books(alice).peer_bits, books(alice).expired_bits) == (256, 2560)


@pytest.mark.parametrize("verb", ["reserve", "fetch"])
def test_no_expired_key_is_given_out(verb: str) -> None:
    alice, bob = pair()
    fill(alice, bob)
    key_ids, _ = bob.reserve(256, 1.0)
    with pytest.raises(HostError):
        if verb == "reserve":
            alice.reserve(256, MAX_AGE_S)
        else:
            alice.fetch(key_ids, 256, MAX_AGE_S + ON_ITS_WAY_S)


def test_a_key_reserved_at_the_last_moment_is_still_fetched() -> None:
    alice, bob = pair()
    fill(alice, bob)
    key_ids, secret = alice.reserve(256, MAX_AGE_S - 0.1)
    assert bob.fetch(key_ids, 256, MAX_AGE_S + ON_ITS_WAY_S - 1) == secret


def test_the_oldest_own_keys_are_pushed_out() -> None:
    alice, _ = pair(capacity_bits=2048)
    for number in (1, 2):
        fill(alice, number=number, bits=2560)
    assert alice.available_bits() == 2048 and books(alice).expired_bits == 512
    assert text_of(alice.reserve(256, 1.0)[1]) == unit_bytes(1, 2560, A, 2)


def test_the_peer_can_make_it_hold_so_much_and_no_more() -> None:
    alice, _ = pair(capacity_bits=2048)
    for number in range(1, 6):
        fill(alice, number=number, bits=2560)
        assert books(alice).peer_bits <= 4096
    assert books(alice).peer_bits == 4096 and books(alice).own_bits == 2048
    fill(alice, number=9, bits=1 << 16)
    assert (books(alice).peer_bits, books(alice).own_bits) == (4096, 2048)
    assert len(alice._index) == 16


def test_blocks_are_bounded() -> None:
    alice, _ = pair(capacity_bits=1 << 24)
    for number in range(MAX_BLOCKS + 2):
        fill(alice, number=number, bits=512, confirm=False)
    listing = alice.listing()
    assert len(listing.blocks) == MAX_BLOCKS and listing.blocks[0].key_id == key_id(2)
    assert books(alice).expired_bits == 1024
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(listing), type=StoreListing) == listing


# ---- the water marks


def test_the_marks_depend_on_the_way() -> None:
    gauge = Gauge(4, 16)
    way = [0, 1, 15, 16, 40, 5, 4, 3, 1, 4, 3, 0, 3, 15, 16, 15]
    marks = []
    for keys in way:
        gauge.read(keys)
        marks.append(gauge.mark.value)
    assert marks == [
        *("empty", "charging", "charging", "ready", "ready", "ready", "ready", "warning", "warning", "ready"),
        *("warning", "empty", "charging", "charging", "ready", "ready"),
    ]


def test_the_store_shows_its_mark() -> None:
    alice, _ = pair()
    assert alice.mark is Mark.EMPTY
    fill(alice, bits=256 * 20)
    assert alice.mark is Mark.CHARGING
    fill(alice, number=2, bits=256 * 12)
    assert alice.mark is Mark.READY
    for _ in range(13):
        alice.reserve(256, 1.0)
    assert alice.mark is Mark.WARNING
    alice.reserve(768, 1.0)
    assert alice.mark is Mark.EMPTY


def test_a_small_store_is_ready_when_it_is_full() -> None:
    alice, _ = pair(capacity_bits=256 * 8)
    fill(alice, bits=1 << 14)
    assert alice.mark is Mark.READY


@pytest.mark.parametrize("wrong", [{"capacity_bits": 255}, {"max_age_s": 0.0}, {"low_keys": 0}, {"ready_keys": 3}])
def test_a_store_that_cannot_be_is_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(ProgramError):
        KeyStore(**{"role": A, "capacity_bits": 256, "max_age_s": 1.0, **wrong})  # type: ignore[arg-type]


# ---- listings


def test_a_listing_confirms_what_it_names() -> None:
    alice, bob = pair()
    fill(alice, bob, confirm=False)
    exchange(alice, bob, 1.0)
    assert alice.available_bits() == bob.available_bits() == 1280


def test_a_listing_that_does_not_name_a_waiting_block_may_be_older_than_it() -> None:
    alice, bob = pair()
    fill(alice, confirm=False)
    alice.meet(bob.listing(), 1.0)
    assert books(alice).waiting_bits == 2560


def test_after_a_crash_of_one_end_neither_has_anything() -> None:
    alice, bob = pair()
    fill(alice, bob)
    bob = store(B)
    exchange(alice, bob, 1.0)
    assert books(alice).burnt_bits == 2560 and alice.listing() == bob.listing() == StoreListing()


def test_a_listing_spares_keys_whose_message_is_on_its_way() -> None:
    alice, bob = pair()
    fill(alice, bob)
    key_ids, secret = alice.reserve(512, 1.0)
    bob.meet(alice.listing(), 2.0)
    assert bob.fetch(key_ids, 512, 3.0) == secret


def test_a_listing_of_a_block_used_up_spares_them_too() -> None:
    alice, bob = pair()
    fill(alice, bob, bits=256)
    key_ids, secret = alice.reserve(256, 1.0)
    assert alice.listing().blocks == ()
    bob.meet(alice.listing(), 2.0)
    assert bob.fetch(key_ids, 256, 3.0) == secret


def test_copies_go_when_the_message_never_comes() -> None:
    alice, bob = pair()
    fill(alice, bob)
    alice.reserve(512, 1.0)
    alice.tick(1.0 + ON_ITS_WAY_S)
    bob.meet(alice.listing(), 62.0)
    assert books(bob).peer_bits == 768 == books(alice).own_bits and books(bob).expired_bits == 512


def test_copies_of_pushed_out_keys_count_as_expired_when_the_block_is_gone_at_its_owner() -> None:
    alice, bob = pair()
    fill(alice, bob, bits=256)
    alice.tick(MAX_AGE_S)
    bob.meet(alice.listing(), 1.0)
    assert books(bob).expired_bits == books(alice).expired_bits == 256


def test_a_half_used_up_is_listed_behind_its_last_key() -> None:
    alice, _ = pair()
    fill(alice, bits=1024)
    assert alice.listing().blocks == (ListedBlock(key_id(1), 0, 0),)
    alice.reserve(512, 1.0)
    assert alice.listing().blocks == (ListedBlock(key_id(1), 2, 0),)


def test_keys_go_that_the_peer_lacks() -> None:
    alice, bob = store(A), store(B, capacity_bits=512)
    fill(alice, bob, bits=5120)
    assert books(bob).peer_bits == 1024
    alice.meet(bob.listing(), 1.0)
    assert alice.available_bits() == 1024 and books(alice).burnt_bits == 1536
    key_ids, secret = alice.reserve(1024, 2.0)
    assert bob.fetch(key_ids, 1024, 2.0) == secret


def test_outstanding_keys_are_bounded_and_the_newest_stay() -> None:
    alice, _ = pair()
    fill(alice, bits=512 * (MAX_OUTSTANDING + 10))
    key_ids = [alice.reserve(256, 1.0)[0][0] for _ in range(MAX_OUTSTANDING + 10)]
    listing = alice.listing()
    assert list(listing.outstanding) == key_ids[10:]
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(listing), type=StoreListing) == listing


@given(st.binary(max_size=400))
def test_no_bytes_make_a_listing_out_of_bounds(data: bytes) -> None:
    try:
        listing = msgspec.msgpack.decode(data, type=StoreListing)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return
    assert all(len(block.key_id) == 16 and 0 <= block.own_first <= MAX_UNITS for block in listing.blocks)


@pytest.mark.parametrize(
    "listing",
    [
        [[[bytes(15), 0, 0]], []],
        [[[bytes(16), -1, 0]], []],
        [[[bytes(16), 0, MAX_UNITS + 1]], []],
        [[], [bytes(17)]],
        [[], [bytes(16)] * (MAX_OUTSTANDING + 1)],
        [[[bytes(16), 0, 0]] * (MAX_BLOCKS + 1), []],
    ],
)
def test_a_listing_beyond_its_bounds_is_refused(listing: object) -> None:
    with pytest.raises(msgspec.ValidationError):
        msgspec.msgpack.decode(msgspec.msgpack.encode(listing), type=StoreListing)


entries = st.builds(
    ListedBlock, st.integers(0, 4).map(key_id), st.integers(0, 8) | st.just(MAX_UNITS), st.integers(0, 8)
)


@given(st.lists(st.lists(entries, max_size=6), max_size=4), st.data())
def test_a_peer_that_lies_makes_keys_go_away_and_nothing_else(
    lies: list[list[ListedBlock]], data: st.DataObject
) -> None:
    alice, bob = pair()
    for number in (1, 2, 3):
        fill(alice, bob, number=number, bits=1536, confirm=number != 3)
    reserved, secret = alice.reserve(256, 1.0)
    seen = set(reserved)
    for blocks in lies:
        known = [*alice._index, *reserved, bytes(16)]
        listing = StoreListing(tuple(blocks), tuple(data.draw(st.lists(st.sampled_from(known), max_size=4))))
        before = books(alice)
        alice.meet(listing, 2.0)
        after, once = books(alice), alice.listing()
        alice.meet(listing, 2.0)
        assert alice.listing() == once and books(alice) == after, "twice is once"
        stock = [account.own_bits + account.peer_bits + account.waiting_bits for account in (before, after)]
        assert stock[1] <= stock[0] and after.used_bits == before.used_bits
    while alice.available_bits():
        key_ids, secret = alice.reserve(256, 2.0)
        assert not seen & set(key_ids)
        seen.update(key_ids)
        try:
            assert bob.fetch(key_ids, 256, 2.0) == secret
        except HostError as error:
            assert error.code == "source.lost"
