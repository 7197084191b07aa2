#include "sift.h"

#include "cpu.h"
#include "words.h"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

/* The bits of the last word that are in use. */
ALWAYS_INLINE uint64_t last_mask(size_t count)
{
    return count % 64 ? ((uint64_t)1 << count % 64) - 1 : ~(uint64_t)0;
}

void sift_match(const uint8_t *a, const uint8_t *b, size_t count, uint8_t *out)
{
    size_t words = (count + 63) / 64;
    for (size_t word = 0; word < words; word++)
        store(out, word, ~(load(a, word) ^ load(b, word)));
    if (words)
        store(out, words - 1, load(out, words - 1) & last_mask(count));
}

/* ---- counting */

/* Bits set: what SIMD-less processors have no instruction for (Hacker's Delight, 2nd edition, section 5-1). */
ALWAYS_INLINE uint64_t portable_ones(uint64_t x)
{
    x -= x >> 1 & 0x5555555555555555u;
    x = (x & 0x3333333333333333u) + (x >> 2 & 0x3333333333333333u);
    x = (x + (x >> 4)) & 0x0f0f0f0f0f0f0f0fu;
    return x * 0x0101010101010101u >> 56;
}

/* Four sums that the classes follow from: of all, of low, of high, of both. */
struct sums {
    uint64_t all, low, high, both;
};

#define COUNT_BODY(ones)                                                      \
    for (size_t word = from; word < words; word++) {                          \
        uint64_t l = load(low, word), h = load(high, word), e = ~(uint64_t)0; \
        if (a)                                                                \
            e = load(a, word) ^ load(b, word);                                \
        if (word == words - 1)                                                \
            e &= last_mask(count);                                            \
        sums->all += ones(e);                                                 \
        sums->low += ones(e & l);                                             \
        sums->high += ones(e & h);                                            \
        sums->both += ones(e & l & h);                                        \
    }

static void count_portable(const uint8_t *a, const uint8_t *b, const uint8_t *low, const uint8_t *high, size_t count,
                           struct sums *sums)
{
    size_t from = 0, words = (count + 63) / 64;
    COUNT_BODY(portable_ones)
}

#if defined(__x86_64__)
CPU_TARGET_AVX2 static void count_avx2(const uint8_t *a, const uint8_t *b, const uint8_t *low, const uint8_t *high,
                                       size_t from, size_t count, struct sums *sums)
{
    size_t words = (count + 63) / 64;
    COUNT_BODY((uint64_t)_mm_popcnt_u64)
}

CPU_TARGET_AVX512 static void count_avx512(const uint8_t *a, const uint8_t *b, const uint8_t *low, const uint8_t *high,
                                           size_t count, struct sums *sums)
{
    __m512i all = _mm512_setzero_si512(), lows = all, highs = all, both = all;
    size_t whole = count / 512 * 8;
    for (size_t word = 0; word < whole; word += 8) {
        __m512i l = _mm512_loadu_si512(low + 8 * word), h = _mm512_loadu_si512(high + 8 * word);
        __m512i e = _mm512_set1_epi64(-1);
        if (a)
            e = _mm512_xor_si512(_mm512_loadu_si512(a + 8 * word), _mm512_loadu_si512(b + 8 * word));
        all = _mm512_add_epi64(all, _mm512_popcnt_epi64(e));
        lows = _mm512_add_epi64(lows, _mm512_popcnt_epi64(_mm512_and_si512(e, l)));
        highs = _mm512_add_epi64(highs, _mm512_popcnt_epi64(_mm512_and_si512(e, h)));
        both = _mm512_add_epi64(both, _mm512_popcnt_epi64(_mm512_ternarylogic_epi64(e, l, h, 0x80)));
    }
    sums->all = (uint64_t)_mm512_reduce_add_epi64(all);
    sums->low = (uint64_t)_mm512_reduce_add_epi64(lows);
    sums->high = (uint64_t)_mm512_reduce_add_epi64(highs);
    sums->both = (uint64_t)_mm512_reduce_add_epi64(both);
    count_avx2(a, b, low, high, whole, count, sums);
}
#endif

/* `a` and `b` are NULL for all clicks. */
static void count_classes(const uint8_t *a, const uint8_t *b, const uint8_t *low, const uint8_t *high, size_t clicks,
                          uint64_t classes[4])
{
    struct sums sums = {0, 0, 0, 0};
    switch (cpu_set()) {
#if defined(__x86_64__)
    case CPU_AVX512:
        count_avx512(a, b, low, high, clicks, &sums);
        break;
    case CPU_AVX2:
        count_avx2(a, b, low, high, 0, clicks, &sums);
        break;
#endif
    default:
        count_portable(a, b, low, high, clicks, &sums);
    }
    classes[0] = sums.all - sums.low - sums.high + sums.both;
    classes[1] = sums.low - sums.both;
    classes[2] = sums.high - sums.both;
    classes[3] = sums.both;
}

