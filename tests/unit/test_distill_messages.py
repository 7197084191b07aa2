"""The messages of a block: what is allowed, and that any other bytes are refused without making room for them."""

import tracemalloc
from typing import Any

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from qhybridd.distill import messages as msg
from qhybridd.distill.terms import Bound, Protocol, Terms
from qhybridd.errors import CODES, PeerError

TERMS = Terms(
    protocol=Protocol((0.5, 0.15), (0.7, 0.3), 0.9, Bound.WIESEMANN_ONE, 1e-10, 1e-15, 0.11),
    pulses=10**9,
    key_clicks_least=100_000,
    test_clicks_least=1000,
    vacuum_least=0.0,
    single_least=50_000.0,
    phase_error_most=0.05,
    leakage_most=30_000,
    key_bits=10_000,
)
MESSAGES: list[msg.Message] = [
    msg.Open(7, msg.wire_terms(TERMS)),
    msg.Detected(70, b"gaps", bytes(16)),
    msg.Sifted(bytes(16), bytes(8), bytes(8), bytes(8)),
    msg.Measured((3, 1), msg.WireFraming(2, 900, 3, 30_000)),
    msg.Measured((3, 1), None),
    msg.Syndromes(bytes(24)),
    msg.Failed((0, 2)),
    msg.More(bytes(8)),
    msg.Decoded(),
    msg.Hashes(bytes(16), bytes(16)),
    msg.Differ(),
    msg.FrameHashes(bytes(16), bytes(24)),
    msg.Whole(bytes(8)),
    msg.Checked((3, 1)),
    msg.Amplify(bytes(16), 0.0, 50_000.5, 0.01, 29_000, (4352, 4352)),
    msg.Accept(),
    msg.Abort("link.attack"),
]


def test_every_message_comes_back_as_it_was() -> None:
    assert {type(message) for message in MESSAGES} == set(msg.Message.__args__)
    for message in MESSAGES:
        assert msg.decode(msg.encode(message)) == message


def test_wire_terms_hold_every_term() -> None:
    wire = msg.wire_terms(TERMS)
    names = {*Terms.__slots__, *Protocol.__slots__} - {"protocol"}
    assert set(wire.__struct_fields__) == names
    for name in names:
        assert getattr(wire, name) == getattr(TERMS if name in Terms.__slots__ else TERMS.protocol, name)


def replaced(message: msg.Message, **changes: Any) -> msg.Message:
    return msgspec.structs.replace(message, **changes)


@pytest.mark.parametrize(
    "message",
    [
        msg.Open(-1, msg.wire_terms(TERMS)),
        msg.Open(1 << 63, msg.wire_terms(TERMS)),
        *(
            msg.Open(1, msgspec.structs.replace(msg.wire_terms(TERMS), **{name: value}))
            for name, value in [
                ("intensities", (0.5,)),
                ("intensities", (0.5, 0.1, 0.0, 0.0)),
                ("intensities", (0.5, float("inf"))),
                ("intensity_probabilities", (0.5, 1.5)),
                ("key_basis_probability", float("nan")),
                ("epsilon_sec", -1.0),
                ("pulses", 0),
                ("pulses", 1 << 53),
                ("key_clicks_least", msg.MAX_CLICKS + 1),
                ("vacuum_least", -1.0),
                ("leakage_most", -1),
                ("key_bits", 0),
                ("key_bits", msg.MAX_CLICKS + 1),
            ]
        ),
        msg.Detected(msg.MAX_CLICKS + 1, b"", b""),
        msg.Detected(1, b"", bytes(msg.MAX_PLANE_BYTES + 1)),
        msg.Sifted(b"", b"", b"", bytes(msg.MAX_PLANE_BYTES + 1)),
        msg.Measured((), None),
        msg.Measured((0, 0, 0, 0), None),
        msg.Measured((-1, 0), None),
        msg.Measured((1, 0), msg.WireFraming(1, 1, 0, 1)),
        msg.Measured((1, 0), msg.WireFraming(1, 1, msg.MAX_FRAMES + 1, 1)),
        msg.Measured((1, 0), msg.WireFraming(1 << 16, 1, 1, 1)),
        msg.Failed(()),
        msg.Failed((-1,)),
        msg.Failed((msg.MAX_FRAMES,)),
        msg.Failed((*range(msg.MAX_FRAMES), 0)),
        msg.Hashes(b"", bytes(16)),
        msg.Hashes(bytes(msg.MAX_SEED_BYTES + 1), bytes(16)),
        msg.Hashes(bytes(16), bytes(15)),
        msg.Hashes(bytes(16), bytes(17)),
        msg.FrameHashes(bytes(16), b""),
        msg.FrameHashes(bytes(16), bytes(8 * msg.MAX_FRAMES + 1)),
        msg.Checked((1, msg.MAX_CLICKS + 1)),
        msg.Amplify(bytes(8), -1.0, 0.0, 0.0, 0, (0, 0)),
        msg.Amplify(bytes(8), 0.0, float("nan"), 0.0, 0, (0, 0)),
        msg.Amplify(bytes(8), 0.0, 0.0, 1.5, 0, (0, 0)),
        msg.Amplify(bytes(8), 0.0, 0.0, 0.5, -1, (0, 0)),
        msg.Amplify(bytes(8), 0.0, 0.0, 0.5, 0, (0,)),
        msg.Amplify(bytes(8), 0.0, 0.0, 0.5, 0, (0, 0, 0)),
        msg.Abort("x" * 20 + "." + "y" * 12),
        msg.Abort("link.attack\n"),
        msg.Abort("an attack"),
    ],
    ids=str,
)
def test_what_is_out_of_bounds_is_refused(message: msg.Message) -> None:
    with pytest.raises(PeerError) as caught:
        msg.decode(msg.encode(message))
    assert caught.value.code == "link.malformed"


@given(st.binary(max_size=400))
@example(b"")
@example(b"\x91" * 2000)
def test_any_bytes_are_a_message_or_malformed(data: bytes) -> None:
    try:
        msg.decode(data)
    except PeerError as error:
        assert error.code == "link.malformed" and error.code in CODES


@given(st.data())
def test_a_damaged_message_is_a_message_or_malformed(data: st.DataObject) -> None:
    encoded = bytearray(msg.encode(data.draw(st.sampled_from(MESSAGES))))
    for _ in range(data.draw(st.integers(1, 4))):
        encoded[data.draw(st.integers(0, len(encoded) - 1))] = data.draw(st.integers(0, 255))
    cut = bytes(encoded[: data.draw(st.integers(0, len(encoded)))])
    for candidate in (bytes(encoded), cut):
        try:
            again = msg.decode(candidate)
        except PeerError as error:
            assert error.code == "link.malformed"
        else:
            assert msg.decode(msg.encode(again)) == again


@pytest.mark.parametrize(
    "data",
    [
        b"\x92\x06\xdd\xff\xff\xff\xff\x00",  # Failed, of 2^32 − 1 frames
        b"\x92\x06\xdd\x00\x00\x10\x00\x00",  # of as many as are allowed, and one is there
        b"\x92\x05\xc6\xff\xff\xff\xff\x00",  # Syndromes of 4 GiB
        b"\xdd\xff\xff\xff\xff\x08",  # Decoded with a tail of 2^32 − 2 items
        b"\x93\x04\xdd\xff\xff\xff\xff\x00",  # Measured for as many intensities
    ],
)
def test_a_length_alone_makes_no_room(data: bytes) -> None:
    tracemalloc.start()
    try:
        with pytest.raises(PeerError):
            msg.decode(data)
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()
