"""One end of a link: meets the other end in each session, carries blocks through their distillation, keeps the keys.

What the two roles do differently stands in `alice` and `bob`. All of it runs in the event loop but for the work on
clicks, which runs in one worker thread, one step at a time. Whatever goes wrong ends a block, never the daemon.
"""

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from typing import Any, ClassVar, Final, ParamSpec, TypeVar

from qhybridd.clock import boottime
from qhybridd.config.records import LinkConfig
from qhybridd.distill.authenticate import LinkKeys, Role
from qhybridd.distill.record import BlockRecord
from qhybridd.distill.session import Dropped, Kept, Session
from qhybridd.errors import HostError, PeerError, ProgramError, QhybriddError
from qhybridd.keystore import KeyStore
from qhybridd.links import messages as msg
from qhybridd.links import parts
from qhybridd.links.contact import Carrier, Contact
from qhybridd.links.planning import message_bytes_most
from qhybridd.links.progress import Progress, Standing, reason_of, told
from qhybridd.links.settings import check_digests, digests, psk_digest
from qhybridd.links.talk import Talk
from qhybridd.optics.records import Layout
from qhybridd.secret import Secret
from qhybridd.status import FaultRequest, LinkStatus, StoreStatus
from qhybridd.telemetry.log import Log

LISTING_S: Final = 30.0
"""Between two listings of the store, blocks aside."""
RENEW_S: Final = 20.0
"""No new session is asked for more often."""
TICK_LEAST_S: Final = 0.01
"""The loop's clock and the store's need not agree to the microsecond."""
DEFECT_S: Final = 1.0
"""Pause after a defect, lest it come in a tight circle."""

P = ParamSpec("P")
T = TypeVar("T")


