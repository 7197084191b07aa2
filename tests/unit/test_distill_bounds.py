"""The finite-key bounds against published points, and against slow oracles that share no code with them."""

import itertools
import math
from dataclasses import replace
from decimal import Decimal, localcontext

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qhybridd.distill import bounds
from qhybridd.distill.bounds.concentration import deviation, emitted, entropy, fung, serfling
from qhybridd.distill.plan import Expected, LinkModel, reconciliation_bits
from qhybridd.distill.sift import Counts
from qhybridd.distill.terms import Bound, Protocol
from qhybridd.errors import OperatorError, ProgramError

WIESEMANN = Protocol(
    intensities=(0.5, 0.15),
    intensity_probabilities=(0.9, 0.1),
    key_basis_probability=0.9,
    bound=Bound.WIESEMANN_ONE,
    epsilon_sec=1e-12,
    epsilon_cor=1e-12,
    qber_most=0.1,
)
TWO_DECOYS = replace(
    WIESEMANN, intensities=(0.5, 0.15, 0.001), intensity_probabilities=(0.8, 0.1, 0.1), bound=Bound.WIESEMANN_TWO
)


def fibre(length_km: float) -> LinkModel:
    return LinkModel(transmission=10 ** (-0.02 * length_km), dark_probability=200 / 625e6, misalignment=0.02)


def bits_per_pulse(protocol: Protocol, model: LinkModel, pulses: int, efficiency: float = 1.16) -> float:
    expected = model.expect(protocol, pulses)
    proven = bounds.estimate(protocol, expected)
    leakage = reconciliation_bits(expected, efficiency)
    return bounds.key_length(protocol, proven.vacuum, proven.single, proven.phase_error, leakage) / pulses


# ---- published points


@pytest.mark.parametrize(
    ("length_km", "pulses", "wanted"),
    [(0, 10**10, "1.195398e-01"), (50, 10**10, "7.939176e-03"), (50, 10**12, "9.542789e-03")],
)
def test_wiesemann_one_decoy(length_km: float, pulses: int, wanted: str) -> None:
    """625 MHz, 0.2 dB/km, receiver efficiency 1, dark counts 200 Hz, error 2 %, f = 1.16."""
    assert f"{bits_per_pulse(WIESEMANN, fibre(length_km), pulses):.6e}" == wanted


def test_rusca_counts() -> None:
    """The example of an implementation of appendix A in interval arithmetic, proved against the real-number formula."""
    protocol = Protocol((0.51, 0.15), (0.7, 0.3), 0.9, Bound.RUSCA, 1e-9, 1e-15, 0.1)
    counts = Counts((8_875_913, 1_124_087), (185_856, 26_055), (165_048, 20_902), (3_456, 484))
    proven = bounds.estimate(protocol, counts)
    assert bounds.key_length(protocol, proven.vacuum, proven.single, proven.phase_error, 1_776_924) == 1_464_719


def lim_rate(free: tuple[float, float, float, float, float], clicks: float, length_km: float) -> float:
    """Bits a pulse in the model of Lim et al., section IV, dedicated fibre; ε_sec = κ ℓ, solved by iteration."""
    basis, p1, p2, first, second = free
    intensities, probabilities = (first, second, 2e-4), (p1, p2, 1 - p1 - p2)
    transmission = 0.1 * 10 ** (-0.02 * length_km)
    dark, after = 6e-7, 4e-2
    seen = [1 - (1 - 2 * dark) * math.exp(-transmission * k) for k in intensities]
    wrong = [
        dark + 5e-3 * (1 - math.exp(-transmission * k)) + after * d / 2 for k, d in zip(intensities, seen, strict=True)
    ]
    pulses = clicks / (basis**2 * sum(p * d * (1 + after) for p, d in zip(probabilities, seen, strict=True)))

    def share(basis_share: float, rates: list[float]) -> tuple[float, ...]:
        return tuple(pulses * basis_share * p * rate for p, rate in zip(probabilities, rates, strict=True))

    seen = [d * (1 + after) for d in seen]
    expected = Expected(
        share(basis**2, seen), share(basis**2, wrong), share((1 - basis) ** 2, seen), share((1 - basis) ** 2, wrong)
    )
    length = clicks / 10
    for _ in range(20):
        protocol = Protocol(intensities, probabilities, basis, Bound.LIM, 1e-15 * length, 1e-15, 0.4)
        proven = bounds.estimate(protocol, expected)
        leakage = reconciliation_bits(expected, 1.16)
        length = bounds.key_length(protocol, proven.vacuum, proven.single, proven.phase_error, leakage)
        if not length:
            return 0.0
    return length / pulses


