"""Whole connections in memory: two real ends through everything that a path or a peer can do to them."""

from collections.abc import Callable

import pytest

from qhybridd.crypto.ephemeral import OsEphemeral
from qhybridd.errors import HostError, ProgramError
from qhybridd.protocol.connection import (
    STEP_S,
    ChannelMessage,
    Closed,
    Connection,
    Established,
    Event,
)
from qhybridd.protocol.handshake import State
from qhybridd.protocol.handshake_messages import MAX_HELLO_BYTES, MAX_MESSAGE_BYTES
from qhybridd.protocol.session import (
    HEARTBEAT_S,
    MAX_RECORD_BYTES,
    SILENCE_S,
    Channel,
    Control,
    ControlFrame,
    encode_control,
)
from qhybridd.protocol.session import (
    MAX_MESSAGE_BYTES as MAX_PAYLOAD_BYTES,
)
from tests.unit.ends import ALICE, BOB, BOTH, EVE, Ends, code_of, holds_secrets, pin, up

# ---- in good order


def test_a_session_from_hello_to_goodbye() -> None:
    ends = Ends()
    assert ends.dialled.peer_name == ""
    ends.cross()
    one, other = ends.established(ends.dialling), ends.established(ends.dialled)
    assert one is not None
    assert other is not None
    assert one.session.hash == other.session.hash
    assert one.session.exporter == other.session.exporter
    assert one.session.proposes != other.session.proposes
    assert (one.peer_name, other.peer_name) == ("bob", "alice")
    assert (ends.dialling.peer_name, ends.dialled.peer_name) == ("bob", "alice")
    assert (one.dialled, other.dialled) == (True, False)
    assert one.suite is other.suite is BOTH[0]
    ends.dialling.send(Channel.ROTATION, b"prepare", 1.0)
    ends.dialled.send(Channel.DISTILLATION, bytes(100_000), 1.0)
    assert ends.dialled.backlog_bytes(Channel.DISTILLATION) == 100_000
    ends.cross(1.0)
    assert ends.events[ends.dialled][1:] == [ChannelMessage(Channel.ROTATION, b"prepare")]
    assert ends.events[ends.dialling][1:] == [ChannelMessage(Channel.DISTILLATION, bytes(100_000))]
    ends.dialling.close()
    ends.dialling.close()
    ends.cross(2.0)
    assert ends.error(ends.dialled) == "goodbye"
    assert ends.error(ends.dialling) is None
    assert ends.dialling.closed
    assert not ends.dialled.data_to_send()


def test_byte_by_byte() -> None:
    ends = Ends()
    for sender, receiver in [(ends.dialling, ends.dialled), (ends.dialled, ends.dialling)] * 2:
        for byte in sender.data_to_send():
            ends.feed(receiver, bytes([byte]))
    assert ends.established(ends.dialling)
    assert ends.established(ends.dialled)


def test_the_responder_is_up_first_and_says_so_at_once() -> None:
    ends = Ends()
    ends.feed(ends.dialled, ends.dialling.data_to_send())
    ends.feed(ends.dialling, ends.dialled.data_to_send())
    ends.feed(ends.dialled, ends.dialling.data_to_send())
    assert ends.established(ends.dialled)
    assert ends.dialling.state is State.AWAIT_UP
    assert ends.established(ends.dialling) is None
    with pytest.raises(ProgramError):
        ends.dialling.send(Channel.ROTATION, b"too early", 0.0)
    ends.dialled.send(Channel.ROTATION, b"at once", 0.0)
    ends.cross()
    assert [type(event) for event in ends.events[ends.dialling]] == [Established, ChannelMessage]


def test_messages_before_a_failure_are_delivered() -> None:
    ends = up()
    ends.dialling.send(Channel.ROTATION, b"first", 0.0)
    good = ends.dialling.data_to_send()
    events = ends.dialled.receive(good + good, 0.0)
    assert events[0] == ChannelMessage(Channel.ROTATION, b"first")
    assert code_of(events[1:]) == "peer.mac"


# ---- wrong peers


