"""A whole simulated link in one process: light, clicks, both ends of the distillation, both key stores.

The messages of the distillation are the real ones, only that nobody carries them; time is the link's own, and runs as
fast as the machine. A seed repeats everything, down to the seeds of the hashes.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from qhybridd.bits import Bits
from qhybridd.config.records import LinkConfig
from qhybridd.crypto.kdf import HASH_BYTES
from qhybridd.distill.alice import Alice
from qhybridd.distill.authenticate import LinkKeys, Role
from qhybridd.distill.bob import Bob
from qhybridd.distill.pads import LEAST_PSK_BYTES
from qhybridd.distill.record import BlockRecord, Counted
from qhybridd.distill.session import Block, Kept, Session
from qhybridd.distill.sift import Counts, count_clicks, count_errors, match, select, sort_clicks
from qhybridd.distill.terms import Terms
from qhybridd.errors import ProgramError
from qhybridd.keystore import KeyStore
from qhybridd.links.planning import Planner, bound_frame, lay_out
from qhybridd.optics.eve import make_attack
from qhybridd.optics.line import Line
from qhybridd.optics.monitors import judge
from qhybridd.optics.parameters import Optics
from qhybridd.optics.randomness import Randomness
from qhybridd.optics.receiver import Station, assemble
from qhybridd.optics.records import Clicks, Detections, Health, Layout, Prepared, Request
from qhybridd.secret import Secret

FRAME_S: Final = 1.0
"""Time of the link that a frame takes here at most: drift and faults hold for a frame."""
NO_KEY: Final = "no key"
"""In place of an error code: the terms of such a block pay for no key, so it was counted and not distilled."""


@dataclass(frozen=True, slots=True)
class BlockReport:
    """What became of one block, and what it was."""

    number: int
    begin_s: float
    end_s: float
    """In time of the link."""
    pulses: int
    clicks: int
    counts: Counts
    """Sifted clicks and their errors: of all bits, as only a simulation knows them."""
    code: str
    """Empty for a block that was kept; else why not: an error code, or `NO_KEY`."""
    reason: str
    key_bits: int
    net_bits: int
    """What each key store got."""
    refill_bits: int
    record: BlockRecord | None
    """Alice's; None where Bob refused it before distillation, or there was nothing to distil."""
    instruments: "Instruments"

    @property
    def seconds(self) -> float:
        """So long its pulses took."""
        return self.end_s - self.begin_s

    @property
    def qber_key(self) -> float | None:
        """Error rate of the key basis."""
        return _rate(self.counts.key_errors, self.counts.key_clicks)

    @property
    def qber_test(self) -> float | None:
        """Error rate of the test basis."""
        return _rate(self.counts.test_errors, self.counts.test_clicks)


@dataclass(frozen=True, slots=True)
class Instruments:
    """What Bob's told during a block, in short: there may be thousands of frames."""

    frames: int
    calibrating: int
    """Frames spent on calibration."""
    unsynchronised: int
    """Frames without the source's clock."""
    angle_rad: float
    """Largest misalignment that the reference light showed."""
    current_a: float
    """Largest photocurrent."""

    @classmethod
    def of(cls, healths: Sequence[Health]) -> "Instruments":
        """Of at least one frame."""
        return cls(
            len(healths),
            sum(health.calibrating for health in healths),
            sum(not health.synchronised for health in healths),
            max(abs(health.angle_rad) for health in healths),
            max(max(health.current_a) for health in healths),
        )


@dataclass(frozen=True, slots=True)
class Emitted:
    """Alice's memory of one block: implements `distill.sift.Emissions`."""

    line: Line
    first: int
    pulses: int

    def recall(self, gaps: bytes | memoryview) -> Prepared:
        """As `Line.recall`."""
        return self.line.recall(self.first, self.pulses, gaps)


