"""The handshake: SIGMA-I (Krawczyk 2003) with the message flow and key schedule of TLS 1.3 (RFC 8446), both ends.

    Hello   I→R   suites, key shares, nonce; MAC keyed by R's fingerprint
    Reply   R→I   nonce, X25519 share, ciphertext; sealed: R's fingerprint, signatures, finished MAC
    Finish  I→R   sealed: PSK flag, I's fingerprint, signatures, finished MAC

Nothing here reads a clock or a random generator. A machine takes whole messages and gives whole messages; whatever it
raises leaves it closed with its secrets wiped, except an illegal event, which changes nothing.
"""

import hmac
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Final, TypeVar

from qhybridd.crypto.aead import Opener, Sealer
from qhybridd.crypto.ephemeral import Ephemeral, KeyShares
from qhybridd.crypto.identity import PublicIdentity, Signer
from qhybridd.crypto.kdf import Label
from qhybridd.errors import PeerError, ProgramError
from qhybridd.protocol.actions import SessionKeys
from qhybridd.protocol.handshake_messages import (
    HEADER_BYTES,
    MAX_SUITES,
    SUITES,
    VERSION,
    Hello,
    Kind,
    Proof,
    Reply,
    Suite,
    check_hello_mac,
    decode_hello,
    decode_proof,
    decode_reply,
    encode_hello,
    encode_proof,
    encode_reply,
    finish_header,
    frame_size,
    kind_of,
)
from qhybridd.protocol.key_schedule import KeySchedule, SessionSecrets
from qhybridd.secret import Secret

T = TypeVar("T")

# ---- states


class State(Enum):
    """Where one end of a connection stands."""

    IDLE = "idle"
    AWAIT_REPLY = "await reply"
    AWAIT_UP = "await up"
    AWAIT_HELLO = "await hello"
    AWAIT_FINISH = "await finish"
    UP = "up"
    CLOSED = "closed"


class Input(Enum):
    """What can happen to it."""

    BEGIN = "begin"
    HELLO = "hello"
    REPLY = "reply"
    FINISH = "finish"
    FIRST_RECORD = "up"
    FRAME = "frame"
    FAREWELL = "farewell"
    CLOSE = "close"


TRANSITIONS: Final[dict[tuple[State, Input], State]] = {
    # initiator
    (State.IDLE, Input.BEGIN): State.AWAIT_REPLY,
    (State.AWAIT_REPLY, Input.REPLY): State.AWAIT_UP,
    (State.AWAIT_UP, Input.FIRST_RECORD): State.UP,
    (State.AWAIT_UP, Input.FAREWELL): State.CLOSED,
    # responder
    (State.AWAIT_HELLO, Input.HELLO): State.AWAIT_FINISH,
    (State.AWAIT_FINISH, Input.FINISH): State.UP,
    # both
    (State.UP, Input.FRAME): State.UP,
    (State.UP, Input.FAREWELL): State.CLOSED,
    **{(state, Input.CLOSE): State.CLOSED for state in State if state is not State.CLOSED},
}
"""Everything that is not listed here is refused and changes nothing."""

_INPUT_OF_KIND: Final = {Kind.HELLO: Input.HELLO, Kind.REPLY: Input.REPLY, Kind.FINISH: Input.FINISH}


def next_state(state: State, event: Input) -> State:
    """The state after `event`. Raises `PeerError` (peer.order), for our own events `ProgramError` (program.state)."""
    try:
        return TRANSITIONS[state, event]
    except KeyError:
        message = f"`{event.value}` in the state `{state.value}`"
        if event in (Input.BEGIN, Input.CLOSE):
            raise ProgramError("program.state", message) from None
        raise PeerError("peer.order", message) from None


# ---- records


@dataclass(frozen=True, slots=True)
class PeerPin:
    """One identity that a peer may have; a peer that rolls its identity over has two pins of one name."""

    public: PublicIdentity
    name: str
    bootstrap_psk: Secret | None = None
    """Where there is one, it is required; where there is none, it is forbidden."""
    revoked: bool = False
    """Kept so that a revoked peer is told from an unknown one in the log; it is refused all the same."""


