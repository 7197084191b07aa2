"""Bob: what arrives in a frame becomes clicks of two detectors, and his instruments tell how they are."""

import math
from typing import Final

import numpy as np
from numpy.typing import NDArray

from qhybridd import _native
from qhybridd.errors import ProgramError
from qhybridd.optics.alignment import Alignment
from qhybridd.optics.blocks import assemble
from qhybridd.optics.clock import ReceiverClock
from qhybridd.optics.detectors import (
    PHOTON_J,
    SECONDS_A_YEAR,
    background_photons,
    capture_ps,
    dead_gates,
    kept_shares,
    receiver_transmission,
)
from qhybridd.optics.monitors import judge, light_spread, noise_square_ps2
from qhybridd.optics.noise import draw_darks, draw_traps
from qhybridd.optics.parameters import Receiver, Source
from qhybridd.optics.randomness import Randomness
from qhybridd.optics.records import Arrivals, Detections, Health, Light
from qhybridd.optics.response import frame_physics, gate_curves, gate_factors, light_shares, normal_quantiles

__all__ = ["Station", "assemble", "judge"]

FRAME_PULSES_MOST: Final = (1 << 32) - 1
TRAPS: Final = 1024
"""Carriers that wait in the traps of both diodes at most (csrc/detect.h)."""
AVALANCHE_C: Final = 2e-19
"""Charge of an avalanche that the slow monitor of the bias current sees: gates and avalanches are filtered off."""


