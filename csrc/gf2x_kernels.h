/* The kernels of gf2x.h over vectors of LANES elements of GF(2^128). A file for each instruction set defines
 *
 *     KERNELS            the name of its struct gf2x_kernels
 *     KERNEL             `static` with the target attribute
 *     LANES              1 or 4
 *     vector             LANES elements: words low, high, low, high, …
 *     load, store        from and to any address
 *     xor, xor3          of two, of three vectors
 *     carryless(a, b, i) in each lane the product of a word of a (the high one if i & 1) and one of b (if i & 16)
 *     up, down           each lane shifted by a word towards the high end, the low end
 *     broadcast          one element into all lanes, from memory
 *     broadcast_word     one word into all low words
 *     lows, highs        of two vectors a and b: a.low, b.low in each lane, or a.high, b.high
 *     low_words, high_words  of two vectors a and b: those of a, then those of b
 *     widen              LANES words, from memory, into the low words
 *     add_some           to += from for fewer words than a vector has
 *     transpose          four vectors: lane l of vector r and lane r of vector l change places (nothing for LANES 1)
 *
 * and includes this one. It may define CONVERT_16(words, dual) and CONVERT_16_BACK(words): convert and convert_back of
 * 16 words, which go badly by vectors. */
#include <string.h>

#define WORDS (2 * LANES) /* of a vector */
#define INLINE KERNEL inline __attribute__((always_inline))

/* A constant factor c, and d = c z^64, so that a c = a.low c + a.high d has 192 bits only. */
struct factor {
    vector c, d;
};

/* ω_{2t} in all lanes: the factor of block t. */
INLINE struct factor factor_of(size_t t)
{
    const size_t near = t % GF2X_POINTS, far = t / GF2X_POINTS;
    return (struct factor){xor(broadcast(&gf2x_points.near.c[near]), broadcast(&gf2x_points.far.c[far])),
                           xor(broadcast(&gf2x_points.near.d[near]), broadcast(&gf2x_points.far.d[far]))};
}

INLINE struct factor factor_sum(struct factor f, struct factor g)
{
    return (struct factor){xor(f.c, g.c), xor(f.d, g.d)};
}

/* z^7 + z^2 + z + 1 = z^128 */
INLINE vector modulus(void)
{
    static const struct gf2x_element tail = {0x87, 0};
    return broadcast(&tail);
}

/* a + f b: b.low f.c + b.high f.d = even + middle z^64, where the high word of the middle is worth z^128. */
INLINE vector plus_times(vector a, struct factor f, vector b)
{
    vector even = xor(carryless(b, f.c, 0x00), carryless(b, f.d, 0x01));
    vector middle = xor(carryless(b, f.c, 0x10), carryless(b, f.d, 0x11));
    return xor(xor3(a, even, up(middle)), carryless(middle, modulus(), 0x01));
}

/* A butterfly of B, or with (upper, lower) for (lower, upper) of B^-T: (a, b) → (a + w b, b + (a + w b)). */
INLINE void forward_pair(vector *a, vector *b, struct factor w)
{
    *a = plus_times(*a, w, *b);
    *b = xor(*b, *a);
}

/* A butterfly of B^T: (a, b) → (a + b, b + w (a + b)). */
INLINE void transposed_pair(vector *a, vector *b, struct factor w)
{
    *a = xor(*a, *b);
    *b = plus_times(*b, w, *a);
}

/* Two layers over four rows: `w` is for the wide layer, u[0] and u[1] for the lower and upper blocks of the narrow. */
INLINE void forward_rows(vector r[4], struct factor w, const struct factor u[2], int dual)
{
    if (dual) {
        forward_pair(&r[2], &r[0], w);
        forward_pair(&r[3], &r[1], w);
        forward_pair(&r[1], &r[0], u[0]);
        forward_pair(&r[3], &r[2], u[1]);
    } else {
        forward_pair(&r[0], &r[2], w);
        forward_pair(&r[1], &r[3], w);
        forward_pair(&r[0], &r[1], u[0]);
        forward_pair(&r[2], &r[3], u[1]);
    }
}

INLINE void transposed_rows(vector r[4], struct factor w, const struct factor u[2])
{
    transposed_pair(&r[0], &r[1], u[0]);
    transposed_pair(&r[2], &r[3], u[1]);
    transposed_pair(&r[0], &r[2], w);
    transposed_pair(&r[1], &r[3], w);
}

INLINE void load_rows(vector r[4], const struct gf2x_element *data, size_t quarter)
{
    for (size_t i = 0; i < 4; i++)
        r[i] = load(data + i * quarter);
}

INLINE void store_rows(struct gf2x_element *data, const vector r[4], size_t quarter)
{
    for (size_t i = 0; i < 4; i++)
        store(data + i * quarter, r[i]);
}

/* The factors of the two layers that start with blocks of 2^log elements, block number `block`. */
struct factors {
    struct factor w, u[2];
};

