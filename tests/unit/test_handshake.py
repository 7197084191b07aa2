"""The handshake's two machines against each other, and a whole run against the slow computation."""

import hashlib
import hmac
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from hypothesis import given
from hypothesis import strategies as st

from qhybridd.crypto.aead import Sealer
from qhybridd.crypto.ephemeral import KeyAnswer, OsEphemeral
from qhybridd.crypto.identity import SIGNATURE_BYTES, Identity, PublicIdentity
from qhybridd.crypto.kdf import Label
from qhybridd.errors import PeerError, ProgramError
from qhybridd.protocol.handshake import (
    TRANSITIONS,
    Agreed,
    Initiator,
    Input,
    PeerPin,
    Responder,
    State,
    attempt,
    next_state,
)
from qhybridd.protocol.handshake_messages import (
    HEADER_BYTES,
    MAC_BYTES,
    MAX_HELLO_BYTES,
    MAX_MESSAGE_BYTES,
    Hello,
    Suite,
    check_hello_mac,
    decode_hello,
    decode_proof,
    encode_hello,
    frame_size,
)
from qhybridd.protocol.key_schedule import KeySchedule
from qhybridd.secret import Secret

ALICE, BOB, EVE = Identity.generate(), Identity.generate(), Identity.generate()
BOTH = (Suite.X25519_MLKEM768, Suite.X25519_MLKEM1024)
PSK = b"p" * 32


def pin(identity: Identity, psk: bytes | None = None, *, revoked: bool = False) -> PeerPin:
    name = {ALICE: "alice", BOB: "bob"}.get(identity, "eve")
    return PeerPin(identity.public, name, Secret.adopt(psk) if psk else None, revoked)


def initiator(
    peer: PeerPin | None = None, suites: tuple[Suite, ...] = BOTH, keyed: Suite = BOTH[0], who: Identity = ALICE
) -> Initiator:
    return Initiator(who, peer or pin(BOB), suites, keyed, OsEphemeral())


def responder(*peers: PeerPin, suites: tuple[Suite, ...] = BOTH, who: Identity = BOB) -> Responder:
    pins = peers or (pin(ALICE),)
    return Responder(who, {peer.public.fingerprint: peer for peer in pins}, suites, OsEphemeral())


def refused(code: str, call: Callable[..., object], *args: object) -> None:
    with pytest.raises(PeerError) as caught:
        call(*args)
    assert caught.value.code == code
    assert caught.value.blame == "peer"


def exchange(one: Initiator, other: Responder) -> tuple[Agreed, Agreed]:
    finish, first = one.receive(other.answer(one.begin()))
    return first, other.receive(finish)


def exposed(secret: Secret) -> bytes:
    with secret.expose() as view:
        return bytes(view)


# ---- what works


@pytest.mark.parametrize("suite", Suite)
@pytest.mark.parametrize("psk", [None, PSK])
def test_both_ends_agree(suite: Suite, psk: bytes | None) -> None:
    one, other = initiator(pin(BOB, psk), (suite,), suite), responder(pin(ALICE, psk))
    first, second = exchange(one, other)
    assert first.session.hash == second.session.hash
    assert first.session.exporter == second.session.exporter
    assert (first.session.local, first.session.peer) == (second.session.peer, second.session.local)
    assert first.send_key == second.receive_key
    assert first.receive_key == second.send_key
    assert first.send_key != first.receive_key
    assert (first.peer.name, second.peer.name) == ("bob", "alice")
    assert first.suite is second.suite is suite
    assert first.version == second.version == 1
    assert (one.state, other.state) == (State.AWAIT_UP, State.UP)
    assert first.session.hash != exchange(initiator(), responder())[0].session.hash


def test_either_of_two_pins_is_taken() -> None:
    """While an identity is rolled over, the peer's name has two."""
    old, new = pin(ALICE), replace(pin(EVE), name="alice")
    for who in (ALICE, EVE):
        _, second = exchange(initiator(who=who), responder(old, new))
        assert second.peer.name == "alice"
        assert second.session.peer == who.public.fingerprint


def test_the_dialler_goes_round_pins_and_suites() -> None:
    pins = [pin(ALICE), pin(EVE)]
    assert [attempt(number, pins, BOTH) for number in range(5)] == [
        (pins[0], BOTH[0]),
        (pins[1], BOTH[0]),
        (pins[0], BOTH[1]),
        (pins[1], BOTH[1]),
        (pins[0], BOTH[0]),
    ]


