"""Drives one tunnel: feeds its rotation, carries out what it asks for, in order, and keeps what a restart needs."""

import asyncio
import contextlib
import random
from collections import deque
from collections.abc import Awaitable, Callable, Collection, Coroutine
from dataclasses import replace
from functools import partial
from typing import Any, Final, assert_never

from qhybridd.clock import boottime
from qhybridd.config.records import TunnelConfig
from qhybridd.crypto import shares
from qhybridd.daemon.records import Memory, TunnelRecord
from qhybridd.daemon.services import Sender, Services
from qhybridd.errors import HostError, ProgramError, QhybriddError
from qhybridd.keyexchange import perform
from qhybridd.policy import Policy
from qhybridd.protocol import actions as act
from qhybridd.protocol.messages import Held
from qhybridd.protocol.rotation import Rotation
from qhybridd.protocol.rotation_table import Phase
from qhybridd.sources.base import KeySource
from qhybridd.targets.base import Target

Work = Callable[[], Awaitable[object]]
"""What carries out an action, not yet begun: it may be cancelled before that."""

CLOSE_ATTEMPTS: Final = 3
CLOSE_AGAIN_S: Final = 1.0
"""The guard refuses when the kernel lacks memory or another program holds nftables: that passes."""
REOPEN: Final = 0
"""Stands where an action of the core has its ID: those count from 1, and no core waits for this one."""
GUARD_SLACK_S: Final = 0.5
"""What the guard's word on the time left may differ from the record's by rounding."""

_CHANGING: Final = frozenset({Phase.ACTIVATING, Phase.DOUBT})
"""Phases in which this daemon itself changes the key on the device."""
_NO_DEVICE: Final = frozenset({"host.no-device", "host.no-peer"})


