"""Known answers for ML-KEM, with FIPS 203 in plain Python as the oracle for what the providers draw at random.

No provider takes the randomness of an encapsulation, so the oracle encapsulates; key generation from a seed and
decapsulation are the provider's. The digest over all of it is published, so the oracle is held to it too.
"""

import ctypes
import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PrivateKey, MLKEM1024PrivateKey

from qhybridd.crypto import kem, liboqs
from qhybridd.crypto.kem import Kem

VECTORS = json.loads((Path(__file__).parents[1] / "vectors" / "mlkem-accumulated.json").read_text())

Q = 3329
PARAMETERS = {"ML-KEM-768": (3, 10, 4), "ML-KEM-1024": (4, 11, 5)}
"""k, d_u, d_v; eta is 2 everywhere (FIPS 203 table 2)."""
Polynomial = list[int]


def reversed_bits(number: int) -> int:
    return int(f"{number:07b}"[::-1], 2)


ZETAS = [pow(17, reversed_bits(i), Q) for i in range(128)]
GAMMAS = [pow(17, 2 * reversed_bits(i) + 1, Q) for i in range(128)]


def ntt(f: Polynomial) -> Polynomial:
    """Algorithm 9."""
    f, i, length = f[:], 1, 128
    while length >= 2:
        for start in range(0, 256, 2 * length):
            zeta, i = ZETAS[i], i + 1
            for j in range(start, start + length):
                t = zeta * f[j + length]
                f[j], f[j + length] = (f[j] + t) % Q, (f[j] - t) % Q
        length //= 2
    return f


def inverse_ntt(f: Polynomial) -> Polynomial:
    """Algorithm 10."""
    f, i, length = f[:], 127, 2
    while length <= 128:
        for start in range(0, 256, 2 * length):
            zeta, i = ZETAS[i], i - 1
            for j in range(start, start + length):
                f[j], f[j + length] = (f[j] + f[j + length]) % Q, zeta * (f[j + length] - f[j]) % Q
        length *= 2
    return [x * 3303 % Q for x in f]


def multiply(f: Polynomial, g: Polynomial) -> Polynomial:
    """Algorithms 11 and 12."""
    h = []
    for i, gamma in enumerate(GAMMAS):
        a0, a1, b0, b1 = f[2 * i], f[2 * i + 1], g[2 * i], g[2 * i + 1]
        h += [a0 * b0 + a1 * b1 * gamma, a0 * b1 + a1 * b0]
    return h


def add(*polynomials: Polynomial) -> Polynomial:
    return [sum(column) % Q for column in zip(*polynomials, strict=True)]


