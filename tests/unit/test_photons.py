"""The photon stream over real sockets: flow control, cuts, strangers, silence, and always a way back."""

import asyncio
import contextlib
import os
import socket
import threading
import time
import tracemalloc
from collections.abc import Awaitable, Callable

import numpy as np
import pytest

from qhybridd.config.records import Endpoint
from qhybridd.errors import HostError, PeerError, QhybriddError
from qhybridd.links import photons
from qhybridd.links.photon_frames import (
    PREAMBLE,
    Announce,
    decode_frame,
    encode_announce,
    encode_frame,
    encode_request,
)
from qhybridd.links.photons import PhotonReceiver, PhotonServer
from qhybridd.optics.records import Arrivals, Layout, Light, Request
from qhybridd.telemetry.log import open_log

LAYOUT = Layout(1e6, 10_000, 5)  # 10 ms a frame
LOCAL = Endpoint("127.0.0.1", 0)
REQUEST = Request(fibre=False, thinning=0.125, photons_least=2)
GREETING = PREAMBLE + encode_request(Request())
LOG = open_log("error")


def arrivals(number: int, count: int = 30, layout: Layout = LAYOUT) -> Arrivals:
    rng = np.random.default_rng(number)
    gaps = rng.integers(1, layout.frame_pulses // max(count, 1), count).astype(np.uint32)
    states = rng.integers(0, 4, count).astype(np.uint8)
    first = number * layout.frame_pulses
    return Arrivals(first, layout.frame_pulses, gaps, states, np.ones(count, np.uint32), None, Light())


class Source:
    """A run of ready-made frames."""

    def __init__(self, request: Request, count: int = 30, layout: Layout = LAYOUT) -> None:
        self.request, self.count = request, count
        self.announce = Announce(os.urandom(16), layout, 0.5)
        self.frames = self.closed = 0
        self.failure: Exception | None = None
        self.hold = threading.Event()
        self.hold.set()
        self.threads: set[str] = set()

    def next_frame(self) -> Arrivals:
        self.hold.wait(5)
        self.threads.add(threading.current_thread().name)
        if self.failure is not None:
            raise self.failure
        self.frames += 1
        return arrivals(self.frames - 1, self.count, self.announce.layout)

    def close(self) -> None:
        self.closed += 1
        self.hold.set()


class Upper:
    """A photon server and the sources that it began."""

    def __init__(
        self, *, paced: bool = False, make: Callable[[Request], Source] = Source, at: Endpoint = LOCAL
    ) -> None:
        self.sources: list[Source] = []
        self.make = make
        self.server = PhotonServer(at, 0, self.begin, LOG, paced=paced)

    def begin(self, request: Request) -> Source:
        source = self.make(request)
        self.sources.append(source)
        return source

    async def __aenter__(self) -> "Upper":
        await self.server.open()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.server.close()
        assert not self.server.connected
        assert all(source.closed == 1 for source in self.sources)


class Sink:
    """Notes what came; `gate` holds it up."""

    def __init__(self) -> None:
        self.announces: list[Announce] = []
        self.frames: list[Arrivals] = []
        self.errors: list[QhybriddError] = []
        self.times: list[float] = []
        self.gate = asyncio.Event()
        self.gate.set()
        self.working = self.cut_off = 0

    async def begin(self, announce: Announce) -> None:
        self.announces.append(announce)

    async def frame(self, one: Arrivals) -> None:
        self.working += 1
        try:
            await self.gate.wait()
        except asyncio.CancelledError:
            self.cut_off += 1
            raise
        finally:
            self.working -= 1
        self.frames.append(one)
        self.times.append(time.monotonic())

    async def lost(self, error: QhybriddError) -> None:
        assert not self.working
        self.errors.append(error)


class Lower:
    """A receiver that runs, and its sink."""

    def __init__(self, endpoint: Endpoint, request: Request = REQUEST) -> None:
        self.sink = Sink()
        self.receiver = PhotonReceiver(endpoint, 0, request, self.sink, LOG)

    async def __aenter__(self) -> "Lower":
        self.task = asyncio.create_task(self.receiver.run())
        return self

    async def __aexit__(self, *_: object) -> None:
        self.task.cancel()
        await asyncio.gather(self.task, return_exceptions=True)
        assert self.task.cancelled()
        assert not self.receiver.connected


async def until(what: Callable[[], object], within_s: float = 8.0) -> None:
    begun = time.monotonic()
    while not what():
        assert time.monotonic() - begun < within_s, "it did not happen"
        await asyncio.sleep(0.005)


def run(main: Callable[[], Awaitable[None]]) -> None:
    async def guarded() -> None:
        defects: list[object] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, context: defects.append(context))
        async with asyncio.timeout(30):
            await main()
        await asyncio.sleep(0.01)
        left = asyncio.all_tasks() - {asyncio.current_task()}
        assert not left and not defects, (left, defects)

    asyncio.run(guarded())


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(photons, "REDIAL_S", (0.02, 0.1))


