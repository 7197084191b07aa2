"""The relay between a real upper end and a real lower end of the photon stream, over loopback."""

import asyncio
from pathlib import Path

import numpy as np
import pytest

from qhybridd.apps.eve.copy import Copy
from qhybridd.apps.eve.relay import Knowledge, Relay
from qhybridd.cli.eve import ATTACKS as NAMED
from qhybridd.config.records import Endpoint
from qhybridd.errors import OperatorError
from qhybridd.links.photon_frames import ANNOUNCE_BYTES, PREAMBLE, decode_announce, decode_frame
from qhybridd.links.photons import LENGTH_BYTES, PhotonReceiver, PhotonServer
from qhybridd.optics.eve import ATTACKS
from qhybridd.optics.line import Line
from qhybridd.optics.parameters import Receiver, Source
from qhybridd.optics.randomness import Randomness
from qhybridd.optics.records import Request
from qhybridd.telemetry.log import Log, open_log
from tests.unit.photon_ends import LAYOUT, OPTICS, THINNING, Lower, Upper, same, until

HERE = Endpoint("127.0.0.1", 0)


class World:
    """Alice, Eve and Bob in one loop."""

    def __init__(self, attack: str, frames: int, copy: Path | None = None, most: int = 1 << 30) -> None:
        self.uppers: list[Upper] = []
        self.told: list[str] = []
        self.lower = Lower(frames)
        self._attack, self._copy, self._most = attack, copy, most

    def _begin(self, request: Request) -> Upper:
        self.uppers.append(Upper(request))
        return self.uppers[-1]

    async def __aenter__(self) -> "World":
        self.log = Log(open_log("error"))
        self.server = PhotonServer(HERE, 0, self._begin, self.log, paced=False)
        await self.server.open()
        knowledge = Knowledge(self._attack, 1.0, Source(), Receiver())
        self.relay = Relay(HERE, self.server.endpoint, knowledge, self.log, self.told.append)
        if self._copy is not None:
            self.relay.copy = Copy(self._copy, self._most)
        await self.relay.open()
        receiver = PhotonReceiver(self.relay.listening, 0, Request(thinning=THINNING), self.lower, self.log)
        self.bob = asyncio.create_task(receiver.run())
        return self

    async def __aexit__(self, *_: object) -> None:
        self.bob.cancel()
        await asyncio.gather(self.bob, return_exceptions=True)
        await self.relay.close()
        await self.server.close()
        if self.relay.copy is not None:
            self.relay.copy.close()


def run(world: World, seconds: float = 10.0) -> None:
    async def go() -> None:
        async with world, asyncio.timeout(seconds):
            await world.lower.done.wait()

    asyncio.run(go())


def test_the_command_names_every_attack() -> None:
    assert NAMED == ATTACKS


def test_a_tap_hands_on_what_came_and_copies_it(tmp_path: Path) -> None:
    path = tmp_path / "copy"
    world = World("tap", 5, path)
    run(world)
    (upper,) = world.uppers
    assert upper.request == Request(thinning=THINNING)
    assert world.lower.runs == [upper.announce]
    assert all(same(sent, got) for sent, got in zip(upper.sent, world.lower.frames[:5], strict=False))
    assert path.stat().st_mode & 0o777 == 0o600
    data = path.read_bytes()
    assert data.startswith(PREAMBLE)
    at = len(PREAMBLE) + ANNOUNCE_BYTES
    assert decode_announce(data[len(PREAMBLE) : at]) == upper.announce
    size = int.from_bytes(data[at : at + LENGTH_BYTES], "big")
    assert same(decode_frame(data[at + LENGTH_BYTES : at + LENGTH_BYTES + size], LAYOUT), upper.sent[0])
    with pytest.raises(OperatorError, match="file"):
        Copy(path, 1)


def test_a_copy_is_no_larger_than_it_may_be(tmp_path: Path) -> None:
    path = tmp_path / "copy"
    world = World("tap", 20, path, 60_000)
    run(world)
    assert 30_000 < path.stat().st_size <= 60_000
    assert world.relay.copy is not None
    assert world.relay.copy.ended == "full"


@pytest.mark.parametrize("attack", ["intercept-resend", "beam-splitting", "photon-number-splitting", "blinding"])
def test_what_arrives_is_changed_as_the_attack_says(attack: str) -> None:
    world = World(attack, 4)
    run(world)
    upper, frames = world.uppers[-1], world.lower.frames[:4]
    assert world.lower.runs[-1] == upper.announce
    told = world.relay.tally
    if attack == "intercept-resend":
        assert len(world.uppers) == 1
        changed = [np.count_nonzero(a.states != b.states) / a.count for a, b in zip(upper.sent, frames, strict=False)]
        assert changed == pytest.approx([0.5] * 4, abs=0.05)  # where her basis is the wrong one
        assert told.bits / told.passed == pytest.approx(0.5, abs=0.05)
    elif attack == "blinding":
        assert upper.request.thinning == pytest.approx(2 * THINNING, rel=0.05)
        assert all(frame.light.background_w > 0 and frame.photons.min() > 1000 for frame in frames)
    else:
        # what the first announcement tells of the fibre's loss may ask for a second dial
        assert len(world.uppers) == (2 if attack == "beam-splitting" else 1)
        assert not upper.request.fibre
        count = sum(frame.count for frame in frames) / 4
        honest = Line(OPTICS, Randomness.from_seed(4)).frame(0, LAYOUT.frame_pulses, Request(thinning=THINNING)).count
        assert count == pytest.approx(honest, rel=0.06)


def test_a_slow_bob_slows_alice_down_and_a_cut_leads_to_a_new_run() -> None:
    async def go() -> None:
        async with World("tap", 1000) as world, asyncio.timeout(15):
            await until(lambda: bool(world.lower.frames))
            world.lower.go.clear()
            last = -1
            while (count := len(world.uppers[0].sent)) != last:
                last = count
                await asyncio.sleep(0.3)
            assert last < 2000  # what the sockets hold; it grows no more
            world.lower.go.set()
            await world.server.close()
            await until(lambda: bool(world.lower.lost_with))
            again = PhotonServer(world.server.endpoint, 0, world._begin, world.log, paced=False)
            await again.open()
            await until(lambda: len(world.lower.runs) > 1)
            assert world.uppers[0].closed
            assert world.lower.runs[0].run != world.lower.runs[1].run
            await again.close()

    asyncio.run(go())
