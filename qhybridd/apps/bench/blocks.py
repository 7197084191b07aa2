"""Blocks of clicks for tests and benchmarks: what a link of given yields and error rate would have given.

For each pulse of intensity μ the detectors click with the gain Q(μ) and then err with the rate E(μ), in the closed form
of `plan.LinkModel` (Ma, Qi, Zhao and Lo, Phys. Rev. A 72, 012326 (2005), equations 8 to 11). So nothing is drawn
for a pulse without a click: gaps are geometric, the intensity of a click follows by Bayes, bases and bits are
independent of it, and errors come at E(μ). It is no simulation of optics, and its generator is no secret one: it never
makes keys for a tunnel.
"""

import math
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from qhybridd.bits import Bits, packed_bytes
from qhybridd.distill.plan import LinkModel
from qhybridd.distill.sift import Emissions
from qhybridd.distill.terms import Bound, Protocol
from qhybridd.errors import PeerError, ProgramError
from qhybridd.optics.records import Clicks, Plane, Prepared

STANDARD: Final = Protocol(
    intensities=(0.2, 0.05),
    intensity_probabilities=(0.4, 0.6),
    key_basis_probability=0.8,
    bound=Bound.WIESEMANN_ONE,
    epsilon_sec=1e-10,
    epsilon_cor=1e-15,
    qber_most=0.11,
)
"""One decoy; weak pulses, so that blocks of 10^6 sifted bits pay a key up to a QBER of 3 %, and of 10^7 up to 5 %."""
TRANSMISSION: Final = 0.01
"""Fibre and detector together: 20 dB."""
DARK_PROBABILITY: Final = 1e-6
"""Y0: a click in a gate without light."""
CLICK_CHUNK: Final = 1 << 20
"""Clicks that are drawn at once: whole words, and numpy's temporaries stay in the cache of the processor."""
GAP_MOST: Final = (1 << 32) - 1

Octets = NDArray[np.uint8]


