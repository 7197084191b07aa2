"""Records, channels and heartbeats of one session: two ends in memory."""

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from hypothesis import given, settings
from hypothesis import strategies as st

from qhybridd.crypto.aead import Sealer
from qhybridd.errors import HostError, PeerError, ProgramError, QhybriddError
from qhybridd.protocol.session import (
    HEARTBEAT_S,
    MAX_CODE_BYTES,
    MAX_MESSAGE_BYTES,
    MAX_QUEUE_BYTES,
    MAX_RECORD_BYTES,
    OVERHEAD_BYTES,
    SILENCE_S,
    Channel,
    Control,
    ControlFrame,
    Frame,
    Session,
    decode_control,
    encode_control,
)
from qhybridd.secret import Secret

HEARTBEAT = Frame(Channel.CONTROL, encode_control(ControlFrame(Control.HEARTBEAT)))
FULL = MAX_RECORD_BYTES - OVERHEAD_BYTES


def pair(max_records: int = 1 << 20) -> tuple[Session, Session]:
    def key(byte: bytes) -> Secret:
        return Secret.adopt(byte * 32)

    return (
        Session(key(b"1"), key(b"2"), 0.0, max_records),
        Session(key(b"2"), key(b"1"), 0.0, max_records),
    )


def received(session: Session, data: bytes, now: float = 0.0) -> list[Frame]:
    return list(session.receive(memoryview(data), now))


def refused(code: str, session: Session, data: bytes) -> None:
    with pytest.raises(PeerError) as caught:
        received(session, data)
    assert caught.value.code == code


def records_of(data: bytes) -> list[bytes]:
    records = []
    while data:
        size = 2 + int.from_bytes(data[:2], "big")
        records.append(data[:size])
        data = data[size:]
    return records


def forged(text: bytes) -> bytes:
    """The first record of the first end, sealed with its own key, whatever it says."""
    header = (len(text) + 16).to_bytes(2, "big")
    return header + Sealer(Secret.adopt(b"1" * 32)).seal(text, header)


# ---- records


def test_the_bytes_of_a_record() -> None:
    one, _ = pair()
    one.send(Channel.ROTATION, b"message", 0.0)
    header = (2 + 7 + 16).to_bytes(2, "big")
    assert one.data_to_send(MAX_RECORD_BYTES) == header + AESGCM(b"1" * 32).encrypt(
        bytes(12), b"\x01\x01message", header
    )


@settings(deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from(Channel), st.integers(1, 3 * FULL)), max_size=6),
    st.integers(MAX_RECORD_BYTES, 4 * MAX_RECORD_BYTES),
    st.integers(1, 3 * MAX_RECORD_BYTES),
)
def test_what_is_sent_arrives_in_order_on_each_channel(
    sizes: list[tuple[Channel, int]], limit: int, piece: int
) -> None:
    one, other = pair()
    sent: dict[Channel, list[bytes]] = {channel: [] for channel in Channel}
    for number, (channel, size) in enumerate(sizes):
        payload = bytes([number]) * (min(size, 4096) if channel is Channel.CONTROL else size)
        if one.backlog_bytes(channel) + len(payload) <= MAX_QUEUE_BYTES[channel]:
            one.send(channel, payload, 0.0)
            sent[channel].append(payload)
    wire = bytearray()
    while data := one.data_to_send(limit):
        assert len(data) <= limit
        wire += data
    got: dict[Channel, list[bytes]] = {channel: [] for channel in Channel}
    for at in range(0, len(wire), piece):
        for frame in received(other, bytes(wire[at : at + piece])):
            got[frame.channel].append(frame.payload)
    assert got == sent
    assert not other.partial
    assert not one.data_to_send(limit)


