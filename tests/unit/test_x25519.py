"""X25519: RFC 7748's vectors, agreement, and what is refused."""

import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from qhybridd.crypto import x25519
from qhybridd.errors import PeerError
from qhybridd.secret import Secret

SCALAR_MULTIPLICATIONS = (
    # RFC 7748 section 5.2: scalar, u-coordinate, result
    (
        "a546e36bf0527c9d3b16154b82465edd62144c0ac1fc5a18506a2244ba449ac4",
        "e6db6867583030db3594c1a424b15f7c726624ec26b3353b10a903a6d0ab1c4c",
        "c3da55379de9c6908e94ea4df28d084f32eccf03491c71f754b4075577a28552",
    ),
    (
        "4b66e9d4d1b4673c5ad22691957d6af5c11b6421e0ea01d42ca4169e7918ba0d",
        "e5210f12786811d3f4b7959d0538ae2c31dbe7106fc03c3efc4cd549c715a493",
        "95cbde9476e8907d7aade45cb4b873f88b595a68799fa152e6f8f7647aac7957",
    ),
)

PRIME = 2**255 - 19
# The u-coordinates of small order and their non-canonical twins (RFC 7748 section 7 asks to reject the zero result).
ORDER_8 = (
    325606250916557431795983626356110631294008115727848805560023387167927233504,
    39382357235489614581723060781553021112529911719440698176882885853963445705823,
)
LOW_ORDER = (0, 1, PRIME - 1, *ORDER_8, PRIME, PRIME + 1)


@pytest.mark.parametrize(("scalar", "point", "result"), SCALAR_MULTIPLICATIONS)
def test_scalar_multiplication_as_published(scalar: str, point: str, result: str) -> None:
    private = X25519PrivateKey.from_private_bytes(bytes.fromhex(scalar))
    assert x25519.exchange(private, bytes.fromhex(point)) == Secret.adopt(bytes.fromhex(result))


def test_a_thousand_iterations_as_published() -> None:
    """RFC 7748 section 5.2, the iterated vector."""
    k = u = (9).to_bytes(32, "little")
    for _ in range(1000):
        with x25519.exchange(X25519PrivateKey.from_private_bytes(k), u).expose() as view:
            k, u = bytes(view), k
    assert k.hex() == "684cf59ba83309552800ef566f2f4d3c1c3887c49360e3875f2eb94d99532c51"


def test_two_ends_agree() -> None:
    mine, my_public = x25519.generate()
    theirs, their_public = x25519.generate()
    shared = x25519.exchange(mine, their_public)
    assert shared == x25519.exchange(theirs, my_public)
    assert len(shared) == 32
    assert not shared.is_zero
    assert my_public != their_public


@pytest.mark.parametrize("point", LOW_ORDER)
def test_points_of_low_order_are_refused(point: int) -> None:
    private, _ = x25519.generate()
    with pytest.raises(PeerError) as caught:
        x25519.exchange(private, point.to_bytes(32, "little"))
    assert caught.value.code == "peer.malformed"


@given(st.binary(max_size=100))
def test_any_bytes_give_a_secret_or_blame_the_peer(share: bytes) -> None:
    private, _ = x25519.generate()
    try:
        shared = x25519.exchange(private, share)
    except PeerError as error:
        assert error.code == "peer.malformed"
    else:
        assert len(share) == len(shared) == 32
        assert not shared.is_zero
