"""Blocks and stores for the tests of the key store: the key of a block follows from its number."""

import hashlib

from qhybridd.bits import Bits, packed_bytes
from qhybridd.distill.authenticate import Role
from qhybridd.keystore import KeyStore
from qhybridd.keystore.block import Half
from qhybridd.secret import Secret

CAPACITY_BITS = 1 << 20
MAX_AGE_S = 3600.0


def key_id(number: int) -> bytes:
    """The ID of block `number`."""
    return number.to_bytes(16, "big")


def key_bytes(number: int, bits: int) -> bytes:
    """The key of block `number`, packed."""
    text = hashlib.shake_256(f"block {number}".encode()).digest(packed_bytes(bits))
    return (int.from_bytes(text, "little") & ((1 << bits) - 1)).to_bytes(len(text), "little")


def block_key(number: int, bits: int) -> Bits:
    """A fresh copy of it."""
    return Bits.adopt(key_bytes(number, bits), bits)


def unit_bytes(number: int, bits: int, role: Role, unit: int) -> bytes:
    """What key `unit` of one direction of block `number` must be: Alice's are the first half, and the odd one."""
    at = unit + (0 if role is Role.ALICE else (bits // 256 + 1) // 2)
    return key_bytes(number, bits)[32 * at : 32 * at + 32]


def text_of(secret: Secret) -> bytes:
    """The bytes of a secret."""
    with secret.expose() as text:
        return bytes(text)


def store(role: Role, capacity_bits: int = CAPACITY_BITS, max_age_s: float = MAX_AGE_S) -> KeyStore:
    """An empty one."""
    return KeyStore(role, capacity_bits, max_age_s)


def pair(capacity_bits: int = CAPACITY_BITS, max_age_s: float = MAX_AGE_S) -> tuple[KeyStore, KeyStore]:
    """Alice's and Bob's, empty."""
    return store(Role.ALICE, capacity_bits, max_age_s), store(Role.BOB, capacity_bits, max_age_s)


def fill(*ends: KeyStore, number: int = 1, bits: int = 2560, now: float = 0.0, confirm: bool = True) -> None:
    """A block for each of these ends."""
    for end in ends:
        end.add(key_id(number), block_key(number, bits), 0, now)
        if confirm:
            end.confirm(key_id(number), now)


def exchange(alice: KeyStore, bob: KeyStore, now: float) -> None:
    """Each tells the other of its store, at the same time."""
    hers, his = alice.listing(), bob.listing()
    alice.meet(his, now)
    bob.meet(hers, now)


def secrets_of(end: KeyStore) -> list[Secret]:
    """Every key that lies in the store."""
    return [secret for block in end._blocks.values() for half in (block.own, block.peer) for secret in secrets_in(half)]


def secrets_in(half: Half) -> list[Secret]:
    """Those of one direction."""
    return list(half._units.values())