@pytest.mark.parametrize(
    ("ends", "dialled", "dialling"),
    [
        (lambda: Ends(bob=pin(EVE)), "peer.mac", "peer.closed"),
        (lambda: Ends(who=EVE), "peer.unknown", "peer.closed"),
        (lambda: Ends(peers=(pin(ALICE, revoked=True),)), "peer.revoked", "peer.closed"),
        (lambda: Ends(bob=pin(BOB, revoked=True)), "peer.closed", "peer.revoked"),
        (lambda: Ends(accepted=BOTH[1:]), "peer.suite", "peer.closed"),
        (lambda: Ends(keyed=BOTH[1]), "peer.downgrade", "peer.closed"),
        (lambda: Ends(peers=(pin(ALICE, b"p" * 32),)), "peer.psk", "peer.closed"),
        (lambda: Ends(bob=pin(BOB, b"p" * 32)), "peer.psk", "peer.closed"),
        (lambda: Ends(bob=pin(BOB, b"p" * 32), peers=(pin(ALICE, b"q" * 32),)), "peer.psk", "peer.closed"),
        (lambda: Ends(who=ALICE, other=ALICE), "peer.closed", "peer.reflection"),
    ],
)
def test_each_end_closes_with_one_error(ends: Callable[[], Ends], dialled: str, dialling: str) -> None:
    tried = ends().cross()
    assert tried.established(tried.dialling) is tried.established(tried.dialled) is None
    assert not tried.dialled.data_to_send()
    assert not tried.dialling.data_to_send()
    tried.eof()
    assert (tried.error(tried.dialled), tried.error(tried.dialling)) == (dialled, dialling)
    assert not holds_secrets(tried.dialled, tried.dialling)
    assert not [event for events in tried.eof().events.values() for event in events if isinstance(event, Established)]


@pytest.mark.parametrize(
    ("ends", "proven", "message"),
    [
        (lambda: Ends(bob=pin(EVE)), False, "another identity than the one that is pinned here"),
        (lambda: Ends(accepted=BOTH[1:]), False, "no suite in common"),
        (lambda: Ends(who=EVE), True, "does not know its identity"),
        (lambda: Ends(peers=(pin(ALICE, b"p" * 32),)), True, "differ in the bootstrap PSK"),
    ],
)
def test_a_silent_refusal_is_narrowed_down_by_how_far_it_came(
    ends: Callable[[], Ends], proven: bool, message: str
) -> None:
    tried = ends().cross().eof()
    (closed,) = tried.events[tried.dialling]
    assert isinstance(closed, Closed) and closed.error is not None
    assert message in closed.error.message
    assert "handshake refused" in closed.error.hint
    assert tried.dialling.proven is proven


def test_a_stranger_gets_no_byte() -> None:
    for data in (
        b"GET / HTTP/1.1\r\n\r\n",
        bytes(10_000),
        b"\x01\x00\x00",
        b"\x01\x00\x40" + bytes(64),
        b"\x16\x03\x01",
    ):
        ends = Ends()
        assert isinstance(ends.feed(ends.dialled, data)[0], Closed)
        assert ends.dialled.data_to_send() == b""
        assert ends.dialled.next_deadline() is None


def test_two_pins_and_a_bootstrap_psk() -> None:
    psk = b"p" * 32
    ends = Ends(bob=pin(BOB, psk), peers=(pin(EVE), pin(ALICE, psk))).cross()
    assert ends.established(ends.dialling)
    assert ends.established(ends.dialled)


# ---- a path that alters


def test_replayed_connection() -> None:
    """Everything that Alice once sent, again: the Hello is answered, the Finish fails."""
    ends = Ends()
    hello = ends.dialling.data_to_send()
    ends.feed(ends.dialled, hello)
    ends.feed(ends.dialling, ends.dialled.data_to_send())
    finish = ends.dialling.data_to_send()
    again = Ends()
    assert again.feed(again.dialled, hello) == []
    assert len(again.dialled.data_to_send()) > MAX_HELLO_BYTES
    again.feed(again.dialled, finish)
    assert again.error(again.dialled) == "peer.mac"
    assert again.dialled.data_to_send() == b""


