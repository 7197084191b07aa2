"""One laboratory for many faults: three keyed tunnels under traffic, and what a fault does to them, measured."""

import asyncio
import json
import os
import time
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final

from pyroute2 import netns

from qhybridd.apps.flow import Flow
from qhybridd.apps.gateway import Gateway
from qhybridd.apps.lab import Lab
from qhybridd.apps.traffic import Account
from qhybridd.clock import boottime
from qhybridd.errors import HostError
from qhybridd.guard import Guard
from tests.kernel.fault_table import Row
from tests.kernel.faults import ESP, FAST, KINDS, WAN, Fault, Outcome, expected_rows
from tests.netns.worlds import Plan, configs, epochs, run_for, wait_arrivals

INTERVAL_MS: Final = 20.0
"""Between two packets of each tunnel, each way: what the times are known to."""
SILENCE_S: Final = 3.0
"""A tunnel that forces its handshakes is silent for less, and so are the ends of the traffic in a slow machine."""
SLACK_S: Final = 1.0
"""What the last packet may come after the hard expiry."""
BEFORE_S: Final = 300.0
"""What it may take to have all tunnels open and rotating: software emulation is slow."""
ROTATIONS: Final = 3
"""So often a tunnel that goes on has to rotate while the fault lasts."""
DISK_KIB: Final = 256