def test_frames_arrive_as_they_were_sent_in_order() -> None:
    async def main() -> None:
        async with Upper() as upper, Lower(upper.server.endpoint) as lower:
            await until(lambda: len(lower.sink.frames) >= 50)
            (source,) = upper.sources
            assert source.request == REQUEST
            assert lower.sink.announces == [source.announce]
            assert upper.server.connected and lower.receiver.connected
            assert len(source.threads) == 1 and threading.current_thread().name not in source.threads
            for number, frame in enumerate(lower.sink.frames[:50]):
                assert encode_frame(frame) == encode_frame(arrivals(number))
            assert not lower.sink.errors

    run(main)


def test_the_pace_is_the_links_own_in_the_mean_and_a_stall_is_not_made_up_for() -> None:
    async def main() -> None:
        async with Upper(paced=True) as upper, Lower(upper.server.endpoint) as lower:
            sink = lower.sink
            await until(lambda: len(sink.frames) >= 40)
            took = sink.times[39] - sink.times[0]
            # No frame before its time; the first may have been late itself, by a frame at most.
            assert took >= 38 * LAYOUT.frame_s
            upper.sources[0].hold.clear()
            await asyncio.sleep(0.5)
            upper.sources[0].hold.set()
            before, begun = len(sink.frames), time.monotonic()
            await until(lambda: len(sink.frames) >= before + 20)
            assert time.monotonic() - begun >= 16 * LAYOUT.frame_s

    run(main)


def test_a_lower_end_that_does_not_read_stops_the_upper_one() -> None:
    layout = Layout(1e9, 100_000_000, 5)
    count = 500_000  # a frame of about 600 kB

    async def main() -> None:
        tracemalloc.start()
        async with (
            Upper(make=lambda request: Source(request, count, layout)) as upper,
            Lower(upper.server.endpoint) as lower,
        ):
            sink = lower.sink
            sink.gate.clear()
            await until(lambda: sink.working)
            (source,) = upper.sources
            sent = -1
            while sent != source.frames:
                sent = source.frames
                await asyncio.sleep(0.4)
            # What fills the two sockets' buffers, which are the kernel's, and no more than a frame or two here.
            assert sent < 60, sent
            held, _ = tracemalloc.get_traced_memory()
            assert held < 40e6, held
            assert sink.working == 1
            await asyncio.sleep(0.3)
            assert source.frames == sent
            sink.gate.set()
            await until(lambda: len(sink.frames) > sent + 3)
            del sink.frames[:]
        tracemalloc.stop()

    run(main)


def test_a_slow_lower_end_is_not_taken_for_a_silent_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(photons, "ALIVE_S", 0.05)
    monkeypatch.setattr(photons, "SILENCE_S", 0.3)
    monkeypatch.setattr(photons, "STILL_S", 0.3)

    async def main() -> None:
        async with Upper() as upper, Lower(upper.server.endpoint) as lower:
            lower.sink.gate.clear()
            await asyncio.sleep(0.9)
            assert upper.server.connected and not upper.sources[0].closed
            lower.sink.gate.set()
            await until(lambda: len(lower.sink.frames) > 20)
            assert not lower.sink.errors and len(upper.sources) == 1

    run(main)


