"""The receiver's angle: read from reference light, and compensated by a calibration when it is too far off."""

import math

import numpy as np

from qhybridd.optics.parameters import Receiver


class Alignment:
    """What the receiver turns the light back by. The light's own angle is nature's, and never known but by reading."""

    def __init__(self, receiver: Receiver, noise: np.random.Generator) -> None:
        self._receiver = receiver
        self._noise = noise
        self._compensation_rad = 0.0
        self._calibration_s: float | None = None

    def restart(self, angle_rad: float) -> None:
        """A run begins: the receiver was calibrated before its first frame."""
        self._calibration_s = None
        self._compensation_rad = 0.0
        self._compensation_rad = self._read(angle_rad)

    def error_rad(self, angle_rad: float) -> float:
        """By how much the light is really turned when it is measured."""
        return angle_rad - self._compensation_rad

    def step(self, angle_rad: float, seconds: float) -> tuple[float, bool]:
        """One more frame with light: what is read of the angle, and whether the frame is spent on a calibration.

        At the end of a calibration the angle that is read then is compensated.
        """
        read = self._read(angle_rad)
        if self._calibration_s is None:
            if abs(read) <= self._receiver.calibrate_above_rad:
                return read, False
            self._calibration_s = self._receiver.calibration_s
        self._calibration_s -= seconds
        if self._calibration_s < seconds / 2:  # to the nearest frame
            self._calibration_s = None
            self._compensation_rad += read
        return read, True

    @property
    def calibrating(self) -> bool:
        """Whether a calibration is under way."""
        return self._calibration_s is not None

    def _read(self, angle_rad: float) -> float:
        """What the reference light tells, from -π/2 to π/2: half a turn leaves every state as it is.

        The phase of n photons of coherent light is known with a standard deviation of 1 / (2 √n) (shot noise).
        """
        noise = float(self._noise.normal(0.0, 0.5 / math.sqrt(self._receiver.reference_photons)))
        return math.remainder(self.error_rad(angle_rad) + noise, math.pi)
