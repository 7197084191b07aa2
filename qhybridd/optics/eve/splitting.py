"""Photon-number splitting: keep one photon of every pulse that has more, and stop the pulses that have one alone.

Brassard, Lütkenhaus, Mor, Sanders, Phys. Rev. Lett. 85, 1330 (2000). She counts the photons without disturbing them, so
no error shows; she has a fibre without loss, so that the pulses left are clicks enough. What shows is that bright and
dim pulses do not lose their share alike: Hwang, Phys. Rev. Lett. 91, 057901 (2003), and that is what decoys are for.
"""

import math
from dataclasses import dataclass, replace
from typing import Final

import numpy as np

from qhybridd.optics.eve.attack import Tally
from qhybridd.optics.eve.pulses import keep, pick, polarised
from qhybridd.optics.parameters import Optics
from qhybridd.optics.randomness import Randomness
from qhybridd.optics.records import Arrivals, Request

HALVINGS: Final = 60
"""Of the range in which the right thinning lies: more than a float tells apart."""
NO_SINGLES: Final = 1e-9
"""A share of single photons below this is rounding."""


@dataclass(frozen=True, slots=True)
class Plan:
    """How she gets what she wants and leaves Bob's clicks as many as they were."""

    thinning: float
    """q: share of the photons that the upper end is to let come."""
    split_share: float
    """Of the pulses with several photons left: how many she splits. The others go on whole."""
    single_share: float
    """Of the pulses with one photon left: how many she lets go on. The others she stops."""


def plan(optics: Optics, fraction: float, below: Request) -> Plan:
    """Clicks from split pulses as many as `fraction` of Bob's, or as pairs of photons can give.

    Of a pulse with n photons she lets so many pass that it clicks with P(at least 2 of n are left | q): the more, the
    more photons it has. To the upper end that is light thinned to q, of which pulses with two photons are of use, so
    both count what clicks and not what is emitted. A pair must give a click with q², and Bob sees one photon of it:
    hence q² ≤ the share of the photons that he sees. From three on she can even find out the state without a doubt and
    send as much light as she likes (Dušek, Jahma, Lütkenhaus, Phys. Rev. A 62, 022306, 2000).
    """
    honest = below.thinning * (optics.fibre.transmission if below.fibre else 1.0)
    wanted = _bright(optics, honest, 1)
    most = math.sqrt(below.thinning)
    clicks = min(fraction * wanted, _bright(optics, most, 2))
    low, high = 0.0, most
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        low, high = (low, middle) if _bright(optics, middle, 2) >= clicks else (middle, high)
    thinning = max(honest, high)
    several = _bright(optics, thinning, 2)
    single_share = (wanted - several) / (_bright(optics, thinning, 1) - several)
    return Plan(
        thinning,
        split_share=1.0 if thinning == high else clicks / several,
        single_share=min(1.0, single_share) if single_share > NO_SINGLES else 0.0,
    )


def _bright(optics: Optics, share: float, least: int) -> float:
    """Probability that a pulse has at least 1 or 2 photons when each is left with probability `share`."""
    total = 0.0
    for mu, probability in zip(optics.source.intensities, optics.source.intensity_probabilities, strict=True):
        mean = mu * share
        one = mean * math.exp(-mean) if least > 1 else 0.0
        total += probability * (-math.expm1(-mean) - one)
    return total


class PhotonNumberSplitting:
    """At the fibre's beginning, with a fibre of her own that loses nothing."""

    name = "photon-number-splitting"

    def __init__(self, optics: Optics, fraction: float, randomness: Randomness) -> None:
        """So that `fraction` of Bob's clicks are of pulses that she split, as far as the source's light allows."""
        self._optics = optics
        self._fraction = fraction
        self._chance = randomness.generator("photon-number-splitting")
        self._tally = Tally()

    def request(self, below: Request) -> Request:
        """Light from before the fibre, thinned to what her counting lets pass."""
        wanted = plan(self._optics, self._fraction, below)
        least = below.photons_least + 1 if wanted.single_share == 0 and wanted.split_share == 1 else below.photons_least
        return Request(fibre=False, thinning=wanted.thinning, photons_least=least)

    def act(self, arrivals: Arrivals, below: Request) -> Arrivals:
        """Split pulses have a photon less, stopped ones are gone."""
        wanted = plan(self._optics, self._fraction, below)
        several = arrivals.photons > 1
        split = several & pick(self._chance, arrivals.count, wanted.split_share)
        passed = several | pick(self._chance, arrivals.count, wanted.single_share)
        count = int(np.count_nonzero(split))
        self._tally += Tally(
            pulses=arrivals.pulses,
            passed=int(np.count_nonzero(passed)),
            touched=count,
            stopped=int(np.count_nonzero(~passed)),
            photons_kept=count,
            bits=float(np.count_nonzero(split & polarised(arrivals.states))),
        )
        return keep(replace(arrivals, photons=arrivals.photons - split.astype(np.uint32)), passed)

    @property
    def tally(self) -> Tally:
        """What it came to."""
        return self._tally