class Tunnel:
    """One tunnel of the running daemon."""

    def __init__(
        self, config: TunnelConfig, policy: Policy, target: Target, source: KeySource | None, services: Services
    ) -> None:
        self.config = config
        self.rotation = Rotation(config.name, policy, random.SystemRandom().random)
        self.target = target
        self.rotations = self.failed_attempts = 0
        self.last_error: QhybriddError | None = None
        self.last_error_at = 0.0
        self.closed_because = "no key has been agreed since the daemon started"
        self.sender: Sender | None = None
        """The peer, while there is one."""
        self._source = source
        self._gate, self._spawn = services.gate, services.spawn
        self._log = services.log.bind(tunnel=config.name)
        self._memory = Memory(services.records, config.name, self._log)
        self._inbox: deque[act.Event] = deque()
        self._feeding = False
        self._timer: asyncio.TimerHandle | None = None
        self._running: dict[int, asyncio.Task[None]] = {}
        self._ending: set[asyncio.Task[None]] = set()
        self._closing: set[asyncio.Task[None]] = set()
        self._opening: set[asyncio.Task[None]] = set()
        self._turn = asyncio.Lock()
        """Verbs that change the device or the guard run one at a time, in the order in which the core asked."""
        self._lacks_device = False
        self._stopped = False

    # ---- the surface

    async def start(self, remaining_s: float, trusted: Collection[bytes]) -> None:
        """Adopt the tunnel if the guard holds it open for `remaining_s`, else close it.

        The device must hold a key that the record knows, which was agreed with one of the `trusted` fingerprints and
        which the policy still allows.
        """
        record = self._memory.read() if remaining_s > 0 else None
        if record is None or not await self._adopt(record, remaining_s, trusted):
            with contextlib.suppress(HostError):  # noted; the first rotation forces a handshake behind the shut guard
                await self._close("start")

    async def _adopt(self, record: TunnelRecord, remaining_s: float, trusted: Collection[bytes]) -> bool:
        live, now, policy = record.live(), boottime(), self.rotation.policy
        deadline = min(live.deadline, live.combined_at + policy.expiry_s, now + remaining_s)
        if live.peer not in trusted or not policy.accepts(live.level) or deadline <= now:
            return False
        try:
            installed = record.installed((await self.target.inspect()).tag)
            if installed is None:
                return False
            if deadline < now + remaining_s - GUARD_SLACK_S:
                await self._gate.open(self.config.name, deadline)  # the expiry became shorter
        except HostError as error:
            self._note_error(error)
            return False
        self._log.info("adopted", epoch=live.epoch, key_level=live.level.label, remaining_s=round(deadline - now, 1))
        self.feed(act.Adopt(replace(live, deadline=deadline), installed))
        return True

    def feed(self, event: act.Event) -> None:
        """Hand an event to the core and carry out what it asks for."""
        self._inbox.append(event)
        if self._feeding or self._stopped:
            return
        self._feeding = True
        while self._inbox:
            self._take(self._inbox.popleft())
        self._feeding = False
        self._rearm()

    def busy_with(self, session: bytes) -> bool:
        """Whether a rotation under way still needs this session."""
        return self.rotation.uses(session)

    async def check_device(self, describe: Callable[[bytes], Coroutine[Any, Any, str | None]]) -> None:
        """Hold the device against the key that should be on it; `describe(tag)` says what is wrong, or None."""
        expected = self.rotation.standing.installed
        if not expected.tag or self.rotation.phase in _CHANGING:
            return
        try:
            change = await describe(expected.tag)
        except HostError as error:
            change = error.message
        except Exception as error:
            change = self._defect(error).message
        if change is not None and self.rotation.standing.installed == expected and self.rotation.phase not in _CHANGING:
            self.feed(act.CloseNow(HostError("host.readback", change)))

    @property
    def lacks_device(self) -> bool:
        """Whether it stays closed because its device, or the peer there, was not found."""
        return self._lacks_device and self.rotation.live is None and self.rotation.phase is Phase.IDLE

    async def retry_device(self) -> None:
        """Begin a rotation now if the device is back, however long the pause after the last failure was to be."""
        try:
            await self.target.reserve()
        except HostError:
            return
        if self.lacks_device:
            self._lacks_device = False
            self.feed(act.RotateNow(reset=False))

    async def stop(self) -> None:
        """Stop driving. The key and the guard stay as they are: a restart goes on from there.

        What opens or closes the guard is not cancelled, lest the kernel enforce what was no longer meant.
        """
        self._stopped = True
        if self._timer is not None:
            self._timer.cancel()
        tasks = {*self._running.values(), *self._ending}
        for task in tasks - self._opening - self._closing:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def close(self, event: act.Event) -> None:
        """Close the tunnel by this event and wait until it is closed."""
        self.feed(event)
        await asyncio.gather(*self._closing, return_exceptions=True)

    def reopen(self) -> None:
        """The guard was made anew: let the live key's traffic pass again, in turn with all that is under way."""
        if self.rotation.live is not None and not self._stopped:
            self._start_in_turn(REOPEN, self._reopen)
            self._keep(self._opening, REOPEN)

    async def retire(self) -> None:
        """After `stop`: the tunnel is not this daemon's any longer, and no key of it stays on the device."""
        with contextlib.suppress(HostError):  # noted, and the guard's deadline stands
            await self._close("removed from the configuration")

    # ---- actions

    def _take(self, event: act.Event) -> None:
        """One event. A defect closes this tunnel; the daemon and its other tunnels go on."""
        try:
            actions = self.rotation.handle(event, boottime())
        except Exception as error:
            closing = act.CloseNow(self._defect(error))
            if not isinstance(event, act.CloseNow):
                self._inbox.appendleft(closing)
            return
        for action in actions:
            try:
                self._carry_out(action)
            except Exception as error:
                failure = self._defect(error)
                if not isinstance(action, act.Send | act.Report | act.Cancel):
                    self._inbox.append(act.Failed(action.id, failure))

    def _defect(self, error: Exception) -> ProgramError:
        self._log.defect(error)
        return ProgramError("program.state", f"a defect: {type(error).__name__}")

    def _carry_out(self, action: act.Action) -> None:
        match action:
            case act.Send(session, message):
                if self.sender is not None:
                    self.sender.send(session, message)
            case act.Report():
                self._report(action)
            case act.Cancel(action_id):
                task = self._running.pop(action_id, None)
                if task is not None:
                    task.cancel()
                    self._ending.add(task)
                    task.add_done_callback(self._ending.discard)
            case act.MakeShares(_, codes) if not shares.is_slow(codes):
                self._compute(action)
            case act.Encapsulate(_, _, kems) if not shares.is_slow([share.code for share in kems]):
                self._compute(action)
            case act.Decapsulate(_, _, _, kems) if not shares.is_slow([reply.code for reply in kems]):
                self._compute(action)
            case act.MakeShares() | act.Encapsulate() | act.Decapsulate():
                self._start(action.id, partial(asyncio.to_thread, perform, action))
            case act.ReserveQkd(action_id, bits):
                self._start(action_id, partial(self._key_source().reserve, bits))
            case act.FetchQkd(action_id, ref):
                self._start(action_id, partial(self._key_source().fetch, ref))
            case act.ReserveTarget(action_id):
                self._start_in_turn(action_id, self.target.reserve)  # what a close finds, it takes away
            case act.Stage(action_id, keys):
                self._start_in_turn(action_id, partial(self.target.stage, keys))
            case act.Activate(action_id, keys, reset):
                self._start_in_turn(action_id, partial(self._reset if reset else self._activate, keys))
            case act.Observe(action_id, epoch, kick_after_s):
                self._start(action_id, partial(self._observe, epoch, kick_after_s))
            case act.Straddle(action_id, old, keys):
                self._start(action_id, partial(self._straddle, old, keys))
            case act.Retire(action_id, epoch):
                self._start_in_turn(action_id, partial(self.target.retire, epoch))
            case act.Open(action_id, _, deadline):
                self._start_in_turn(action_id, partial(self._gate.open, self.config.name, deadline))
                self._keep(self._opening, action_id)
            case act.Close(action_id, reason):
                self._start_in_turn(action_id, partial(self._close, reason))
                self._keep(self._closing, action_id)
            case _:
                assert_never(action)

    def _compute(self, action: act.MakeShares | act.Encapsulate | act.Decapsulate) -> None:
        """Under a millisecond: done at once, its result waits in the inbox."""
        try:
            self._inbox.append(act.Done(action.id, perform(action)))
        except QhybriddError as error:
            self._inbox.append(act.Failed(action.id, error))

    def _start(self, action_id: int, work: Work) -> None:
        self._running[action_id] = self._spawn(self._run(action_id, work))

    def _keep(self, tasks: set[asyncio.Task[None]], action_id: int) -> None:
        """Hold on to the action's task in `tasks` until it is done."""
        task = self._running[action_id]
        tasks.add(task)
        task.add_done_callback(tasks.discard)

    def _start_in_turn(self, action_id: int, work: Work) -> None:
        self._start(action_id, partial(self._in_turn, work))

    async def _run(self, action_id: int, work: Work) -> None:
        event: act.Event
        try:
            event = act.Done(action_id, await work())
        except QhybriddError as error:
            event = act.Failed(action_id, error)
        except Exception as error:  # a defect must end the attempt, not the daemon
            event = act.Failed(action_id, self._defect(error))
        if self._running.pop(action_id, None) is not None:
            self.feed(event)

    async def _in_turn(self, work: Work) -> object:
        """Run a verb alone, after whatever was cancelled has come to its end."""
        async with self._turn:
            if self._ending:
                await asyncio.wait(set(self._ending))
            return await work()

    async def _reopen(self) -> None:
        live = self.rotation.live
        if live is None:
            return
        try:
            await self._gate.open(self.config.name, live.deadline)
        except HostError as error:
            self.feed(act.CloseNow(error))

    async def _activate(self, keys: act.EpochKeys) -> None:
        self._remember(keys)
        await self.target.activate(keys)

    async def _straddle(self, old: int, keys: act.EpochKeys) -> int:
        self._remember(keys)
        return await self.target.straddle(old, keys)

    async def _reset(self, keys: act.EpochKeys) -> None:
        await self._gate.shut(self.config.name)
        await self.target.reset(keys)

    def _remember(self, keys: act.EpochKeys) -> None:
        """Before a key reaches the device: a daemon killed at any moment afterwards knows it again."""
        live = self.rotation.live
        if live is not None:
            self._memory.keep(live, self.rotation.standing.installed, Held(keys.epoch, keys.tag))

    async def _observe(self, epoch: int, kick_after_s: float | None) -> None:
        if kick_after_s is None:
            await self.target.observe(epoch, kick=False)
            return
        if kick_after_s > 0:
            try:
                async with asyncio.timeout(kick_after_s):
                    await self.target.observe(epoch, kick=False)
                    return
            except TimeoutError:
                pass
        await self.target.observe(epoch, kick=True)

    async def _close(self, reason: str) -> None:
        """The guard first; the device also when the guard could not be told. Raises `HostError` when it never could."""
        self._memory.forget()
        self._log.debug("closing", reason=reason)
        for attempt in range(1, CLOSE_ATTEMPTS + 1):
            refused: HostError | None = None
            try:
                await self._gate.shut(self.config.name)
            except HostError as error:
                refused = error
            try:
                await self.target.close()
            except HostError as error:
                # Nothing to close on a device that is not there; the guard holds it shut either way.
                self._note_error(error)
            if refused is None:
                return
            self._note_error(refused)
            if attempt == CLOSE_ATTEMPTS:
                self._log.error("not closed", code=refused.code, message=refused.message, hint=refused.hint)
                raise refused
            await asyncio.sleep(CLOSE_AGAIN_S)

    def _key_source(self) -> KeySource:
        if self._source is None:
            raise ProgramError("program.state", "a QKD key was asked for without a key source")
        return self._source

    # ---- what is told

    def _report(self, report: act.Report) -> None:
        level = report.level.label if report.level is not None else None
        if report.error is not None:
            self._note_error(report.error)
        match report.event:
            case "live":
                live = self.rotation.live
                assert live is not None
                self.rotations += 1
                self.closed_because = ""
                self.last_error = None
                self._lacks_device = False
                self._memory.keep(live)
                self._log.info(
                    "live", epoch=report.epoch, key_level=level, expires_in_s=round(live.deadline - boottime())
                )
            case "resetting":
                self._memory.forget()
                self.closed_because = "a handshake is being forced under a new key"
                self._log.info("resetting", epoch=report.epoch)
            case "closed":
                assert report.error is not None
                self.closed_because = f"{report.error.message} [{report.error.code}]"
                error = report.error
                self._log.warning("closed", code=error.code, message=error.message, hint=error.hint)
            case "failed" | "refused":
                assert report.error is not None
                self.failed_attempts += report.event == "failed"
                self._log.repeated(report.event, report.error, epoch=report.epoch)
            case "in-doubt":
                self._log.warning("in doubt", epoch=report.epoch)
            case "attempt" | "installed" | "settled":
                self._log.debug(report.event, epoch=report.epoch)

    def _note_error(self, error: QhybriddError) -> None:
        self.last_error, self.last_error_at = error, boottime()
        self._lacks_device |= error.code in _NO_DEVICE

    def _rearm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        deadline = self.rotation.deadline()
        if deadline is not None and not self._stopped:
            delay = max(0.0, deadline - boottime())
            self._timer = asyncio.get_running_loop().call_later(delay, self.feed, act.Tick())
