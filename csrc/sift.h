/* Sifting: bits compressed by a mask, clicks and errors counted by intensity, the gaps between clicks as a Rice code.
 *
 * Planes and bits are packed 64-bit words (binding.h), at any alignment; `count` is a number of clicks. Bits may be secret:
 * no branch and no address depends on them. Masks, planes and gaps are public. */
#ifndef QHYBRIDD_SIFT_H
#define QHYBRIDD_SIFT_H

#include <stddef.h>
#include <stdint.h>

/* The most clicks of one block: twice the sum of their 32-bit gaps fits 64 bits. */
#define SIFT_CLICKS_MOST ((uint64_t)1 << 30)

/* `out` = where `a` and `b` agree; the unused bits are zero. */
void sift_match(const uint8_t *a, const uint8_t *b, size_t count, uint8_t *out);

/* Clicks by two planes: classes[i] have bit 0 of i in `low` and bit 1 in `high`. */
void sift_count(const uint8_t *low, const uint8_t *high, size_t count, uint64_t classes[4]);

/* The same of the clicks alone where `a` and `b` differ. */
void sift_count_errors(const uint8_t *a, const uint8_t *b, const uint8_t *low, const uint8_t *high, size_t count,
                       uint64_t classes[4]);

/* The bits of `plane` where `mask` is set, close together. `out` holds as many words as those bits need. */
void sift_select(const uint8_t *mask, const uint8_t *plane, size_t count, uint8_t *out);

/* The bits where `matching` is set: those of the key basis to `key`, those where `test` is set too to `tested`. */
void sift_split(const uint8_t *matching, const uint8_t *test, const uint8_t *bits, size_t count, uint8_t *key,
                uint8_t *tested);

/* The code of gaps g[0], g[1] … is of the values g[0], g[1] − 1, g[2] − 1 …, so that clicks ascend whatever it says:
 *
 *     1 byte    k, the Rice parameter: 0 to 31, the one that `rice_parameter` gives for the mean
 *     ⌈count·k/8⌉ bytes    the low k bits of each value, packed
 *     the rest             the values shifted right by k, each in unary: so many zeros and a one, packed
 *
 * Spare bits of a last byte are zero, and nothing follows: a list of gaps has one code. Remainders and quotients stand
 * apart so that a decoder takes neither from a place that it must decode first. */
struct sift_code {
    unsigned parameter;
    uint64_t quotients; /* bits of all of them */
    size_t bytes;       /* of the whole code */
};

/* What the code of these gaps will be. 0, or -1 where a gap behind the first is 0. */
int sift_measure_gaps(const uint8_t *gaps, size_t count, struct sift_code *code);

/* Write it: `code.bytes` bytes to `out`, which is zeroed. */
void sift_encode_gaps(const uint8_t *gaps, size_t count, const struct sift_code *code, uint8_t *out);

/* Read it: 4·count bytes to `gaps`, which hold nothing of use after a failure. 0, or -1 where it is not the code of
 * `count` clicks within `pulses`. */
int sift_decode_gaps(const uint8_t *data, size_t size, size_t count, uint64_t pulses, uint8_t *gaps);

#endif
