"""How a block is cut into frames, and how much each frame discloses: the choice of the code and of its puncturing.

A word of n bits is `key bits [0, k) | shortened zeros [k, n − p) | punctured [n − p, n)`. The p punctured bits are
random and known to Alice alone, so a syndrome of m bits says m − p bits about the key (Elkouss, Martinez-Mateo, Martin,
Quantum Inf. Comput. 11, 226 (2011)). A frame that does not decode is helped by revealing them, each of which discloses
one bit more (Martinez-Mateo, Elkouss, Martin, Quantum Inf. Comput. 12, 791 (2012)).
"""

import math
from dataclasses import dataclass
from functools import cache
from typing import Final

from qhybridd.distill.codes import Code, FrameSize, catalogue, leaks
from qhybridd.errors import PeerError, ProgramError

QBER_LEAST: Final = 0.005
"""Fewer errors than this are corrected as if there were as many."""
QBER_MOST: Final = 0.10
"""More errors than this are not corrected."""
PUNCTURED_LEAST: Final = 0.02
"""Punctured bits, as a share of the syndrome: never fewer, so that a frame that fails can be helped by them."""
PUNCTURED_MOST: Final = 0.10
"""More than this would cost more than the next code does; the columns at the end are made for so many."""
SHORTENING_PENALTY: Final = 0.12
"""Of a syndrome, for each bit of key and the share of the frame that is shortened: so much more it needs."""
SHORTENING_STEEP: Final = 0.4
"""As much on top for what is shortened beyond half of a frame."""
SPARE: Final = 0.022
"""Frames of 10^5 bits get a share more than was measured for 1 % of failing frames, so that they decode in fewer
iterations: this much where there are no errors, falling to nothing at `SPARE_ENDS`, since a share of a short syndrome
is few bits. The other sizes were measured for 0.2 % of failing frames and have none."""
SPARE_ENDS: Final = 0.062
KEY_BITS_MOST: Final = 1 << 31
"""Bits of a block that can be reconciled."""

REVEAL_STEPS: Final[tuple[int | None, ...]] = (50, 100, None)
"""How much of a failed frame Bob is told: per cent of its punctured bits, from the first on; None: the whole frame."""


