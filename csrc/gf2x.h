/* Hankel products of long binary polynomials, by an additive Fourier transform over GF(2^128).
 *
 * The task: words s_0 … s_{N-1} and x_0 … x_{L-1}, N = 2L = 2^log, each a polynomial of degree < 64 over GF(2).
 * Wanted are
 *
 *     c_i = Σ_{j<L} s_{i+j} x_j ,   0 ≤ i < L,    (1)
 *
 * polynomials of degree < 127. They are the same in GF(2^128) = GF(2)[z] / (z^128 + z^7 + z^2 + z + 1), where nothing
 * wraps. Take N points p of that field, E the matrix E_{p,i} = p^i (i < N), and σ = E^-T s: weights on the points whose
 * moments are the words, s_k = Σ_p σ_p p^k. With X = E x (x filled up with zeros), the values of Σ x_j y^j at the
 * points,
 *
 *     c_i = Σ_j x_j Σ_p σ_p p^{i+j} = Σ_p p^i (σ_p X_p) = (E^T (σ∘X))_i .    (2)
 *
 * This is the transpose of multiplication by evaluation and interpolation. It needs no padding: all of (1) comes out
 * right for every power of two, whereas a product modulo the vanishing polynomial of the points would fold onto itself.
 *
 * The points are the GF(2)-span of a Cantor basis v_0 = 1, v_i^2 + v_i = v_{i-1} (Cantor, J. Comb. Theory A 50, 1989);
 * point number b is ω_b = Σ v_i over the bits i of b. The polynomial that vanishes on the first 2^j of them has
 * coefficients in GF(2): s_0 = y, s_{j+1} = s_j^2 + s_j, so s_j(s_k) = s_{j+k}, s_j = y^(2^j) + y for j a power of two,
 * s_j(ω_b) = ω_{b >> j}. E is the product of two sparse ones (Lin, Chung and Han, FOCS 2014, arXiv:1404.3458; Chen et
 * al., arXiv:1708.09746):
 *
 *     C: from the monomials y^i to the products Π s_j over the bits j of i. Only xors, so done on the words;
 *     B: `log` layers of butterflies, layer j (from the top one down) over blocks of 2^(j+1), block t with w = ω_{2t}:
 *        (a, b) → (a + w b, b + (a + w b)),
 *        since s_j = w on the lower half of the block's points and w + 1 on the upper.
 *
 * E = B C. So E^-T = B^-T C^-T, with butterflies of the same form but a and b exchanged, and E^T = C^T B^T, with the
 * inverse ones. Every step of C adds one word to another; its transpose adds the other to the one.
 */
#ifndef QHYBRIDD_GF2X_H
#define QHYBRIDD_GF2X_H

#include <stddef.h>
#include <stdint.h>

/* `log` is odd (butterflies go two layers at a time, the top layer apart) and between these. */
#define GF2X_LEAST_LOG 7
#define GF2X_MOST_LOG 17

/* The schoolbook kernel gives whole runs of this many coefficients. */
#define GF2X_RUN 32

/* low + high z^64 */
struct gf2x_element {
    uint64_t low, high;
};

/* A kernel for each instruction set. No branch and no address depends on what is in the words. */
struct gf2x_kernels {
    /* X = E x: `values` has 2^log elements, `words` 2^(log-1) and is used up. */
    void (*evaluate)(struct gf2x_element *values, uint64_t *words, unsigned log);
    /* σ = E^-T s: `weights` has 2^log elements, `words` 2^log and is used up. */
    void (*weigh)(struct gf2x_element *weights, uint64_t *words, unsigned log);
    /* c = E^T σ, the first half: the low words of c_i, i < 2^(log-1), and then their high words; uses `weights` up. */
    void (*moments)(uint64_t *words, struct gf2x_element *weights, unsigned log);
    /* For blocks of `size` elements, one each `stride` elements: weights block a becomes Σ_{b<inner} weights block
     * (a+b) ∘ values block b, for a < outer. */
    void (*correlate)(struct gf2x_element *weights, const struct gf2x_element *values, size_t outer, size_t inner,
                      size_t size, size_t stride);
    /* (1) as it stands, for `inner` words x and `outer` coefficients, a multiple of GF2X_RUN; s has outer + inner
     * words. */
    void (*schoolbook)(uint64_t *low, uint64_t *high, const uint64_t *s, const uint64_t *x, size_t outer, size_t inner);
};

/* Those of the instruction set in use. Any thread may ask. */
const struct gf2x_kernels *gf2x_kernels(void);

/* The points ω_{2t} = near.c[t % 256] + far.c[t / 256], and d = c z^64; for vectors whose lanes l are neighbouring
 * blocks the points ω_{2l} and ω_{4l}. */
#define GF2X_POINTS 256
struct gf2x_points {
    struct {
        struct gf2x_element c[GF2X_POINTS], d[GF2X_POINTS];
    } near, far;
    struct {
        struct gf2x_element c[4], d[4];
    } lanes, double_lanes;
};

extern struct gf2x_points gf2x_points; /* filled once gf2x_kernels() was called */

extern const struct gf2x_kernels gf2x_portable, gf2x_avx2, gf2x_avx512;

#endif
