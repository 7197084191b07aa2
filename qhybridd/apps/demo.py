"""`qhybridd demo`: the main job on one machine, live, in under four minutes.

Two gateways in network namespaces key three WireGuard tunnels under traffic, from ML-KEM and a simulated QKD link
whose fibre runs through a third namespace. `wan` renews in the ordinary way and loses nothing; `fast` and `office`
force their handshake every ten seconds. Eve steps into the fibre: the error rate rises, block after block is
discarded, and the keys in store run out. `fast`, which takes nothing but hybrid keys, closes at its hard expiry;
`office`, which may, falls back to ML-KEM alone. She leaves, and both recover. Then the control channel is cut, and
mended. Every claim is measured on the traffic itself or read from both daemons, and the exit status is 0 only if each
one held.
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
STRICT: Final = "fast"
LENIENT: Final = "office"
TUNNELS: Final = (ORDINARY, STRICT, LENIENT)
LINK: Final = "fibre"
BEST: Final = "hybrid"
LESS: Final = "pqc"

LOOK_EVERY_S: Final = 0.25
OPEN_WITHIN_S: Final = 45.0
ROTATE_FOR_S: Final = 15.0
"""So long both gateways rotate undisturbed: each of the fast tunnels gets a key or two."""
CAUGHT_WITHIN_S: Final = 20.0
"""Blocks take about a second and a half each."""
ATTACK_SHOWS: Final = 0.2
"""What the error rate must exceed: measuring and sending again every photon makes a quarter of the bits wrong."""
SLACK_S: Final = 1.0
"""What a closing may come after the hard expiry."""
CLOSED_FOR_S: Final = 4.0
"""How long a closed tunnel is watched for a packet that should not come."""
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
    lost_closed: dict[str, int] = field(default_factory=dict)
    """By tunnel: packets lost from its hard expiry until it was open again."""
    _shut: dict[str, int] = field(default_factory=dict)
    """By tunnel that is closed: the packets that it had lost by then."""

    def play(self) -> None:
        """All acts. One that fails to show its point is noted, and the next one begins."""
        self._open()
        self._rotate()
        self._attack()
        self._recover()
        self._renew()
        self._cut()
        self._count()

    # ---- the acts

    def _open(self) -> None:
        self._phase("1/6  two daemons meet, distil the first keys, and key three tunnels")
        began_s = boottime()
        self.lab.start_daemons()
        opened = self._until(lambda look: all(look.states(name) == {"open"} for name in TUNNELS), OPEN_WITHIN_S)
        took_s = boottime() - began_s
        look = self.watch.look()
        self._note(
            f"three tunnels open, {STRICT} keyed at level {BEST}",
            f"{took_s:.1f} s after the daemons began" if opened else "not open",
            opened and look.levels(STRICT) == {BEST},
        )
        for flow in self.lab.flows.values():
            flow.start()
        self.watch.tell("traffic begins: a packet every 10 ms through each tunnel, both ways")

    def _rotate(self) -> None:
        self._phase(f"2/6  {STRICT} and {LENIENT} get a new key every 10 s, from ML-KEM and the QKD link")
        until_s = self.watch.elapsed_s + ROTATE_FOR_S
        both = (STRICT, LENIENT)
        self._until(
            lambda look: self.watch.elapsed_s >= until_s and all(look.levels(name) == {BEST} for name in both),
            ROTATE_FOR_S + 15.0,
        )
        look = self.watch.look()
        self._note(
            f"{STRICT} and {LENIENT} rotate by themselves at level {BEST}",
            "; ".join(f"{name}: epochs {', '.join(map(str, self.watch.epochs[name]))}" for name in both),
            all(len(self.watch.epochs[name]) >= 2 and self.watch.rotations_follow(name) for name in both)
            and all(look.levels(name) == {BEST} for name in both),
        )
        rates = self.watch.qbers.get(LINK, [])
        self._note(
            "the QKD link distils keys",
            f"QBER {rates[-1]:.2%} over {len(rates)} blocks" if rates else "no block",
            bool(rates) and rates[-1] < ATTACK_SHOWS / 2,
        )

    def _attack(self) -> None:
        self._phase("3/6  Eve steps into the fibre: she measures every photon and sends another in its place")
        before = self.watch.look()
        blocks = len(self.watch.qbers.get(LINK, []))
        source = self.lab.gateways[NAMES[0]].config.links[LINK].photons
        self.lab.start_eve("--intercept", "--connect", str(source), "--attack", "intercept-resend")
        began_s = boottime()
        self.watch.tell("Eve begins", "phase")
        caught = self._until(lambda look: self._says(look, "link.attack"), CAUGHT_WITHIN_S)
        rates = self.watch.qbers.get(LINK, [])[blocks:]
        self._note(
            "the QBER rises, and the block is discarded as an attack",
            f"QBER {max(rates, default=0):.1%}, {boottime() - began_s:.1f} s after she began" if caught else "not seen",
            caught and max(rates, default=0) > ATTACK_SHOWS,
        )
        most_s = 2 * self._expiry_s(STRICT) + 30.0
        fell = self._until(lambda look: look.levels(LENIENT) == {LESS}, most_s)
        self._note(
            f"{LENIENT} falls back to level {LESS}, and says so",
            f"{boottime() - began_s:.1f} s after she began" if fell else "it did not",
            fell and self.watch.look().states(LENIENT) == {"open"},
        )
        closed = self._until(lambda look: look.states(STRICT) == {"closed"}, most_s)
        self._check_closed(STRICT, closed=closed)
        look = self.watch.look()
        lost = look.flows[ORDINARY].lost - before.flows[ORDINARY].lost
        went = look.flows[ORDINARY].received - before.flows[ORDINARY].received
        self._note(
            f"{ORDINARY} and {LENIENT} go on meanwhile",
            f"{ORDINARY}: {went} packets passed, {lost} lost",
            lost == 0 and went > 0 and look.states(ORDINARY) == look.states(LENIENT) == {"open"},
        )

    def _recover(self) -> None:
        self._phase(f"4/6  Eve leaves: {STRICT} opens again, {LENIENT} is back at level {BEST}")
        self.lab.stop_eve()
        left_s = boottime()
        said = [line for line in self.lab.eve_log.read_text(errors="replace").splitlines() if "she knows" in line]
        self.watch.tell(f"Eve leaves{'; ' + said[-1].split('; ')[-1] if said else ''}", "phase")
        opened = self._until(lambda look: look.states(STRICT) == {"open"}, REOPEN_WITHIN_S)
        opened_s = boottime() - left_s
        self._reopened(STRICT)
        self._note(
            f"{STRICT} opens again without an operator",
            f"{opened_s:.1f} s after she left" if opened else "it stayed closed",
            opened and self.watch.look().levels(STRICT) == {BEST},
        )
        back = self._until(lambda look: look.levels(LENIENT) == {BEST}, REOPEN_WITHIN_S)
        took_s = boottime() - left_s
        self._note(
            f"{LENIENT} is back at level {BEST}", f"{took_s:.1f} s after she left" if back else "it is not", back
        )

    def _renew(self) -> None:
        self._phase(f"5/6  {ORDINARY} gets its new key at WireGuard's own handshake, about 120 s after the first")
        left_s = RENEW_WITHIN_S - self.watch.elapsed_s
        renewed = self._until(lambda _: len(self.watch.epochs[ORDINARY]) > 1, left_s)
        self._until(lambda _: False, 2.0)
        epochs = ", ".join(map(str, self.watch.epochs[ORDINARY]))
        level = " and ".join(sorted(self.watch.look().levels(ORDINARY)))
        self._note(f"{ORDINARY} has a new key under traffic", f"epochs {epochs}, level {level}", renewed)

    def _cut(self) -> None:
        expiry_s = self._expiry_s(STRICT)
        self._phase(f"6/6  the control channel is cut: {STRICT} must close within {expiry_s} s, {ORDINARY} goes on")
        before = self.watch.look().flows[ORDINARY]
        self.lab.cut()
        self.watch.tell("the control channel is cut: its packets vanish silently", "phase")
        closed = self._until(lambda look: look.states(STRICT) == {"closed"}, expiry_s + 10.0)
        self._check_closed(STRICT, closed=closed)
        look = self.watch.look()
        lost = look.flows[ORDINARY].lost - before.lost
        self._note(
            f"{ORDINARY} goes on without the control channel",
            f"{look.flows[ORDINARY].received - before.received} packets passed, {lost} lost",
            lost == 0 and look.states(ORDINARY) == {"open"},
        )
        self.lab.mend()
        mended_s = boottime()
        self.watch.tell("the control channel is mended", "phase")
        opened = self._until(lambda look: look.states(STRICT) == {"open"}, REOPEN_WITHIN_S)
        took_s = boottime() - mended_s
        self._reopened(STRICT)
        self._note(
            f"{STRICT} opens again after the cut",
            f"{took_s:.1f} s after the mending" if opened else "it stayed closed",
            opened,
        )
        self._until(lambda _: False, 2.0)

    def _count(self) -> None:
        self.screen.phase = "counting"
        totals = {name: flow.finish() for name, flow in self.lab.flows.items()}
        wan, fast = totals[ORDINARY], totals[STRICT]
        self._note(f"{ORDINARY} lost no packet", f"{wan.lost} of {wan.sent} lost", wan.lost == 0 and wan.received > 0)
        closed = self.lost_closed.get(STRICT, 0)
        resets = len(self.watch.epochs[STRICT]) - 1
        self._note(
            f"{STRICT} shows what forced handshakes cost",
            f"{fast.lost - closed} of {fast.sent} lost in {resets} rotations; {closed} while it was closed",
            fast.received > 0,
        )

    # ---- helpers

    def _check_closed(self, name: str, *, closed: bool) -> None:
        """That the traffic of a tunnel ended by its hard expiry, and that nothing passes while it is closed."""
        deadline_s = self.watch.deadlines_s.get(name, 0.0)
        self._shut[name] = self.watch.look().flows[name].lost
        self._until(lambda look: look.at_s > deadline_s + SLACK_S, self._expiry_s(name))
        shut = self.watch.look()
        self._until(lambda _: False, CLOSED_FOR_S)
        look = self.watch.look()
        last_s = look.flows[name].last_arrival_s
        self._note(
            f"{name} closes by its hard expiry",
            f"last packet {_against(last_s - deadline_s)} the hard expiry" if closed else "it stayed open",
            closed and 0 < last_s <= deadline_s + SLACK_S,
        )
        passed = look.flows[name].received - shut.flows[name].received
        tried = look.flows[name].sent - shut.flows[name].sent
        self._note(
            f"nothing passes while {name} is closed",
            f"{passed} of {tried} packets passed in {look.at_s - shut.at_s:.1f} s",
            passed == 0 and tried > 0,
        )

    def _reopened(self, name: str) -> None:
        lost = self.watch.look().flows[name].lost - self._shut.pop(name, 0)
        self.lost_closed[name] = self.lost_closed.get(name, 0) + lost

    def _says(self, look: Look, code: str) -> bool:
        """Whether both gateways give this reason for the state of the link."""
        links = look.links(LINK)
        return len(links) == len(look.gateways) and all(link.code == code for link in links.values())

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

    def _expiry_s(self, name: str) -> int:
        return self.lab.gateways[NAMES[0]].config.tunnels[name].expiry_s


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
        for name in TUNNELS:
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
