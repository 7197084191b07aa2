/* The gaps between clicks as a Rice code: its layout stands in sift.h. */
#include "cpu.h"
#include "sift.h"
#include "words.h"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

#define PARAMETER_MOST 31u
/* So many of the last clicks are written with a look at the end of each string: 64 clicks take a word of either, so that
 * the word that is written before them stays inside. */
#define TAIL 64u

/* The best Rice parameter for geometric values of this mean: ⌊log2(0.962 (mean + ½))⌋, at least 0 (Kiely, Selecting the
 * Golomb parameter in Rice coding, IPN Progress Report 42-159, 2004, equation 8 for large means). */
static unsigned rice_parameter(uint64_t sum, size_t count)
{
    if (!count)
        return 0;
    uint64_t scaled = (2 * sum + count) / count * 123 / 256;
    unsigned parameter = 0;
    while (scaled >>= 1)
        parameter++;
    return parameter < PARAMETER_MOST ? parameter : PARAMETER_MOST;
}

ALWAYS_INLINE uint64_t load_gap(const uint8_t *gaps, size_t click)
{
    uint32_t gap;
    memcpy(&gap, gaps + 4 * click, sizeof gap);
    return gap;
}

static size_t remainder_bytes(size_t count, unsigned parameter)
{
    return (size_t)(((uint64_t)count * parameter + 7) / 8);
}

/* ---- measuring */

/* Sum of the values behind the first, each shifted right; 0 where one of their gaps is 0. */
ALWAYS_INLINE uint64_t sum_values(const uint8_t *gaps, size_t from, size_t count, unsigned shift, int *ascending)
{
    uint64_t sum = 0;
    for (size_t click = from; click < count; click++) {
        uint64_t gap = load_gap(gaps, click);
        *ascending &= gap != 0;
        sum += (gap - 1) >> shift;
    }
    return sum;
}

#if defined(__x86_64__)
CPU_TARGET_AVX2 static uint64_t sum_values_avx2(const uint8_t *gaps, size_t count, unsigned shift, int *ascending)
{
    __m256i even = _mm256_setzero_si256(), odd = even, zeros = even, ones = _mm256_set1_epi32(1);
    __m256i low = _mm256_set1_epi64x(0xffffffff);
    __m128i places = _mm_cvtsi32_si128((int)shift);
    size_t click = 1;
    for (; click + 8 <= count; click += 8) {
        __m256i gap = _mm256_loadu_si256((const __m256i *)(gaps + 4 * click));
        zeros = _mm256_or_si256(zeros, _mm256_cmpeq_epi32(gap, _mm256_setzero_si256()));
        __m256i value = _mm256_srl_epi32(_mm256_sub_epi32(gap, ones), places);
        even = _mm256_add_epi64(even, _mm256_and_si256(value, low));
        odd = _mm256_add_epi64(odd, _mm256_srli_epi64(value, 32));
    }
    *ascending &= _mm256_testz_si256(zeros, zeros);
    uint64_t lanes[4];
    _mm256_storeu_si256((__m256i *)lanes, _mm256_add_epi64(even, odd));
    return lanes[0] + lanes[1] + lanes[2] + lanes[3] + sum_values(gaps, click, count, shift, ascending);
}
#endif

static uint64_t sum_all(const uint8_t *gaps, size_t count, unsigned shift, int *ascending)
{
    if (!count)
        return 0;
    uint64_t first = load_gap(gaps, 0) >> shift;
#if defined(__x86_64__)
    if (cpu_set() >= CPU_AVX2)
        return first + sum_values_avx2(gaps, count, shift, ascending);
#endif
    return first + sum_values(gaps, 1, count, shift, ascending);
}

int sift_measure_gaps(const uint8_t *gaps, size_t count, struct sift_code *code)
{
    int ascending = 1;
    code->parameter = rice_parameter(sum_all(gaps, count, 0, &ascending), count);
    if (!ascending)
        return -1;
    code->quotients = count + sum_all(gaps, count, code->parameter, &ascending);
    code->bytes = 1 + remainder_bytes(count, code->parameter) + (size_t)((code->quotients + 7) / 8);
    return 0;
}

/* ---- encoding */

/* Where the two strings stand: `remainders` to its byte, `quotients` to its word. */
struct encoder {
    size_t click, at;
    uint64_t remainders;
    unsigned filled; /* bits of `remainders`, below 8 between two clicks */
    uint64_t next, quotients;
};

