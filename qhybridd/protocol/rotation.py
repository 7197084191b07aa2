"""The rotation of one tunnel at one end: a pure state machine. Events in, actions out; `now` and jitter are arguments.

The lower fingerprint proposes. One attempt at a time runs as an `Exchange`; around it this machine keeps where the
tunnel stands, begins attempts in time, closes at the hard expiry, and settles with the peer after a cut. See
docs/rotation.md.

"""

from collections.abc import Callable
from typing import Final

from qhybridd.errors import CODES, PeerError, ProgramError, QhybriddError
from qhybridd.policy import Policy
from qhybridd.protocol import actions as act
from qhybridd.protocol import messages as msg
from qhybridd.protocol.exchange import ASK_AGAIN_S, BEFORE_COMMIT, Exchange, GaveUp, Proven
from qhybridd.protocol.outbox import Outbox
from qhybridd.protocol.rotation_table import Phase
from qhybridd.protocol.schedule import Schedule
from qhybridd.protocol.standing import Standing

_FOLLOWS: Final = "Nothing: another attempt follows at once."


class Rotation:
    """One tunnel's rotation. Feed `handle`, carry out what it returns, come back at `deadline()`."""

    def __init__(self, tunnel: str, policy: Policy, jitter: Callable[[], float]) -> None:
        """`jitter` gives numbers in [0, 1) and spreads retries."""
        self.tunnel = tunnel
        self.policy = policy
        self.standing = Standing()
        self.schedule = Schedule(policy.period_s, waits=policy.waits, seamless=policy.seamless, jitter=jitter)
        self._out = Outbox(tunnel)
        self._exchange: Exchange | None = None
        self._qkd_ready = False
        self.revoked = False
        """Whether the peer was revoked: the tunnel stays closed."""
        self._opening: int | None = None
        """The last `Open`: if the guard refuses it, the tunnel closes."""

    # ---- the surface

    def handle(self, event: act.Event, now: float) -> list[act.Action]:
        """Take one event at `now` and return what is to be done, in order. Raises `ProgramError` on misuse only."""
        self._out.now = now
        match event:
            case act.SessionUp(session):
                self.revoked = False  # the peer proved an identity that counts
                self._out.session_up(session)
                self.schedule.fresh(now)
                self._out.send(session, self.standing.message(self.tunnel))
            case act.SessionDown(session_hash):
                self._session_down(session_hash)
            case act.Received(session_hash, message):
                self._receive(session_hash, message)
            case act.Done(action_id, result):
                self._done(action_id, result)
            case act.Failed(action_id, error):
                self._failed(action_id, error)
            case act.Adopt(live, installed):
                self._adopt(live, installed)
            case act.QkdSupply(ready):
                if ready and not self._qkd_ready:
                    self.schedule.fresh(now)  # what failed for want of a key need not wait any longer
                self._qkd_ready = ready
            case act.RotateNow(reset):
                self._rotate_now(reset=reset)
            case act.CloseNow(error):
                self._close(error)
            case act.Revoke():
                self.revoked = True
                self.standing.chain = None
                self._close(PeerError("tunnel.revoked", "the peer was revoked"))
            case act.Tick():
                pass
        self._conclude()
        self._advance()
        return self._out.take()

    def deadline(self) -> float | None:
        """When to send `Tick` at the latest, CLOCK_BOOTTIME seconds."""
        times = []
        if self.live is not None:
            times.append(self.live.deadline)
        if self._exchange is not None:
            if self._exchange.attempt.deadline is not None:
                times.append(self._exchange.attempt.deadline)
        elif self._out.session is not None and not self.revoked:
            times.append(self._due(self._out.session))
        return min(times, default=None)

    @property
    def live(self) -> act.LiveEpoch | None:
        """The epoch under which traffic may pass; None while the tunnel is closed."""
        return self.standing.live

    @property
    def phase(self) -> Phase:
        """What the rotation does now."""
        return self._exchange.phase if self._exchange is not None else Phase.IDLE

    def uses(self, session: bytes) -> bool:
        """Whether an attempt that has not installed its key yet runs on the session with this hash."""
        exchange = self._exchange
        if exchange is None or exchange.phase is Phase.OBSERVING:
            return False
        return exchange.attempt.session.hash == session

    def rests_on(self, peer: bytes) -> bool:
        """Whether the live key, or one under way, is agreed with the identity of this fingerprint."""
        exchange = self._exchange
        under_way = exchange is not None and exchange.attempt.session.peer == peer
        return under_way or (self.live is not None and self.live.peer == peer)

    # ---- time

    def _due(self, session: act.SessionKeys) -> float:
        return self.schedule.due(self.live, proposes=session.proposes)

    def _advance(self) -> None:
        """Let everything happen whose time has come."""
        now, session = self._out.now, self._out.session
        if self.live is not None and now >= self.live.deadline:
            self._expire()
        exchange = self._exchange
        if exchange is not None and exchange.attempt.deadline is not None and now >= exchange.attempt.deadline:
            exchange.on_deadline()
            self._conclude()
        if self._exchange is not None or session is None or self.revoked or now < self._due(session):
            return
        if session.proposes:
            self._exchange = Exchange(self.policy, self.standing, self._out, session)
            self._exchange.ask()
        else:
            self._out.send(session, msg.Want(self.tunnel, self.schedule.reset or self.live is None))
            self.schedule.not_before = now + ASK_AGAIN_S

    def _expire(self) -> None:
        error = PeerError("tunnel.expired", "the hard expiry was reached without a new live epoch")
        self._out.report("closed", self.standing.last_epoch, error)
        exchange = self._exchange
        # Where keys stand side by side, closing takes away what an attempt under way has put there too.
        forced = exchange is not None and exchange.attempt.reset and not self.policy.seamless
        if exchange is not None and (exchange.phase is Phase.DOUBT or not forced):
            exchange.give_up(error)
            self._end_exchange()
        self._shut(error.code)
        self.schedule.not_before = self._out.now

    # ---- the peer

    def _session_down(self, session_hash: bytes) -> None:
        self._out.session_down(session_hash)
        if self._exchange is not None and self._exchange.attempt.session.hash == session_hash:
            self._exchange.on_session_down()

    def _receive(self, session_hash: bytes, message: msg.Message) -> None:
        session = self._out.find(session_hash)
        if session is None:
            return
        try:
            self._dispatch(session, message)
        except PeerError as error:
            epoch = getattr(message, "epoch", 0)
            exchange = self._exchange
            if exchange is not None and exchange.attempt.epoch == epoch and exchange.phase in BEFORE_COMMIT:
                exchange.give_up(error)
                return
            self._out.report("refused", epoch, error)
            if isinstance(message, msg.Prepare):
                self._out.abort(session, epoch, error)

    def _dispatch(self, session: act.SessionKeys, message: msg.Message) -> None:
        exchange = self._exchange
        match message:
            case msg.Ask():
                self._out.send(session, self.standing.message(self.tunnel))
            case msg.State():
                self._on_state(message)
            case msg.Want(_, reset):
                if not session.proposes:
                    raise PeerError("peer.order", "the proposer asked for a rotation")
                self._on_want(reset=reset)
            case msg.Prepare():
                self._on_prepare(session, message)
            case msg.Abort():
                self._on_abort(message)
            case _ if exchange is not None and message.epoch == exchange.attempt.epoch:
                exchange.on_message(message)
            case _ if message.epoch > self.standing.last_epoch:
                raise PeerError("peer.order", f"{type(message).__name__} for epoch {message.epoch}, which is not known")

    def _on_want(self, *, reset: bool) -> None:
        exchange = self._exchange
        if exchange is not None and exchange.phase is Phase.OBSERVING:
            # The peer wishes only between attempts: it has lost this one, for instance by a restart.
            error = PeerError("tunnel.aborted", f"the peer no longer waits for epoch {exchange.attempt.epoch}")
            exchange.give_up(error, tell=False, again=True)
            self._conclude()
        if self._exchange is None:
            self._want(reset=reset)

    def _on_state(self, state: msg.State) -> None:
        if self._exchange is not None:
            reset = self.policy.reset or self.schedule.reset
            self._exchange.on_state(state, reset=reset, qkd_ready=self._qkd_ready)
        elif self._out.session is not None and self._out.session.proposes and not self.standing.agrees(state):
            self.schedule.wanted = True

    def _on_prepare(self, session: act.SessionKeys, prepare: msg.Prepare) -> None:
        if session.proposes:
            raise PeerError("peer.order", "the answerer proposed")
        if self.revoked:
            raise PeerError("tunnel.revoked", "the peer is revoked")
        if self._exchange is not None and prepare.epoch == self._exchange.attempt.epoch:
            return
        exchange = Exchange(self.policy, self.standing, self._out, session)
        if self._exchange is not None and prepare.epoch > self.standing.last_epoch:
            self._exchange.give_up(PeerError("tunnel.aborted", "the proposer started anew", hint=_FOLLOWS), tell=False)
            self._conclude()
        exchange.answer(prepare)
        self._exchange = exchange

    def _on_abort(self, abort: msg.Abort) -> None:
        exchange = self._exchange
        error = _given_up(self.tunnel, abort)
        if exchange is None and error.code == "tunnel.unknown":
            self._out.report("refused", abort.epoch, error=error)
        if exchange is None or abort.epoch != exchange.attempt.epoch:
            return
        exchange.give_up(error, tell=False, again=exchange.phase not in BEFORE_COMMIT)

    # ---- results

    def _done(self, action_id: int, result: object) -> None:
        exchange = self._exchange
        if exchange is None or action_id not in exchange.attempt.pending:
            return
        try:
            exchange.on_done(action_id, result)
        except ProgramError:
            raise
        except QhybriddError as error:
            exchange.give_up(error)

    def _failed(self, action_id: int, error: QhybriddError) -> None:
        if action_id == self._opening and self.live is not None:
            self._close(error)
        elif self._exchange is not None and action_id in self._exchange.attempt.pending:
            self._exchange.on_failed(action_id, error)

    # ---- how an attempt ends

    def _conclude(self) -> None:
        """Draw the consequence of an attempt that is over."""
        exchange = self._exchange
        if exchange is None:
            return
        if isinstance(exchange.outcome, Proven):
            self._go_live(exchange)
        elif isinstance(exchange.outcome, GaveUp) and self._end_exchange():
            error = exchange.outcome.error
            self._out.report("closed", self.standing.last_epoch, error)
            self._shut(error.code)

    def _go_live(self, exchange: Exchange) -> None:
        attempt, standing = exchange.attempt, self.standing
        assert attempt.keys is not None
        exchange.end()
        self._exchange = None
        deadline = attempt.combined_at + self.policy.expiry_s
        tag = attempt.keys.tag
        peer = attempt.session.peer
        standing.live = act.LiveEpoch(attempt.epoch, attempt.level, tag, attempt.combined_at, deadline, peer)
        standing.chain = attempt.chain
        self.schedule.succeeded(self._out.now, standing.live, attempt.began_at)
        self._opening = self._out.next_id()
        self._out.add(act.Open(self._opening, attempt.epoch, deadline))
        self._out.add(act.Retire(self._out.next_id(), attempt.epoch))
        self._out.report("live", attempt.epoch, level=attempt.level)

    def _end_exchange(self) -> bool:
        """End an attempt that gave up. True when the device may hold what no epoch accounts for: it must be closed."""
        exchange = self._exchange
        assert exchange is not None and isinstance(exchange.outcome, GaveUp)
        outcome, attempt, broken = exchange.outcome, exchange.attempt, exchange.broken
        exchange.end()
        self._exchange = None
        self.schedule.failed(self._out.now)
        self.schedule.wanted |= outcome.again
        self._out.report("failed", attempt.epoch, outcome.error)
        if outcome.tell and attempt.epoch:
            self._out.abort(attempt.session, attempt.epoch, outcome.error)
        return broken

    def _close(self, error: QhybriddError) -> None:
        """Close now, whatever is under way, and rotate anew with a forced handshake when the peer is there."""
        if self._exchange is not None:
            self._exchange.give_up(error)
            self._end_exchange()
        self._out.report("closed", self.standing.last_epoch, error)
        self._shut(error.code)
        self.schedule.wanted = self.schedule.reset = True

    def _shut(self, reason: str) -> None:
        self.standing.shut()
        self._out.add(act.Close(self._out.next_id(), reason))

    # ---- the operator, and the start

    def _adopt(self, live: act.LiveEpoch, installed: msg.Held) -> None:
        if self._exchange is not None or self.live is not None:
            raise ProgramError("program.state", "only a fresh machine adopts an epoch")
        standing = self.standing
        standing.live, standing.installed = live, installed
        standing.last_epoch = max(live.epoch, installed.epoch)
        self.schedule.since = live.combined_at
        if installed == standing.live_held:
            standing.observed = live.epoch
        else:
            self.schedule.wanted = True  # the key on the device was never proven, and what it was made of is gone

    def _rotate_now(self, *, reset: bool) -> None:
        exchange = self._exchange
        waiting = exchange is not None and exchange.phase is Phase.OBSERVING and not exchange.attempt.reset
        if exchange is not None and reset and waiting and not self.policy.seamless:
            error = PeerError("tunnel.aborted", "a forced handshake was asked for instead", hint=_FOLLOWS)
            exchange.give_up(error, tell=False)
            self._conclude()
        self._want(reset=reset)

    def _want(self, *, reset: bool) -> None:
        """Begin now. Where keys stand side by side nothing needs force: an end that is closed says so (`State`)."""
        self.schedule.want(self._out.now, reset=reset and not self.policy.seamless)


def _given_up(tunnel: str, abort: msg.Abort) -> PeerError:
    """The peer's reason as this end tells it, with the way out that lies at the peer."""
    if abort.code == "tunnel.unknown":
        return PeerError("tunnel.unknown", f"the peer has no tunnel {tunnel} with this gateway")
    code = abort.code if abort.code in CODES else "unknown"
    text = "".join(c for c in abort.text if c.isprintable())
    hint = f"At the other gateway: {CODES[code]}" if code in CODES else ""
    if code.startswith("tunnel."):
        hint = f"The other gateway's log and `status` say what it refused: look for [{code}] there."
    message = f"the peer gave epoch {abort.epoch} up [{code}] {text}".rstrip()
    return PeerError("tunnel.aborted", message, hint=hint)