def test_lim_block_sizes_at_100_km() -> None:
    """ "At a fiber length of 100 km, the secret key rate obtained with n_X = 10^9 is about 1.75 times the one based on
    10^7" (section IV, figure 1). The free parameters are the optimum of either size."""
    large = lim_rate((0.93861, 0.7618, 0.17671, 0.44755, 0.17122), 1e9, 100)
    small = lim_rate((0.86565, 0.40063, 0.46467, 0.43101, 0.20915), 1e7, 100)
    assert large == pytest.approx(8.80e-5, rel=1e-2)
    assert large / small == pytest.approx(1.75, rel=0.03)


def test_lim_small_blocks_reach_far() -> None:
    """Figure 1, leftmost curve: a block of 10^4 still gives a key beyond 120 km, and none at 150 km."""
    free = (0.25663, 0.04191, 0.5207, 0.49006, 0.10334)
    assert lim_rate(free, 1e4, 120) > 5e-8
    assert lim_rate(free, 1e4, 150) == 0


def test_one_decoy_beats_two_in_small_blocks() -> None:
    """The abstract of Rusca et al.: up to 10^8 clicks, one decoy gives more; without limit, two do."""
    one = replace(WIESEMANN, bound=Bound.RUSCA, intensity_probabilities=(0.7, 0.3), epsilon_sec=1e-9)
    two = replace(TWO_DECOYS, bound=Bound.LIM, intensity_probabilities=(0.7, 0.2, 0.1), epsilon_sec=1e-9)
    small, large = 10**9, 10**15
    assert bits_per_pulse(one, fibre(100), small) > bits_per_pulse(two, fibre(100), small)
    assert bits_per_pulse(one, fibre(100), large) < bits_per_pulse(two, fibre(100), large)


# ---- limits


@pytest.mark.parametrize("bound", Bound)
def test_below_the_repeaterless_limit(bound: Bound) -> None:
    """PLOB: no protocol gives more than −log2(1 − η) bits a pulse, however long the block."""
    protocol = replace(WIESEMANN if bound.decoys == 1 else TWO_DECOYS, bound=bound)
    for length_km in range(1, 200, 20):
        eta = 10 ** (-0.02 * length_km)
        assert 0 <= bits_per_pulse(protocol, fibre(length_km), 10**16, 1.0) < -math.log2(1 - eta)


def test_infinite_keys_reach_the_decoy_rate() -> None:
    """With vanishing decoys and an endless block, s1 and φ become those of the channel (Lo, Ma, Chen 2005)."""
    protocol = replace(TWO_DECOYS, intensities=(0.5, 0.002, 0.00001), intensity_probabilities=(0.4, 0.3, 0.3))
    model, pulses = fibre(30), 10**26
    proven = bounds.estimate(protocol, model.expect(protocol, pulses))
    eta, dark = model.transmission, model.dark_probability
    singles = pulses * protocol.key_basis_probability**2 * emitted(protocol, 1) * (eta + dark * (1 - eta))
    errors = (eta * 0.02 + dark / 2) / (eta + dark * (1 - eta))
    assert 0.995 * singles < proven.single <= singles * (1 + 1e-6)
    assert errors * (1 - 1e-6) <= proven.phase_error < 1.01 * errors


# ---- oracles


