"""One rotation machine by itself: a faulty or hostile peer, misuse, and the table."""

import itertools
import random
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qhybridd.crypto import kem
from qhybridd.crypto.levels import Level
from qhybridd.errors import CODES, HostError, PeerError, ProgramError
from qhybridd.keyexchange import perform
from qhybridd.policy import Policy
from qhybridd.protocol import actions as act
from qhybridd.protocol import messages as msg
from qhybridd.protocol.rotation import Rotation
from qhybridd.protocol.rotation_table import TABLE, Phase, Trigger, diagram
from qhybridd.secret import Secret

LOW, HIGH = bytes(48), b"\xff" * 48
POLICY = Policy(Level.PQC, 120, 300, reset=False, kems=(kem.ML_KEM_768,))
DOCS = Path(__file__).parents[2] / "docs"


class Machine:
    """A machine, its clock, and what it asked for."""

    def __init__(self, *, proposes: bool = True, policy: Policy = POLICY, adopt: act.LiveEpoch | None = None) -> None:
        self.rotation = Rotation("wan", policy, random.Random(1).random)
        if adopt is not None:
            self.rotation.handle(act.Adopt(adopt, msg.Held(adopt.epoch, adopt.tag)), 1000.0)
        self.now = 1000.0
        own, peer = (LOW, HIGH) if proposes else (HIGH, LOW)
        self.session = act.SessionKeys(b"s" * 48, own, peer, Secret.adopt(b"e" * 48))
        self.actions: list[act.Action] = []
        self.feed(act.SessionUp(self.session))

    def feed(self, event: act.Event) -> list[act.Action]:
        self.actions = self.rotation.handle(event, self.now)
        return self.actions

    def receive(self, message: msg.Message) -> list[act.Action]:
        return self.feed(act.Received(self.session.hash, message))

    def the(self, kind: type) -> object:
        """The one action of this kind among the last ones."""
        (action,) = [a for a in self.actions if isinstance(a, kind)]
        return action

    def sent(self) -> list[msg.Message]:
        return [a.message for a in self.actions if isinstance(a, act.Send)]

    def errors(self) -> list[str]:
        return [a.error.code for a in self.actions if isinstance(a, act.Report) and a.error]

    def perform_all(self) -> None:
        """Answer every action of the key exchange and the target that was just asked for."""
        for action in list(self.actions):
            match action:
                case act.MakeShares() | act.Encapsulate() | act.Decapsulate():
                    self.feed(act.Done(action.id, perform(action)))
                case act.ReserveTarget(action_id):
                    self.feed(act.Done(action_id, act.Reserved(b"own", None)))
                case act.Stage(action_id) | act.Activate(action_id):
                    self.feed(act.Done(action_id))


def state(**fields: object) -> msg.State:
    return msgspec.structs.replace(msg.State("wan", 0, msg.Held(), msg.Held(), 0, b""), **fields)


def proposed() -> tuple[Machine, msg.Prepare]:
    """A proposer that sent its PREPARE."""
    m = Machine()
    assert isinstance(m.sent()[-1], msg.Ask)
    m.receive(state())
    m.perform_all()
    (prepare,) = m.sent()
    assert isinstance(prepare, msg.Prepare) and m.rotation.phase is Phase.PROPOSED
    return m, prepare


def answered(prepare: msg.Prepare) -> tuple[Machine, msg.Prepared]:
    """An answerer that sent its PREPARED."""
    m = Machine(proposes=False)
    m.receive(prepare)
    m.perform_all()
    (prepared,) = m.sent()
    assert isinstance(prepared, msg.Prepared) and m.rotation.phase is Phase.ANSWERED
    return m, prepared


def committed() -> tuple[Machine, Machine, msg.Commit]:
    p, prepare = proposed()
    a, prepared = answered(prepare)
    p.receive(prepared)
    p.perform_all()
    p.perform_all()
    (commit,) = p.sent()
    assert isinstance(commit, msg.Commit) and p.rotation.phase is Phase.COMMITTED
    return p, a, commit


