"""`qhybridd demo`: the main job on one machine, live, in under four minutes.

Two gateways in network namespaces key two WireGuard tunnels under traffic. `wan` renews in the ordinary way and loses
nothing; `fast` forces its handshake every ten seconds. The control channel is cut: `fast` closes at its hard expiry,
`wan` goes on. It is mended: `fast` opens again. Then `wan` gets its new key. Every claim is measured on the traffic
itself, and the exit status is 0 only if each one held.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from qhybridd.apps.lab import Lab
from qhybridd.apps.screen import Observation, Screen, make_console, summary
from qhybridd.apps.watch import Look, Watch
from qhybridd.clock import boottime
from qhybridd.errors import OperatorError, QhybriddError

CONFIGS: Final = Path(__file__).parents[2] / "configs/demo"
NAMES: Final = ("alice", "bob")
ORDINARY: Final = "wan"
RESET: Final = "fast"
LEVEL: Final = "pqc"

LOOK_EVERY_S: Final = 0.25
OPEN_WITHIN_S: Final = 30.0
CUT_AFTER_S: Final = 30.0
"""So long after the start at the earliest: two or three rotations of the fast tunnel."""
SLACK_S: Final = 1.0
"""What a closing may come after the hard expiry."""
CLOSED_FOR_S: Final = 5.0
"""How long the closed tunnel is watched for a packet that should not come."""
REOPEN_WITHIN_S: Final = 45.0
RENEW_WITHIN_S: Final = 200.0
"""Since the start: WireGuard's own handshake comes 120 s after the last one."""
EXIT_INTERRUPTED: Final = 130


@dataclass(slots=True)
class Demo:
    """One run of the demo: its acts in order, and what each one showed."""

    lab: Lab
    watch: Watch
    screen: Screen
    seen: list[Observation] = field(default_factory=list)
    lost_open: int = 0
    """Packets of the fast tunnel lost before the cut."""
    lost_closed: int = 0
    """Those lost from the cut until it was open again."""

    def play(self) -> None:
        """All acts. One that fails to show its point is noted, and the next one begins."""
        self._open()
        self._rotate()
        cut_s = self._cut()
        self._mend(cut_s)
        self._renew()
        self._count()

    # ---- the acts

    def _open(self) -> None:
        self._phase("1/5  two daemons meet and key both tunnels")
        began_s = boottime()
        self.lab.start_daemons()
        both = (ORDINARY, RESET)
        opened = self._until(lambda look: all(look.states(name) == {"open"} for name in both), OPEN_WITHIN_S)
        took_s = boottime() - began_s
        look = self.watch.look()
        levels = {tunnel.level for name in both for tunnel in look.tunnels(name).values()}
        self._note(
            f"both tunnels open, keyed at level {LEVEL}",
            f"{took_s:.1f} s after the daemons began" if opened else "not open",
            opened and levels == {LEVEL},
        )
        for flow in self.lab.flows.values():
            flow.start()
        self.watch.tell("traffic begins: a packet every 10 ms through each tunnel, both ways")

    def _rotate(self) -> None:
        self._phase(f"2/5  {RESET} gets a new key every 10 s, {ORDINARY} rests on its first")
        self._until(lambda _: self.watch.elapsed_s >= CUT_AFTER_S, CUT_AFTER_S + 10)
        # The cut comes right after a rotation, so that the whole life of a key is seen.
        last = len(self.watch.epochs[RESET])
        self._until(lambda _: len(self.watch.epochs[RESET]) > last, 20.0)
        self._until(lambda _: False, 1.0)
        epochs = self.watch.epochs[RESET]
        self._note(
            f"{RESET} rotates by itself, both gateways on the same epoch",
            f"epochs {', '.join(map(str, epochs))}",
            len(epochs) >= 3 and self.watch.rotations_follow(RESET),
        )

    def _cut(self) -> float:
        """Returns when the cut was made."""
        expiry_s = self._expiry_s()
        self._phase(f"3/5  the control channel is cut: {RESET} must close within {expiry_s} s, {ORDINARY} goes on")
        before = self.watch.look().flows
        self.lost_open = before[RESET].lost
        self.lab.cut()
        cut_s = boottime()
        self.watch.tell("the control channel is cut: its packets vanish silently", "phase")
        closed = self._until(lambda look: look.states(RESET) == {"closed"}, expiry_s + 10.0)
        deadline_s = self.watch.deadlines_s.get(RESET, 0.0)
        self._until(lambda look: look.at_s > deadline_s + SLACK_S, expiry_s)
        shut = self.watch.look()
        self._until(lambda _: False, CLOSED_FOR_S)
        look = self.watch.look()
        last_s = look.flows[RESET].last_arrival_s
        held = closed and cut_s < last_s <= min(deadline_s, cut_s + expiry_s) + SLACK_S
        self._note(
            f"{RESET} closes by its hard expiry",
            f"last packet {last_s - cut_s:.2f} s after the cut, {_against(last_s - deadline_s)} the hard expiry",
            held,
        )
        passed = look.flows[RESET].received - shut.flows[RESET].received
        tried = look.flows[RESET].sent - shut.flows[RESET].sent
        self._note(
            f"nothing passes while {RESET} is closed",
            f"{passed} of {tried} packets passed in {look.at_s - shut.at_s:.1f} s",
            passed == 0 and tried > 0,
        )
        lost = look.flows[ORDINARY].lost - before[ORDINARY].lost
        went = look.flows[ORDINARY].received - before[ORDINARY].received
        self._note(
            f"{ORDINARY} goes on without the control channel",
            f"{went} packets passed, {lost} lost",
            lost == 0 and went > 0 and look.states(ORDINARY) == {"open"},
        )
        return cut_s

    def _mend(self, cut_s: float) -> None:
        self._phase(f"4/5  the cut is mended: {RESET} opens again by itself")
        self.lab.mend()
        mended_s = boottime()
        self.watch.tell(f"the control channel is mended, {mended_s - cut_s:.0f} s after the cut", "phase")
        opened = self._until(lambda look: look.states(RESET) == {"open"}, REOPEN_WITHIN_S)
        took_s = boottime() - mended_s
        before = self.watch.look().flows[RESET].received
        self._until(lambda _: False, 2.0)
        now = self.watch.look().flows[RESET]
        passed = now.received - before
        self.lost_closed = now.lost - self.lost_open
        self._note(
            f"{RESET} opens again without an operator",
            f"{took_s:.1f} s after the mending, {passed} packets in the 2 s after" if opened else "it stayed closed",
            opened and passed > 0,
        )

    def _renew(self) -> None:
        self._phase(f"5/5  {ORDINARY} gets its new key at WireGuard's own handshake, about 120 s after the first")
        left_s = RENEW_WITHIN_S - self.watch.elapsed_s
        renewed = self._until(lambda _: len(self.watch.epochs[ORDINARY]) > 1, left_s)
        self._until(lambda _: False, 3.0)
        epochs = ", ".join(map(str, self.watch.epochs[ORDINARY]))
        self._note(f"{ORDINARY} has a new key under traffic", f"epochs {epochs}", renewed)

    def _count(self) -> None:
        self.screen.phase = "counting"
        totals = {name: flow.finish() for name, flow in self.lab.flows.items()}
        wan, fast = totals[ORDINARY], totals[RESET]
        self._note(f"{ORDINARY} lost no packet", f"{wan.lost} of {wan.sent} lost", wan.lost == 0 and wan.received > 0)
        resets = len(self.watch.epochs[RESET]) - 1
        forced = fast.lost - self.lost_closed
        self._note(
            f"{RESET} shows what forced handshakes cost",
            f"{forced} of {fast.sent} lost in {resets} rotations; {self.lost_closed} while closed",
            fast.received > 0,
        )

    # ---- helpers

    def _until(self, condition: Callable[[Look], bool], timeout_s: float) -> bool:
        """Look and show until `condition` holds; False after `timeout_s`."""
        deadline_s = boottime() + timeout_s
        while True:
            look = self.watch.look()
            self.screen.show(self.watch)
            if condition(look):
                return True
            if boottime() >= deadline_s:
                return False
            time.sleep(LOOK_EVERY_S)

    def _phase(self, text: str) -> None:
        self.screen.phase = text
        self.watch.tell(text, "phase")

    def _note(self, claim: str, measured: str, held: bool) -> None:
        self.seen.append(Observation(claim, measured, held))
        if not held:
            self.watch.tell(f"not observed: {claim} ({measured})", "bad")

    def _expiry_s(self) -> int:
        return self.lab.gateways[NAMES[0]].config.tunnels[RESET].expiry_s


