"""Whole blocks: by two sessions that talk, as between gateways, or stage after stage where no key would be paid."""

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, ParamSpec, TypeVar

from qhybridd.apps.bench.blocks import Block
from qhybridd.crypto.kdf import HASH_BYTES
from qhybridd.distill import session
from qhybridd.distill.alice import Alice
from qhybridd.distill.amplify import amplify, seed_bytes
from qhybridd.distill.authenticate import LinkKeys
from qhybridd.distill.bob import Bob
from qhybridd.distill.plan import plan
from qhybridd.distill.rates import QBER_MOST, choose_framing
from qhybridd.distill.reconcile import Receiver, Sender
from qhybridd.distill.sift import (
    INTENSITIES_MOST,
    Emissions,
    Sifted,
    count_clicks,
    count_errors,
    decode_gaps,
    encode_gaps,
    match,
    select,
    sort_clicks,
)
from qhybridd.distill.terms import Terms
from qhybridd.distill.verify import SEED_BYTES, block_tag
from qhybridd.errors import QhybriddError
from qhybridd.optics.records import Prepared
from qhybridd.secret import Secret

LEAKAGE_MARGIN: Final = 1.15
"""Over what the framing for the expected error rate discloses."""
KEY_SHARE: Final = 0.25
"""How much of the sifted key comes out where no proof says it."""

P = ParamSpec("P")
T = TypeVar("T")


@dataclass(slots=True)
class Times:
    """What each end took for one block, of one core."""

    alice_s: float = 0.0
    bob_s: float = 0.0
    sifted_bits: int = 0
    key_bits: int = 0

    @property
    def both_s(self) -> float:
        """Both ends, one after the other."""
        return self.alice_s + self.bob_s

    def alice(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Do it on Alice's time."""
        begun = time.thread_time()
        done = work(*args, **kwargs)
        self.alice_s += time.thread_time() - begun
        return done

    def bob(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Do it on Bob's time."""
        begun = time.thread_time()
        done = work(*args, **kwargs)
        self.bob_s += time.thread_time() - begun
        return done


class Memory:
    """The generator's memory of what Alice prepared, and the time that it takes: that is none of distillation's."""

    def __init__(self, emissions: Emissions) -> None:
        self._emissions = emissions
        self.spent_s = 0.0

    def recall(self, gaps: bytes | memoryview) -> Prepared:
        """As `Emissions.recall`."""
        begun = time.thread_time()
        prepared = self._emissions.recall(gaps)
        self.spent_s += time.thread_time() - begun
        return prepared


def terms_for(block: Block, qber: float) -> Terms:
    """What the block can be held to; `key_bits` is 0 where it pays for no key."""
    expected = block.link.expect(block.protocol, block.pulses)
    clicks = round(sum(expected.key_clicks))
    framing = choose_framing(clicks, min(QBER_MOST, qber * 1.05))
    return plan(block.protocol, block.pulses, expected, round(framing.disclosed * LEAKAGE_MARGIN) + 1000)


def make_keys() -> tuple[LinkKeys, LinkKeys]:
    """What a session of many blocks authenticates with, Alice's and Bob's: made once, on no block's time."""
    psk, session_hash = Secret.adopt(os.urandom(32)), os.urandom(HASH_BYTES)
    return LinkKeys(psk, session_hash, b"bench"), LinkKeys(psk, session_hash, b"bench")


def run_sessions(block: Block, terms: Terms, keys: tuple[LinkKeys, LinkKeys]) -> Times:
    """Two ends that talk until both keep the key; the first block of these keys.

    Raises `QhybriddError` where they drop the block.
    """
    times = Times()
    hers, his = keys
    clicks, number, memory = block.clicks, session.Block(0, terms), Memory(block.emissions)
    alice = times.alice(Alice, number, memory, hers, os.urandom)
    bob = times.bob(Bob, number, clicks, his)
    message = times.alice(alice.start)
    times.bob(bob.start)
    while message is not None:
        answer = times.bob(bob.receive, message)
        message = None if answer is None else times.alice(alice.receive, answer)
    times.alice_s -= memory.spent_s
    for end in (alice, bob):
        if isinstance(end.result, session.Dropped):
            raise QhybriddError(end.result.code, f"the block was dropped: {end.result.reason}")
        assert isinstance(end.result, session.Kept)
        times.key_bits = end.result.record.key_bits
        times.sifted_bits = end.result.record.sizes.key_bits or 0
        end.result.key.wipe()
    return times


def run_stages(block: Block, qber: float) -> Times:
    """The same work without messages, tags and judgement: for sizes and error rates that pay no key."""
    times, count = Times(), block.count
    clicks = block.clicks
    code = times.bob(encode_gaps, clicks.gaps, count)
    gaps = times.alice(decode_gaps, code, count, block.pulses)
    prepared = block.emissions.recall(gaps)
    matching = times.alice(match, prepared.bases, clicks.bases, count)
    low = times.alice(select, matching, prepared.intensities[0], count)
    high = times.alice(select, matching, prepared.intensities[1], count)
    hers = times.alice(sort_clicks, matching, prepared.bases, prepared.bits, (low, high), count)
    his = times.bob(sort_clicks, matching, clicks.bases, clicks.bits, (low, high), count)
    bits = times.sifted_bits = his.key.length
    framing = choose_framing(bits, qber)
    sender = times.alice(Sender, framing, hers.key, os.urandom)
    syndromes = times.alice(sender.syndromes)
    receiver = Receiver(framing, his.key, qber)
    failed = times.bob(receiver.take, syndromes)
    while failed:
        data = times.alice(sender.more, failed)
        failed = times.bob(receiver.take_more, failed, data)
    tag_seed, times.key_bits = os.urandom(SEED_BYTES), int(bits * KEY_SHARE)
    seed = times.alice(os.urandom, seed_bytes(bits, times.key_bits))
    times.alice(_finish, hers, hers, tag_seed, seed, times.key_bits)
    times.bob(_finish, his, hers, tag_seed, seed, times.key_bits)
    return times


def _finish(mine: Sifted, other: Sifted, tag_seed: bytes, seed: bytes, key_bits: int) -> None:
    """What each end does with a corrected key."""
    block_tag(tag_seed, mine.key)
    count_clicks(mine.key_intensities, mine.key.length, INTENSITIES_MOST)
    count_errors(mine.key, other.key, mine.key_intensities, mine.key.length, INTENSITIES_MOST)
    amplify(mine.key, seed, key_bits).wipe()
