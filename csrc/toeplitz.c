/* The hash as a Hankel product of words, cut into pieces.
 *
 * T tail is the middle of the product of two binary polynomials: out_i = Σ_j seed_{i+t-1-j} tail_j, with
 * t = bits - key_bits. Let tail z^s have its top bit (j = t - 1) at bit 0 of a word, number n - 1, with words X_w, and
 * let x_j = X_{n-1-j}. Then bit 0 of word i of the output is bit 0 of word i + n - 1 of the product:
 *
 *     out word i = low(c_{i+1}) + high(c_i) ,   c_i = Σ_{j<n} S_{i+j} x_j ,   S_q = word q - 1 of the seed (S_0 = 0).
 *
 * The c_i, i ≤ outputs, are what gf2x.h computes, schoolbook for short inputs. For longer ones x is cut into pieces of
 * L = 2^(log-1) words, and so is c: with i = aL + i', j = bL + j'
 *
 *     c_{aL+i'} = Σ_b Σ_{j'} S_{(a+b)L + i' + j'} x_{bL+j'} :
 *
 * each window of 2L words of the seed and each piece of x is transformed once, the sum over b is taken between
 * transforms, and each piece of c is transformed back once. */
#include "toeplitz.h"

#include <stdint.h>
#include <string.h>

#include "gf2x.h"
#include "locked.h"

#define WORD_BITS 64

/* Blocks lie this many elements further apart than their size, lest equal offsets in all of them share a cache set. */
#define SKEW 36

struct hash {
    unsigned char *out;
    const unsigned char *key, *seed;
    size_t bits, key_bits;
    size_t inner;   /* n: words of x */
    size_t outputs; /* words of the output */
    const struct gf2x_kernels *kernels;
};

static size_t words_of(size_t bits)
{
    return (bits + WORD_BITS - 1) / WORD_BITS;
}

static uint64_t word_at(const unsigned char *bytes, size_t word)
{
    uint64_t value;
    memcpy(&value, bytes + 8 * word, 8);
    return value;
}

static void add_at(unsigned char *bytes, size_t word, uint64_t value)
{
    value ^= word_at(bytes, word);
    memcpy(bytes + 8 * word, &value, 8);
}

/* x_from … x_{from+count-1}, zeros from x_n on. x_j is 64 bits of the key from bit (bits - 1) - 64 j on, less those
 * that belong to the head or lie behind the end. */
static void take_tail(uint64_t *x, const struct hash *hash, size_t from, size_t count)
{
    const size_t last = hash->bits - 1, tail = hash->bits - hash->key_bits;
    const unsigned shift = last % WORD_BITS;
    for (size_t i = 0; i < count; i++) {
        size_t j = from + i;
        if (j >= hash->inner) {
            x[i] = 0;
            continue;
        }
        /* it begins in word above - 1 of the key, unless that is -1 */
        size_t above = last / WORD_BITS + 1 - j;
        uint64_t value = j == 0 ? 0 : shift ? word_at(hash->key, above) << (WORD_BITS - shift) : 0;
        if (above)
            value |= word_at(hash->key, above - 1) >> shift;
        if (j == 0)
            value &= 1;
        if (j == hash->inner - 1) { /* 64 (n - 1) + 1 - t bits of the head */
            unsigned head = (unsigned)(WORD_BITS * j + 1 - tail);
            value = value >> head << head;
        }
        x[i] = value;
    }
}

/* S_from … S_{from+count-1}, zeros outside of the seed. */
static void take_seed(uint64_t *s, const struct hash *hash, size_t from, size_t count)
{
    const size_t end = words_of(hash->bits - 1) + 1;
    size_t i = 0;
    if (from == 0 && count)
        s[i++] = 0;
    if (from + i < end) {
        size_t there = end - from < count ? end - from : count;
        memcpy(s + i, hash->seed + 8 * (from + i - 1), 8 * (there - i));
        i = there;
    }
    for (; i < count; i++)
        s[i] = 0;
}

/* Add c_from …: low words to the word before, high words to their own. */
static void add_coefficients(const struct hash *hash, const uint64_t *low, const uint64_t *high, size_t from,
                             size_t count)
{
    for (size_t i = 0; i < count && from + i <= hash->outputs; i++) {
        if (from + i > 0)
            add_at(hash->out, from + i - 1, low[i]);
        if (from + i < hash->outputs)
            add_at(hash->out, from + i, high[i]);
    }
}

