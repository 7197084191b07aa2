/* gf2x.h for processors with PCLMULQDQ on 128 bits: one element in a vector. */
#include "cpu.h"
#include "gf2x.h"

#if defined(__x86_64__)
#include <immintrin.h>

#define KERNELS gf2x_avx2
#define KERNEL CPU_TARGET_AVX2 static
#define LANES 1

typedef __m128i vector;

#define load(from) _mm_loadu_si128((const __m128i *)(from))
#define store(to, a) _mm_storeu_si128((__m128i *)(to), a)
#define xor(a, b) _mm_xor_si128(a, b)
#define xor3(a, b, c) _mm_xor_si128(_mm_xor_si128(a, b), c)
#define carryless(a, b, i) _mm_clmulepi64_si128(a, b, i)
#define up(a) _mm_slli_si128(a, 8)
#define down(a) _mm_srli_si128(a, 8)
#define broadcast(from) load(from)
#define broadcast_word(word) _mm_cvtsi64_si128((long long)(word))
#define lows(a, b) _mm_unpacklo_epi64(a, b)
#define highs(a, b) _mm_unpackhi_epi64(a, b)
#define low_words lows
#define high_words highs
#define widen(words) _mm_loadl_epi64((const __m128i *)(words))
#define add_some(to, from, count) ((void)(count), *(to) ^= *(from))
#define transpose(r) ((void)(r))

#include "gf2x_kernels.h"

#endif
