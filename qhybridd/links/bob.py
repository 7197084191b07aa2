"""Bob's end of a link: he detects, judges his instruments, asks for each block to be distilled, and keeps first."""

import asyncio
from collections import OrderedDict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Final

import msgspec

from qhybridd.clock import boottime
from qhybridd.config.records import LinkConfig
from qhybridd.distill.authenticate import Role
from qhybridd.distill.bob import Bob
from qhybridd.distill.estimate import check_length
from qhybridd.distill.session import Block, Kept
from qhybridd.distill.terms import Terms
from qhybridd.errors import HostError, PeerError, ProgramError, QhybriddError
from qhybridd.links import messages as msg
from qhybridd.links.breaking import StationBreaking
from qhybridd.links.contact import Contact
from qhybridd.links.link import LinkEnd
from qhybridd.links.photon_frames import Announce
from qhybridd.links.photons import PhotonReceiver
from qhybridd.links.planning import lay_out
from qhybridd.links.progress import told
from qhybridd.links.talk import SILENCE_S, Talk
from qhybridd.optics.randomness import Randomness
from qhybridd.optics.receiver import Station, assemble, judge
from qhybridd.optics.records import Arrivals, Clicks, Detections, Health, Request
from qhybridd.secret import Secret
from qhybridd.status import FaultRequest, LinkStatus
from qhybridd.telemetry.log import Log

BLOCKS_WAITING: Final = 2
"""Finished blocks that may wait for distillation; then nothing more is read of the photon stream."""
CALIBRATING_MOST: Final = 0.05
"""Share of a block's frames that may be lost to a calibration; beyond that the terms would call it an outage."""
SESSION_S: Final = 10.0
"""So long a block waits for a session; then it is given up."""
RUNS_KEPT: Final = 3
PLANS_KEPT: Final = 64
"""Of one run."""
LAYOUT_TOLERANCE: Final = 1e-6
"""Relative difference of the pulses of a block that two ends' mathematical libraries may make."""


@dataclass(slots=True)
class Finished:
    """The detections of one block."""

    run: bytes
    block: int
    frames: list[Detections]


class Collector:
    """The photon stream's sink: collects detections into blocks."""

    def __init__(self, end: "BobEnd", station: Station) -> None:
        self.health: Health | None = None
        """Of the last frame."""
        self._end, self._station = end, station
        self._executor = ThreadPoolExecutor(1, "detect")
        self._announce: Announce | None = None
        self._frames: list[Detections] = []
        self._block = 0

    async def begin(self, announce: Announce) -> None:
        """A new run. Raises `PeerError` (link.photons) where its blocks are not those of this link."""
        mine, theirs = self._end.layout, announce.layout
        if (
            theirs.repetition_hz != mine.repetition_hz
            or theirs.block_frames != mine.block_frames
            or abs(theirs.frame_pulses - mine.frame_pulses) > LAYOUT_TOLERANCE * mine.frame_pulses
        ):
            raise PeerError("link.photons", "the photons come in other blocks than this link's")
        self._announce, self._block = announce, 0
        self._drop_frames()

    async def frame(self, arrivals: Arrivals) -> None:
        """The next frame; while it is worked on, or too many blocks wait, nothing more is read."""
        assert self._announce is not None
        detecting = asyncio.get_running_loop().run_in_executor(self._executor, self._station.detect, arrivals)
        try:
            detections = await asyncio.shield(detecting)
        except asyncio.CancelledError:
            await asyncio.wait([detecting])
            if detecting.exception() is None:
                wipe([detecting.result()])
            self._drop_frames()
            raise
        self.health = detections.health
        self._frames.append(detections)
        if len(self._frames) == self._announce.layout.block_frames:
            finished = Finished(self._announce.run, self._block, self._frames)
            self._frames, self._block = [], self._block + 1
            try:
                await self._end.finished.put(finished)
            except asyncio.CancelledError:
                wipe(finished.frames)
                raise

    async def lost(self, error: QhybriddError) -> None:
        """The stream ended: what was begun is of no use."""
        if self._frames:
            assert self._announce is not None
            self._end.skip(self._announce.run, self._block, error)
        self._end.progress.trouble = error
        self._drop_frames()

    def close(self) -> None:
        """Forget everything."""
        self._drop_frames()
        self._executor.shutdown(wait=False)

    def _drop_frames(self) -> None:
        wipe(self._frames)
        self._frames = []


