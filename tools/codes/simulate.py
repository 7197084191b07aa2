"""Decodes simulated frames with the kernel, and finds the error rate that a code corrects."""

import math
import time
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

from qhybridd import _native
from qhybridd.distill.rates import entropy
from qhybridd.distill.reconcile import ITERATIONS
from tools.codes.evolution import qber_at
from tools.codes.graph import Code

NORMAL = NormalDist()


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of simulated frames."""

    frames: int
    failed: int
    iterations: float
    """Mean, of those that decoded."""
    seconds: float
    """Spent in the decoder, on one core."""

    @property
    def error_rate(self) -> float:
        """Frame error rate."""
        return self.failed / self.frames


def simulate(decoder: _native.LdpcCode, punctured: int, key_bits: int, qber: float, frames: int, seed: int) -> Outcome:
    """Decode random words with random errors; the rest of n − `punctured` behind `key_bits` is shortened."""
    random = np.random.default_rng(seed)
    bits, used, seconds = decoder.bits, [], 0.0
    batch = max(1, min(frames, (1 << 19) // bits))
    key = np.packbits(np.arange(bits) < key_bits, bitorder="little")
    free = np.packbits((np.arange(bits) < key_bits) | (np.arange(bits) >= bits - punctured), bitorder="little")
    for _ in range(-(-frames // batch)):
        words = np.frombuffer(random.bytes(batch * bits // 8), np.uint8).reshape(batch, -1) & free
        syndromes = np.zeros(batch * decoder.checks // 8, np.uint8)
        decoder.syndromes(words, syndromes, batch)
        errors = np.packbits(random.random((batch, bits), np.float32) < qber, axis=1, bitorder="little")
        received = (words ^ errors) & key
        known = np.full(batch, bits - punctured, np.uint32)
        begin = time.perf_counter()
        results = decoder.decode(received, syndromes, batch, key_bits, known, qber, ITERATIONS)
        seconds += time.perf_counter() - begin
        right = (received == words).all(axis=1)
        used += [count if good else 0 for count, good in zip(results, right.tolist(), strict=True)]
    good = [count for count in used if count]
    return Outcome(len(used), len(used) - len(good), sum(good) / max(1, len(good)), seconds)


@dataclass(frozen=True, slots=True)
class Point:
    """What a code reaches with so many punctured bits."""

    rows: int
    punctured: int
    leak: float
    """(m − p)/(n − p)"""
    qber: float
    """At which the wanted share of the frames fails, by the fit."""
    efficiency: float
    iterations: float
    """At that rate, of frames that decode."""
    frames: int
    """Simulated for it."""


def find_point(code: Code, punctured: int, frames: int, seed: int, guess: float, failing: float) -> Point:
    """Fit Φ(a + b·q) to the frame error rates, and solve it for `failing`. `guess`: the efficiency where half fail."""
    decoder = _native.LdpcCode(code.encode())
    n, m = decoder.bits, decoder.checks
    leak = (m - punctured) / (n - punctured)
    total = 0
    outcomes: list[tuple[float, Outcome]] = []

    def run(qber: float, count: int) -> Outcome:
        nonlocal total
        outcome = simulate(decoder, punctured, n - punctured, qber, count, seed + total)
        total += outcome.frames
        outcomes.append((qber, outcome))
        return outcome

    # The rate where half fail, then rates where few do: a frame's own errors scatter by `spread`.
    qber = qber_at(leak, guess)
    spread = math.sqrt(qber * (1 - qber) / n) * 1.1
    step, seen = 4 * spread, 0
    for _ in range(14):
        failing = run(qber, max(8, frames // 12)).error_rate
        up = failing < 0.5
        if seen and up != (seen > 0):
            step /= 2
        seen = 1 if up else -1
        if step < 0.6 * spread:
            break
        qber += step if up else -step
    half = qber
    for sigmas in (1.3, 1.8, 2.3):
        run(half - sigmas * spread, frames)
    centre, scale = _fit(outcomes, half, spread)
    wanted = centre + scale * NORMAL.inv_cdf(failing)
    last = run(wanted, frames)
    centre, scale = _fit(outcomes, centre, scale)
    wanted = centre + scale * NORMAL.inv_cdf(failing)
    return Point(len(code.rows), punctured, leak, wanted, leak / entropy(wanted), last.iterations, total)


def _fit(outcomes: list[tuple[float, Outcome]], centre: float, spread: float) -> tuple[float, float]:
    """Most likely centre and width of a normal distribution function, on a grid around a guess."""
    best, found = -math.inf, (centre, spread)
    for c in np.linspace(centre - 2 * spread, centre + 2 * spread, 61).tolist():
        for s in (spread * np.geomspace(0.6, 2.0, 25)).tolist():
            likelihood = -0.5 * (math.log(s / spread) / 0.3) ** 2
            for qber, outcome in outcomes:
                fails = min(max(NORMAL.cdf((qber - c) / s), 1e-6), 1 - 1e-6)
                likelihood += outcome.failed * math.log(fails)
                likelihood += (outcome.frames - outcome.failed) * math.log(1 - fails)
            if likelihood > best:
                best, found = likelihood, (c, s)
    return found
