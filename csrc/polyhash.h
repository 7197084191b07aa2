/* A polynomial hash over GF(2^128), for tags: verification under a public point, authentication under a secret one.
 *
 * The field is GF(2)[x] / (x^128 + x^7 + x^2 + x + 1); sixteen bytes are the element whose coefficient of x^i is bit
 * i % 8 of byte i / 8. (GHASH has the same polynomial with its bits mirrored; packed bits are little-endian, so ours are
 * not.) A string of bits enters as blocks of 128, the last one filled up with zeros, and one block more for its length:
 * bits 0 to 63 hold the number of bits, bits 64 to 126 a mark that the caller chose, bit 127 is set. The value after
 * blocks c_1 … c_n under the point r is c_1·r^n + c_2·r^(n-1) + … + c_n·r.
 *
 * Two different lists of (string, mark) never give the same polynomial: the last block says how many belong to the last
 * string, the one before those is the length of the string before, and as no length block is zero, neither an empty
 * string nor leading zeros vanish. Two polynomials of n blocks or fewer and without a constant term differ by a given
 * value at n points or fewer, so for a uniform point the probability is at most n / 2^128 (den Boer 1993; Taylor 1993;
 * Bierbrauer, Johansson, Kabatianskii and Smeets 1993). */
#ifndef QHYBRIDD_POLYHASH_H
#define QHYBRIDD_POLYHASH_H

#include <stddef.h>
#include <stdint.h>

#define POLYHASH_BYTES 16u
#define POLYHASH_POWERS 32u                     /* blocks that are multiplied before one reduction */
#define POLYHASH_MARKS (UINT64_C(1) << 63)      /* a mark is less */

struct polyhash {
    uint64_t powers[POLYHASH_POWERS][2];        /* r^32, r^31, …, r: the last n are those of n blocks */
    uint64_t value[2];
};

/* Begin with nothing absorbed, under a point of 16 bytes. */
void polyhash_start(struct polyhash *hash, const uint8_t *point);

/* Absorb one string: `bits` bits of `data`, which may have any alignment; those behind them in the last byte are ignored.
 * Time depends on `bits` alone. */
void polyhash_absorb(struct polyhash *hash, const uint8_t *data, size_t bits, uint64_t mark);

#endif
