"""How fast light is simulated, from the source to sifted clicks at both ends, and how large the photon stream is.

The way is the one between two daemons but for the sockets: each frame is encoded as Alice's daemon sends it and decoded
as Bob's takes it. Times are the median of several runs.
"""

import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Final, ParamSpec, TypeVar

from qhybridd.apps.bench.options import Options
from qhybridd.apps.bench.readings import Goal, Reading, frequency_hz
from qhybridd.distill.sift import match, select, sort_clicks
from qhybridd.links.photon_frames import decode_frame, encode_frame
from qhybridd.links.planning import lay_out
from qhybridd.optics.line import Line
from qhybridd.optics.parameters import Optics
from qhybridd.optics.randomness import Randomness
from qhybridd.optics.receiver import Station, assemble
from qhybridd.optics.records import Clicks, Detections, Layout, Request

DISTANCES_KM: Final = (10.0, 50.0, 100.0)
GOAL_KM: Final = 50.0
GOAL: Final = Goal(1.0)
"""Pulses a nanosecond: a gigahertz link at its own pace."""
BYTES_GOAL: Final = Goal(8.0, at_most=True)
RUNS: Final = 7
BLOCK_CLICKS: Final = 1_000_000
QUICK_CLICKS: Final = 50_000
SEED: Final = 1

P = ParamSpec("P")
T = TypeVar("T")


@dataclass(slots=True)
class Laps:
    """Processor time of each step of one block."""

    seconds: dict[str, float] = field(default_factory=dict)
    arrivals: int = 0
    clicks: int = 0
    stream_bytes: int = 0

    def of(self, step: str, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Do it on this step's time."""
        begun = time.thread_time()
        done = work(*args, **kwargs)
        self.seconds[step] = self.seconds.get(step, 0.0) + time.thread_time() - begun
        return done

    @property
    def whole_s(self) -> float:
        """All steps."""
        return sum(self.seconds.values())


def optics(options: Options) -> Iterator[Reading]:
    """For each distance pulses a second in all, bytes a click of the stream, and nanoseconds of each step."""
    for km in DISTANCES_KM:
        link = Optics().with_length(km)
        layout = lay_out(link, QUICK_CLICKS if options.quick else BLOCK_CLICKS)
        line = Line(link, Randomness.from_seed(SEED).child("line"))
        station = Station(link.receiver, link.source, Randomness.from_seed(SEED).child("station"))
        run_block(line, station, layout, 0)  # tables are made and pages are touched
        laps = [run_block(line, station, layout, 1 + number) for number in range(RUNS)]
        hertz, middle = frequency_hz(), statistics.median(one.whole_s for one in laps)
        yield Reading(
            "optics",
            f"{km:g} km, end to end with sifting",
            layout.block_pulses / middle / 1e9,
            "Gpulses/s",
            GOAL if km == GOAL_KM else None,
            seconds=middle,
        )
        size = sum(one.stream_bytes for one in laps) / sum(one.clicks for one in laps)
        yield Reading("optics", f"{km:g} km, photon stream", size, "bytes a click", BYTES_GOAL)
        for step in laps[0].seconds:
            each = statistics.median(one.seconds[step] / one.clicks for one in laps)
            yield Reading("optics", f"{km:g} km, {step}", 1e9 * each, "ns a click", cycles=each * hertz or None)


def run_block(line: Line, station: Station, layout: Layout, number: int) -> Laps:
    """One block from light to sifted clicks at both ends."""
    laps, first = Laps(), number * layout.block_pulses
    request = Request(thinning=station.thinning)
    detections: list[Detections] = []
    for frame in range(layout.block_frames):
        begin = first + frame * layout.frame_pulses
        arrivals = laps.of("emission", line.frame, begin, layout.frame_pulses, request)
        data = laps.of("stream, encoding", encode_frame, arrivals)
        received = laps.of("stream, decoding", decode_frame, data, layout)
        detections.append(laps.of("detection", station.detect, received))
        laps.arrivals += arrivals.count
        laps.stream_bytes += len(data)
    clicks = laps.of("putting a block together", assemble, detections, layout.block_pulses)
    laps.clicks = clicks.count
    _sift(laps, line, clicks, first)
    return laps


def _sift(laps: Laps, line: Line, clicks: Clicks, first: int) -> None:
    """What both ends do until each has its key, without the messages between them."""
    prepared = laps.of("recall", line.recall, first, clicks.pulses, clicks.gaps)

    def alice() -> tuple[bytes, tuple[bytes, bytes]]:
        matching = match(prepared.bases, clicks.bases, clicks.count)
        low, high = (select(matching, plane, clicks.count) for plane in prepared.intensities)
        sifted = sort_clicks(matching, clicks.bases, prepared.bits, (low, high), clicks.count)
        sifted.key.wipe()
        sifted.test.wipe()
        return matching, (low, high)

    def bob(matching: bytes, intensities: tuple[bytes, bytes]) -> None:
        sifted = sort_clicks(matching, clicks.bases, clicks.bits, intensities, clicks.count)
        sifted.key.wipe()
        sifted.test.wipe()

    laps.of("sifting, both ends", lambda: bob(*alice()))
    prepared.bits.wipe()
    clicks.bits.wipe()
