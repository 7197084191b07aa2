"""What the photon stream costs: bytes for each click of the receiver, and the time of its codec."""

import statistics
import time
from typing import Final

from bench.figures import Figure
from qhybridd.links.photon_frames import decode_frame, encode_frame
from qhybridd.links.photons import LENGTH_BYTES
from qhybridd.optics.line import Line
from qhybridd.optics.parameters import Optics
from qhybridd.optics.randomness import Randomness
from qhybridd.optics.receiver import Station
from qhybridd.optics.records import Layout, Request

GOAL_BYTES: Final = 8
LENGTHS_KM: Final = (10, 50, 100)
FRAMES: Final = 50
LAYOUT: Final = Layout(1e9, 10_000_000, 100)
"""A gigahertz, 10 ms a frame."""


def measure() -> list[Figure]:
    """For each length of fibre: source, fibre, the stream's bytes, receiver."""
    return [figure_at(length_km) for length_km in LENGTHS_KM]


def figure_at(length_km: float) -> Figure:
    """At one length."""
    optics, randomness = Optics().with_length(length_km), Randomness.from_seed(1)
    line, station = Line(optics, randomness), Station(optics.receiver, optics.source, randomness.child("bob"))
    sent = arrived = clicks = 0
    codec_s: list[float] = []
    for number in range(FRAMES):
        frame = line.frame(number * LAYOUT.frame_pulses, LAYOUT.frame_pulses, Request(thinning=station.thinning))
        begun = time.perf_counter()
        data = encode_frame(frame)
        frame = decode_frame(data, LAYOUT)
        codec_s.append((time.perf_counter() - begun) / max(1, frame.count))
        sent += LENGTH_BYTES + len(data)
        arrived += frame.count
        clicks += len(station.detect(frame).gaps)
    each = sent / clicks
    return Figure(
        f"photon stream, bytes a click at {length_km:g} km",
        f"{each:.2f}",
        f"{sent / arrived:.2f} bytes an arrival, {arrived / clicks:.2f} arrivals a click; 1 GHz: "
        f"{sent / FRAMES / LAYOUT.frame_s / 1e6:.2f} MB/s; {1e9 * statistics.median(codec_s):.0f} ns an arrival to "
        "write and read",
        f"≤ {GOAL_BYTES}",
        each <= GOAL_BYTES,
    )


if __name__ == "__main__":
    for figure in measure():
        print(figure)
