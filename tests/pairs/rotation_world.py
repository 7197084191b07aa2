"""Two rotation machines in one simulated world: clocks, a faulty channel, devices that behave like WireGuard, guards.

Real cryptography, real messages through the real codec; only time, the channel and the devices are modelled. The world
checks what must always hold after every step (`check_safety`).
"""

import heapq
import itertools
import random
from collections.abc import Callable
from dataclasses import dataclass, field

from qhybridd.crypto import kem
from qhybridd.crypto.kdf import key_tag
from qhybridd.errors import HostError
from qhybridd.keyexchange import perform
from qhybridd.policy import SEAMLESS_MARGIN_S, Policy
from qhybridd.protocol import actions as act
from qhybridd.protocol import messages as msg
from qhybridd.protocol.messages import Held
from qhybridd.protocol.rotation import Rotation
from qhybridd.secret import Secret

RTT_S = 0.02
REKEY_AFTER_S = 120.0
REJECT_AFTER_S = 180.0
RETRY_S = 5.0


@dataclass
class Device:
    """One end of a WireGuard peer: a PSK, and the session of the last handshake."""

    psk: bytes
    session: int = 0
    """Names the session key; 0 for none. Two ends understand each other when theirs are equal."""
    handshake_at: float = -1.0
    changes: int = 0
    """How often the handshake changed."""


@dataclass
class Record:
    """What a daemon writes under /run: the live epoch and the keys that may be on the device."""

    live: act.LiveEpoch | None = None
    candidates: list[Held] = field(default_factory=list)


