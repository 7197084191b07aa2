"""For how long a tunnel's traffic can go on after what its keys rest on is gone: docs/exposure.md. Pure."""

from dataclasses import dataclass
from typing import Final

from qhybridd.protocol.exchange import MIN_STEP_S, STEP_S

STEPS: Final = 3
"""Of a rotation, from the reservation of a QKD key to the combining, each with its deadline: `exchange.py`."""


@dataclass(frozen=True, slots=True)
class Supply:
    """What is left of QKD keys that a tunnel can still take when no more come."""

    keys: int
    """One for each rotation."""
    left_s: float
    """Until the youngest of them is too old to be taken; 0 when there is none."""


NOTHING: Final = Supply(0, 0.0)


def without_peer_s(expiry_s: float) -> float:
    """Seconds of traffic that can still pass when from now on no key can be agreed.

    The peer is gone, or the way to it, or the daemon at either end: the live key was combined now at the latest, and
    the kernel stops the traffic `expiry_s` after that.
    """
    return expiry_s


def without_qkd_s(period_s: float, expiry_s: float, supply: Supply) -> float:
    """Seconds of traffic that can still pass under keys with a QKD part when from now on no QKD key comes.

    A tunnel that demands such keys is closed then; one that does not has fallen back. `supply` is what lies in store.
    """
    return min(supply.keys * expiry_s, supply.left_s) + STEPS * step_s(period_s) + expiry_s


def step_s(period_s: float) -> float:
    """How long a step of a rotation may take, seconds."""
    return max(MIN_STEP_S, min(STEP_S, period_s / 2))