static int add_by_schoolbook(const struct hash *hash)
{
    const size_t outer = (hash->outputs + GF2X_RUN) / GF2X_RUN * GF2X_RUN;
    const size_t scratch = hash->inner + (outer + hash->inner) + 2 * outer;
    uint64_t *x = locked_alloc(scratch * sizeof *x);
    if (!x)
        return -1;
    uint64_t *s = x + hash->inner, *low = s + outer + hash->inner, *high = low + outer;
    take_tail(x, hash, 0, hash->inner);
    take_seed(s, hash, 0, outer + hash->inner);
    hash->kernels->schoolbook(low, high, s, x, outer, hash->inner);
    add_coefficients(hash, low, high, 0, outer);
    locked_free(x, scratch * sizeof *x);
    return 0;
}

static size_t pieces_of(size_t words, unsigned log)
{
    size_t piece = (size_t)1 << (log - 1);
    return (words + piece - 1) / piece;
}

static int add_by_transforms(const struct hash *hash, unsigned log)
{
    const size_t size = (size_t)1 << log, piece = size / 2, stride = size + SKEW;
    const size_t inner = pieces_of(hash->inner, log), outer = pieces_of(hash->outputs + 1, log);
    const size_t windows = inner + outer - 1;
    const size_t scratch = (inner + windows) * stride * sizeof(struct gf2x_element) + size * sizeof(uint64_t);
    struct gf2x_element *values = locked_alloc(scratch);
    if (!values)
        return -1;
    struct gf2x_element *weights = values + inner * stride;
    uint64_t *words = (uint64_t *)(weights + windows * stride);
    for (size_t b = 0; b < inner; b++) {
        take_tail(words, hash, b * piece, piece);
        hash->kernels->evaluate(values + b * stride, words, log);
    }
    for (size_t w = 0; w < windows; w++) {
        take_seed(words, hash, w * piece, size);
        hash->kernels->weigh(weights + w * stride, words, log);
    }
    hash->kernels->correlate(weights, values, outer, inner, size, stride);
    for (size_t a = 0; a < outer; a++) {
        hash->kernels->moments(words, weights + a * stride, log);
        add_coefficients(hash, words, words + piece, a * piece, piece);
    }
    locked_free(values, scratch);
    return 0;
}

/* What a way costs, in products of two words by schoolbook; fitted to measurements with AVX-512. */
static double cost_of_schoolbook(const struct hash *hash)
{
    return (double)hash->inner * (double)((hash->outputs + GF2X_RUN) / GF2X_RUN * GF2X_RUN);
}

static double cost_of_transforms(const struct hash *hash, unsigned log)
{
    double inner = (double)pieces_of(hash->inner, log), outer = (double)pieces_of(hash->outputs + 1, log);
    double transforms = inner + (inner + outer - 1) + outer;
    return (double)((size_t)1 << log) * (transforms * (3.5 * log - 2) + 4 * inner * outer);
}

static int add_product(const struct hash *hash)
{
    unsigned best = 0; /* schoolbook */
    double least = cost_of_schoolbook(hash);
    for (unsigned log = GF2X_LEAST_LOG; log <= GF2X_MOST_LOG; log += 2) {
        double cost = cost_of_transforms(hash, log);
        if (cost < least) {
            least = cost;
            best = log;
        }
    }
    return best ? add_by_transforms(hash, best) : add_by_schoolbook(hash);
}

int toeplitz_hash(void *out, const void *key, const void *seed, size_t bits, size_t key_bits)
{
    const size_t tail = bits - key_bits, outputs = words_of(key_bits);
    struct hash hash = {out, key, seed, bits, key_bits, words_of(tail + WORD_BITS - 1), outputs, gf2x_kernels()};
    memcpy(out, key, 8 * outputs);
    if (tail && add_product(&hash))
        return -1;
    if (key_bits % WORD_BITS) {
        uint64_t last = word_at(out, outputs - 1) & ((UINT64_C(1) << key_bits % WORD_BITS) - 1);
        memcpy(hash.out + 8 * (outputs - 1), &last, 8);
    }
    return 0;
}
