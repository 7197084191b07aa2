#include "detect.h"

#include <string.h>

#include "words.h"

#define NEVER UINT64_MAX

static const double SHARE_32 = 1.0 / 4294967296.0;
static const double SHARE_16 = 1.0 / 65536.0;

ALWAYS_INLINE uint32_t load_32(const uint8_t *data, size_t at)
{
    uint32_t value;
    memcpy(&value, data + 4 * at, sizeof value);
    return value;
}

ALWAYS_INLINE int load_delay(const uint8_t *data, size_t at)
{
    int16_t value;
    memcpy(&value, data + 2 * at, sizeof value);
    return value;
}

ALWAYS_INLINE double load_double(const uint8_t *data, size_t at)
{
    double value;
    memcpy(&value, data + 8 * at, sizeof value);
    return value;
}

ALWAYS_INLINE double power(double base, uint32_t exponent)
{
    double result = exponent & 1 ? base : 1.0;
    while (exponent >>= 1) {
        base *= base;
        if (exponent & 1)
            result *= base;
    }
    return result;
}

/* Which detectors `photons` of light make click: bit d for detector d. */
ALWAYS_INLINE unsigned outcome(double zero, double one, uint32_t photons, double u)
{
    double neither = 1.0 - zero - one;
    neither = power(neither > 0.0 ? neither : 0.0, photons);
    if (u < neither)
        return 0;
    double not_one = power(1.0 - one, photons), not_zero = power(1.0 - zero, photons);
    if (u < not_one)
        return 1;
    return u < not_one + (not_zero - neither) ? 2 : 3;
}

/* Keep a carrier, the latest first: few wait at a time. */
static void trap(struct detect_state *state, uint64_t entry)
{
    if (state->waiting >= DETECT_TRAPS)
        return;
    uint64_t at = state->waiting++;
    for (; at && state->traps[at - 1] < entry; at--)
        state->traps[at] = state->traps[at - 1];
    state->traps[at] = entry;
}

int detect(const struct detect_frame *frame, const struct detect_physics *physics, struct detect_state *state,
           struct detect_tally *tally)
{
    const uint64_t first = frame->first, end = first + frame->pulses;
    size_t arrival = 0, dark = 0, looked = 0, trapped[2] = {0, 0};
    uint64_t light_at = frame->arrivals ? first + load_32(frame->gaps, 0) : NEVER;
    uint64_t trap_at[2], previous = first, live = state->live > first ? state->live : first;
    uint64_t dark_at = frame->darks ? live + load(frame->dark_places, 0) : NEVER;
    memset(tally, 0, sizeof *tally);
    for (int d = 0; d < 2; d++)
        trap_at[d] = frame->traps[d] ? load(frame->trap_avalanches[d], 0) : NEVER;

    for (;;) {
        while (light_at < live) {
            arrival++;
            light_at = arrival < frame->arrivals ? light_at + load_32(frame->gaps, arrival) : NEVER;
        }
        while (state->waiting && state->traps[state->waiting - 1] >> 1 < live)
            state->waiting--;
        uint64_t freed_at = state->waiting ? state->traps[state->waiting - 1] >> 1 : NEVER;
        uint64_t place = light_at < dark_at ? light_at : dark_at;
        place = place < freed_at ? place : freed_at;
        if (place >= end)
            break;
        if (looked == frame->words_count)
            return -1;
        const unsigned basis = load_32(frame->bases, looked) * SHARE_32 < physics->test_probability;
        const uint64_t word = load(frame->words, looked++);

        unsigned lit = 0, mask = 0;
        int delay = 0;
        if (light_at == place) {
            const unsigned class = (frame->states[arrival] & 7u) | basis << 3;
            const uint32_t photons = load_32(frame->photons, arrival);
            double zero = physics->chances[class][0], one = physics->chances[class][1];
            if (frame->delays) {
                delay = load_delay(frame->delays, arrival);
                zero *= load_double(frame->gates, (size_t)(delay + 32768));
                one *= load_double(frame->gates, DETECT_DELAYS + (size_t)(delay + 32768));
            }
            lit = outcome(zero, one, photons, (double)(word >> 32) * SHARE_32);
            lit |= (unsigned)(photons * physics->shares[class][0] >= physics->linear[0]);
            lit |= (unsigned)(photons * physics->shares[class][1] >= physics->linear[1]) << 1;
            mask = lit;
        }
        if (dark_at == place) {
            mask |= frame->dark_masks[dark] & 3u;
            const uint64_t before = load(frame->dark_places, dark++);
            dark_at = dark < frame->darks ? place + (load(frame->dark_places, dark) - before) : NEVER;
        }
        for (; state->waiting && state->traps[state->waiting - 1] >> 1 == place; state->waiting--)
            mask |= 1u << (state->traps[state->waiting - 1] & 1);
        live = place + 1;
        if (!mask)
            continue;
        live += frame->dead;
        dark_at += dark < frame->darks ? frame->dead : 0;

        for (unsigned d = 0; d < 2; d++) {
            if (!(mask >> d & 1) || tally->avalanches[d]++ != trap_at[d])
                continue;
            trap(state, (live + load_32(frame->trap_delays[d], trapped[d])) << 1 | d);
            trapped[d]++;
            trap_at[d] = trapped[d] < frame->traps[d] ? load(frame->trap_avalanches[d], trapped[d]) : NEVER;
        }
        const unsigned both = mask == 3, bit = both ? (unsigned)(word & 1) : mask >> 1;
        if (!both && (double)(word >> 16 & 0xffff) * SHARE_16 >= physics->keep[bit])
            continue;
        if (tally->count == frame->room)
            return -1;
        const double quantile = load_double(frame->quantiles, word >> 1 & (DETECT_QUANTILES - 1));
        const double time = lit >> bit & 1 ? physics->light_mean[bit] + physics->light_follow[bit] * delay +
                                                 physics->light_spread[bit] * quantile
                                           : physics->noise_mean[bit] + physics->noise_spread[bit] * quantile;
        tally->sum += time;
        tally->squares += time * time;
        tally->clicks[0] += mask & 1;
        tally->clicks[1] += mask >> 1;
        tally->doubles += both;
        const uint32_t gap = (uint32_t)(place - previous);
        memcpy(frame->out_gaps + 4 * tally->count, &gap, sizeof gap);
        frame->out_bases[tally->count] = (uint8_t)basis;
        frame->out_bits[tally->count] = (uint8_t)bit;
        tally->count++;
        previous = place;
    }
    state->live = live;
    return 0;
}
