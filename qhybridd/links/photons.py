"""The photon stream over TCP: what leaves one end of a simulated fibre arrives at the other, at the link's own pace.

The upper end computes a frame in a worker thread, sends it, and computes no other until the socket took it; the lower
end reads no frame while it works on one. So neither grows with a slow partner. Whatever breaks ends this connection
alone: the lower end dials again, and a new run of pulses begins.
"""

import asyncio
import socket
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final, Protocol

from qhybridd.clock import boottime
from qhybridd.config.records import Endpoint
from qhybridd.errors import PeerError, ProgramError, QhybriddError
from qhybridd.links.photon_frames import (
    ALIVE,
    ANNOUNCE_BYTES,
    PREAMBLE,
    REQUEST_BYTES,
    Announce,
    decode_announce,
    decode_frame,
    decode_request,
    encode_announce,
    encode_frame,
    encode_request,
    frame_bytes_most,
)
from qhybridd.optics.records import Arrivals, Request
from qhybridd.telemetry.log import Log
from qhybridd.transport import USER_TIMEOUT_MS, connect, listen

GREETING_S: Final = 5.0
"""For the other end's first bytes."""
ALIVE_S: Final = 5.0
"""So often the lower end says that it is there, however slow it is."""
SILENCE_S: Final = 15.0
"""After so long without such a word the lower end counts as gone."""
STILL_S: Final = 10.0
"""A stream is lost when a frame is so late. Not counted while the lower end works."""
REDIAL_S: Final = (0.2, 3.0)
"""The shortest and the longest wait before the lower end dials again; each is twice the one before."""
STEADY_S: Final = 10.0
"""A stream that lived so long begins with the shortest wait again."""
BEGIN_LEAST_S: Final = 0.1
"""Between two runs of pulses: whoever plugs the fibre anew all the time makes nobody else busy."""
ALIVE_MOST: Final = 64
"""Signs of life that a stall may leave waiting; more is a flood, which would keep the event loop from all else."""
MAX_STRANGERS: Final = 8
"""Connections that have not said their request yet."""
LENGTH_BYTES: Final = 4
READ_BYTES: Final = 1 << 18
"""What waits unread in this process, at most twice this and a frame."""


class FrameSource(Protocol):
    """The upper end of one connection: a run of pulses."""

    announce: Announce

    def next_frame(self) -> Arrivals:
        """The next frame; frame k begins at pulse k·frame_pulses of the run. Called in a worker thread, one at a time.

        A `QhybriddError` ends the connection.
        """
        ...

    def close(self) -> None:
        """The connection is over; called once, in the event loop, perhaps while `next_frame` works.

        A `next_frame` that waits for something ends with an error then: the next run begins when it has returned.
        """
        ...


class PhotonSink(Protocol):
    """The lower end."""

    async def begin(self, announce: Announce) -> None:
        """A stream begins: a new run of pulses."""
        ...

    async def frame(self, arrivals: Arrivals) -> None:
        """The next frame, in order and none left out. Nothing more is read until it returns."""
        ...

    async def lost(self, error: QhybriddError) -> None:
        """The stream ended, or a dial came to nothing; it is tried again. Told each time, also before any `begin`."""
        ...


