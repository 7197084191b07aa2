"""The relay: a lower end towards Alice, an upper end towards Bob, and an attack between them.

Each time Bob dials she dials Alice, and asks for what her attack needs to give Bob what he asked for. Alice's
announcement goes on to Bob as it is; at most `FRAMES_WAITING` frames wait here, so that a slow Bob slows Alice down.
"""

import asyncio
import math
import queue
from collections.abc import Callable
from concurrent.futures import CancelledError
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

from qhybridd.apps.eve.copy import Copy
from qhybridd.config.records import Endpoint
from qhybridd.errors import PeerError, QhybriddError
from qhybridd.links.photon_frames import Announce
from qhybridd.links.photons import PhotonReceiver, PhotonServer
from qhybridd.optics.eve import Attack, Tally, make_attack
from qhybridd.optics.parameters import Fibre, Optics, Receiver, Source
from qhybridd.optics.randomness import Randomness
from qhybridd.optics.records import Arrivals, Request
from qhybridd.telemetry.log import Log

FRAMES_WAITING: Final = 2
ANSWER_S: Final = 15.0
"""How long Alice may take to answer: her dial and her greeting."""
DIALS: Final = 2
"""The second with what the first one's announcement told of the fibre."""
LOSS_MOST_DB: Final = 190.0
"""More than any fibre has; it keeps an announced transmission of nothing tame."""


@dataclass(frozen=True, slots=True)
class Knowledge:
    """What she knows beforehand, as anybody can: the protocol's numbers and the receiver's data sheet."""

    attack: str
    fraction: float
    source: Source
    receiver: Receiver

    def attack_on(self, transmission: float, randomness: Randomness) -> Attack:
        """The attack on a fibre with this transmission. Raises `OperatorError` (config.value)."""
        return make_attack(self.attack, self.optics_with(transmission), self.fraction, randomness)

    def optics_with(self, transmission: float) -> Optics:
        """The link over a fibre that she knows nothing else of."""
        loss_db = min(-10 * math.log10(max(transmission, 1e-30)), LOSS_MOST_DB)
        fibre = Fibre(length_km=loss_db / Fibre().loss_db_per_km, connectors=0, splice_db=0.0)
        return Optics(self.source, fibre, self.receiver)


class Relay:
    """Bob's connections, each with one of its own to Alice. Used from the event loop."""

    def __init__(
        self, listen: Endpoint, connect: Endpoint, knowledge: Knowledge, log: Log, tell: Callable[[str], None]
    ) -> None:
        """`tell` hears what happens, for people. Raises `OperatorError` (config.value) for an unknown attack."""
        self.copy: Copy | None = None
        """Where the bytes from Alice are copied to, if anywhere."""
        self._connect, self._knowledge, self._log, self._tell = connect, knowledge, log, tell
        self._server = PhotonServer(listen, 0, self._begin, log, paced=False)  # Alice paces
        self._transmission = 1.0
        self._past = Tally()
        self._attack = knowledge.attack_on(1.0, Randomness.from_system())
        self._loop: asyncio.AbstractEventLoop | None = None
        self._passage: Passage | None = None
        self._closed = False

    @property
    def listening(self) -> Endpoint:
        """Where she waits for Bob, once open."""
        return self._server.endpoint

    @property
    def connected(self) -> bool:
        """Whether light goes through her."""
        return self._server.connected

    @property
    def tally(self) -> Tally:
        """Of all connections so far."""
        return self._past + self._attack.tally

    async def open(self) -> None:
        """Wait for Bob. Raises `HostError` (host.socket)."""
        self._loop = asyncio.get_running_loop()
        await self._server.open()

    async def close(self) -> None:
        """Cut both sides."""
        self._closed = True
        if self._passage is not None:
            self._passage.close()
        await self._server.close()

    # ---- inside

    def _begin(self, request: Request) -> "Passage":
        """In the server's worker thread: a way for Bob's new connection."""
        assert self._loop is not None
        try:
            return asyncio.run_coroutine_threadsafe(self._dial(request), self._loop).result()
        except (CancelledError, RuntimeError):
            raise _over() from None

    async def _dial(self, request: Request) -> "Passage":
        """Ask Alice for what the attack needs, which rests on what her announcement says of the fibre."""
        for _ in range(DIALS):
            attack = self._knowledge.attack_on(self._transmission, Randomness.from_system())
            passage = Passage(self._connect, request, attack, self.copy, self._log)
            if self._closed:
                raise _over()
            self._passage = passage
            try:
                await passage.open()
            except QhybriddError as error:
                self._tell(f"Bob dials, and Alice does not answer: {error.message}")
                raise
            asked, self._transmission = attack.request(request), passage.announce.transmission
            passage.attack = self._knowledge.attack_on(self._transmission, Randomness.from_system())
            if passage.attack.request(request) == asked:
                self._past += self._attack.tally
                self._attack = passage.attack
                self._tell(f"light goes through: {_describe(passage.announce)}")
                return passage
            passage.close()
        raise PeerError("link.photons", "the announced transmission changes with every dial")


