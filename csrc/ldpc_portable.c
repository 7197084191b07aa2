/* The decoder for any other processor: vectors of 16 bytes as GCC and Clang offer them, which become SSE2, NEON or
 * whatever there is. A byte for each message. */
#include <string.h>

#include "ldpc_decoder.h"

#define TARGET
#define DECODER ldpc_portable
#define LANES 16
#define OPERATION static inline __attribute__((always_inline))

typedef uint8_t bytes __attribute__((vector_size(16)));
typedef int16_t half_words __attribute__((vector_size(16)));
typedef struct {
    half_words low, high; /* lanes 0 … 7 and 8 … 15 */
} words;
typedef uint32_t bits_t;

OPERATION words words_load(const int16_t *from)
{
    words a;
    memcpy(&a.low, from, sizeof a.low);
    memcpy(&a.high, from + 8, sizeof a.high);
    return a;
}

OPERATION void words_store(int16_t *to, words a)
{
    memcpy(to, &a.low, sizeof a.low);
    memcpy(to + 8, &a.high, sizeof a.high);
}

OPERATION half_words half_all(int16_t value)
{
    return (half_words){value, value, value, value, value, value, value, value};
}

OPERATION words words_all(int16_t value)
{
    return (words){half_all(value), half_all(value)};
}

OPERATION half_words half_choose(half_words mask, half_words set, half_words clear)
{
    return (set & mask) | (clear & ~mask);
}

OPERATION words words_choose(bits_t bits, words set, words clear)
{
    const half_words each = {1, 2, 4, 8, 16, 32, 64, 128};
    return (words){half_choose((half_all(bits & 0xff) & each) == each, set.low, clear.low),
                   half_choose((half_all(bits >> 8 & 0xff) & each) == each, set.high, clear.high)};
}

OPERATION bits_t words_below(words a, int16_t bound)
{
    bits_t bits = 0;
    for (int i = 0; i < 8; i++)
        bits |= (bits_t)(a.low[i] < bound) << i | (bits_t)(a.high[i] < bound) << (i + 8);
    return bits;
}

OPERATION words words_add(words a, words b)
{
    return (words){a.low + b.low, a.high + b.high};
}

OPERATION words words_subtract(words a, words b)
{
    return (words){a.low - b.low, a.high - b.high};
}

OPERATION half_words half_clamp(half_words a)
{
    half_words least = half_all(-128), most = half_all(127);
    a = half_choose(a < least, least, a);
    return half_choose(a > most, most, a) & half_all(0xff);
}

/* Even lanes are those of `low`; `words_widen` undoes just that. */
OPERATION bytes words_narrow(words a)
{
    return (bytes)(half_clamp(a.low) | half_clamp(a.high) << 8);
}

OPERATION words words_widen(bytes a)
{
    typedef uint16_t unsigned_words __attribute__((vector_size(16)));
    return (words){(half_words)a & half_all(0xff), (half_words)((unsigned_words)a >> 8)};
}

OPERATION bytes bytes_load(const uint8_t *from)
{
    bytes a;
    memcpy(&a, from, sizeof a);
    return a;
}

OPERATION void bytes_store(uint8_t *to, bytes a)
{
    memcpy(to, &a, sizeof a);
}

OPERATION bytes bytes_all(uint8_t v)
{
    return (bytes){v, v, v, v, v, v, v, v, v, v, v, v, v, v, v, v};
}

OPERATION bytes bytes_choose(bytes mask, bytes set, bytes clear)
{
    return (set & mask) | (clear & ~mask);
}

OPERATION bytes bytes_signs(bits_t bits)
{
    bytes a = {0};
    for (int i = 0; i < 8; i++) {
        a[2 * i] = (uint8_t)((bits >> i & 1) << 7);
        a[2 * i + 1] = (uint8_t)((bits >> (i + 8) & 1) << 7);
    }
    return a;
}

OPERATION size_t bytes_count_negative(bytes a)
{
    size_t count = 0;
    for (int i = 0; i < LANES; i++)
        count += a[i] >> 7;
    return count;
}

OPERATION bytes bytes_min(bytes a, bytes b)
{
    return bytes_choose((bytes)(a < b), a, b);
}

OPERATION bytes bytes_max(bytes a, bytes b)
{
    return bytes_choose((bytes)(a > b), a, b);
}

OPERATION bytes bytes_magnitude(bytes a)
{
    return bytes_min(a, -a); /* unsigned: 128 is the magnitude of −128 */
}

OPERATION bytes bytes_xor(bytes a, bytes b)
{
    return a ^ b;
}

OPERATION bytes bytes_add(bytes a, bytes b)
{
    return a + b;
}

OPERATION bytes bytes_add_saturated(bytes a, bytes b)
{
    return a + bytes_min(~a, b);
}

OPERATION bytes bytes_subtract(bytes a, bytes b)
{
    return a - b;
}

OPERATION bytes bytes_subtract_saturated(bytes a, bytes b)
{
    return a - bytes_min(a, b);
}

/* LDPC_CORRECTION_TABLE as a sum of steps: a comparison gives −1 where it holds. */
OPERATION bytes bytes_correction(bytes a)
{
    return -(bytes)((a < 1) + (a < 4) + (a < 6) + (a < 9) + (a < 13) + (a < 19) + (a < 30));
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
    bytes message = bytes_choose((bytes)(magnitude == least), rest, total);
    message = bytes_choose((bytes)(sign > 127), -message, message);
    bytes_store(messages + edge * LANES, message);
    return message;
}

#include "ldpc_body.h"