class PhotonServer:
    """The upper end: waits for the lower one. A new lower end takes over, as on a fibre that is plugged anew."""

    def __init__(
        self,
        endpoint: Endpoint,
        mark: int,
        begin: Callable[[Request], FrameSource],
        log: Log,
        *,
        paced: bool = True,
    ) -> None:
        """`begin` is called for each connection, in the worker thread of `next_frame`, and may raise `QhybriddError`.

        `paced`: a frame each `frame_s`, and no catching up after a stall; else as fast as the other end takes them.
        """
        self.connected = False
        """Whether a lower end is there."""
        self.endpoint = endpoint
        self._mark, self._begin, self._log, self._paced = mark, begin, log, paced
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._strangers = 0
        self._current: asyncio.Task[None] | None = None
        self._fibre = asyncio.Lock()
        self._begun_at = -BEGIN_LEAST_S
        self._worker = ThreadPoolExecutor(1, "photons")

    async def open(self) -> None:
        """Listen. Raises `HostError` (host.socket)."""
        self._server = await listen(self.endpoint, self._mark, self._protocol)
        self.endpoint = Endpoint(self.endpoint.host, self._server.sockets[0].getsockname()[1])

    async def close(self) -> None:
        """Cut the stream and listen no more."""
        if self._server is not None:
            self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._worker.shutdown(wait=False)

    # ---- inside

    def _protocol(self) -> asyncio.StreamReaderProtocol:
        return asyncio.StreamReaderProtocol(asyncio.StreamReader(READ_BYTES), self._accepted)

    def _accepted(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._strangers >= MAX_STRANGERS:
            writer.transport.abort()
            return
        self._strangers += 1
        task = asyncio.get_running_loop().create_task(self._serve(reader, writer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection from its first byte to its last."""
        peer = str((writer.get_extra_info("peername") or ("?",))[0])
        try:
            try:
                request = decode_request(await _greeting(reader, REQUEST_BYTES))
            finally:
                self._strangers -= 1
            if self._current is not None:
                self._current.cancel()
            self._current = asyncio.current_task()
            async with self._fibre:
                await self._stream(request, reader, writer, peer)
        except QhybriddError as error:
            self._log.repeated("photons ended", error, peer=peer)
        except OSError as error:
            self._log.repeated("photons ended", _gone(error), peer=peer)
        except Exception as error:
            self._log.defect(error)
        finally:
            writer.transport.abort()

    async def _stream(
        self, request: Request, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, peer: str
    ) -> None:
        await asyncio.sleep(self._begun_at + BEGIN_LEAST_S - boottime())
        self._begun_at = boottime()
        source = await self._make_source(request)
        try:
            self.connected = True
            self._log.info("photons begin", peer=peer)
            sock = writer.get_extra_info("socket")
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, READ_BYTES)
            writer.transport.set_write_buffer_limits(high=0)  # drained is what the kernel has taken
            writer.write(PREAMBLE + encode_announce(source.announce))
            await _until_first(self._send(source, writer), self._listen(reader))
        finally:
            self.connected = False
            source.close()

    async def _make_source(self, request: Request) -> FrameSource:
        making = asyncio.get_running_loop().run_in_executor(self._worker, self._begin, request)
        try:
            return await asyncio.shield(making)
        except asyncio.CancelledError:
            making.add_done_callback(_close_unused)
            raise

    async def _send(self, source: FrameSource, writer: asyncio.StreamWriter) -> None:
        loop, frame_s = asyncio.get_running_loop(), source.announce.layout.frame_s
        due = boottime()
        while True:
            data = await loop.run_in_executor(self._worker, _next_bytes, source)
            writer.write(data)
            await writer.drain()
            if self._paced:
                # A little late is made up for, or the mean pace would be too slow; a frame or more is not.
                due = max(due + frame_s, boottime() - frame_s)
                await asyncio.sleep(due - boottime())

    async def _listen(self, reader: asyncio.StreamReader) -> None:
        """The lower end's signs of life; returns never."""
        while True:
            try:
                async with asyncio.timeout(SILENCE_S):
                    said = await reader.read(ALIVE_MOST)
            except TimeoutError:
                raise PeerError("link.photons", f"the lower end said nothing for {SILENCE_S:g} s") from None
            if not said:
                raise PeerError("link.photons", "the lower end hung up")
            if len(said) == ALIVE_MOST or said.strip(ALIVE):
                raise PeerError("link.photons", "the lower end said what no photon stream does")


class PhotonReceiver:
    """The lower end: dials, and dials again after a cut."""

    def __init__(self, endpoint: Endpoint, mark: int, request: Request, sink: PhotonSink, log: Log) -> None:
        self.connected = False
        """Whether frames may come."""
        self._endpoint, self._mark, self._request, self._sink, self._log = endpoint, mark, request, sink, log

    async def run(self) -> None:
        """For ever, until cancelled."""
        wait_s = REDIAL_S[0]
        while True:
            begun = boottime()
            error: QhybriddError
            try:
                await self._receive()
            except QhybriddError as caught:
                error = caught
            except OSError as caught:
                error = _gone(caught)
            except Exception as caught:
                self._log.defect(caught)
                error = ProgramError("program.state", f"a defect: {type(caught).__name__}")
            finally:
                self.connected = False
            error.where = error.where or str(self._endpoint)
            self._log.repeated("no photons", error)
            await self._sink.lost(error)
            if boottime() - begun > STEADY_S:
                wait_s = REDIAL_S[0]
            await asyncio.sleep(wait_s)
            wait_s = min(2 * wait_s, REDIAL_S[1])

    async def _receive(self) -> None:
        """One connection; returns never."""
        sock = await connect(self._endpoint, self._mark)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, USER_TIMEOUT_MS)
        reader, writer = await asyncio.open_connection(sock=sock, limit=READ_BYTES)
        try:
            writer.write(PREAMBLE + encode_request(self._request))
            announce = decode_announce(await _greeting(reader, ANNOUNCE_BYTES))
            telling = asyncio.ensure_future(_tell_alive(writer))
            try:
                # Ended by what it reads alone: no frame is dropped halfway through the sink's work.
                await self._take_frames(reader, announce)
            finally:
                telling.cancel()
                await asyncio.gather(telling, return_exceptions=True)
        finally:
            writer.transport.abort()

    async def _take_frames(self, reader: asyncio.StreamReader, announce: Announce) -> None:
        self.connected = True
        self._log.info("photons begin", endpoint=str(self._endpoint))
        await self._sink.begin(announce)
        layout, first = announce.layout, 0
        while True:
            try:
                async with asyncio.timeout(STILL_S + layout.frame_s):
                    size = int.from_bytes(await reader.readexactly(LENGTH_BYTES), "big")
                    if size > frame_bytes_most(layout):
                        raise PeerError("link.photons", f"a frame of {size} bytes")
                    data = await reader.readexactly(size)
            except TimeoutError:
                raise PeerError("link.photons", f"no frame for {STILL_S + layout.frame_s:g} s") from None
            except asyncio.IncompleteReadError:
                raise PeerError("link.photons", "the upper end hung up") from None
            arrivals = await asyncio.to_thread(decode_frame, data, layout)
            if arrivals.first != first:
                raise PeerError("link.photons", f"pulse {arrivals.first} where {first} was due")
            first += layout.frame_pulses
            await self._sink.frame(arrivals)


# ---- what both ends do


async def _greeting(reader: asyncio.StreamReader, size: int) -> bytes:
    """What follows the other end's preamble."""
    try:
        async with asyncio.timeout(GREETING_S):
            data = await reader.readexactly(len(PREAMBLE) + size)
    except TimeoutError:
        raise PeerError("link.photons", f"no greeting in {GREETING_S:g} s") from None
    except asyncio.IncompleteReadError:
        raise PeerError("link.photons", "the other end hung up before its greeting") from None
    if not data.startswith(PREAMBLE):
        raise PeerError("link.photons", "what answers there is no photon stream of this version")
    return data[len(PREAMBLE) :]


async def _until_first(*works: Coroutine[Any, Any, None]) -> None:
    """All at once until one ends; the others are cancelled and have ended when this returns."""
    tasks = [asyncio.ensure_future(work) for work in works]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _tell_alive(writer: asyncio.StreamWriter) -> None:
    while True:
        await asyncio.sleep(ALIVE_S)
        writer.write(ALIVE)
        await writer.drain()


def _next_bytes(source: FrameSource) -> bytes:
    data = encode_frame(source.next_frame())
    return len(data).to_bytes(LENGTH_BYTES, "big") + data


def _close_unused(making: "asyncio.Future[FrameSource]") -> None:
    """A source that was made for a connection that had ended."""
    if not making.cancelled() and making.exception() is None:
        making.result().close()


def _gone(error: OSError) -> PeerError:
    return PeerError("link.photons", f"the connection broke: {error.strerror or error}")