def test_a_rotation_frame_does_not_wait_behind_bulk() -> None:
    one, other = pair()
    bulk = bytes(MAX_MESSAGE_BYTES[Channel.DISTILLATION])
    one.send(Channel.DISTILLATION, bulk, 0.0)
    received(other, one.data_to_send(5 * MAX_RECORD_BYTES))
    one.send(Channel.ROTATION, b"prepare", 0.0)
    assert received(other, one.data_to_send(MAX_RECORD_BYTES)) == [Frame(Channel.ROTATION, b"prepare")]
    one.send(Channel.ROTATION, bytes(2 * FULL), 0.0)
    assert received(other, one.data_to_send(MAX_RECORD_BYTES)) == []
    one.send(Channel.CONTROL, HEARTBEAT.payload, 0.0)
    assert received(other, one.data_to_send(MAX_RECORD_BYTES)) == [HEARTBEAT]
    assert one.backlog_bytes(Channel.CONTROL) == 0
    assert one.backlog_bytes(Channel.ROTATION) == FULL
    assert one.backlog_bytes(Channel.DISTILLATION) == len(bulk) - 5 * FULL


def test_what_does_not_fit_waits() -> None:
    one, _ = pair()
    one.send(Channel.ROTATION, bytes(100), 0.0)
    assert one.data_to_send(100) == b""
    assert len(one.data_to_send(100 + OVERHEAD_BYTES)) == 100 + OVERHEAD_BYTES


def test_the_largest_messages_pass() -> None:
    for channel in Channel:
        one, other = pair()
        payload = bytes(MAX_MESSAGE_BYTES[channel])
        one.send(channel, payload, 0.0)
        assert received(other, one.data_to_send(1 << 30)) == [Frame(channel, payload)]


def test_duplicated_reordered_dropped_and_reflected_records() -> None:
    def three() -> tuple[Session, Session, list[bytes]]:
        one, other = pair()
        for number in range(3):
            one.send(Channel.ROTATION, bytes([number]), 0.0)
        return one, other, records_of(one.data_to_send(MAX_RECORD_BYTES))

    for order in ((0, 0), (1,), (0, 2), (0, 1, 1), (0, 1, 0)):
        _, other, records = three()
        for number in order[:-1]:
            received(other, records[number])
        refused("peer.mac", other, records[order[-1]])
    one, _, records = three()
    refused("peer.mac", one, records[0])


def test_an_altered_byte_of_each_kind() -> None:
    """Length, ciphertext, tag; byte 1 makes the record one shorter or longer."""
    for at, code in ((0, "peer.oversized"), (1, "peer.mac"), (2, "peer.mac"), (5, "peer.mac"), (-1, "peer.mac")):
        one, other = pair()
        one.send(Channel.ROTATION, b"message" * 10, 0.0)
        data = bytearray(one.data_to_send(MAX_RECORD_BYTES))
        data[at] ^= 0x80 if at == 0 else 1
        refused(code, other, bytes(data) + b"\0")


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (b"\x40\x00", "peer.oversized"),
        (b"\x00\x00", "peer.malformed"),
        (b"\x00\x12", "peer.malformed"),  # a record without a byte of message
        (forged(b"\x03\x01x"), "peer.malformed"),
        (forged(b"\x00\x02x"), "peer.malformed"),
    ],
)
def test_records_of_a_wrong_shape(data: bytes, code: str) -> None:
    refused(code, pair()[1], data)