def exact(protocol: Protocol, tallies: Expected) -> tuple[Decimal, Decimal, Decimal]:
    """s_X0, s_X1 and φ_X1 once more in sixty decimal digits, written from the papers and from nothing above."""
    mu = [Decimal(k) for k in protocol.intensities]
    p = [Decimal(k) for k in protocol.intensity_probabilities]
    total = {Bound.LIM: 21, Bound.RUSCA: 19, Bound.WIESEMANN_ONE: 15, Bound.WIESEMANN_TWO: 17}[protocol.bound]
    epsilon = Decimal(protocol.epsilon_sec) / total
    log = (1 / epsilon).ln()
    tau = [sum(q * (-k).exp() * k**j for q, k in zip(p, mu, strict=True)) for j in (0, 1)]

    def weigh(counts: tuple[float, ...], index: int, way: int) -> Decimal:
        all_of_them = sum(map(Decimal, counts))
        moved = Decimal(counts[index]) + way * (all_of_them / 2 * log).sqrt()
        return mu[index].exp() / p[index] * min(max(moved, Decimal(0)), all_of_them)

    def basis(n: tuple[float, ...], m: tuple[float, ...]) -> tuple[Decimal, Decimal, Decimal]:
        most, stray = sum(map(Decimal, n)), (sum(map(Decimal, n)) / 2 * log).sqrt()

        def cut(x: Decimal) -> Decimal:
            return min(max(x, Decimal(0)), most)

        if len(mu) == 2:
            s0 = cut(tau[0] * (mu[0] * weigh(n, 1, -1) - mu[1] * weigh(n, 0, 1)) / (mu[0] - mu[1]))
            above = cut(2 * (tau[0] * min(weigh(m, 0, 1), weigh(m, 1, 1)) + stray))
            inner = mu[0] ** 2 * weigh(n, 1, -1) - mu[1] ** 2 * weigh(n, 0, 1)
            inner -= (mu[0] ** 2 - mu[1] ** 2) * above / tau[0]
            s1 = tau[1] * inner / (mu[0] * mu[1] * (mu[0] - mu[1]))
            v1 = tau[1] * (weigh(m, 0, 1) - weigh(m, 1, -1)) / (mu[0] - mu[1])
        else:
            s0 = cut(tau[0] * (mu[1] * weigh(n, 2, -1) - mu[2] * weigh(n, 1, 1)) / (mu[1] - mu[2]))
            squares = mu[1] ** 2 - mu[2] ** 2
            inner = mu[0] ** 2 * (weigh(n, 1, -1) - weigh(n, 2, 1)) - squares * (weigh(n, 0, 1) - s0 / tau[0])
            s1 = tau[1] * inner / (mu[0] * (mu[0] * (mu[1] - mu[2]) - squares))
            v1 = tau[1] * (weigh(m, 1, 1) - weigh(m, 2, -1)) / (mu[1] - mu[2])
        return s0, cut(s1), cut(v1)

    s0, d, _ = basis(tallies.key_clicks, tallies.key_errors)
    _, c, v = basis(tallies.test_clicks, tallies.test_errors)
    half = Decimal("0.5")
    if c < 1 or d < 1 or v / c >= half:
        return s0, d, half
    if protocol.bound in (Bound.LIM, Bound.RUSCA):
        b = min(half, max(v / c, 1 / c))
        spread = (c + d) * (1 - b) * b
        inner = max(((c + d) / (c * d * (1 - b) * b) / epsilon**2).ln(), Decimal(2).ln())
        gamma = (spread * inner / (c * d * Decimal(2).ln() ** 2)).sqrt()
    else:
        gamma = ((c + d) * (d + 1) * log / (c * d * d)).sqrt()
    return s0, d, min(half, v / c + gamma)