def sample_uniform(seed: bytes) -> Polynomial:
    """Algorithm 7; 1,344 bytes hold 896 candidates, of which 256 are under q but for a chance that never comes."""
    stream, a = hashlib.shake_128(seed).digest(1344), []
    for at in range(0, len(stream), 3):
        c0, c1, c2 = stream[at : at + 3]
        a += [d for d in (c0 + 256 * (c1 % 16), c1 // 16 + 16 * c2) if d < Q]
    return a[:256]


def sample_binomial(seed: bytes, counter: int) -> Polynomial:
    """Algorithm 8 with eta = 2."""
    noise = int.from_bytes(hashlib.shake_256(seed + bytes([counter])).digest(128), "little")
    nibbles = [noise >> 4 * i & 15 for i in range(256)]
    return [((n & 1) + (n >> 1 & 1) - (n >> 2 & 1) - (n >> 3)) % Q for n in nibbles]


def encode(f: Polynomial, bits: int) -> bytes:
    """Algorithm 5."""
    return sum(x << bits * i for i, x in enumerate(f)).to_bytes(32 * bits, "little")


def compress(f: Polynomial, bits: int) -> Polynomial:
    """Equation 4.7."""
    return [((x << bits + 1) + Q) // (2 * Q) % (1 << bits) for x in f]


def encapsulate(name: str, ek: bytes, m: bytes) -> tuple[bytes, bytes]:
    """Algorithms 17 and 14: the secret and the ciphertext."""
    k, d_u, d_v = PARAMETERS[name]
    both = hashlib.sha3_512(m + hashlib.sha3_256(ek).digest()).digest()
    secret, r = both[:32], both[32:]
    rho = ek[384 * k :]
    t = []
    for i in range(k):
        packed = int.from_bytes(ek[384 * i : 384 * (i + 1)], "little")
        t.append([packed >> 12 * j & 0xFFF for j in range(256)])
    a = [[sample_uniform(rho + bytes([j, i])) for j in range(k)] for i in range(k)]
    y = [ntt(sample_binomial(r, i)) for i in range(k)]
    c = b""
    for i in range(k):
        product = inverse_ntt(add(*(multiply(a[j][i], y[j]) for j in range(k))))
        c += encode(compress(add(product, sample_binomial(r, k + i)), d_u), d_u)
    message = int.from_bytes(m, "little")
    mu = [(message >> i & 1) * ((Q + 1) // 2) for i in range(256)]
    product = inverse_ntt(add(*(multiply(t[j], y[j]) for j in range(k))))
    return secret, c + encode(compress(add(product, sample_binomial(r, 2 * k), mu), d_v), d_v)


KeyFromSeed = Callable[[bytes], tuple[object, bytes]]


def from_cryptography(name: str) -> tuple[Kem, KeyFromSeed]:
    kind = {"ML-KEM-768": MLKEM768PrivateKey, "ML-KEM-1024": MLKEM1024PrivateKey}[name]

    def key(seed: bytes) -> tuple[object, bytes]:
        private = kind.from_seed_bytes(seed)
        return private, private.public_key().public_bytes_raw()

    return kem.by_name(name), key


def from_liboqs(name: str) -> tuple[Kem, KeyFromSeed]:
    if liboqs.find_library() is None:
        pytest.skip("liboqs is not installed: `make liboqs` or deploy/build-liboqs")
    scheme = liboqs.by_code(kem.by_name(name).code)

    def key(seed: bytes) -> tuple[object, bytes]:
        private, ek = scheme.generate()
        assert isinstance(private, liboqs.PrivateKey)
        public = ctypes.create_string_buffer(len(ek))
        with liboqs._address(private.secret) as address:
            assert scheme._call("OQS_KEM_keypair_derand", public, address, seed) == 0
        return private, public.raw

    return scheme, key


PROVIDERS = pytest.mark.parametrize("provider", [from_cryptography, from_liboqs], ids=["cryptography", "liboqs"])


@PROVIDERS
@pytest.mark.parametrize("name", PARAMETERS)
def test_accumulated_answers(provider: Callable[[str], tuple[Kem, KeyFromSeed]], name: str) -> None:
    scheme, key_from_seed = provider(name)
    rounds = VECTORS["iterations"]
    size = 64 + 32 + scheme.ct_bytes
    stream = hashlib.shake_128(b"").digest(rounds * size)
    digest = hashlib.shake_128()
    for at in range(0, len(stream), size):
        seed, m, noise = stream[at : at + 64], stream[at + 64 : at + 96], stream[at + 96 : at + size]
        private, ek = key_from_seed(seed)
        secret, ct = encapsulate(name, ek, m)
        with scheme.decapsulate(private, ct).expose() as view:
            assert bytes(view) == secret
        with scheme.decapsulate(private, noise).expose() as view:
            digest.update(ek + ct + secret + bytes(view))
        scheme.wipe(private)
    assert digest.hexdigest(32) == VECTORS["digests"][name]


@PROVIDERS
def test_key_from_seed(provider: Callable[[str], tuple[Kem, KeyFromSeed]]) -> None:
    vector = VECTORS["keygen"]
    scheme, key_from_seed = provider(vector["parameters"])
    private, ek = key_from_seed(bytes.fromhex(vector["seed"]))
    assert hashlib.sha3_256(ek).hexdigest() == vector["ek_sha3_256"]
    scheme.wipe(private)
