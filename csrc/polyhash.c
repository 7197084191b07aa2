#include "polyhash.h"

#include <string.h>

#include "cpu.h"
#include "locked.h"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

#define FOLD 0x87u /* x^128 = x^7 + x^2 + x + 1 */

/* Carry-less product of two 32-bit numbers, by integer products of their bits taken four apart: at most eight ones meet
 * in a place, so the three zeros beside it take the carries. No table and no branch, so no secret shows in the time
 * (given a multiplier of constant time, as every 64-bit processor has that we know of). */
static uint64_t multiply_32(uint32_t a, uint32_t b)
{
    const uint64_t every = UINT64_C(0x1111111111111111);
    uint64_t part_a[4], part_b[4], product = 0;
    for (int i = 0; i < 4; i++) {
        part_a[i] = a & every << i;
        part_b[i] = b & every << i;
    }
    for (int i = 0; i < 4; i++) {
        uint64_t sum = 0;
        for (int j = 0; j < 4; j++)
            sum ^= part_a[j] * part_b[(i - j) & 3];
        product |= sum & every << i;
    }
    return product;
}

/* Karatsuba: three products of halves. */
static void multiply_64(uint64_t a, uint64_t b, uint64_t product[2])
{
    uint32_t a0 = (uint32_t)a, a1 = (uint32_t)(a >> 32), b0 = (uint32_t)b, b1 = (uint32_t)(b >> 32);
    uint64_t low = multiply_32(a0, b0), high = multiply_32(a1, b1);
    uint64_t middle = multiply_32(a0 ^ a1, b0 ^ b1) ^ low ^ high;
    product[0] = low ^ middle << 32;
    product[1] = high ^ middle >> 32;
}

/* value = value · factor in the field. */
static void multiply_portable(uint64_t value[2], const uint64_t factor[2])
{
    uint64_t low[2], high[2], middle[2];
    multiply_64(value[0], factor[0], low);
    multiply_64(value[1], factor[1], high);
    multiply_64(value[0] ^ value[1], factor[0] ^ factor[1], middle);
    uint64_t word1 = low[1] ^ middle[0] ^ low[0] ^ high[0];
    uint64_t word2 = high[0] ^ middle[1] ^ low[1] ^ high[1];
    uint64_t word3 = high[1];
    /* Words 2 and 3 are worth x^128 as much; multiplied by x^7 + x^2 + x + 1 they go one floor down. */
    word1 ^= word3 ^ word3 << 1 ^ word3 << 2 ^ word3 << 7;
    word2 ^= word3 >> 63 ^ word3 >> 62 ^ word3 >> 57;
    word1 ^= word2 >> 63 ^ word2 >> 62 ^ word2 >> 57;
    value[0] = low[0] ^ word2 ^ word2 << 1 ^ word2 << 2 ^ word2 << 7;
    value[1] = word1;
}

static void absorb_portable(struct polyhash *hash, const uint8_t *data, size_t blocks)
{
    uint64_t value[2] = {hash->value[0], hash->value[1]}, block[2];
    for (; blocks; blocks--, data += POLYHASH_BYTES) {
        memcpy(block, data, sizeof block);
        value[0] ^= block[0];
        value[1] ^= block[1];
        multiply_portable(value, hash->powers[POLYHASH_POWERS - 1]);
    }
    memcpy(hash->value, value, sizeof value);
    locked_wipe(value, sizeof value);
    locked_wipe(block, sizeof block);
}

#if defined(__x86_64__)
/* The sum of products low + middle·x^64 + high·x^128, modulo the polynomial. */
CPU_TARGET_AVX2 static inline __m128i reduce(__m128i low, __m128i middle, __m128i high)
{
    const __m128i fold = _mm_cvtsi64_si128(FOLD);
    low = _mm_xor_si128(low, _mm_slli_si128(middle, 8));
    high = _mm_xor_si128(high, _mm_srli_si128(middle, 8));
    __m128i top = _mm_clmulepi64_si128(high, fold, 0x01);
    high = _mm_xor_si128(high, _mm_srli_si128(top, 8));
    low = _mm_xor_si128(low, _mm_slli_si128(top, 8));
    return _mm_xor_si128(low, _mm_clmulepi64_si128(high, fold, 0x00));
}

/* (value + c_1)·r^n + c_2·r^(n-1) + … + c_n·r, n blocks at a time and reduced once: only the first product waits for
 * the value of the blocks before. */
