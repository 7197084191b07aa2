/* The decoder over a small set of vector operations; included once by each build, which defines before:
 *
 *     TARGET, DECODER        attribute of every function; the name of the build's struct ldpc_decoder
 *     LANES                  checks in a vector; divides 64
 *     bytes, words           vectors of LANES bytes, and of LANES 16-bit numbers
 *     bits_t                 unsigned integer of at least LANES bits: one for each lane, in the order of memory
 *
 * Lanes of `bytes` may stand in another order than in memory (the order in which `narrow` packs). */

#if defined(__clang__)
#define UNROLL _Pragma("clang loop unroll(full)")
#else
#define UNROLL _Pragma("GCC unroll 4")
#endif
#define INLINE TARGET static inline __attribute__((always_inline))

/* How many vectors of checks run side by side: the box-plus chain of one is too long a wait. */
#define ABREAST 2

INLINE bits_t lane_bits(const uint64_t *plane, size_t vector)
{
    return (bits_t)(plane[vector * LANES / 64] >> (vector * LANES % 64));
}

TARGET static size_t message_bytes(const struct ldpc_code *code)
{
    size_t total = 0;
    for (uint32_t row = 0; row < code->rows; row++)
        total += MESSAGE_BYTES(code->first[row + 1] - code->first[row]) * (code->lifting / LANES);
    return total;
}

TARGET static void begin(const struct ldpc_code *code, struct ldpc_work *work, int channel)
{
    const uint32_t vectors = code->lifting / LANES;
    const size_t stride = code->lifting + LDPC_PAD;
    const words nothing = words_all(LDPC_OFFSET);
    for (uint32_t column = 0; column < code->columns; column++) {
        int16_t *posteriors = work->posteriors + column * stride;
        for (uint32_t vector = 0; vector < vectors; vector++) {
            size_t at = (size_t)column * vectors + vector;
            bits_t value = lane_bits(work->values, at), noisy = lane_bits(work->noisy, at);
            bits_t known = lane_bits(work->known, at);
            words one = words_choose(noisy, words_all((int16_t)(LDPC_OFFSET - channel)),
                                     words_choose(known, words_all(LDPC_OFFSET - LDPC_CERTAIN), nothing));
            words zero = words_choose(noisy, words_all((int16_t)(LDPC_OFFSET + channel)),
                                      words_choose(known, words_all(LDPC_OFFSET + LDPC_CERTAIN), nothing));
            words_store(posteriors + vector * LANES, words_choose(value, one, zero));
        }
        memcpy(posteriors + code->lifting, posteriors, LDPC_PAD * sizeof *posteriors);
    }
    memset(work->messages, LDPC_OFFSET, work->message_bytes); /* in either form: messages that are 0 */
}

TARGET static void decide(const struct ldpc_code *code, struct ldpc_work *work)
{
    const uint32_t vectors = 64 / LANES, blocks = code->lifting / 64;
    const size_t stride = code->lifting + LDPC_PAD;
    uint64_t *value = work->values;
    for (uint32_t column = 0; column < code->columns; column++) {
        const int16_t *posteriors = work->posteriors + column * stride;
        for (uint32_t block = 0; block < blocks; block++) {
            uint64_t bits = 0;
            for (uint32_t vector = 0; vector < vectors; vector++, posteriors += LANES)
                bits |= (uint64_t)words_below(words_load(posteriors), LDPC_OFFSET) << (vector * LANES);
            *value++ = bits;
        }
    }
}

INLINE bytes box_plus(bytes a, bytes b)
{
    bytes low = bytes_min(a, b), high = bytes_max(a, b);
    bytes sum = bytes_correction(bytes_add_saturated(a, b));
    bytes difference = bytes_correction(bytes_subtract(high, low));
    return bytes_subtract_saturated(bytes_add(low, sum), difference);
}

/* What the checks of one vector have gathered from their edges so far. */
struct gathered {
    bytes least, rest, product;
};

/* Take the old message of an edge out of the posteriors; the exact difference is kept for `spread`. */
INLINE bytes take(const struct ldpc_edge *edge, const int16_t *posteriors, uint32_t check, uint32_t lifting,
                  bytes message, int16_t *extrinsics)
{
    uint32_t at = check + edge->turn;
    at -= at >= lifting ? lifting : 0;
    words exact = words_subtract(words_load(posteriors + edge->start + at), words_widen(message));
    words_store(extrinsics, exact);
    return words_narrow(exact);
}

/* First half of a row for `abreast` vectors of checks, from number `vector` on: take the old messages out of the
 * posteriors, and gather. Gives the number of checks not satisfied. */
