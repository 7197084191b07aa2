"""Alice's source: which pulses of a frame still hold light after so much loss, and what she had chosen for a pulse.

What she chooses for a pulse is a function of its number, so it is worked out where a photon arrives, and again where
Bob had a click; nothing is kept meanwhile. Formulas and their sources: docs/optics.md.
"""

import math
from collections.abc import Sequence
from functools import lru_cache
from itertools import pairwise
from statistics import NormalDist
from typing import Final

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from numpy.typing import NDArray
from typing_extensions import Buffer

from qhybridd import _native
from qhybridd.bits import Bits, packed_bytes
from qhybridd.errors import PeerError, ProgramError
from qhybridd.optics.parameters import Source
from qhybridd.optics.randomness import BLOCK_BYTES, Randomness
from qhybridd.optics.records import Arrivals, Light, Prepared, State
from qhybridd.secret import Secret

BATCH: Final = 8192
"""Pulses that are worked on at once, so that their tables stay in the cache. A multiple of 64."""
LEVELS: Final = 256
"""Equally likely values that stand for the normal distribution of a fluctuating intensity."""
SPREAD_CUT: Final = 3.0
"""Standard deviations at which that distribution is cut."""
FRAME_PULSES_MOST: Final = (1 << 32) - 1
"""A gap between two arrivals of a frame is a uint32."""
PULSES_MOST: Final = 1 << 63
"""Of a run."""
PHOTONS_LEAST_MOST: Final = 1 << 16
"""More photons than this are asked of no pulse."""
BASIS_SCALE: Final = 1 << 31
INTENSITY_SCALE: Final = 1 << 32
INTENSITIES_MOST: Final = 4


class Choices:
    """Random words by the number of a pulse: AES-256 of counters, 64 bits a pulse, two pulses an AES block.

    Deterministic under the key, and as random as AES is a random permutation. For one thread at a time; objects of the
    same key give the same words.
    """

    def __init__(self, key: bytes) -> None:
        """A 32-byte key. Raises `HostError` (host.memory) where no locked memory is left."""
        # A mode that takes any whole blocks and has no state between them: counters are told, not counted.
        self._cipher = Cipher(algorithms.AES(key), modes.ECB()).encryptor()  # noqa: S305
        self._words = Secret((BATCH + 1) * BLOCK_BYTES)
        self.numbers = bytearray(8 * BATCH)
        """Of at most `BATCH` pulses (uint64): for the kernel to write."""
        self.blocks = bytearray(BLOCK_BYTES * BATCH)
        """What the cipher turns into their words (16 bytes each): likewise."""

    def of(self, count: int) -> memoryview:
        """The words of the first `count` of these pulses: 16 bytes each, of the pair that it belongs to.

        They hold Alice's raw bits, in locked memory: `wipe` before anything else is done.
        """
        view = self._words.expose()
        self._cipher.update_into(memoryview(self.blocks)[: BLOCK_BYTES * count], view)
        return view[: BLOCK_BYTES * count]

    def wipe(self) -> None:
        """Overwrite what `of` gave last."""
        self._words.wipe()


