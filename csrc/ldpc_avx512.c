/* The decoder for AVX-512. A check keeps `rest` and `rest ⊞ least` once, and of each edge only which of them its message
 * has, and the sign: 2 bits instead of a byte, which is what the caches notice. */
#include "cpu.h"
#include "ldpc_decoder.h"

#if defined(__x86_64__)

#include <immintrin.h>
#include <string.h>

#define TARGET CPU_TARGET_AVX512
#define DECODER ldpc_avx512
#define LANES 64
#define OPERATION CPU_TARGET_AVX512 static inline __attribute__((always_inline))

typedef __m512i bytes;
typedef struct {
    __m512i low, high; /* lanes 0 … 31 and 32 … 63 */
} words;
typedef uint64_t bits_t;

OPERATION words words_load(const int16_t *from)
{
    return (words){_mm512_loadu_si512(from), _mm512_loadu_si512(from + 32)};
}

OPERATION void words_store(int16_t *to, words a)
{
    _mm512_storeu_si512(to, a.low);
    _mm512_storeu_si512(to + 32, a.high);
}

OPERATION words words_all(int16_t value)
{
    return (words){_mm512_set1_epi16(value), _mm512_set1_epi16(value)};
}

OPERATION words words_choose(bits_t bits, words set, words clear)
{
    return (words){_mm512_mask_blend_epi16((__mmask32)bits, clear.low, set.low),
                   _mm512_mask_blend_epi16((__mmask32)(bits >> 32), clear.high, set.high)};
}

OPERATION bits_t words_below(words a, int16_t bound)
{
    __m512i b = _mm512_set1_epi16(bound);
    return (bits_t)_mm512_cmplt_epi16_mask(a.high, b) << 32 | _mm512_cmplt_epi16_mask(a.low, b);
}

OPERATION words words_add(words a, words b)
{
    return (words){_mm512_add_epi16(a.low, b.low), _mm512_add_epi16(a.high, b.high)};
}

OPERATION words words_subtract(words a, words b)
{
    return (words){_mm512_sub_epi16(a.low, b.low), _mm512_sub_epi16(a.high, b.high)};
}

/* Packs within 128 bits, eight of `low` before eight of `high`; `words_widen` undoes just that. */
OPERATION bytes words_narrow(words a)
{
    return _mm512_packs_epi16(a.low, a.high);
}

OPERATION words words_widen(bytes a)
{
    __m512i zero = _mm512_setzero_si512();
    return (words){_mm512_unpacklo_epi8(a, zero), _mm512_unpackhi_epi8(a, zero)};
}

OPERATION bytes bytes_load(const uint8_t *from)
{
    return _mm512_loadu_si512(from);
}

OPERATION void bytes_store(uint8_t *to, bytes a)
{
    _mm512_storeu_si512(to, a);
}

OPERATION bytes bytes_all(uint8_t value)
{
    return _mm512_set1_epi8((char)value);
}

/* The sign bit of every lane whose bit is set, in the order of `words_narrow`. */
OPERATION bytes bytes_signs(bits_t bits)
{
    __m128i halves = _mm_unpacklo_epi8(_mm_cvtsi32_si128((int)(uint32_t)bits), _mm_cvtsi32_si128((int)(uint32_t)(bits >> 32)));
    return _mm512_maskz_set1_epi8((__mmask64)_mm_cvtsi128_si64(halves), (char)0x80);
}

OPERATION size_t bytes_count_negative(bytes a)
{
    return (size_t)_mm_popcnt_u64(_mm512_movepi8_mask(a));
}

OPERATION bytes bytes_magnitude(bytes a)
{
    return _mm512_abs_epi8(a);
}

OPERATION bytes bytes_xor(bytes a, bytes b)
{
    return _mm512_xor_si512(a, b);
}

OPERATION bytes bytes_min(bytes a, bytes b)
{
    return _mm512_min_epu8(a, b);
}

OPERATION bytes bytes_max(bytes a, bytes b)
{
    return _mm512_max_epu8(a, b);
}

OPERATION bytes bytes_add(bytes a, bytes b)
{
    return _mm512_add_epi8(a, b);
}

OPERATION bytes bytes_add_saturated(bytes a, bytes b)
{
    return _mm512_adds_epu8(a, b);
}

OPERATION bytes bytes_subtract(bytes a, bytes b)
{
    return _mm512_sub_epi8(a, b);
}

OPERATION bytes bytes_subtract_saturated(bytes a, bytes b)
{
    return _mm512_subs_epu8(a, b);
}

static const uint8_t corrections[64] __attribute__((aligned(64))) = {LDPC_CORRECTION_TABLE};

OPERATION bytes bytes_correction(bytes a)
{
    return _mm512_permutexvar_epi8(_mm512_min_epu8(a, _mm512_set1_epi8(63)), _mm512_load_si512(corrections));
}

/* Two vectors for the check, then two words for each edge: who has `rest`, who is negative. */
#define MESSAGE_BYTES(degree) (128 + (size_t)(degree) * 16)

struct kept {
    bytes rest, total;
};

OPERATION struct kept kept_load(const uint8_t *messages)
{
    return (struct kept){bytes_load(messages), bytes_load(messages + 64)};
}

/* 128 − x = −(128 + x) modulo 256: so the offset may be added before the sign. */
OPERATION bytes kept_message(const struct kept *kept, const uint8_t *messages, uint32_t edge)
{
    uint64_t masks[2];
    memcpy(masks, messages + 128 + edge * 16, 16);
    bytes magnitude = _mm512_mask_blend_epi8(masks[0], kept->total, kept->rest);
    return _mm512_mask_sub_epi8(magnitude, masks[1], _mm512_setzero_si512(), magnitude);
}

OPERATION void kept_begin(uint8_t *messages, bytes rest, bytes total)
{
    bytes_store(messages, rest);
    bytes_store(messages + 64, total);
}

OPERATION bytes kept_replace(uint8_t *messages, uint32_t edge, bytes magnitude, bytes least, bytes sign, bytes rest,
                             bytes total)
{
    uint64_t masks[2] = {_mm512_cmpeq_epi8_mask(magnitude, least), _mm512_movepi8_mask(sign)};
    memcpy(messages + 128 + edge * 16, masks, 16);
    bytes message = _mm512_mask_blend_epi8(masks[0], total, rest);
    return _mm512_mask_sub_epi8(message, masks[1], _mm512_setzero_si512(), message);
}

#include "ldpc_body.h"

#endif
