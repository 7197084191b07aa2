"""Alice's end of a link: she shines, plans the terms, opens each block when Bob has its clicks, and keeps last."""

import asyncio
import os
import threading
from collections import deque
from dataclasses import replace
from typing import Final

from qhybridd.clock import boottime
from qhybridd.config.records import LinkConfig
from qhybridd.distill.alice import Alice
from qhybridd.distill.authenticate import Role
from qhybridd.distill.messages import wire_terms
from qhybridd.distill.session import Block, Kept
from qhybridd.distill.terms import Terms
from qhybridd.errors import HostError, PeerError, QhybriddError
from qhybridd.links import messages as msg
from qhybridd.links.breaking import LineBreaking
from qhybridd.links.contact import Contact
from qhybridd.links.link import LinkEnd
from qhybridd.links.photon_frames import MAX_ARRIVALS, Announce
from qhybridd.links.photons import PhotonServer
from qhybridd.links.planning import Planner, lay_out
from qhybridd.links.progress import told
from qhybridd.links.talk import Talk
from qhybridd.optics.line import Line
from qhybridd.optics.randomness import Randomness
from qhybridd.optics.records import Arrivals, Layout, Prepared, Request
from qhybridd.optics.source import lit_probability
from qhybridd.secret import Secret
from qhybridd.status import FaultRequest
from qhybridd.telemetry.log import Log

RETRY_S: Final = 5.0
"""Between two tries to listen where something else holds the address."""
RUNS_KEPT: Final = 2
"""Bob may still work on blocks of the run before this one."""


def _too_little() -> HostError:
    hint = "Take larger blocks (`block_clicks`), a shorter fibre or a weaker epsilon_sec."
    return HostError("link.outage", "blocks of this size pay for no key on this link", hint=hint)


class Lamp:
    """The line, for the thread that shines and the one that remembers."""

    def __init__(self, line: Line) -> None:
        self.line = line
        self.lock = threading.Lock()
        self.next_pulse = 0
        """No number of a pulse comes twice: her choices are a function of it."""