INLINE size_t gather(const struct ldpc_code *code, struct ldpc_work *work, uint32_t row, uint8_t *messages,
                     uint32_t vector, const int abreast)
{
    const struct ldpc_edge *edges = code->edges + code->first[row];
    const uint32_t degree = code->first[row + 1] - code->first[row], lifting = code->lifting;
    int16_t *extrinsics = work->extrinsics + (size_t)vector * degree * LANES;
    struct gathered all[ABREAST];
    struct kept kept[ABREAST];
    size_t unsatisfied = 0;
#define TAKE(edge)                                                                                       \
    take(edges + (edge), work->posteriors, (vector + i) * LANES, lifting,                                \
         kept_message(&kept[i], messages + i * MESSAGE_BYTES(degree), edge),                             \
         extrinsics + ((size_t)i * degree + (edge)) * LANES)
    UNROLL
    for (int i = 0; i < abreast; i++) {
        kept[i] = kept_load(messages + i * MESSAGE_BYTES(degree));
        bytes first = TAKE(0), second = TAKE(1);
        bytes a = bytes_magnitude(first), b = bytes_magnitude(second);
        all[i].least = bytes_min(a, b);
        all[i].rest = bytes_max(a, b);
        all[i].product = bytes_signs(lane_bits(work->syndrome, (size_t)row * (lifting / LANES) + vector + i));
        all[i].product = bytes_xor(all[i].product, bytes_xor(first, second));
    }
    for (uint32_t edge = 2; edge < degree; edge++) {
        UNROLL
        for (int i = 0; i < abreast; i++) {
            bytes v = TAKE(edge);
            bytes magnitude = bytes_magnitude(v);
            bytes higher = bytes_max(all[i].least, magnitude);
            all[i].product = bytes_xor(all[i].product, v);
            all[i].least = bytes_min(all[i].least, magnitude);
            all[i].rest = box_plus(all[i].rest, higher);
        }
    }
#undef TAKE
    UNROLL
    for (int i = 0; i < abreast; i++) {
        uint8_t *sums = work->sums + (size_t)(vector + i) * 4 * LANES;
        bytes most = bytes_all(LDPC_MESSAGE), offset = bytes_all(LDPC_OFFSET);
        bytes_store(sums, all[i].least);
        bytes_store(sums + LANES, all[i].product);
        bytes_store(sums + 2 * LANES, bytes_add(bytes_min(all[i].rest, most), offset));
        bytes_store(sums + 3 * LANES, bytes_add(bytes_min(box_plus(all[i].rest, all[i].least), most), offset));
        unsatisfied += bytes_count_negative(all[i].product);
    }
    return unsatisfied;
}

/* Second half: the new messages, and the posteriors with them. */
INLINE void spread(const struct ldpc_code *code, struct ldpc_work *work, uint32_t row, uint8_t *messages,
                   uint32_t vector, const int first)
{
    const struct ldpc_edge *edges = code->edges + code->first[row];
    const uint32_t degree = code->first[row + 1] - code->first[row];
    const int16_t *extrinsics = work->extrinsics + (size_t)vector * degree * LANES;
    const uint8_t *sums = work->sums + (size_t)vector * 4 * LANES;
    bytes least = bytes_load(sums), product = bytes_load(sums + LANES);
    bytes rest = bytes_load(sums + 2 * LANES), total = bytes_load(sums + 3 * LANES);
    kept_begin(messages, rest, total);
    for (uint32_t edge = 0; edge < degree; edge++) {
        words exact = words_load(extrinsics + edge * LANES);
        bytes v = words_narrow(exact);
        bytes message = kept_replace(messages, edge, bytes_magnitude(v), least, bytes_xor(product, v), rest, total);
        words posterior = words_add(exact, words_widen(message));
        int16_t *to = work->posteriors + edges[edge].start + vector * LANES;
        words_store(to, posterior);
        if (first) /* one of those that are repeated behind the last */
            words_store(to + code->lifting, posterior);
    }
}

TARGET static size_t iterate(const struct ldpc_code *code, struct ldpc_work *work)
{
    const uint32_t vectors = code->lifting / LANES, repeated = LDPC_PAD / LANES;
    uint8_t *messages = work->messages;
    size_t unsatisfied = 0;
    for (uint32_t row = 0; row < code->rows; row++) {
        const size_t stride = MESSAGE_BYTES(code->first[row + 1] - code->first[row]);
        uint32_t vector = 0;
        for (; vector + ABREAST <= vectors; vector += ABREAST)
            unsatisfied += gather(code, work, row, messages + vector * stride, vector, ABREAST);
        for (; vector < vectors; vector++)
            unsatisfied += gather(code, work, row, messages + vector * stride, vector, 1);
        for (vector = 0; vector < repeated; vector++)
            spread(code, work, row, messages + vector * stride, vector, 1);
        for (; vector < vectors; vector++)
            spread(code, work, row, messages + vector * stride, vector, 0);
        messages += vectors * stride;
    }
    return unsatisfied;
}

const struct ldpc_decoder DECODER = {message_bytes, begin, iterate, decide};