def test_the_lower_end_comes_back_after_the_upper_one_was_restarted() -> None:
    async def main() -> None:
        async with Upper() as upper, Lower(upper.server.endpoint) as lower:
            await until(lambda: len(lower.sink.frames) > 3)
            await upper.server.close()
            await until(lambda: [e for e in lower.sink.errors if isinstance(e, HostError)])
            assert lower.sink.errors[0].code == "link.photons"
            assert lower.sink.errors[-1].code == "host.socket"
            assert not lower.receiver.connected
            seen = len(lower.sink.frames)
            async with Upper(at=upper.server.endpoint):
                await until(lambda: len(lower.sink.frames) > seen + 3)
                assert len({announce.run for announce in lower.sink.announces}) == 2
                assert lower.sink.frames[seen].first == 0

    run(main)


def test_a_new_lower_end_takes_over() -> None:
    async def main() -> None:
        async with Upper() as upper, Lower(upper.server.endpoint) as old:
            await until(lambda: len(old.sink.frames) > 3)
            async with Lower(upper.server.endpoint) as new:
                await until(lambda: new.sink.frames and old.sink.errors)
                assert upper.sources[0].closed == 1
                assert new.sink.frames[0].first == 0
                old.task.cancel()
                await until(lambda: upper.server.connected and new.receiver.connected)
                # One at a time, whoever it is.
                assert sum(not source.closed for source in upper.sources) == 1

    run(main)


# ---- strangers at the upper end


