"""What the stages of the simulated link hand to each other, one frame of pulses or one block of them at a time."""

from dataclasses import dataclass
from enum import IntFlag
from typing import Final

import numpy as np
from numpy.typing import NDArray

from qhybridd.bits import Bits

Plane = bytes
"""A public bit for each click, packed as in `bits`."""


class State(IntFlag):
    """What a pulse of light is prepared in: the bits of an element of `Arrivals.states`."""

    BIT = 1
    TEST_BASIS = 2
    """Prepared in the test basis Z; else in the key basis X."""
    UNPOLARISED = 4
    """In no state at all, as noise is: any measurement gives either result with probability 1/2."""


MAX_PHOTONS: Final = (1 << 32) - 1


@dataclass(frozen=True, slots=True)
class Light:
    """What holds for all light of one frame."""

    angle_rad: float = 0.0
    """How far the way turned the states: half a turn on the Poincaré sphere is π/2 here. X and Z are π/4 apart."""
    delay_ps: float = 0.0
    """How much later than the frame's clock says the light comes."""
    background_w: float = 0.0
    """Power of continuous light at the end of the way; a quantum channel has none worth measuring."""


@dataclass(frozen=True, slots=True, eq=False)
class Arrivals:
    """The pulses of one frame that still hold light at some place of the way, in their order.

    Pulses without a photon are not there, and cost nothing.
    """

    first: int
    """Number of the frame's first pulse, counted since the run began."""
    pulses: int
    """Pulses of the frame, with and without light."""
    gaps: NDArray[np.uint32]
    """One for each arrival: pulses since the arrival before, the first since the frame began (0: the frame's first
    pulse; later gaps are at least 1)."""
    states: NDArray[np.uint8]
    """`State` of each."""
    photons: NDArray[np.uint32]
    """Photons of each, at least 1."""
    delays_ps: NDArray[np.int16] | None
    """How much later than `light.delay_ps` each comes; None where all come on time."""
    light: Light

    @property
    def count(self) -> int:
        """How many there are."""
        return len(self.gaps)

    def places(self) -> NDArray[np.uint64]:
        """The number of each arrival's pulse within the frame."""
        return np.cumsum(self.gaps, dtype=np.uint64)


@dataclass(frozen=True, slots=True)
class Request:
    """What the lower end of a piece of way asks of the upper end: work that need not be done, and bytes not sent.

    Loss treats every photon alike and independently, so it may be applied wherever it is cheapest: a receiver that
    loses nine photons in ten whatever they are need not be sent them.
    """

    fibre: bool = True
    """Whether the light comes through the fibre; False for one who stands at its beginning, with a better fibre."""
    thinning: float = 1.0
    """Share of the photons, in (0, 1], that the lower end can make use of: the others are lost above it."""
    photons_least: int = 1
    """Pulses with fewer photons, after loss and thinning, are of no use to the lower end."""


@dataclass(frozen=True, slots=True)
class Layout:
    """How a run of pulses is cut up."""

    repetition_hz: float
    frame_pulses: int
    """Pulses of a frame: what is computed and sent at once, and for which `Light` holds."""
    block_frames: int
    """Frames of a block: what is distilled at once."""

    @property
    def block_pulses(self) -> int:
        """Pulses of a block."""
        return self.frame_pulses * self.block_frames

    @property
    def frame_s(self) -> float:
        """Time that a frame of a link takes."""
        return self.frame_pulses / self.repetition_hz


@dataclass(frozen=True, slots=True)
class Health:
    """What Bob's instruments told during one frame; of several frames, the worst or the sum."""

    clicks: tuple[int, int]
    """Of each detector, double clicks counted in both."""
    doubles: int
    """Gates in which both clicked."""
    current_a: tuple[float, float]
    """Mean photocurrent of each detector."""
    timing_mean_ps: float
    """Mean time of the clicks against the middle of the gate; 0 without a click."""
    timing_std_ps: float
    """Their spread; 0 with fewer than two."""
    synchronised: bool
    """Whether the receiver's clock was locked to the source's for the whole frame."""
    calibrating: bool
    """Whether the frame was spent on calibration, and its clicks thrown away."""
    angle_rad: float
    """What the reference said about misalignment after compensation."""


@dataclass(frozen=True, slots=True, eq=False)
class Detections:
    """What Bob's detectors gave for one frame."""

    first: int
    pulses: int
    gaps: NDArray[np.uint32]
    """As in `Arrivals`, one for each click that counts."""
    bases: NDArray[np.uint8]
    """1 where he measured in the test basis, one element a click."""
    bits: NDArray[np.uint8]
    """What he got, one element a click."""
    health: Health


@dataclass(frozen=True, slots=True, eq=False)
class Clicks:
    """What Bob's detectors gave for the pulses of one block, in their order."""

    pulses: int
    """Pulses of the block."""
    count: int
    """Clicks among them."""
    gaps: bytes | memoryview
    """uint32 little-endian, one a click: pulses since the click before, the first since the block began (0: the first
    pulse of all; later gaps are at least 1)."""
    bases: Plane
    """1 where Bob measured in the test basis Z."""
    bits: Bits
    """What he got."""


@dataclass(frozen=True, slots=True, eq=False)
class Prepared:
    """What Alice had prepared in the pulses that clicked, in their order."""

    bases: Plane
    """1 where she prepared in the test basis Z."""
    bits: Bits
    intensities: tuple[Plane, Plane]
    """Low and high bit of the index into the intensities."""
