"""The eavesdropper: what somebody in the middle of the photon stream does to the light, and what it teaches her.

Each attack changes only what light can carry: states, photon numbers, times, brightness. Nothing tells Bob of it.
"""

from qhybridd.optics.eve.attack import Attack, Tally
from qhybridd.optics.eve.choice import ATTACKS, make_attack

__all__ = ["ATTACKS", "Attack", "Tally", "make_attack"]
