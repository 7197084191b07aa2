"""Counters as nonces: nothing is used twice, nothing opens out of order."""

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from hypothesis import given
from hypothesis import strategies as st

from qhybridd.crypto.aead import Opener, Sealer
from qhybridd.errors import PeerError, ProgramError
from qhybridd.secret import Secret


def key() -> Secret:
    return Secret.adopt(b"k" * 32)


def test_is_aes_gcm_under_the_record_number() -> None:
    sealer = Sealer(key())
    for number in range(3):
        expected = AESGCM(b"k" * 32).encrypt(number.to_bytes(12, "big"), b"text", b"header")
        assert sealer.seal(b"text", b"header") == expected


def test_the_key_moves_into_the_cipher() -> None:
    secret = key()
    sealer = Sealer(secret)
    assert secret.is_zero
    sealer.wipe()
    with pytest.raises(ProgramError):
        sealer.seal(b"text", b"")
    for bad in (secret, Secret.adopt(b"k" * 16)):
        with pytest.raises(ProgramError):
            Sealer(bad)


@given(st.permutations(range(4)))
def test_only_the_sent_order_opens(order: list[int]) -> None:
    sealer, opener = Sealer(key()), Opener(key())
    records = [sealer.seal(bytes([number]), b"h") for number in range(4)]
    for expected, number in enumerate(order):
        if number != expected:
            with pytest.raises(PeerError) as caught:
                opener.open(records[number], b"h")
            assert caught.value.code == "peer.mac"
            with pytest.raises(ProgramError):  # and nothing after that
                opener.open(records[expected], b"h")
            return
        assert opener.open(records[number], b"h") == bytes([number])


@pytest.mark.parametrize(("ciphertext", "header"), [(b"", b""), (b"short", b""), (bytes(40), b"h")])
def test_forgeries(ciphertext: bytes, header: bytes) -> None:
    with pytest.raises(PeerError) as caught:
        Opener(key()).open(ciphertext, header)
    assert caught.value.code == "peer.mac"


def test_a_key_ends() -> None:
    sealer, opener = Sealer(key(), limit=2), Opener(key(), limit=1)
    first, second = sealer.seal(b"1", b""), sealer.seal(b"2", b"")
    assert sealer.remaining == 0
    with pytest.raises(ProgramError):
        sealer.seal(b"3", b"")
    opener.open(first, b"")
    with pytest.raises(PeerError) as caught:
        opener.open(second, b"")
    assert caught.value.code == "peer.oversized"
