"""Hybrid signatures: both must verify, each bound to its purpose."""

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.mldsa import MLDSA65PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from qhybridd.crypto.identity import (
    ED25519_SIGNATURE_BYTES,
    PUBLIC_BYTES,
    SIGNATURE_BYTES,
    Identity,
    PublicIdentity,
)
from qhybridd.crypto.kdf import Label, lp, sha384
from qhybridd.errors import PeerError, ProgramError
from qhybridd.secret import Secret

LABEL = Label.INITIATOR_SIGNATURE


@pytest.fixture(scope="module")
def identity() -> Identity:
    return Identity.from_seeds(Secret.adopt(b"\x01" * 32), Secret.adopt(b"\x02" * 32))


def refused(public: PublicIdentity, label: Label, message: bytes, signature: bytes) -> None:
    with pytest.raises(PeerError) as caught:
        public.verify(label, message, signature)
    assert caught.value.code == "peer.signature"


def test_both_signatures_are_plain_ed25519_and_mldsa(identity: Identity) -> None:
    signature = identity.sign(LABEL, b"message")
    assert len(signature) == SIGNATURE_BYTES == 64 + 3309
    identity.public.verify(LABEL, b"message", signature)
    ed25519 = Ed25519PrivateKey.from_private_bytes(b"\x01" * 32)
    assert signature[:64] == ed25519.sign(LABEL.encoded + lp(b"message"))
    mldsa = MLDSA65PrivateKey.from_seed_bytes(b"\x02" * 32)
    mldsa.public_key().verify(signature[64:], b"message", LABEL.encoded)
    assert identity.public.encode() == ed25519.public_key().public_bytes_raw() + mldsa.public_key().public_bytes_raw()


def test_either_signature_alone_is_not_enough(identity: Identity) -> None:
    good, other = identity.sign(LABEL, b"message"), Identity.generate().sign(LABEL, b"message")
    at = ED25519_SIGNATURE_BYTES
    refused(identity.public, LABEL, b"message", good[:at] + other[at:])
    refused(identity.public, LABEL, b"message", other[:at] + good[at:])
    refused(identity.public, LABEL, b"message", other)


def test_label_message_length_and_signer_are_bound(identity: Identity) -> None:
    signature = identity.sign(LABEL, b"message")
    refused(identity.public, Label.RESPONDER_SIGNATURE, b"message", signature)
    refused(identity.public, LABEL, b"massage", signature)
    refused(identity.public, LABEL, b"message", signature[:-1])
    refused(identity.public, LABEL, b"message", signature + b"\0")
    refused(Identity.generate().public, LABEL, b"message", signature)
    both_wrong_keys = PublicIdentity(b"\xff" * 32, b"\0" * 1952)
    refused(both_wrong_keys, LABEL, b"message", signature)


def test_every_label_fits_a_context_string() -> None:
    """FIPS 204 section 5.2: at most 255 bytes."""
    assert max(len(label.encoded) for label in Label) <= 255


def test_fingerprint_and_short_form(identity: Identity) -> None:
    public = identity.public
    assert public.fingerprint == sha384(Label.FINGERPRINT.encoded, lp(public.ed25519, public.mldsa65))
    assert public.short.replace("-", "").isalnum()
    assert [len(group) for group in public.short.split("-")] == [4] * 4
    assert public.short in repr(public)
    assert public == PublicIdentity(public.ed25519, public.mldsa65)
    assert public.fingerprint != Identity.generate().public.fingerprint


def test_seeds_make_the_same_identity_again(identity: Identity) -> None:
    fresh = Identity.generate()
    assert Identity.from_seeds(*fresh.seeds).public == fresh.public
    assert "01" * 4 not in repr(identity)


def test_wiped_or_short_seeds_are_refused() -> None:
    fresh = Identity.generate()
    fresh.wipe()
    with pytest.raises(ProgramError):
        fresh.sign(LABEL, b"message")
    with pytest.raises(ProgramError):
        Identity.from_seeds(Secret.adopt(b"\x01" * 31), Secret.adopt(b"\x02" * 32))
    with pytest.raises(ProgramError):
        PublicIdentity(b"\0" * 32, b"\0" * 1951)


@given(st.binary(max_size=2 * PUBLIC_BYTES) | st.binary(min_size=PUBLIC_BYTES, max_size=PUBLIC_BYTES))
def test_decode_takes_exactly_what_encode_gives(data: bytes) -> None:
    if len(data) == PUBLIC_BYTES:
        assert PublicIdentity.decode(data).encode() == data
    else:
        with pytest.raises(PeerError) as caught:
            PublicIdentity.decode(data)
        assert caught.value.code == "peer.malformed"
