"""Beam splitting: take what the fibre would have lost, and store it until the bases are public.

Bennett, Bessette, Brassard, Salvail, Smolin, J. Cryptology 5, 3 (1992). Bob gets from her lossless fibre just what he
got from the lossy one, so that nothing can show; the bound on the key has given her these photons all along.
"""

import math
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from qhybridd.optics.eve.attack import Tally
from qhybridd.optics.eve.pulses import pick, polarised
from qhybridd.optics.parameters import Optics
from qhybridd.optics.randomness import Randomness
from qhybridd.optics.records import Arrivals, Request


class BeamSplitting:
    """At the fibre's beginning: a beam splitter with the fibre's transmission, and a fibre that loses nothing."""

    name = "beam-splitting"

    def __init__(self, optics: Optics, fraction: float, randomness: Randomness) -> None:
        """On a `fraction` of the pulses; she lets the fibre's losses go to waste on the others."""
        self._source = optics.source
        self._transmission = optics.fibre.transmission
        self._fraction = fraction
        self._chance = randomness.generator("beam-splitting")
        self._tally = Tally()

    def request(self, below: Request) -> Request:
        """Light from before the fibre, as much as came through it."""
        return replace(below, fibre=False, thinning=below.thinning * self._passing(below))

    def act(self, arrivals: Arrivals, below: Request) -> Arrivals:
        """The same: Poissonian light splits into two parts that know nothing of each other's photon numbers."""
        touched = pick(self._chance, arrivals.count, self._fraction)
        kept = self._chance.poisson(self._intensities(arrivals, below) * (1 - self._passing(below)))
        kept *= touched & polarised(arrivals.states)
        self._tally += Tally(
            pulses=arrivals.pulses,
            passed=arrivals.count,
            touched=int(np.count_nonzero(touched)),
            photons_kept=int(kept.sum()),
            bits=float(np.count_nonzero(kept)),
        )
        return arrivals

    @property
    def tally(self) -> Tally:
        """What it came to."""
        return self._tally

    def _passing(self, below: Request) -> float:
        return self._transmission if below.fibre else 1.0

    def _intensities(self, arrivals: Arrivals, below: Request) -> NDArray[np.float64]:
        """An intensity for each pulse, drawn as probable as its photons make it: a frame does not tell them."""
        share = below.thinning * self._passing(below)
        intensities = np.array(self._source.intensities)
        # by photon number, one row each: prior times Poisson, up to what all intensities have in common
        most = int(arrivals.photons.max(initial=1))
        logs = np.log(np.maximum(intensities, math.ulp(0.0))) * np.arange(most + 1)[:, np.newaxis]
        weights = np.array(self._source.intensity_probabilities) * np.exp(logs - logs.max(1, keepdims=True))
        steps = np.cumsum(weights * np.exp(-intensities * share), axis=1)
        drawn = self._chance.random(arrivals.count) * steps[arrivals.photons, -1]
        index = np.count_nonzero(drawn[:, np.newaxis] >= steps[arrivals.photons, :-1], axis=1)
        chosen: NDArray[np.float64] = intensities[index]
        return chosen