def test_a_second_suite_is_reached_by_going_round() -> None:
    """Bob accepts ML-KEM-1024 only; Alice prefers 768 and her list stays whole."""
    refused("peer.suite", lambda: responder(suites=BOTH[1:]).answer(initiator().begin()))
    first, second = exchange(initiator(keyed=BOTH[1]), responder(suites=BOTH[1:]))
    assert first.session.hash == second.session.hash


# ---- a whole run, against the slow computation of test_key_schedule


class Recording(OsEphemeral):
    """Notes the secrets that the program wipes."""

    __slots__ = ("kem", "x25519")

    def answer(self, code: int, peer_x25519: bytes, ek: bytes) -> KeyAnswer:
        answer = super().answer(code, peer_x25519, ek)
        self.x25519, self.kem = exposed(answer.secrets.x25519), exposed(answer.secrets.kem)
        return answer


@pytest.mark.parametrize("psk", [None, PSK])
def test_a_run_by_hand(psk: bytes | None) -> None:
    """Cut the bytes by fixed offsets, decrypt, verify and derive everything again as the documentation has it."""
    from tests.unit.test_key_schedule import slow

    recording = Recording()
    one = initiator(pin(BOB, psk))
    other = Responder(BOB, {ALICE.public.fingerprint: pin(ALICE, psk)}, BOTH, recording)
    hello = one.begin()
    reply = other.answer(hello)
    finish, agreed = one.receive(reply)
    other.receive(finish)

    assert hello[:3] == b"\x01" + (len(hello) - 3).to_bytes(2, "big")
    assert hello[3:10] == bytes.fromhex("01 02 0001 0002 00")
    assert len(hello) == 3 + 7 + 32 + 32 + 1184 + 48
    assert reply[:4] == b"\x02" + (len(reply) - 3).to_bytes(2, "big") + b"\x01"
    clear_bytes = 4 + 32 + 32 + 1088
    assert len(reply) == clear_bytes + 48 + 3373 + 48 + 16
    assert finish[:3] == b"\x03" + (len(finish) - 3).to_bytes(2, "big")
    assert len(finish) == 3 + 1 + 48 + 3373 + 48 + 16

    given = {
        "hello": hello,
        "reply": reply[:clear_bytes],
        "x25519": recording.x25519,
        "kem": recording.kem,
        "kem code": b"\x02\x01",
        "responder": BOB.public.fingerprint,
        "initiator": ALICE.public.fingerprint,
        "responder signature": b"",
        "initiator signature": b"",
    } | ({"psk": psk} if psk else {})

    def derive() -> dict[str, bytes]:
        values = slow({name: value.hex() for name, value in given.items()})
        return {name: bytes.fromhex(value) for name, value in values.items()}

    text = AESGCM(derive()["reply key"]).decrypt(bytes(12), reply[clear_bytes:], reply[:3])
    assert text[:48] == BOB.public.fingerprint
    given["responder signature"] = text[48:-48]
    assert text[-48:] == derive()["responder finished"]
    BOB.public.verify(Label.RESPONDER_SIGNATURE, derive()["responder signs"], text[48:-48])

    text = AESGCM(derive()["finish key"]).decrypt(bytes(12), finish[3:], finish[:3])
    assert text[:49] == bytes([psk is not None]) + ALICE.public.fingerprint
    given["initiator signature"] = text[49:-48]
    derived = derive()
    assert text[-48:] == derived["initiator finished"]
    ALICE.public.verify(Label.INITIATOR_SIGNATURE, derived["initiator signs"], text[49:-48])

    assert agreed.session.hash == derived["session hash"]
    assert exposed(agreed.session.exporter) == derived["exporter"]
    assert exposed(agreed.send_key) == derived["initiator traffic"]
    assert exposed(agreed.receive_key) == derived["responder traffic"]


# ---- Hello: strangers, versions, suites


def test_a_hello_for_another_gateway_is_refused_before_it_is_read() -> None:
    refused("peer.mac", lambda: responder().answer(initiator(pin(EVE)).begin()))
    refused("peer.mac", lambda: responder().answer(b"\x01\x00\x00"))
    hello = bytearray(initiator().begin())
    for at in range(HEADER_BYTES, len(hello), 40):
        hello[at] ^= 1
        refused("peer.mac", lambda: responder().answer(bytes(hello)))
        hello[at] ^= 1


