/* Privacy amplification by the modified Toeplitz hash (T, I). */
#ifndef QHYBRIDD_TOEPLITZ_H
#define QHYBRIDD_TOEPLITZ_H

#include <stddef.h>

/* out = head + T tail over GF(2): head is the first key_bits of the `bits` bits of `key`, tail the rest, and T[i][j] is
 * bit i - j + (bits - key_bits) - 1 of `seed`, which has bits - 1 bits. All are packed and may have any alignment; bits
 * behind an end are ignored, and those behind that of `out` become zero. 1 ≤ key_bits ≤ bits; `out` does not overlap
 * the others. Constant time for given sizes. -1 with errno set where no locked memory is left for the scratch. */
int toeplitz_hash(void *out, const void *key, const void *seed, size_t bits, size_t key_bits);

#endif
