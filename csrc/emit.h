/* Emission: which pulses still hold a photon somewhere along the way, and what Alice chose for them.
 *
 * A pulse that may be lit is a candidate. Candidates lie so far apart as if every pulse were of the brightest intensity;
 * what was chosen for a candidate then decides whether it is kept. Numbers of pulses count from the run's beginning.
 * Buffers are little-endian, at any alignment. Choices hold Alice's raw bits: no branch and no address depends on a bit
 * or a basis; intensities are public once the light is on its way. */
#ifndef QHYBRIDD_EMIT_H
#define QHYBRIDD_EMIT_H

#include <stddef.h>
#include <stdint.h>

#define EMIT_INTENSITIES 4u
#define EMIT_LEVELS_MOST 2048u
#define EMIT_THRESHOLDS_BYTES 32u
#define EMIT_ENTRY_BYTES 24u
#define EMIT_BLOCK_BYTES 16u /* of the cipher that gives the choices: 8 bytes for each of two pulses */

/* What is chosen for a pulse is a 64-bit word of the cipher's output: bit 0 is the bit; bits 1 to 31, at least the first
 * threshold, mean the test basis; bits 32 to 63 are compared with the three others, which ascend, for the intensity. */

/* Candidates from pulse `number` on and before `end`, one for each 64-bit random word, until one would lie at or behind
 * `end`: at geometric distances, the integral parts of exponential numbers times `scale`. Their numbers go to `numbers`,
 * the cipher's input for them to `blocks`. How many; `*next` is the pulse behind the last one, `end` where no more came.
 * end ≤ 2^63. */
size_t emit_candidates(const uint8_t *words, size_t count, double scale, uint64_t number, uint64_t end, uint8_t *numbers,
                       uint8_t *blocks, uint64_t *next);

/* The same for pulses that are known: `count` gaps of 32 bits from `number` on; the first may be 0, unless `ascending`.
 * 0, or -1 where two are the same or one does not lie before `end`. */
int emit_places(const uint8_t *gaps, size_t count, int ascending, uint64_t number, uint64_t end, uint8_t *numbers,
                uint8_t *blocks, uint64_t *next);

/* Keeps the candidates that hold at least `least` photons. `table` has for each of 4 intensities and each of `levels`
 * (a power of two) of its fluctuation, in doubles: the probability that a candidate is kept, that it is with exactly
 * `least` photons, and the mean photon number. The 64-bit random words decide: the high 53 bits the photon number, the
 * low ones the level. Gaps (32 bits; the first one from pulse `last`), states (a byte) and photons (32 bits) of those
 * kept go out; each buffer has room for all candidates. How many; `*last` becomes the last one's number. */
size_t emit_keep(const uint8_t *numbers, size_t count, const uint8_t *choices, const uint8_t *words,
                 const uint8_t *thresholds, const uint8_t *table, size_t levels, uint32_t least, uint64_t *last,
                 uint8_t *gaps, uint8_t *states, uint8_t *photons);

/* One list of arrivals out of two, in order. Where both have the same pulse, photons are added up, and the state is that of
 * the first list. Outputs have room for both. How many. */
struct emit_list {
    const uint8_t *gaps, *states, *photons;
    size_t count;
};
size_t emit_merge(const struct emit_list *a, const struct emit_list *b, uint8_t *gaps, uint8_t *states, uint8_t *photons);

/* What was chosen for these pulses, as packed planes (binding.h): bits, bases (1: test), low and high bit of the
 * intensity. */
void emit_recall(const uint8_t *numbers, size_t count, const uint8_t *choices, const uint8_t *thresholds, uint8_t *bits,
                 uint8_t *bases, uint8_t *low, uint8_t *high);

#endif
