"""One attempt at a new epoch, from the first question to the proof under traffic, at either end.

Neither end installs a key before the other proved that it holds it; the answerer activates first. The phases and their
order stand in `rotation_table`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import msgspec

from qhybridd.errors import HostError, PeerError, ProgramError, QhybriddError
from qhybridd.policy import Policy
from qhybridd.protocol import actions as act
from qhybridd.protocol import messages as msg
from qhybridd.protocol.attempt import Attempt, Slot
from qhybridd.protocol.outbox import Outbox
from qhybridd.protocol.proposal import check_prepare
from qhybridd.protocol.rotation_table import TABLE, Phase, Trigger
from qhybridd.protocol.standing import NOTHING, Standing

STEP_S: Final = 10.0
"""A step of a rotation takes a round trip and a few milliseconds; slow KEMs and loaded hosts need seconds. A tunnel of
a short period cannot wait so long: half its period then."""
MIN_STEP_S: Final = 2.0
RESET_OBSERVE_S: Final = 17.0
"""After a forced handshake: three tries of WireGuard (REKEY_TIMEOUT 5 s) and a margin, or the period."""
MIN_RESET_OBSERVE_S: Final = 6.0
ANSWERER_KICK_S: Final = 1.5
"""The answerer starts a handshake only when the proposer's did not come: two at once cost a session."""
ASK_AGAIN_S: Final = 5.0
"""Between two questions for the peer's state while it is in doubt."""
QKD_BITS: Final = 256
"""Bits of QKD key for one epoch: the strength of the keys that come of it."""

BEFORE_COMMIT: Final = frozenset(
    {Phase.ASKED, Phase.PREPARING, Phase.PROPOSED, Phase.OPENING, Phase.STAGING, Phase.ANSWERING, Phase.ANSWERED}
)
"""Phases in which giving up changes nothing at either end."""


@dataclass(frozen=True, slots=True)
class Proven:
    """Both ends saw proof: the epoch is live."""


@dataclass(frozen=True, slots=True)
class GaveUp:
    """The attempt came to nothing."""

    error: QhybriddError
    tell: bool
    """Whether the peer is to hear of it."""
    again: bool
    """Whether to try anew as soon as may be, before the period is over."""


