"""One exchange between two ends, and what each refuses of the other."""

import copy
import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qhybridd.crypto import kem, liboqs, shares, x25519
from qhybridd.crypto.kem import ML_KEM_768, ML_KEM_1024
from qhybridd.errors import HostError, PeerError, ProgramError

LISTS = [(), (ML_KEM_768,), (ML_KEM_1024,), (ML_KEM_1024, ML_KEM_768)]
BOTH = (ML_KEM_768, ML_KEM_1024)


@pytest.mark.parametrize("codes", LISTS, ids=str)
def test_both_ends_hold_the_same_secrets(codes: tuple[int, ...]) -> None:
    mine = shares.make(codes)
    theirs = shares.answer(mine.x25519, mine.kems)
    opened = shares.open_answer(mine.private, theirs.x25519, theirs.kems)
    assert opened == theirs.secrets
    assert len(opened.kems) == len(codes)
    assert tuple(code for code, _ in mine.kems) == tuple(code for code, _ in theirs.kems) == codes == mine.private.codes
    assert [len(ek) for _, ek in mine.kems] == [kem.by_code(code).ek_bytes for code in codes]
    assert [len(ct) for _, ct in theirs.kems] == [kem.by_code(code).ct_bytes for code in codes]
    secrets = [opened.x25519, *opened.kems]
    assert all(not secret.is_zero for secret in secrets)
    assert all(a != b for i, a in enumerate(secrets) for b in secrets[:i])


def test_everything_is_fresh() -> None:
    mine, again = shares.make(BOTH), shares.make(BOTH)
    first, second = shares.answer(mine.x25519, mine.kems), shares.answer(mine.x25519, mine.kems)
    assert len({mine.nonce, again.nonce, first.nonce, second.nonce}) == 4
    assert len({mine.x25519, again.x25519, first.x25519, second.x25519}) == 4
    assert {len(share.nonce) for share in (mine, first)} == {32}
    assert mine.kems[0] != again.kems[0]
    assert first.secrets.x25519 != second.secrets.x25519
    assert first.secrets.kems[0] != second.secrets.kems[0]


def test_kems_are_not_mixed_up_with_their_order() -> None:
    mine = shares.make(BOTH)
    theirs = shares.answer(mine.x25519, mine.kems)
    (_, ek), _ = mine.kems
    opened = shares.open_answer(mine.private, theirs.x25519, theirs.kems)
    assert len(ek) == 1184
    assert opened.kems == theirs.secrets.kems
    assert opened.kems[0] != opened.kems[1]


def refused(why: str, private: shares.PrivateShares, public: bytes, kems: tuple[tuple[int, bytes], ...]) -> None:
    with pytest.raises(PeerError) as caught:
        shares.open_answer(private, public, kems)
    assert caught.value.code == "peer.malformed"
    assert why in caught.value.message


def test_an_answer_must_keep_count_order_and_codes() -> None:
    mine = shares.make(BOTH)
    theirs = shares.answer(mine.x25519, mine.kems)
    first, second = theirs.kems
    for kems in (
        (),
        (first,),
        (second,),
        (second, first),
        (first, first),
        (first, second, second),
        (first, (0x0203, second[1])),
        (first, (ML_KEM_768, second[1])),
    ):
        refused("the answer is for KEMs", mine.private, theirs.x25519, kems)
    refused("the answer is for KEMs", shares.make(()).private, theirs.x25519, (first,))
    refused("ML-KEM-1024 ciphertext", mine.private, theirs.x25519, (first, (second[0], second[1][:-1])))
    refused("low order", mine.private, bytes(32), theirs.kems)
    refused("32 bytes, not 31", mine.private, theirs.x25519[:-1], theirs.kems)
    assert shares.open_answer(mine.private, theirs.x25519, theirs.kems) == theirs.secrets


def test_a_proposal_is_checked_before_it_is_answered() -> None:
    mine = shares.make(BOTH)
    first, second = mine.kems
    for public, kems, code in (
        (mine.x25519, (first, first), "peer.malformed"),
        (mine.x25519, tuple((code, b"") for code in range(1, 6)), "peer.malformed"),
        (mine.x25519, ((0x0203, first[1]),), "peer.suite"),
        (mine.x25519, (first, (second[0], second[1] + b"\0")), "peer.malformed"),
        (mine.x25519, ((first[0], b"\xff" * 1184),), "peer.malformed"),
        (bytes(32), mine.kems, "peer.malformed"),
        (b"", mine.kems, "peer.malformed"),
    ):
        with pytest.raises(PeerError) as caught:
            shares.answer(public, kems)
        assert caught.value.code == code


@pytest.mark.parametrize("codes", [(0,), (0x0203,), (ML_KEM_768, ML_KEM_768), (1, 2, 3, 4, 5)])
def test_a_list_that_no_config_gives_is_a_defect(codes: tuple[int, ...]) -> None:
    with pytest.raises(ProgramError):
        shares.make(codes)


def test_a_missing_library_is_the_hosts_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(liboqs, "_offers", dict)
    with pytest.raises(HostError) as caught:
        shares.make((ML_KEM_768, 0x1001))
    assert caught.value.code == "host.liboqs"
    with pytest.raises(HostError):
        shares.answer(x25519.generate()[1], ((0x1001, bytes(2249)),))
    assert not shares.is_slow((ML_KEM_768, 0x1001))


