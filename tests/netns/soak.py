"""`make soak`: half an hour of ordinary rotations under a packet every 10 ms both ways; prints what was lost.

Two tunnels, so that the idle one stays right too: `wan` carries the measured traffic, `idle` carries nothing.
"""

import sys
from dataclasses import replace

from qhybridd.apps.lab import Lab
from qhybridd.clock import boottime
from qhybridd.errors import QhybriddError
from tests.netns.worlds import ORDINARY, configs, epochs, run_for, wait_epoch

ROTATIONS = 10
ONE_S = 260.0
"""How long a rotation may take: the period, and the wait for one of WireGuard's own handshakes."""


def soak(lab: Lab) -> bool:
    """Run the rotations; True if nothing was lost."""
    lab.start_daemons()
    lab.wait_open("wan")
    lab.wait_open("idle")
    flow = lab.add_flow("wan")
    flow.start()
    began_s = boottime()
    epoch = max(epochs(lab, "wan"))
    for number in range(1, ROTATIONS + 1):
        epoch = wait_epoch(lab, "wan", epoch, ONE_S)
        reading = flow.read()
        print(
            f"{boottime() - began_s:6.0f} s  rotation {number}: epoch {epoch}, {reading.sent} packets sent, "
            f"{reading.lost} lost, longest way {reading.delay_s * 1000:.0f} ms; "
            f"idle tunnel: epochs {epochs(lab, 'idle')}",
            flush=True,
        )
    run_for(lab, 5.0)
    reading = flow.finish()
    rotations, failures = [], []
    for gateway in lab.gateways.values():
        for name in ("wan", "idle"):
            tunnel = gateway.tunnel(name)
            if tunnel is None or tunnel.state != "open":
                print(f"{name} is not open at {gateway.name}")
                return False
            rotations.append(f"{gateway.name} {name} {tunnel.rotations}")
            failures.append(tunnel.failures)
    print(f"rotations: {', '.join(rotations)}; failed attempts: {sum(failures)}")
    print(f"{reading.lost} of {reading.sent} packets lost over {ROTATIONS} ordinary rotations")
    return reading.lost == reading.duplicates == 0


def main() -> int:
    """0 if nothing was lost, 1 otherwise."""
    lab = Lab(configs(ORDINARY, replace(ORDINARY, name="idle")))
    try:
        with lab:
            good = soak(lab)
    except QhybriddError as error:
        print(error, file=sys.stderr)
        return 1
    finally:
        print(*lab.leftovers(), sep="\n", end="")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