@pytest.mark.parametrize("seamless", [False, True])
def test_an_expiry_ends_an_attempt_whose_key_the_closing_takes_away(seamless: bool) -> None:
    """The proposer is closed already and forces; here the old key expires in the middle of that."""
    _, prepare = proposed()
    policy = Policy(Level.PQC, 120, 300, reset=False, kems=(kem.ML_KEM_768,), seamless=seamless)
    live = act.LiveEpoch(1, Level.PQC, b"t" * 16, 990.0, 1005.0)
    a = Machine(proposes=False, policy=policy, adopt=live)
    a.receive(msgspec.structs.replace(prepare, epoch=2, chain=b"", reset=True))
    a.perform_all()
    assert a.rotation.phase is Phase.ANSWERED
    a.now = 1005.0
    a.feed(act.Tick())
    assert a.rotation.live is None
    assert any(isinstance(action, act.Close) for action in a.actions)
    assert a.rotation.phase is (Phase.IDLE if seamless else Phase.ANSWERED)
    assert ("tunnel.expired" in [m.code for m in a.sent() if isinstance(m, msg.Abort)]) is seamless


# ---- a hostile or faulty peer


def test_a_wrong_confirm_of_the_answerer_ends_the_attempt_before_anything_is_staged() -> None:
    p, prepare = proposed()
    _, prepared = answered(prepare)
    p.receive(msgspec.structs.replace(prepared, confirm=bytes(48)))
    p.perform_all()
    assert p.errors() == ["tunnel.confirm"] and not any(isinstance(a, act.Stage) for a in p.actions)
    assert p.sent() == [msg.Abort("wan", 1, "tunnel.confirm")]


def test_a_wrong_confirm_of_the_proposer_installs_nothing() -> None:
    _, a, commit = committed()
    a.receive(msgspec.structs.replace(commit, confirm=bytes(48)))
    assert a.errors() == ["tunnel.confirm"] and not any(isinstance(x, act.Stage | act.Activate) for x in a.actions)
    assert a.rotation.phase is Phase.IDLE


@pytest.mark.parametrize("field", ["nonce", "x25519", "offer"])
def test_an_altered_answer_is_found_by_the_confirmation(field: str) -> None:
    p, prepare = proposed()
    _, prepared = answered(prepare)
    good = getattr(prepared, field)
    p.receive(msgspec.structs.replace(prepared, **{field: bytes([good[0] ^ 1]) + good[1:]}))
    p.perform_all()
    assert p.errors() == ["tunnel.confirm"]


def test_an_answer_with_other_kems_is_malformed() -> None:
    p, prepare = proposed()
    _, prepared = answered(prepare)
    p.receive(msgspec.structs.replace(prepared, kems=()))
    assert p.errors() == ["peer.malformed"] and p.rotation.phase is Phase.IDLE


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({"epoch": 0}, "tunnel.epoch"),
        ({"level": Level.CLASSICAL, "kems": ()}, "tunnel.policy"),
        ({"level": Level.HYBRID}, "peer.malformed"),
        ({"kems": ()}, "tunnel.mismatch"),
        ({"reset": False}, "tunnel.mismatch"),
        ({"chain": bytes(16)}, "tunnel.mismatch"),
    ],
)
def test_a_proposal_that_must_not_be_taken_is_refused_and_changes_nothing(fields: dict[str, object], code: str) -> None:
    _, prepare = proposed()
    a = Machine(proposes=False)
    a.receive(msgspec.structs.replace(prepare, **fields))
    assert a.errors() == [code] and a.rotation.phase is Phase.IDLE
    assert a.rotation.standing.last_epoch == 0
    (abort,) = a.sent()
    assert isinstance(abort, msg.Abort) and abort.code == code and abort.text == ""


def test_a_device_with_another_public_key_is_a_mismatch() -> None:
    _, prepare = proposed()
    a = Machine(proposes=False)
    a.receive(prepare)
    for action in a.actions:
        if isinstance(action, act.Encapsulate):
            a.feed(act.Done(action.id, perform(action)))
        elif isinstance(action, act.ReserveTarget):
            a.feed(act.Done(action.id, act.Reserved(b"own", b"expected")))
    assert a.errors() == ["tunnel.mismatch"] and a.rotation.phase is Phase.IDLE