class BobEnd(LinkEnd):
    """The end with the detectors."""

    role = Role.BOB

    def __init__(self, config: LinkConfig, psk: Secret, log: Log, mark: int) -> None:
        """`mark`: of the photon socket. Raises `OperatorError` (config.value) for a link on which nothing arrives."""
        optics = config.simulation
        super().__init__(config, psk, lay_out(optics, config.block_clicks), log)
        self.finished: asyncio.Queue[Finished] = asyncio.Queue(BLOCKS_WAITING)
        self._protocol = config.protocol
        self._station = Station(optics.receiver, optics.source, Randomness.from_system())
        self._faults = StationBreaking(self._station)
        self._collector = Collector(self, self._station)
        request = Request(thinning=self._station.thinning)
        self._receiver = PhotonReceiver(config.photons, mark, request, self._collector, self._log)
        self._photons: asyncio.Task[None] | None = None
        self._plans: OrderedDict[bytes, list[tuple[int, Terms]]] = OrderedDict()
        self._asked: tuple[bytes, bytes, int] | None = None
        """Session, run and number of the block that Alice was asked for."""
        self._answer: asyncio.Future[tuple[Talk, Contact]] | None = None

    async def stop(self) -> None:
        """Unplug the fibre first."""
        if self._photons is not None:
            self._photons.cancel()
            await asyncio.gather(self._photons, return_exceptions=True)
        await super().stop()
        self._collector.close()
        while not self.finished.empty():
            wipe(self.finished.get_nowait().frames)

    # ---- photons

    def _look(self) -> None:
        """Photons flow while the other end fits: without it nothing could come of them."""
        super()._look()
        wanted = self._current is not None and self._current.met and not self._stopped
        if wanted and self._photons is None:
            self._photons = asyncio.get_running_loop().create_task(self._receiver.run())
        elif self._refusal is not None and self._photons is not None:
            self._photons.cancel()
            self._photons = None

    @property
    def _connected(self) -> bool:
        return self._receiver.connected

    def skip(self, run: bytes, block: int, error: QhybriddError) -> None:
        """A block is of no use: tell Alice."""
        self._drop(error)
        if self._current is not None:
            self.carrier.tell(self._current.session, msg.Skip(self.config.name, run, block, error.code))

    # ---- blocks

    def _on_met(self) -> None:
        pass

    def _on_message(self, contact: Contact, message: msg.Message) -> None:
        match message:
            case msg.Plan():
                self._on_plan(message)
            case msg.Begin():
                self._on_begin(contact, message)
            case msg.Skip(_, run, block, code) if self._asked == (contact.session, run, block):
                self._fail_answer(told(code, f"Alice cannot use block {block}"))
            case msg.Stored(_, key_id):
                self.store.confirm(key_id, boottime())
                self._changed()
            case _:
                self._log.debug("for alice", message=type(message).__name__)

    def _on_plan(self, plan: msg.Plan) -> None:
        try:
            terms = self._check_plan(plan)
        except PeerError as error:
            self._log.repeated("plan refused", error)
            return
        plans = self._plans.setdefault(plan.run, [])
        plans[:] = [(first, old) for first, old in plans if first != plan.first_block][-PLANS_KEPT + 1 :]
        plans.append((plan.first_block, terms))
        plans.sort(key=lambda entry: entry[0])
        while len(self._plans) > RUNS_KEPT:
            self._plans.popitem(last=False)

    def _check_plan(self, plan: msg.Plan) -> Terms:
        terms = msg.terms_of(plan.terms, self._protocol)
        if not 0 < terms.key_bits <= terms.key_clicks_least <= terms.pulses:
            raise PeerError("link.terms", f"Alice plans a key of {terms.key_bits} bits from {terms.key_clicks_least}")
        try:
            check_length(terms)
        except ProgramError as error:
            raise PeerError("link.terms", error.message) from None
        return terms

    def _terms_of(self, run: bytes, block: int) -> Terms | None:
        return next((terms for first, terms in reversed(self._plans.get(run, [])) if first <= block), None)

    def _on_begin(self, contact: Contact, begin: msg.Begin) -> None:
        """At once, since Alice's first part is right behind."""
        if self._asked != (contact.session, begin.run, begin.block) or self._answer is None or self._answer.done():
            return
        if contact.keys is None or begin.number <= contact.number:
            self._fail_answer(PeerError("link.order", f"block number {begin.number} after {contact.number}"))
            return
        contact.number = begin.number
        self._talk = Talk(contact.session, begin.number, self._message_bytes)
        self._answer.set_result((self._talk, contact))

    def _fail_answer(self, error: QhybriddError) -> None:
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(error)

    async def _next_block(self) -> None:
        finished = await self.finished.get()
        try:
            self._judge([frame.health for frame in finished.frames])
            pulses = sum(frame.pulses for frame in finished.frames)
            clicks = await self._work(assemble, finished.frames, pulses)
            try:
                await self._distil_clicks(await self._wait_for_contact(), finished, clicks)
            finally:
                clicks.bits.wipe()
        except QhybriddError as error:
            self.skip(finished.run, finished.block, error)
        finally:
            wipe(finished.frames)

    def _judge(self, healths: Sequence[Health]) -> None:
        verdict = judge(self.config.simulation.receiver, healths)
        if verdict is not None:
            raise PeerError(*verdict)
        if sum(health.calibrating for health in healths) > CALIBRATING_MOST * len(healths):
            raise HostError("link.calibration", "the receiver calibrated itself")

    async def _wait_for_contact(self) -> Contact:
        try:
            async with asyncio.timeout(SESSION_S):
                await self._usable.wait()
        except TimeoutError:
            if self._current is not None and self._current.met:
                self._renew(self._current)
            raise PeerError("link.pads", "no session with pads for another block") from None
        assert self._current is not None
        return self._current

    async def _distil_clicks(self, contact: Contact, finished: Finished, clicks: Clicks) -> None:
        run, block = finished.run, finished.block
        self._asked = contact.session, run, block
        self._answer = asyncio.get_running_loop().create_future()
        self.carrier.tell(contact.session, msg.Ready(self.config.name, run, block))
        try:
            async with asyncio.timeout(SILENCE_S):
                talk, contact = await self._answer
        except TimeoutError:
            self._talk = None  # her answer may have come in the same turn
            raise PeerError("link.aborted", f"Alice did not answer for {SILENCE_S:g} s") from None
        except PeerError as error:  # she knows
            self._drop(error)
            self._after(contact)
            return
        finally:
            self._asked = None
        try:
            assert contact.keys is not None
            terms = self._terms_of(run, block)
            if terms is None or terms.pulses != clicks.pulses:
                raise PeerError("link.terms", "Alice planned nothing for this block, or another one")
            session = Bob(Block(talk.number, terms), clicks, contact.keys)
        except QhybriddError:
            self._talk = None
            raise
        await self._distil(contact, talk, session)

    def _on_kept(self, contact: Contact, kept: Kept) -> None:
        """Only once Alice has it too it counts."""

    def session_down(self, session: bytes) -> None:
        """Nobody answers any more."""
        super().session_down(session)
        if self._asked is not None and self._asked[0] == session:
            self._fail_answer(PeerError("link.aborted", "the session ended"))

    # ---- faults and status

    def fault(self, request: FaultRequest) -> None:
        """Efficiency, dark, clock."""
        self._faults.change(request)

    @property
    def faults(self) -> list[str]:
        """What is broken on purpose, in words."""
        return self._faults.told

    def status(self) -> LinkStatus:
        """With what the instruments say."""
        status, health = super().status(), self._collector.health
        if health is None:
            return status
        return msgspec.structs.replace(
            status,
            angle_rad=health.angle_rad,
            current_a=max(health.current_a),
            synchronised=health.synchronised,
        )


def wipe(frames: Sequence[Detections]) -> None:
    """Overwrite the bits."""
    for frame in frames:
        if frame.bits.flags.writeable:
            frame.bits.fill(0)