def test_secrets_of_an_exchange_that_fails_are_wiped(monkeypatch: pytest.MonkeyPatch) -> None:
    mine = shares.make(BOTH)
    theirs = shares.answer(mine.x25519, mine.kems)
    made = []
    real = x25519.exchange

    def exchange(*arguments: object) -> object:
        made.append(real(*arguments))  # type: ignore[arg-type]
        return made[-1]

    monkeypatch.setattr(x25519, "exchange", exchange)
    with pytest.raises(PeerError):
        shares.answer(mine.x25519, (mine.kems[0], (ML_KEM_1024, b"short")))
    with pytest.raises(PeerError):
        shares.open_answer(mine.private, theirs.x25519, (theirs.kems[0], (ML_KEM_1024, b"short")))
    assert [secret.is_zero for secret in made] == [True, True]


def test_a_proposal_that_fails_half_way_is_wiped(monkeypatch: pytest.MonkeyPatch) -> None:
    real, wiped = kem.MlKem.generate, []

    def generate(self: kem.MlKem) -> tuple[object, bytes]:
        if self.code == ML_KEM_1024:
            raise HostError("host.crypto", "no more")
        return real(self)

    monkeypatch.setattr(kem.MlKem, "generate", generate)
    monkeypatch.setattr(kem.MlKem, "wipe", lambda self, private: wiped.append(self.code))
    with pytest.raises(HostError):
        shares.make(BOTH)
    assert wiped == [ML_KEM_768]


def test_wiped_shares_open_nothing() -> None:
    mine = shares.make(BOTH)
    theirs = shares.answer(mine.x25519, mine.kems)
    mine.private.wipe()
    mine.private.wipe()
    with pytest.raises(ProgramError):
        shares.open_answer(mine.private, theirs.x25519, theirs.kems)


def test_wiping_reaches_the_kems(monkeypatch: pytest.MonkeyPatch) -> None:
    mine = shares.make(BOTH)
    wiped = []
    monkeypatch.setattr(kem.MlKem, "wipe", lambda self, private: wiped.append((self.code, private)))
    mine.private.wipe()
    assert [code for code, _ in wiped] == list(BOTH)


def test_exchanged_secrets_wipe() -> None:
    mine = shares.make(BOTH)
    secrets = shares.answer(mine.x25519, mine.kems).secrets
    secrets.wipe()
    assert all(secret.is_zero for secret in (secrets.x25519, *secrets.kems))


def test_private_shares_show_and_give_nothing_away() -> None:
    mine = shares.make(BOTH)
    assert repr(mine.private) == "<PrivateShares 2 KEMs>"
    assert "Key" not in repr(mine)
    for duplicate in (copy.copy, copy.deepcopy, pickle.dumps):
        with pytest.raises(ProgramError):
            duplicate(mine.private)


def test_built_in_kems_need_no_thread() -> None:
    assert not shares.is_slow(BOTH)
    assert not shares.is_slow(())
    assert not shares.is_slow((0xFFFF,))


@pytest.mark.skipif(
    liboqs.find_library() is None, reason="liboqs is not installed: run `make liboqs` or deploy/build-liboqs"
)
def test_an_exchange_over_three_families() -> None:
    codes = (ML_KEM_768, 0x1181, 0x1201, 0x1301)
    assert shares.is_slow(codes)
    mine = shares.make(codes)
    theirs = shares.answer(mine.x25519, mine.kems)
    assert shares.open_answer(mine.private, theirs.x25519, theirs.kems) == theirs.secrets
    mine.private.wipe()


@given(
    public=st.binary(max_size=40),
    kems=st.lists(
        st.tuples(
            st.sampled_from([0, ML_KEM_768, ML_KEM_1024, 0xFFFF]),
            st.one_of(st.binary(max_size=64), st.just(bytes(1184))),
        ),
        max_size=6,
    ),
)
def test_any_proposal_is_answered_or_the_peers_fault(public: bytes, kems: list[tuple[int, bytes]]) -> None:
    try:
        answered = shares.answer(public, kems)
    except PeerError as error:
        assert error.code in {"peer.malformed", "peer.suite"}
    else:
        assert [code for code, _ in answered.kems] == [code for code, _ in kems]


@given(
    data=st.data(),
    cut=st.integers(0, 1088),
    flip=st.integers(0, 8 * (1088 + 1568) - 1),
)
def test_an_altered_answer_never_gives_the_same_secrets(data: st.DataObject, cut: int, flip: int) -> None:
    mine = shares.make(BOTH)
    theirs = shares.answer(mine.x25519, mine.kems)
    cts = bytearray(theirs.kems[0][1] + theirs.kems[1][1])
    cts[flip // 8] ^= 1 << flip % 8
    end = data.draw(st.sampled_from([1088, cut]))
    kems = ((ML_KEM_768, bytes(cts[:end])), (ML_KEM_1024, bytes(cts[1088:])))
    try:
        opened = shares.open_answer(mine.private, theirs.x25519, kems)
    except PeerError as error:
        assert error.code == "peer.malformed"
        assert end != 1088
    else:
        assert opened != theirs.secrets
