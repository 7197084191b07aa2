/* What the builds of the decoder (ldpc_body.h) and its driver (ldpc.c) share.
 *
 * Layered belief propagation in integers, LDPC_UNITS to a nat (8 lose some frames that 10 decode, 14 clip messages too
 * early; with 10, AVX2 can look the table up in two shuffles). A layer is a row of the base matrix: its Z checks have no
 * bit in common, so they run in the lanes of vectors. For each edge, with posterior P of the bit and old message m:
 *
 *     v = P − m                       exact in 16 bits, saturated to 8 bits for what follows
 *     least, rest                     the smallest |v| of the check, and the box-plus of all others (A-min*:
 *                                     Jones et al., "Approximate-MIN constraint node updating for LDPC code decoding",
 *                                     MILCOM 2003)
 *     |m'| = rest for an edge with |v| = least, else rest ⊞ least; its sign is the product of the other signs
 *     P = v + m'
 *
 * a ⊞ b = min(a, b) + c(a + b) − c(|a − b|) with c(x) = ln(1 + exp(−x)), a table.
 *
 * Every column is kept turned as the last row that used it wanted it, so that a row writes in order and only reads with
 * an offset (`turn`); the first 64 posteriors are repeated behind the last, so that no read of 64 wraps around. */
#ifndef QHYBRIDD_LDPC_DECODER_H
#define QHYBRIDD_LDPC_DECODER_H

#include "ldpc.h"

#define LDPC_UNITS 10      /* to a nat */
#define LDPC_MESSAGE 127   /* the largest message */
#define LDPC_CERTAIN 16384 /* the posterior of a bit that is known, which no LDPC_COLUMN_MOST messages bring down to one */
#define LDPC_PAD 64        /* posteriors repeated behind each column */

/* Posteriors and messages are kept with this offset: messages are unsigned then, and widened without a sign. */
#define LDPC_OFFSET 128

/* c(x) in units for x = 0, 1, …; 0 behind the last. */
#define LDPC_CORRECTION_TABLE \
    7, 6, 6, 6, 5, 5, 4, 4, 4, 3, 3, 3, 3, 2, 2, 2, 2, 2, 2, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1

/* Where one frame is worked on; all of it in locked memory. */
struct ldpc_work {
    int16_t *posteriors; /* columns × (Z + LDPC_PAD) */
    uint8_t *messages;   /* in a form that each build chooses */
    int16_t *extrinsics; /* of one row: v before saturation */
    uint8_t *sums;       /* of one row: least, sign product, rest, rest ⊞ least */
    uint64_t *syndrome;  /* rows × Z bits */
    uint64_t *values;    /* columns × Z bits: the bits, each column turned */
    uint64_t *noisy;     /* those that came through the channel */
    uint64_t *known;     /* those that are certain */
    size_t message_bytes;
};

struct ldpc_decoder {
    size_t (*message_bytes)(const struct ldpc_code *code);
    /* Posteriors from values, noisy, known; messages zero. `channel` is the log-likelihood ratio of a noisy bit. */
    void (*begin)(const struct ldpc_code *code, struct ldpc_work *work, int channel);
    /* One iteration; gives the number of checks that were not satisfied on the way. */
    size_t (*iterate)(const struct ldpc_code *code, struct ldpc_work *work);
    /* `values` from the posteriors. */
    void (*decide)(const struct ldpc_code *code, struct ldpc_work *work);
};

extern const struct ldpc_decoder ldpc_portable;
#if defined(__x86_64__)
extern const struct ldpc_decoder ldpc_avx2;
extern const struct ldpc_decoder ldpc_avx512;
#endif

#endif