@dataclass(frozen=True, slots=True)
class Agreed:
    """What a finished handshake gives to one end."""

    session: SessionKeys
    peer: PeerPin
    suite: Suite
    version: int
    send_key: Secret
    receive_key: Secret


def attempt(number: int, pins: Sequence[PeerPin], suites: Sequence[Suite]) -> tuple[PeerPin, Suite]:
    """Pin and suite of the dial with this number, counted from 0: every pin with the first suite, then the second.

    A responder refuses in silence, so the dialler goes round. The list in the `Hello` stays the whole one: a responder
    that accepts an earlier suite refuses a later one, and nobody on the path can push the two ends down the list.
    """
    return pins[number % len(pins)], suites[number // len(pins) % len(suites)]


# ---- both ends


class _End:
    """What both ends share: the own identity, the state, the schedule."""

    __slots__ = ("_ephemeral", "_schedule", "_signer", "state")

    def __init__(self, signer: Signer, ephemeral: Ephemeral, state: State) -> None:
        self.state = state
        self._signer = signer
        self._ephemeral = ephemeral
        self._schedule = KeySchedule()

    def take(self, event: Input) -> None:
        """Note an event that needs no answer. Raises like `next_state`."""
        self.state = next_state(self.state, event)

    def expect(self, header: bytes) -> int:
        """Bytes of the message that begins with this header, if one of its kind may come now. Raises peer.order,
        peer.malformed, peer.oversized.
        """
        next_state(self.state, _INPUT_OF_KIND[kind_of(header)])
        return frame_size(header)

    def close(self) -> None:
        """Wipe every secret; nothing more is taken. A second call does nothing."""
        if self.state is not State.CLOSED:
            self.state = next_state(self.state, Input.CLOSE)
        self._schedule.wipe()

    def _step(self, frame: bytes, work: Callable[[bytes], T]) -> T:
        """Take a message by `work`. What is illegal now changes nothing; what fails closes this end."""
        state = next_state(self.state, _INPUT_OF_KIND[kind_of(frame)])
        try:
            result = work(frame)
        except BaseException:
            self.close()
            raise
        self.state = state
        return result

    def _prove(self, signature_label: Label, finished_label: Label, psk: Secret | None) -> bytes:
        """Fingerprint, signatures over everything up to it, MAC over everything up to those (SIGMA's SIGN-and-MAC)."""
        fingerprint = self._signer.public.fingerprint
        self._schedule.add(fingerprint)
        signature = self._signer.sign(signature_label, self._schedule.transcript)
        self._schedule.add(signature)
        if psk is not None:
            self._schedule.mix_psk(psk)
        finished = self._schedule.finished(finished_label)
        self._schedule.add(finished)
        return encode_proof(Proof(fingerprint, signature, finished))

    def _check_signature(self, proof: Proof, pin: PeerPin, label: Label) -> None:
        """Add the fingerprint and verify the signatures over it. Raises peer.revoked, peer.signature."""
        if pin.revoked:
            raise PeerError("peer.revoked", f"the identity {pin.public.short} was revoked", where=pin.name)
        self._schedule.add(proof.fingerprint)
        pin.public.verify(label, self._schedule.transcript, proof.signature)
        self._schedule.add(proof.signature)

    def _check_finished(self, proof: Proof, label: Label) -> bool:
        """Whether the MAC holds; add it."""
        holds = hmac.compare_digest(proof.finished, self._schedule.finished(label))
        self._schedule.add(proof.finished)
        return holds

    def _refuse_self(self, proof: Proof) -> None:
        if proof.fingerprint == self._signer.public.fingerprint:
            raise PeerError("peer.reflection", "the other end has this gateway's own identity")


def _session_keys(secrets: SessionSecrets, local: PublicIdentity, peer: PublicIdentity) -> SessionKeys:
    return SessionKeys(secrets.hash, local.fingerprint, peer.fingerprint, secrets.exporter)


# ---- the dialling end


class Initiator(_End):
    """The dialling end: `begin`, then `receive` the Reply, then `take` the responder's first record."""

    __slots__ = ("_hello", "_pin", "_shares", "_suite", "_suites")

    def __init__(
        self, signer: Signer, pin: PeerPin, suites: Sequence[Suite], keyed: Suite, ephemeral: Ephemeral
    ) -> None:
        """Dial `pin` with shares for `keyed`, one of the ordered `suites` that this gateway accepts."""
        if keyed not in suites or len(suites) > MAX_SUITES:
            raise ProgramError("program.argument", f"at most {MAX_SUITES} suites, and the one keyed is among them")
        super().__init__(signer, ephemeral, State.IDLE)
        self._pin = pin
        self._suites = tuple(suites)
        self._suite = keyed
        self._hello = b""
        self._shares: KeyShares | None = None

    def begin(self) -> bytes:
        """The Hello."""
        state = next_state(self.state, Input.BEGIN)
        shares = self._ephemeral.shares(self._suite.kem)
        hello = Hello(
            VERSION,
            tuple(suite.code for suite in self._suites),
            self._suites.index(self._suite),
            self._ephemeral.nonce(),
            shares.x25519,
            shares.ek,
        )
        self._hello = encode_hello(hello, self._pin.public.fingerprint)
        self._shares = shares
        self._schedule.add(self._hello)
        self.state = state
        return self._hello

    def expect(self, header: bytes) -> int:
        """As at either end; a Hello is let in, so that the own one coming back is told from another's."""
        return frame_size(header) if kind_of(header) is Kind.HELLO else super().expect(header)

    def receive(self, frame: bytes) -> tuple[bytes, Agreed]:
        """Take the Reply; give the Finish and the keys, to be used once the responder's first record came.

        Raises peer.order, peer.reflection, peer.version, peer.malformed, peer.mac, peer.identity, peer.revoked,
        peer.signature.
        """
        if frame == self._hello:
            raise PeerError("peer.reflection", "this gateway's own Hello came back")
        return self._step(frame, self._answer)

    def _answer(self, frame: bytes) -> tuple[bytes, Agreed]:
        assert self._shares is not None  # set together with the state AWAIT_REPLY
        schedule, suite, pin = self._schedule, self._suite, self._pin
        reply, clear, sealed = decode_reply(frame, suite)
        secrets = self._ephemeral.open(suite.kem, self._shares.private, reply.x25519, reply.ct)
        schedule.add(clear)
        schedule.mix_shares(suite.kem, secrets)
        self._shares = None
        opener = Opener(schedule.sealing_key(Label.REPLY_KEY))
        proof = decode_proof(opener.open(sealed, frame[:HEADER_BYTES]))
        self._refuse_self(proof)
        if proof.fingerprint != pin.public.fingerprint:
            raise PeerError("peer.identity", f"not {pin.public.short} answered", where=pin.name)
        self._check_signature(proof, pin, Label.RESPONDER_SIGNATURE)
        if not self._check_finished(proof, Label.RESPONDER_FINISHED):
            raise PeerError("peer.mac", "the responder's finished MAC does not hold", where=pin.name)

        sealer = Sealer(schedule.sealing_key(Label.FINISH_KEY))
        flag = bytes([pin.bootstrap_psk is not None])
        schedule.add(flag)
        own = self._prove(Label.INITIATOR_SIGNATURE, Label.INITIATOR_FINISHED, pin.bootstrap_psk)
        header = finish_header()
        finish = header + sealer.seal(flag + own, header)
        result = schedule.finish()
        keys = _session_keys(result, self._signer.public, pin.public)
        return finish, Agreed(keys, pin, suite, reply.version, result.initiator_traffic, result.responder_traffic)

    def close(self) -> None:
        """Wipe every secret; nothing more is taken."""
        super().close()
        self._shares = None


# ---- the dialled end


class Responder(_End):
    """The dialled end: `answer` the Hello, then `receive` the Finish. Until that one it has proof of nobody."""

    __slots__ = ("_peers", "_suite", "_suites", "_version")

    def __init__(
        self, signer: Signer, peers: Mapping[bytes, PeerPin], suites: Sequence[Suite], ephemeral: Ephemeral
    ) -> None:
        """Wait for one of `peers` (by fingerprint); `suites` are those that this gateway accepts."""
        super().__init__(signer, ephemeral, State.AWAIT_HELLO)
        self._peers = peers
        self._suites = frozenset(suite.code for suite in suites)
        self._suite: Suite | None = None
        self._version = 0

    def answer(self, frame: bytes) -> bytes:
        """Take the Hello, give the Reply. Raises peer.order, peer.mac, peer.version, peer.suite, peer.downgrade,
        peer.malformed; nothing is ever sent to whom it is raised for.
        """
        return self._step(frame, self._reply)

    def _reply(self, frame: bytes) -> bytes:
        check_hello_mac(frame, self._signer.public.fingerprint)
        hello = decode_hello(frame)
        suite = self._choose(hello)
        answer = self._ephemeral.answer(suite.kem, hello.x25519, hello.ek)
        version = min(VERSION, hello.version)
        clear = encode_reply(Reply(version, self._ephemeral.nonce(), answer.x25519, answer.ct))
        self._schedule.add(frame)
        self._schedule.add(clear)
        self._schedule.mix_shares(suite.kem, answer.secrets)
        sealer = Sealer(self._schedule.sealing_key(Label.REPLY_KEY))
        proof = self._prove(Label.RESPONDER_SIGNATURE, Label.RESPONDER_FINISHED, None)
        self._suite, self._version = suite, version
        return clear + sealer.seal(proof, clear[:HEADER_BYTES])

    def _choose(self, hello: Hello) -> Suite:
        """The suite that was keyed, if it is the first of the peer's list that is accepted here."""
        keyed = hello.suites[hello.keyed]
        if keyed not in self._suites:
            raise PeerError("peer.suite", f"the peer keyed {SUITES[keyed].label}, which is not accepted here")
        if not self._suites.isdisjoint(hello.suites[: hello.keyed]):
            raise PeerError("peer.downgrade", f"the peer keyed {SUITES[keyed].label} before an earlier common suite")
        return SUITES[keyed]

    def receive(self, frame: bytes) -> Agreed:
        """Take the Finish, give the keys. Raises peer.order, peer.mac, peer.malformed, peer.reflection, peer.unknown,
        peer.revoked, peer.signature, peer.psk.
        """
        return self._step(frame, self._agree)

    def _agree(self, frame: bytes) -> Agreed:
        assert self._suite is not None  # set together with the state AWAIT_FINISH
        schedule = self._schedule
        opener = Opener(schedule.sealing_key(Label.FINISH_KEY))
        text = opener.open(frame[HEADER_BYTES:], frame[:HEADER_BYTES])
        flag, proof = text[:1], decode_proof(text[1:])
        if flag not in (b"\0", b"\1"):
            raise PeerError("peer.malformed", "a PSK flag that is neither 0 nor 1")
        self._refuse_self(proof)
        pin = self._peers.get(proof.fingerprint)
        if pin is None:
            raise PeerError("peer.unknown", "no peer has the identity that finished the handshake")
        schedule.add(flag)
        self._check_signature(proof, pin, Label.INITIATOR_SIGNATURE)
        if (flag == b"\1") != (pin.bootstrap_psk is not None):
            which = "used a bootstrap PSK and has none here" if pin.bootstrap_psk is None else "used no bootstrap PSK"
            raise PeerError("peer.psk", f"the peer {which}", where=pin.name)
        if pin.bootstrap_psk is not None:
            schedule.mix_psk(pin.bootstrap_psk)
        if not self._check_finished(proof, Label.INITIATOR_FINISHED):
            # The signatures hold, so the peer did all of this: only the PSK can differ.
            if pin.bootstrap_psk is not None:
                raise PeerError("peer.psk", "the peer's bootstrap PSK is not the one here", where=pin.name)
            raise PeerError("peer.mac", "the initiator's finished MAC does not hold", where=pin.name)
        result = schedule.finish()
        keys = _session_keys(result, self._signer.public, pin.public)
        return Agreed(keys, pin, self._suite, self._version, result.responder_traffic, result.initiator_traffic)