def test_reflected_bytes() -> None:
    ends = Ends()
    ends.feed(ends.dialling, ends.dialling.data_to_send())
    assert ends.error(ends.dialling) == "peer.reflection"
    ends = up()
    ends.dialling.send(Channel.ROTATION, b"message", 0.0)
    ends.feed(ends.dialling, ends.dialling.data_to_send())
    assert ends.error(ends.dialling) == "peer.mac"


def test_reordered_messages() -> None:
    ends = Ends()
    hello = ends.dialling.data_to_send()
    other = Ends()
    ends.feed(ends.dialling, other.dialling.data_to_send())
    assert ends.error(ends.dialling) == "peer.order"
    ends = Ends()
    ends.feed(ends.dialled, b"\x03\x0d\xa0")
    assert ends.error(ends.dialled) == "peer.order"
    ends = Ends()
    ends.feed(ends.dialled, hello)
    ends.feed(ends.dialled, hello)
    assert ends.error(ends.dialled) == "peer.order"
    ends = Ends()
    ends.feed(ends.dialled, hello + b"\0")
    assert ends.error(ends.dialled) == "peer.order"
    assert ends.dialled.data_to_send() == b""


@pytest.mark.parametrize("whole", range(4))
@pytest.mark.parametrize("cut", [0, 1, 2, 3, 20])
def test_truncated_at_each_step(whole: int, cut: int) -> None:
    """Hello, Reply, Finish or the first record ends early, after so many whole ones."""
    ends = Ends()
    sender, receiver = ends.dialling, ends.dialled
    for _ in range(whole):
        ends.feed(receiver, sender.data_to_send())
        sender, receiver = receiver, sender
    ends.feed(receiver, sender.data_to_send()[:cut])
    ends.events[receiver] += receiver.eof(0.0)
    assert ends.error(receiver) == ("peer.truncated" if cut else "peer.closed")


def test_truncated_sessions() -> None:
    ends = up()
    ends.eof()
    assert ends.error(ends.dialling) == ends.error(ends.dialled) == "peer.closed"
    ends = up()
    ends.dialling.send(Channel.DISTILLATION, bytes(20_000), 0.0)
    ends.feed(ends.dialled, ends.dialling.data_to_send(MAX_RECORD_BYTES))  # a whole record, half a message
    ends.eof()
    assert ends.error(ends.dialled) == "peer.truncated"


def test_oversized_messages() -> None:
    for first, header, bound in ((True, b"\x01", MAX_HELLO_BYTES), (False, b"\x02", MAX_MESSAGE_BYTES)):
        ends = Ends()
        end = ends.dialled if first else ends.dialling
        size = (bound - 3).to_bytes(2, "big")
        ends.feed(end, header + size + bytes(100))
        assert ends.error(end) is None
        ends = Ends()
        end = ends.dialled if first else ends.dialling
        ends.feed(end, header + (bound - 2).to_bytes(2, "big"))
        assert ends.error(end) == "peer.oversized"


def test_a_flood_fills_no_buffer() -> None:
    ends = Ends()
    ends.feed(ends.dialled, b"\x01" + (MAX_HELLO_BYTES - 3).to_bytes(2, "big") + bytes(1000))
    ends.feed(ends.dialled, bytes(1 << 20))
    assert ends.error(ends.dialled) == "peer.order"
    assert len(ends.dialled._framer._buffer) <= MAX_HELLO_BYTES


# ---- slow and silent


def test_each_step_has_a_deadline() -> None:
    ends = Ends()
    assert ends.dialling.next_deadline() == ends.dialled.next_deadline() == STEP_S
    assert ends.dialled.tick(STEP_S - 0.1) == []
    assert code_of(ends.dialled.tick(STEP_S)) == "peer.slow"
    assert code_of(ends.dialling.tick(STEP_S)) == "peer.slow"
    assert ends.dialling.data_to_send() == b""

    ends = Ends()
    ends.feed(ends.dialled, ends.dialling.data_to_send(), 4.0)
    assert ends.dialled.next_deadline() == 9.0
    assert holds_secrets(ends.dialled)
    ends.feed(ends.dialling, ends.dialled.data_to_send(), 4.5)
    finish = ends.dialling.data_to_send()
    assert ends.dialling.next_deadline() == 9.5
    assert code_of(ends.dialled.receive(finish, 9.0)) == "peer.slow"
    assert code_of(ends.dialling.eof(9.5)) == "peer.slow"