class Passage:
    """One way from Alice to Bob: her photon sink, and a source of frames for his connection."""

    def __init__(self, connect: Endpoint, below: Request, attack: Attack, copy: Copy | None, log: Log) -> None:
        """`below` is what Bob asked for."""
        self.announce: Announce
        self.attack = attack
        """It may be changed before the first frame is asked for, to one with the same request."""
        self._below, self._copy = below, copy
        self._receiver = PhotonReceiver(connect, 0, attack.request(below), self, log)
        self._loop = asyncio.get_running_loop()
        self._answer: asyncio.Future[Announce] = self._loop.create_future()
        self._room = asyncio.Semaphore(FRAMES_WAITING)
        self._waiting: queue.SimpleQueue[Arrivals | QhybriddError] = queue.SimpleQueue()
        self._task: asyncio.Task[None] | None = None

    async def open(self) -> None:
        """Dial. Raises `PeerError` or `HostError` for whatever keeps Alice from answering."""
        self._task = asyncio.create_task(self._receiver.run())
        try:
            async with asyncio.timeout(ANSWER_S):
                self.announce = await self._answer
        except TimeoutError:
            self.close()
            raise PeerError("link.photons", f"no answer in {ANSWER_S:g} s") from None

    # ---- the photon sink, in the event loop

    async def begin(self, announce: Announce) -> None:
        """Alice answered."""
        if self._copy is not None:
            self._copy.begin(announce)
        if not self._answer.done():
            self._answer.set_result(announce)

    async def frame(self, arrivals: Arrivals) -> None:
        """A frame of hers; it waits until there is room for it."""
        await self._room.acquire()
        self._waiting.put(arrivals)

    async def lost(self, error: QhybriddError) -> None:
        """The way ends: Bob dials again, and with him she does."""
        if not self._answer.done():
            self._answer.set_exception(error)
        self._waiting.put(error)
        if self._task is not None:
            self._task.cancel()

    # ---- the source of frames

    def next_frame(self) -> Arrivals:
        """In a worker thread: what goes on to Bob of the next one."""
        came = self._waiting.get()
        if isinstance(came, QhybriddError):
            raise came
        with suppress(RuntimeError):  # the loop is closed: so is all the rest
            self._loop.call_soon_threadsafe(self._room.release)
        if self._copy is not None:
            self._copy.frame(came)
        return self.attack.act(came, self._below)

    def close(self) -> None:
        """Hang up on Alice, and wake who waits for her frames. Twice does no harm."""
        if self._task is not None:
            self._task.cancel()
        if not self._answer.done():
            self._answer.set_exception(_over())
        self._waiting.put(_over())


def _over() -> PeerError:
    return PeerError("link.photons", "the way through her is closed")


def _describe(announce: Announce) -> str:
    loss_db = -10 * math.log10(announce.transmission) if announce.transmission else math.inf
    return f"{announce.layout.repetition_hz:.3g} pulses a second, a fibre of {loss_db:.1f} dB"
