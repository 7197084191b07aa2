"""What happens to a link in the course of a day: faults that come and go, and perhaps a visitor."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

from qhybridd.apps.sim.link import SimulatedLink

DEGRADED_DB: Final = 1.0
"""What the degrading fibre loses at last."""
DISTURBED_RAD: Final = 0.6
DISTURBED_S: Final = 120.0
"""Strength and decay of the excursion when somebody touches the fibre."""


@dataclass(frozen=True, slots=True)
class Event:
    """Something that lasts from `begin_s` to `end_s`, in time of the link."""

    name: str
    begin_s: float
    end_s: float
    begin: Callable[[SimulatedLink], None]
    end: Callable[[SimulatedLink], None]
    during: Callable[[SimulatedLink, float], None] = lambda _link, _share: None
    """Each frame, with the share of the time that is over."""


@dataclass(slots=True)
class Programme:
    """The events of a run."""

    events: Sequence[Event]
    _running: set[str] = field(default_factory=set)

    def at(self, link: SimulatedLink, now: float) -> None:
        """Begin, go on with and end what is due."""
        for event in self.events:
            runs = event.begin_s <= now < event.end_s
            if runs and event.name not in self._running:
                self._running.add(event.name)
                event.begin(link)
            if runs:
                event.during(link, (now - event.begin_s) / (event.end_s - event.begin_s))
            elif event.name in self._running:
                self._running.remove(event.name)
                event.end(link)


def usual_day(seconds: float, attack: str | None = None, fraction: float = 1.0) -> list[Event]:
    """A cut, a touched fibre that has to be calibrated anew, one that degrades and is repaired; and, if there is to be
    one, an attack. At fixed shares of the run."""

    def cut(link: SimulatedLink) -> None:
        link.line.fibre.cut = True

    def mend(link: SimulatedLink) -> None:
        link.line.fibre.cut = False

    def touch(link: SimulatedLink) -> None:
        link.line.fibre.disturb(DISTURBED_RAD, DISTURBED_S)

    def degrade(link: SimulatedLink, share: float) -> None:
        link.line.fibre.extra_loss_db = DEGRADED_DB * share

    def repair(link: SimulatedLink) -> None:
        link.line.fibre.extra_loss_db = 0.0

    def nothing(_: SimulatedLink) -> None:
        pass

    events = [
        Event("cut", 0.25 * seconds, 0.28 * seconds, cut, mend),
        Event("fibre touched", 0.40 * seconds, 0.41 * seconds, touch, nothing),
        Event("degrading fibre", 0.50 * seconds, 0.68 * seconds, nothing, repair, degrade),
    ]
    if attack:
        enter, leave = (lambda link: link.attack(attack, fraction)), (lambda link: link.attack(None))
        events.append(Event(attack, 0.80 * seconds, 0.86 * seconds, enter, leave))
    return events