def test_only_the_right_end_may_propose_or_ask() -> None:
    _, prepare = proposed()
    p = Machine()
    p.receive(prepare)
    assert p.errors() == ["peer.order"]
    a = Machine(proposes=False)
    a.receive(msg.Want("wan", reset=False))
    assert a.errors() == ["peer.order"] and a.rotation.phase is Phase.IDLE


@pytest.mark.parametrize(
    "message",
    [
        msg.Prepared("wan", 9, bytes(32), bytes(32), (), b"", bytes(48)),
        msg.Commit("wan", 9, bytes(48)),
        msg.Installed("wan", 9),
        msg.Live("wan", 9),
    ],
)
def test_steps_of_an_unknown_epoch_are_out_of_order(message: msg.Message) -> None:
    m = Machine()
    m.receive(message)
    assert m.errors() == ["peer.order"]


def test_old_steps_and_aborts_of_other_epochs_are_ignored() -> None:
    p, prepare = proposed()
    for message in (
        msg.Live("wan", 0),
        msg.Installed("wan", 1),
        msg.Commit("wan", 1, bytes(48)),
        msg.Abort("wan", 7, "x"),
    ):
        assert p.receive(message) == [] and p.rotation.phase is Phase.PROPOSED
    a, _ = answered(prepare)
    assert a.receive(prepare) == []


def test_an_abort_ends_the_attempt_with_the_peers_code_and_no_control_characters() -> None:
    p, _ = proposed()
    p.receive(msg.Abort("wan", 1, "tunnel.policy", "\x1b[31mred"))
    (report,) = [a for a in p.actions if isinstance(a, act.Report)]
    assert report.error is not None and "tunnel.policy" in report.error.message and "\x1b" not in report.error.message
    p, _ = proposed()
    p.receive(msg.Abort("wan", 1, "no such code"))
    (report,) = [a for a in p.actions if isinstance(a, act.Report)]
    assert report.error is not None and "[unknown]" in report.error.message


def test_an_abort_names_the_way_out_at_the_other_end() -> None:
    p, _ = proposed()
    p.receive(msg.Abort("wan", 1, "host.no-device"))
    (report,) = [a for a in p.actions if isinstance(a, act.Report)]
    assert report.error is not None and report.error.code == "tunnel.aborted"
    assert report.error.hint == f"At the other gateway: {CODES['host.no-device']}"
    p, _ = proposed()
    p.receive(msg.Abort("wan", 1, "tunnel.mismatch"))
    (report,) = [a for a in p.actions if isinstance(a, act.Report)]
    assert report.error is not None and "look for [tunnel.mismatch] there" in report.error.hint


def test_an_end_without_an_attempt_hears_that_the_peer_has_no_such_tunnel() -> None:
    m = Machine(proposes=False)
    m.receive(msg.Abort("wan", 0, "tunnel.unknown"))
    (report,) = [a for a in m.actions if isinstance(a, act.Report)]
    assert report.error is not None and report.error.code == "tunnel.unknown"
    assert m.receive(msg.Abort("wan", 0, "tunnel.late")) == []


def test_messages_of_an_unknown_session_are_nobodys() -> None:
    m = Machine()
    assert m.feed(act.Received(b"x" * 48, msg.Ask("wan"))) == []


def test_the_proposer_that_starts_anew_supersedes() -> None:
    _, prepare = proposed()
    a, _ = answered(prepare)
    a.receive(msgspec.structs.replace(prepare, epoch=2))
    assert a.rotation.phase is Phase.ANSWERING and "tunnel.aborted" in a.errors()
    assert not a.sent()


def test_without_a_key_of_the_least_level_nothing_is_proposed() -> None:
    m = Machine(policy=Policy(Level.HYBRID, 120, 300, reset=False, kems=(kem.ML_KEM_768,), qkd=True))
    m.receive(state())
    assert m.errors() == ["source.empty"] and m.rotation.phase is Phase.IDLE


# ---- what an epoch needs to be live, and what a failure leaves

LIVE = act.LiveEpoch(3, Level.PQC, b"t" * 16, 990.0, 1290.0)