/* The clicks from where the encoder stands, with every store held to the end of its string. */
static void encode_rest(const uint8_t *gaps, size_t count, const struct sift_code *code, uint8_t *out,
                        struct encoder *now)
{
    unsigned k = code->parameter;
    uint64_t low = ((uint64_t)1 << k) - 1, held = now->remainders;
    size_t end = 1 + remainder_bytes(count, k);
    for (size_t click = now->click; click < count; click++) {
        uint64_t value = load_gap(gaps, click) - (click > 0);
        held |= (value & low) << now->filled;
        now->filled += k;
        store_within(out, end, now->at, held);
        now->at += now->filled / 8;
        held >>= now->filled / 8 * 8;
        now->filled %= 8;
    }
    uint8_t *quotients = out + end;
    size_t size = (size_t)((code->quotients + 7) / 8);
    uint64_t next = now->next, word = next / 64;
    held = now->quotients;
    for (size_t click = now->click; click < count; click++) {
        next += (load_gap(gaps, click) - (click > 0)) >> k;
        if (next / 64 != word) {
            store_within(quotients, size, 8 * (size_t)word, held);
            held = 0;
            word = next / 64;
        }
        held |= (uint64_t)1 << next % 64;
        next++;
        if (next / 64 != word) {
            store_within(quotients, size, 8 * (size_t)word, held);
            held = 0;
            word = next / 64;
        }
    }
    store_within(quotients, size, 8 * (size_t)word, held);
}

#if defined(__x86_64__)
/* A quotient in unary: any length, the memory is zeroed. */
ALWAYS_INLINE void append_unary(struct writer *to, uint64_t quotient)
{
    uint64_t bits = to->filled + quotient;
    if (bits >= 64) {
        memcpy(to->out, &to->last, sizeof to->last);
        to->out += bits / 64 * 8;
        to->last = 0;
        to->filled = (unsigned)(bits % 64);
    } else {
        to->filled = (unsigned)bits;
    }
    append(to, 1, 1);
}

/* Four clicks at a time: PEXT puts two remainders together, and their quotients mostly fit one word. */
CPU_TARGET_AVX2 static void encode_avx2(const uint8_t *gaps, size_t count, const struct sift_code *code, uint8_t *out,
                                        struct encoder *now)
{
    unsigned k = code->parameter;
    uint64_t low = (((uint64_t)1 << k) - 1) * 0x100000001u, first = load_gap(gaps, 0);
    uint8_t *quotients = out + 1 + remainder_bytes(count, k);
    struct writer remainder = {out + 1, 0, 0}, quotient = {quotients, 0, 0};
    if (k)
        append(&remainder, first & low & 0xffffffff, k);
    append_unary(&quotient, first >> k);
    size_t click = 1;
    for (; click + 4 + TAIL <= count; click += 4) {
        uint64_t a = load_at(gaps, 4 * click) - 0x100000001u, b = load_at(gaps, 4 * click + 8) - 0x100000001u;
        uint64_t a_low = _pext_u64(a, low), b_low = _pext_u64(b, low);
        if (k > 16) {
            append(&remainder, a_low, 2 * k);
            append(&remainder, b_low, 2 * k);
        } else if (k) {
            append(&remainder, a_low | b_low << 2 * k, 4 * k);
        }
        uint64_t one = (uint32_t)a >> k, two = one + 1 + (a >> 32 >> k), three = two + 1 + ((uint32_t)b >> k);
        uint64_t four = three + 1 + (b >> 32 >> k);
        if (four < 64) {
            uint64_t bit = 1;
            append(&quotient, bit << one | bit << two | bit << three | bit << four, (unsigned)four + 1);
        } else {
            append_unary(&quotient, one);
            append_unary(&quotient, two - one - 1);
            append_unary(&quotient, three - two - 1);
            append_unary(&quotient, four - three - 1);
        }
    }
    finish(&remainder);
    now->click = click;
    now->at = (size_t)(remainder.out - out) + remainder.filled / 8;
    now->remainders = remainder.last >> remainder.filled / 8 * 8;
    now->filled = remainder.filled % 8;
    now->next = (uint64_t)(quotient.out - quotients) * 8 + quotient.filled;
    now->quotients = quotient.last;
}
#endif

void sift_encode_gaps(const uint8_t *gaps, size_t count, const struct sift_code *code, uint8_t *out)
{
    struct encoder now = {0, 1, 0, 0, 0, 0};
    out[0] = (uint8_t)code->parameter;
#if defined(__x86_64__)
    if (cpu_set() >= CPU_AVX2 && count > TAIL)
        encode_avx2(gaps, count, code, out, &now);
#endif
    encode_rest(gaps, count, code, out, &now);
}

/* ---- decoding */

/* Whether so many bytes can hold the code of `count` gaps. */
static int may_hold(const uint8_t *data, size_t size, size_t count)
{
    if (size < 1 || data[0] > PARAMETER_MOST || count > SIFT_CLICKS_MOST)
        return 0;
    return remainder_bytes(count, data[0]) + (count + 7) / 8 <= size - 1;
}

/* What is found on the way: the bits of each say what was wrong, or where the last click is. */
struct found {
    uint64_t excess, sum;
};

/* A gap from its quotient, remainder and place. */
ALWAYS_INLINE void put_gap(uint8_t *gaps, size_t click, uint64_t value, struct found *found)
{
    uint64_t gap = value + (click > 0);
    found->excess |= gap >> 32;
    found->sum += gap;
    uint32_t narrow = (uint32_t)gap;
    memcpy(gaps + 4 * click, &narrow, sizeof narrow);
}