def hello_with(tail: bytes = b"", **changes: object) -> bytes:
    shares = OsEphemeral().shares(Suite.X25519_MLKEM768.kem)
    hello = Hello(1, (1, 2), 0, bytes(32), shares.x25519, shares.ek + tail)
    return encode_hello(replace(hello, **changes), BOB.public.fingerprint)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"version": 0}, "peer.version"),
        ({"version": 3}, "peer.version"),
        ({"suites": ()}, "peer.malformed"),
        ({"suites": tuple(range(1, 18))}, "peer.malformed"),
        ({"keyed": 2}, "peer.malformed"),
        ({"suites": (0x7777, 1)}, "peer.suite"),
        ({"suites": (1, 2), "keyed": 1}, "peer.malformed"),  # the shares are too short for the second
        ({"suites": (1, 1), "keyed": 1}, "peer.downgrade"),
        ({"ek": b""}, "peer.malformed"),
        ({"ek": b"\xff" * 1184}, "peer.malformed"),
        ({"x25519": bytes(32)}, "peer.malformed"),
        ({"tail": b"\0"}, "peer.malformed"),
    ],
)
def test_a_hello_that_a_peer_got_wrong(changes: dict[str, object], code: str) -> None:
    other = responder()
    refused(code, lambda: other.answer(hello_with(**changes)))  # type: ignore[arg-type]
    assert other.state is State.CLOSED


def test_the_next_version_is_answered_in_this_one() -> None:
    """It may append fields before the MAC."""
    assert responder().answer(hello_with(version=2, tail=b"new field"))[HEADER_BYTES] == 1


def test_downgrade_is_refused() -> None:
    refused("peer.downgrade", lambda: responder().answer(initiator(keyed=BOTH[1]).begin()))


def test_a_suite_unknown_here_does_not_count_as_common() -> None:
    responder().answer(hello_with(suites=(0x7777, 1), keyed=1))


def test_our_own_misuse() -> None:
    with pytest.raises(ProgramError):
        initiator(suites=BOTH[:1], keyed=BOTH[1])
    with pytest.raises(ProgramError):
        initiator(suites=BOTH * 9)


@given(st.binary(max_size=200))
def test_nothing_decodes_by_accident(data: bytes) -> None:
    """Whatever bytes stand under a good MAC: one typed error, or the very fields that encode to them."""
    message = b"\x01" + (len(data) + MAC_BYTES).to_bytes(2, "big") + data
    frame = message + encode_hello_mac(message)
    check_hello_mac(frame, BOB.public.fingerprint)
    with pytest.raises(PeerError):  # 200 bytes hold no key of a KEM
        decode_hello(frame)


def encode_hello_mac(message: bytes) -> bytes:
    label = b"\0\0\0\x0aqhybridd 1\0\0\0\x13handshake/hello mac"
    return hmac.new(BOB.public.fingerprint, label + len(message).to_bytes(4, "big") + message, hashlib.sha384).digest()


@given(st.binary(min_size=3, max_size=3))
def test_frame_sizes_are_bounded(header: bytes) -> None:
    size = 3 + int.from_bytes(header[1:], "big")
    bound = {1: MAX_HELLO_BYTES, 2: MAX_MESSAGE_BYTES, 3: MAX_MESSAGE_BYTES}.get(header[0])
    if bound is None:
        refused("peer.malformed", lambda: frame_size(header))
    elif size > bound:
        refused("peer.oversized", lambda: frame_size(header))
    else:
        assert frame_size(header) == size


# ---- who it is


class TwoFaced:
    """A hostile gateway: shows these public identities in turn, the last one for good, and signs with its own key."""

    def __init__(self, *faces: Identity, signs: Identity) -> None:
        self._faces = [face.public for face in faces]
        self._signs = signs

    @property
    def public(self) -> PublicIdentity:
        return self._faces.pop(0) if len(self._faces) > 1 else self._faces[0]

    def sign(self, label: Label, message: bytes) -> bytes:
        return self._signs.sign(label, message)


class Liar(KeySchedule):
    """Derives everything rightly and gives one wrong finished MAC."""

    __slots__ = ("_about",)

    def __init__(self, about: Label) -> None:
        super().__init__()
        self._about = about

    def finished(self, label: Label) -> bytes:
        return bytes(48) if label is self._about else super().finished(label)