@dataclass
class World:
    """Two gateways with these tunnels, keyed and under traffic."""

    plans: tuple[Plan, ...]
    lab: Lab
    flows: dict[str, Flow] = field(default_factory=dict)
    _stack: ExitStack = field(default_factory=ExitStack)

    @classmethod
    def make(cls, *plans: Plan) -> "World":
        """All of it, open and rotating."""
        world = cls(plans, Lab(configs(*plans)))
        world._stack.enter_context(world.lab)
        try:
            world._begin()
        except BaseException as error:
            if isinstance(error, Exception):
                for gateway in world.lab.gateways.values():
                    error.add_note(gateway.last_words())
            world._stack.close()
            raise
        return world

    def _begin(self) -> None:
        self.lab.limit_disk(self.lab.gateways["alice"], DISK_KIB)
        self.flows = {plan.name: self.lab.add_flow(plan.name, INTERVAL_MS) for plan in self.plans}
        self.lab.start_daemons()
        for plan in self.plans:
            self.lab.wait_open(plan.name, BEFORE_S)
        # From here on the guard stands: whatever leaves in clear is a leak.
        self.lab.capture()
        for flow in self.flows.values():
            flow.start()

    def close(self) -> None:
        """Take it down; nothing may be left of it."""
        self._stack.close()
        assert self.lab.leftovers() == []

    # ---- between faults

    def settle(self) -> dict[str, int]:
        """Wait until every tunnel is open and carries traffic, and those that rotate have just done so; the epochs."""
        found = {}
        for flow in self.flows.values():
            wait_arrivals(self.lab, flow, BEFORE_S)
        names = [name for name in self.flows if name != WAN]
        start = {name: max(epochs(self.lab, name)) for name in names}

        def renewed() -> bool:
            for name in names:
                one, other = epochs(self.lab, name)
                found[name] = one if one == other else 0
            return all(found[name] > start[name] for name in names)

        self.lab.wait(renewed, BEFORE_S, "every tunnel rotates")
        if WAN in self.flows:
            found[WAN] = max(epochs(self.lab, WAN))
        return found

    # ---- one fault

    def suffer(self, fault: Fault) -> list[Row]:
        """Do the fault and undo it; what was measured, a row for each tunnel that it is judged by."""
        judged = {name: outcome for name, outcome in fault.outcomes.items() if name in self.flows}
        before = self.settle()
        clear = self.lab.in_clear()
        began_s = boottime()
        harmed_s = fault.harm(self.lab) or began_s
        closing = [name for name, outcome in judged.items() if outcome is Outcome.CLOSES]
        closed, deadlines = self._wait_closed(closing, harmed_s)
        rows: dict[str, tuple[float | None, float | None]] = {}
        for name, outcome in judged.items():
            if outcome is Outcome.GOES_ON:
                rows[name] = (None, self._goes_on(name, before[name], harmed_s, fault.within_s))
            elif outcome is Outcome.REKEYS:
                rows[name] = self._rekeys(name, before[name], harmed_s, fault.within_s)
        self._stays_closed(closing, harmed_s)
        fault.heal(self.lab)
        healed_s = boottime()
        for name, outcome in judged.items():
            if outcome is Outcome.CLOSES:
                self._wait_passing(name, fault.within_s)
                close_s = max(0.0, closed[name] - harmed_s)
                rows[name] = (close_s, self._passes_again_s(name, closed[name]) - healed_s)
        leaked = self.lab.in_clear() - clear
        assert leaked == 0, f"{leaked} packets in clear during: {fault.title}"
        return [self._row(fault, name, rows[name], leaked, harmed_s, deadlines) for name in judged]

    def _row(
        self,
        fault: Fault,
        name: str,
        times: tuple[float | None, float | None],
        leaked: int,
        harmed_s: float,
        deadlines: dict[str, float],
    ) -> Row:
        close_s, recover_s = times
        after_s = harmed_s + close_s - deadlines[name] if close_s is not None and name in deadlines else None
        kind = KINDS[name]
        place = expected_rows().index((fault.title, kind))
        kernel = os.uname().release
        outcome = fault.outcomes[name].value
        return Row(fault.title, kind, outcome, close_s, recover_s, leaked, after_s, kernel, place)

    def _wait_closed(self, names: list[str], harmed_s: float) -> tuple[dict[str, float], dict[str, float]]:
        """When the last packet of each passed, and the latest deadline that the kernels' guards had for it."""
        closed: dict[str, float] = {}
        deadlines = dict.fromkeys(names, 0.0)

        def silent() -> bool:
            for name, deadline in self._guarded().items():
                if name in deadlines and name not in closed:
                    deadlines[name] = max(deadlines[name], deadline)
            for name in names:
                last_s = self.flows[name].read().last_arrival_s
                if name not in closed and boottime() - last_s > SILENCE_S:
                    closed[name] = last_s
            return len(closed) == len(names)

        expiries = {plan.name: plan.expiry_s for plan in self.plans}
        if names:
            self.lab.wait(silent, max(expiries[name] for name in names) + 60.0, "the traffic ends")
        for name in names:
            # Without a deadline the fault found the tunnel shut, in the middle of a forced handshake.
            due_s = min(deadlines[name], harmed_s + expiries[name]) if deadlines[name] else harmed_s
            late_s = closed[name] - due_s
            assert late_s <= SLACK_S, f"{name}: the last packet passed {late_s:.2f} s after the hard expiry"
        return closed, {name: deadline for name, deadline in deadlines.items() if deadline}

    def _stays_closed(self, names: list[str], harmed_s: float) -> None:
        """The fault outlasts the hard expiry, and nothing passes meanwhile."""
        before = {name: self.flows[name].read().received for name in names}
        ends_s = harmed_s + max((plan.expiry_s for plan in self.plans if plan.name in names), default=0)
        run_for(self.lab, max(1.0, ends_s + 1.0 - boottime()))
        for name in names:
            passed = self.flows[name].read().received - before[name]
            assert passed == 0, f"{name}: {passed} packets passed after it had closed"

    def _guarded(self) -> dict[str, float]:
        """The later of both kernels' deadlines for each tunnel that is open, CLOCK_BOOTTIME."""
        found: dict[str, float] = {}
        for gateway in self.lab.gateways.values():
            for name, deadline in deadlines_of(gateway).items():
                found[name] = max(found.get(name, 0.0), deadline)
        return found

    def _wait_passing(self, name: str, timeout_s: float) -> None:
        wait_arrivals(self.lab, self.flows[name], timeout_s)

    def _passes_again_s(self, name: str, closed_s: float) -> float:
        """When the first packet passed after the tunnel closed, in the direction that had to wait longer."""
        reading = self.flows[name].read()
        return max(_end_of_silence(one, closed_s) for one in (reading.there.receiver, reading.back.receiver))

    def _rekeys(self, name: str, epoch: int, harmed_s: float, within_s: float) -> tuple[float, float]:
        """Wait for another epoch and for traffic; when the silence between began and ended, after the fault."""

        def renewed() -> bool:
            return min(epochs(self.lab, name)) > epoch

        self.lab.wait(renewed, within_s, f"{name} is keyed anew")
        self._wait_passing(name, within_s)
        closings = self._logged(name, "closed", harmed_s)
        assert closings, f"{name} did not close"
        closed_s = min(closings)
        live_s = max(min(times, default=0.0) for times in self._logged_by_gateway(name, "live", closed_s))
        gaps = [gap for gap in self.flows[name].read().gaps if gap.next_s > harmed_s]
        # A silence too short to be noted lies between the daemon's closing and the next key.
        last_s = min((gap.last_s for gap in gaps), default=closed_s)
        return last_s - harmed_s, max((gap.next_s for gap in gaps), default=live_s) - harmed_s

    def _logged_by_gateway(self, name: str, event: str, after_s: float) -> list[list[float]]:
        """When each daemon logged this of a tunnel, after a moment. CLOCK_BOOTTIME."""
        return [events_of(gateway, name, event, after_s) for gateway in self.lab.gateways.values()]

    def _logged(self, name: str, event: str, after_s: float) -> list[float]:
        return [at for times in self._logged_by_gateway(name, event, after_s) for at in times]

    def _goes_on(self, name: str, epoch: int, harmed_s: float, within_s: float) -> float:
        """Wait for so many rotations; the longest silence."""
        seen = {epoch}

        def rotated() -> bool:
            seen.update(epochs(self.lab, name))
            return len(seen - {0, epoch}) >= ROTATIONS

        self.lab.wait(rotated, within_s, f"{name} rotates {ROTATIONS} times")
        self._wait_passing(name, within_s)
        gaps = [gap.next_s - gap.last_s for gap in self.flows[name].read().gaps if gap.next_s > harmed_s]
        longest_s = max(gaps, default=0.0)
        assert longest_s < SILENCE_S or name == FAST, f"{name} was silent for {longest_s:.1f} s"
        return longest_s


