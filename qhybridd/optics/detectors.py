"""What a data sheet says of gated avalanche diodes, as probabilities for each gate: closed forms, no state."""

import math
from typing import Final

from qhybridd.optics.parameters import GATE_FWHM_TO_SIGMA, Detector, Receiver, transmission_of

PHOTON_J: Final = 6.62607015e-34 * 299792458.0 / 1550e-9
"""Energy of a photon of 1550 nm."""
CAPTURE_WIDTHS: Final = 2.0
"""Standard deviations of gate and jitter from its middle where a detector still sees 14 % of the light."""
SECONDS_A_YEAR: Final = 365.25 * 86400.0


def gate_sigma_ps(detector: Detector) -> float:
    """Standard deviation of the normal curve that is the detector's efficiency over time."""
    return detector.gate_ps / GATE_FWHM_TO_SIGMA


def gate_efficiency(detector: Detector, time_ps: float) -> float:
    """Mean efficiency for light that comes at `time_ps` of the receiver's clock, over that in the middle of the gate.

    Two normal curves convolved, the jitter's (a density) and the gate's (1 at its middle):
    σ_g / √(σ_g² + σ_j²) · exp(-(t - t_g)² / (2 (σ_g² + σ_j²))).
    """
    gate = gate_sigma_ps(detector)
    both = gate**2 + detector.jitter_ps**2
    return gate / math.sqrt(both) * math.exp(-((time_ps - detector.gate_offset_ps) ** 2) / (2.0 * both))


def follow_of(detector: Detector) -> float:
    """By how much the mean time of clicks moves when the light does: σ_g² / (σ_g² + σ_j²), held back by the gate."""
    gate = gate_sigma_ps(detector) ** 2
    return gate / (gate + detector.jitter_ps**2)


def click_spread_ps(detector: Detector) -> float:
    """Standard deviation of the times of clicks of light: the product of both curves, σ_g σ_j / √(σ_g² + σ_j²)."""
    return detector.jitter_ps * math.sqrt(follow_of(detector))


def dark_probability(detector: Detector, repetition_hz: float) -> float:
    """Of a dark count in one gate: 1 - exp(-rate / repetition), as the rate is told for a gate that is always open."""
    return -math.expm1(-detector.dark_hz / repetition_hz)


def background_photons(detector: Detector, repetition_hz: float, background_w: float) -> float:
    """Photons of continuous light that the detector would see in one gate, its efficiency and loss not counted.

    The power over the photon's energy, times the area below the gate's curve, √(2π) σ_g; half of it falls on either.
    """
    open_s = min(math.sqrt(2.0 * math.pi) * gate_sigma_ps(detector) * 1e-12, 1.0 / repetition_hz)
    return 0.5 * background_w / PHOTON_J * open_s


def dead_gates(receiver: Receiver, repetition_hz: float) -> int:
    """Gates that are lost after each click: the dead time in periods, rounded to the nearest."""
    return round(receiver.dead_time_ns * 1e-9 * repetition_hz)


def middle_ps(receiver: Receiver) -> float:
    """Where the receiver's clock puts the light: halfway between the middles of both gates."""
    return (receiver.detectors[0].gate_offset_ps + receiver.detectors[1].gate_offset_ps) / 2.0


def capture_ps(receiver: Receiver) -> float:
    """Offset beyond which the clock loses the light: where a gate sees too little of it there is nothing to follow."""
    widths = (math.hypot(gate_sigma_ps(detector), detector.jitter_ps) for detector in receiver.detectors)
    return min(receiver.capture_ps, CAPTURE_WIDTHS * min(widths))


def receiver_transmission(receiver: Receiver) -> float:
    """Of everything before the detectors."""
    return transmission_of(receiver.loss_db)


def efficiencies(receiver: Receiver) -> tuple[float, float]:
    """Of each detector, for light in the middle that the clock keeps, jitter and gate included."""
    middle = middle_ps(receiver)
    first, second = receiver.detectors
    return first.efficiency * gate_efficiency(first, middle), second.efficiency * gate_efficiency(second, middle)


def kept_shares(receiver: Receiver) -> tuple[float, float]:
    """Share of each detector's clicks that the receiver keeps, so that both count as if they were equally efficient."""
    first, second = efficiencies(receiver)
    least = min(first, second)
    return (least / first if first else 1.0, least / second if second else 1.0)