@pytest.mark.parametrize("channel", Channel)
def test_a_message_that_never_ends_is_cut(channel: Channel) -> None:
    sealer, (_, other) = Sealer(Secret.adopt(b"1" * 32)), pair()
    header = (FULL + 18).to_bytes(2, "big")
    for _ in range(MAX_MESSAGE_BYTES[channel] // FULL):
        assert received(other, header + sealer.seal(bytes([channel, 0]) + bytes(FULL), header)) == []
        assert other.partial
    refused("peer.oversized", other, header + sealer.seal(bytes([channel, 0]) + bytes(FULL), header))


@settings(deadline=None)
@given(st.binary(max_size=400))
def test_no_bytes_from_the_wire_do_harm(data: bytes) -> None:
    _, other = pair()
    try:
        assert received(other, data) == []
    except QhybriddError as error:
        assert error.code in {"peer.mac", "peer.malformed", "peer.oversized"}


# ---- control frames


def test_control_frames() -> None:
    for kind in Control:
        code = "peer.slow" if kind is Control.CLOSE else ""
        assert decode_control(encode_control(ControlFrame(kind, code))) == ControlFrame(kind, code)
    for code in (b"", b"no.such", b"\xff", b"x" * (MAX_CODE_BYTES + 1)):
        assert decode_control(b"\x03" + code) == ControlFrame(Control.CLOSE, "unknown")
    for data in (b"\x00", b"\x05", b"\x01x", b"\x02\0"):
        with pytest.raises(PeerError) as caught:
            decode_control(data)
        assert caught.value.code == "peer.malformed"


@given(st.binary(min_size=1, max_size=100))
def test_control_frames_of_any_bytes(data: bytes) -> None:
    try:
        frame = decode_control(data)
    except PeerError as error:
        assert error.code == "peer.malformed"
    else:
        assert frame.kind == data[0]


# ---- bounds and time


def test_our_own_misuse_and_a_peer_that_does_not_read() -> None:
    one, _ = pair()
    for payload in (b"", bytes(MAX_MESSAGE_BYTES[Channel.CONTROL] + 1)):
        with pytest.raises(ProgramError):
            one.send(Channel.CONTROL, payload, 0.0)
    one.send(Channel.CONTROL, bytes(4096), 0.0)
    one.send(Channel.CONTROL, bytes(4096), 0.0)
    with pytest.raises(PeerError) as caught:
        one.send(Channel.CONTROL, b"x", 0.0)
    assert caught.value.code == "peer.slow"
    assert one.backlog_bytes(Channel.CONTROL) == MAX_QUEUE_BYTES[Channel.CONTROL]


def test_heartbeats() -> None:
    one, other = pair()
    assert one.next_deadline() == HEARTBEAT_S
    one.tick(HEARTBEAT_S - 0.1)
    assert not one.data_to_send(MAX_RECORD_BYTES)
    one.tick(HEARTBEAT_S)
    assert received(other, one.data_to_send(MAX_RECORD_BYTES), HEARTBEAT_S) == [HEARTBEAT]
    one.tick(HEARTBEAT_S + 1)
    one.send(Channel.ROTATION, b"message", 8.0)
    assert one.next_deadline() == 8.0 + HEARTBEAT_S
    one.tick(8.0 + HEARTBEAT_S)
    one.tick(8.0 + 2 * HEARTBEAT_S)  # the first still waits: no second one
    assert [frame.channel for frame in received(other, one.data_to_send(1 << 20), 18.0)] == [
        Channel.CONTROL,
        Channel.ROTATION,
    ]
    assert other.next_deadline() == HEARTBEAT_S


def test_silence() -> None:
    one, other = pair()
    one.check(SILENCE_S - 0.1)
    with pytest.raises(PeerError) as caught:
        one.check(SILENCE_S)
    assert caught.value.code == "peer.silent"
    one.tick(14.0)
    assert one.next_deadline() == SILENCE_S
    other.send(Channel.ROTATION, b"message", 14.0)
    received(one, other.data_to_send(MAX_RECORD_BYTES), 14.0)
    one.check(28.9)
    other.send(Channel.ROTATION, b"message", 20.0)
    received(one, other.data_to_send(MAX_RECORD_BYTES)[:5], 20.0)  # part of a record proves nothing
    with pytest.raises(PeerError):
        one.check(29.0)


def test_a_worn_out_key_still_says_farewell() -> None:
    one, other = pair(max_records=3)
    for number in range(3):
        one.send(Channel.ROTATION, bytes([number]), 1.0)
    assert len(received(other, one.data_to_send(1 << 20))) == 2
    assert one.next_deadline() == 1.0
    with pytest.raises(HostError) as caught:
        one.check(1.0)
    assert caught.value.code == "host.exhausted"
    farewell = ControlFrame(Control.CLOSE, "host.exhausted")
    assert received(other, one.end(farewell)) == [Frame(Channel.CONTROL, encode_control(farewell))]
    assert one._sealer._cipher is one._opener._cipher is None
