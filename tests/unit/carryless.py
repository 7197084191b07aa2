"""Oracles for polynomials over GF(2) that stand in Python integers, bit i the coefficient of z^i."""

import decimal


def multiply(a: int, b: int) -> int:
    """Carry-less product, bit by bit."""
    product = 0
    while b:
        lowest = b & -b
        product ^= a * lowest
        b ^= lowest
    return product


def multiply_long(a: int, b: int) -> int:
    """The same for long ones: a decimal product with room for the sum of each column, of which the parity is taken.

    `decimal` multiplies by number-theoretic transforms: exact, and nothing that the kernels have in common with.
    """
    if not a or not b:
        return 0
    width = len(str(min(a.bit_length(), b.bit_length())))
    first, second = (_columns(value, width) for value in (a, b))
    precision = (a.bit_length() + b.bit_length()) * width
    with decimal.localcontext(decimal.Context(precision, Emax=decimal.MAX_EMAX, traps=[decimal.Inexact])):
        digits = format(first * second, "f")
    columns = digits.zfill(-(-len(digits) // width) * width)[width - 1 :: width]
    return int(columns.translate(str.maketrans("0123456789", "0101010101")), 2)


def _columns(value: int, width: int) -> decimal.Decimal:
    bits = format(value, "b").encode()
    digits = bytearray(b"0" * (len(bits) * width))
    digits[width - 1 :: width] = bits
    return decimal.Decimal(digits.decode())
