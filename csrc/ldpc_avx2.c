/* The decoder for AVX2: a byte for each message. */
#include "cpu.h"
#include "ldpc_decoder.h"

#if defined(__x86_64__)

#include <immintrin.h>
#include <string.h>

#define TARGET CPU_TARGET_AVX2
#define DECODER ldpc_avx2
#define LANES 32
#define OPERATION CPU_TARGET_AVX2 static inline __attribute__((always_inline))

typedef __m256i bytes;
typedef struct {
    __m256i low, high; /* lanes 0 … 15 and 16 … 31 */
} words;
typedef uint32_t bits_t;

OPERATION bytes bytes_load(const uint8_t *from)
{
    return _mm256_loadu_si256((const __m256i *)from);
}

OPERATION void bytes_store(uint8_t *to, bytes a)
{
    _mm256_storeu_si256((__m256i *)to, a);
}

OPERATION words words_load(const int16_t *from)
{
    return (words){_mm256_loadu_si256((const __m256i *)from), _mm256_loadu_si256((const __m256i *)(from + 16))};
}

OPERATION void words_store(int16_t *to, words a)
{
    _mm256_storeu_si256((__m256i *)to, a.low);
    _mm256_storeu_si256((__m256i *)(to + 16), a.high);
}

OPERATION words words_all(int16_t value)
{
    return (words){_mm256_set1_epi16(value), _mm256_set1_epi16(value)};
}

/* All ones in every 16-bit lane whose bit is set. */
OPERATION __m256i wide_mask(uint32_t bits)
{
    __m256i each = _mm256_setr_epi16(1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384, -32768);
    return _mm256_cmpeq_epi16(_mm256_and_si256(_mm256_set1_epi16((short)bits), each), each);
}

OPERATION words words_choose(bits_t bits, words set, words clear)
{
    return (words){_mm256_blendv_epi8(clear.low, set.low, wide_mask(bits & 0xffff)),
                   _mm256_blendv_epi8(clear.high, set.high, wide_mask(bits >> 16))};
}

OPERATION bits_t words_below(words a, int16_t bound)
{
    __m256i b = _mm256_set1_epi16(bound);
    __m256i both = _mm256_packs_epi16(_mm256_cmpgt_epi16(b, a.low), _mm256_cmpgt_epi16(b, a.high));
    return (uint32_t)_mm256_movemask_epi8(_mm256_permute4x64_epi64(both, 0xd8));
}

OPERATION words words_add(words a, words b)
{
    return (words){_mm256_add_epi16(a.low, b.low), _mm256_add_epi16(a.high, b.high)};
}

OPERATION words words_subtract(words a, words b)
{
    return (words){_mm256_sub_epi16(a.low, b.low), _mm256_sub_epi16(a.high, b.high)};
}

/* Packs within 128 bits, eight of `low` before eight of `high`; `words_widen` undoes just that. */
OPERATION bytes words_narrow(words a)
{
    return _mm256_packs_epi16(a.low, a.high);
}

OPERATION words words_widen(bytes a)
{
    __m256i zero = _mm256_setzero_si256();
    return (words){_mm256_unpacklo_epi8(a, zero), _mm256_unpackhi_epi8(a, zero)};
}

OPERATION bytes bytes_all(uint8_t value)
{
    return _mm256_set1_epi8((char)value);
}

/* The sign bit of every lane whose bit is set, in the order of `words_narrow`. */
OPERATION bytes bytes_signs(bits_t bits)
{
    __m256i source = _mm256_setr_epi8(0, 0, 0, 0, 0, 0, 0, 0, 2, 2, 2, 2, 2, 2, 2, 2, 1, 1, 1, 1, 1, 1, 1, 1, 3, 3, 3, 3,
                                      3, 3, 3, 3);
    __m256i each = _mm256_set1_epi64x((long long)0x8040201008040201ULL);
    __m256i spread = _mm256_and_si256(_mm256_shuffle_epi8(_mm256_set1_epi32((int)bits), source), each);
    return _mm256_and_si256(_mm256_cmpeq_epi8(spread, each), _mm256_set1_epi8((char)0x80));
}

OPERATION size_t bytes_count_negative(bytes a)
{
    return (size_t)_mm_popcnt_u32((uint32_t)_mm256_movemask_epi8(a));
}

OPERATION bytes bytes_magnitude(bytes a)
{
    return _mm256_abs_epi8(a);
}

OPERATION bytes bytes_xor(bytes a, bytes b)
{
    return _mm256_xor_si256(a, b);
}

OPERATION bytes bytes_min(bytes a, bytes b)
{
    return _mm256_min_epu8(a, b);
}

OPERATION bytes bytes_max(bytes a, bytes b)
{
    return _mm256_max_epu8(a, b);
}

OPERATION bytes bytes_add(bytes a, bytes b)
{
    return _mm256_add_epi8(a, b);
}

OPERATION bytes bytes_add_saturated(bytes a, bytes b)
{
    return _mm256_adds_epu8(a, b);
}

OPERATION bytes bytes_subtract(bytes a, bytes b)
{
    return _mm256_sub_epi8(a, b);
}

OPERATION bytes bytes_subtract_saturated(bytes a, bytes b)
{
    return _mm256_subs_epu8(a, b);
}

static const uint8_t corrections[32] __attribute__((aligned(32))) = {LDPC_CORRECTION_TABLE};

/* Two lookups of 16: a lane of 16 or more has the top bit set after 0x70 was added, for which a shuffle gives 0. */
OPERATION bytes bytes_correction(bytes a)
{
    __m256i lower = _mm256_broadcastsi128_si256(_mm_load_si128((const __m128i *)corrections));
    __m256i upper = _mm256_broadcastsi128_si256(_mm_load_si128((const __m128i *)(corrections + 16)));
    __m256i limit = _mm256_set1_epi8(0x70);
    __m256i next = _mm256_sub_epi8(a, _mm256_set1_epi8(16));
    return _mm256_or_si256(_mm256_shuffle_epi8(lower, _mm256_adds_epu8(a, limit)),
                           _mm256_shuffle_epi8(upper, _mm256_adds_epu8(next, limit)));
}

#define MESSAGE_BYTES(degree) ((size_t)(degree) * LANES)

struct kept {
    char nothing;
};

OPERATION struct kept kept_load(const uint8_t *messages)
{
    (void)messages;
    return (struct kept){0};
}

OPERATION bytes kept_message(const struct kept *kept, const uint8_t *messages, uint32_t edge)
{
    (void)kept;
    return bytes_load(messages + edge * LANES);
}

OPERATION void kept_begin(uint8_t *messages, bytes rest, bytes total)
{
    (void)messages, (void)rest, (void)total;
}

OPERATION bytes kept_replace(uint8_t *messages, uint32_t edge, bytes magnitude, bytes least, bytes sign, bytes rest,
                             bytes total)
{
    bytes message = _mm256_blendv_epi8(total, rest, _mm256_cmpeq_epi8(magnitude, least));
    message = _mm256_blendv_epi8(message, _mm256_sub_epi8(_mm256_setzero_si256(), message), sign);
    bytes_store(messages + edge * LANES, message);
    return message;
}

#include "ldpc_body.h"

#endif
