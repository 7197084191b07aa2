"""Two real ends of a connection in memory, and what the tests ask about them."""

import gc
from types import FunctionType, ModuleType

from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from qhybridd.crypto.ephemeral import KeyShares, OsEphemeral
from qhybridd.crypto.identity import Identity
from qhybridd.errors import PeerError
from qhybridd.protocol.connection import (
    Closed,
    Connection,
    Established,
    Event,
)
from qhybridd.protocol.handshake import PeerPin, State
from qhybridd.protocol.handshake_messages import Suite
from qhybridd.secret import Secret

ALICE, BOB, EVE = Identity.generate(), Identity.generate(), Identity.generate()
BOTH = (Suite.X25519_MLKEM768, Suite.X25519_MLKEM1024)


def pin(identity: Identity, psk: bytes | None = None, *, revoked: bool = False) -> PeerPin:
    name = {ALICE: "alice", BOB: "bob"}.get(identity, "eve")
    return PeerPin(identity.public, name, Secret.adopt(psk) if psk else None, revoked)


class Ends:
    """Alice dials Bob; `cross` carries bytes, `events` keeps what each end said."""

    def __init__(
        self,
        *,
        bob: PeerPin | None = None,
        peers: tuple[PeerPin, ...] = (),
        keyed: Suite = BOTH[0],
        accepted: tuple[Suite, ...] = BOTH,
        who: Identity = ALICE,
        other: Identity = BOB,
    ) -> None:
        pins = {one.public.fingerprint: one for one in peers or (pin(ALICE),)}
        ephemeral = OsEphemeral()
        self.dialling = Connection.dial(who, bob or pin(other), BOTH, keyed, ephemeral=ephemeral, now=0.0)
        self.dialled = Connection.accept(other, pins, accepted, ephemeral=ephemeral, now=0.0)
        self.events: dict[Connection, list[Event]] = {self.dialling: [], self.dialled: []}

    def feed(self, end: Connection, data: bytes, now: float = 0.0) -> list[Event]:
        events = end.receive(data, now)
        self.events[end] += events
        return events

    def cross(self, now: float = 0.0) -> "Ends":
        """Carry everything both ways until both are quiet."""
        while (one := self.dialling.data_to_send()) + (other := self.dialled.data_to_send()):
            self.feed(self.dialled, one, now)
            self.feed(self.dialling, other, now)
        return self

    def eof(self) -> "Ends":
        for end, events in self.events.items():
            events += end.eof(0.0)
        return self

    def established(self, end: Connection) -> Established | None:
        return next((event for event in self.events[end] if isinstance(event, Established)), None)

    def error(self, end: Connection) -> str | None:
        """The code of the one `Closed`; None if there was none, or a goodbye."""
        closed = [event for event in self.events[end] if isinstance(event, Closed)]
        assert len(closed) <= 1
        if not closed:
            return None
        assert isinstance(self.events[end][-1], Closed)
        error = closed[0].error
        if error is None:
            return "goodbye"
        assert error.blame == ("peer" if isinstance(error, PeerError) else "host")
        return error.code


def up() -> Ends:
    ends = Ends().cross()
    assert ends.dialling.state is ends.dialled.state is State.UP
    return ends


def code_of(events: list[Event]) -> str | None:
    (event,) = events
    assert isinstance(event, Closed)
    return event.error and event.error.code


def holds_secrets(*roots: object) -> bool:
    """Whether a cipher, a private half or a secret that is not wiped can be reached, but for configured ones."""
    seen, todo = {id(ALICE), id(BOB), id(EVE)}, list(roots)
    while todo:
        thing = todo.pop()
        if id(thing) in seen or isinstance(thing, type | PeerPin | ModuleType | FunctionType):
            continue
        seen.add(id(thing))
        if isinstance(thing, AESGCM | KeyShares) or (isinstance(thing, Secret) and not thing.is_zero):
            return True
        todo += gc.get_referents(thing)
    return False
