"""What a simulated link is made of, in the units of data sheets. Slow changes, faults and attacks come on top.

Defaults are an InGaAs receiver behind 50 km of standard fibre. Every record raises `OperatorError` (config.value) for
a number that nothing could have.
"""

import math
from dataclasses import dataclass, fields, replace
from typing import Final

from qhybridd.errors import OperatorError

GATE_FWHM_TO_SIGMA: Final = 2.0 * math.sqrt(2.0 * math.log(2.0))
"""Full width at half maximum of a normal curve over its standard deviation."""


def transmission_of(loss_db: float) -> float:
    """10^(-loss/10)."""
    return float(10.0 ** (-loss_db / 10.0))


def _check(record: object, **bounds: tuple[float, float]) -> None:
    known = {field.name for field in fields(record)}  # type: ignore[arg-type]  # the records of this module
    for name, (least, most) in bounds.items():
        assert name in known
        if not least <= getattr(record, name) <= most:
            raise _wrong(name, f"a number from {least:g} to {most:g}")


def _check_shares(name: str, shares: tuple[float, ...]) -> None:
    if not all(0 < share <= 1 for share in shares) or abs(math.fsum(shares) - 1) > 1e-9:
        raise _wrong(name, "numbers above 0 with a sum of 1")


def _wrong(name: str, wanted: str) -> OperatorError:
    return OperatorError("config.value", f"{name}: wanted is {wanted}")


@dataclass(frozen=True, slots=True)
class Source:
    """Phase-randomised weak coherent pulses: Poissonian photon numbers, in one of four states."""

    intensities: tuple[float, ...] = (0.4, 0.12)
    """Mean photon numbers, the brightest first."""
    intensity_probabilities: tuple[float, ...] = (0.7, 0.3)
    key_basis_probability: float = 0.8
    repetition_hz: float = 1e9
    intensity_spread: float = 0.0
    """Standard deviation of a pulse's intensity over its mean; a normal distribution cut at three of them."""

    def __post_init__(self) -> None:
        if not 1 <= len(self.intensities) <= 4 or len(self.intensities) != len(self.intensity_probabilities):
            raise _wrong("intensities", "one to four of them, with as many probabilities")
        if not all(0 <= intensity <= 10 for intensity in self.intensities) or self.intensities[0] <= 0:
            raise _wrong("intensities", "mean photon numbers from 0 to 10, the first one above 0")
        if max(self.intensities) != self.intensities[0]:
            raise _wrong("intensities", "the brightest first")
        _check_shares("intensity_probabilities", self.intensity_probabilities)
        _check(self, key_basis_probability=(0.0, 1.0), repetition_hz=(1e3, 1e11), intensity_spread=(0.0, 0.3))


@dataclass(frozen=True, slots=True)
class Fibre:
    """A fibre, and what slowly happens to it."""

    length_km: float = 50.0
    loss_db_per_km: float = 0.2
    connectors: int = 2
    connector_db: float = 0.25
    splice_every_km: float = 4.0
    splice_db: float = 0.02
    drift_rad_per_sqrt_s: float = 5e-4
    """The angle by which it turns the light walks randomly: its standard deviation after one second."""
    delay_drift_ps_per_sqrt_s: float = 0.5
    """So does the time that light takes."""
    classical_channels: int = 0
    """Wavelengths with data beside the quantum channel, all in the same direction."""
    classical_dbm: float = 0.0
    """Launch power of each."""
    raman_per_km_nm: float = 2e-9
    """Spontaneous Raman scattering: power scattered into a nanometre over the launched power, for each kilometre."""
    filter_nm: float = 0.1
    """Width of the receiver's filter."""
    wavelength_nm: float = 1550.0

    def __post_init__(self) -> None:
        _check(self, length_km=(0.0, 1000.0), loss_db_per_km=(0.0, 10.0), connectors=(0, 100), connector_db=(0.0, 10.0))
        _check(self, splice_every_km=(0.1, 1000.0), splice_db=(0.0, 3.0), drift_rad_per_sqrt_s=(0.0, 10.0))
        _check(self, delay_drift_ps_per_sqrt_s=(0.0, 1e6), classical_channels=(0, 200), classical_dbm=(-60.0, 30.0))
        _check(self, raman_per_km_nm=(0.0, 1e-6), filter_nm=(1e-3, 100.0), wavelength_nm=(400.0, 2000.0))

    @property
    def loss_db(self) -> float:
        """Of the whole: glass, connectors, splices."""
        splices = math.floor(self.length_km / self.splice_every_km)
        return self.length_km * self.loss_db_per_km + self.connectors * self.connector_db + splices * self.splice_db

    @property
    def transmission(self) -> float:
        """Share of the photons that come out."""
        return transmission_of(self.loss_db)


