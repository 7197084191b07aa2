/* Emission: its contract stands in emit.h. */
#include "emit.h"

#include "words.h"

#define STATE_TEST 2u

ALWAYS_INLINE double load_double(const uint8_t *data, size_t at)
{
    double value;
    memcpy(&value, data + at, sizeof value);
    return value;
}

ALWAYS_INLINE uint32_t load_small(const uint8_t *data, size_t place)
{
    uint32_t value;
    memcpy(&value, data + 4 * place, sizeof value);
    return value;
}

ALWAYS_INLINE void store_small(uint8_t *data, size_t place, uint32_t value)
{
    memcpy(data + 4 * place, &value, sizeof value);
}

/* −ln((w + 1) / 2^53) for the high 53 bits w: exponentially distributed, mean 1. The logarithm is computed here, so that
 * a seed gives the same run everywhere: ln m = 2 artanh s, s = (m − 1) / (m + 1), for √½ ≤ m < √2, by the first terms of
 * its series; what is left out is below 2^-54. */
ALWAYS_INLINE double exponential(uint64_t word)
{
    const double value = (double)((word >> 11) + 1); /* 1 to 2^53: exact */
    uint64_t image;
    memcpy(&image, &value, sizeof image);
    const uint64_t above = (image & 0xfffffffffffffu) >= 0x6a09e667f3bcdu; /* at least √2 */
    const int exponent = (int)(image >> 52) - 1023 + (int)above;
    image = (image & 0xfffffffffffffu) | (uint64_t)(1023 - above) << 52;
    double m;
    memcpy(&m, &image, sizeof m);
    const double s = (m - 1.0) / (m + 1.0), z = s * s;
    const double z2 = z * z, z4 = z2 * z2;
    const double low = (1.0 + z * (1.0 / 3)) + z2 * (1.0 / 5 + z * (1.0 / 7));
    const double high = (1.0 / 9 + z * (1.0 / 11)) + z2 * (1.0 / 13 + z * (1.0 / 15));
    const double rest = 1.0 / 17 + z * (1.0 / 19) + z2 * (1.0 / 21);
    return (double)(53 - exponent) * 0.69314718055994530942 - 2.0 * s * (low + z4 * (high + z4 * rest));
}

/* The cipher's input for one pulse: the number of the pair of pulses that it belongs to. */
ALWAYS_INLINE void put(uint8_t *numbers, uint8_t *blocks, size_t place, uint64_t number)
{
    store(numbers, place, number);
    store(blocks, 2 * place, number >> 1);
    store(blocks, 2 * place + 1, 0);
}

ALWAYS_INLINE uint64_t choice_of(const uint8_t *choices, size_t place, uint64_t number)
{
    const uint64_t even = load(choices, 2 * place), odd = load(choices, 2 * place + 1);
    return number & 1 ? odd : even;
}

struct thresholds {
    uint64_t test, intensity[EMIT_INTENSITIES - 1];
};

ALWAYS_INLINE struct thresholds load_thresholds(const uint8_t *data)
{
    return (struct thresholds){load(data, 0), {load(data, 1), load(data, 2), load(data, 3)}};
}

ALWAYS_INLINE uint64_t in_test(uint64_t choice, const struct thresholds *thresholds)
{
    return (choice >> 1 & 0x7fffffffu) >= thresholds->test;
}

ALWAYS_INLINE uint64_t intensity_of(uint64_t choice, const struct thresholds *thresholds)
{
    const uint64_t drawn = choice >> 32;
    return (uint64_t)(drawn >= thresholds->intensity[0]) + (drawn >= thresholds->intensity[1]) +
           (drawn >= thresholds->intensity[2]);
}

size_t emit_candidates(const uint8_t *words, size_t count, double scale, uint64_t number, uint64_t end, uint8_t *numbers,
                       uint8_t *blocks, uint64_t *next)
{
    for (size_t place = 0; place < count; place++) {
        const double distance = exponential(load(words, place)) * scale;
        if (!(distance < (double)(end - number)) || (uint64_t)distance >= end - number) {
            *next = end;
            return place;
        }
        number += (uint64_t)distance;
        put(numbers, blocks, place, number);
        number++;
    }
    *next = number;
    return count;
}

