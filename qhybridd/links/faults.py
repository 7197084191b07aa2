"""Faults that can be put into a simulated link, for trials: which end has them, and what they are in words."""

import math
from dataclasses import dataclass
from typing import Final

from qhybridd.distill.authenticate import Role
from qhybridd.errors import OperatorError
from qhybridd.status import FaultKind, FaultRequest


@dataclass(frozen=True, slots=True)
class Fault:
    """One kind."""

    role: Role
    """The end whose simulation it breaks: the fibre is simulated at Alice's."""
    takes: str
    """What its value is; empty where it takes none."""
    least: float
    most: float
    words: str
    """What is broken, with places for value and attack."""


FAULTS: Final[dict[FaultKind, Fault]] = {
    "cut": Fault(Role.ALICE, "", 0.0, 0.0, "the fibre is cut"),
    "loss": Fault(Role.ALICE, "decibels", 0.0, 100.0, "{value:g} dB of loss on top"),
    "degradation": Fault(Role.ALICE, "decibels an hour", 0.0, 1e6, "the fibre loses {value:g} dB more each hour"),
    "misalignment": Fault(Role.ALICE, "radian", -math.pi, math.pi, "the light is turned by {value:g} rad"),
    "eve": Fault(Role.ALICE, "a fraction", 0.0, 1.0, "an eavesdropper: {attack} on {value:.4g} of the pulses"),
    "efficiency": Fault(Role.BOB, "a factor", 0.0, 1.0, "the detectors have {value:g} of their efficiency"),
    "dark": Fault(Role.BOB, "a factor", 0.0, 1e6, "the detectors have {value:g} times their dark counts"),
    "clock": Fault(Role.BOB, "picoseconds", -1e9, 1e9, "the receiver's clock is off by {value:g} ps"),
}


def check(request: FaultRequest, role: Role) -> None:
    """Whether the end `role` can do what is asked. Raises `OperatorError` (control.refused)."""
    if request.kind is None:
        return
    fault = FAULTS[request.kind]
    if fault.role is not role:
        message = f"{request.kind} is a fault of {fault.role.value}'s end, and this gateway is {role.value}"
        raise OperatorError("control.refused", message, hint="Run the command at the other gateway.")
    if not request.mend and not fault.least <= request.value <= fault.most:
        message = f"{request.kind} takes {fault.takes} from {fault.least:g} to {fault.most:g}, not {request.value:g}"
        raise OperatorError("control.refused", message)


def describe(request: FaultRequest) -> str:
    """What is broken then, in a line."""
    assert request.kind is not None
    return FAULTS[request.kind].words.format(value=request.value, attack=request.attack)
