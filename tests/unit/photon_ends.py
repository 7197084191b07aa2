"""Both ends of a photon stream, for tests of what stands in between."""

import asyncio
import os
from collections.abc import Callable

import numpy as np

from qhybridd.errors import QhybriddError
from qhybridd.links.photon_frames import Announce
from qhybridd.optics.line import Line
from qhybridd.optics.parameters import Optics
from qhybridd.optics.randomness import Randomness
from qhybridd.optics.records import Arrivals, Layout, Request

LAYOUT = Layout(1e9, 1 << 20, 4)
OPTICS = Optics().with_length(25.0)
THINNING = OPTICS.receiver.thinning


class Upper:
    """Alice, for one connection."""

    def __init__(self, request: Request, layout: Layout = LAYOUT) -> None:
        self.request = request
        self.announce = Announce(os.urandom(16), layout, OPTICS.fibre.transmission)
        self.sent: list[Arrivals] = []
        self.closed = False
        self._line = Line(OPTICS, Randomness.from_seed(3))

    def next_frame(self) -> Arrivals:
        pulses = self.announce.layout.frame_pulses
        self.sent.append(self._line.frame(len(self.sent) * pulses, pulses, self.request))
        return self.sent[-1]

    def close(self) -> None:
        self.closed = True


class Lower:
    """Bob: takes so many frames of each run, and is slow where it is told to be."""

    def __init__(self, frames: int) -> None:
        self.runs: list[Announce] = []
        self.frames: list[Arrivals] = []
        self.lost_with: list[QhybriddError] = []
        self.done = asyncio.Event()
        self.go = asyncio.Event()
        self.go.set()
        self._wanted = frames

    async def begin(self, announce: Announce) -> None:
        self.runs.append(announce)

    async def frame(self, arrivals: Arrivals) -> None:
        await self.go.wait()
        self.frames.append(arrivals)
        if len(self.frames) == self._wanted:
            self.done.set()

    async def lost(self, error: QhybriddError) -> None:
        self.lost_with.append(error)


def same(one: Arrivals, other: Arrivals) -> bool:
    return (
        (one.first, one.pulses, one.light) == (other.first, other.pulses, other.light)
        and np.array_equal(one.gaps, other.gaps)
        and np.array_equal(one.states, other.states)
        and np.array_equal(one.photons, other.photons)
    )


async def until(condition: Callable[[], bool]) -> None:
    while not condition():  # noqa: ASYNC110 - the conditions are in another object's lists
        await asyncio.sleep(0.01)