@pytest.mark.parametrize(
    "said",
    [
        b"GET / HTTP/1.1\r\nHost: example\r\n\r\n" + bytes(100),
        bytes(200),
        PREAMBLE.replace(b"version 1", b"version 9") + encode_request(Request()),
        PREAMBLE + encode_request(Request(thinning=2.0)),
        PREAMBLE[:20],
        b"",
    ],
)
def test_a_stranger_is_hung_up_on_and_disturbs_nobody(said: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(photons, "GREETING_S", 0.2)

    async def main() -> None:
        async with Upper() as upper, Lower(upper.server.endpoint) as lower:
            await until(lambda: len(lower.sink.frames) > 3)
            reader, writer = await asyncio.open_connection("127.0.0.1", upper.server.endpoint.port)
            writer.write(said)
            with contextlib.suppress(ConnectionError):
                assert await reader.read() == b""
            writer.transport.abort()
            seen = len(lower.sink.frames)
            await until(lambda: len(lower.sink.frames) > seen + 3)
            assert not lower.sink.errors and len(upper.sources) == 1

    run(main)


def test_strangers_who_say_nothing_are_few() -> None:
    async def main() -> None:
        async with Upper() as upper:
            port = upper.server.endpoint.port
            waiting = [await asyncio.open_connection("127.0.0.1", port) for _ in range(photons.MAX_STRANGERS)]
            await asyncio.sleep(0.05)
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            with contextlib.suppress(ConnectionError):
                assert await reader.read() == b""
            for _, one in [*waiting, (reader, writer)]:
                one.transport.abort()
            await asyncio.sleep(0.05)
            async with Lower(upper.server.endpoint) as lower:
                await until(lambda: lower.sink.frames)

    run(main)


@pytest.mark.parametrize("said", [None, b"what else?", b""])
def test_a_lower_end_that_falls_silent_or_talks_is_dropped(said: bytes | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """`None`: it neither reads nor speaks, as behind a cut."""
    monkeypatch.setattr(photons, "SILENCE_S", 0.3)

    async def main() -> None:
        async with Upper() as upper:
            reader, writer = await asyncio.open_connection("127.0.0.1", upper.server.endpoint.port, limit=1024)
            writer.write(GREETING)
            await until(lambda: upper.server.connected)
            if said:
                writer.write(said)
            elif said == b"":
                writer.write_eof()
            await until(lambda: not upper.server.connected)
            assert upper.sources[0].closed == 1
            writer.transport.abort()
            assert reader

    run(main)


# ---- strangers at the lower end


def frames_of(*numbers: int) -> bytes:
    parts = [encode_frame(arrivals(number)) for number in numbers]
    return b"".join(len(part).to_bytes(4, "big") + part for part in parts)


HELLO = PREAMBLE + encode_announce(Announce(bytes(16), LAYOUT, 0.5))


@pytest.mark.parametrize(
    ("said", "ends", "frames", "why"),
    [
        (b"220 mail.example ESMTP\r\n" + bytes(200), False, 0, "no photon stream of this version"),
        (b"", True, 0, "hung up before"),
        (b"", False, 0, "no greeting"),
        (HELLO[:-1], True, 0, "hung up before"),
        (HELLO + frames_of(0, 1) + frames_of(2)[:-5], True, 2, "hung up"),
        (HELLO + frames_of(0, 1) + frames_of(2)[:-5], False, 2, "no frame for"),
        (HELLO + frames_of(0), False, 1, "no frame for"),
        (HELLO + frames_of(0, 2), False, 1, "pulse 20000 where 10000 was due"),
        (HELLO + frames_of(1), False, 0, "pulse 10000 where 0 was due"),
        (HELLO + frames_of(0) + b"\xff\xff\xff\xff" + bytes(100), False, 1, "a frame of 4294967295 bytes"),
        (HELLO + frames_of(0) + b"\x00\x00\x00\x05" + bytes(100), False, 1, "5 bytes where 41 were due|cut off"),
    ],
)
def test_an_upper_end_that_breaks_the_stream_is_left_and_dialled_again(
    said: bytes, ends: bool, frames: int, why: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(photons, "STILL_S", 0.2)
    monkeypatch.setattr(photons, "GREETING_S", 0.2)
    dials: list[bytes] = []

    async def visit(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        dials.append(await reader.readexactly(len(GREETING)))
        writer.write(said if len(dials) == 1 else HELLO + frames_of(0, 1, 2, 3, 4))
        if ends and len(dials) == 1:
            writer.write_eof()
        await reader.read()
        writer.close()

    async def main() -> None:
        server = await asyncio.start_server(visit, "127.0.0.1", 0)
        async with Lower(Endpoint("127.0.0.1", server.sockets[0].getsockname()[1]), Request()) as lower:
            await until(lambda: len(lower.sink.frames) == frames + 5)
            error = lower.sink.errors[0]
            assert isinstance(error, PeerError) and error.code == "link.photons"
            assert any(part in error.message for part in why.split("|")), error.message
        assert dials[0] == GREETING
        server.close()
        await asyncio.sleep(0.05)

    run(main)


def test_a_frame_under_work_is_not_cut_off_by_the_end_of_the_connection() -> None:
    async def main() -> None:
        async with Upper() as upper, Lower(upper.server.endpoint) as lower:
            await until(lambda: len(lower.sink.frames) > 3)
            lower.sink.gate.clear()
            await until(lambda: lower.sink.working)
            await upper.server.close()
            await asyncio.sleep(0.2)
            assert lower.sink.working == 1 and not lower.sink.errors
            lower.sink.gate.set()
            await until(lambda: lower.sink.errors)
            assert not lower.sink.cut_off

    run(main)


# ---- what goes wrong inside


def test_a_source_that_fails_ends_its_connection_alone() -> None:
    async def main() -> None:
        async with Upper() as upper, Lower(upper.server.endpoint) as lower:
            for failure in (PeerError("link.photons", "the way above is cut"), ValueError("a defect")):
                await until(lambda: upper.server.connected and lower.receiver.connected)
                runs = len(lower.sink.announces)
                upper.sources[-1].failure = failure
                await until(lambda runs=runs: len(lower.sink.announces) > runs)  # type: ignore[misc]
            seen = len(lower.sink.frames)
            await until(lambda: len(lower.sink.frames) > seen)

    run(main)


def test_a_source_that_cannot_be_made_is_tried_again() -> None:
    tries: list[Request] = []

    def make(request: Request) -> Source:
        tries.append(request)
        if len(tries) < 3:
            raise PeerError("link.photons", "not yet")
        return Source(request)

    async def main() -> None:
        async with Upper(make=make) as upper, Lower(upper.server.endpoint) as lower:
            await until(lambda: lower.sink.frames)
            assert len(tries) == 3 and upper.server.connected

    run(main)


def test_the_next_run_begins_when_the_last_one_has_ended() -> None:
    """A source that waits is woken by its `close`; two never work at once."""

    async def main() -> None:
        async with Upper() as upper, Lower(upper.server.endpoint) as lower:
            await until(lambda: len(lower.sink.frames) > 3)
            first = upper.sources[0]
            first.hold.clear()
            await asyncio.sleep(0.05)
            async with Lower(upper.server.endpoint) as new:
                await until(lambda: new.sink.frames)
                assert first.closed == 1

    run(main)


def test_a_lower_end_that_leaves_while_its_source_is_made_leaves_nothing_open() -> None:
    making = threading.Event()
    made: list[Source] = []

    def make(request: Request) -> Source:
        making.wait(5)
        made.append(Source(request))
        return made[-1]

    async def main() -> None:
        server = PhotonServer(LOCAL, 0, make, LOG)
        await server.open()
        _, writer = await asyncio.open_connection("127.0.0.1", server.endpoint.port)
        writer.write(GREETING)
        await asyncio.sleep(0.1)
        await server.close()
        making.set()
        await until(lambda: made and made[0].closed)
        writer.transport.abort()

    run(main)


def test_an_address_that_is_taken_is_an_error_of_the_host() -> None:
    async def main() -> None:
        async with Upper() as upper:
            with pytest.raises(HostError, match="cannot listen"):
                await PhotonServer(upper.server.endpoint, 0, Source, LOG).open()

    run(main)


def test_a_frame_on_the_wire_is_what_the_codec_says() -> None:
    async def main() -> None:
        async with Upper() as upper:
            reader, writer = await asyncio.open_connection("127.0.0.1", upper.server.endpoint.port)
            writer.write(GREETING)
            assert await reader.readexactly(len(HELLO)) == PREAMBLE + encode_announce(upper.sources[0].announce)
            size = int.from_bytes(await reader.readexactly(4), "big")
            frame = decode_frame(await reader.readexactly(size), LAYOUT)
            assert frame.first == 0 and frame.count == 30
            writer.transport.abort()

    run(main)


def test_a_lower_end_that_chatters_is_hung_up_on() -> None:
    """Read in crumbs, a flood would take every turn of the event loop, and hold up what shares it."""

    async def main() -> None:
        async with Upper(paced=True) as upper:
            reader, writer = await asyncio.open_connection("127.0.0.1", upper.server.endpoint.port)
            writer.write(PREAMBLE + encode_request(Request()))
            await until(lambda: upper.server.connected)
            writer.write(b"." * 500_000)
            await until(lambda: not upper.server.connected)
            with contextlib.suppress(ConnectionError):
                while await reader.read(1 << 16):
                    pass
            writer.transport.abort()

    run(main)


def test_lower_ends_that_take_over_all_the_time_begin_few_runs() -> None:
    """Each costs a message on the control channel, and pushes a run out whose blocks wait for distillation."""

    async def main() -> None:
        async with Upper(paced=True) as upper:
            begun = time.monotonic()
            while time.monotonic() - begun < 0.5:
                _, writer = await asyncio.open_connection("127.0.0.1", upper.server.endpoint.port)
                writer.write(PREAMBLE + encode_request(Request()))
                await asyncio.sleep(0.005)
                writer.transport.abort()
            assert len(upper.sources) <= 1 + 0.5 / photons.BEGIN_LEAST_S
            async with Lower(upper.server.endpoint) as lower:
                await until(lambda: lower.sink.frames)

    run(main)


def test_strangers_who_come_all_at_once_are_few_too() -> None:
    async def main() -> None:
        async with Upper() as upper:
            crowd = [socket.create_connection(("127.0.0.1", upper.server.endpoint.port)) for _ in range(60)]
            await asyncio.sleep(0.1)
            assert len(upper.server._tasks) == photons.MAX_STRANGERS
            for one in crowd:
                one.close()
            await until(lambda: not upper.server._tasks)
            async with Lower(upper.server.endpoint) as lower:
                await until(lambda: lower.sink.frames)

    run(main)