INLINE struct factors factors_of(size_t block)
{
    struct factors f = {factor_of(block), {factor_of(2 * block), factor_of(1)}};
    f.u[1] = factor_sum(f.u[0], f.u[1]);
    return f;
}

/* The same where the lanes are the blocks 4·block … 4·block + 3. */
INLINE struct factors factors_of_lanes(size_t block)
{
    struct factor lanes = {load(gf2x_points.lanes.c), load(gf2x_points.lanes.d)};
    struct factor twice = {load(gf2x_points.double_lanes.c), load(gf2x_points.double_lanes.d)};
    struct factors f = {factor_sum(factor_of(4 * block), lanes),
                        {factor_sum(factor_of(8 * block), twice), factor_of(1)}};
    f.u[1] = factor_sum(f.u[0], f.u[1]);
    return f;
}

/* The layers within block number `block` of 2^log elements (log even), of B or with `dual` of B^-T. Depth first, so
 * that ever smaller blocks stay in ever nearer caches. Of the last sixteen elements the last two layers lie within
 * vectors; they are done, and left, transposed: an order of the points like any other. */
KERNEL void forward(struct gf2x_element *data, unsigned log, size_t block, int dual)
{
    size_t quarter = (size_t)1 << (log - 2);
    struct factors f = factors_of(block);
    vector r[4];
    if (quarter == LANES) {
        load_rows(r, data, quarter);
        forward_rows(r, f.w, f.u, dual);
        if (LANES == 4) {
            f = factors_of_lanes(block);
            transpose(r);
            forward_rows(r, f.w, f.u, dual);
        }
        store_rows(data, r, quarter);
        return;
    }
    for (size_t i = 0; i < quarter; i += LANES) {
        load_rows(r, data + i, quarter);
        forward_rows(r, f.w, f.u, dual);
        store_rows(data + i, r, quarter);
    }
    for (size_t i = 0; i < 4; i++)
        forward(data + i * quarter, log - 2, 4 * block + i, dual);
}

/* The same of B^T: the layers in the other order. */
KERNEL void transposed(struct gf2x_element *data, unsigned log, size_t block)
{
    size_t quarter = (size_t)1 << (log - 2);
    vector r[4];
    if (quarter == LANES) {
        load_rows(r, data, quarter);
        if (LANES == 4) {
            struct factors f = factors_of_lanes(block);
            transposed_rows(r, f.w, f.u);
            transpose(r);
        }
        struct factors f = factors_of(block);
        transposed_rows(r, f.w, f.u);
        store_rows(data, r, quarter);
        return;
    }
    for (size_t i = 0; i < 4; i++)
        transposed(data + i * quarter, log - 2, 4 * block + i);
    struct factors f = factors_of(block);
    for (size_t i = 0; i < quarter; i += LANES) {
        load_rows(r, data + i, quarter);
        transposed_rows(r, f.w, f.u);
        store_rows(data + i, r, quarter);
    }
}

/* to += from */
INLINE void add_words(uint64_t *to, const uint64_t *from, size_t count)
{
    size_t i = 0;
    for (; i + WORDS <= count; i += WORDS)
        store(to + i, xor(load(to + i), load(from + i)));
    if (i < count)
        add_some(to + i, from + i, count - i);
}

/* How many bits of the index the conversion splits off: the largest power of two below `log`. */
static unsigned split(unsigned log)
{
    unsigned k = 1;
    while (2 * k < log)
        k *= 2;
    return k;
}

/* C on 2^log coefficients of `unit` words each, or with `dual` C^-T: the same steps with source and target exchanged.
 *
 * With k = split(log), s_k = y^(2^k) + y. First the polynomial is written in powers of s_k: its upper half over 2^size
 * coefficients is divided by s_k^(2^(size-1-k)) = y^half + y^distance, which leaves y^i → y^(i - half + distance) for i
 * ≥ half, the highest first; then each half the same. Now it is Σ f_i(y) s_k^i: the rows f_i are converted in y, and
 * the columns in s_k, because s_{j+k} = s_j(s_k). */
KERNEL void convert(uint64_t *words, unsigned log, size_t unit, int dual)
{
    if (log < 2)
        return;
#ifdef CONVERT_16
    if (log == 4 && unit == 1) {
        CONVERT_16(words, dual);
        return;
    }
#endif
    unsigned k = split(log);
    for (unsigned size = log; size > k; size--) {
        size_t half = unit << (size - 1), distance = unit << (size - 1 - k);
        for (uint64_t *f = words; f < words + (unit << log); f += 2 * half) {
            uint64_t *top = f + 2 * half - distance, *rest = f + half;
            if (dual) {
                add_words(top, f + half, distance);
                add_words(rest, f + distance, half - distance);
            } else {
                add_words(f + half, top, distance);
                add_words(f + distance, rest, half - distance);
            }
        }
    }
    convert(words, log - k, unit << k, dual);
    for (size_t row = 0; row < (size_t)1 << (log - k); row++)
        convert(words + row * (unit << k), k, unit, dual);
}