class SimulatedLink:
    """One run of a link, block after block."""

    def __init__(self, link: LinkConfig, randomness: Randomness) -> None:
        """Raises `OperatorError` for what the bound refuses, and for a link on which nothing arrives."""
        self.link, self._randomness = link, randomness
        self.layout = recut(link.simulation, lay_out(link.simulation, link.block_clicks))
        self.planner = Planner(link.protocol, link.simulation, self.layout.block_pulses)
        self.line = Line(link.simulation, randomness.child("line"))
        self.station = Station(link.simulation.receiver, link.simulation.source, randomness.child("station"))
        self.alice_store = KeyStore(Role.ALICE, link.capacity_bits, link.max_age_s)
        self.bob_store = KeyStore(Role.BOB, link.capacity_bits, link.max_age_s)
        self.sessions = 0
        """Begun so far: a block that ends out of step needs a new one."""
        self.blocks = 0
        self._protocol_random = randomness.child("distillation")
        self._keys: tuple[LinkKeys, LinkKeys] | None = None

    @property
    def now(self) -> float:
        """Seconds of the link's time."""
        return self.blocks * self.layout.block_pulses / self.layout.repetition_hz

    def attack(self, name: str | None, fraction: float = 1.0) -> None:
        """Put somebody into the line, or take her out. Raises `OperatorError` for an attack that there is not."""
        purpose = f"attack {self.blocks}"
        randomness = self._randomness.child(purpose)
        self.line.attack = make_attack(name, self.link.simulation, fraction, randomness) if name else None

    def block(self, at_frame: Callable[[float], None] = lambda _: None) -> BlockReport:
        """The next block. `at_frame` hears the time before each frame, and may change line and station."""
        layout, first, begin_s = self.layout, self.blocks * self.layout.block_pulses, self.now
        detections: list[Detections] = []
        for frame in range(layout.block_frames):
            at_frame(begin_s + frame * layout.frame_s)
            request = Request(thinning=self.station.thinning)
            arrivals = self.line.frame(first + frame * layout.frame_pulses, layout.frame_pulses, request)
            detections.append(self.station.detect(arrivals))
        healths = [detection.health for detection in detections]
        clicks = assemble(detections, layout.block_pulses)
        emitted = Emitted(self.line, first, layout.block_pulses)
        self.blocks += 1
        return self._finish(clicks, emitted, healths, begin_s)

    def _finish(self, clicks: Clicks, emitted: Emitted, healths: Sequence[Health], begin_s: float) -> BlockReport:
        known = _copy(clicks)
        code, reason, record, key_bits, net_bits, refill_bits = "", "", None, 0, 0, 0
        verdict = judge(self.link.simulation.receiver, healths)
        if verdict is not None:
            code, reason = verdict
            clicks.bits.wipe()
        elif self.planner.terms is None:
            code, reason = NO_KEY, "a block like this pays for no key"
            clicks.bits.wipe()
        else:
            record = self._distil(clicks, emitted, self.planner.terms)
            key_bits, net_bits, refill_bits = record.key_bits, record.net_bits, record.refill_bits
            code, reason = record.outcome.code, record.outcome.reason
            self.planner.note(record)
        counts = _counts_of(record) or count_block(known, emitted, len(self.link.simulation.source.intensities))
        known.bits.wipe()
        return BlockReport(
            self.blocks,
            begin_s,
            self.now,
            clicks.pulses,
            clicks.count,
            counts,
            code,
            reason,
            key_bits,
            net_bits,
            refill_bits,
            record,
            Instruments.of(healths),
        )

    def _distil(self, clicks: Clicks, emitted: Emitted, terms: Terms) -> BlockRecord:
        """Both ends, until both are over; what is kept goes into both stores. Gives Alice's record."""
        hers, his = self._session()
        block = Block(self.blocks, terms)
        alice = Alice(block, emitted, hers, self._protocol_random.take)
        bob = Bob(block, clicks, his)
        bob.start()
        message, turn = alice.start(), False
        ends: tuple[Session, Session] = (bob, alice)
        while message is not None:
            message, turn = ends[turn].receive(message), not turn
        for end in ends:
            if end.result is None:
                end.give_up("link.aborted", "the other end is over")
        assert alice.result is not None and bob.result is not None
        if isinstance(alice.result, Kept) and isinstance(bob.result, Kept):
            if not _equal(alice.result.key, bob.result.key):
                raise ProgramError("program.state", "the two ends hold different keys under one ID")
            for store, result in ((self.alice_store, alice.result), (self.bob_store, bob.result)):
                store.add(result.key_id, result.key, result.record.refill_bits, self.now)
                store.confirm(result.key_id, self.now)
        return alice.result.record

    def _session(self) -> tuple[LinkKeys, LinkKeys]:
        """The keys of both ends; of a new session where those of the last one are used up or out of step."""
        if self._keys is None or not all(keys.blocks_left for keys in self._keys):
            for keys in self._keys or ():
                keys.wipe()
            self.sessions += 1
            psk, session = self._protocol_random.take(LEAST_PSK_BYTES), self._protocol_random.take(HASH_BYTES)
            name = self.link.name.encode()
            self._keys = (LinkKeys(Secret.adopt(psk), session, name), LinkKeys(Secret.adopt(psk), session, name))
        return self._keys

    def wipe(self) -> None:
        """Forget every key."""
        for keys in self._keys or ():
            keys.wipe()
        self.alice_store.wipe()
        self.bob_store.wipe()