def main() -> int:
    """Run the demo. Returns 0 if everything was observed, 1 if not or if it failed, 130 after Ctrl-C."""
    console = make_console()
    lab = Lab(read_configs())
    observed: list[Observation] = []
    try:
        try:
            with lab:
                _run(lab, Screen(console), observed)
        finally:
            left = lab.leftovers()
            console.print(f"left behind: {', '.join(left)}" if left else "Everything that the demo made is gone.")
    except KeyboardInterrupt:
        console.print("Interrupted.")
        return EXIT_INTERRUPTED
    observed.append(Observation("everything that the demo made is gone", f"{len(left)} things left", not left))
    console.print(summary(observed, "What was observed"))
    return 0 if all(one.held for one in observed) else 1


def read_configs() -> dict[str, str]:
    """The two gateways' configuration files. Raises `OperatorError` (file.missing) where the examples are not there."""
    texts = {}
    for name in NAMES:
        path = CONFIGS / f"{name}.toml"
        if not path.is_file():
            raise OperatorError("file.missing", "the demo's configuration is not there", where=str(path))
        texts[name] = path.read_text()
    return texts


def _run(lab: Lab, screen: Screen, observed: list[Observation]) -> None:
    """The demo inside its laboratory; a failure of the program shows the daemons' last words."""
    try:
        for name in (ORDINARY, RESET):
            lab.add_flow(name)
        demo = Demo(lab, Watch(lab), screen, observed)
        with screen:
            demo.play()
    except QhybriddError:
        for gateway in lab.gateways.values():
            screen.console.print(gateway.last_words(), markup=False)
        raise


def _against(seconds: float) -> str:
    return f"{-seconds:.2f} s before" if seconds <= 0 else f"{seconds:.2f} s after"
