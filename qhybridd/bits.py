"""Packed secret bits: what the stages of distillation hand to each other.

Bit i is bit i % 64 of the little-endian 64-bit word i // 64; the unused bits of the last word are zero. Public planes
(bases, masks, intensities) have the same layout in plain `bytes`.
"""

from dataclasses import dataclass

from qhybridd.errors import ProgramError
from qhybridd.secret import Secret


def packed_bytes(bits: int) -> int:
    """Bytes of the 64-bit words that hold `bits` bits."""
    return (bits + 63) // 64 * 8


@dataclass(frozen=True, slots=True, eq=False)
class Bits:
    """`length` secret bits in locked memory, packed."""

    secret: Secret
    """Whole 64-bit words; at least one, so that an empty string of bits has memory too."""
    length: int

    @classmethod
    def zeros(cls, length: int) -> "Bits":
        """`length` zero bits. Raises `HostError` (host.memory) where no locked memory is left."""
        if length < 0:
            raise ProgramError("program.argument", f"{length} bits")
        return cls(Secret(max(8, packed_bytes(length))), length)

    @classmethod
    def adopt(cls, data: bytes | bytearray | memoryview, length: int) -> "Bits":
        """Copy packed bits into locked memory; a mutable source is wiped. Bits behind `length` must be zero."""
        if len(data) != packed_bytes(length):
            raise ProgramError("program.argument", f"{len(data)} bytes for {length} bits")
        spare = packed_bytes(length) * 8 - length
        if spare and int.from_bytes(data[-8:], "little") >> (64 - spare):
            raise ProgramError("program.argument", "bits behind the end are set")
        return cls(Secret.adopt(data), length) if length else cls.zeros(0)

    def expose(self) -> memoryview:
        """A writable view of the words, as bytes; release it soon, and keep the unused bits zero."""
        return self.secret.expose()

    def wipe(self) -> None:
        """Overwrite with zeros."""
        self.secret.wipe()

    def __len__(self) -> int:
        return self.length

    def __repr__(self) -> str:
        return f"<Bits {self.length}>"
