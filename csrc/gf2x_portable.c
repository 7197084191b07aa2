/* gf2x.h in plain C: one element in a vector. */
#include "gf2x.h"

#define KERNELS gf2x_portable
#define KERNEL static
#define LANES 1

typedef struct gf2x_element vector;

static inline vector load(const void *from)
{
    const unsigned char *bytes = from;
    vector a;
    __builtin_memcpy(&a, bytes, sizeof a);
    return a;
}

static inline void store(void *to, vector a)
{
    __builtin_memcpy(to, &a, sizeof a);
}

static inline vector xor(vector a, vector b)
{
    return (vector){a.low ^ b.low, a.high ^ b.high};
}

#define xor3(a, b, c) xor(xor(a, b), c)

/* Carry-less 32 × 32 → 64 bits by integer products without data-dependent time: of operands with every fourth bit only,
 * at most eight ones meet in a column, so that no carry reaches the next wanted bit. */
static inline uint64_t carryless32(uint32_t a, uint32_t b)
{
    const uint64_t m0 = UINT64_C(0x1111111111111111), m1 = m0 << 1, m2 = m0 << 2, m3 = m0 << 3;
    uint64_t a0 = a & m0, a1 = a & m1, a2 = a & m2, a3 = a & m3;
    uint64_t b0 = b & m0, b1 = b & m1, b2 = b & m2, b3 = b & m3;
    return (((a0 * b0) ^ (a1 * b3) ^ (a2 * b2) ^ (a3 * b1)) & m0) |
           (((a0 * b1) ^ (a1 * b0) ^ (a2 * b3) ^ (a3 * b2)) & m1) |
           (((a0 * b2) ^ (a1 * b1) ^ (a2 * b0) ^ (a3 * b3)) & m2) |
           (((a0 * b3) ^ (a1 * b2) ^ (a2 * b1) ^ (a3 * b0)) & m3);
}

/* Karatsuba: (a1 z^32 + a0) (b1 z^32 + b0) */
static inline vector carryless64(uint64_t a, uint64_t b)
{
    uint32_t a0 = (uint32_t)a, a1 = (uint32_t)(a >> 32), b0 = (uint32_t)b, b1 = (uint32_t)(b >> 32);
    uint64_t low = carryless32(a0, b0), high = carryless32(a1, b1);
    uint64_t middle = carryless32(a0 ^ a1, b0 ^ b1) ^ low ^ high;
    return (vector){low ^ middle << 32, high ^ middle >> 32};
}

#define carryless(a, b, i) carryless64((i)&0x01 ? (a).high : (a).low, (i)&0x10 ? (b).high : (b).low)

static inline vector up(vector a)
{
    return (vector){0, a.low};
}

static inline vector down(vector a)
{
    return (vector){a.high, 0};
}

#define broadcast(from) load(from)
#define broadcast_word(word) ((vector){word, 0})
#define lows(a, b) ((vector){(a).low, (b).low})
#define highs(a, b) ((vector){(a).high, (b).high})
#define low_words lows
#define high_words highs
#define widen(words) broadcast_word(*(words))
#define add_some(to, from, count) ((void)(count), *(to) ^= *(from))
#define transpose(r) ((void)(r))

#include "gf2x_kernels.h"
