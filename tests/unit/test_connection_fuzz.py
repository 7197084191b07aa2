"""Whatever the path makes of the bytes: established alike at both ends, or one typed error at whoever saw it."""

from collections.abc import Callable

from hypothesis import given, settings
from hypothesis import strategies as st

from qhybridd.protocol.connection import (
    ChannelMessage,
)
from qhybridd.protocol.handshake import State
from qhybridd.protocol.session import (
    Channel,
)
from tests.unit.ends import Ends, holds_secrets


@st.composite
def mischief(draw: st.DrawFn) -> Callable[[bytes], list[bytes]]:
    """What the path makes of one message: pieces, some of them altered, cut, repeated, dropped or swapped."""
    kind = draw(st.sampled_from(["pass", "pass", "pass", "split", "alter", "cut", "repeat", "insert", "drop", "swap"]))
    at, bit = draw(st.floats(0, 1, exclude_max=True)), draw(st.integers(0, 7))
    noise = draw(st.binary(min_size=1, max_size=40))

    def apply(data: bytes) -> list[bytes]:
        where = int(at * len(data))
        if kind == "alter":
            return [data[:where] + bytes([data[where] ^ 1 << bit]) + data[where + 1 :]]
        return {
            "pass": [data],
            "split": [data[:where], data[where:]],
            "cut": [data[:where]],
            "repeat": [data, data],
            "insert": [data[:where] + noise + data[where:]],
            "drop": [],
            "swap": [data[where:], data[:where]],
        }[kind]

    return apply


ONE_OF = {
    "peer.mac",
    "peer.order",
    "peer.malformed",
    "peer.oversized",
    "peer.truncated",
    "peer.closed",
    "peer.version",
    "peer.signature",
    "peer.reflection",
}


STEPS = 12
"""Messages carried: Hello, Reply, Finish, the first record, then messages both ways."""


@settings(deadline=None, max_examples=200)
@given(
    st.dictionaries(st.integers(0, STEPS - 1), mischief(), max_size=2),
    st.dictionaries(st.integers(0, STEPS - 1), st.integers(0, STEPS - 1), max_size=1),
)
def test_established_alike_or_one_typed_error(
    mischiefs: dict[int, Callable[[bytes], list[bytes]]], replays: dict[int, int]
) -> None:
    """At most two messages are spoilt, and one of either direction is sent to somebody again."""
    ends = Ends()
    seen: list[bytes] = []
    turn = [(ends.dialling, ends.dialled), (ends.dialled, ends.dialling)]
    for number in range(STEPS):
        sender, receiver = turn[number % 2]
        if sender.state is State.UP:
            sender.send(Channel.ROTATION, bytes([number]) * 10, 0.0)
        data = sender.data_to_send()
        if data:
            seen.append(data)
            for piece in mischiefs[number](data) if number in mischiefs else [data]:
                ends.feed(receiver, piece)
        if number in replays and seen:
            ends.feed(receiver, seen[replays[number] % len(seen)])
    ends.eof()
    one, other = ends.established(ends.dialling), ends.established(ends.dialled)
    if one is not None:
        assert other is not None
        assert one.session.hash == other.session.hash
        assert one.session.exporter == other.session.exporter
    for sender, receiver in turn:
        assert receiver.closed
        assert ends.error(receiver) in ONE_OF
        sent = [bytes([number]) * 10 for number in range(STEPS) if turn[number % 2][0] is sender]
        got = [event.payload for event in ends.events[receiver] if isinstance(event, ChannelMessage)]
        assert got == [payload for payload in sent if payload in got]  # in order, unaltered, once
        assert not got or ends.established(receiver)
        assert mischiefs or replays or len(got) >= 4
    assert not holds_secrets(ends.dialling, ends.dialled)


@settings(deadline=None)
@given(st.binary(max_size=2000), st.booleans())
def test_noise_never_establishes(data: bytes, dialled: bool) -> None:
    ends = Ends()
    end = ends.dialled if dialled else ends.dialling
    ends.feed(end, data)
    ends.eof()
    assert ends.error(end) in ONE_OF
    assert end.data_to_send() == b""
