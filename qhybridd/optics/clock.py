"""Synchronisation: the receiver's clock follows the times of the clicks, and may lose the light."""

from typing import Final

import numpy as np

GAIN: Final = 0.5
"""Share of a measured offset that is taken away at once."""
GAIN_CLICKS: Final = 200.0
"""So many clicks halve the gain: fewer tell a mean too noisy to follow."""
SEARCH_STEP_PS: Final = 10.0
"""Standard deviation of the offset that a search leaves."""


class ReceiverClock:
    """A first-order loop over frames. What it knows is the mean time of clicks; `offset_ps`, true, is nature's."""

    def __init__(self, capture_ps: float, reacquire_s: float, noise: np.random.Generator) -> None:
        self._capture_ps = capture_ps
        self._reacquire_s = reacquire_s
        self._noise = noise
        self._correction_ps = 0.0
        self._search_s: float | None = None

    def restart(self, offset_ps: float) -> None:
        """A run begins: the light was found before its first frame."""
        self._search_s = None
        self._found(offset_ps)

    def error_ps(self, offset_ps: float) -> float:
        """How much later than the clock expects the light really comes."""
        return offset_ps - self._correction_ps

    def step(self, offset_ps: float, seconds: float, light: bool) -> bool:
        """One more frame; whether the clock is locked for all of it. Without light nothing is lost, and nothing found.

        Beyond the capture range the light is lost; a search takes its time, and the frame after it is locked again.
        """
        if self._search_s is None:
            if not light or abs(self.error_ps(offset_ps)) <= self._capture_ps:
                return True
            self._search_s = self._reacquire_s
        self._search_s -= seconds
        if self._search_s < seconds / 2 and light:  # to the nearest frame
            self._search_s = None
            self._found(offset_ps)
        return False

    def follow(self, mean_ps: float, clicks: int) -> None:
        """Take the mean time of a frame's clicks against the middle of the gate."""
        self._correction_ps += GAIN * clicks / (clicks + GAIN_CLICKS) * mean_ps

    def _found(self, offset_ps: float) -> None:
        self._correction_ps = offset_ps + float(self._noise.normal(0.0, SEARCH_STEP_PS))