class Exchange:
    """Drives one attempt. When `outcome` is set it is over, and takes nothing more."""

    def __init__(self, policy: Policy, standing: Standing, out: Outbox, session: act.SessionKeys) -> None:
        self.policy, self.standing, self.out = policy, standing, out
        self.phase = Phase.IDLE
        self.outcome: Proven | GaveUp | None = None
        self._step_s = max(MIN_STEP_S, min(STEP_S, policy.period_s / 2))
        self._observe_s = max(MIN_RESET_OBSERVE_S, min(RESET_OBSERVE_S, policy.period_s))
        self.attempt = Attempt(session=session, began_at=out.now, deadline=out.now + self._step_s)

    @property
    def broken(self) -> bool:
        """Whether giving up now leaves on the device what no live epoch accounts for, so that it must be closed.

        Where keys stand side by side the live one is untouched until a forced attempt takes it away.
        """
        if self.attempt.reset:
            return self.attempt.activated
        return self.phase is Phase.ACTIVATING and not self.policy.seamless

    # ---- how it begins

    def ask(self) -> None:
        """The proposer's beginning: is the peer there, and where does it stand?"""
        self.attempt.proposer = True
        self._move(Trigger.BEGIN)
        self.out.send(self.attempt.session, msg.Ask(self.out.tunnel))

    def answer(self, prepare: msg.Prepare) -> None:
        """The answerer's beginning. Raises `PeerError` when the proposal cannot be taken."""
        check_prepare(prepare, self.policy, self.standing)
        attempt = self.attempt
        self.standing.last_epoch = prepare.epoch
        attempt.epoch, attempt.level, attempt.reset = prepare.epoch, prepare.level, prepare.reset
        attempt.base, attempt.prepare = prepare.chain, prepare
        self._move(Trigger.PREPARE)
        self.out.report("attempt", attempt.epoch, level=attempt.level)
        self._await("encapsulated", lambda i: act.Encapsulate(i, prepare.x25519, prepare.kems))
        self._await("reserved", act.ReserveTarget)
        if (ref := prepare.qkd) is not None:
            self._await("qkd", lambda i: act.FetchQkd(i, ref))

    # ---- what happens to it

    def on_message(self, message: msg.Prepared | msg.Commit | msg.Installed | msg.Live) -> None:
        """A step of this attempt. One that comes where none of its kind may changes nothing. Raises `PeerError`."""
        match message:
            case msg.Prepared() if self.phase is Phase.PROPOSED:
                self._on_prepared(message)
            case msg.Commit() if self.phase is Phase.ANSWERED:
                self.attempt.check_confirm(message.confirm)
                self._stage(Trigger.COMMIT)
            case msg.Installed() if self.phase in (Phase.COMMITTED, Phase.DOUBT):
                self._activate(Trigger.INSTALLED)
            case msg.Installed() if self.phase is Phase.OBSERVING:
                self._peer_holds()
            case msg.Live() if self.phase in (Phase.ACTIVATING, Phase.OBSERVING):
                self.attempt.peer_observed = True
                self._prove()

    def on_state(self, state: msg.State, *, reset: bool, qkd_ready: bool) -> None:
        """The peer tells where it stands. `reset`: this end wants a forced handshake."""
        attempt = self.attempt
        peer_has_it = attempt.keys is not None and state.installed == attempt.held
        match self.phase:
            case Phase.ASKED:
                self._prepare(state, reset=reset, qkd_ready=qkd_ready)
            case Phase.COMMITTED | Phase.DOUBT if peer_has_it:
                self.out.report("settled", attempt.epoch)
                self._activate(Trigger.INSTALLED)
            case Phase.DOUBT:
                # While the commit may still be on its way, a State of another session says nothing of it.
                self._lost(f"the peer did not install epoch {attempt.epoch}")
            case Phase.OBSERVING if peer_has_it:
                self._peer_holds()
                if state.observed == attempt.epoch:
                    attempt.peer_observed = True
                    self._prove()
            case Phase.OBSERVING if attempt.proposer:
                self._lost(f"the peer no longer holds epoch {attempt.epoch}")

    def on_session_down(self) -> None:
        """The attempt's own session is gone."""
        if self.phase in BEFORE_COMMIT:
            self.give_up(PeerError("peer.closed", f"epoch {self.attempt.epoch}: the session ended before the commit"))
        elif self.phase is Phase.COMMITTED:
            self._doubt()

    def on_deadline(self) -> None:
        """The present step took too long."""
        if self.phase is Phase.COMMITTED:
            self._doubt()
        elif self.phase is Phase.DOUBT:
            self._ask_again()
        else:
            step = f"epoch {self.attempt.epoch}: the step «{self.phase.value}» took too long"
            self.give_up(PeerError("tunnel.late", step))

    def on_done(self, action_id: int, result: object) -> None:
        """An action's result. Raises `QhybriddError` when it cannot be used."""
        slot = self.attempt.pending.pop(action_id)
        match slot, result:
            case "shares", act.Shares():
                self.attempt.shares = result
            case "reserved", act.Reserved():
                self.attempt.reserved = result
            case "qkd", act.QkdKey():
                self.attempt.qkd = result
            case "encapsulated", act.Encapsulated():
                self.attempt.encapsulated = result
            case "exchanged", act.Exchanged():
                self.attempt.exchanged = result
            case "stage", None:
                self._staged()
                return
            case "activate", None:
                self._activated()
                return
            case "observe", None:
                self._observed()
                return
            case "straddle", int(epoch):
                self._settled(epoch)
                return
            case _:
                raise ProgramError("program.argument", f"a result of the wrong kind for «{slot}»")
        if not self.attempt.pending:
            self._ready()

    def on_failed(self, action_id: int, error: QhybriddError) -> None:
        """An action failed."""
        if self.attempt.pending.pop(action_id) == "straddle":
            return  # the peer's state settles it, or the live epoch expires
        self.give_up(error)

    def give_up(self, error: QhybriddError, *, tell: bool = True, again: bool = False) -> None:
        """End it here."""
        self.outcome = GaveUp(error, tell, again)

    def end(self) -> None:
        """Over, whatever the outcome: nothing is awaited any longer."""
        if self.phase in (Phase.DOUBT, Phase.ACTIVATING):
            self.standing.installed = NOTHING  # either key, as the straddle or the failed step left it
        self._cancel()
        self._move(Trigger.PROVEN if isinstance(self.outcome, Proven) else Trigger.ABANDON)

    # ---- the proposer's steps

    def _prepare(self, state: msg.State, *, reset: bool, qkd_ready: bool) -> None:
        attempt, standing = self.attempt, self.standing
        level = self.policy.propose(qkd_ready=qkd_ready)
        if max(standing.last_epoch, state.last) >= msg.MAX_EPOCH:
            self.give_up(PeerError("tunnel.epoch", "the peer used the last number of an epoch up"))
            return
        if level is None:
            self.give_up(HostError("source.empty", f"no key of level {self.policy.least.label} can be had now"))
            return
        self._move(Trigger.STATE)
        self._rearm()
        attempt.epoch = standing.last_epoch = 1 + max(standing.last_epoch, state.last)
        attempt.reset = reset or standing.live is None or state.live.epoch == 0
        attempt.level, attempt.base = level, standing.chain_tag if state.chain == standing.chain_tag else b""
        self.out.report("attempt", attempt.epoch, level=level)
        self._await("shares", lambda i: act.MakeShares(i, self.policy.kems if level.needs_kem else ()))
        self._await("reserved", act.ReserveTarget)
        if level.needs_qkd:
            self._await("qkd", lambda i: act.ReserveQkd(i, QKD_BITS))

    def _propose(self) -> None:
        attempt = self.attempt
        shares, reserved = attempt.shares, attempt.reserved
        assert shares is not None and reserved is not None
        attempt.prepare = msg.Prepare(
            tunnel=self.out.tunnel,
            epoch=attempt.epoch,
            level=attempt.level,
            policy=msg.WirePolicy(self.policy.least, self.policy.period_s, self.policy.expiry_s),
            reset=attempt.reset,
            nonce=shares.nonce,
            chain=attempt.base,
            x25519=shares.x25519,
            kems=shares.kems,
            offer=reserved.offer,
            qkd=attempt.qkd.ref if attempt.qkd else None,
        )
        self._move(Trigger.READY)
        self._rearm()
        self.out.send(attempt.session, attempt.prepare)

    def _on_prepared(self, prepared: msg.Prepared) -> None:
        attempt = self.attempt
        assert attempt.prepare is not None and attempt.shares is not None
        if [reply.code for reply in prepared.kems] != [share.code for share in attempt.prepare.kems]:
            raise PeerError("peer.malformed", "Prepared answers other KEMs than were proposed")
        attempt.check_offer(prepared.offer)
        attempt.prepared = prepared
        private = attempt.shares.private
        self._move(Trigger.PREPARED)
        self._rearm()
        self._await("exchanged", lambda i: act.Decapsulate(i, private, prepared.x25519, prepared.kems))

    # ---- results of several actions at once

    def _ready(self) -> None:
        attempt = self.attempt
        match self.phase:
            case Phase.PREPARING:
                self._propose()
            case Phase.OPENING:
                assert attempt.prepared is not None and attempt.exchanged is not None
                attempt.combine(self.standing.chain, attempt.prepared, attempt.exchanged, self.out.now)
                attempt.check_confirm(attempt.prepared.confirm)
                self._stage(Trigger.READY)
            case Phase.ANSWERING:
                self._confirm()

    def _confirm(self) -> None:
        """The answerer derives the key and proves that it holds it."""
        attempt = self.attempt
        prepare, encapsulated, reserved = attempt.prepare, attempt.encapsulated, attempt.reserved
        assert prepare is not None and encapsulated is not None and reserved is not None
        attempt.check_offer(prepare.offer)
        draft = msg.Prepared(
            tunnel=self.out.tunnel,
            epoch=attempt.epoch,
            nonce=encapsulated.nonce,
            x25519=encapsulated.x25519,
            kems=encapsulated.kems,
            offer=reserved.offer,
            confirm=bytes(48),
        )
        attempt.combine(self.standing.chain, draft, encapsulated.secrets, self.out.now)
        self._move(Trigger.READY)
        self._rearm()
        self.out.send(attempt.session, msgspec.structs.replace(draft, confirm=attempt.own_confirm))

    # ---- both ends' steps

    def _stage(self, trigger: Trigger) -> None:
        keys = self._keys()
        self._move(trigger)
        self._rearm()
        self._await("stage", lambda i: act.Stage(i, keys))

    def _staged(self) -> None:
        if not self.attempt.proposer:
            self._activate(Trigger.STAGED)
            return
        self._move(Trigger.STAGED)
        self._rearm()
        self.out.send(self.attempt.session, msg.Commit(self.out.tunnel, self.attempt.epoch, self.attempt.own_confirm))

    def _activate(self, trigger: Trigger) -> None:
        keys, attempt = self._keys(), self.attempt
        self._cancel()
        self._move(trigger)
        self._rearm()
        attempt.activated = True
        if attempt.reset:
            # The forced handshake ends every session of the live key; the guard is shut until the new one is proven.
            self.standing.live = None
            self.out.report("resetting", attempt.epoch)
        self._await("activate", lambda i: act.Activate(i, keys, attempt.reset))

    def _activated(self) -> None:
        attempt = self.attempt
        self._move(Trigger.ACTIVATED)
        self.standing.installed = attempt.held
        self.out.report("installed", attempt.epoch)
        self.out.tell(attempt.session, msg.Installed(self.out.tunnel, attempt.epoch))
        self._observe(0.0 if attempt.reset and attempt.proposer else None)

    def _observe(self, kick_after_s: float | None) -> None:
        attempt = self.attempt
        # Without a forced handshake the old session carries traffic meanwhile: the live epoch's expiry is the bound.
        attempt.deadline = self.out.now + self._observe_s if attempt.reset else None
        self._await("observe", lambda i: act.Observe(i, attempt.epoch, kick_after_s))

    def _peer_holds(self) -> None:
        """The peer's device holds the key: from now on a handshake can succeed, and the answerer may start one too."""
        attempt = self.attempt
        if attempt.reset and not attempt.proposer and not attempt.observed:
            self._cancel()
            self._observe(ANSWERER_KICK_S)

    def _observed(self) -> None:
        attempt = self.attempt
        attempt.observed = True
        self.standing.observed = attempt.epoch
        self.out.tell(attempt.session, msg.Live(self.out.tunnel, attempt.epoch))
        self._prove()

    def _prove(self) -> None:
        if self.attempt.observed and self.attempt.peer_observed and self.phase is Phase.OBSERVING:
            self.outcome = Proven()

    # ---- in doubt

    def _doubt(self) -> None:
        """The commit was sent and no answer came: keep both epochs until the peer is heard, or a handshake tells."""
        keys, old = self._keys(), self.standing.installed.epoch
        self._move(Trigger.LOST)
        self.out.report("in-doubt", self.attempt.epoch)
        self._ask_again()
        self._await("straddle", lambda i: act.Straddle(i, old, keys))

    def _ask_again(self) -> None:
        self.attempt.deadline = self.out.now + ASK_AGAIN_S
        if self.out.session is not None:
            self.out.send(self.out.session, msg.Ask(self.out.tunnel))

    def _settled(self, epoch: int) -> None:
        """A handshake came about under one of the two keys."""
        self.out.report("settled", epoch)
        if epoch != self.attempt.epoch:
            self._lost(f"the peer did not install epoch {self.attempt.epoch}")
            return
        self._move(Trigger.SETTLED_NEW)
        self.standing.installed = self.attempt.held
        self.attempt.activated = True
        self.attempt.deadline = None
        self._observed()

    def _lost(self, text: str) -> None:
        self.give_up(PeerError("tunnel.aborted", text), again=True)

    # ---- small parts

    def _keys(self) -> act.EpochKeys:
        assert self.attempt.keys is not None
        return self.attempt.keys

    def _move(self, trigger: Trigger) -> None:
        following = TABLE.get((self.phase, trigger))
        if following is None:
            raise ProgramError("program.state", f"«{trigger.value}» in phase «{self.phase.value}»")
        self.phase = following

    def _rearm(self) -> None:
        self.attempt.deadline = self.out.now + self._step_s

    def _await(self, slot: Slot, make: Callable[[int], act.Action]) -> None:
        action_id = self.out.next_id()
        self.attempt.pending[action_id] = slot
        self.out.add(make(action_id))

    def _cancel(self) -> None:
        for action_id in self.attempt.pending:
            self.out.add(act.Cancel(action_id))
        self.attempt.pending.clear()
