"""What a benchmark gives, and how it is timed."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from qhybridd import _native

CHAIN_ROUNDS: Final = 50_000
"""Of the chain that tells the frequency: about a quarter of a millisecond."""
LEAST_S: Final = 0.2
"""Work is repeated until it has taken so long in all."""
MOST_REPEATS: Final = 50


@dataclass(frozen=True, slots=True)
class Goal:
    """A figure that is to be reached on a core with AVX-512; on others it is shown and not judged."""

    figure: float
    at_most: bool = False
    """Whether less is better."""

    def met(self, figure: float) -> bool:
        """Whether `figure` reaches it."""
        return figure <= self.figure if self.at_most else figure >= self.figure


@dataclass(frozen=True, slots=True)
class Reading:
    """One line of a benchmark."""

    stage: str
    case: str
    """What was done: sizes, which end."""
    figure: float
    unit: str
    goal: Goal | None = None
    qber: float | None = None
    cycles: float | None = None
    """Of one core, for each bit or click; None where the frequency is not known."""
    efficiency: float | None = None
    """f: bits disclosed, all retries included, over n·h(q) of the errors that were there."""
    efficiency_goal: Goal | None = None
    frame_errors: float | None = None
    """Share of the frames that the syndrome alone did not correct."""
    frame_errors_goal: Goal | None = None
    seconds: float | None = None
    """One run."""

    @property
    def missed(self) -> bool:
        """Whether any goal is, on this processor."""
        pairs = (
            (self.goal, self.figure),
            (self.efficiency_goal, self.efficiency),
            (self.frame_errors_goal, self.frame_errors),
        )
        return judged() and any(goal and figure is not None and not goal.met(figure) for goal, figure in pairs)


@dataclass(frozen=True, slots=True)
class Timed:
    """Processor time of the fastest of several runs, and how fast the core ran then."""

    seconds: float
    hertz: float
    """0 where it is not known."""

    def cycles(self, units: float) -> float | None:
        """Cycles for each of `units`."""
        return self.seconds * self.hertz / units if self.hertz else None


def judged() -> bool:
    """Goals are for AVX-512."""
    return _native.instruction_set() == "avx512"


def fastest(
    work: Callable[[], object], *, least_s: float = LEAST_S, prepare: Callable[[], object] | None = None
) -> Timed:
    """Repeat `work` for at least `least_s`, twice at least; `prepare` comes before each run and is not timed.

    The fastest run is what the code takes, the others are what the machine did meanwhile.
    """
    best, spent, runs = float("inf"), 0.0, 0
    before = frequency_hz()
    while runs < 2 or (spent < least_s and runs < MOST_REPEATS):
        if prepare is not None:
            prepare()
        begun = time.thread_time()
        work()
        taken = time.thread_time() - begun
        best, spent, runs = min(best, taken), spent + taken, runs + 1
    return Timed(best, max(before, frequency_hz()))


def once(work: Callable[[], object]) -> Timed:
    """For what takes long, or uses itself up."""
    begun = time.thread_time()
    work()
    return Timed(time.thread_time() - begun, frequency_hz())


def frequency_hz() -> float:
    """How fast this core runs now: dependent instructions of one cycle each, timed. 0 where that is not known.

    Time stamp counters tick at the nominal rate whatever the core does, so they do not count cycles.
    """
    best = float("inf")
    for _ in range(8):
        begun = time.thread_time()
        cycles = _native.run_chain(CHAIN_ROUNDS)
        best = min(best, time.thread_time() - begun)
    return cycles / best