/* C^T: the steps of C^-T in the other order. */
KERNEL void convert_back(uint64_t *words, unsigned log, size_t unit)
{
    if (log < 2)
        return;
#ifdef CONVERT_16
    if (log == 4 && unit == 1) {
        CONVERT_16_BACK(words);
        return;
    }
#endif
    unsigned k = split(log);
    for (size_t row = 0; row < (size_t)1 << (log - k); row++)
        convert_back(words + row * (unit << k), k, unit);
    convert_back(words, log - k, unit << k);
    for (unsigned size = k + 1; size <= log; size++) {
        size_t half = unit << (size - 1), distance = unit << (size - 1 - k);
        for (uint64_t *f = words; f < words + (unit << log); f += 2 * half) {
            add_words(f + half, f + distance, half - distance);
            add_words(f + 2 * half - distance, f + half, distance);
        }
    }
}

/* The top layer has the factor ω_0 = 0, and x has no upper half: both halves become the lower one. */
KERNEL void evaluate(struct gf2x_element *values, uint64_t *words, unsigned log)
{
    size_t half = (size_t)1 << (log - 1);
    convert(words, log - 1, 1, 0);
    for (size_t i = 0; i < half; i += LANES) {
        vector a = widen(words + i);
        store(values + i, a);
        store(values + i + half, a);
    }
    forward(values, log - 1, 0, 0);
    forward(values + half, log - 1, 1, 0);
}

KERNEL void weigh(struct gf2x_element *weights, uint64_t *words, unsigned log)
{
    size_t half = (size_t)1 << (log - 1);
    convert(words, log, 1, 1);
    add_words(words, words + half, half);
    for (size_t i = 0; i < 2 * half; i += LANES)
        store(weights + i, widen(words + i));
    forward(weights, log - 1, 0, 1);
    forward(weights + half, log - 1, 1, 1);
}

/* The conversion is linear over GF(2), so low and high words are converted apart; their upper half is not wanted. */
KERNEL void moments(uint64_t *words, struct gf2x_element *weights, unsigned log)
{
    size_t half = (size_t)1 << (log - 1);
    transposed(weights, log - 1, 0);
    transposed(weights + half, log - 1, 1);
    for (size_t i = 0; i < half; i += WORDS) {
        vector a = xor(load(weights + i), load(weights + i + half));
        vector b = xor(load(weights + i + LANES), load(weights + i + LANES + half));
        store(words + i, low_words(a, b));
        store(words + i + half, high_words(a, b));
    }
    convert_back(words, log - 1, 1);
    convert_back(words + half, log - 1, 1);
}

KERNEL void correlate(struct gf2x_element *weights, const struct gf2x_element *values, size_t outer, size_t inner,
                      size_t size, size_t stride)
{
    for (size_t at = 0; at < size; at += LANES) {
        for (size_t a = 0; a < outer; a++) {
            vector low = {0}, middle = {0}, high = {0};
            for (size_t b = 0; b < inner; b++) {
                vector s = load(weights + (a + b) * stride + at), x = load(values + b * stride + at);
                low = xor(low, carryless(s, x, 0x00));
                middle = xor3(middle, carryless(s, x, 0x01), carryless(s, x, 0x10));
                high = xor(high, carryless(s, x, 0x11));
            }
            /* low + middle z^64 + high z^128: first the highest word of the four, then the next */
            high = xor(high, down(middle));
            vector fold = carryless(high, modulus(), 0x01);
            low = xor3(low, up(middle), up(fold));
            low = xor(low, carryless(xor(high, down(fold)), modulus(), 0x00));
            store(weights + a * stride + at, low);
        }
    }
}

/* Even coefficients come from the low words of s, odd ones from the high words. */
KERNEL void schoolbook(uint64_t *low, uint64_t *high, const uint64_t *s, const uint64_t *x, size_t outer, size_t inner)
{
    enum { VECTORS = 4 };
    for (size_t i = 0; i < outer; i += VECTORS * WORDS) {
        vector even[VECTORS] = {{0}}, odd[VECTORS] = {{0}};
        for (size_t j = 0; j < inner; j++) {
            vector word = broadcast_word(x[j]);
            for (size_t v = 0; v < VECTORS; v++) {
                vector window = load(s + i + j + v * WORDS);
                even[v] = xor(even[v], carryless(window, word, 0x00));
                odd[v] = xor(odd[v], carryless(window, word, 0x01));
            }
        }
        for (size_t v = 0; v < VECTORS; v++) {
            store(low + i + v * WORDS, lows(even[v], odd[v]));
            store(high + i + v * WORDS, highs(even[v], odd[v]));
        }
    }
}

const struct gf2x_kernels KERNELS = {evaluate, weigh, moments, correlate, schoolbook};