@dataclass
class End:
    """One gateway."""

    name: str
    identity: bytes
    world: "World"
    policy: Policy
    device: Device
    record: Record = field(default_factory=Record)
    guard_until: float = 0.0
    rotation: Rotation | None = None
    running: dict[int, str] = field(default_factory=dict)
    """Actions under way in this incarnation."""
    incarnation: int = 0
    reports: list[act.Report] = field(default_factory=list)
    tags: set[bytes] = field(default_factory=set)
    """Tags of every key that this end ever derived."""
    fail_next: dict[str, int] = field(default_factory=dict)
    """Kind of action → how many of the next ones fail."""
    baseline: int = 0
    """Handshake changes at the last activation's read-back."""
    idle: bool = False

    def start(self) -> None:
        """A daemon starts: it adopts what still runs, else it closes."""
        self.incarnation += 1
        self.running.clear()
        rotation = self.rotation = Rotation("wan", self.policy, self.world.random.random)
        live, tag = self.record.live, self.device_tag()
        known = [held for held in self.record.candidates if held.tag == tag]
        if live is not None and self.guard_until > self.world.now and known:
            self.feed(act.Adopt(live, known[0]))
        else:
            self.close()
        del rotation

    def stop(self) -> None:
        """The daemon is killed."""
        self.rotation = None
        self.incarnation += 1
        self.running.clear()

    def feed(self, event: act.Event) -> None:
        """Hand an event to the machine and carry out what it asks for."""
        if self.rotation is None:
            return
        for action in self.rotation.handle(event, self.world.now):
            self.carry_out(action)
        self.world.check_safety()

    def close(self) -> None:
        """The guard shuts, the peer is removed and added again with a random PSK."""
        self.guard_until = 0.0
        self.record = Record()
        self.device.psk, self.device.session = self.world.random.randbytes(32), 0

    def device_tag(self) -> bytes:
        """Public tag of the key on the device."""
        return key_tag(Secret.adopt(self.device.psk))

    def foreign_write(self) -> None:
        """Another program changes the key on the device."""
        self.device.psk = self.world.random.randbytes(32)

    # ---- actions

    def carry_out(self, action: act.Action) -> None:
        match action:
            case act.Send(session, message):
                self.world.transmit(self, session, message)
            case act.Cancel(action_id):
                self.running.pop(action_id, None)
            case act.Report():
                self.reports.append(action)
                if action.event == "live":
                    assert self.rotation is not None
                    self.record.live = self.rotation.live
                elif action.event == "resetting":
                    self.record.live = None
            case act.Close():
                self.close()
            case act.Open(action_id, _epoch, deadline):
                self.guard_until = deadline
                self.later(0.001, action_id, "open", lambda: None)
            case act.Retire():
                pass
            case act.Observe(action_id, _epoch, kick):
                self.running[action_id] = "observe"
                self.poll(action_id, kick, self.world.now)
            case act.Straddle(action_id, old, keys):
                self.running[action_id] = "straddle"
                with keys.psk.expose() as psk:
                    self.straddle(action_id, {old: self.device.psk, keys.epoch: bytes(psk)}, self.device.changes)
            case act.Activate(action_id, keys, reset):
                self.tags.add(keys.tag)
                self.record.candidates.append(Held(keys.epoch, keys.tag))
                self.later(0.005, action_id, "activate", lambda: self.activate(keys, reset=reset))
            case act.Stage(action_id, keys):
                self.tags.add(keys.tag)
                self.later(0.002, action_id, "stage", lambda: None)
            case act.ReserveTarget(action_id):
                self.later(0.001, action_id, "reserve", lambda: act.Reserved(self.identity[:32], None))
            case act.MakeShares() | act.Encapsulate() | act.Decapsulate():
                self.later(0.001, action.id, "exchange", lambda: perform(action))
            case act.ReserveQkd(action_id, bits):
                self.later(0.001, action_id, "qkd", lambda: self.world.reserve_qkd(bits))
            case act.FetchQkd(action_id, ref):
                self.later(0.001, action_id, "qkd", lambda: self.world.fetch_qkd(ref))

    def later(self, delay_s: float, action_id: int, kind: str, work: Callable[[], object]) -> None:
        """Do `work` after a delay and feed the result, unless it was cancelled or the daemon died."""
        self.running[action_id] = kind
        incarnation = self.incarnation

        def finish() -> None:
            if self.incarnation != incarnation or self.running.pop(action_id, None) is None:
                return
            if self.fail_next.get(kind, 0) > 0:
                self.fail_next[kind] -= 1
                self.feed(act.Failed(action_id, HostError("host.netlink", f"{kind} fails on purpose")))
                return
            self.feed(act.Done(action_id, work()))

        self.world.at(self.world.now + delay_s * self.world.slowness, finish)

    def activate(self, keys: act.EpochKeys, *, reset: bool) -> None:
        self.world.derived_by_both(keys.tag)
        with keys.psk.expose() as psk:
            self.device.psk = bytes(psk)
        if reset:
            self.guard_until = 0.0
            self.device.session = 0
        self.baseline = self.device.changes

    def poll(self, action_id: int, kick: float | None, since: float) -> None:
        """Observe: has the handshake changed since the activation?"""
        if self.running.get(action_id) != "observe":
            return
        if self.device.changes > self.baseline:
            self.running.pop(action_id)
            self.feed(act.Done(action_id))
            return
        if kick is not None and self.world.now >= since + kick:
            self.world.handshake()
            kick += RETRY_S
        elif self.world.now - self.device.handshake_at > REKEY_AFTER_S + 1:
            self.world.handshake()
        incarnation = self.incarnation

        def again() -> None:
            if self.incarnation == incarnation:
                self.poll(action_id, kick, since)

        self.world.at(self.world.now + 0.2, again)

    def straddle(self, action_id: int, keys: dict[int, bytes], before: int) -> None:
        """Alternate between two keys while a handshake is overdue."""
        if self.running.get(action_id) != "straddle":
            return
        held = next(epoch for epoch, psk in keys.items() if psk == self.device.psk)
        if self.device.changes > before:
            self.running.pop(action_id)
            self.feed(act.Done(action_id, held))
            return
        if self.world.now - self.device.handshake_at > REKEY_AFTER_S + RETRY_S:
            self.device.psk = keys[next(epoch for epoch in keys if epoch != held)]
        incarnation = self.incarnation

        def again() -> None:
            if self.incarnation == incarnation:
                self.straddle(action_id, keys, before)

        self.world.at(self.world.now + 12.0, again)