@dataclass(frozen=True, slots=True, eq=False)
class Recorded:
    """Alice's memory of a drawn block; implements `Emissions`."""

    protocol: Protocol
    pulses: int
    gaps: bytes
    bases: Plane
    bits: bytes
    intensities: tuple[Plane, Plane]

    def recall(self, gaps: bytes | memoryview) -> Prepared:
        """What was prepared there: fresh `Bits` each time. Raises `PeerError` (link.malformed) outside of the block.

        For a list of other pulses than those that clicked she remembers what she would have drawn there.
        """
        if np.array_equal(np.frombuffer(gaps, "<u4"), np.frombuffer(self.gaps, "<u4")):
            return Prepared(self.bases, Bits.adopt(self.bits, len(gaps) // 4), self.intensities)
        places = np.cumsum(np.frombuffer(gaps, "<u4"), dtype=np.uint64)
        count = len(places)
        if count and (int(places[-1]) >= self.pulses or np.any(np.diff(places) == 0)):
            raise PeerError("link.malformed", "clicks outside of the block")
        known = np.cumsum(np.frombuffer(self.gaps, "<u4"), dtype=np.uint64)
        at = np.searchsorted(known, places)
        hit = at < len(known)
        hit[hit] = known[at[hit]] == places[hit]
        rng = np.random.default_rng(count)
        shares = np.cumsum(self.protocol.intensity_probabilities)[:-1]
        index = np.searchsorted(shares, rng.random(count)).astype(np.uint8)
        drawn = [
            rng.random(count) >= self.protocol.key_basis_probability,
            rng.random(count) < 0.5,
            index & 1,
            index >> 1,
        ]
        for fresh, old in zip(drawn, (self.bases, self.bits, *self.intensities), strict=True):
            fresh[hit] = np.unpackbits(np.frombuffer(old, np.uint8), bitorder="little")[at[hit]]
        her_bases, bits, low, high = (_plane([_pack(one)], count) for one in drawn)
        return Prepared(her_bases, Bits.adopt(bits, count), (low, high))


@dataclass(frozen=True, slots=True, eq=False)
class Block:
    """What the two ends of a link hold of one block of pulses."""

    protocol: Protocol
    link: LinkModel
    pulses: int
    count: int
    """Clicks."""
    gaps: bytes
    bases: Plane
    bits: bytes
    """Bob's; as `bytes`, since these are no secrets of anybody."""
    emissions: Emissions

    @property
    def clicks(self) -> Clicks:
        """Bob's side, with fresh `Bits` each time: distillation wipes what it takes."""
        return Clicks(self.pulses, self.count, self.gaps, self.bases, Bits.adopt(self.bits, self.count))


def make_link(
    qber: float,
    *,
    protocol: Protocol = STANDARD,
    transmission: float = TRANSMISSION,
    dark_probability: float = DARK_PROBABILITY,
) -> LinkModel:
    """The link whose sifted bits err at `qber`, dark counts included: the misalignment makes up the rest."""
    perfect, worst = (LinkModel(transmission, dark_probability, of).expect(protocol, 1) for of in (0.0, 1.0))
    clicks, dark, all_wrong = map(math.fsum, (perfect.key_clicks, perfect.key_errors, worst.key_errors))
    misalignment = (qber * clicks - dark) / (all_wrong - dark)
    if not 0 <= misalignment <= 0.5:
        raise ProgramError("program.argument", f"no misalignment gives an error rate of {qber}")
    return LinkModel(transmission, dark_probability, misalignment)


def make_block(protocol: Protocol, link: LinkModel, pulses: int, seed: int) -> Block:
    """Draw a block of `pulses`; the same for the same seed. About 0.1 µs a click, whatever the pulses."""
    rng = np.random.default_rng(seed)
    means = link.expect(protocol, 1)
    gains = [mean / protocol.key_basis_probability**2 for mean in means.key_clicks]
    wrongs = [mean / protocol.key_basis_probability**2 for mean in means.key_errors]
    gaps, count = _draw_gaps(math.fsum(gains), pulses, rng)
    names = ("alice bases", "alice bits", "low", "high", "bob bases", "bob bits")
    parts: dict[str, list[Octets]] = {name: [] for name in names}
    for begin in range(0, count, CLICK_CHUNK):
        size = min(CLICK_CHUNK, count - begin)
        for name, part in zip(names, _draw_clicks(protocol, gains, wrongs, size, rng), strict=True):
            parts[name].append(part)
    planes = {name: _plane(part, count) for name, part in parts.items()}
    intensities = planes["low"], planes["high"]
    emissions = Recorded(protocol, pulses, gaps, planes["alice bases"], planes["alice bits"], intensities)
    return Block(protocol, link, pulses, count, gaps, planes["bob bases"], planes["bob bits"], emissions)


def block_of(key_bits: int, qber: float, *, seed: int, protocol: Protocol = STANDARD) -> Block:
    """A block of about `key_bits` sifted bits in the key basis, which err at about `qber`, as do those of the test."""
    link = make_link(qber, protocol=protocol)
    return make_block(protocol, link, pulses_for(key_bits, protocol, link), seed)


def pulses_for(key_bits: int, protocol: Protocol, link: LinkModel) -> int:
    """How many pulses give so many sifted bits of the key basis in the mean."""
    return math.ceil(key_bits / math.fsum(link.expect(protocol, 1).key_clicks))


def _draw_gaps(gain: float, pulses: int, rng: np.random.Generator) -> tuple[bytes, int]:
    """Gaps as in `Clicks` and their number: geometric, by the inverse of an exponential."""
    rate = -math.log1p(-gain)
    parts: list[NDArray[np.uint32]] = []
    last = -1
    while True:
        gaps = np.floor(rng.standard_exponential(CLICK_CHUNK) / rate) + 1
        places = np.cumsum(gaps)  # exact: below 2^53
        inside = int(np.searchsorted(places, pulses - last))
        if inside and gaps[:inside].max() > GAP_MOST:
            raise ProgramError("program.argument", "clicks so rare that a gap overflows")
        parts.append(gaps[:inside].astype("<u4"))
        if inside < CLICK_CHUNK:
            break
        last += int(places[-1])
    joined = np.concatenate(parts)
    if len(joined):
        joined[0] -= 1
    return joined.tobytes(), len(joined)


def _draw_clicks(
    protocol: Protocol, gains: list[float], wrongs: list[float], count: int, rng: np.random.Generator
) -> tuple[Octets, ...]:
    """Packed: Alice's bases and bits, low and high bit of the intensity, Bob's bases and bits.

    `gains` and `wrongs`: for each intensity, that a pulse has it and clicks, and clicks wrongly.
    """
    total = math.fsum(gains)
    # One draw tells intensity and error: a segment of [0, 1) for each intensity, its first part for the errors.
    draw = rng.random(count, np.float32)
    index, error = np.zeros(count, np.uint8), np.zeros(count, bool)
    begin = 0.0
    for place, (gain, wrong) in enumerate(zip(gains, wrongs, strict=True)):
        above = draw >= begin
        index[above] = place
        error |= above & (draw < begin + wrong / total)
        begin += gain / total
    test_alice, test_bob = (_pack(rng.random(count, np.float32) >= protocol.key_basis_probability) for _ in range(2))
    bits, other = (np.frombuffer(rng.bytes((count + 7) // 8), np.uint8) for _ in range(2))
    differ: Octets = test_alice ^ test_bob
    his: Octets = other & differ | (bits ^ _pack(error)) & ~differ
    return test_alice, bits, _pack(index & 1), _pack(index >> 1), test_bob, his


def _pack(bits: NDArray[Any]) -> Octets:
    return np.packbits(bits, bitorder="little")


def _plane(parts: list[Octets], count: int) -> Plane:
    """Joined to whole words, the unused bits zero."""
    data = bytearray(b"".join(part.tobytes() for part in parts).ljust(packed_bytes(count), b"\0"))
    if count % 8:
        data[count // 8] &= (1 << count % 8) - 1
    return bytes(data)