ALWAYS_INLINE void add_remainder(const uint8_t *data, size_t size, unsigned k, uint8_t *gaps, size_t click,
                                 struct found *found)
{
    uint64_t bit = (uint64_t)click * k, low = ((uint64_t)1 << k) - 1;
    uint64_t remainder = load_within(data, size, 1 + (size_t)(bit / 8)) >> bit % 8 & low;
    put_gap(gaps, click, load_gap(gaps, click) << k | remainder, found);
}

/* Turns quotients into gaps. */
static void add_remainders(const uint8_t *data, size_t size, unsigned k, size_t from, size_t until, uint8_t *gaps,
                           struct found *found)
{
    for (size_t click = from; click < until; click++)
        add_remainder(data, size, k, gaps, click, found);
}

#if defined(__x86_64__)
/* PDEP takes two remainders apart; four of them are behind one load while 4k bits and 7 more fit a word. */
CPU_TARGET_AVX2 static void add_remainders_avx2(const uint8_t *data, size_t size, unsigned k, size_t from,
                                                size_t until, uint8_t *gaps, struct found *found)
{
    uint64_t low = (((uint64_t)1 << k) - 1) * 0x100000001u;
    size_t click = from;
    if (!click && until)
        add_remainder(data, size, k, gaps, click++, found);
    for (; click + 4 <= until && k <= 14; click += 4) {
        uint64_t bit = (uint64_t)click * k;
        size_t at = 1 + (size_t)(bit / 8);
        if (at + 8 > size)
            break;
        uint64_t bits = load_at(data, at) >> bit % 8;
        uint64_t a = (load_at(gaps, 4 * click) << k | _pdep_u64(bits, low)) + 0x100000001u;
        uint64_t b = (load_at(gaps, 4 * click + 8) << k | _pdep_u64(bits >> 2 * k, low)) + 0x100000001u;
        /* A value of 2^32 - 1 has no gap: adding one made a lane zero, and no other lane can be. */
        found->excess |= !(uint32_t)a | !(a >> 32) | !(uint32_t)b | !(b >> 32);
        found->sum += (a & 0xffffffff) + (a >> 32) + (b & 0xffffffff) + (b >> 32);
        memcpy(gaps + 4 * click, &a, sizeof a);
        memcpy(gaps + 4 * click + 8, &b, sizeof b);
    }
    for (; click < until; click++)
        add_remainder(data, size, k, gaps, click, found);
}
#endif

/* Gaps are made of their quotients while these are in the cache. */
#define DECODE_BATCH 2048u

typedef void add_remainders_part(const uint8_t *, size_t, unsigned, size_t, size_t, uint8_t *, struct found *);

ALWAYS_INLINE int decode(const uint8_t *data, size_t size, size_t count, uint64_t pulses, uint8_t *gaps,
                         add_remainders_part *finish_part)
{
    unsigned k = data[0];
    size_t remainders = 1 + remainder_bytes(count, k);
    const uint8_t *quotients = data + remainders;
    size_t quotient_bytes = size - remainders, click = 0, finished = 0;
    uint64_t next = 0; /* the bit behind the last one that was read */
    struct found found = {0, 0};
    for (size_t word = 0; click < count && 8 * word < quotient_bytes; word++) {
        uint64_t ones = load_within(quotients, quotient_bytes, 8 * word);
        size_t until = click + (size_t)__builtin_popcountll(ones);
        if (until > count)
            return -1;
        for (; click < until; click++, ones &= ones - 1) {
            uint64_t at = 64 * (uint64_t)word + (unsigned)__builtin_ctzll(ones), quotient = at - next;
            next = at + 1;
            found.excess |= quotient >> (32 - k);
            uint32_t narrow = (uint32_t)quotient;
            memcpy(gaps + 4 * click, &narrow, sizeof narrow);
        }
        if (click - finished >= DECODE_BATCH) {
            finish_part(data, size, k, finished, click, gaps, &found);
            finished = click;
        }
    }
    if (click < count || quotient_bytes != (next + 7) / 8)
        return -1;
    finish_part(data, size, k, finished, count, gaps, &found);
    /* The sum of all gaps is the place of the last click. It did not wrap: no gap takes more than 32 bits. */
    if (found.excess || (count && found.sum >= pulses))
        return -1;
    unsigned spare = (unsigned)((uint64_t)count * k % 8);
    if (spare && data[remainders - 1] >> spare)
        return -1;
    return rice_parameter(count ? found.sum - (count - 1) : 0, count) == k ? 0 : -1;
}

#if defined(__x86_64__)
CPU_TARGET_AVX2 static int decode_avx2(const uint8_t *data, size_t size, size_t count, uint64_t pulses, uint8_t *gaps)
{
    return decode(data, size, count, pulses, gaps, add_remainders_avx2);
}
#endif

int sift_decode_gaps(const uint8_t *data, size_t size, size_t count, uint64_t pulses, uint8_t *gaps)
{
    if (!may_hold(data, size, count))
        return -1;
#if defined(__x86_64__)
    if (cpu_set() >= CPU_AVX2)
        return decode_avx2(data, size, count, pulses, gaps);
#endif
    return decode(data, size, count, pulses, gaps, add_remainders);
}