class World:
    """Two ends, one clock."""

    end_type: type[End] = End

    def __init__(self, seed: int, policies: tuple[Policy, Policy]) -> None:
        self.random = random.Random(seed)
        self.now = 1000.0
        self.slowness = 1.0
        self.drop = self.repeat = self.delay = 0.0
        self.link_up = False
        self.qkd_works = True
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._order = itertools.count()
        self._sessions = itertools.count(1)
        self._qkd: dict[bytes, bytes] = {}
        low, high = sorted((self.random.randbytes(48), self.random.randbytes(48)))
        self.proposer = self.end_type("p", low, self, policies[0], Device(self.random.randbytes(32)))
        self.answerer = self.end_type("a", high, self, policies[1], Device(self.random.randbytes(32)))
        self.ends = (self.proposer, self.answerer)
        self.session: bytes | None = None
        self.known: dict[str, list[bytes]] = {"p": [], "a": []}
        self.at(self.now, self._traffic)
        self.at(self.now, self._redial)

    # ---- time

    def at(self, when: float, work: Callable[[], None]) -> None:
        heapq.heappush(self._events, (when, next(self._order), work))

    def run(self, seconds: float) -> None:
        """Let the world go on."""
        end = self.now + seconds
        while True:
            times = [e.rotation.deadline() for e in self.ends if e.rotation is not None]
            deadline = min((t for t in times if t is not None), default=end + 1)
            event = self._events[0][0] if self._events else end + 1
            following = max(self.now, min(deadline, event))
            if following > end:
                self.now = end
                return
            self.now = following
            for e in self.ends:
                due = e.rotation.deadline() if e.rotation is not None else None
                if due is not None and due <= self.now:
                    e.feed(act.Tick())
            if event <= following:
                heapq.heappop(self._events)[2]()

    # ---- the channel

    def _redial(self) -> None:
        if self.link_up and self.session is None and all(e.rotation is not None for e in self.ends):
            self.connect()
        self.at(self.now + 1.0, self._redial)

    def connect(self) -> None:
        """A new session: both ends learn of it, not at the same moment."""
        number = next(self._sessions)
        session_hash = number.to_bytes(48, "big")
        exporter = self.random.randbytes(48)
        self.session = session_hash
        for end, peer in (self.ends, self.ends[::-1]):
            keys = act.SessionKeys(session_hash, end.identity, peer.identity, Secret.adopt(exporter))
            self.at(self.now + self.random.random() * RTT_S, self._up(end, keys))

    def _up(self, end: End, keys: act.SessionKeys) -> Callable[[], None]:
        incarnation = end.incarnation

        def up() -> None:
            if end.incarnation == incarnation and self.session == keys.hash:
                self.known[end.name].append(keys.hash)
                end.feed(act.SessionUp(keys))

        return up

    def cut(self) -> None:
        """The session dies; each end learns of it at its own time."""
        self.session = None
        for end in self.ends:
            hashes, self.known[end.name] = self.known[end.name], []
            for session_hash in hashes:
                self.at(self.now + self.random.random() * 0.5, self._down(end, session_hash))

    def _down(self, end: End, session_hash: bytes) -> Callable[[], None]:
        incarnation = end.incarnation
        return lambda: end.feed(act.SessionDown(session_hash)) if end.incarnation == incarnation else None

    def restart(self, end: End, pause_s: float) -> None:
        """Kill -9, then start again after a pause."""
        end.stop()
        self.cut()
        incarnation = end.incarnation
        self.at(self.now + pause_s, lambda: end.start() if end.incarnation == incarnation else None)

    def transmit(self, sender: End, session: bytes, message: msg.Message) -> None:
        """Through the codec, with the channel's faults."""
        peer = self.ends[1] if sender is self.ends[0] else self.ends[0]
        data = msg.encode(message)
        copies = 0 if self.random.random() < self.drop else 1
        copies += self.random.random() < self.repeat
        for _ in range(copies):
            extra = self.random.random() * 15 if self.random.random() < self.delay else 0.0
            incarnation = peer.incarnation

            def arrive(incarnation: int = incarnation) -> None:
                if peer.incarnation == incarnation:
                    peer.feed(act.Received(session, msg.decode(data)))

            self.at(self.now + RTT_S / 2 + extra, arrive)

    # ---- QKD, for the level `hybrid`

    def reserve_qkd(self, bits: int) -> act.QkdKey:
        key, key_id = self.random.randbytes(bits // 8), self.random.randbytes(16)
        self._qkd[key_id] = key
        return act.QkdKey(msg.QkdRef("test:link", ("k1", "k2"), ("s1", "s2"), (key_id,), bits), Secret.adopt(key))

    def fetch_qkd(self, ref: msg.QkdRef) -> act.QkdKey:
        return act.QkdKey(ref, Secret.adopt(self._qkd.pop(ref.key_ids[0])))

    # ---- WireGuard

    def _traffic(self) -> None:
        """Traffic keeps the tunnel busy: a handshake is tried when the session is old, as WireGuard does."""
        if not all(e.idle for e in self.ends):
            oldest = self.now - min(e.device.handshake_at for e in self.ends)
            broken = self.ends[0].device.session != self.ends[1].device.session
            if oldest >= REKEY_AFTER_S or broken:
                self.handshake()
        self.at(self.now + RETRY_S, self._traffic)

    def handshake(self) -> None:
        """Succeeds when both devices hold the same PSK."""
        a, b = (e.device for e in self.ends)
        if a.psk == b.psk:
            a.session = b.session = self.random.getrandbits(63) | 1
            for device in (a, b):
                device.handshake_at = self.now
                device.changes += 1

    def passes(self) -> bool:
        """Whether a packet goes through now, both ways."""
        a, b = self.ends
        young = self.now - a.device.handshake_at < REJECT_AFTER_S
        open_ = min(a.guard_until, b.guard_until) > self.now
        return open_ and young and a.device.session == b.device.session != 0

    # ---- what must always hold

    def derived_by_both(self, tag: bytes) -> None:
        assert all(tag in e.tags for e in self.ends), "a key was installed that one end did not hold"

    def check_safety(self) -> None:
        lives = [e.rotation.live for e in self.ends if e.rotation is not None and e.rotation.live is not None]
        if len(lives) == 2 and lives[0].epoch == lives[1].epoch:
            assert lives[0].tag == lives[1].tag, "two ends disagree on a live key"
            assert lives[0].level == lives[1].level, "two ends disagree on a live key's level"
        for end in self.ends:
            live = end.rotation.live if end.rotation is not None else None
            if live is not None:
                assert live.deadline <= live.combined_at + end.policy.expiry_s
                assert live.deadline > self.now, "an epoch is live after its hard expiry"
                assert live.level >= end.policy.least
            assert end.guard_until <= self.now + end.policy.expiry_s

    def agreed(self) -> bool:
        """Both live, on one epoch."""
        lives = [e.rotation.live if e.rotation is not None else None for e in self.ends]
        return None not in lives and lives[0].epoch == lives[1].epoch and lives[0].tag == lives[1].tag  # type: ignore[union-attr]


def policy(*, reset: bool = False, period_s: int = 120, hybrid: bool = False, seamless: bool = False) -> Policy:
    """A policy that the tests use: ML-KEM-768, expiry as short as the check allows."""
    from qhybridd.crypto.levels import Level

    level = Level.HYBRID if hybrid else Level.PQC
    expiry_s = period_s + (SEAMLESS_MARGIN_S if seamless else 10 if reset else 180)
    return Policy(level, period_s, expiry_s, reset, (kem.ML_KEM_768,), qkd=hybrid, seamless=seamless)