class Station:
    """The receiver of a link, frame after frame. Faults may be set at any time and hold from the next frame on."""

    def __init__(self, receiver: Receiver, source: Source, randomness: Randomness) -> None:
        """Of `source` it knows the repetition rate and the bias towards the key basis."""
        self.thinning: Final = receiver.thinning
        """Share of the photons that it asks for: `Request.thinning`."""
        self.efficiency_factor = 1.0
        """Fault: of both detectors' efficiency."""
        self.dark_factor = 1.0
        """Fault: of both detectors' dark counts."""
        self.clock_offset_ps = 0.0
        """Fault: by how much later the light comes by the receiver's clock than it did without."""
        self._receiver = receiver
        self._repetition_hz = source.repetition_hz
        self._test_probability = 1.0 - source.key_basis_probability
        self._bases = randomness.child("bases")
        self._detection = randomness.child("detection")
        self._noise = self._detection.generator("noise")
        self._quantiles = normal_quantiles()
        self._dead = dead_gates(receiver, source.repetition_hz)
        self._clock = ReceiverClock(capture_ps(receiver), receiver.reacquire_s, self._noise)
        self._alignment = Alignment(receiver, self._noise)
        self._state = np.zeros(2 + TRAPS, np.uint64)
        self._end: int | None = None
        self._age_s = 0.0

    def detect(self, arrivals: Arrivals) -> Detections:
        """The clicks of one frame. A frame that does not follow the last one begins a new run, with fresh detectors.

        Raises `ProgramError` (program.argument) for a frame without pulses, or of 2^32 or more.
        """
        if not 0 < arrivals.pulses <= FRAME_PULSES_MOST:
            raise ProgramError("program.argument", f"a frame of {arrivals.pulses} pulses")
        light, lit = arrivals.light, arrivals.count > 0
        offset_ps = light.delay_ps + self.clock_offset_ps
        if arrivals.first != self._end:
            self._forget()
            self._clock.restart(offset_ps)
            self._alignment.restart(light.angle_rad)
        self._end = arrivals.first + arrivals.pulses
        seconds = arrivals.pulses / self._repetition_hz
        self._age_s += seconds
        read_rad, calibrating = (0.0, self._alignment.calibrating)
        if lit:
            read_rad, calibrating = self._alignment.step(light.angle_rad, seconds)
        synchronised = self._clock.step(offset_ps, seconds, lit)
        if calibrating or not synchronised:
            self._forget()
            return self._nothing(arrivals, seconds, synchronised, calibrating, read_rad)
        return self._look(arrivals, seconds, offset_ps, read_rad)

    def _forget(self) -> None:
        """No dead time goes on, and no carrier waits."""
        self._state[:2] = 0

    def _look(self, arrivals: Arrivals, seconds: float, offset_ps: float, read_rad: float) -> Detections:
        light, delays = arrivals.light, arrivals.delays_ps
        blind = self._blind(light)
        if any(blind):
            self._forget()
        error_ps = self._clock.error_ps(offset_ps)
        darks = (self._dark_probability(0, light, blind), self._dark_probability(1, light, blind))
        most = (arrivals.pulses - 1) // (self._dead + 1) + 1
        dark_places, dark_masks = draw_darks(self._noise, darks, arrivals.pulses, most)
        base = arrivals.count + len(dark_places) + int(self._state[1])
        avalanches_0, delays_0 = self._draw_traps(0, min(most, 4 * base + 1000), blind)
        avalanches_1, delays_1 = self._draw_traps(1, min(most, 4 * base + 1000), blind)
        looks = base + len(delays_0) + len(delays_1)
        room = min(looks, most)
        gaps, bases, bits = np.empty(room, np.uint32), np.empty(room, np.uint8), np.empty(room, np.uint8)
        chances = self._chances(blind)
        if delays is None:
            factors = gate_factors(self._receiver, error_ps)
            chances = (chances[0] * factors[0], chances[1] * factors[1])
        shares = light_shares(self._alignment.error_rad(light.angle_rad), self._receiver.visibility)
        linear = self._linear_photons(blind)
        physics = frame_physics(
            self._receiver, self._test_probability, shares=shares, chances=chances, linear=linear, error_ps=error_ps
        )
        count, first, second, doubles, fired_0, fired_1, total, squares = _native.detect(
            arrivals.first,
            arrivals.pulses,
            self._dead,
            np.ascontiguousarray(arrivals.gaps, np.uint32).data,
            np.ascontiguousarray(arrivals.states, np.uint8).data,
            np.ascontiguousarray(arrivals.photons, np.uint32).data,
            dark_places.data,
            dark_masks.data,
            avalanches_0.data,
            delays_0.data,
            avalanches_1.data,
            delays_1.data,
            self._bases.take(4 * looks),
            self._detection.take(8 * looks),
            physics.data,
            self._quantiles.data,
            None if delays is None else np.ascontiguousarray(delays, np.int16).data,
            None if delays is None else gate_curves(self._receiver, error_ps).data,
            self._state.data,
            gaps.data,
            bases.data,
            bits.data,
        )
        mean_ps = total / count if count else 0.0
        square_ps2 = max(0.0, squares - count * mean_ps**2) / max(1, count - 1)
        noise = self._expected_noise((fired_0, fired_1), arrivals.pulses)
        std_ps = light_spread(square_ps2, noise_square_ps2(self._receiver), count, noise)
        if std_ps:
            self._clock.follow(mean_ps, count)
        currents = self._currents(arrivals, seconds, (fired_0, fired_1), blind)
        health = Health((first, second), doubles, currents, mean_ps, std_ps, True, False, read_rad)
        return Detections(arrivals.first, arrivals.pulses, gaps[:count], bases[:count], bits[:count], health)

    def _nothing(
        self, arrivals: Arrivals, seconds: float, synchronised: bool, calibrating: bool, read_rad: float
    ) -> Detections:
        currents = self._currents(arrivals, seconds, (0, 0), self._blind(arrivals.light))
        health = Health((0, 0), 0, currents, 0.0, 0.0, synchronised, calibrating, read_rad)
        none = np.empty(0, np.uint8)
        return Detections(arrivals.first, arrivals.pulses, np.empty(0, np.uint32), none, none, health)

    def _blind(self, light: Light) -> tuple[bool, bool]:
        """Which detectors continuous light keeps in linear mode (Lydersen et al., Nature Photonics 4 (2010) 686)."""
        first, second = (light.background_w >= detector.blinding_w for detector in self._receiver.detectors)
        return first, second

    def _chances(self, blind: tuple[bool, bool]) -> tuple[float, float]:
        """That a photon on a detector in the middle of its gate makes it click, over the best efficiency of the data
        sheet: what thinning left to be lost here."""
        best = max(detector.efficiency for detector in self._receiver.detectors)
        first, second = (
            0.0
            if dazzled
            else min(
                1.0,
                self.efficiency_factor
                * detector.efficiency
                / best
                * math.pow(1.0 - detector.ageing_per_year, self._age_s / SECONDS_A_YEAR),
            )
            for detector, dazzled in zip(self._receiver.detectors, blind, strict=True)
        )
        return first, second

    def _linear_photons(self, blind: tuple[bool, bool]) -> tuple[float, float]:
        """Photons of a pulse, thinned as all light is, for which a detector in linear mode clicks."""
        first, second = (
            detector.linear_photons * self.thinning if dazzled else math.inf
            for detector, dazzled in zip(self._receiver.detectors, blind, strict=True)
        )
        return first, second

    def _dark_probability(self, which: int, light: Light, blind: tuple[bool, bool]) -> float:
        """Of a click in one gate that no pulse of the link makes: dark counts, and continuous light."""
        if blind[which]:
            return 0.0
        detector = self._receiver.detectors[which]
        photons = background_photons(detector, self._repetition_hz, light.background_w) * self.thinning
        darks = detector.dark_hz * self.dark_factor / self._repetition_hz
        return -math.expm1(-darks - photons * self._chances(blind)[which])

    def _draw_traps(
        self, which: int, avalanches: int, blind: tuple[bool, bool]
    ) -> tuple[NDArray[np.uint64], NDArray[np.uint32]]:
        detector = self._receiver.detectors[which]
        probability = 0.0 if blind[which] else detector.afterpulse_probability
        return draw_traps(
            self._noise, probability, detector.afterpulse_decay_ns * 1e-9 * self._repetition_hz, avalanches
        )

    def _expected_noise(self, avalanches: tuple[int, int], pulses: int) -> float:
        """How many of the kept clicks are dark counts or afterpulses, as far as Bob can tell: from data sheets, from
        the dark counts that he measures, and from the gates that dead time leaves."""
        live = max(0.0, 1.0 - sum(avalanches) * self._dead / pulses)
        noise = 0.0
        for which, detector in enumerate(self._receiver.detectors):
            darks = self._dark_probability(which, Light(), (False, False)) * pulses
            kept = kept_shares(self._receiver)[which]
            noise += (darks + detector.afterpulse_probability * avalanches[which]) * live * kept
        return noise

    def _currents(
        self, arrivals: Arrivals, seconds: float, avalanches: tuple[int, int], blind: tuple[bool, bool]
    ) -> tuple[float, float]:
        """Mean photocurrents: continuous light, bright pulses in linear mode, and what avalanches leave."""
        power_w = arrivals.light.background_w
        if any(blind):
            photons = float(arrivals.photons.sum(dtype=np.uint64)) / self.thinning
            power_w += photons * PHOTON_J / seconds
        power_w *= receiver_transmission(self._receiver)
        first, second = (
            detector.responsivity_a_per_w * power_w + AVALANCHE_C * fired / seconds
            for detector, fired in zip(self._receiver.detectors, avalanches, strict=True)
        )
        return first, second
