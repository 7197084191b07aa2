"""Detector blinding: hold Bob's detectors in linear mode with continuous light, and make them click at will.

Lydersen, Wiechers, Wittmann, Elser, Skaar, Makarov, Nature Photonics 4, 686 (2010). She measures as in intercept and
resend and sends a bright pulse in the state that she found. Where Bob's basis is hers all of it falls on one detector,
which clicks; where it is not, each gets half, and neither does. So he gets her results and no error. The continuous
light is in the detectors' currents.
"""

from dataclasses import replace
from typing import Final

import numpy as np

from qhybridd.optics.eve.attack import Tally
from qhybridd.optics.eve.intercept import measure
from qhybridd.optics.eve.pulses import keep, polarised, survive
from qhybridd.optics.parameters import Optics
from qhybridd.optics.randomness import Randomness
from qhybridd.optics.records import MAX_PHOTONS, Arrivals, Request

OVERDRIVE: Final = 2.0
"""Continuous light over what blinds the detectors."""
BASES: Final = 2
"""Bob's basis is hers every other time: with twice the photons he clicks as often as before."""


class Blinding:
    """At the fibre's end: in some frames Bob's detectors are hers, in the others nothing happens."""

    name = "blinding"

    def __init__(self, optics: Optics, fraction: float, randomness: Randomness) -> None:
        """In a `fraction` of the frames: detectors that are blind are so for all pulses."""
        detectors = optics.receiver.detectors
        most = max(detector.linear_photons for detector in detectors)
        least = min(detector.linear_photons for detector in detectors)
        self._photons = (most + 2 * least) / 2  # whole it is above `most`, half of it below `least`
        best = max(detector.efficiency for detector in detectors)
        self._more = BASES * sum(detector.efficiency for detector in detectors) / (len(detectors) * best)
        self._background_w = OVERDRIVE * max(detector.blinding_w for detector in detectors)
        self._fraction = fraction
        self._chance = randomness.generator("blinding")
        self._tally = Tally()

    def request(self, below: Request) -> Request:
        """Twice the photons, as far as there are so many; a little less, as all bright pulses are seen."""
        return replace(below, thinning=min(1.0, self._more * below.thinning))

    def act(self, arrivals: Arrivals, below: Request) -> Arrivals:
        """Bright pulses over continuous light; or the frame as it would have come."""
        if self._chance.random() >= self._fraction:
            photons = survive(arrivals.photons, below.thinning / self.request(below).thinning, self._chance)
            left = keep(replace(arrivals, photons=photons), photons > 0)
            self._tally += Tally(pulses=arrivals.pulses, passed=left.count)
            return left
        found = measure(arrivals.states, self._chance)
        self._tally += Tally(
            pulses=arrivals.pulses,
            passed=arrivals.count,
            touched=arrivals.count,
            bits=float(np.count_nonzero(found.sure & polarised(arrivals.states))),
        )
        return replace(
            arrivals,
            states=found.states,
            photons=np.full(arrivals.count, round(min(self._photons * below.thinning, MAX_PHOTONS)), np.uint32),
            light=replace(arrivals.light, background_w=self._background_w),
        )

    @property
    def tally(self) -> Tally:
        """What it came to. Bob sees those pulses alone in whose basis she measured: of his clicks she knows all."""
        return self._tally