@dataclass(frozen=True, slots=True)
class Detector:
    """A gated single-photon avalanche diode."""

    efficiency: float = 0.2
    """Of a photon in the middle of the gate."""
    dark_hz: float = 500.0
    """Dark counts for each second of open gate time, taken as if the gate were open all the time."""
    afterpulse_probability: float = 0.01
    """Afterpulses for each click, dead time over."""
    afterpulse_decay_ns: float = 100.0
    """They come with this time constant after the dead time."""
    jitter_ps: float = 40.0
    """Standard deviation of the time that it tells."""
    gate_ps: float = 500.0
    """Full width at half maximum of its efficiency over time: a normal curve."""
    gate_offset_ps: float = 0.0
    """Middle of that curve against the receiver's clock: two detectors differ."""
    ageing_per_year: float = 0.02
    """Share of its efficiency that it loses in a year."""
    blinding_w: float = 1e-9
    """Continuous power from which on it stays in linear mode: no photon and no dark count makes it click."""
    linear_photons: float = 1e5
    """In linear mode it clicks for a pulse that puts so many photons on it, and for nothing less."""
    responsivity_a_per_w: float = 1.0
    """Photocurrent that its bias monitor sees for continuous light."""

    def __post_init__(self) -> None:
        _check(self, efficiency=(1e-6, 1.0), dark_hz=(0.0, 1e9), afterpulse_probability=(0.0, 0.5))
        _check(self, afterpulse_decay_ns=(0.1, 1e6), jitter_ps=(0.0, 1e5), gate_ps=(1.0, 1e6))
        _check(self, gate_offset_ps=(-1e5, 1e5), ageing_per_year=(0.0, 1.0), blinding_w=(1e-15, 1.0))
        _check(self, linear_photons=(1.0, 1e9), responsivity_a_per_w=(0.0, 1e3))


@dataclass(frozen=True, slots=True)
class Receiver:
    """Bob: a modulator that chooses the basis for each gate, and two detectors."""

    detectors: tuple[Detector, Detector] = (Detector(efficiency=0.2), Detector(efficiency=0.19, gate_offset_ps=20.0))
    """For the bits 0 and 1."""
    loss_db: float = 2.5
    """Of filter, modulator and connectors before the detectors."""
    visibility: float = 0.98
    """Of the interference: (1 - visibility) / 2 of the light goes to the wrong detector, however well aligned."""
    dead_time_ns: float = 50.0
    """After any click no detector is looked at: a live one beside a dead one would tell the bit."""
    calibrate_above_rad: float = 0.06
    """Misalignment that the reference light must show for the receiver to calibrate anew."""
    calibration_s: float = 2.0
    """For so long a calibration gives no clicks."""
    reference_photons: float = 1e6
    """Of the reference light in a frame: the angle is read with a standard deviation of 1 / (2 √photons)."""
    capture_ps: float = 300.0
    """Timing offset beyond which the clock loses its lock; two widths of gate and jitter where they are less."""
    reacquire_s: float = 1.0
    """What finding the lock again takes."""
    current_most_a: float = 1e-10
    """Photocurrent above which a detector counts as blinded."""
    timing_spread_most: float = 1.3
    """The clicks' spread in time over what jitter and gate explain, above which somebody shifts pulses."""
    imbalance_most: float = 0.03
    """Difference between the two detectors' clicks over their sum, beyond statistics, that gives no key."""

    def __post_init__(self) -> None:
        _check(self, loss_db=(0.0, 60.0), visibility=(0.0, 1.0), dead_time_ns=(0.0, 1e7))
        _check(self, calibrate_above_rad=(1e-4, 2.0), calibration_s=(0.0, 3600.0), reference_photons=(1.0, 1e15))
        _check(self, capture_ps=(1.0, 1e9), reacquire_s=(0.0, 3600.0), current_most_a=(0.0, 1.0))
        _check(self, timing_spread_most=(1.0, 100.0), imbalance_most=(0.0, 1.0))

    @property
    def thinning(self) -> float:
        """Share of the photons at the receiver's input that its better detector sees in the middle of the gate."""
        return transmission_of(self.loss_db) * max(detector.efficiency for detector in self.detectors)


@dataclass(frozen=True, slots=True)
class Optics:
    """A whole link."""

    source: Source = Source()
    fibre: Fibre = Fibre()
    receiver: Receiver = Receiver()

    def with_length(self, length_km: float) -> "Optics":
        """The same link with another length of fibre."""
        return replace(self, fibre=replace(self.fibre, length_km=length_km))