@given(
    bound=st.sampled_from(Bound),
    epsilon=st.sampled_from([1e-3, 1e-9, 1e-15]),
    pulses=st.integers(10**4, 10**12),
    transmission=st.floats(1e-4, 1),
    dark=st.floats(0, 1e-3),
    misalignment=st.floats(0, 0.2),
)
def test_sixty_digits(
    bound: Bound, epsilon: float, pulses: int, transmission: float, dark: float, misalignment: float
) -> None:
    protocol = replace(WIESEMANN if bound.decoys == 1 else TWO_DECOYS, bound=bound, epsilon_sec=epsilon)
    expected = LinkModel(transmission, dark, misalignment).expect(protocol, pulses)
    proven = bounds.estimate(protocol, expected)
    with localcontext(prec=60):
        vacuum, single, phase_error = exact(protocol, expected)
    clicks = sum(expected.key_clicks)
    assert proven.vacuum == pytest.approx(float(vacuum), rel=1e-9, abs=1e-9 * clicks)
    assert proven.single == pytest.approx(float(single), rel=1e-9, abs=1e-9 * clicks)
    if min(abs(proven.single - 1), abs(proven.test_single - 1)) > 1e-3:  # below 1, nothing is learnt
        assert proven.phase_error == pytest.approx(float(phase_error), rel=1e-6, abs=1e-9)


@pytest.mark.parametrize(
    ("bound", "wanted"),
    [
        (Bound.LIM, 6 * math.log2(21e12) + math.log2(2e12)),
        (Bound.RUSCA, 6 * math.log2(19e12) + math.log2(2e12)),
        (Bound.WIESEMANN_ONE, 4 * math.log2(15e12 / 2**0.25) + math.log2(2e12)),
        (Bound.WIESEMANN_TWO, 4 * math.log2(17e12 / 2**0.25) + math.log2(2e12)),
    ],
)
def test_penalties(bound: Bound, wanted: float) -> None:
    protocol = replace(WIESEMANN if bound.decoys == 1 else TWO_DECOYS, bound=bound)
    assert bounds.penalty_bits(protocol) == pytest.approx(wanted, rel=1e-12)


def corners(matrix: np.ndarray, right: np.ndarray) -> list[np.ndarray]:
    """Every corner of {x ≥ 0: matrix x = right}, for matrices with a handful of columns."""
    rows, columns = matrix.shape
    found = []
    for chosen in itertools.combinations(range(columns), rows):
        part = matrix[:, chosen]
        if abs(np.linalg.det(part)) < 1e-14:
            continue
        x = np.zeros(columns)
        x[list(chosen)] = np.linalg.solve(part, right)
        if (x > -1e-9 * right.max()).all():
            found.append(x)
    return found


@given(
    yields=st.lists(st.floats(0.01, 1), min_size=8, max_size=8),
    intensities=st.tuples(st.floats(0.3, 0.9), st.floats(0.2, 0.8)),
    errors=st.floats(0, 0.5),
)
def test_one_decoy_is_the_linear_programme(
    yields: list[float], intensities: tuple[float, float], errors: float
) -> None:
    """Without end, s1 of one decoy is the least of the linear programme over all photon numbers, to the last digit."""
    first, second = intensities[0], intensities[0] * intensities[1]
    protocol = replace(WIESEMANN, intensities=(first, second))
    clicks, wrong, singles, single_errors = endless(protocol, yields, [0.5, errors] + [0.0] * 6)
    proven = bounds.estimate(protocol, Expected(clicks, wrong, clicks, wrong))
    # Vacuum pulses give at most what the errors of the weaker intensity allow; the last column is the slack.
    vacuum_most = (
        2
        * emitted(protocol, 0)
        * min(math.exp(k) / p * m for k, p, m in zip((first, second), (0.9, 0.1), wrong, strict=True))
    )
    matrix = np.hstack([given_photons(protocol, 8), np.zeros((2, 1))])
    matrix = np.vstack([matrix, np.eye(1, 9) + np.eye(1, 9, 8)])
    right = np.array([*clicks, min(vacuum_most, sum(clicks))])
    least = min(corner[1] for corner in corners(matrix, right))
    assert proven.single == pytest.approx(max(0.0, least), rel=1e-5, abs=1e-6 * sum(clicks))
    assert proven.single <= singles * (1 + 1e-6)
    assert proven.test_single_errors >= single_errors * (1 - 1e-6)