void sift_count(const uint8_t *low, const uint8_t *high, size_t clicks, uint64_t classes[4])
{
    count_classes(NULL, NULL, low, high, clicks, classes);
}

void sift_count_errors(const uint8_t *a, const uint8_t *b, const uint8_t *low, const uint8_t *high, size_t clicks,
                       uint64_t classes[4])
{
    count_classes(a, b, low, high, clicks, classes);
}

/* ---- compressing by a mask */

/* PEXT without the instruction: each selected bit goes right by the number of zeros of the mask below it, a power of two
 * at a time (Hacker's Delight, 2nd edition, section 7-4). */
ALWAYS_INLINE uint64_t portable_extract(uint64_t x, uint64_t mask)
{
    x &= mask;
    uint64_t zeros_below = ~mask << 1;
    for (int i = 0; i < 6; i++) {
        uint64_t parity = zeros_below ^ zeros_below << 1;
        parity ^= parity << 2;
        parity ^= parity << 4;
        parity ^= parity << 8;
        parity ^= parity << 16;
        parity ^= parity << 32;
        uint64_t moving = parity & mask;
        mask = (mask ^ moving) | moving >> (1 << i);
        uint64_t moved = x & moving;
        x = (x ^ moved) | moved >> (1 << i);
        zeros_below &= ~parity;
    }
    return x;
}

/* A word of a mask, without what may stand behind its end: `out` has no place for it. */
ALWAYS_INLINE uint64_t load_mask(const uint8_t *mask, size_t word, size_t count)
{
    return load(mask, word) & (word == (count - 1) / 64 ? last_mask(count) : ~(uint64_t)0);
}

/* Nothing is appended for an empty mask: there may be no word left to write. */
#define SELECT_BODY(extract, ones)                                              \
    struct writer to = {out, 0, 0};                                             \
    for (size_t word = 0; word < (count + 63) / 64; word++) {                   \
        uint64_t m = load_mask(mask, word, count);                              \
        if (m)                                                                  \
            append(&to, extract(load(plane, word), m), (unsigned)ones(m));      \
    }                                                                           \
    finish(&to);

#define SPLIT_BODY(extract, ones)                                               \
    struct writer to_key = {key, 0, 0}, to_test = {tested, 0, 0};               \
    for (size_t word = 0; word < (count + 63) / 64; word++) {                   \
        uint64_t m = load_mask(matching, word, count), t = load(test, word);    \
        uint64_t x = load(bits, word);                                          \
        if (m & ~t)                                                             \
            append(&to_key, extract(x, m & ~t), (unsigned)ones(m & ~t));        \
        if (m & t)                                                              \
            append(&to_test, extract(x, m & t), (unsigned)ones(m & t));         \
    }                                                                           \
    finish(&to_key);                                                            \
    finish(&to_test);

static void select_portable(const uint8_t *mask, const uint8_t *plane, size_t count, uint8_t *out)
{
    SELECT_BODY(portable_extract, portable_ones)
}

static void split_portable(const uint8_t *matching, const uint8_t *test, const uint8_t *bits, size_t count,
                           uint8_t *key, uint8_t *tested)
{
    SPLIT_BODY(portable_extract, portable_ones)
}

#if defined(__x86_64__)
/* PEXT: one a cycle on Intel and on AMD since Zen 3. Earlier AMD takes up to hundreds of cycles, by the (public) mask. */
CPU_TARGET_AVX2 static void select_avx2(const uint8_t *mask, const uint8_t *plane, size_t count, uint8_t *out)
{
    SELECT_BODY(_pext_u64, _mm_popcnt_u64)
}

CPU_TARGET_AVX2 static void split_avx2(const uint8_t *matching, const uint8_t *test, const uint8_t *bits, size_t count,
                                       uint8_t *key, uint8_t *tested)
{
    SPLIT_BODY(_pext_u64, _mm_popcnt_u64)
}
#endif

void sift_select(const uint8_t *mask, const uint8_t *plane, size_t count, uint8_t *out)
{
#if defined(__x86_64__)
    if (cpu_set() >= CPU_AVX2) {
        select_avx2(mask, plane, count, out);
        return;
    }
#endif
    select_portable(mask, plane, count, out);
}

void sift_split(const uint8_t *matching, const uint8_t *test, const uint8_t *bits, size_t count, uint8_t *key,
                uint8_t *tested)
{
#if defined(__x86_64__)
    if (cpu_set() >= CPU_AVX2) {
        split_avx2(matching, test, bits, count, key, tested);
        return;
    }
#endif
    split_portable(matching, test, bits, count, key, tested);
}