def test_the_whole_handshake_has_a_deadline() -> None:
    ends = Ends()
    ends.feed(ends.dialled, ends.dialling.data_to_send(), 4.9)
    ends.feed(ends.dialling, ends.dialled.data_to_send(), 4.9)
    ends.feed(ends.dialled, ends.dialling.data_to_send(), 9.8)
    assert ends.established(ends.dialled)
    assert ends.dialling.next_deadline() == 4.9 + STEP_S == 9.9
    assert code_of(ends.dialling.receive(ends.dialled.data_to_send(), 9.9)) == "peer.slow"
    assert not holds_secrets(ends.dialling)


def test_a_trickle_does_not_stretch_a_step() -> None:
    ends = Ends()
    hello, now = ends.dialling.data_to_send(), 0.0
    for byte in hello:
        ends.feed(ends.dialled, bytes([byte]), now)
        now += 0.01
    assert ends.error(ends.dialled) == "peer.slow"


def test_heartbeats_keep_a_session_and_silence_ends_it() -> None:
    ends, now = up(), 0.0
    while now < 100:
        deadline = min(ends.dialling.next_deadline() or 0, ends.dialled.next_deadline() or 0)
        assert now < deadline <= now + HEARTBEAT_S
        now = deadline
        assert ends.dialling.tick(now) == ends.dialled.tick(now) == []
        ends.cross(now)
    ends.dialling.tick(now + HEARTBEAT_S)
    ends.dialled.tick(now + HEARTBEAT_S)
    assert code_of(ends.dialling.tick(now + SILENCE_S)) == "peer.silent"
    ends.feed(ends.dialled, ends.dialling.data_to_send(), now + 14.0)
    assert ends.error(ends.dialled) == "peer.closed"


# ---- farewells and after


def test_the_reason_of_a_close_reaches_the_peer_once_it_is_authentic() -> None:
    ends = up()
    ends.dialled.close("peer.revoked")
    ends.cross().eof()
    assert ends.error(ends.dialling) == "peer.closed"
    (closed,) = [event for event in ends.events[ends.dialling] if isinstance(event, Closed)]
    assert "peer.revoked" in str(closed.error)
    assert closed.error is not None
    assert closed.error.where == "bob"
    with pytest.raises(ProgramError):
        ends.dialled.close("no.such.code")


@pytest.mark.parametrize(("code", "seen"), [(None, "goodbye"), ("peer.revoked", "peer.closed")])
def test_a_farewell_may_be_the_first_record(code: str | None, seen: str) -> None:
    """The responder drops the session between Finish and its first record, because a newer one is up."""
    ends = Ends()
    ends.feed(ends.dialled, ends.dialling.data_to_send())
    ends.feed(ends.dialling, ends.dialled.data_to_send())
    ends.feed(ends.dialled, ends.dialling.data_to_send())
    ends.dialled.close(code)
    ends.cross()
    assert ends.error(ends.dialling) == seen
    assert ends.established(ends.dialling) is None


def test_closing_in_the_handshake_says_nothing() -> None:
    ends = Ends()
    ends.dialling.close("peer.revoked")
    ends.dialled.close()
    assert ends.dialling.data_to_send() == ends.dialled.data_to_send() == b""

    ends = Ends()
    ends.feed(ends.dialled, ends.dialling.data_to_send())
    assert holds_secrets(ends.dialling)
    ends.dialled.close("peer.revoked")
    ends.dialling.close("peer.revoked")
    assert ends.dialling.data_to_send() == ends.dialled.data_to_send() == b""
    assert not holds_secrets(ends.dialling, ends.dialled)

    ends = Ends()
    ends.feed(ends.dialled, ends.dialling.data_to_send())
    ends.feed(ends.dialling, ends.dialled.data_to_send())
    assert ends.dialling._agreed is not None
    exporter = ends.dialling._agreed.session.exporter
    ends.dialling.close("peer.revoked")  # nothing proves yet that the peer is up
    assert ends.dialling.data_to_send() == b""
    assert exporter.is_zero