def observing() -> tuple[Machine, Machine]:
    """Both ends' devices hold the key, and both wait for proof."""
    p, a, commit = committed()
    a.receive(commit)
    a.perform_all()
    a.perform_all()
    (installed,) = a.sent()
    p.receive(installed)
    p.perform_all()
    (installed,) = p.sent()
    observe = p.the(act.Observe)
    a.receive(installed)
    assert p.rotation.phase is a.rotation.phase is Phase.OBSERVING
    assert isinstance(observe, act.Observe) and observe.kick_after_s == 0.0
    p.feed(act.Done(observe.id))
    return p, a


def test_own_proof_alone_makes_nothing_live() -> None:
    p, _ = observing()
    assert p.sent() == [msg.Live("wan", 1)]
    assert p.rotation.live is None and not any(isinstance(x, act.Open) for x in p.actions)
    p.receive(msg.Live("wan", 1))
    assert isinstance(p.the(act.Open), act.Open) and p.rotation.live is not None


def test_the_peers_proof_alone_makes_nothing_live() -> None:
    _, a = observing()
    a.receive(msg.Live("wan", 1))
    assert a.rotation.live is None and not any(isinstance(x, act.Open) for x in a.actions)


def test_the_deadline_counts_from_the_combining_not_from_the_proof() -> None:
    p, _ = observing()
    p.now += 5
    p.receive(msg.Live("wan", 1))
    opened = p.the(act.Open)
    assert isinstance(opened, act.Open) and opened.deadline == 1000.0 + POLICY.expiry_s


def test_an_activation_that_fails_closes() -> None:
    _, a, commit = committed()
    a.receive(commit)
    a.perform_all()
    activate = a.the(act.Activate)
    assert isinstance(activate, act.Activate)
    a.feed(act.Failed(activate.id, HostError("host.readback", "another program writes to it")))
    assert isinstance(a.the(act.Close), act.Close)
    assert a.sent() == [msg.Abort("wan", 1, "host.readback")]


def test_a_guard_that_does_not_open_closes_the_tunnel() -> None:
    p, _ = observing()
    p.receive(msg.Live("wan", 1))
    opened = p.the(act.Open)
    assert isinstance(opened, act.Open)
    p.feed(act.Failed(opened.id, HostError("host.guard", "no")))
    assert p.rotation.live is None and isinstance(p.the(act.Close), act.Close)


@pytest.mark.parametrize(("peer_live", "reset"), [(msg.Held(3, b"t" * 16), False), (msg.Held(), True)])
def test_a_peer_that_is_closed_makes_the_next_handshake_a_forced_one(peer_live: msg.Held, reset: bool) -> None:
    m = Machine(adopt=LIVE)
    m.feed(act.RotateNow(reset=False))
    assert m.sent() == [msg.Ask("wan")]
    m.receive(state(last=3, live=peer_live, installed=peer_live, observed=3))
    m.perform_all()
    (prepare,) = m.sent()
    assert isinstance(prepare, msg.Prepare) and prepare.epoch == 4 and prepare.reset is reset


# ---- time


def test_each_step_has_a_deadline_and_a_late_result_is_dropped() -> None:
    p, prepare = proposed()
    deadline = p.rotation.deadline()
    assert deadline is not None
    p.now = deadline
    p.feed(act.Tick())
    assert p.errors() == ["tunnel.late"]
    _, prepared = answered(prepare)
    assert p.receive(prepared) == []
    assert p.feed(act.Done(1, None)) == [] and p.feed(act.Failed(1, HostError("host.netlink", "late"))) == []


def test_in_doubt_the_peer_is_asked_again_and_again() -> None:
    p, _, _ = committed()
    for _ in range(3):
        deadline = p.rotation.deadline()
        assert deadline is not None
        p.now = deadline
        p.feed(act.Tick())
        assert p.rotation.phase is Phase.DOUBT and p.sent() == [msg.Ask("wan")]
    p.receive(state(last=1))
    assert p.errors() == ["tunnel.aborted"] and p.rotation.phase in (Phase.IDLE, Phase.ASKED)


