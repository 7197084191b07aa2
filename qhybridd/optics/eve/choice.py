"""The attacks by name."""

from difflib import get_close_matches
from typing import Final

from qhybridd.errors import OperatorError
from qhybridd.optics.eve.attack import Attack
from qhybridd.optics.eve.beam import BeamSplitting
from qhybridd.optics.eve.blinding import Blinding
from qhybridd.optics.eve.intercept import InterceptResend
from qhybridd.optics.eve.shift import TimeShift
from qhybridd.optics.eve.splitting import PhotonNumberSplitting
from qhybridd.optics.eve.tap import Tap
from qhybridd.optics.parameters import Optics
from qhybridd.optics.randomness import Randomness

ATTACKS: Final = ("tap", "intercept-resend", "photon-number-splitting", "beam-splitting", "time-shift", "blinding")


def make_attack(name: str, optics: Optics, fraction: float, randomness: Randomness) -> Attack:
    """One of `ATTACKS`, on a share of the pulses from 0 to 1 (what it is a share of, the attack says).

    Of `optics` it uses what anybody can know: the protocol's numbers, the fibre's loss, the receiver's data sheet.
    Raises `OperatorError` (config.value) for an unknown name or another share.
    """
    if name not in ATTACKS:
        close = get_close_matches(name, ATTACKS, n=1, cutoff=0.4)
        hint = f"Did you mean {close[0]}?" if close else f"There are: {', '.join(ATTACKS)}."
        raise OperatorError("config.value", f"{name!r} is no attack", hint=hint)
    if not 0 <= fraction <= 1:
        raise OperatorError("config.value", "fraction: wanted is a number from 0 to 1")
    if name == "intercept-resend":
        return InterceptResend(fraction, randomness)
    if name == "photon-number-splitting":
        return PhotonNumberSplitting(optics, fraction, randomness)
    if name == "beam-splitting":
        return BeamSplitting(optics, fraction, randomness)
    if name == "time-shift":
        return TimeShift(optics, fraction, randomness)
    return Blinding(optics, fraction, randomness) if name == "blinding" else Tap()
