"""Alice and Bob of one link in memory: real kernels, real clicks, and somebody between them who may do anything.

Blocks are as small as gives a key: 37,000 sifted bits in the key basis, twice as many in the test basis, three frames.
"""

import hashlib
import json
import math
import os
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cache

import numpy as np
from numpy.typing import NDArray

from qhybridd.apps.bench.blocks import Block as Drawn
from qhybridd.apps.bench.blocks import make_block, make_link, pulses_for
from qhybridd.bits import Bits
from qhybridd.distill.alice import Alice
from qhybridd.distill.authenticate import LinkKeys
from qhybridd.distill.bob import Bob
from qhybridd.distill.pads import BLOCK_BYTES, FLOOR_BLOCKS, Pads
from qhybridd.distill.plan import plan, reconciliation_bits
from qhybridd.distill.record import BlockRecord
from qhybridd.distill.session import Block, Dropped, Kept, Session
from qhybridd.distill.session_table import Phase
from qhybridd.distill.terms import Bound, Protocol, Terms
from qhybridd.secret import Secret

LINK = b"north"
PSK = bytes(range(32))
KEY_BITS = 37_000
FRAMES = 3
QBER = 0.005
PROTOCOL = Protocol((0.2, 0.07), (0.5, 0.5), 0.4, Bound.WIESEMANN_ONE, 1e-2, 1e-15, 0.08)
"""A secrecy that only a test accepts: it makes keys of small blocks."""
TWO_DECOYS = Protocol((0.4, 0.1, 0.01), (0.5, 0.3, 0.2), 0.4, Bound.WIESEMANN_TWO, 1e-2, 1e-15, 0.08)

ROOMY = 11_800
"""Bits more to disclose: enough for one frame whole."""
STEPS = 10
"""Messages of a block that goes well."""

Mediator = Callable[[int, bytes], list[bytes]]
"""Number of a message (from 0) and its bytes → what arrives in its place."""


@cache
def terms(spare_bits: int = 0, protocol: Protocol = PROTOCOL) -> Terms:
    """What a link of half a per cent QBER meets nearly always, with so many bits more to disclose."""
    channel = make_link(QBER, protocol=protocol, dark_probability=1e-8)
    pulses = pulses_for(KEY_BITS, protocol, channel)
    expected = channel.expect(protocol, pulses)
    return plan(protocol, pulses, expected, int(reconciliation_bits(expected, 2.0)) + 600 + spare_bits, 0.99)


@cache
def drawn(seed: int = 1, qber: float = QBER, protocol: Protocol = PROTOCOL, share: float = 1.0) -> Drawn:
    """The clicks of one block; `share`: how many of the pulses that the terms ask for are sent, the rest is dark."""
    channel = make_link(qber, protocol=protocol, dark_probability=1e-8)
    pulses = terms(protocol=protocol).pulses
    block = calm(make_block(protocol, channel, int(pulses * share), seed))
    return replace(block, pulses=pulses, emissions=replace(block.emissions, pulses=pulses))


def key_clicks_of(block: Drawn) -> NDArray[np.int64]:
    """Numbers of the clicks that both ends saw in the key basis."""
    his, hers = (unpacked(plane) for plane in (block.bases, block.emissions.bases))  # type: ignore[attr-defined]
    return np.flatnonzero((his | hers)[: block.count] == 0)


def calm(block: Drawn) -> Drawn:
    """With half as many errors in the key basis as in the test basis, so that no frame fails by chance."""
    mine, hers = unpacked(block.bits), unpacked(block.emissions.bits)  # type: ignore[attr-defined]
    key = key_clicks_of(block)
    wrong = key[mine[key] != hers[key]][::2]
    mine[wrong] ^= 1
    return replace(block, bits=np.packbits(mine, bitorder="little").tobytes())