@dataclass(frozen=True, slots=True)
class Framing:
    """How one block is reconciled. It travels in a message, so it is made of small integers.

    Frame f holds the bits [f·k, (f+1)·k) of the key, k = `frame_bits`; the last frame holds what remains.
    """

    code: int
    """Number in the catalogue."""
    punctured: int
    """p: so many bits at the end of each word are random and known to Alice alone."""
    frames: int
    key_bits: int
    """Of the whole block."""

    @property
    def record(self) -> Code:
        """The code."""
        return catalogue()[self.code]

    @property
    def frame_bits(self) -> int:
        """k: key bits of a frame in whole words; n − p at most, or fewer, so that all frames are shortened alike."""
        return min((self.record.bits - self.punctured) // 64, math.ceil(self.key_bits / self.frames / 64)) * 64

    @property
    def syndrome_bits(self) -> int:
        """m: bits of each frame's syndrome."""
        return self.record.checks

    @property
    def disclosed(self) -> int:
        """Bits about the key that the syndromes alone disclose."""
        return self.frames * (self.syndrome_bits - self.punctured)

    def bits_of(self, frame: int) -> int:
        """Key bits of one frame."""
        return min(self.frame_bits, self.key_bits - frame * self.frame_bits)


def entropy(rate: float) -> float:
    """h(q), the binary entropy, in bits."""
    return -rate * math.log2(rate) - (1 - rate) * math.log2(1 - rate) if 0 < rate < 1 else 0.0


def revealed(punctured: int, step: int) -> int:
    """How many of `punctured` bits Bob knows after `REVEAL_STEPS[step]`, in all."""
    percent = REVEAL_STEPS[step]
    return punctured if percent is None else punctured * percent // 100


def leak(qber: float, size: FrameSize) -> float:
    """Bits to disclose for each bit of key in full frames, so that 1 % of the frames fail at most (as measured)."""
    points = leaks(size)
    after = next((i for i, point in enumerate(points) if point[1] >= qber), len(points) - 1)
    (leak_low, low), (leak_high, high) = points[max(0, after - 1)], points[after]
    if after == 0:
        return leak_high * _spare(low, size)
    # The efficiency changes more slowly than the leak: interpolate that.
    weight = min(1.0, (qber - low) / (high - low))
    efficiency = (1 - weight) * leak_low / entropy(low) + weight * leak_high / entropy(high)
    return efficiency * entropy(max(qber, low)) * _spare(qber, size)


def _spare(qber: float, size: FrameSize) -> float:
    return 1 + SPARE * max(0.0, 1 - qber / SPARE_ENDS) if size is FrameSize.MEDIUM else 1.0


def choose_framing(key_bits: int, qber: float, largest: FrameSize = FrameSize.MEDIUM) -> Framing:
    """The framing for a block, the same at both ends: of sizes up to `largest` the one that discloses least.

    Frames of 10^6 bits disclose less than those of 10^5, and decode more slowly. Below `QBER_LEAST` it is the framing
    for that. Raises `ProgramError` (program.argument) for a rate above `QBER_MOST`, and for no bits or too many.
    """
    if not 0 < key_bits <= KEY_BITS_MOST:
        raise ProgramError("program.argument", f"{key_bits} bits to reconcile")
    if not 0 <= qber <= QBER_MOST:
        raise ProgramError("program.argument", f"an error rate of {qber} cannot be corrected")
    sizes = list(FrameSize)
    allowed = sizes[: sizes.index(largest) + 1]
    framings = [_frame(key_bits, max(qber, QBER_LEAST), size) for size in allowed]
    # Of larger frames not more than half may be shortened: most would fail. Of equals it is the larger one.
    fit = [framing for framing in framings[1:] if 2 * framing.frame_bits >= framing.record.bits - framing.punctured]
    return min([*fit[::-1], framings[0]], key=lambda framing: framing.disclosed)


def _frame(key_bits: int, qber: float, size: FrameSize) -> Framing:
    """The framing in frames of one size, all shortened alike."""
    wanted = leak(qber, size)
    code, punctured = _fit(size, None, wanted)
    frames = -(-key_bits // (code.bits - punctured))
    while True:
        even = math.ceil(key_bits / frames / 64) * 64
        code, punctured = _fit(size, even, wanted)
        framing = Framing(code.number, punctured, frames, key_bits)
        if framing.frame_bits * frames >= key_bits:
            # Rounding to words may leave nothing for the last of many short frames.
            return Framing(code.number, punctured, -(-key_bits // framing.frame_bits), key_bits)
        frames += 1


@cache
def _codes(size: FrameSize) -> tuple[Code, ...]:
    return tuple(code for code in catalogue() if code.size is size)


def _fit(size: FrameSize, bits: int | None, wanted: float) -> tuple[Code, int]:
    """The code, and the p, by which a frame of `bits` key bits (None: a full one) discloses `wanted` for each."""
    codes = _codes(size)
    for code in codes:
        n, m = code.bits, code.checks
        if bits is None:
            punctured = math.floor((m - wanted * n) / (1 - wanted))
        else:
            short = max(0.0, 1 - bits / n)
            steep = SHORTENING_STEEP * max(0.0, short - 0.5)
            punctured = m - math.ceil(wanted * bits * (1 + SHORTENING_PENALTY * short + steep))
            punctured = min(punctured, n - bits)
        if punctured >= PUNCTURED_LEAST * m:
            return code, min(punctured, math.floor(PUNCTURED_MOST * m))
    code = codes[-1]
    return code, math.ceil(PUNCTURED_LEAST * code.checks)


def check_framing(framing: Framing) -> None:
    """Hold a framing that came from the peer to its bounds. Raises `PeerError` (link.malformed).

    Whether it is the one that the rule gives is for the caller to compare.
    """
    if not 0 <= framing.code < len(catalogue()):
        raise PeerError("link.malformed", f"no code {framing.code}")
    if not 0 <= framing.punctured <= PUNCTURED_MOST * framing.syndrome_bits:
        raise PeerError("link.malformed", f"{framing.punctured} punctured bits")
    if not (0 < framing.key_bits <= KEY_BITS_MOST and 0 < framing.frames <= framing.key_bits):
        raise PeerError("link.malformed", f"{framing.frames} frames for {framing.key_bits} bits")
    if not (framing.frames - 1) * framing.frame_bits < framing.key_bits <= framing.frames * framing.frame_bits:
        raise PeerError(
            "link.malformed", f"{framing.frames} frames of {framing.frame_bits} for {framing.key_bits} bits"
        )