class Emitter:
    """The source with Alice's memory. One thread may emit while another one recalls.

    Emission draws on `randomness.child("emission")`, her choices on the key of its purpose "choices": the same number
    of a pulse is the same choice, so a run that counts from 0 again needs an emitter of its own.
    """

    def __init__(self, source: Source, randomness: Randomness) -> None:
        """Raises `HostError` (host.memory) where no locked memory is left."""
        self.source = source
        key = randomness.key("choices")
        self._emitting, self._recalling = Choices(key), Choices(key)
        self._nature = randomness.child("emission")
        self._thresholds = _thresholds(source)

    def emit(  # noqa: PLR0917 - a frame, and its conditions
        self,
        first: int,
        pulses: int,
        transmission: float,
        noise_photons: float,
        light: Light,
        photons_least: int = 1,
    ) -> Arrivals:
        """The pulses among [first, first + pulses) that hold at least `photons_least` photons behind a loss.

        `transmission` is the share of photons that pass, `noise_photons` the mean number of unpolarised photons that
        join a pulse on the way (loss included). A pulse with both is one arrival, in the state of the signal, with the
        photons of both; each has to have `photons_least` by itself. `light` is handed on.
        """
        if not (0 <= first <= first + pulses < PULSES_MOST and pulses <= FRAME_PULSES_MOST):
            raise ProgramError("program.argument", f"a frame of {pulses} pulses from {first} on")
        if not (0 <= transmission <= 1 and 0 <= noise_photons < math.inf):
            raise ProgramError("program.argument", f"transmission {transmission}, {noise_photons} photons of noise")
        if not 1 <= photons_least <= PHOTONS_LEAST_MOST:
            raise ProgramError("program.argument", f"pulses of at least {photons_least} photons")
        lamp = _signal(self.source, transmission, photons_least)
        gaps, states, photons = self._shine(first, pulses, lamp, photons_least, self._thresholds)
        if noise_photons > 0:
            noise = self._shine(first, pulses, _noise(noise_photons, photons_least), photons_least, None)
            gaps, states, photons = _merge((gaps, states, photons), noise)
        return Arrivals(first, pulses, gaps, states, photons, None, light)

    def recall(self, first: int, pulses: int, gaps: bytes | memoryview) -> Prepared:
        """What was prepared in the pulses at these gaps (uint32, as in `Clicks`) among [first, first + pulses).

        Raises `PeerError` (link.malformed) where they do not ascend or one lies outside, `HostError` (host.memory)
        where no locked memory is left.
        """
        if not 0 <= first <= first + pulses < PULSES_MOST:
            raise ProgramError("program.argument", f"{pulses} pulses from {first} on")
        with memoryview(gaps).cast("B") as data:
            if len(data) % 4:
                raise PeerError("link.malformed", f"{len(data)} bytes are no gaps between clicks")
            return self._recall(first, first + pulses, data)

    def _recall(self, first: int, end: int, gaps: memoryview) -> Prepared:
        count = len(gaps) // 4
        bits = Bits.zeros(count)
        bases, low, high = (bytearray(packed_bytes(count)) for _ in range(3))
        number, choices = first, self._recalling
        try:
            with bits.expose() as words:
                for start in range(0, count, BATCH):
                    many = min(BATCH, count - start)
                    part = slice(start // 8, start // 8 + packed_bytes(many))
                    number = _native.emit_places(
                        gaps[4 * start : 4 * (start + many)], start > 0, number, end, choices.numbers, choices.blocks
                    )
                    planes = (memoryview(plane)[part] for plane in (bases, low, high))
                    _native.emit_recall(choices.numbers, many, choices.of(many), self._thresholds, words[part], *planes)
        except ValueError:
            bits.wipe()
            raise PeerError("link.malformed", "clicks that do not ascend, or lie outside of their block") from None
        finally:
            choices.wipe()
        return Prepared(bytes(bases), bits, (bytes(low), bytes(high)))

    def _shine(self, first: int, pulses: int, lamp: "_Lamp", least: int, thresholds: bytes | None) -> "_Lists":
        """What one lamp gives in a frame; without `thresholds` nobody chose anything: unpolarised light."""
        number, last, end, choices = first, first, first + pulses, self._emitting
        parts: list[_Lists] = []
        try:
            while number < end and lamp.rate > 0:
                many = _batch(lamp.rate * (end - number))
                found, number = _native.emit_candidates(
                    self._nature.take(8 * many), 1 / lamp.rate, number, end, choices.numbers, choices.blocks
                )
                room = _room(found)
                fate = self._nature.take(8 * found)
                chosen: Buffer = bytes(BLOCK_BYTES * found) if thresholds is None else choices.of(found)
                kept, last = _native.emit_keep(
                    choices.numbers,
                    found,
                    chosen,
                    fate,
                    thresholds or _NO_CHOICE,
                    lamp.table,
                    lamp.levels,
                    least,
                    last,
                    *_views(room),
                )
                if thresholds is None:
                    room[1].fill(State.UNPOLARISED)
                parts.append((room[0][:kept], room[1][:kept], room[2][:kept]))
        finally:
            choices.wipe()
        return _join(parts)


_Lists = tuple[NDArray[np.uint32], NDArray[np.uint8], NDArray[np.uint32]]
"""Gaps, states and photons of arrivals."""


class _Lamp:
    """How likely pulses are to be lit, as the kernel wants it."""

    __slots__ = ("levels", "rate", "table")

    def __init__(self, means: Sequence[Sequence[float]], least: int) -> None:
        """`means`: photons of a pulse, for each intensity and each level of its fluctuation."""
        brightest = max(map(max, means))
        lit = lit_probability(brightest, least)
        self.rate = brightest if least == 1 else min(700.0, -math.log1p(-lit)) if lit < 1 else 700.0
        """−ln of the probability that a pulse of the brightest kind is not lit."""
        self.levels = len(means[0])
        rows = [(0.0, 0.0, 0.0)] * (INTENSITIES_MOST * self.levels)
        if lit > 0:
            for place, mean in enumerate(mean for of_one in means for mean in of_one):
                rows[place] = (
                    min(1.0, lit_probability(mean, least) / lit),
                    poisson(mean, least) / lit,
                    mean,
                )
        else:
            self.rate = 0.0
        self.table = np.array(rows, np.float64).tobytes()


def poisson(mean: float, photons: int) -> float:
    """e^(-μ) μ^n / n!"""
    if mean <= 0:
        return float(photons == 0)
    return math.exp(photons * math.log(mean) - mean - math.lgamma(photons + 1))


def lit_probability(mean: float, least: int) -> float:
    """That a Poissonian number of photons is at least `least` ≥ 1; exact also where that is tiny."""
    if least == 1:
        return -math.expm1(-mean)
    if mean > least:
        return 1.0 - math.fsum(poisson(mean, photons) for photons in range(least))
    term, total, photons = poisson(mean, least), 0.0, least
    while term > total * 1e-18:
        total += term
        photons += 1
        term *= mean / photons
    return total


@lru_cache(maxsize=8)
def spread_levels(spread: float) -> tuple[float, ...]:
    """Factors by which an intensity fluctuates: equally likely, mean 1, standard deviation `spread`.

    The means of `LEVELS` equally likely intervals of a normal distribution cut at `SPREAD_CUT` standard deviations,
    scaled to the standard deviation that is asked for.
    """
    if spread == 0:
        return (1.0,)
    normal = NormalDist()
    tail = normal.cdf(-SPREAD_CUT)
    edges = [normal.inv_cdf(tail + (1 - 2 * tail) * step / LEVELS) for step in range(1, LEVELS)]
    heights = [normal.pdf(edge) for edge in (-SPREAD_CUT, *edges, SPREAD_CUT)]
    raw = [before - after for before, after in pairwise(heights)]
    scale = spread / math.sqrt(math.fsum(value * value for value in raw) / LEVELS)
    return tuple(1 + scale * value for value in raw)


@lru_cache(maxsize=8)
def _signal(source: Source, transmission: float, least: int) -> _Lamp:
    factors = spread_levels(source.intensity_spread)
    return _Lamp([[mean * transmission * factor for factor in factors] for mean in source.intensities], least)


@lru_cache(maxsize=8)
def _noise(mean: float, least: int) -> _Lamp:
    return _Lamp([[mean]], least)


def _thresholds(source: Source) -> bytes:
    """For the kernel: from where on the 31 bits of the basis mean test, and the 32 of the intensity the next one."""
    shares = np.cumsum(source.intensity_probabilities)[:-1]
    steps = [round(float(share) * INTENSITY_SCALE) for share in shares]
    steps += [INTENSITY_SCALE] * (INTENSITIES_MOST - 1 - len(steps))
    return np.array([round(source.key_basis_probability * BASIS_SCALE), *steps], np.uint64).tobytes()


_NO_CHOICE: Final = np.array([BASIS_SCALE] + [INTENSITY_SCALE] * 3, np.uint64).tobytes()
"""Always the key basis and the first intensity."""


def _batch(expected: float) -> int:
    """Words to draw where so many candidates are to be expected: seldom too few."""
    return int(min(BATCH, expected + 6 * math.sqrt(expected) + 16))


def _join(parts: list[_Lists]) -> _Lists:
    if len(parts) == 1:
        return parts[0]
    gaps = np.concatenate([part[0] for part in parts] or [np.empty(0, np.uint32)])
    states = np.concatenate([part[1] for part in parts] or [np.empty(0, np.uint8)])
    photons = np.concatenate([part[2] for part in parts] or [np.empty(0, np.uint32)])
    return gaps, states, photons


def _merge(signal: _Lists, noise: _Lists) -> _Lists:
    merged = _room(len(signal[0]) + len(noise[0]))
    a, b, out = _views(signal), _views(noise), _views(merged)
    count = _native.emit_merge(a[0], a[1], a[2], b[0], b[1], b[2], out[0], out[1], out[2])
    return merged[0][:count], merged[1][:count], merged[2][:count]


def _room(arrivals: int) -> _Lists:
    return np.empty(arrivals, np.uint32), np.empty(arrivals, np.uint8), np.empty(arrivals, np.uint32)


def _views(lists: _Lists) -> tuple[memoryview, memoryview, memoryview]:
    return lists[0].data, lists[1].data, lists[2].data
