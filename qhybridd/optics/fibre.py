"""The fibre as time passes: loss, slow drifts, noise from classical channels, and what can happen to it.

Formulas and their sources: docs/optics.md.
"""

import math
from dataclasses import dataclass
from typing import Final

from qhybridd.errors import ProgramError
from qhybridd.optics.parameters import GATE_FWHM_TO_SIGMA, Fibre, transmission_of
from qhybridd.optics.randomness import Randomness
from qhybridd.optics.records import Light

PLANCK_J_S: Final = 6.62607015e-34
LIGHT_M_PER_S: Final = 299_792_458.0
DISTURBANCE_END: Final = 20.0
"""Time constants after which a disturbance is over: e^-20 of it is left."""


@dataclass(frozen=True, slots=True)
class Conditions:
    """What the fibre does to light now."""

    transmission: float
    """Share of the photons that come out."""
    noise_photons: float
    """Mean number of unpolarised photons for each pulse at the fibre's end, in the time of a gate."""
    light: Light


@dataclass(slots=True, eq=False)
class _Disturbance:
    angle_rad: float
    constant_s: float
    left_s: float


class FibreState:
    """The fibre as time passes. Faults are attributes, to be set at any time and from any thread; they hold until they
    are set back."""

    def __init__(self, fibre: Fibre, repetition_hz: float, gate_ps: float, randomness: Randomness) -> None:
        """`gate_ps` is the full width at half maximum of the receiver's gate: what noise gets through it."""
        self.cut = False
        """No light passes, quantum or classical."""
        self.extra_loss_db = 0.0
        self.loss_db_per_hour = 0.0
        """A slow degradation: so much more is lost with each hour, until it is set back to 0 and so mended."""
        self.extra_angle_rad = 0.0
        self._fibre = fibre
        self._noise_photons = raman_photons(fibre, open_gate_s(gate_ps, repetition_hz))
        self._nature = randomness.generator("drift")
        self._angle_rad = 0.0
        self._delay_ps = 0.0
        self._grown_db = 0.0
        self._disturbances: list[_Disturbance] = []

    def disturb(self, strength_rad: float, seconds: float) -> None:
        """Somebody touches it: the angle jumps by `strength_rad` and comes back with a time constant of `seconds`."""
        if not (math.isfinite(strength_rad) and 0 < seconds < math.inf):
            raise ProgramError("program.argument", f"a disturbance of {strength_rad} rad for {seconds} s")
        self._disturbances.append(_Disturbance(strength_rad, seconds, seconds * DISTURBANCE_END))

    def step(self, seconds: float) -> Conditions:
        """What it does after so much more time."""
        if not 0 <= seconds < math.inf:
            raise ProgramError("program.argument", f"a step of {seconds} s")
        turn, late = self._nature.standard_normal(2) * math.sqrt(seconds)
        self._angle_rad += self._fibre.drift_rad_per_sqrt_s * float(turn)
        self._delay_ps += self._fibre.delay_drift_ps_per_sqrt_s * float(late)
        worse_db = self.loss_db_per_hour * seconds / 3600.0
        self._grown_db = self._grown_db + worse_db if self.loss_db_per_hour else 0.0
        for disturbance in list(self._disturbances):
            disturbance.angle_rad *= math.exp(-seconds / disturbance.constant_s)
            disturbance.left_s -= seconds
            if disturbance.left_s <= 0:
                self._disturbances.remove(disturbance)
        angle = self._angle_rad + self.extra_angle_rad + sum(one.angle_rad for one in list(self._disturbances))
        extra = 0.0 if self.cut else min(1.0, transmission_of(self.extra_loss_db + self._grown_db))
        return Conditions(
            self._fibre.transmission * extra,
            self._noise_photons * extra,
            Light(angle, self._delay_ps),
        )


def open_gate_s(gate_ps: float, repetition_hz: float) -> float:
    """How long a gate is open, weighted with its efficiency: the area under a normal curve, at most a period."""
    area = gate_ps * 1e-12 * math.sqrt(2 * math.pi) / GATE_FWHM_TO_SIGMA
    return min(area, 1 / repetition_hz)


def raman_w(fibre: Fibre) -> float:
    """Power that the classical channels scatter into the receiver's filter, at the fibre's end.

    All of them run along with the quantum channel, so what is scattered anywhere has lost as much as what is scattered
    at the end: P ρ Δλ L T (Eraerds et al., New J. Phys. 12, 063027 (2010), the forward case with equal losses).
    """
    launched = fibre.classical_channels * 1e-3 * 10 ** (fibre.classical_dbm / 10)
    return float(launched * fibre.raman_per_km_nm * fibre.filter_nm * fibre.length_km * fibre.transmission)


def raman_photons(fibre: Fibre, open_s: float) -> float:
    """Mean number of them in the time of one gate; counted in all polarisations, as the coefficient is measured."""
    photon_j = PLANCK_J_S * LIGHT_M_PER_S / (fibre.wavelength_nm * 1e-9)
    return raman_w(fibre) / photon_j * open_s
