/* Two gated single-photon detectors and what reaches them in one frame, gate by gate where something happens.
 *
 * Only a gate that is looked at costs: it is live, and holds an arrival, a dark count or an afterpulse. The k-th gate
 * that is looked at takes the k-th element of `bases` and of `words`:
 *
 *     bases      32 bits: he measures in the test basis where this number · 2^-32 is below `test_probability`
 *     words      bit 0         his bit, where both detectors click
 *                bits 1 to 12  the quantile that the click's time is made of
 *                bits 16 to 31 whether a click is kept for equal efficiencies: this number · 2^-16 below `keep`
 *                bits 32 to 63 u, the outcome of the light: this number · 2^-32
 *
 * Of n photons, each making detector d click with probability q_d: no click where u < (1 - q0 - q1)^n, else detector 0
 * alone up to (1 - q1)^n, detector 1 alone for as much as (1 - q0)^n - (1 - q0 - q1)^n more, else both. A detector in
 * linear mode has q_d = 0, and clicks where n · shares_d reaches `linear`. */
#ifndef QHYBRIDD_DETECT_H
#define QHYBRIDD_DETECT_H

#include <stddef.h>
#include <stdint.h>

/* Carriers that wait in the traps of both diodes; further ones are not trapped. */
#define DETECT_TRAPS 1024u
#define DETECT_QUANTILES 4096u
#define DETECT_CLASSES 16u /* `State` of the light, and 8 where he measures in the test basis */
#define DETECT_DELAYS 65536u
/* Bound of pulse numbers and dead times: their sums stay below 2^63. */
#define DETECT_PULSES_MOST ((uint64_t)1 << 60)

/* What holds for the whole frame: float64 numbers in this order, d = 0, 1 innermost. */
struct detect_physics {
    double chances[DETECT_CLASSES][2]; /* q_d */
    double shares[DETECT_CLASSES][2];  /* of the light that falls on d */
    double linear[2];                  /* infinite where d is not in linear mode */
    double light_mean[2];              /* ps, of the click's time for light without a delay of its own */
    double light_follow[2];            /* by how much that mean moves with such a delay */
    double light_spread[2];            /* its standard deviation */
    double noise_mean[2];              /* the same of a dark count or an afterpulse */
    double noise_spread[2];
    double keep[2];
    double test_probability;
};

/* Carried from frame to frame. */
struct detect_state {
    uint64_t live;                /* no gate before this pulse is looked at */
    uint64_t waiting;             /* how many of `traps` are in use */
    uint64_t traps[DETECT_TRAPS]; /* 2 · pulse + detector of afterpulses to come, the latest first */
};

/* Arrays of any alignment. Dark counts are told by how many live gates of the frame come before theirs: they have no
 * memory, so dead gates may be left out of the draw, and no more are drawn than can click. */
struct detect_frame {
    uint64_t first, pulses, dead; /* gates that are lost after a click */
    size_t arrivals;
    const uint8_t *gaps, *states, *photons, *delays; /* uint32, uint8, uint32, int16 or NULL */
    size_t darks;
    const uint8_t *dark_places, *dark_masks; /* uint64, ascending by 1 or more; uint8: bit d for detector d */
    size_t traps[2];
    const uint8_t *trap_avalanches[2]; /* uint64 ascending: which avalanches of the frame, from 0, fill a trap */
    const uint8_t *trap_delays[2];     /* uint32: gates after the dead time when it lets go */
    size_t words_count;
    const uint8_t *bases, *words;      /* uint32, uint64 */
    const uint8_t *quantiles;          /* float64 */
    const uint8_t *gates;              /* float64 [2][DETECT_DELAYS] by delay + 32768, factors to q_d; or NULL */
    size_t room;
    uint8_t *out_gaps, *out_bases, *out_bits; /* uint32, uint8, uint8 */
};

struct detect_tally {
    size_t count;           /* clicks written */
    uint64_t clicks[2];     /* of each detector, those with both counted in both */
    uint64_t doubles;
    uint64_t avalanches[2]; /* of each detector, clicks that were not kept too */
    double sum, squares;    /* ps, ps²: of the times of the clicks written */
};

/* 0, or -1 where words or room did not suffice: the state is then of no use. */
int detect(const struct detect_frame *frame, const struct detect_physics *physics, struct detect_state *state,
           struct detect_tally *tally);

#endif