def test_a_responder_without_the_key_of_its_identity() -> None:
    one, other = initiator(), Responder(TwoFaced(BOB, signs=EVE), {}, BOTH, OsEphemeral())
    refused("peer.signature", lambda: one.receive(other.answer(one.begin())))
    assert one.state is State.CLOSED


def test_a_responder_with_another_identity() -> None:
    one, other = initiator(), Responder(TwoFaced(BOB, EVE, signs=EVE), {}, BOTH, OsEphemeral())
    refused("peer.identity", lambda: one.receive(other.answer(one.begin())))


def test_a_revoked_responder() -> None:
    one = initiator(pin(BOB, revoked=True))
    refused("peer.revoked", lambda: one.receive(responder().answer(one.begin())))


def test_a_responder_that_lies_about_the_transcript() -> None:
    one, other = initiator(), responder()
    other._schedule = Liar(Label.RESPONDER_FINISHED)
    refused("peer.mac", lambda: one.receive(other.answer(one.begin())))


def finish_of(one: Initiator, other: Responder) -> bytes:
    finish, _ = one.receive(other.answer(one.begin()))
    return finish


@pytest.mark.parametrize(
    ("who", "peers", "code"),
    [
        (EVE, (pin(ALICE),), "peer.unknown"),
        (ALICE, (pin(ALICE, revoked=True),), "peer.revoked"),
        (TwoFaced(ALICE, signs=EVE), (pin(ALICE),), "peer.signature"),
        (TwoFaced(EVE, BOB, signs=BOB), (pin(ALICE),), "peer.reflection"),
    ],
)
def test_an_initiator_with_a_wrong_identity(who: Identity | TwoFaced, peers: tuple[PeerPin, ...], code: str) -> None:
    other = responder(*peers)
    one = Initiator(who, pin(BOB), BOTH, BOTH[0], OsEphemeral())
    finish = finish_of(one, other)
    refused(code, lambda: other.receive(finish))
    assert other.state is State.CLOSED


@pytest.mark.parametrize(
    ("ours", "theirs", "code"),
    [(PSK, None, "peer.psk"), (None, PSK, "peer.psk"), (PSK, b"q" * 32, "peer.psk")],
)
def test_a_bootstrap_psk_is_required_or_forbidden(ours: bytes | None, theirs: bytes | None, code: str) -> None:
    other = responder(pin(ALICE, ours))
    finish = finish_of(initiator(pin(BOB, theirs)), other)
    refused(code, lambda: other.receive(finish))


def test_an_initiator_that_lies_about_the_transcript() -> None:
    one, other = initiator(), responder()
    liar = Liar(Label.INITIATOR_FINISHED)
    one._schedule = liar
    finish = finish_of(one, other)
    refused("peer.mac", lambda: other.receive(finish))


# ---- replay, reflection, order, alteration


def test_a_replayed_hello_gets_what_cannot_be_used() -> None:
    """The replay of Alice's Hello is answered; her Finish of the first handshake does not fit the second."""
    one, first, second = initiator(), responder(), responder()
    hello = one.begin()
    finish, _ = one.receive(first.answer(hello))
    second.answer(hello)
    refused("peer.mac", lambda: second.receive(finish))
    first.receive(finish)


def test_a_replayed_reply() -> None:
    one, two, other = initiator(), initiator(), responder()
    reply = other.answer(one.begin())
    two.begin()
    refused("peer.mac", lambda: two.receive(reply))
    assert two.state is State.CLOSED


def test_reflection() -> None:
    one = initiator()
    hello = one.begin()
    refused("peer.reflection", lambda: one.receive(hello))
    finish_of_self = initiator(pin(ALICE))
    itself = responder(who=ALICE)
    refused("peer.reflection", lambda: finish_of_self.receive(itself.answer(finish_of_self.begin())))