int emit_places(const uint8_t *gaps, size_t count, int ascending, uint64_t number, uint64_t end, uint8_t *numbers,
                uint8_t *blocks, uint64_t *next)
{
    for (size_t place = 0; place < count; place++) {
        const uint32_t gap = load_small(gaps, place);
        if (gap >= end - number || (!gap && (place || ascending)))
            return -1;
        number += gap;
        put(numbers, blocks, place, number);
    }
    *next = number;
    return 0;
}

size_t emit_keep(const uint8_t *numbers, size_t count, const uint8_t *choices, const uint8_t *words,
                 const uint8_t *thresholds, const uint8_t *table, size_t levels, uint32_t least, uint64_t *last,
                 uint8_t *gaps, uint8_t *states, uint8_t *photons)
{
    const struct thresholds limits = load_thresholds(thresholds);
    uint64_t before = *last;
    size_t kept = 0;
    for (size_t place = 0; place < count; place++) {
        const uint64_t number = load(numbers, place), choice = choice_of(choices, place, number);
        const uint64_t word = load(words, place), intensity = intensity_of(choice, &limits);
        const size_t entry = EMIT_ENTRY_BYTES * (intensity * levels + (word & (levels - 1)));
        const double drawn = (double)(int64_t)(word >> 11) * 0x1p-53;
        const int keep = drawn < load_double(table, entry);
        /* Inversion: photon numbers are tried in their order until the sum of their probabilities is above `drawn`, or no
         * longer grows. */
        const double sought = keep ? drawn : -1.0, mean = load_double(table, entry + 16);
        double term = load_double(table, entry + 8), sum = term;
        uint32_t number_of_photons = least;
        while (sought >= sum) {
            term *= mean / (number_of_photons + 1);
            if (!(sum + term > sum))
                break;
            sum += term;
            number_of_photons++;
        }
        store_small(gaps, kept, (uint32_t)(number - before));
        states[kept] = (uint8_t)((choice & 1) | STATE_TEST * in_test(choice, &limits));
        store_small(photons, kept, number_of_photons);
        kept += (size_t)keep;
        before = keep ? number : before;
    }
    *last = before;
    return kept;
}

size_t emit_merge(const struct emit_list *a, const struct emit_list *b, uint8_t *gaps, uint8_t *states, uint8_t *photons)
{
    size_t out = 0, i = 0, j = 0;
    uint64_t before = 0, of_a = a->count ? load_small(a->gaps, 0) : 0, of_b = b->count ? load_small(b->gaps, 0) : 0;
    while (i < a->count || j < b->count) {
        const int take_a = i < a->count && (j == b->count || of_a <= of_b);
        const int take_b = j < b->count && (i == a->count || of_b <= of_a);
        const uint64_t place = take_a ? of_a : of_b;
        uint32_t number = 0;
        states[out] = take_a ? a->states[i] : b->states[j];
        if (take_a) {
            number += load_small(a->photons, i);
            if (++i < a->count)
                of_a += load_small(a->gaps, i);
        }
        if (take_b) {
            const uint32_t more = load_small(b->photons, j);
            number = number + more < number ? UINT32_MAX : number + more;
            if (++j < b->count)
                of_b += load_small(b->gaps, j);
        }
        store_small(gaps, out, (uint32_t)(place - before));
        store_small(photons, out, number);
        before = place;
        out++;
    }
    return out;
}

void emit_recall(const uint8_t *numbers, size_t count, const uint8_t *choices, const uint8_t *thresholds, uint8_t *bits,
                 uint8_t *bases, uint8_t *low, uint8_t *high)
{
    const struct thresholds limits = load_thresholds(thresholds);
    for (size_t from = 0; from < count; from += 64) {
        const size_t many = count - from < 64 ? count - from : 64;
        uint64_t words[4] = {0, 0, 0, 0};
        for (size_t place = 0; place < many; place++) {
            const uint64_t choice = choice_of(choices, from + place, load(numbers, from + place));
            const uint64_t intensity = intensity_of(choice, &limits);
            words[0] |= (choice & 1) << place;
            words[1] |= in_test(choice, &limits) << place;
            words[2] |= (intensity & 1) << place;
            words[3] |= intensity >> 1 << place;
        }
        store(bits, from / 64, words[0]);
        store(bases, from / 64, words[1]);
        store(low, from / 64, words[2]);
        store(high, from / 64, words[3]);
    }
}
