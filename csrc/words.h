/* Words in unaligned memory, and strings of bits that are put together from pieces. */
#ifndef QHYBRIDD_WORDS_H
#define QHYBRIDD_WORDS_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#define ALWAYS_INLINE static inline __attribute__((always_inline))

ALWAYS_INLINE uint64_t load_at(const uint8_t *data, size_t at)
{
    uint64_t value;
    memcpy(&value, data + at, sizeof value);
    return value;
}

ALWAYS_INLINE uint64_t load(const uint8_t *plane, size_t word)
{
    return load_at(plane, 8 * word);
}

ALWAYS_INLINE void store(uint8_t *plane, size_t word, uint64_t value)
{
    memcpy(plane + 8 * word, &value, sizeof value);
}

/* Up to 8 bytes from `at` of `size`, zeros behind the end. */
ALWAYS_INLINE uint64_t load_within(const uint8_t *data, size_t size, size_t at)
{
    uint64_t value = 0;
    if (at + 8 <= size)
        memcpy(&value, data + at, 8);
    else if (at < size)
        memcpy(&value, data + at, size - at);
    return value;
}

ALWAYS_INLINE void store_within(uint8_t *data, size_t size, size_t at, uint64_t value)
{
    if (at + 8 <= size)
        memcpy(data + at, &value, 8);
    else if (at < size)
        memcpy(data + at, &value, size - at);
}

/* Bits that are put behind each other. The word is written each time, whole or not, without a branch on `filled`. */
struct writer {
    uint8_t *out;
    uint64_t last;
    unsigned filled; /* bits of `last`, 0 to 63 */
};

/* Behind what is there, the low `bits` bits of `value`: 1 to 64, the others are zero. */
ALWAYS_INLINE void append(struct writer *to, uint64_t value, unsigned bits)
{
    uint64_t word = to->last | value << to->filled;
    uint64_t spill = value >> 1 >> (63 - to->filled);
    memcpy(to->out, &word, sizeof word);
    unsigned filled = to->filled + bits;
    uint64_t full = (uint64_t)0 - (filled >> 6);
    to->out += 8 * (filled >> 6);
    to->last = (spill & full) | (word & ~full);
    to->filled = filled & 63;
}

/* What went over into a word that nothing came behind. */
ALWAYS_INLINE void finish(const struct writer *to)
{
    if (to->filled)
        memcpy(to->out, &to->last, sizeof to->last);
}

#endif
