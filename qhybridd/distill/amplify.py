"""Privacy amplification: from a corrected, partly known key to a shorter secret one.

The modified Toeplitz hash (T, I): the key is cut into a head of as many bits as the result and a tail, and the result
is head ⊕ T·tail over GF(2), T a Toeplitz matrix drawn by a public uniform seed. It is exact; nothing is rounded.

2-universal: two keys collide when T maps the difference of their tails to the difference of their heads. If the tails
differ, T·difference is uniform over the seed (Krawczyk, CRYPTO 1994, on Toeplitz matrices), so that happens with
probability 2^-key_bits; if only the heads differ, never. Hayashi and Tsurumaru, IEEE Trans. Inf. Theory 62, 2213
(2016), arXiv:1311.5322, give this family, whose seed is shorter than that of a whole Toeplitz matrix: bits - 1 bits
instead of bits + key_bits - 1. 2-universality is what the quantum leftover hash lemma asks (Renner, thesis, ETH
Zürich 2005, arXiv:quant-ph/0512258; Tomamichel et al., IEEE Trans. Inf. Theory 57, 5524 (2011), arXiv:1002.2436): the
result is within ½·√(2^(key_bits - H)), besides the smoothing, of one that is uniform to whoever knows the seed and
all else, H the smooth min-entropy of the key. The seed must be drawn after the key is fixed, uniformly, anew for each
block. It need not be secret; that both ends hold the same one is the channel's authentication to prove.
"""

from qhybridd import _native
from qhybridd.bits import Bits, packed_bytes
from qhybridd.errors import HostError, ProgramError


def seed_bytes(bits: int, key_bits: int) -> int:
    """Bytes of the seed that hashes `bits` bits to `key_bits`: 64-bit words for bits - 1 bits, packed as in `bits`.

    Unused bits of the last word are ignored: no bit of the result depends on them. Raises `ProgramError`
    (program.argument) unless 1 ≤ `key_bits` ≤ `bits`.
    """
    if not 1 <= key_bits <= bits:
        raise ProgramError("program.argument", f"{key_bits} bits from {bits}")
    return packed_bytes(bits - 1)


def amplify(key: Bits, seed: bytes | bytearray | memoryview, key_bits: int) -> Bits:
    """Hash `key` to `key_bits` bits; the key itself is left as it is.

    `seed` has exactly `seed_bytes(len(key), key_bits)` bytes. The GIL is released, and the time depends on the sizes
    alone. Raises `ProgramError` (program.argument) for other sizes, `HostError` (host.memory) where no locked memory is
    left for the result and the scratch (about one byte a bit of the key while it runs).
    """
    expected = seed_bytes(len(key), key_bits)
    with memoryview(seed) as given:
        if given.nbytes != expected:
            raise ProgramError("program.argument", f"a seed of {given.nbytes} bytes, {expected} expected")
    result = Bits.zeros(key_bits)
    try:
        with key.expose() as words, result.expose() as out:
            _native.toeplitz(words, len(key), seed, key_bits, out)
    except MemoryError as error:
        raise HostError("host.memory", str(error)) from None
    return result
