"""Traffic under rotations: the highest steady rate that a tunnel carries, and what is lost while its keys change."""

from itertools import pairwise
from typing import Final

from qhybridd.apps.flow import Flow, Reading
from qhybridd.apps.lab import Lab
from qhybridd.clock import boottime
from tests.netns.worlds import epochs, run_for

LEAST_RATE: Final = 200
"""Packets a second each way that the machine has to carry for the figure to count."""
FINE: Final = (LEAST_RATE, 300, 450, 700, 1000, 1500, 2200, 3300)
"""For the figure: up to the highest that the machine carries."""
COARSE: Final = (LEAST_RATE, 500, 1000)
"""For every run: a machine that is busy with something else for a moment carries them too."""
TRY_S: Final = 4.0
"""How long a rate is tried."""
LOOK_EVERY_S: Final = 1.0
TRIES: Final = 2
"""A rate that is carried at one of these is carried: another program may have had the processor meanwhile."""
LATE_S: Final = 1.0
"""A sender that is behind by more cannot keep the rate up, and a packet on its way for longer waits in a queue."""


def _carries(reading: Reading, rate: int, took_s: float) -> bool:
    ends = (reading.there.sender, reading.back.sender)
    return (
        reading.lost == reading.duplicates == 0
        and all(end.sent >= 0.95 * rate * took_s and end.late_s < LATE_S for end in ends)
        and reading.delay_s < LATE_S
    )


def find_rate(lab: Lab, tunnel: str, rates: tuple[int, ...]) -> int:
    """The highest of `rates`, which rise, that is carried without a loss while nothing rotates; packets a second."""
    best = 0
    for rate in rates:
        if not any(_try(lab, tunnel, rate) for _ in range(TRIES)):
            break
        best = rate
    return best


def _try(lab: Lab, tunnel: str, rate: int) -> bool:
    flow = lab.add_flow(tunnel, 1000 / rate)
    flow.start()
    began_s = boottime()
    run_for(lab, TRY_S)
    took_s = boottime() - began_s
    reading = flow.finish()
    good = _carries(reading, rate, took_s)
    sent = reading.sent / 2 / took_s
    verdict = "carried" if good else "too much"
    way_ms = reading.delay_s * 1000
    print(
        f"{rate}/s each way: {sent:.0f}/s sent, {reading.lost} lost, longest way {way_ms:.0f} ms: {verdict}", flush=True
    )
    return good


def rotate_under(lab: Lab, flow: Flow, tunnel: str, rotations: int, one_s: float) -> Reading:
    """Let the tunnel rotate so often under the flow; prints what it took."""
    flow.start()
    began_s = boottime()
    first = max(epochs(lab, tunnel))
    seen = [first]
    while seen[-1] < first + rotations:
        run_for(lab, LOOK_EVERY_S)  # the daemons have other things to do than to tell of themselves
        told = [gateway.tunnel(tunnel) for gateway in lab.gateways.values()]
        for status in told:
            assert status is None or status.state == "open", f"{tunnel} closed: {status.why}"
        seen.append(min(status.epoch if status is not None else seen[-1] for status in told))
        waited_s = boottime() - began_s
        assert waited_s < one_s * (seen[-1] - first + 1), f"{tunnel} stays on epoch {seen[-1]}"
    took_s = boottime() - began_s
    run_for(lab, 2.0)
    reading = flow.finish()
    for gateway in lab.gateways.values():
        status = gateway.tunnel(tunnel)
        assert status is not None and status.state == "open", gateway.name
        assert status.failures == 0, f"{status.failures} attempts failed at {gateway.name}"
    assert all(earlier <= later for earlier, later in pairwise(seen))
    print(
        f"{seen[-1] - seen[0]} rotations in {took_s:.0f} s: {reading.lost} of {reading.sent} packets lost, "
        f"{reading.duplicates} doubled, {reading.there.sender.refused + reading.back.sender.refused} refused, "
        f"longest way {reading.delay_s * 1000:.0f} ms"
    )
    return reading


def check(lab: Lab, reading: Reading) -> None:
    """Nothing lost, nothing doubled, nothing in clear."""
    clear = lab.in_clear()
    print(f"{clear} packets in clear")
    assert clear == 0
    assert reading.lost == reading.duplicates == 0
    assert reading.received == reading.sent
