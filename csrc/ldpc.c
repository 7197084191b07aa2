#include "ldpc.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "cpu.h"
#include "ldpc_decoder.h"
#include "locked.h"

#define SIZE_MOST (UINT32_C(1) << 22) /* bits or checks of a code: four times the largest in use */
#define DEGREE_MOST 255

static uint32_t get16(const uint8_t *from)
{
    return (uint32_t)from[0] | (uint32_t)from[1] << 8;
}

static uint32_t get32(const uint8_t *from)
{
    return get16(from) | get16(from + 2) << 16;
}

static uint64_t get_word(const uint8_t *from, size_t word)
{
    uint64_t value;
    memcpy(&value, from + word * sizeof value, sizeof value);
    return value;
}

/* The rows of a table; `first` and `edges` have room for them, `last_row` and `column_edges` are zero for each column. */
static const char *parse_rows(const uint8_t *at, const uint8_t *end, struct ldpc_code *code, uint32_t *last_row,
                              uint32_t *column_edges)
{
    uint32_t edges = 0;
    for (uint32_t row = 0; row < code->rows; row++) {
        if (end - at < 2)
            return "the table ends within its rows";
        uint32_t degree = get16(at);
        at += 2;
        if (degree < 2 || degree > DEGREE_MOST)
            return "a row has fewer than 2 or more than 255 edges";
        if (end - at < (ptrdiff_t)degree * 4)
            return "the table ends within a row";
        for (uint32_t i = 0; i < degree; i++, at += 4) {
            struct ldpc_edge *edge = &code->edges[edges++];
            *edge = (struct ldpc_edge){.column = get16(at), .shift = get16(at + 2)};
            if (edge->column >= code->columns)
                return "an edge names a column that is not there";
            if (edge->shift >= code->lifting)
                return "a shift is not below the lifting";
            if (last_row[edge->column] == row + 1)
                return "a row names a column twice";
            last_row[edge->column] = row + 1;
            if (++column_edges[edge->column] > LDPC_COLUMN_MOST)
                return "a column has more than 126 edges";
        }
        code->first[row + 1] = edges;
        if (degree > code->degree_most)
            code->degree_most = degree;
    }
    return at == end ? NULL : "the table goes on behind its rows";
}

static void set_turns(struct ldpc_code *code)
{
    const uint32_t edges = code->first[code->rows], lifting = code->lifting;
    for (uint32_t i = 0; i < edges; i++)
        code->turned[code->edges[i].column] = code->edges[i].shift;
    /* As the last row leaves a column, so the first that uses it in the next iteration finds it. */
    for (uint32_t i = 0; i < edges; i++) {
        struct ldpc_edge *edge = &code->edges[i];
        edge->turn = (edge->shift + lifting - code->turned[edge->column]) % lifting;
        edge->start = edge->column * (lifting + LDPC_PAD);
        code->turned[edge->column] = edge->shift;
    }
}

const char ldpc_no_memory[] = "no memory is left";

const char *ldpc_parse(const uint8_t *table, size_t size, struct ldpc_code *out)
{
    if (size < 8)
        return "the table is shorter than its head";
    struct ldpc_code code = {.rows = get16(table), .columns = get16(table + 2), .lifting = get32(table + 4)};
    if (!code.rows || !code.columns || !code.lifting)
        return "the code is empty";
    if (code.lifting % 64)
        return "the lifting is not a multiple of 64";
    if (code.lifting > SIZE_MOST / code.rows || code.lifting > SIZE_MOST / code.columns)
        return "the code is too large";
    const size_t edges = (size - 8) / 4; /* at the most */
    code.first = calloc((size_t)code.rows + 1, sizeof *code.first);
    code.edges = calloc(edges + 1, sizeof *code.edges);
    code.turned = calloc(code.columns, sizeof *code.turned);
    uint32_t *last_row = calloc((size_t)code.columns * 2, sizeof *last_row);
    const char *refusal = ldpc_no_memory;
    if (code.first && code.edges && code.turned && last_row)
        refusal = parse_rows(table + 8, table + size, &code, last_row, last_row + code.columns);
    free(last_row);
    if (refusal) {
        ldpc_free(&code);
        return refusal;
    }
    set_turns(&code);
    *out = code;
    return NULL;
}

void ldpc_free(struct ldpc_code *code)
{
    free(code->first);
    free(code->edges);
    free(code->turned);
    memset(code, 0, sizeof *code);
}

/* out[j] ^= bit (j + shift) mod Z of the column, for all j; `words` = Z / 64. */
static void xor_turned(uint64_t *out, const uint8_t *column, uint32_t words, uint32_t shift)
{
    uint32_t at = shift / 64;
    const uint32_t right = shift % 64;
    uint64_t low = get_word(column, at);
    for (uint32_t j = 0; j < words; j++) {
        at = at + 1 == words ? 0 : at + 1;
        uint64_t high = get_word(column, at);
        out[j] ^= low >> right | high << 1 << (63 - right);
        low = high;
    }
}

static void row_syndrome(const struct ldpc_code *code, uint32_t row, const uint8_t *word, uint64_t *out)
{
    const uint32_t words = code->lifting / 64;
    memset(out, 0, words * sizeof *out);
    for (uint32_t i = code->first[row]; i < code->first[row + 1]; i++)
        xor_turned(out, word + (size_t)code->edges[i].column * words * 8, words, code->edges[i].shift);
}

int ldpc_syndromes(const struct ldpc_code *code, const uint8_t *words, uint8_t *out, size_t frames)
{
    const size_t row_bytes = code->lifting / 8;
    uint64_t *row_bits = locked_alloc(row_bytes);
    if (!row_bits)
        return -1;
    for (size_t frame = 0; frame < frames; frame++, words += ldpc_bits(code) / 8) {
        for (uint32_t row = 0; row < code->rows; row++, out += row_bytes) {
            row_syndrome(code, row, words, row_bits);
            memcpy(out, row_bits, row_bytes);
        }
    }
    locked_free(row_bits, row_bytes);
    return 0;
}

