"""Alice's photon runs: terms are fixed before a block begins, no block is taken twice, no pulse number comes twice."""

import threading

import numpy as np
import pytest

from qhybridd.errors import HostError, PeerError
from qhybridd.links.alice import Lamp, PulseRun
from qhybridd.optics.line import Line
from qhybridd.optics.parameters import Optics
from qhybridd.optics.randomness import Randomness
from qhybridd.optics.records import Layout, Request
from tests.unit.test_links_planning import counts, planner, record, terms_of

LAYOUT = Layout(1e9, 200_000, 3)
FIRST = terms_of(planner())
_PLANNER = planner()
_PLANNER.note(record(FIRST, counts()))
SECOND = terms_of(_PLANNER)


def lamp() -> Lamp:
    return Lamp(Line(Optics(), Randomness.from_seed(1)))


def run(light: Lamp) -> PulseRun:
    return PulseRun(light, LAYOUT, 0.1, Request(thinning=0.2), FIRST)


def shine(pulses: PulseRun, frames: int) -> None:
    for _ in range(frames):
        pulses.next_frame()


@pytest.mark.parametrize(("frames", "first"), [(0, 0), (1, 1), (2, 1), (3, 1), (4, 2), (6, 2)])
def test_a_plan_holds_from_the_first_block_that_has_not_begun(frames: int, first: int) -> None:
    pulses = run(lamp())
    shine(pulses, frames)
    assert pulses.plan(SECOND) == first
    shine(pulses, 12 - frames)
    for block in range(4):
        assert pulses.take(block) == (SECOND if block >= first else FIRST)


def test_the_last_of_several_plans_holds() -> None:
    pulses = run(lamp())
    shine(pulses, 2)
    pulses.plan(SECOND)
    pulses.plan(None)
    pulses.plan(FIRST)
    shine(pulses, 4)
    assert pulses.take(1) is FIRST and pulses.plans == [(1, FIRST)]


def test_a_block_is_taken_once_in_order_and_only_when_it_was_emitted() -> None:
    pulses = run(lamp())
    shine(pulses, 5)
    for block in (1, 7, -1):
        with pytest.raises(PeerError, match="emitted"):
            pulses.take(block)
    pulses.take(0)
    shine(pulses, 7)
    pulses.take(2)
    for block in (0, 1, 2):
        with pytest.raises(PeerError) as refused:
            pulses.take(block)
        assert refused.value.code == "link.order"
    pulses.take(3)


def test_frames_are_counted_from_the_run_and_prepared_anew_in_each() -> None:
    light = lamp()
    remembered = []
    for _ in range(2):
        pulses = run(light)
        frames = [pulses.next_frame() for _ in range(3)]
        assert [frame.first for frame in frames] == [0, 200_000, 400_000]
        gaps = np.full(2000, 17, np.uint32)
        remembered.append(pulses.emissions(0).recall(gaps.data).bases)
        pulses.close()
        with pytest.raises(HostError):
            pulses.next_frame()
    assert remembered[0] != remembered[1]
    assert light.next_pulse == 1_200_000


def test_what_is_recalled_is_what_was_sent() -> None:
    pulses = run(lamp())
    shine(pulses, 3)
    frames = [pulses.next_frame() for _ in range(3)]  # the second block
    places = np.concatenate([frame.places() + np.uint64(200_000 * n) for n, frame in enumerate(frames)])
    states = np.concatenate([frame.states for frame in frames])
    gaps = np.diff(places, prepend=np.uint64(0)).astype("<u4")
    prepared = pulses.emissions(1).recall(gaps.data)
    bases = np.unpackbits(np.frombuffer(prepared.bases, np.uint8), bitorder="little")[: len(places)]
    with prepared.bits.expose() as words:
        bits = np.unpackbits(np.frombuffer(bytes(words), np.uint8), bitorder="little")[: len(places)]
    assert len(places) > 100 and not (states & 4).any()
    assert (bits == states & 1).all() and (bases == states >> 1 & 1).all()
    with pytest.raises(PeerError):
        pulses.emissions(1).recall(np.array([600_000], np.uint32).data)


def test_runs_have_names_of_their_own() -> None:
    light = lamp()
    assert len({run(light).announce.run for _ in range(50)}) == 50


def test_a_run_ends_when_another_goes_on_with_the_numbers() -> None:
    light = lamp()
    old, fresh = run(light), run(light)
    shine(fresh, 2)
    with pytest.raises(HostError):
        old.next_frame()
    shine(fresh, 1)
    assert light.next_pulse == 600_000


def test_the_event_loop_does_not_wait_for_light_that_is_worked_out() -> None:
    """A frame takes a fifth of a second where somebody asks for much light, the memory of a large block longer."""
    light = lamp()
    pulses = run(light)
    shine(pulses, 3)
    with light.lock:  # as the thread that shines holds it
        asked = threading.Thread(target=lambda: (pulses.take(0), pulses.plan(SECOND)), daemon=True)
        asked.start()
        asked.join(5)
        assert not asked.is_alive()
    assert pulses.plans[-1] == (1, SECOND)