def events_of(gateway: Gateway, tunnel: str, event: str, after_s: float = 0.0) -> list[float]:
    """When a gateway's daemons logged this, of a tunnel or of no tunnel (""), after a moment. CLOCK_BOOTTIME."""
    offset_s = time.time() - boottime()
    found = []
    for line in gateway.log_file.read_text(errors="replace").splitlines():
        if not line.startswith("{"):
            continue
        entry = json.loads(line)
        if entry.get("event") == event and entry.get("tunnel", "") == tunnel:
            found.append(datetime.fromisoformat(entry["timestamp"]).timestamp() - offset_s)
    return [at for at in found if at > after_s]


def deadlines_of(gateway: Gateway) -> dict[str, float]:
    """The deadline of each tunnel that is open there, as the kernel's guard says without the daemon. CLOCK_BOOTTIME."""

    async def ask() -> dict[str, float]:
        guard = Guard()
        try:
            states = await guard.show()
        finally:
            await guard.close()
        return {state.name: boottime() + state.left_s for state in states if state.open}

    netns.pushns(gateway.namespace.name)
    try:
        return asyncio.run(ask())
    except HostError:
        return {}  # the ruleset was flushed
    finally:
        netns.popns()


def _end_of_silence(account: Account, closed_s: float) -> float:
    ends = [gap.next_s for gap in account.gaps if gap.last_s <= closed_s + 0.01 and gap.next_s > closed_s]
    return max(ends, default=account.last_arrival_s)


__all__ = ["ESP", "FAST", "WAN", "World", "deadlines_of"]
