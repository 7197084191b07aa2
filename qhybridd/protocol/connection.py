"""One TCP connection of the control channel from its first byte to its last, without a socket.

The transport feeds what it read, sends what it is given, re-arms one timer and carries out the events. Every failure is
exactly one `Closed` with one typed error; nothing is told to a peer that has not proved who it is.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from qhybridd.crypto.ephemeral import Ephemeral
from qhybridd.crypto.identity import Signer
from qhybridd.errors import CODES, PeerError, ProgramError, QhybriddError
from qhybridd.protocol.actions import SessionKeys
from qhybridd.protocol.framing import Framer
from qhybridd.protocol.handshake import Agreed, Initiator, Input, PeerPin, Responder, State
from qhybridd.protocol.handshake_messages import HEADER_BYTES, Suite
from qhybridd.protocol.session import (
    MAX_RECORD_BYTES,
    Channel,
    Control,
    ControlFrame,
    Frame,
    Session,
    decode_control,
    encode_control,
)

STEP_S: Final = 5.0
"""For each message of the handshake. Each end waits for two, so the whole takes 10 s at most."""


@dataclass(frozen=True, slots=True)
class Established:
    """The session is up at this end. Whoever takes this event owns the exporter."""

    session: SessionKeys
    peer_name: str
    suite: Suite
    version: int
    dialled: bool
    """Whether this end dialled."""


@dataclass(frozen=True, slots=True)
class ChannelMessage:
    """A whole message came on the rotation or the distillation channel."""

    channel: Channel
    payload: bytes


@dataclass(frozen=True, slots=True)
class Closed:
    """The end, once: send what `data_to_send` still gives, then close the socket. `error` is None after a goodbye."""

    error: QhybriddError | None


Event = Established | ChannelMessage | Closed


_INPUT_OF_CONTROL: Final = {
    Control.UP: Input.FIRST_RECORD,
    Control.HEARTBEAT: Input.FRAME,
    Control.CLOSE: Input.FAREWELL,
    Control.GOODBYE: Input.FAREWELL,
}

_REFUSED: Final = {
    State.AWAIT_REPLY: "the peer refused the first message: it has another identity than the one that is pinned here, "
    "or no suite in common",
    State.AWAIT_UP: "the peer refused this gateway: it does not know its identity or has revoked it, or the two differ "
    "in the bootstrap PSK",
}
"""A dialled end refuses in silence; what it may have been, by how far it came."""
_REFUSED_HINT: Final = "The other gateway's log names the reason: look for `handshake refused` there."


class Connection:
    """The end of one connection. Made by `dial` or `accept`."""

    __slots__ = ("_agreed", "_end", "_framer", "_out", "_session", "_slow_at", "peer_name", "proven")

    def __init__(self, end: Initiator | Responder, peer_name: str, now: float) -> None:
        self._end = end
        self._framer = Framer(HEADER_BYTES, end.expect)
        self._session: Session | None = None
        self._agreed: Agreed | None = None
        self._out = bytearray()
        self._slow_at = now + STEP_S
        self.peer_name = peer_name
        """The configured name of the peer; empty at the dialled end until the peer has proved who it is."""
        self.proven = False
        """Whether the peer has proved who it is."""

    @classmethod
    def dial(
        cls, signer: Signer, pin: PeerPin, suites: Sequence[Suite], keyed: Suite, *, ephemeral: Ephemeral, now: float
    ) -> "Connection":
        """The dialling end; see `handshake.attempt` for `pin` and `keyed`. `suites` is the whole ordered list."""
        end = Initiator(signer, pin, suites, keyed, ephemeral)
        connection = cls(end, pin.name, now)
        connection._out += end.begin()
        return connection

    @classmethod
    def accept(
        cls,
        signer: Signer,
        peers: Mapping[bytes, PeerPin],
        suites: Sequence[Suite],
        *,
        ephemeral: Ephemeral,
        now: float,
    ) -> "Connection":
        """The dialled end; `peers` is looked up by fingerprint when the peer has shown its own."""
        return cls(Responder(signer, peers, suites, ephemeral), "", now)

    @property
    def state(self) -> State:
        """Where this end stands."""
        return self._end.state

    @property
    def closed(self) -> bool:
        """Whether everything that still comes is ignored."""
        return self._end.state is State.CLOSED

    # ---- what comes in

    def receive(self, data: bytes, now: float) -> list[Event]:
        """Take bytes from the socket."""
        events: list[Event] = []
        if self.closed:
            return events
        try:
            self._check_time(now)
            if self._session is None:
                self._receive_message(memoryview(data), now, events)
                return events
            for frame in self._session.receive(memoryview(data), now):
                event = self._receive_frame(frame)
                if event is not None:
                    events.append(event)
                if isinstance(event, Closed):
                    break
        except QhybriddError as error:
            events.append(self._fail(error))
        return events

    def eof(self, now: float) -> list[Event]:
        """The peer closed the socket, or it broke."""
        if self.closed:
            return []
        expired = self.tick(now)
        if expired:
            return expired
        if self._framer.partial or (self._session is not None and self._session.partial):
            return [self._fail(PeerError("peer.truncated", "the connection ended in the middle of a message"))]
        if self.state in _REFUSED:
            return [self._fail(PeerError("peer.closed", _REFUSED[self.state], hint=_REFUSED_HINT))]
        return [self._fail(PeerError("peer.closed", "the connection ended without a goodbye"))]

    def tick(self, now: float) -> list[Event]:
        """The time of `next_deadline` has come; earlier or later does no harm."""
        if self.closed:
            return []
        try:
            self._check_time(now)
            if self._session is not None and self.state is State.UP:
                self._session.tick(now)
        except QhybriddError as error:
            return [self._fail(error)]
        return []

    def next_deadline(self) -> float | None:
        """When to call `tick`; None when closed."""
        if self.closed:
            return None
        if self._session is not None and self.state is State.UP:
            return self._session.next_deadline()
        return self._slow_at

    # ---- what goes out

    def data_to_send(self, limit: int = 4 * MAX_RECORD_BYTES) -> bytes:
        """At most `limit` bytes for the socket; call until it gives none. Ask for little at a time: what the socket
        holds is past all priority.
        """
        if limit < MAX_RECORD_BYTES:
            raise ProgramError("program.argument", f"a limit under {MAX_RECORD_BYTES} bytes")
        out = bytes(self._out[:limit])
        del self._out[:limit]
        if self._session is not None:
            out += self._session.data_to_send(limit - len(out))
        return out

    def backlog_bytes(self, channel: Channel) -> int:
        """What waits on a channel; 0 unless the session is up."""
        return self._session.backlog_bytes(channel) if self._session is not None else 0

    def send(self, channel: Channel, payload: bytes, now: float) -> None:
        """Queue a message. Raises `ProgramError` unless the session is up, `PeerError` (peer.slow) where too much
        waits already; neither changes anything.
        """
        if self._session is None or self.state is not State.UP or channel is Channel.CONTROL:
            raise ProgramError("program.state", f"a message on {channel.name} in the state `{self.state.value}`")
        self._session.send(channel, payload, now)

    def close(self, code: str | None = None) -> None:
        """End in good order, or with an error code for the peer. No event follows; a second call does nothing."""
        if code is not None and code not in CODES:
            raise ProgramError("program.argument", f"no error code {code!r}")
        if not self.closed:
            self._end_with(ControlFrame(Control.GOODBYE) if code is None else ControlFrame(Control.CLOSE, code))

    # ---- inside

    def _check_time(self, now: float) -> None:
        if self._session is not None and self.state is State.UP:
            self._session.check(now)
        elif now >= self._slow_at:
            raise PeerError("peer.slow", "the peer took too long over the handshake")

    def _receive_message(self, data: memoryview, now: float, events: list[Event]) -> None:
        """Take the handshake's next message, if it is whole. Each waits for its answer, so nothing may follow it."""
        frame, rest = self._framer.take(data)
        if frame is None:
            return
        if len(rest):
            raise PeerError("peer.order", "bytes behind a message that waits for its answer")
        self._slow_at = now + STEP_S
        if isinstance(self._end, Initiator):
            finish, self._agreed = self._end.receive(frame)
            self.proven = True
            self._out += finish
            self._session = Session(self._agreed.send_key, self._agreed.receive_key, now)
        elif self._end.state is State.AWAIT_HELLO:
            self._out += self._end.answer(frame)
        else:
            self._agreed = self._end.receive(frame)
            self.proven = True
            self._session = Session(self._agreed.send_key, self._agreed.receive_key, now)
            self._session.send(Channel.CONTROL, encode_control(ControlFrame(Control.UP)), now)
            events.append(self._establish(self._agreed))

    def _receive_frame(self, frame: Frame) -> Event | None:
        """Take a message of the session."""
        if frame.channel is not Channel.CONTROL:
            self._end.take(Input.FRAME)
            return ChannelMessage(frame.channel, frame.payload)
        control = decode_control(frame.payload)
        self._end.take(_INPUT_OF_CONTROL[control.kind])
        if self._agreed is not None and control.kind is Control.UP:
            return self._establish(self._agreed)
        if control.kind is Control.CLOSE:
            raise PeerError("peer.closed", f"the peer closed the session: {control.code}")
        if control.kind is Control.GOODBYE:
            self._end_with(None)
            return Closed(None)
        return None

    def _establish(self, agreed: Agreed) -> Established:
        self._agreed = None
        self.peer_name = agreed.peer.name
        return Established(
            agreed.session, agreed.peer.name, agreed.suite, agreed.version, isinstance(self._end, Initiator)
        )

    def _fail(self, error: QhybriddError) -> Closed:
        error.where = error.where or self.peer_name
        self._end_with(ControlFrame(Control.CLOSE, error.code))
        return Closed(error)

    def _end_with(self, farewell: ControlFrame | None) -> None:
        """Drop everything. Only a session that is up has a last word, so that a stranger learns nothing."""
        self._out.clear()
        if self._session is not None:
            if farewell is not None and self.state is State.UP:
                self._out += self._session.end(farewell)
            self._session.wipe()
        if self._agreed is not None:
            self._agreed.session.exporter.wipe()
        self._end.close()
        self._session = self._agreed = None
