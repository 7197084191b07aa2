"""Closed forms: what a link does on average, and how far a key reaches with an unlimited number of pulses.

The simulation is held against them, and blocks are planned with them. Sources and derivations: docs/optics.md. "Ma" is
X. Ma, B. Qi, Y. Zhao, H.-K. Lo, Phys. Rev. A 72, 012326 (2005), quant-ph/0503005.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Final

from qhybridd.errors import ProgramError
from qhybridd.optics.detectors import dark_probability, dead_gates, efficiencies, kept_shares
from qhybridd.optics.fibre import open_gate_s, raman_photons
from qhybridd.optics.parameters import Optics, transmission_of
from qhybridd.optics.source import poisson, spread_levels

NOISE_ERROR: Final = 0.5
"""e_0: error rate of clicks without light."""


@dataclass(frozen=True, slots=True)
class ExpectedCounts:
    """Clicks and errors to expect of a block, one entry for each intensity: no whole numbers."""

    key_clicks: tuple[float, ...]
    key_errors: tuple[float, ...]
    test_clicks: tuple[float, ...]
    test_errors: tuple[float, ...]


def expected_counts(optics: Optics, pulses: int, angle_rad: float = 0.0) -> ExpectedCounts:
    """What a link gives in a block of so many pulses: calibrated to `angle_rad`, in step, with nobody in between.

    Loss, both detectors' efficiencies and gates, dark counts, visibility, Raman noise, dead time and afterpulses are in
    it; an ageing of the detectors, and the seconds of a calibration, are not.
    """
    return Receiving(optics, angle_rad).counts(pulses)


class Receiving:
    """The probabilities of one gate of the link's receiver, and what follows from them over many."""

    def __init__(self, optics: Optics, angle_rad: float = 0.0) -> None:
        """Calibrated to `angle_rad`."""
        self._source, receiver = optics.source, optics.receiver
        self._angle_rad = angle_rad
        self._visibility = receiver.visibility
        best = max(detector.efficiency for detector in receiver.detectors)
        self._seen = [one / best for one in efficiencies(receiver)]
        """Share of the thinned photons on a detector that it sees."""
        self._kept = kept_shares(receiver)
        """Share of its clicks that equalisation leaves, unless both clicked."""
        self._dark = [dark_probability(detector, self._source.repetition_hz) for detector in receiver.detectors]
        self._transmission = optics.fibre.transmission * receiver.thinning
        gate_ps = max(detector.gate_ps for detector in receiver.detectors)
        open_s = open_gate_s(gate_ps, self._source.repetition_hz)
        self._noise = raman_photons(optics.fibre, open_s) * receiver.thinning
        self._factors = spread_levels(self._source.intensity_spread)
        self._rate()
        self._memory(optics)

    def _clicks(self, mean: float, share: float) -> tuple[float, float, float]:
        """Probabilities that only the first detector clicks, only the second, both: for `mean` photons that reach the
        fibre's end and are not thinned out, of which `share` go to the second."""
        to_second = share * self._visibility + (1 - self._visibility) / 2
        first, second = (
            1 - (1 - dark) * math.exp(-seen * (mean * part + self._noise / 2))
            for seen, part, dark in zip(self._seen, (1 - to_second, to_second), self._dark, strict=True)
        )
        return first * (1 - second), second * (1 - first), first * second

    def _of_intensity(self, intensity: float, share: float) -> tuple[float, float, float]:
        """The same, the fluctuation of the intensity averaged out."""
        columns = zip(
            *(self._clicks(intensity * factor * self._transmission, share) for factor in self._factors), strict=True
        )
        first, second, both = (math.fsum(column) / len(self._factors) for column in columns)
        return first, second, both

    def _rate(self) -> None:
        """Probability of a click in a gate that is live, all bases and intensities together."""
        self._physical = [0.0, 0.0]
        """Of each detector alone, or of both and counted by halves."""
        key = self._source.key_basis_probability
        weights = {0.0: key**2 + (1 - key) ** 2, math.pi / 4: 2 * key * (1 - key)}
        for (apart, weight), (intensity, probability), bit in product(
            weights.items(),
            zip(self._source.intensities, self._source.intensity_probabilities, strict=True),
            (0, 1),
        ):
            share = math.sin(apart + bit * math.pi / 2 + self._angle_rad) ** 2
            first, second, both = self._of_intensity(intensity, share)
            self._physical[0] += weight * probability / 2 * (first + both / 2)
            self._physical[1] += weight * probability / 2 * (second + both / 2)

    def _memory(self, optics: Optics) -> None:
        """Dead time and afterpulses."""
        receiver, repetition_hz = optics.receiver, optics.source.repetition_hz
        dead = dead_gates(receiver, repetition_hz)
        rate = math.fsum(self._physical)
        after = [
            detector.afterpulse_probability * survival(rate, dead, detector.afterpulse_decay_ns * 1e-9 * repetition_hz)
            for detector in receiver.detectors
        ]
        self._after = [alone * again / (1 - again) for alone, again in zip(self._physical, after, strict=True)]
        """Afterpulses of each detector in a live gate, those of afterpulses included."""
        self.live = live_share(rate + math.fsum(self._after), dead)
        """Share of the gates in which the detectors are not dead."""
        self.click_probability = self.live * (rate + math.fsum(self._after))
        """Clicks for each pulse, whatever the bases; before equalisation."""

    def counts(self, pulses: int) -> ExpectedCounts:
        """Clicks and errors of a block."""
        key = self._source.key_basis_probability
        clicks, errors = [], []
        for intensity, probability in zip(self._source.intensities, self._source.intensity_probabilities, strict=True):
            good, bad = self._matched(intensity)
            clicks.append(pulses * self.live * probability * (good + bad))
            errors.append(pulses * self.live * probability * bad)

        def share(of_all: Sequence[float], basis: float) -> tuple[float, ...]:
            return tuple(value * basis**2 for value in of_all)

        return ExpectedCounts(share(clicks, key), share(errors, key), share(clicks, 1 - key), share(errors, 1 - key))

    def _matched(self, intensity: float) -> tuple[float, float]:
        """Right and wrong clicks of a live gate where the bases match, after equalisation."""
        good = bad = math.fsum(kept * after / 2 for kept, after in zip(self._kept, self._after, strict=True))
        for bit in (0, 1):
            found = self._of_intensity(intensity, math.sin(bit * math.pi / 2 + self._angle_rad) ** 2)
            good += (found[bit] * self._kept[bit] + found[2] / 2) / 2
            bad += (found[1 - bit] * self._kept[1 - bit] + found[2] / 2) / 2
        return good, bad