@given(
    yields=st.lists(st.floats(0.01, 1), min_size=8, max_size=8),
    intensities=st.tuples(st.floats(0.3, 0.9), st.floats(0.2, 0.8), st.floats(0, 0.2)),
)
def test_two_decoys_stay_inside_the_linear_programme(
    yields: list[float], intensities: tuple[float, float, float]
) -> None:
    first, second, third = intensities[0], intensities[0] * intensities[1], intensities[0] * 0.9 * intensities[2]
    if not (first > second + third and second > 1.1 * third):
        return
    protocol = replace(TWO_DECOYS, intensities=(first, second, third))
    clicks, wrong, singles, single_errors = endless(protocol, yields, [0.5] + [0.05] * 7)
    proven = bounds.estimate(protocol, Expected(clicks, wrong, clicks, wrong))
    found = corners(given_photons(protocol, 8), np.array(clicks))
    slack = 1e-5 * sum(clicks)
    assert proven.single <= min(corner[1] for corner in found) + slack
    assert proven.vacuum <= min(corner[0] for corner in found) + slack
    assert proven.single <= singles + slack
    found = corners(given_photons(protocol, 8), np.array(wrong))
    assert proven.test_single_errors >= max(corner[1] for corner in found) - slack
    assert proven.test_single_errors >= single_errors - slack


def given_photons(protocol: Protocol, numbers: int) -> np.ndarray:
    """p(k|n): rows intensities, columns photon numbers. Bayes' rule, Lim et al. (A3)."""
    rows = [
        [p * math.exp(-k) * k**n / math.factorial(n) / emitted(protocol, n) for n in range(numbers)]
        for k, p in zip(protocol.intensities, protocol.intensity_probabilities, strict=True)
    ]
    return np.array(rows)


def endless(
    protocol: Protocol, yields: list[float], errors: list[float]
) -> tuple[tuple[float, ...], tuple[float, ...], float, float]:
    """Clicks and errors of so many pulses that their deviations are nothing, clicks of single photons, their errors."""
    clicks = np.array([1e30 * emitted(protocol, n) * y for n, y in enumerate(yields)])
    wrong = clicks * np.array(errors)
    weights = given_photons(protocol, len(yields))
    return tuple(weights @ clicks), tuple(weights @ wrong), clicks[1], wrong[1]


# ---- pieces


def test_entropy() -> None:
    assert entropy(0) == entropy(-1) == 0
    assert entropy(0.5) == entropy(0.7) == 1
    assert entropy(0.11) == pytest.approx(0.499916, abs=1e-6)
    assert entropy(1e-300) > 0


def test_deviation_is_hoeffding() -> None:
    """exp(−2 δ²/n) = ε."""
    assert math.exp(-2 * deviation(1e6, 1e-4) ** 2 / 1e6) == pytest.approx(1e-4)
    assert deviation(0, 1e-4) == 0


def test_serfling_is_exact_enough() -> None:
    """Held against the hypergeometric distribution itself, where its tail can be summed."""
    sample, rest, epsilon = 60, 90, 0.2
    gamma = serfling(epsilon, sample, rest)
    for wrong in range(sample + rest + 1):
        population = math.comb(sample + rest, sample)
        tail = sum(
            math.comb(wrong, seen) * math.comb(sample + rest - wrong, sample - seen)
            for seen in range(min(wrong, sample) + 1)
            if wrong - seen <= rest and (wrong - seen) / rest >= seen / sample + gamma
        )
        assert tail / population <= epsilon**2


def test_sampling_terms_fall_with_the_sample_and_never_vanish() -> None:
    assert serfling(1e-10, 1e4, 1e6) > serfling(1e-10, 1e5, 1e6) > serfling(1e-10, 1e5, 1e7) > 0
    assert fung(1e-10, 0.02, 1e4, 1e6) > fung(1e-10, 0.02, 1e5, 1e6) > fung(1e-10, 0.02, 1e5, 1e7) > 0
    assert fung(1e-10, 0.0, 1e5, 1e6) == fung(1e-10, 1e-5, 1e5, 1e6) > 1e-5


