"""ML-KEM from `cryptography` through the registry."""

import pytest
from cryptography.hazmat.backends.openssl.backend import backend
from hypothesis import given
from hypothesis import strategies as st

from qhybridd.crypto import kem
from qhybridd.crypto.kem import ML_KEM_768, ML_KEM_1024, Kem
from qhybridd.errors import HostError, OperatorError, PeerError, ProgramError

BUILT_IN = (kem.by_code(ML_KEM_768), kem.by_code(ML_KEM_1024))
every = pytest.mark.parametrize("scheme", BUILT_IN, ids=lambda scheme: scheme.name)


def flip(data: bytes, bit: int) -> bytes:
    changed = bytearray(data)
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)


def test_codes_and_names_lead_to_the_same_kem() -> None:
    for code, name in ((0x0201, "ML-KEM-768"), (0x0202, "ML-KEM-1024")):
        scheme = kem.by_code(code)
        assert (scheme.code, scheme.name, scheme.provider, scheme.slow) == (code, name, "cryptography", False)
        assert kem.by_name(name) is scheme
        assert kem.by_name(name.lower()) is scheme
        assert scheme in kem.available()


def test_codes_are_unique_and_sorted() -> None:
    codes = [scheme.code for scheme in kem.available()]
    assert codes == sorted(set(codes))


@pytest.mark.parametrize("code", [0, 1, 0x0200, 0x0203, 0xFFFF])
def test_an_unknown_code_is_the_peers_fault(code: int) -> None:
    with pytest.raises(PeerError) as caught:
        kem.by_code(code)
    assert caught.value.code == "peer.suite"


@pytest.mark.parametrize("name", ["", "ML-KEM-512", "Kyber768", "ml_kem_768"])
def test_an_unknown_name_is_the_operators_fault(name: str) -> None:
    with pytest.raises(OperatorError) as caught:
        kem.by_name(name)
    assert caught.value.code == "config.value"
    assert "ML-KEM-768" in caught.value.hint


@every
def test_both_ends_get_the_same_secret(scheme: Kem) -> None:
    private, ek = scheme.generate()
    secret, ct = scheme.encapsulate(ek)
    assert (len(ek), len(ct), len(secret)) == (scheme.ek_bytes, scheme.ct_bytes, scheme.secret_bytes)
    assert scheme.decapsulate(private, ct) == secret
    assert not secret.is_zero


@every
def test_every_key_and_secret_is_fresh(scheme: Kem) -> None:
    _, ek = scheme.generate()
    _, other_ek = scheme.generate()
    assert ek != other_ek
    (first, first_ct), (second, second_ct) = scheme.encapsulate(ek), scheme.encapsulate(ek)
    assert first != second
    assert first_ct != second_ct


@every
@given(data=st.data())
def test_a_tampered_ciphertext_gives_another_secret_and_no_error(scheme: Kem, data: st.DataObject) -> None:
    """FIPS 203 section 6.3: implicit rejection."""
    private, ek = scheme.generate()
    secret, ct = scheme.encapsulate(ek)
    tampered = flip(ct, data.draw(st.integers(0, 8 * scheme.ct_bytes - 1)))
    rejected = scheme.decapsulate(private, tampered)
    assert rejected != secret
    assert len(rejected) == scheme.secret_bytes
    assert rejected == scheme.decapsulate(private, tampered)


@every
@given(size=st.integers(0, 4000))
def test_wrong_lengths_blame_the_peer(scheme: Kem, size: int) -> None:
    private, _ = scheme.generate()
    if size != scheme.ek_bytes:
        with pytest.raises(PeerError) as caught:
            scheme.encapsulate(bytes(size))
        assert caught.value.code == "peer.malformed"
    if size != scheme.ct_bytes:
        with pytest.raises(PeerError) as caught:
            scheme.decapsulate(private, bytes(size))
        assert caught.value.code == "peer.malformed"


@every
@pytest.mark.parametrize("coefficient", [0, 1, 255])
@pytest.mark.parametrize("value", [3329, 4095])
def test_a_coefficient_over_the_modulus_is_refused(scheme: Kem, coefficient: int, value: int) -> None:
    """FIPS 203 section 7.2: the modulus check. q = 3329; two coefficients share three bytes (algorithm 5)."""
    _, ek = scheme.generate()
    at, shift = 3 * (coefficient // 2), 12 * (coefficient % 2)
    pair = int.from_bytes(ek[at : at + 3], "little") & ~(0xFFF << shift)
    for number, accepted in ((3328, True), (value, False)):
        key = ek[:at] + (pair | number << shift).to_bytes(3, "little") + ek[at + 3 :]
        if accepted:
            scheme.encapsulate(key)
        else:
            with pytest.raises(PeerError) as caught:
                scheme.encapsulate(key)
            assert caught.value.code == "peer.malformed"


@given(st.binary(min_size=1184, max_size=1184))
def test_any_key_gives_a_secret_or_blames_the_peer(ek: bytes) -> None:
    try:
        secret, _ = kem.by_code(ML_KEM_768).encapsulate(ek)
    except PeerError as error:
        assert error.code == "peer.malformed"
    else:
        assert not secret.is_zero


def test_a_private_key_of_another_kem_is_a_defect() -> None:
    small, large = BUILT_IN
    private, _ = small.generate()
    with pytest.raises(ProgramError):
        large.decapsulate(private, bytes(large.ct_bytes))
    with pytest.raises(ProgramError):
        large.decapsulate(None, bytes(large.ct_bytes))


def test_a_cryptography_without_ml_kem_is_the_hosts_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    scheme = kem.by_code(ML_KEM_768)
    _, ek = scheme.generate()
    monkeypatch.setattr(backend, "mlkem_supported", lambda: False)
    with pytest.raises(HostError) as caught:
        scheme.generate()
    assert caught.value.code == "host.crypto"
    with pytest.raises(HostError) as caught:
        scheme.encapsulate(ek)
    assert caught.value.code == "host.crypto"