def live_share(rate: float, dead: int) -> float:
    """Share of the gates that are live where each click of probability `rate` in a live one kills the next `dead`."""
    return 1 / (1 + rate * dead)


def survival(rate: float, dead: int, decay: float) -> float:
    """That an afterpulse finds its detector live: it comes an exponential time of mean `decay` after a dead time, other
    clicks come with probability `rate` in a live gate and kill the next `dead`; all times in gates.

    An alternating renewal process that begins live is so at a geometric time, z = e^(-1/decay) to the next gate, with
    probability (1 − z) / (1 − (1 − r) z − r z^(D+1)).
    """
    each = math.exp(-1 / decay)
    return (1 - each) / (1 - (1 - rate) * each - rate * each ** (dead + 1))


# decoy-state BB84 with an unlimited number of pulses


@dataclass(frozen=True, slots=True)
class Channel:
    """Ma's model of a channel with threshold detectors."""

    transmission: float
    """η, of fibre, receiver and detectors."""
    background: float
    """Y_0: clicks for each pulse without light."""
    misalignment: float
    """e_detector: error rate of the clicks that light makes."""

    def photon_yield(self, photons: int) -> float:
        """Y_n (Ma equations 6 and 7, small products left out as in the paper)."""
        return self.background - math.expm1(photons * math.log1p(-self.transmission))

    def photon_error(self, photons: int) -> float:
        """e_n (Ma equation 9)."""
        light = self.photon_yield(photons) - self.background
        return (NOISE_ERROR * self.background + self.misalignment * light) / self.photon_yield(photons)

    def gain(self, intensity: float) -> float:
        """Q_μ (Ma equation 10)."""
        return self.background - math.expm1(-self.transmission * intensity)

    def error(self, intensity: float) -> float:
        """E_μ (Ma equation 11)."""
        light = -math.expm1(-self.transmission * intensity)
        return (NOISE_ERROR * self.background + self.misalignment * light) / self.gain(intensity)


@dataclass(frozen=True, slots=True)
class Experiment:
    """A published set of parameters."""

    loss_db_per_km: float
    receiver_transmission: float
    """η_Bob, detectors included."""
    background: float
    misalignment: float
    efficiency: float
    """f of error correction: what it discloses over Shannon's limit."""

    def channel(self, length_km: float) -> Channel:
        """The whole at a distance."""
        fibre = transmission_of(length_km * self.loss_db_per_km)
        return Channel(fibre * self.receiver_transmission, self.background, self.misalignment)


GYS: Final = Experiment(0.21, 0.045, 1.7e-6, 0.033, 1.22)
"""C. Gobby, Z. L. Yuan, A. J. Shields, Appl. Phys. Lett. 84, 3762 (2004), as in Ma's table I; f = 1.22 as there."""