@given(bound=st.sampled_from(Bound), data=st.data())
def test_any_counts(bound: Bound, data: st.DataObject) -> None:
    """Whatever was counted, the estimates are finite, in range, and no error of the program."""
    protocol = replace(WIESEMANN if bound.decoys == 1 else TWO_DECOYS, bound=bound)
    entries = 1 + bound.decoys

    def tally() -> tuple[tuple[int, ...], tuple[int, ...]]:
        clicks = data.draw(st.tuples(*[st.integers(0, 10**12)] * entries))
        return clicks, tuple(data.draw(st.integers(0, count)) for count in clicks)

    key, test = tally(), tally()
    proven = bounds.estimate(protocol, Counts(*key, *test))
    assert 0 <= proven.vacuum <= sum(key[0])
    assert 0 <= proven.single <= sum(key[0])
    assert 0 <= proven.test_single <= sum(test[0])
    assert 0 <= proven.phase_error <= 0.5
    length = bounds.key_length(protocol, proven.vacuum, proven.single, proven.phase_error, 0)
    assert 0 <= length <= 2 * sum(key[0])


@pytest.mark.parametrize(
    "counts",
    [
        Counts((1,), (0,), (1,), (0,)),
        Counts((1, 1), (2, 0), (1, 1), (0, 0)),
        Counts((1, 1), (0, 0), (1, 1), (0, -1)),
        Counts((1, 1), (0, 0), (1, 1, 1), (0, 0, 0)),
    ],
)
def test_counts_that_cannot_be(counts: Counts) -> None:
    with pytest.raises(ProgramError):
        bounds.estimate(WIESEMANN, counts)


def test_no_negative_key() -> None:
    assert bounds.key_length(WIESEMANN, 0, 100, 0.5, 10**9) == 0
    for wrong in (math.nan, -1.0):
        with pytest.raises(ProgramError):
            bounds.key_length(WIESEMANN, 0, wrong, 0.1, 0)


@pytest.mark.parametrize(
    ("base", "change"),
    [
        (WIESEMANN, {"intensities": (0.5, 0.15, 0.0)}),
        (WIESEMANN, {"intensities": (0.15, 0.5)}),
        (WIESEMANN, {"intensities": (0.5, 0.5)}),
        (WIESEMANN, {"intensities": (0.5, 0.0)}),
        (WIESEMANN, {"intensities": (0.5, math.nan)}),
        (WIESEMANN, {"intensities": (11.0, 0.1)}),
        (WIESEMANN, {"intensity_probabilities": (0.9, 0.2)}),
        (WIESEMANN, {"intensity_probabilities": (1.0, 0.0)}),
        (WIESEMANN, {"intensity_probabilities": (0.9, math.nan)}),
        (WIESEMANN, {"intensity_probabilities": (0.8, 0.1, 0.1)}),
        (WIESEMANN, {"key_basis_probability": 1.0}),
        (WIESEMANN, {"epsilon_sec": 0.0}),
        (WIESEMANN, {"epsilon_sec": 1.0}),
        (WIESEMANN, {"epsilon_cor": math.nan}),
        (WIESEMANN, {"qber_most": 0.5}),
        (WIESEMANN, {"bound": Bound.LIM}),
        (TWO_DECOYS, {"intensities": (0.5, 0.3, 0.2)}),
        (TWO_DECOYS, {"intensities": (0.5, 0.2, 0.2)}),
        (TWO_DECOYS, {"intensities": (0.5, 0.2, -0.1)}),
        (TWO_DECOYS, {"bound": Bound.RUSCA}),
    ],
)
def test_protocols_without_a_proof(base: Protocol, change: dict[str, object]) -> None:
    with pytest.raises(OperatorError) as caught:
        replace(base, **change)
    assert caught.value.code == "config.value"


def test_a_weakest_decoy_of_nothing() -> None:
    """μ3 = 0 is allowed: real vacuum pulses."""
    protocol = replace(TWO_DECOYS, intensities=(0.5, 0.15, 0.0))
    assert bits_per_pulse(protocol, fibre(50), 10**11) > 1e-3