def with_burst(block: Drawn, every: int) -> Drawn:
    """With one bit in every so many flipped in the first frame of the key."""
    mine, key = unpacked(block.bits), key_clicks_of(block)
    mine[key[: KEY_BITS // FRAMES][::every]] ^= 1
    return replace(block, bits=np.packbits(mine, bitorder="little").tobytes())


def unpacked(plane: bytes) -> NDArray[np.uint8]:
    """One element a bit."""
    return np.unpackbits(np.frombuffer(plane, np.uint8), bitorder="little")


def link_keys(psk: bytes = PSK, session: int = 1, *, distilled: bool = True) -> LinkKeys:
    """One end's keys. `distilled`: as after many blocks, the pads are at their floor and came out of keys."""
    keys = LinkKeys(Secret.adopt(psk), session.to_bytes(48, "big"), LINK)
    if distilled:
        for number, pool in enumerate((keys.alice_to_bob, keys.bob_to_alice)):
            stream = Secret.adopt(_stream(b"%d %d" % (session, number), (FLOOR_BLOCKS + 1) * BLOCK_BYTES))
            pool.refill(stream)
    return keys


def _stream(seed: bytes, size: int) -> bytes:
    return hashlib.shake_256(seed).digest(size)


@dataclass
class Pair:
    """Both ends of a link in one session of it, block after block."""

    alice_keys: LinkKeys = field(default_factory=link_keys)
    bob_keys: LinkKeys = field(default_factory=link_keys)
    number: int = 0
    alice: Alice | None = None
    bob: Bob | None = None
    sent: list[bytes] = field(default_factory=list)
    """Every message of the last block, as its sender made it."""

    def begin(
        self,
        block: Drawn,
        alice_terms: Terms | None = None,
        bob_terms: Terms | None = None,
        random: Callable[[int], bytes] = os.urandom,
    ) -> None:
        self.number += 1
        ours = alice_terms or terms(protocol=block.protocol)
        self.alice = Alice(Block(self.number, ours), block.emissions, self.alice_keys, random)
        self.bob = Bob(Block(self.number, bob_terms or ours), block.clicks, self.bob_keys)
        self.sent = []

    def run(self, mediator: Mediator = lambda _, data: [data]) -> tuple[Kept | Dropped, Kept | Dropped]:
        """Until both ends are over; one that waits in vain gives up, as its daemon would."""
        alice, bob = self.alice, self.bob
        assert alice is not None and bob is not None
        assert bob.start() is None
        sender: Session = alice
        data = alice.start()
        while data is not None:
            self.sent.append(data)
            receiver: Session = bob if sender is alice else alice
            answer = None
            for arrival in mediator(len(self.sent) - 1, data):
                if receiver.result is not None:
                    break  # a daemon drops what comes for a block that is over
                again = receiver.receive(arrival)
                answer = answer or again
            sender, data = receiver, answer
        for end in (alice, bob):
            if end.result is None:
                end.give_up("link.aborted", "nothing came in time")
        assert alice.result is not None and bob.result is not None
        return alice.result, bob.result

    def block(self, block: Drawn, **how: object) -> tuple[Kept | Dropped, Kept | Dropped]:
        """A whole block without a fault."""
        self.begin(block, **how)  # type: ignore[arg-type]
        return self.run()


def bits_of(key: Bits) -> bytes:
    """In clear, for comparing."""
    with key.expose() as words:
        return bytes(words)


def pads_of(pool: Pads) -> bytes:
    """All that a pool holds, in clear."""
    held = b""
    for reservoir in pool._reservoirs.values():
        for at, part in enumerate(reservoir._parts):
            with part.expose() as view:
                held += bytes(view[reservoir._offset if at == 0 else 0 :])
    return held


def kept(results: tuple[Kept | Dropped, Kept | Dropped]) -> tuple[Kept, Kept]:
    alice, bob = results
    assert isinstance(alice, Kept), alice
    assert isinstance(bob, Kept), bob
    assert bits_of(alice.key) == bits_of(bob.key) and alice.key.length == bob.key.length
    assert alice.key_id == bob.key_id and any(bits_of(alice.key))
    check_records(alice.record, bob.record)
    return alice, bob


def dropped(results: tuple[Kept | Dropped, Kept | Dropped], code: str) -> tuple[Dropped, Dropped]:
    alice, bob = results
    assert isinstance(alice, Dropped) and isinstance(bob, Dropped)
    assert alice.code == bob.code == code and alice.reason and bob.reason
    check_records(alice.record, bob.record)
    return alice, bob


def check_records(alice: BlockRecord, bob: BlockRecord) -> None:
    """The two ends tell the same of a block that both saw through."""
    same = replace(bob, role="alice", outcome=replace(bob.outcome, reason=alice.outcome.reason))
    if alice.estimates and bob.estimates:
        for name in ("vacuum", "single", "phase_error"):
            assert math.isclose(getattr(alice.estimates, name), getattr(bob.estimates, name), rel_tol=1e-9)
        same = replace(same, estimates=alice.estimates)
    assert same == alice
    for record in (alice, bob):
        told = json.loads(json.dumps(record.to_dict(), allow_nan=False))
        assert told["outcome"]["code"] == record.outcome.code
        assert told["disclosed"]["total"] == record.disclosed.total


def check_wiped(end: Session) -> None:
    """Nothing secret is left at an end but a key that counts."""
    assert not end._secrets and end.phase in (Phase.KEPT, Phase.DROPPED)
    for name, value in vars(end).items():
        if isinstance(value, Bits):
            assert not any(bits_of(value)), name