def entropy(probability: float) -> float:
    """h, the binary one."""
    if not 0 < probability < 1:
        return 0.0
    return -probability * math.log2(probability) - (1 - probability) * math.log2(1 - probability)


def decoy_rate(channel: Channel, signal: float, efficiency: float, sifting: float = 0.5) -> float:
    """Secret bits a pulse with infinitely many decoys: single photons' yield and error are known (Ma equation 1)."""
    single = signal * math.exp(-signal) * channel.photon_yield(1)
    return _rate(channel, signal, (single, channel.photon_error(1)), efficiency, sifting)


def weak_decoy_rate(channel: Channel, signal: float, weak: float, efficiency: float, sifting: float = 0.5) -> float:
    """Secret bits a pulse with a weak decoy and a vacuum (Ma equations 1, 34, 35 and 37)."""
    if not 0 < weak < signal:
        raise ProgramError("program.argument", "a decoy is weaker than the signal")
    return _rate(channel, signal, weak_decoy_bounds(channel, signal, weak), efficiency, sifting)


def weak_decoy_bounds(channel: Channel, signal: float, weak: float) -> tuple[float, float]:
    """Least gain Q_1 and greatest error e_1 of single photons (Ma equations 35 and 37)."""
    share = weak**2 / signal**2
    tagged = channel.gain(signal) * math.exp(signal) * share + (1 - share) * channel.background
    gained = channel.gain(weak) * math.exp(weak)
    least = signal / (signal * weak - weak**2) * (gained - tagged)
    wrong = channel.error(weak) * gained - NOISE_ERROR * channel.background
    return signal * math.exp(-signal) * least, wrong / (least * weak)


def bare_rate(channel: Channel, signal: float, efficiency: float, sifting: float = 0.5) -> float:
    """Secret bits a pulse without decoys: every pulse of two photons and more is taken for a click, and all errors for
    the others' (D. Gottesman, H.-K. Lo, N. Lütkenhaus, J. Preskill, Quantum Inf. Comput. 4, 325 (2004), equation 51 in
    the form of H.-K. Lo, X. Ma, K. Chen, Phys. Rev. Lett. 94, 230504 (2005))."""
    gain = channel.gain(signal)
    single = gain - multi_photon_probability(signal)
    if single <= 0:
        return 0.0
    return _rate(channel, signal, (single, channel.error(signal) * gain / single), efficiency, sifting)


def _rate(channel: Channel, signal: float, single: tuple[float, float], efficiency: float, sifting: float) -> float:
    """q (Q_1 (1 − h(e_1)) − Q_μ f h(E_μ)), not below 0 (Ma equation 1)."""
    gain, error = single
    if gain <= 0 or error >= NOISE_ERROR:
        return 0.0
    disclosed = efficiency * channel.gain(signal) * entropy(channel.error(signal))
    return max(0.0, sifting * (gain * (1 - entropy(error)) - disclosed))


def best_signal(rate: Callable[[float], float], least: float = 0.0, most: float = 1.0) -> float:
    """The intensity in an interval for which a rate with one maximum is largest, to 1e-4; golden section."""
    ratio = (math.sqrt(5) - 1) / 2
    while most - least > 1e-4:
        low, high = most - ratio * (most - least), least + ratio * (most - least)
        least, most = (low, most) if rate(low) < rate(high) else (least, high)
    return (least + most) / 2


def reach_km(rate: Callable[[float], float], most_km: float = 1000.0) -> float:
    """The distance up to which a rate that falls with distance is above 0, to a metre."""
    least_km = 0.0
    while most_km - least_km > 1e-3:
        middle = (least_km + most_km) / 2
        least_km, most_km = (middle, most_km) if rate(middle) > 0 else (least_km, middle)
    return least_km


# attacks


def intercepted_error(error: float, fraction: float) -> float:
    """QBER where a fraction of the pulses is measured in one of two bases at random and sent again as measured: half of
    them in the wrong basis, with random results (C. H. Bennett et al., J. Cryptology 5, 3 (1992))."""
    return error + fraction * (0.5 - error) / 2


def multi_photon_probability(intensity: float) -> float:
    """Of two photons or more in a pulse."""
    return 1 - poisson(intensity, 0) - poisson(intensity, 1)


def splitting_transmission(intensity: float) -> float:
    """The transmission below which one who splits off a photon of each pulse with more, blocks all others, and has a
    lossless way to the receiver can give it the clicks that it expects of this intensity (G. Brassard, N. Lütkenhaus,
    T. Mor, B. C. Sanders, Phys. Rev. Lett. 85, 1330 (2000), without noise)."""
    return -math.log1p(-multi_photon_probability(intensity)) / intensity