static const struct ldpc_decoder *choose_decoder(void)
{
#if defined(__x86_64__)
    switch (cpu_set()) {
    case CPU_AVX512:
        return &ldpc_avx512;
    case CPU_AVX2:
        return &ldpc_avx2;
    case CPU_PORTABLE:
        break;
    }
#endif
    return &ldpc_portable;
}

/* Ones in [0, count) of `bits` bits. */
static void fill_ones(uint64_t *plane, size_t words, size_t count)
{
    memset(plane, 0, words * sizeof *plane);
    memset(plane, 0xff, count / 64 * sizeof *plane);
    if (count % 64)
        plane[count / 64] = (UINT64_C(1) << (count % 64)) - 1;
}

/* Turn every column of a plane as the decoder keeps it between iterations, or back. */
static void turn_columns(const struct ldpc_code *code, const uint64_t *from, uint64_t *to, int back)
{
    const uint32_t words = code->lifting / 64;
    memset(to, 0, ldpc_bits(code) / 8);
    for (uint32_t column = 0; column < code->columns; column++) {
        uint32_t turn = code->turned[column];
        turn = back && turn ? code->lifting - turn : turn;
        xor_turned(to + (size_t)column * words, (const uint8_t *)(from + (size_t)column * words), words, turn);
    }
}

static int satisfied(const struct ldpc_code *code, const uint64_t *word, const uint64_t *syndrome, uint64_t *row_bits)
{
    const uint32_t words = code->lifting / 64;
    for (uint32_t row = 0; row < code->rows; row++) {
        row_syndrome(code, row, (const uint8_t *)word, row_bits);
        if (memcmp(row_bits, syndrome + (size_t)row * words, words * sizeof *row_bits))
            return 0;
    }
    return 1;
}

/* ln((1 − qber) / qber) in units, rounded up: rounded down costs more frames, measured. At the most the largest message. */
static int channel_ratio(double qber)
{
    const double unit = 1.1051709180756477; /* e^(1 / LDPC_UNITS) */
    double odds = 1;
    int ratio = 0;
    for (; ratio < LDPC_MESSAGE && (1 - qber) / qber > odds; ratio++)
        odds *= unit;
    return ratio;
}

/* Scratch memory of a decoding, carved out of one piece; with a NULL base it only measures. */
static size_t lay_out(const struct ldpc_code *code, const struct ldpc_decoder *decoder, uint8_t *base,
                      struct ldpc_work *work, uint64_t **plane, uint64_t **row_bits)
{
    const size_t plane_bytes = ldpc_bits(code) / 8;
    size_t used = 0;
    work->message_bytes = decoder->message_bytes(code);
#define CARVE(to, size) ((to) = base ? (void *)(base + used) : NULL, used += ((size) + 63) / 64 * 64)
    CARVE(work->posteriors, (size_t)code->columns * (code->lifting + LDPC_PAD) * sizeof *work->posteriors);
    CARVE(work->messages, work->message_bytes);
    CARVE(work->extrinsics, (size_t)code->degree_most * code->lifting * sizeof *work->extrinsics);
    CARVE(work->sums, (size_t)code->lifting * 4);
    CARVE(work->syndrome, ldpc_checks(code) / 8);
    CARVE(work->values, plane_bytes);
    CARVE(work->noisy, plane_bytes);
    CARVE(work->known, plane_bytes);
    CARVE(*plane, plane_bytes);
    CARVE(*row_bits, code->lifting / 8);
#undef CARVE
    return used;
}

int ldpc_decode(const struct ldpc_code *code, uint8_t *words, const uint8_t *syndromes, size_t frames, uint32_t noisy,
                const uint32_t *known, double qber, uint32_t iterations, uint32_t *used)
{
    const struct ldpc_decoder *decoder = choose_decoder();
    const size_t plane_words = ldpc_bits(code) / 64, checks = ldpc_checks(code);
    struct ldpc_work work;
    uint64_t *plane, *row_bits;
    const size_t size = lay_out(code, decoder, NULL, &work, &plane, &row_bits);
    uint8_t *memory = locked_alloc(size);
    if (!memory)
        return -1;
    lay_out(code, decoder, memory, &work, &plane, &row_bits);

    const int channel = channel_ratio(qber);
    fill_ones(plane, plane_words, noisy);
    turn_columns(code, plane, work.noisy, 0);
    for (size_t frame = 0; frame < frames; frame++, words += plane_words * 8, syndromes += checks / 8) {
        memcpy(work.syndrome, syndromes, checks / 8);
        fill_ones(plane, plane_words, known[frame]);
        turn_columns(code, plane, work.known, 0);
        memcpy(plane, words, plane_words * 8);
        turn_columns(code, plane, work.values, 0);
        decoder->begin(code, &work, channel);
        used[frame] = 0;
        for (uint32_t iteration = 1; iteration <= iterations && !used[frame]; iteration++) {
            /* Checks satisfied on the way say little of the bits at the end: only the whole syndrome counts. But it
             * need not be tried while many are not satisfied. */
            if (decoder->iterate(code, &work) > checks / 8 && iteration < iterations)
                continue;
            decoder->decide(code, &work);
            turn_columns(code, work.values, plane, 1);
            if (satisfied(code, plane, work.syndrome, row_bits)) {
                memcpy(words, plane, plane_words * 8);
                used[frame] = iteration;
            }
        }
    }
    locked_free(memory, size);
    return 0;
}