class LinkEnd(ABC):
    """What both ends do alike. `start` once, then the session's events, then `stop` once."""

    role: ClassVar[Role]
    simulated: ClassVar[bool] = True
    """Whether its optics are; so far all are."""

    def __init__(self, config: LinkConfig, psk: Secret, layout: Layout, log: Log) -> None:
        """The PSK stays the caller's. `layout`: how the pulses are cut."""
        self.config, self.layout = config, layout
        self.carrier: Carrier
        """The peer; set before the first session."""
        self.store = KeyStore(self.role, config.capacity_bits, config.max_age_s)
        self.progress = Progress()
        self.on_change: Callable[[], None] = lambda: None
        """Told whenever the store holds more or less."""
        self._message_bytes = message_bytes_most(config.simulation, config.block_clicks)
        self._psk = psk
        self._log = log.bind(link=config.name)
        self._digests = digests(config)
        self._contacts: dict[bytes, Contact] = {}
        self._current: Contact | None = None
        self._usable = asyncio.Event()
        self._refusal: QhybriddError | None = None
        """Why the other end is not taken, or does not take this one."""
        self._talk: Talk | None = None
        self._renewed_at = -RENEW_S
        self._executor = ThreadPoolExecutor(1, f"link {config.name}")
        self._tasks: set[asyncio.Task[None]] = set()
        self._expiry: asyncio.TimerHandle | None = None
        self._stopped = False

    # ---- the surface

    async def start(self) -> None:
        """Begin."""
        self._run(self._go_on(self._next_block))
        self._run(self._go_on(self._list_now_and_then))

    async def stop(self) -> None:
        """End the block under way, and forget every secret."""
        self._stopped = True
        if self._talk is not None:
            self._talk.fail(PeerError("link.aborted", "the link ends here"))
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await asyncio.to_thread(self._executor.shutdown)
        if self._expiry is not None:
            self._expiry.cancel()
        for contact in self._contacts.values():
            contact.wipe()
        self._contacts.clear()
        self._current = None
        self.store.wipe()

    def session_up(self, session: bytes) -> None:
        """This session is the one in use."""
        contact = self._contacts.get(session)
        if contact is None:
            fresh = self.carrier.claim(session, self.config.name)
            keys = LinkKeys(self._psk, session, self.config.name.encode()) if fresh else None
            contact = self._contacts[session] = Contact(session, keys)
        self._current = contact
        self.carrier.tell(session, msg.Hello(self.config.name, self.role, self._digests_in(session)))
        if contact.keys is None:
            self._renew(contact)
        self._look()

    def session_down(self, session: bytes) -> None:
        """It is gone."""
        contact = self._contacts.pop(session, None)
        if contact is None:
            return
        if self._current is contact:
            self._current = next(reversed(self._contacts.values()), None)
        if self._talk is not None and self._talk.session == session:
            self._talk.fail(PeerError("link.aborted", "the session ended"))  # its keys are wiped with the block
        else:
            contact.wipe()
        self._look()

    def uses(self, session: bytes) -> bool:
        """Whether a block under way needs this session."""
        return self._talk is not None and self._talk.session == session

    def receive(self, session: bytes, message: msg.Message) -> None:
        """A message of the other end."""
        contact = self._contacts.get(session)
        if contact is None or self._stopped:
            return
        match message:
            case msg.Hello():
                self._on_hello(contact, message)
            case msg.Refuse(_, code):
                self._refuse(contact, told(code, "the peer does not take this end of the link"))
            case msg.Renew():
                self.carrier.renew()
            case _ if not contact.met:
                self._log.debug("before hello", message=type(message).__name__)
            case msg.Listing(_, store):
                self.store.meet(store, boottime())
                self._changed()
            case msg.Part(_, number, data):
                if self._talk is not None and (session, number) == (self._talk.session, self._talk.number):
                    self._talk.take(data)
            case _:
                self._on_message(contact, message)

    @abstractmethod
    def fault(self, request: FaultRequest) -> None:
        """Break or mend something of the simulation. Raises `OperatorError` (control.refused) for the other end's."""

    @property
    @abstractmethod
    def faults(self) -> list[str]:
        """What is broken on purpose, in words."""

    # ---- what the two ends do differently

    @abstractmethod
    async def _next_block(self) -> None:
        """Wait for a block and see it through."""

    @abstractmethod
    def _on_message(self, contact: Contact, message: msg.Message) -> None:
        """A message that only this role gets."""

    @abstractmethod
    def _on_met(self) -> None:
        """The other end fits."""

    @abstractmethod
    def _on_kept(self, contact: Contact, kept: Kept) -> None:
        """A key is in store."""

    @property
    @abstractmethod
    def _connected(self) -> bool:
        """Whether photons flow."""

    # ---- meeting

    def _on_hello(self, contact: Contact, hello: msg.Hello) -> None:
        name, mine = self.config.name, self._digests_in(contact.session)
        if not hello.answer:
            self.carrier.tell(contact.session, msg.Hello(name, self.role, mine, answer=True))
        try:
            if hello.role is self.role:
                raise PeerError("link.terms", f"both ends are configured as {self.role.value}")
            check_digests(mine, hello.digests)
        except PeerError as error:
            self.carrier.tell(contact.session, msg.Refuse(name, error.code))
            self._refuse(contact, error)
            return
        self._refusal = None
        first = not contact.met
        contact.met = True
        if first:
            self._log.debug("link met", role=self.role.value)
            self._list(contact)
            self._on_met()
        self._look()

    def _digests_in(self, session: bytes) -> tuple[bytes, ...]:
        return (*self._digests, psk_digest(self.config, self._psk, session))

    def _refuse(self, contact: Contact, error: QhybriddError) -> None:
        if self._refusal is None or error.code != self._refusal.code:
            self._refusal = error
        contact.met = False
        self._log.repeated("link refused", error)
        self._look()

    def _look(self) -> None:
        """Whether blocks can begin; look again after everything that may change it."""
        if self._current is not None and self._current.usable:
            self._usable.set()
        else:
            self._usable.clear()

    def _renew(self, contact: Contact) -> None:
        now = boottime()
        if now - self._renewed_at < RENEW_S:
            return
        self._renewed_at = now
        if not self.carrier.renew():
            self.carrier.tell(contact.session, msg.Renew(self.config.name))

    # ---- blocks

    async def _distil(self, contact: Contact, talk: Talk, session: Session) -> Kept | Dropped:
        """Carry a block's messages until it is over."""
        self._talk = talk
        try:
            await self._converse(contact, talk, session)
        except (PeerError, HostError) as error:
            _give_up(session, error)
        except asyncio.CancelledError:
            _give_up(session, PeerError("link.aborted", "the link ends here"))
            if contact.session not in self._contacts:  # it ended a moment ago, and left its keys to the block
                contact.wipe()
            raise
        except Exception as error:
            self._log.defect(error)
            _give_up(session, ProgramError("program.state", f"a defect: {type(error).__name__}"))
        finally:
            self._talk = None
        result = session.result
        assert result is not None
        if isinstance(result, Dropped):
            self._drop(told(result.code, reason_of(result)), result.record)
        self._after(contact)
        return result

    async def _converse(self, contact: Contact, talk: Talk, session: Session) -> None:
        data = await self._work(session.start)
        while True:
            if isinstance(session.result, Kept):
                self._keep(contact, session.result)  # before the other end hears of it
            if data is not None:
                for part in parts.split(data):
                    await self.carrier.pass_on(talk.session, msg.Part(self.config.name, talk.number, part))
            if session.result is not None:
                return
            data = await self._work(session.receive, await talk.next())

    def _after(self, contact: Contact) -> None:
        if contact.session not in self._contacts:
            contact.wipe()
        elif contact.keys is not None and contact.keys.blocks_left == 0:
            self._renew(contact)
        self._look()
        if self._current is not None and self._current.met:
            self._list(self._current)

    def _keep(self, contact: Contact, kept: Kept) -> None:
        now, record = boottime(), kept.record
        if kept.key.length:
            try:
                self.store.add(kept.key_id, kept.key, record.refill_bits, now)
            except HostError as error:  # no locked memory: the other end lets go of its copy as nothing confirms it
                self._drop(error, record)
                return
            self._on_kept(contact, kept)
        news = self.progress.note_kept(record, self._block_s, now)
        if news in ("up", "recovered"):
            self._log.info(f"link {news}", block=record.block, net_bits=record.net_bits, qber=record.qber_test)
        self._log.debug("block kept", block=record.block, net_bits=record.net_bits, qber=record.qber_test)
        self._changed()

    def _drop(self, error: QhybriddError, record: BlockRecord | None = None) -> None:
        """A block came to nothing."""
        news = self.progress.note_dropped(error, record, self._block_s)
        self._log.repeated("attack" if news == "attack" else "block dropped", error)

    @property
    def _block_s(self) -> float:
        return self.layout.frame_s * self.layout.block_frames

    async def _work(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """In the worker thread; not left alone by a cancellation, lest secrets be wiped under its hands."""
        future = asyncio.get_running_loop().run_in_executor(self._executor, lambda: work(*args, **kwargs))
        try:
            return await asyncio.shield(future)
        except asyncio.CancelledError:
            await asyncio.wait([future])
            raise

    # ---- store

    def _list(self, contact: Contact) -> None:
        """Not while a block is under way: a listing from before its end would deny what the other end just kept."""
        if self._talk is None:
            self.carrier.tell(contact.session, msg.Listing(self.config.name, self.store.listing()))

    async def _list_now_and_then(self) -> None:
        await asyncio.sleep(LISTING_S)
        if self._current is not None and self._current.met:
            self._list(self._current)

    def _changed(self) -> None:
        """Keys came or went: tell who waits for them, and be there when the next expire."""
        self.on_change()
        if self._expiry is not None:
            self._expiry.cancel()
            self._expiry = None
        deadline = self.store.next_deadline()
        if deadline is not None and not self._stopped:
            self._expiry = asyncio.get_running_loop().call_later(max(TICK_LEAST_S, deadline - boottime()), self._expire)

    def _expire(self) -> None:
        self.store.tick(boottime())
        self._changed()

    # ---- tasks

    def _run(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _go_on(self, step: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """For ever, whatever happens."""
        while True:
            try:
                await step()
            except QhybriddError as error:
                self._drop(error)
            except Exception as error:
                self._log.defect(error)
                await asyncio.sleep(DEFECT_S)

    # ---- what is told

    @property
    def _hindrance(self) -> QhybriddError | None:
        """What keeps blocks from coming at all."""
        if self._current is None:
            return PeerError("peer.silent", f"there is no session with {self.config.peer}")
        if not self._current.met:
            return self._refusal or PeerError("link.unknown", "the peer has not spoken of this link yet")
        if not self._connected and self.progress.trouble is None and self.progress.kept:
            return HostError("link.photons", "no photon stream")
        return None

    def status(self) -> LinkStatus:
        """The link as this end sees it."""
        now, progress = boottime(), self.progress
        standing, account = progress.standing(self._hindrance), self.store.account
        if standing.state == "starting" and not self._connected:
            dark = HostError("link.photons", "no photon stream yet")
            standing = Standing("starting", dark.message, dark.code, dark.hint)
        return LinkStatus(
            name=self.config.name,
            peer=self.config.peer,
            role=self.role.value,
            simulated=self.simulated,
            state=standing.state,
            why=standing.why,
            code=standing.code,
            hint=standing.hint,
            photons="connected" if self._connected else "waiting",
            faults=self.faults,
            block=progress.kept + progress.dropped,
            kept=progress.kept,
            dropped=progress.dropped,
            qber_key=progress.qber_key,
            qber_test=progress.qber_test,
            clicks_per_s=progress.clicks_per_s,
            key_bits_per_s=progress.key_bits_per_s(now),
            block_age_s=now - progress.kept_at if progress.kept_at is not None else None,
            angle_rad=None,
            current_a=None,
            synchronised=None,
            store=StoreStatus(mark=self.store.mark.value, **asdict(account), **asdict(self.store.outlook(now))),
        )


def _give_up(session: Session, error: QhybriddError) -> None:
    if session.result is None:
        session.give_up(told(error.code, "").code, error.message)
