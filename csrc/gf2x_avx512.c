/* gf2x.h for AVX-512 with VPCLMULQDQ: four elements in a vector. */
#include "cpu.h"
#include "gf2x.h"

#if defined(__x86_64__)
#include <immintrin.h>

#define KERNELS gf2x_avx512
#define KERNEL CPU_TARGET_AVX512 static
#define LANES 4

typedef __m512i vector;

#define load(from) _mm512_loadu_si512(from)
#define store(to, a) _mm512_storeu_si512(to, a)
#define xor(a, b) _mm512_xor_si512(a, b)
#define xor3(a, b, c) _mm512_ternarylogic_epi64(a, b, c, 0x96)
#define carryless(a, b, i) _mm512_clmulepi64_epi128(a, b, i)
#define up(a) _mm512_bslli_epi128(a, 8)
#define down(a) _mm512_bsrli_epi128(a, 8)
#define broadcast(from) _mm512_broadcast_i32x4(_mm_loadu_si128((const __m128i *)(from)))
#define broadcast_word(word) _mm512_set1_epi64((long long)(word))
#define lows(a, b) _mm512_unpacklo_epi64(a, b)
#define highs(a, b) _mm512_unpackhi_epi64(a, b)

#define low_words(a, b) _mm512_permutex2var_epi64(a, _mm512_setr_epi64(0, 2, 4, 6, 8, 10, 12, 14), b)
#define high_words(a, b) _mm512_permutex2var_epi64(a, _mm512_setr_epi64(1, 3, 5, 7, 9, 11, 13, 15), b)

KERNEL inline vector widen(const uint64_t *words)
{
    vector four = _mm512_castsi256_si512(_mm256_loadu_si256((const __m256i *)words));
    return _mm512_maskz_permutexvar_epi64(0x55, _mm512_setr_epi64(0, 0, 1, 0, 2, 0, 3, 0), four);
}

KERNEL inline void add_some(uint64_t *to, const uint64_t *from, size_t count)
{
    __mmask8 some = (__mmask8)((1u << count) - 1);
    vector sum = _mm512_xor_si512(_mm512_maskz_loadu_epi64(some, to), _mm512_maskz_loadu_epi64(some, from));
    _mm512_mask_storeu_epi64(to, some, sum);
}

KERNEL inline void transpose(vector r[4])
{
    vector a = _mm512_shuffle_i64x2(r[0], r[1], 0x88), b = _mm512_shuffle_i64x2(r[0], r[1], 0xdd);
    vector c = _mm512_shuffle_i64x2(r[2], r[3], 0x88), d = _mm512_shuffle_i64x2(r[2], r[3], 0xdd);
    r[0] = _mm512_shuffle_i64x2(a, c, 0x88);
    r[1] = _mm512_shuffle_i64x2(b, d, 0x88);
    r[2] = _mm512_shuffle_i64x2(a, c, 0xdd);
    r[3] = _mm512_shuffle_i64x2(b, d, 0xdd);
}

/* The steps of convert within two vectors: y^i → y^(i-6) for i ≥ 8; y^i → y^(i-3) in the upper half of each eight; then
 * y^i → y^(i-4) for i ≥ 8, the columns; and y^i → y^(i-1) in each four, the rows. plus: to those words of a that the
 * mask names, add the words of b that are `by` higher (modulo eight). */
#define plus(a, mask, b, by) _mm512_xor_si512(a, _mm512_maskz_alignr_epi64(mask, b, b, by))

KERNEL inline void convert_16(uint64_t *words, int dual)
{
    vector a = load(words), b = load(words + 8);
    if (dual) {
        b = plus(b, 0xc0, b, 2), b = plus(b, 0x3f, a, 2);
        a = plus(a, 0x80, a, 5), a = plus(a, 0x70, a, 5);
        b = plus(b, 0x80, b, 5), b = plus(b, 0x70, b, 5);
        b = plus(b, 0xf0, b, 4), b = plus(b, 0x0f, a, 4);
        a = plus(a, 0x88, a, 7), a = plus(a, 0x44, a, 7);
        b = plus(b, 0x88, b, 7), b = plus(b, 0x44, b, 7);
    } else {
        b = plus(b, 0x03, b, 6), a = plus(a, 0xfc, b, 6);
        a = plus(a, 0x10, a, 3), a = plus(a, 0x0e, a, 3);
        b = plus(b, 0x10, b, 3), b = plus(b, 0x0e, b, 3);
        b = plus(b, 0x0f, b, 4), a = plus(a, 0xf0, b, 4);
        a = plus(a, 0x44, a, 1), a = plus(a, 0x22, a, 1);
        b = plus(b, 0x44, b, 1), b = plus(b, 0x22, b, 1);
    }
    store(words, a);
    store(words + 8, b);
}

KERNEL inline void convert_16_back(uint64_t *words)
{
    vector a = load(words), b = load(words + 8);
    a = plus(a, 0x44, a, 7), a = plus(a, 0x88, a, 7);
    b = plus(b, 0x44, b, 7), b = plus(b, 0x88, b, 7);
    b = plus(b, 0x0f, a, 4), b = plus(b, 0xf0, b, 4);
    a = plus(a, 0x70, a, 5), a = plus(a, 0x80, a, 5);
    b = plus(b, 0x70, b, 5), b = plus(b, 0x80, b, 5);
    b = plus(b, 0x3f, a, 2), b = plus(b, 0xc0, b, 2);
    store(words, a);
    store(words + 8, b);
}

#define CONVERT_16 convert_16
#define CONVERT_16_BACK convert_16_back

#include "gf2x_kernels.h"

#endif
