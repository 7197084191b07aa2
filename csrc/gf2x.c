#include "gf2x.h"

#include <pthread.h>

#include "cpu.h"

struct gf2x_points gf2x_points;

static pthread_once_t once = PTHREAD_ONCE_INIT;

static struct gf2x_element sum(struct gf2x_element a, struct gf2x_element b)
{
    return (struct gf2x_element){a.low ^ b.low, a.high ^ b.high};
}

static struct gf2x_element times_z(struct gf2x_element a)
{
    return (struct gf2x_element){a.low << 1 ^ (a.high >> 63) * 0x87, a.high << 1 ^ a.low >> 63};
}

static struct gf2x_element times_z64(struct gf2x_element a)
{
    for (int i = 0; i < 64; i++)
        a = times_z(a);
    return a;
}

/* Bit by bit: only for the tables, whose contents are constants. */
static struct gf2x_element square(struct gf2x_element a)
{
    struct gf2x_element product = {0, 0}, power = a;
    for (int i = 0; i < 128; i++) {
        if ((i < 64 ? a.low >> i : a.high >> (i - 64)) & 1)
            product = sum(product, power);
        power = times_z(power);
    }
    return product;
}

/* Let S(y) = y^2 + y. Then S^127(y) = Σ binomial(127, i) y^(2^i) = Σ_{i<128} y^(2^i), the trace. So from any u with
 * trace 1, v_i = S^(127-i)(u) is a Cantor basis, v_0 = 1. By Newton's identities the first power of z with trace 1 is
 * z^121. */
static void find_basis(struct gf2x_element basis[GF2X_MOST_LOG])
{
    struct gf2x_element v = {0, UINT64_C(1) << (121 - 64)};
    for (int i = 127; i >= 0; i--) {
        if (i < GF2X_MOST_LOG)
            basis[i] = v;
        v = sum(square(v), v);
    }
}

/* ω_b */
static struct gf2x_element point(const struct gf2x_element basis[GF2X_MOST_LOG], unsigned b)
{
    struct gf2x_element v = {0, 0};
    for (unsigned i = 0; i < GF2X_MOST_LOG; i++) {
        if (b >> i & 1)
            v = sum(v, basis[i]);
    }
    return v;
}

static void fill(void)
{
    struct gf2x_element basis[GF2X_MOST_LOG];
    find_basis(basis);
    for (unsigned t = 0; t < GF2X_POINTS; t++) {
        gf2x_points.near.c[t] = point(basis, 2 * t);
        gf2x_points.near.d[t] = times_z64(gf2x_points.near.c[t]);
        gf2x_points.far.c[t] = point(basis, 2 * GF2X_POINTS * t);
        gf2x_points.far.d[t] = times_z64(gf2x_points.far.c[t]);
    }
    for (unsigned lane = 0; lane < 4; lane++) {
        gf2x_points.lanes.c[lane] = gf2x_points.near.c[lane];
        gf2x_points.lanes.d[lane] = gf2x_points.near.d[lane];
        gf2x_points.double_lanes.c[lane] = gf2x_points.near.c[2 * lane];
        gf2x_points.double_lanes.d[lane] = gf2x_points.near.d[2 * lane];
    }
}

const struct gf2x_kernels *gf2x_kernels(void)
{
    pthread_once(&once, fill);
    switch (cpu_set()) {
#if defined(__x86_64__)
    case CPU_AVX512:
        return &gf2x_avx512;
    case CPU_AVX2:
        return &gf2x_avx2;
#endif
    default:
        return &gf2x_portable;
    }
}