CPU_TARGET_AVX2 static void absorb_avx2(struct polyhash *hash, const uint8_t *data, size_t blocks)
{
    __m128i value = _mm_loadu_si128((const __m128i *)hash->value);
    while (blocks) {
        size_t now = blocks < POLYHASH_POWERS ? blocks : POLYHASH_POWERS;
        const uint64_t(*powers)[2] = (const uint64_t(*)[2])hash->powers + (POLYHASH_POWERS - now);
        __m128i low = _mm_setzero_si128(), middle = low, high = low;
        for (size_t i = 0; i < now; i++) {
            __m128i block = _mm_loadu_si128((const __m128i *)(data + i * POLYHASH_BYTES));
            __m128i power = _mm_loadu_si128((const __m128i *)powers[i]);
            if (i == 0)
                block = _mm_xor_si128(block, value);
            low = _mm_xor_si128(low, _mm_clmulepi64_si128(block, power, 0x00));
            high = _mm_xor_si128(high, _mm_clmulepi64_si128(block, power, 0x11));
            middle = _mm_xor_si128(middle, _mm_clmulepi64_si128(block, power, 0x01));
            middle = _mm_xor_si128(middle, _mm_clmulepi64_si128(block, power, 0x10));
        }
        value = reduce(low, middle, high);
        data += now * POLYHASH_BYTES;
        blocks -= now;
    }
    _mm_storeu_si128((__m128i *)hash->value, value);
}

CPU_TARGET_AVX512 static inline __m128i add_lanes(__m512i sum)
{
    __m256i half = _mm256_xor_si256(_mm512_castsi512_si256(sum), _mm512_extracti64x4_epi64(sum, 1));
    return _mm_xor_si128(_mm256_castsi256_si128(half), _mm256_extracti128_si256(half, 1));
}

CPU_TARGET_AVX512 static inline __m512i add_three(__m512i a, __m512i b, __m512i c)
{
    return _mm512_ternarylogic_epi64(a, b, c, 0x96);
}

/* As above, four blocks in a vector. */
CPU_TARGET_AVX512 static void absorb_avx512(struct polyhash *hash, const uint8_t *data, size_t blocks)
{
    const size_t lanes = 4;
    __m128i value = _mm_loadu_si128((const __m128i *)hash->value);
    while (blocks) {
        size_t now = blocks < POLYHASH_POWERS ? blocks : POLYHASH_POWERS;
        const uint64_t *powers = hash->powers[POLYHASH_POWERS - now];
        __m512i first = _mm512_zextsi128_si512(value);
        __m512i low = _mm512_setzero_si512(), middle = low, high = low;
        for (size_t i = 0; i < now; i += lanes) {
            size_t left = now - i;
            __mmask8 some = left >= lanes ? 0xff : (__mmask8)((1u << 2 * left) - 1);
            __m512i block = _mm512_maskz_loadu_epi64(some, data + i * POLYHASH_BYTES);
            __m512i power = _mm512_maskz_loadu_epi64(some, powers + 2 * i);
            block = _mm512_xor_si512(block, first);
            first = _mm512_setzero_si512();
            low = _mm512_xor_si512(low, _mm512_clmulepi64_epi128(block, power, 0x00));
            high = _mm512_xor_si512(high, _mm512_clmulepi64_epi128(block, power, 0x11));
            middle = add_three(middle, _mm512_clmulepi64_epi128(block, power, 0x01),
                               _mm512_clmulepi64_epi128(block, power, 0x10));
        }
        value = reduce(add_lanes(low), add_lanes(middle), add_lanes(high));
        data += now * POLYHASH_BYTES;
        blocks -= now;
    }
    _mm_storeu_si128((__m128i *)hash->value, value);
}
#endif

static void absorb_blocks(struct polyhash *hash, const uint8_t *data, size_t blocks)
{
#if defined(__x86_64__)
    enum cpu_set set = cpu_set();
    if (set >= CPU_AVX512)
        absorb_avx512(hash, data, blocks);
    else if (set >= CPU_AVX2)
        absorb_avx2(hash, data, blocks);
    else
#endif
        absorb_portable(hash, data, blocks);
}

void polyhash_start(struct polyhash *hash, const uint8_t *point)
{
    uint64_t *power = hash->powers[POLYHASH_POWERS - 1];
    memcpy(power, point, POLYHASH_BYTES);
    for (size_t i = POLYHASH_POWERS - 1; i--;) {
        memcpy(hash->powers[i], hash->powers[i + 1], POLYHASH_BYTES);
        multiply_portable(hash->powers[i], power);
    }
    memset(hash->value, 0, sizeof hash->value);
}

void polyhash_absorb(struct polyhash *hash, const uint8_t *data, size_t bits, uint64_t mark)
{
    size_t whole = bits / 128, rest = bits % 128;
    if (whole)
        absorb_blocks(hash, data, whole);

    uint64_t end[2][2] = {{0, 0}, {bits, mark | POLYHASH_MARKS}};
    if (rest) {
        uint8_t last[POLYHASH_BYTES] = {0};
        memcpy(last, data + whole * POLYHASH_BYTES, (rest + 7) / 8);
        if (rest % 8)
            last[rest / 8] &= (uint8_t)((1u << rest % 8) - 1);
        memcpy(end[0], last, sizeof last);
        locked_wipe(last, sizeof last);
        absorb_blocks(hash, (const uint8_t *)end, 2);
    } else {
        absorb_blocks(hash, (const uint8_t *)end[1], 1);
    }
    locked_wipe(end, sizeof end);
}
