"""Two ends of one link in one event loop: real photons over loopback, real distillation, real stores."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from qhybridd.config.records import Endpoint, LinkConfig
from qhybridd.distill.authenticate import Role
from qhybridd.errors import PeerError
from qhybridd.links import messages as msg
from qhybridd.links.alice import AliceEnd
from qhybridd.links.bob import BobEnd
from qhybridd.links.link import LinkEnd
from qhybridd.optics.parameters import Detector, Fibre, Optics, Receiver, Source
from qhybridd.secret import Secret
from qhybridd.telemetry.log import Log
from tests.unit.daemons import Lines

PSK = bytes(range(1, 33))
OPTICS = Optics(
    source=Source(intensities=(0.2, 0.07), intensity_probabilities=(0.5, 0.5), key_basis_probability=0.4),
    fibre=Fibre(length_km=5.0, drift_rad_per_sqrt_s=0.0),
    receiver=Receiver(
        detectors=(Detector(dark_hz=50.0), Detector(dark_hz=50.0, efficiency=0.19)), visibility=0.99, dead_time_ns=5.0
    ),
)
"""A short link with good detectors: small blocks give a key under a secrecy that only a test accepts."""
LINK = LinkConfig(
    name="north",
    peer="bob",
    role=Role.ALICE,
    psk=Path("unused"),
    photons=Endpoint("127.0.0.1", 0),
    simulation=OPTICS,
    epsilon_sec=1e-2,
    block_clicks=60_000,
)


@dataclass(eq=False)
class Cable:
    """One end's carrier: what it is told arrives at the other end, in order, a turn of the loop later."""

    lines: Lines = field(default_factory=Lines)
    end: LinkEnd | None = None
    other: "Cable | None" = None
    sessions: set[bytes] = field(default_factory=set)
    claimed: set[tuple[bytes, str]] = field(default_factory=set)
    renewals: int = 0
    can_dial: bool = True
    spoil: Callable[[msg.Message], list[msg.Message]] = lambda message: [message]
    """What arrives of what this end sends."""
    sent: list[msg.Message] = field(default_factory=list)

    def claim(self, session: bytes, link: str) -> bool:
        fresh = (session, link) not in self.claimed
        self.claimed.add((session, link))
        return fresh

    def tell(self, session: bytes, message: msg.Message) -> None:
        self.sent.append(message)
        for passed in self.spoil(message):
            asyncio.get_running_loop().call_soon(self._arrive, session, msg.encode(passed))

    def _arrive(self, session: bytes, data: bytes) -> None:
        assert self.other is not None
        if session in self.other.sessions and self.other.end is not None:
            self.other.end.receive(session, msg.decode(data))

    async def pass_on(self, session: bytes, message: msg.Message) -> None:
        if session not in self.sessions:
            raise PeerError("peer.closed", "the session ended before the message was sent")
        self.tell(session, message)
        await asyncio.sleep(0)

    def renew(self) -> bool:
        self.renewals += self.can_dial
        return self.can_dial


@dataclass(eq=False)
class World:
    """Both ends."""

    alice: AliceEnd
    bob: BobEnd
    hers: Cable
    his: Cable

    def session(self, number: int) -> bytes:
        """A session comes up at both ends."""
        name = number.to_bytes(48, "big")
        for cable in (self.hers, self.his):
            cable.sessions.add(name)
        for cable in (self.hers, self.his):
            assert cable.end is not None
            cable.end.session_up(name)
        return name

    def cut(self, session: bytes) -> None:
        """It ends."""
        for cable in (self.hers, self.his):
            cable.sessions.discard(session)
            assert cable.end is not None
            cable.end.session_down(session)


@asynccontextmanager
async def world(
    config: LinkConfig = LINK, bobs: LinkConfig | None = None, *, paced: bool = False
) -> AsyncIterator[World]:
    """Both ends, started, without a session."""
    hers, his = Cable(), Cable()
    hers.other, his.other = his, hers
    alice = AliceEnd(config, Secret.adopt(PSK), Log(hers.lines), 0, paced=paced)
    await alice.start()
    theirs = replace(
        bobs or config,
        role=(bobs or replace(config, role=Role.BOB)).role,
        peer="alice",
        photons=Endpoint("127.0.0.1", alice.photons_port),
    )
    bob = BobEnd(theirs, Secret.adopt(PSK), Log(his.lines), 0)
    await bob.start()
    hers.end, his.end = alice, bob
    alice.carrier, bob.carrier = hers, his
    try:
        yield World(alice, bob, hers, his)
    finally:
        await bob.stop()
        await alice.stop()


async def until(
    condition: Callable[[], object], meanwhile: Callable[[], None] = lambda: None, timeout_s: float = 40.0
) -> None:
    """Wait until it holds."""
    async with asyncio.timeout(timeout_s):
        while not condition():
            meanwhile()
            await asyncio.sleep(0.01)