def test_after_the_end_everything_is_ignored() -> None:
    ends = up()
    ends.dialling.close()
    record = ends.dialling.data_to_send()
    for data in (record, b"\xff" * 100):
        assert ends.dialling.receive(data, 0.0) == []
    assert ends.dialling.eof(0.0) == ends.dialling.tick(1e9) == []
    assert ends.dialling.next_deadline() is None
    assert ends.dialling.backlog_bytes(Channel.ROTATION) == 0
    with pytest.raises(ProgramError):
        ends.dialling.send(Channel.ROTATION, b"late", 0.0)
    ends.feed(ends.dialled, record + b"\xff" * 100)
    assert ends.error(ends.dialled) == "goodbye"


def test_a_closed_session_holds_no_secret_and_the_exporter_is_its_owners() -> None:
    ends = up()
    one = ends.established(ends.dialling)
    assert one is not None
    assert holds_secrets(ends.dialling)
    assert holds_secrets(ends.dialled)
    ends.dialling.close()
    ends.cross()
    assert not holds_secrets(ends.dialling, ends.dialled)
    assert not one.session.exporter.is_zero


def test_our_own_misuse() -> None:
    ends = up()
    with pytest.raises(ProgramError):
        ends.dialling.data_to_send(MAX_RECORD_BYTES - 1)
    with pytest.raises(ProgramError):
        ends.dialling.send(Channel.CONTROL, b"\x04", 0.0)
    with pytest.raises(ProgramError):
        ends.dialling.send(Channel.ROTATION, bytes(MAX_PAYLOAD_BYTES[Channel.ROTATION] + 1), 0.0)
    assert ends.dialling.state is State.UP


# ---- a peer that is authentic and wrong


def hostile(ends: Ends, *payloads: bytes) -> list[Event]:
    """Bob's end puts these on the control channel."""
    assert ends.dialled._session is not None
    for payload in payloads:
        ends.dialled._session.send(Channel.CONTROL, payload, 0.0)
    return ends.feed(ends.dialling, ends.dialled.data_to_send())


def test_control_frames_out_of_order() -> None:
    assert code_of(hostile(up(), encode_control(ControlFrame(Control.UP)))) == "peer.order"
    assert code_of(hostile(up(), b"\x09")) == "peer.malformed"
    ends = up()
    assert hostile(ends, encode_control(ControlFrame(Control.HEARTBEAT))) == []
    for payload, channel in (
        (encode_control(ControlFrame(Control.HEARTBEAT)), Channel.CONTROL),
        (b"x", Channel.ROTATION),
    ):
        ends = Ends()
        ends.feed(ends.dialled, ends.dialling.data_to_send())
        ends.feed(ends.dialling, ends.dialled.data_to_send())
        ends.feed(ends.dialled, ends.dialling.data_to_send())
        session = ends.dialled._session
        assert session is not None
        session._outbox[Channel.CONTROL].take(1)  # no UP
        session.send(channel, payload, 0.0)
        ends.cross()
        assert ends.error(ends.dialling) == "peer.order"


def test_the_host_may_fail_too() -> None:
    class Broken(OsEphemeral):
        def nonce(self) -> bytes:
            raise HostError("host.memory", "no locked memory")

    ends = Ends()
    dialled = Connection.accept(BOB, {}, BOTH, ephemeral=Broken(), now=0.0)
    (event,) = dialled.receive(ends.dialling.data_to_send(), 0.0)
    assert isinstance(event, Closed)
    assert isinstance(event.error, HostError)
    assert dialled.data_to_send() == b""


def test_a_worn_out_key_ends_the_session_on_both_sides() -> None:
    ends = up()
    assert ends.dialling._session is not None
    ends.dialling._session._sealer._limit = 2
    ends.dialling.send(Channel.ROTATION, b"one", 1.0)
    ends.feed(ends.dialled, ends.dialling.data_to_send(), 1.0)
    assert code_of(ends.dialling.tick(ends.dialling.next_deadline() or 0)) == "host.exhausted"
    ends.cross(1.0)
    assert ends.error(ends.dialled) == "peer.closed"