class PulseRun:
    """The pulses of one connection. `next_frame` is called in a thread of the stream's."""

    def __init__(self, lamp: Lamp, layout: Layout, transmission: float, request: Request, terms: Terms | None) -> None:
        self.announce = Announce(os.urandom(msg.RUN_BYTES), layout, transmission)
        self._lamp, self._layout, self._request = lamp, layout, request
        self._counting = threading.Lock()
        """Around the number of frames alone: the event loop never waits for light to be worked out."""
        self._frames = 0
        """That were begun."""
        self._heard = -1
        """The last block that Bob spoke of: none is distilled twice."""
        self._plans: list[tuple[int, Terms | None]] = [(0, terms)]
        """Terms, and the block from which on they hold."""
        with lamp.lock:
            self._base = lamp.next_pulse
        self._over = False

    def next_frame(self) -> Arrivals:
        """The next one. Raises `HostError` once the run is over."""
        lamp, pulses = self._lamp, self._layout.frame_pulses
        with lamp.lock:
            first = self._frames * pulses
            if self._over or self._base + first != lamp.next_pulse:  # another run has gone on with the numbers
                raise HostError("link.photons", "the photon stream was closed")
            with self._counting:
                self._frames += 1
            lamp.next_pulse = self._base + first + pulses
            arrivals = lamp.line.frame(self._base + first, pulses, self._request)
        return replace(arrivals, first=first)

    def close(self) -> None:
        """The connection is over; blocks that were sent whole can still be recalled."""
        self._over = True

    # ---- the distillation's side

    def plan(self, terms: Terms | None) -> int:
        """Hold the blocks that are not begun yet to these terms; gives the number of the first."""
        with self._counting:
            first = -(-self._frames // self._layout.block_frames)
            self._plans.append((first, terms))
        return first

    @property
    def plans(self) -> list[tuple[int, Terms | None]]:
        """What holds from which block on."""
        return self._plans

    def take(self, block: int) -> Terms | None:
        """The terms of a block whose turn it is; None where there were none to be had.

        Raises `PeerError` (link.order) for one that is not emitted yet, or was taken or passed before.
        """
        with self._counting:
            emitted = self._frames // self._layout.block_frames
        if not self._heard < block < emitted:
            raise PeerError("link.order", f"block {block} after {self._heard}, of {emitted} emitted")
        self._heard = block
        while len(self._plans) > 1 and self._plans[1][0] <= block:
            del self._plans[0]
        return self._plans[0][1]

    def emissions(self, block: int) -> "Emissions":
        """Her memory of a block."""
        pulses = self._layout.block_pulses
        return Emissions(self._lamp, self._base + block * pulses, pulses)


class Emissions:
    """What was prepared in one block: a `distill.sift.Emissions`."""

    def __init__(self, lamp: Lamp, first: int, pulses: int) -> None:
        self._lamp, self._first, self._pulses = lamp, first, pulses

    def recall(self, gaps: bytes | memoryview) -> Prepared:
        """As there."""
        with self._lamp.lock:
            return self._lamp.line.recall(self._first, self._pulses, gaps)


class AliceEnd(LinkEnd):
    """The end with the source."""

    role = Role.ALICE

    def __init__(self, config: LinkConfig, psk: Secret, log: Log, mark: int, *, paced: bool = True) -> None:
        """`mark`: of the photon sockets. `paced`: in the link's own time, else as fast as both ends can.

        Raises `OperatorError` (config.value) for a link on which nothing arrives.
        """
        optics = config.simulation
        layout = lay_out(optics, config.block_clicks)
        super().__init__(config, psk, layout, log)
        randomness = Randomness.from_system()
        line = Line(optics, randomness)
        self._lamp, self._faults = Lamp(line), LineBreaking(line, optics, randomness.child("eve"))
        self._planner = Planner(config.protocol, optics, layout.block_pulses)
        self._runs: deque[PulseRun] = deque(maxlen=RUNS_KEPT)
        self._asked: tuple[Contact, msg.Ready] | None = None
        self._under_way = b"", 0
        """Run and number of the block that is distilled."""
        self._wanted = asyncio.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._server = PhotonServer(config.photons, mark, self._begin_run, self._log, paced=paced)

    async def start(self) -> None:
        """Begin, and listen for the lower end of the fibre; where that cannot be yet, it is tried again."""
        self._loop = asyncio.get_running_loop()
        try:
            await self._server.open()
        except HostError as error:
            self._unheard(error)
            self._run(self._listen())
        await super().start()
        if self._planner.terms is None:
            self._log.repeated("no key", _too_little())

    async def stop(self) -> None:
        """Cut the photons first."""
        await self._server.close()
        await super().stop()

    @property
    def photons_port(self) -> int:
        """Where the lower end of the fibre is to be plugged in."""
        return self._server.endpoint.port

    # ---- photons

    async def _listen(self) -> None:
        """Until the address can be had."""
        while True:
            await asyncio.sleep(RETRY_S)
            try:
                await self._server.open()
            except HostError as error:
                self._unheard(error)
            else:
                return

    def _unheard(self, error: HostError) -> None:
        self.progress.trouble = error
        self._log.repeated("no photons", error)

    def _begin_run(self, request: Request) -> PulseRun:
        """In the stream's thread. Raises `PeerError` (link.photons) for more light than a frame may hold."""
        transmission = self.config.simulation.fibre.transmission
        brightest = max(self.config.simulation.source.intensities) * (transmission if request.fibre else 1.0)
        lit = lit_probability(brightest * request.thinning, request.photons_least)
        if lit * self.layout.frame_pulses > 0.95 * MAX_ARRIVALS:
            raise PeerError("link.photons", "the lower end asks for more light than a frame may hold")
        run = PulseRun(self._lamp, self.layout, transmission, request, self._planner.terms)
        assert self._loop is not None
        self._loop.call_soon_threadsafe(self._add_run, run)
        return run

    def _add_run(self, run: PulseRun) -> None:
        self._runs.append(run)
        self._replan(run)
        self._send_plans()

    def _replan(self, run: PulseRun) -> None:
        """The planner may have changed its mind while the run was made."""
        if run.plans[-1][1] != self._planner.terms:
            run.plan(self._planner.terms)

    def _send_plans(self) -> None:
        contact = self._current
        if contact is None or not contact.met:
            return
        for run in self._runs:
            for first, terms in run.plans:
                self._tell_plan(contact, run, first, terms)

    def _tell_plan(self, contact: Contact, run: PulseRun, first: int, terms: Terms | None) -> None:
        if terms is not None:
            self.carrier.tell(contact.session, msg.Plan(self.config.name, run.announce.run, first, wire_terms(terms)))

    @property
    def _connected(self) -> bool:
        return self._server.connected

    # ---- blocks

    def _on_met(self) -> None:
        self._send_plans()

    def _on_message(self, contact: Contact, message: msg.Message) -> None:
        match message:
            case msg.Ready():
                if self._talk is not None:
                    self._talk.fail(PeerError("link.aborted", "Bob went on to another block"))
                self._asked = contact, message
                self._wanted.set()
            case msg.Skip(_, run, block, code):
                error = told(code, f"Bob cannot use block {block}")
                if self._talk is not None and self._under_way == (run, block):
                    self._talk.fail(error)
                else:
                    self._drop(error)
            case _:
                self._log.debug("for bob", message=type(message).__name__)

    async def _next_block(self) -> None:
        await self._wanted.wait()
        self._wanted.clear()
        assert self._asked is not None
        (contact, ready), self._asked = self._asked, None
        try:
            terms, run = self._take(contact, ready)
        except QhybriddError as error:
            self.carrier.tell(contact.session, msg.Skip(self.config.name, ready.run, ready.block, error.code))
            self._drop(error)
            self._after(contact)
            return
        assert contact.keys is not None
        self._under_way = ready.run, ready.block
        contact.number += 1
        number = contact.number
        self.carrier.tell(contact.session, msg.Begin(self.config.name, ready.run, ready.block, number))
        session = Alice(Block(number, terms), run.emissions(ready.block), contact.keys, os.urandom)
        result = await self._distil(contact, Talk(contact.session, number, self._message_bytes), session)
        if self._planner.note(result.record) and self._runs:
            run = self._runs[-1]
            terms_now = self._planner.terms
            self._tell_now(run, run.plan(terms_now), terms_now)

    def _tell_now(self, run: PulseRun, first: int, terms: Terms | None) -> None:
        if self._current is not None and self._current.met:
            self._tell_plan(self._current, run, first, terms)

    def _take(self, contact: Contact, ready: msg.Ready) -> tuple[Terms, PulseRun]:
        run = next((run for run in self._runs if run.announce.run == ready.run), None)
        if run is None:
            raise PeerError("link.photons", "Bob has a block of a stream that is not Alice's, or is gone")
        terms = run.take(ready.block)
        if contact.session not in self._contacts:
            raise PeerError("link.aborted", "the session ended")
        if contact.keys is None or contact.keys.blocks_left == 0:
            raise HostError("link.pads", "this session has no pads left for another block")
        if terms is None:
            raise _too_little()
        return terms, run

    def _on_kept(self, contact: Contact, kept: Kept) -> None:
        self.store.confirm(kept.key_id, boottime())
        self.carrier.tell(contact.session, msg.Stored(self.config.name, kept.key_id))

    # ---- faults

    def fault(self, request: FaultRequest) -> None:
        """Cut, loss, misalignment, eve."""
        self._faults.change(request)

    @property
    def faults(self) -> list[str]:
        """What is broken on purpose, in words."""
        return self._faults.told