def test_illegal_events_change_nothing() -> None:
    one, other = initiator(), responder()
    refused("peer.order", lambda: one.receive(b"\x02\0\0"))
    with pytest.raises(ProgramError):
        next_state(State.CLOSED, Input.CLOSE)
    hello = one.begin()
    with pytest.raises(ProgramError):
        one.begin()
    refused("peer.order", lambda: one.receive(initiator().begin()))
    refused("peer.order", lambda: one.receive(b"\x03\0\0"))
    refused("peer.malformed", lambda: one.receive(b"\x09\0\0"))
    refused("peer.malformed", lambda: one.receive(b""))
    refused("peer.order", lambda: other.receive(b"\x03\0\0"))
    refused("peer.order", lambda: other.answer(b"\x02\0\0"))
    reply = other.answer(hello)
    refused("peer.order", lambda: other.answer(hello))
    finish, first = one.receive(reply)
    refused("peer.order", lambda: one.receive(reply))
    assert other.receive(finish).session.hash == first.session.hash
    refused("peer.order", lambda: other.receive(finish))
    one.take(Input.FIRST_RECORD)
    assert one.state is State.UP
    one.close()
    one.close()
    assert one.state is State.CLOSED
    refused("peer.order", lambda: one.take(Input.FRAME))


def test_every_other_pair_of_state_and_event_is_refused() -> None:
    for state in State:
        for event in Input:
            if (state, event) not in TRANSITIONS:
                with pytest.raises((PeerError, ProgramError)) as caught:
                    next_state(state, event)
                assert caught.value.code == ("program.state" if event in (Input.BEGIN, Input.CLOSE) else "peer.order")


def test_every_altered_byte_is_found() -> None:
    """One byte of each field of Reply and Finish; a length is the framing's, and is authenticated here too."""
    one = initiator()
    reply = responder().answer(one.begin())

    def again_at_reply() -> Initiator:
        again = initiator()
        again._hello, again._shares, again.state = one._hello, one._shares, one.state
        again._schedule.add(one._hello)
        return again

    for at in (1, 2, 3, 4, 36, 67, 68, 1155, 1156, 1204, 1300, len(reply) - 17, len(reply) - 1):
        bad = bytearray(reply)
        bad[at] ^= 1
        refused("peer.version" if at == 3 else "peer.mac", again_at_reply().receive, bytes(bad))
    for bad_reply in (reply[:-1], reply + b"\0", reply[:3], reply[:100]):
        refused("peer.malformed", again_at_reply().receive, bad_reply)
    for at in (1, 2, 3, 4, 60, 3400, -17, -1, None):
        other = responder()
        bad = bytearray(finish_of(initiator(), other))
        if at is None:
            bad.append(0)
        else:
            bad[at] ^= 1
        refused("peer.mac", other.receive, bytes(bad))


def sealed_finish(text: bytes) -> tuple[Responder, bytes]:
    """A Finish with this text, sealed with the right key."""
    other = responder()
    one = initiator()
    one.begin()
    other.answer(one._hello)
    header = b"\x03" + (len(text) + 16).to_bytes(2, "big")
    return other, header + Sealer(other._schedule.sealing_key(Label.FINISH_KEY)).seal(text, header)


@pytest.mark.parametrize(
    "text", [b"", b"\0", b"\0" + bytes(48 + SIGNATURE_BYTES + 47), bytes(5000), b"\2" + bytes(3469)]
)
def test_a_finish_of_a_wrong_shape(text: bytes) -> None:
    other, finish = sealed_finish(text)
    refused("peer.malformed", lambda: other.receive(finish))


@given(st.binary(max_size=4000))
def test_proofs_have_one_length(data: bytes) -> None:
    if len(data) != 3469:
        refused("peer.malformed", lambda: decode_proof(data))


# ---- what is left behind


def test_a_failed_handshake_holds_no_secret() -> None:
    one, other = initiator(), responder()
    reply = other.answer(one.begin())
    assert not other._schedule._key.is_zero
    refused("peer.mac", lambda: other.receive(b"\x03\0\x10" + bytes(16)))
    assert other._schedule._key.is_zero
    refused("peer.mac", lambda: one.receive(reply[:-1] + bytes([reply[-1] ^ 1])))
    assert one._schedule._key.is_zero
    assert one._shares is None


def test_a_foreign_private_half_is_refused() -> None:
    ephemeral = OsEphemeral()
    with pytest.raises(ProgramError):
        ephemeral.open(0x0201, object(), bytes(32), bytes(1088))


def test_the_documentation_draws_the_table() -> None:
    text = (Path(__file__).parents[2] / "docs" / "handshake.md").read_text()
    rows = [
        f"| {state.value} | {event.value} | {after.value} |"
        for (state, event), after in TRANSITIONS.items()
        if event is not Input.CLOSE
    ]
    assert [row for row in text.splitlines() if row in rows] == rows