def count_block(clicks: Clicks, emitted: Emitted, intensities: int) -> Counts:
    """Sifted clicks and errors of a block, from both ends' bits: what no end knows before the other tells."""
    prepared = emitted.recall(clicks.gaps)
    matching = match(prepared.bases, clicks.bases, clicks.count)
    low, high = (select(matching, plane, clicks.count) for plane in prepared.intensities)
    hers = sort_clicks(matching, clicks.bases, prepared.bits, (low, high), clicks.count)
    his = sort_clicks(matching, clicks.bases, clicks.bits, (low, high), clicks.count)
    key, test = hers.key.length, hers.test.length
    counts = Counts(
        key_clicks=count_clicks(hers.key_intensities, key, intensities),
        key_errors=count_errors(hers.key, his.key, hers.key_intensities, key, intensities),
        test_clicks=count_clicks(hers.test_intensities, test, intensities),
        test_errors=count_errors(hers.test, his.test, hers.test_intensities, test, intensities),
    )
    for bits in (prepared.bits, hers.key, hers.test, his.key, his.test):
        bits.wipe()
    return counts


def _counts_of(record: BlockRecord | None) -> Counts | None:
    """What the two ends found out, where they found out all of it."""
    if record is None:
        return None
    match record.counted:
        case Counted(tuple(key_clicks), tuple(key_errors), tuple(test_clicks), tuple(test_errors)):
            return Counts(key_clicks, key_errors, test_clicks, test_errors)
    return None


def _copy(clicks: Clicks) -> Clicks:
    """The same clicks with bits of their own: distillation wipes what it takes."""
    bits = Bits.zeros(clicks.count)
    with clicks.bits.expose() as source, bits.expose() as target:
        target[:] = source
    return Clicks(clicks.pulses, clicks.count, clicks.gaps, clicks.bases, bits)


def _equal(a: Bits, b: Bits) -> bool:
    return a.length == b.length and a.secret == b.secret


def _rate(errors: Sequence[int], clicks: Sequence[int]) -> float | None:
    return sum(errors) / sum(clicks) if sum(clicks) else None


def recut(optics: Optics, layout: Layout) -> Layout:
    """The same blocks in frames that are as long as `FRAME_S` and memory allow: each frame has a price of its own."""
    frame = bound_frame(optics, FRAME_S * layout.repetition_hz)
    frames = math.ceil(layout.block_pulses / max(frame, layout.frame_pulses))
    return Layout(layout.repetition_hz, math.ceil(layout.block_pulses / frames), frames)
