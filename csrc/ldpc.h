/* Quasi-cyclic LDPC codes: syndromes, and decoding by layered belief propagation. */
#ifndef QHYBRIDD_LDPC_H
#define QHYBRIDD_LDPC_H

#include <stddef.h>
#include <stdint.h>

#define LDPC_COLUMN_MOST 126 /* edges of a column: posteriors stay within 16 bits, see ldpc_decoder.h */

/* One block of Z × Z: check r of the row meets bit (r + shift) mod Z of the column. */
struct ldpc_edge {
    uint32_t column;
    uint32_t shift;
    uint32_t turn;  /* by how much the row before left the column turned differently: see ldpc_decoder.h */
    uint32_t start; /* where the column's posteriors begin */
};

/* Immutable once parsed. */
struct ldpc_code {
    uint32_t rows;
    uint32_t columns;
    uint32_t lifting;        /* Z, a multiple of 64 */
    uint32_t degree_most;    /* edges of the longest row */
    uint32_t *first;         /* rows + 1: row i has the edges first[i] … first[i + 1] − 1 */
    struct ldpc_edge *edges; /* first[rows] */
    uint32_t *turned;        /* columns: how the last row leaves each column turned */
};

static inline size_t ldpc_bits(const struct ldpc_code *code)
{
    return (size_t)code->columns * code->lifting;
}

static inline size_t ldpc_checks(const struct ldpc_code *code)
{
    return (size_t)code->rows * code->lifting;
}

/* Why a table was refused (`ldpc_no_memory`: for want of memory), or NULL and a code to be freed with `ldpc_free`. `out`
 * is untouched by a refusal. */
extern const char ldpc_no_memory[];
const char *ldpc_parse(const uint8_t *table, size_t size, struct ldpc_code *out);
void ldpc_free(struct ldpc_code *code);

/* The syndromes of `frames` packed words; both on word boundaries. -1 with errno set when no locked memory is left. */
int ldpc_syndromes(const struct ldpc_code *code, const uint8_t *words, uint8_t *out, size_t frames);

/* Correct `frames` packed words in place towards their syndromes. Bits [0, noisy) of a frame came through a binary
 * symmetric channel with error rate `qber`, [noisy, known[f]) are certain, the rest are erased. used[f] becomes the
 * number of iterations, or 0 for a frame that did not converge, whose bits are left alone: time depends on the errors.
 * -1 with errno set when no locked memory is left. */
int ldpc_decode(const struct ldpc_code *code, uint8_t *words, const uint8_t *syndromes, size_t frames, uint32_t noisy,
                const uint32_t *known, double qber, uint32_t iterations, uint32_t *used);

#endif
