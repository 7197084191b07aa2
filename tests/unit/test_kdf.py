"""The KDF's steps against another implementation, and its refusals."""

import hashlib
import hmac

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand
from hypothesis import given
from hypothesis import strategies as st

from qhybridd.crypto import kdf
from qhybridd.crypto.kdf import Label
from qhybridd.errors import ProgramError
from qhybridd.secret import Secret


def text(secret: Secret) -> bytes:
    with secret.expose() as view:
        return bytes(view)


@given(st.binary(min_size=48, max_size=48), st.lists(st.binary(max_size=100), min_size=1, max_size=4))
def test_extract_is_hmac_sha384_over_the_parts(key: bytes, parts: list[bytes]) -> None:
    if not sum(map(len, parts)):
        return
    expected = hmac.new(key, b"".join(parts), hashlib.sha384).digest()
    assert text(kdf.extract(Secret.adopt(key), *parts)) == expected


@given(st.binary(min_size=48, max_size=48), st.sampled_from(list(Label)), st.binary(max_size=80), st.integers(1, 48))
def test_expand_is_hkdf_expand_of_rfc_5869(key: bytes, label: Label, context: bytes, size: int) -> None:
    info = label.encoded + len(context).to_bytes(4, "big") + context
    expected = HKDFExpand(hashes.SHA384(), size, info).derive(key)
    assert text(kdf.expand(Secret.adopt(key), label, context, size)) == expected


def test_what_does_not_fit_is_refused() -> None:
    key = Secret.adopt(b"k" * 48)
    for size in (0, 49):
        with pytest.raises(ProgramError):
            kdf.expand(key, Label.ROTATION, b"", size)
    with pytest.raises(ProgramError):
        kdf.extract(Secret.adopt(b"k" * 32), b"x")
    with pytest.raises(ProgramError, match="wiped"):
        kdf.export_chain_key(Secret(48), "wan")


def test_tunnels_of_one_session_have_chain_keys_of_their_own() -> None:
    exporter = Secret.adopt(b"e" * 48)
    assert kdf.export_chain_key(exporter, "wan") != kdf.export_chain_key(exporter, "wan2")


def test_tags_tell_keys_apart_and_kinds_too() -> None:
    key = Secret.adopt(b"k" * 48)
    assert kdf.key_tag(key) != kdf.chain_tag(key)
    assert kdf.key_tag(key) != kdf.key_tag(Secret.adopt(b"l" * 48))
    assert len(kdf.key_tag(key)) == len(kdf.chain_tag(key)) == kdf.TAG_BYTES
