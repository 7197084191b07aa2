"""The C11 kernels (csrc/).

Packed bits are little-endian 64-bit words: bit i is bit i % 64 of word i / 64; unused bits of the last word are zero.
Buffers may have any alignment. A buffer that is too short is a ValueError, and so is one to write to that overlaps
another argument. Kernels that do work release the GIL: no other thread may write to their buffers meanwhile.
"""

from typing import final

from typing_extensions import Buffer

@final
class LockedBuffer:
    """Zeroed memory that is mlocked, left out of dumps and wiped when freed. Supports the buffer protocol, writable."""

    def __init__(self, size: int) -> None: ...
    def wipe(self) -> None: ...
    def __len__(self) -> int: ...
    def __buffer__(self, flags: int, /) -> memoryview: ...

# instruction sets (cpu.c)

def instruction_sets() -> list[str]:
    """Those that this processor has, the least first: `portable`, `avx2`, `avx512`."""

def instruction_set() -> str:
    """The one that the kernels use: the best, unless another was chosen."""

def use_instruction_set(name: str, /) -> None:
    """Choose one of `instruction_sets()`, for tests and benchmarks. ValueError for one that the processor lacks."""

def run_chain(rounds: int, /) -> int:
    """Run a chain of dependent instructions; how many cycles of the core it takes, 0 where that is not known.

    Timed, it tells the true frequency, which no counter does where a processor changes its speed.
    """

# sifting (sift.c)

def match_planes(a: Buffer, b: Buffer, count: int, out: Buffer, /) -> None:
    """`out` = where two planes of `count` bits agree."""

def count_classes(low: Buffer, high: Buffer, count: int, /) -> tuple[int, int, int, int]:
    """How many of `count` clicks have (high, low) = 00, 01, 10, 11."""

def count_differences(a: Buffer, b: Buffer, low: Buffer, high: Buffer, count: int, /) -> tuple[int, int, int, int]:
    """The same of the clicks alone where `a` and `b` differ."""

def select_bits(mask: Buffer, plane: Buffer, count: int, out: Buffer, /) -> int:
    """The bits of `plane` where `mask` is set, close together, to `out`; how many they are."""

def split_bits(
    matching: Buffer, test: Buffer, bits: Buffer, count: int, key: Buffer, tested: Buffer, /
) -> tuple[int, int]:
    """The bits where `matching` is set: without `test` to `key`, with it to `tested`; how many they are."""

def encode_gaps(gaps: Buffer, count: int, /) -> bytes:
    """The Rice code of `count` uint32 gaps between clicks. ValueError where one behind the first is 0."""

def decode_gaps(data: Buffer, count: int, pulses: int, out: Buffer, /) -> None:
    """The gaps, uint32, to `out`. ValueError for anything but the code of `count` clicks within `pulses` < 2^64."""

# reconciliation (ldpc.c)

@final
class LdpcCode:
    """A quasi-cyclic LDPC code of m checks on n bits. Immutable; threads may share it.

    Base matrix of `rows` × `columns`, lifted by Z: n = columns·Z, m = rows·Z. Check r of row i covers the bits
    x[column·Z + (r + shift) mod Z] of its edges; its syndrome bit is number i·Z + r.
    """

    def __init__(self, table: Buffer) -> None:
        """From its table: little-endian u16 rows, u16 columns, u32 Z; for each row u16 degree, then for each edge
        u16 column, u16 shift.

        Z is a multiple of 64, n and m are at most 2^22, a row has 2 to 255 edges, a column at most 126, no row
        names a column twice, and the table ends with its last row; ValueError otherwise.
        """
    @property
    def bits(self) -> int:
        """n."""
    @property
    def checks(self) -> int:
        """m."""
    def syndromes(self, words: Buffer, out: Buffer, frames: int) -> None:
        """frames × n bits in, frames × m bits out, packed. MemoryError when no locked memory is left."""
    def decode(
        self,
        words: Buffer,
        syndromes: Buffer,
        frames: int,
        noisy: int,
        known: Buffer,
        qber: float,
        iterations: int,
    ) -> list[int]:
        """Correct frames × n bits in place, towards their syndromes (layered belief propagation).

        Of each frame, bits [0, noisy) came through a binary symmetric channel with error rate `qber` (0 < qber < 0.5),
        bits [noisy, known[f]) are certain, and bits [known[f], n) are erased: given with any value. `known` holds one
        little-endian u32 for each frame.

        Gives for each frame the number of iterations used, or 0 when there is no word with its whole syndrome after
        `iterations`; its bits are then left as they were. MemoryError when no locked memory is left.
        """

# privacy amplification (toeplitz.c)

def toeplitz(key: Buffer, bits: int, seed: Buffer, key_bits: int, out: Buffer, /) -> None:
    """The modified Toeplitz hash: `out` = head ⊕ T·tail, the first `key_bits` of the `bits` of `key` and the rest.

    T[i][j] is bit i - j + bits - key_bits - 1 of `seed`, which has bits - 1 bits; bits behind an end are ignored.
    `out` overlaps neither. Constant time for given sizes. ValueError unless 1 ≤ key_bits ≤ bits; MemoryError where no
    locked memory is left for the scratch, about a byte a bit.
    """