def test_a_straddle_that_fails_leaves_it_to_the_peers_state() -> None:
    p, _, _ = committed()
    p.now = p.rotation.deadline() or 0
    p.feed(act.Tick())
    straddle = p.the(act.Straddle)
    assert isinstance(straddle, act.Straddle)
    p.feed(act.Failed(straddle.id, HostError("host.no-device", "gone")))
    assert p.rotation.phase is Phase.DOUBT


def test_failures_back_off() -> None:
    m = Machine(proposes=True)
    waits = []
    for _ in range(10):
        m.receive(msg.Abort("wan", 0, "tunnel.unknown"))
        due = m.rotation.deadline()
        assert due is not None
        waits.append(due - m.now)
        m.now = due
        m.feed(act.Tick())
        assert m.sent() == [msg.Ask("wan")]
    assert 0 < waits[0] < 1 and max(waits) <= 30 and waits[-1] > 10


# ---- misuse, and the table


def test_a_result_of_the_wrong_kind_is_a_defect() -> None:
    m = Machine()
    m.receive(state())
    reserve = m.the(act.ReserveTarget)
    assert isinstance(reserve, act.ReserveTarget)
    with pytest.raises(ProgramError):
        m.feed(act.Done(reserve.id, 7))


def test_only_a_fresh_machine_adopts() -> None:
    live = act.LiveEpoch(3, Level.PQC, bytes(16), 900.0, 1200.0)
    m = Machine()
    with pytest.raises(ProgramError):
        m.feed(act.Adopt(live, msg.Held(3, bytes(16))))


def test_the_table_has_no_dead_end_and_giving_up_leads_to_idle() -> None:
    reached = {Phase.IDLE}
    for _ in Phase:
        reached |= {following for (phase, _), following in TABLE.items() if phase in reached}
    assert reached == set(Phase)
    assert all(TABLE[phase, Trigger.ABANDON] is Phase.IDLE for phase in Phase if phase is not Phase.IDLE)


def test_the_diagram_in_the_docs_is_drawn_from_the_table() -> None:
    assert diagram() in (DOCS / "rotation.md").read_text()


# ---- foreign bytes


@given(st.binary(max_size=400))
def test_any_bytes_are_a_message_or_malformed(data: bytes) -> None:
    try:
        msg.decode(data)
    except PeerError as error:
        assert error.code == "peer.malformed" and error.code in CODES


@given(st.data())
def test_a_damaged_message_is_a_message_or_malformed(data: st.DataObject) -> None:
    _, prepare = _MESSAGES
    encoded = bytearray(msg.encode(data.draw(st.sampled_from([prepare, state(), msg.Want("wan", reset=True)]))))
    for _ in range(data.draw(st.integers(1, 4))):
        encoded[data.draw(st.integers(0, len(encoded) - 1))] = data.draw(st.integers(0, 255))
    cut = bytes(encoded[: data.draw(st.integers(0, len(encoded)))])
    for candidate in (bytes(encoded), cut):
        try:
            message = msg.decode(candidate)
        except PeerError as error:
            assert error.code == "peer.malformed"
        else:
            for machine in (Machine(), Machine(proposes=False)):
                machine.receive(message)  # whatever it says: no exception, and nothing is installed
                assert not any(isinstance(a, act.Stage | act.Activate | act.Open) for a in machine.actions)


_MESSAGES = proposed()


def test_every_message_survives_the_codec() -> None:
    p, prepare = _MESSAGES
    a, prepared = answered(prepare)
    messages = [
        prepare,
        prepared,
        state(live=msg.Held(1, bytes(16))),
        msg.Ask("wan"),
        msg.Want("wan", reset=True),
        msg.Commit("wan", 1, bytes(48)),
        msg.Installed("wan", 1),
        msg.Live("wan", 1),
        msg.Abort("wan", 1, "tunnel.late"),
    ]
    assert len({type(m) for m in messages}) == 9
    for message, other in itertools.pairwise(messages):
        assert msg.decode(msg.encode(message)) == message != other
    del p, a


def test_a_peer_that_used_the_last_epoch_up_gets_no_number_beyond_it() -> None:
    m = Machine()
    m.receive(state(last=msg.MAX_EPOCH))
    assert m.errors() == ["tunnel.epoch"]
    assert m.rotation.standing.last_epoch == 0


