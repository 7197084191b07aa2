"""`make soak`: twenty minutes of ordinary rotations under traffic both ways; prints what was lost.

Two tunnels, so that the idle one stays right too: `wan` carries the measured traffic, at the highest steady rate that
the machine carries without rotation; `idle` carries nothing. On the kernel's own WireGuard, in an emulated machine
where the running kernel has none.
"""

import sys
from dataclasses import replace
from typing import Final

from qhybridd.apps.lab import Lab
from qhybridd.errors import QhybriddError
from tests.kernel.rates import FINE, LEAST_RATE, check, find_rate, rotate_under
from tests.netns.worlds import ORDINARY, configs, epochs

ROTATIONS: Final = 10
ONE_S: Final = 260.0
"""How long a rotation may take: the period, and the wait for one of WireGuard's own handshakes."""
BEFORE_S: Final = 300.0


def soak(lab: Lab) -> None:
    """Run the rotations. Raises `AssertionError` with what was lost."""
    lab.start_daemons()
    for name in ("wan", "idle"):
        lab.wait_open(name, BEFORE_S)
    lab.capture()
    rate = find_rate(lab, "wan", FINE)
    kind = next(iter(lab.gateways.values())).devices["wan"].kind
    print(f"WireGuard of {kind}; highest steady rate without rotation: {rate} packets a second each way", flush=True)
    assert rate >= LEAST_RATE, f"this machine carries only {rate} packets a second"
    idle = max(epochs(lab, "idle"))
    reading = rotate_under(lab, lab.add_flow("wan", 1000 / rate), "wan", ROTATIONS, ONE_S)
    check(lab, reading)
    assert min(epochs(lab, "idle")) >= idle + ROTATIONS // 2, "the idle tunnel rotates too"
    print(f"idle tunnel: epochs {epochs(lab, 'idle')}")


def main() -> int:
    """0 if nothing was lost, 1 otherwise."""
    lab = Lab(configs(ORDINARY, replace(ORDINARY, name="idle")))
    try:
        with lab:
            soak(lab)
    except (QhybriddError, AssertionError) as error:
        print(error, *getattr(error, "__notes__", ()), sep="\n", file=sys.stderr)
        return 1
    finally:
        print(*lab.leftovers(), sep="\n", end="")
    return 0


if __name__ == "__main__":
    sys.exit(main())