# universal hashing over GF(2^128) (polyhash.c)

@final
class PolyHash:
    """A polynomial hash over GF(2^128), x^128 + x^7 + x^2 + x + 1, in locked memory; bit i of 16 bytes belongs to x^i.

    Each string enters as 128-bit blocks filled up with zeros and one more block: its bits (64), the mark (63) and a
    one. After blocks c_1 … c_n the value under the point r is c_1·r^n + … + c_n·r, so two lists of (string, mark) of at
    most n blocks differ by a given value with probability n / 2^128 at most. An object is for one thread at a time:
    RuntimeError otherwise.
    """

    def __init__(self, point: Buffer) -> None:
        """Under a secret or public point of 16 bytes."""

    def absorb(self, data: Buffer, bits: int, mark: int = 0) -> None:
        """Absorb one string: the first `bits` bits of `data`; the mark, below 2^63, tells kinds of strings apart."""

    def value(self) -> bytes:
        """The hash of all strings so far, 16 bytes: of no use to an enemy only if the point is public."""

    def tag(self, pad: Buffer) -> bytes:
        """The hash plus (xor) a one-time pad of 16 bytes."""

    def restart(self) -> None:
        """Forget what was absorbed, and keep the point."""

    def wipe(self) -> None:
        """Overwrite point and value with zeros. RuntimeError for any use but this afterwards."""

# emission (emit.c)

def emit_candidates(
    words: Buffer, scale: float, number: int, end: int, numbers: Buffer, blocks: Buffer, /
) -> tuple[int, int]:
    """Pulses that may be lit, from `number` on and before `end` ≤ 2^63: one for each 64-bit random word, at distances
    of the integral part of an exponential number times `scale`, until one would lie behind.

    Their numbers (uint64) and the cipher's blocks for them (16 bytes: number // 2) go out. How many they are, and the
    pulse behind the last, or `end` where no more come.
    """

def emit_places(gaps: Buffer, ascending: bool, number: int, end: int, numbers: Buffer, blocks: Buffer, /) -> int:
    """The same for known pulses: uint32 gaps from pulse `number` on, the first above 0 too if `ascending`; the number
    of the last. ValueError where two are the same, or one does not lie before `end`."""

def emit_keep(
    numbers: Buffer,
    count: int,
    choices: Buffer,
    words: Buffer,
    thresholds: Buffer,
    table: Buffer,
    levels: int,
    least: int,
    last: int,
    gaps: Buffer,
    states: Buffer,
    photons: Buffer,
    /,
) -> tuple[int, int]:
    """The candidates that hold at least `least` photons: gaps (uint32; the first one from pulse `last`), states (uint8)
    and photons (uint32). How many they are, and the number of the last.

    `choices` are the cipher's blocks, `words` 64 random bits a candidate, `thresholds` four uint64: of the basis (of
    2^31) and of the intensity (of 2^32), `table` three doubles for each of 4 intensities × `levels`: see emit.h.
    """

def emit_merge(
    gaps_a: Buffer,
    states_a: Buffer,
    photons_a: Buffer,
    gaps_b: Buffer,
    states_b: Buffer,
    photons_b: Buffer,
    gaps: Buffer,
    states: Buffer,
    photons: Buffer,
    /,
) -> int:
    """One list of arrivals out of two; in a pulse of both, photons are added and the state is that of the first list.
    How many they are; what is written has room for both."""

def emit_recall(
    numbers: Buffer,
    count: int,
    choices: Buffer,
    thresholds: Buffer,
    bits: Buffer,
    bases: Buffer,
    low: Buffer,
    high: Buffer,
    /,
) -> None:
    """What was chosen for `count` pulses, as planes: bits, bases (1: test), low and high bit of the intensity."""

# detectors (detect.c)

def detect(
    first: int,
    pulses: int,
    dead: int,
    gaps: Buffer,
    states: Buffer,
    photons: Buffer,
    dark_places: Buffer,
    dark_masks: Buffer,
    avalanches_0: Buffer,
    delays_0: Buffer,
    avalanches_1: Buffer,
    delays_1: Buffer,
    bases: Buffer,
    words: Buffer,
    physics: Buffer,
    quantiles: Buffer,
    delays: Buffer | None,
    gates: Buffer | None,
    state: Buffer,
    out_gaps: Buffer,
    out_bases: Buffer,
    out_bits: Buffer,
    /,
) -> tuple[int, int, int, int, int, int, float, float]:
    """What two gated detectors make of one frame: clicks to the last three, `state` carried to the next frame.

    Numbers and their order, and the use of each random word: csrc/detect.h. `dead` gates after a click are lost.
    Gives how many clicks there are, those of each detector, double clicks, avalanches of each detector, and the sum of
    the clicks' times and of their squares (ps, ps²). ValueError where words or room do not suffice, and for 2^32 pulses
    or more.
    """