def test_a_hybrid_key_is_refused_where_there_is_no_source() -> None:
    _, prepare = proposed()
    a = Machine(proposes=False)
    ref = msg.QkdRef("sim:link", (), (), (bytes(16),), 256)
    a.receive(msgspec.structs.replace(prepare, level=Level.HYBRID, qkd=ref))
    assert a.errors() == ["tunnel.policy"] and a.rotation.phase is Phase.IDLE


def test_an_attempt_that_fails_on_the_device_says_why_the_tunnel_is_closed() -> None:
    m, _, _ = committed()
    m.receive(msg.Installed("wan", 1))
    activate = m.the(act.Activate)
    assert isinstance(activate, act.Activate)
    m.feed(act.Failed(activate.id, HostError("host.netlink", "refused")))
    (closed,) = [a for a in m.actions if isinstance(a, act.Report) and a.event == "closed"]
    assert closed.error is not None and closed.error.code == "host.netlink"
    m.the(act.Close)


def test_a_state_that_overtakes_the_commit_says_nothing_of_it() -> None:
    """At a renewal of the session, the new one's State may come while the commit travels on the old one."""
    p, _, _ = committed()
    p.receive(state(last=1))
    assert p.rotation.phase is Phase.COMMITTED and p.errors() == []
    p.feed(act.SessionDown(p.session.hash))
    assert p.rotation.phase is Phase.DOUBT
    other = act.SessionKeys(b"o" * 48, LOW, HIGH, Secret.adopt(b"e" * 48))
    p.feed(act.SessionUp(other))
    p.feed(act.Received(other.hash, state(last=1)))
    assert p.errors() == ["tunnel.aborted"]


def test_after_a_doubt_nobody_says_which_key_is_on_the_device() -> None:
    """The straddle may have left either one there."""
    live = act.LiveEpoch(3, Level.PQC, b"t" * 16, 990.0, 1290.0)
    p = Machine(adopt=live)
    assert p.rotation.standing.installed.epoch == 3
    p.feed(act.RotateNow(reset=False))
    p.receive(state(last=3, live=msg.Held(3, b"t" * 16), installed=msg.Held(3, b"t" * 16), observed=3))
    p.perform_all()
    (prepare,) = [message for message in p.sent() if isinstance(message, msg.Prepare)]
    answerer = Machine(proposes=False, adopt=live)
    answerer.receive(prepare)
    answerer.perform_all()
    (prepared,) = [message for message in answerer.sent() if isinstance(message, msg.Prepared)]
    p.receive(prepared)
    p.perform_all()
    p.perform_all()
    assert p.rotation.phase is Phase.COMMITTED
    p.now += 20
    p.feed(act.Tick())
    assert p.rotation.phase is Phase.DOUBT
    p.receive(state(last=4, live=msg.Held(3, b"t" * 16), installed=msg.Held(3, b"t" * 16), observed=3))
    assert p.rotation.live is not None and p.rotation.standing.installed == msg.Held()


def test_what_a_key_rests_on_is_the_identity_of_its_session() -> None:
    m = Machine()
    assert m.rotation.rests_on(HIGH), "an attempt is under way"
    m.receive(msg.Abort("wan", 0, "tunnel.late"))
    assert not m.rotation.rests_on(HIGH) and not m.rotation.rests_on(LOW)


def test_a_strict_tunnel_goes_on_as_soon_as_there_are_keys_again() -> None:
    """Whatever the backoff after attempts that failed for want of a key."""
    strict = Policy(Level.HYBRID, 120, 300, reset=False, kems=(kem.ML_KEM_768,), qkd=True)
    m = Machine(policy=strict)
    for _ in range(6):
        m.receive(state())
        assert "source.empty" in m.errors()
        m.now = m.rotation.deadline() or m.now
        m.feed(act.Tick())
    m.receive(state())
    waits_until = m.rotation.deadline() or 0.0
    assert waits_until > m.now + 5
    m.feed(act.QkdSupply(ready=True))
    assert isinstance(m.sent()[-1], msg.Ask)
    m.receive(state())
    assert isinstance(m.the(act.ReserveQkd), act.ReserveQkd)
