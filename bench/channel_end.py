"""One end of the benchmark of the control channel, as a process of its own: a real session over loopback.

Both ends send parts on the distillation channel as fast as these leave, and one of them a message on the rotation
channel every few milliseconds, which the other gives back with the time at which it came. Beside it a thread may
distil block after block; or a whole link runs there instead of the parts, as fast as both ends can: light, detection,
distillation and its messages, as in a daemon.
"""

import asyncio
import json
import os
import struct
import sys
import threading
import time
from bisect import bisect
from pathlib import Path
from typing import Any, Final

from qhybridd.apps.bench.blocks import block_of
from qhybridd.apps.bench.pipeline import make_keys, run_sessions, terms_for
from qhybridd.clock import boottime
from qhybridd.config.records import Endpoint, LinkConfig
from qhybridd.crypto.ephemeral import OsEphemeral
from qhybridd.crypto.identity import Identity
from qhybridd.distill.authenticate import Role
from qhybridd.errors import PeerError, QhybriddError
from qhybridd.links import messages as link_msg
from qhybridd.links import parts
from qhybridd.links.alice import AliceEnd
from qhybridd.links.bob import BobEnd
from qhybridd.links.link import LinkEnd
from qhybridd.protocol.connection import ChannelMessage, Closed, Connection, Established, Event
from qhybridd.protocol.handshake import PeerPin
from qhybridd.protocol.handshake_messages import Suite
from qhybridd.protocol.session import Channel
from qhybridd.secret import Secret
from qhybridd.telemetry.log import open_log
from qhybridd.transport import Wire, dial, listen

SUITES: Final = (Suite.X25519_MLKEM768,)
STAMP: Final = struct.Struct("<IdQ")
"""Number and time of sending; the other end gives back when it came, and how many bytes were read meanwhile."""
MESSAGE_BYTES: Final = 1400
"""Of a message of a rotation: a PREPARE with an ML-KEM-768 key."""
BULK_BYTES: Final = 64 << 20
BLOCK_BITS: Final = 1_000_000
QBER: Final = 0.03
PSK: Final = bytes(range(1, 33))
"""The link's: a benchmark's is no secret."""
LINK_CLICKS: Final = 1_000_000


def identity(seed: int) -> Identity:
    """Both ends must know both: a benchmark's identities are no secrets."""
    return Identity.from_seeds(Secret.adopt(bytes([seed]) * 32), Secret.adopt(bytes([seed + 1]) * 32))


class Counted(Wire):
    """A wire whose end notes what is read."""

    def __init__(self, connection: Connection, end: "End") -> None:
        super().__init__(connection, end.on_event)
        self._end = end

    def data_received(self, data: bytes) -> None:
        """Note it before it is looked at."""
        self._end.reads.append((boottime(), self._end.reads[-1][1] + len(data)))
        super().data_received(data)


class End:
    """One end of the session, and what it does."""

    def __init__(self) -> None:
        self.wire: Wire | None = None
        self.up = asyncio.Event()
        self.sent: dict[int, float] = {}
        self.there_s: list[float] = []
        """From here to the other end."""
        self.ahead_bytes: list[int] = []
        """What the other end read from the sending of a message to its coming: all that it had to wait behind."""
        self.bulk_bytes = 0
        """That came."""
        self.reads: list[tuple[float, int]] = [(0.0, 0)]
        """When something was read, and how much in all by then."""
        self.session = b""
        self.link: LinkEnd | None = None
        """Which has the channel of the parts then."""
        self._assembly = parts.Assembly(BULK_BYTES)

    def on_event(self, wire: Wire, event: Event) -> None:
        match event:
            case Established():
                self.wire, self.session = wire, event.session.hash
                self.up.set()
            case ChannelMessage(Channel.ROTATION, payload):
                self._rotation(wire, payload)
            case ChannelMessage(Channel.DISTILLATION, payload):
                self.bulk_bytes += len(payload)
                if self.link is None:
                    self._assembly.add(payload)
                else:
                    self.link.receive(self.session, link_msg.decode(payload))
            case Closed():
                self.wire = None

    # ---- what a link needs of the peer

    def claim(self, session: bytes, link: str) -> bool:
        """Nobody has spoken yet."""
        return True

    def tell(self, session: bytes, message: link_msg.Message) -> None:
        """A short message."""
        if self.wire is not None:
            self.wire.send(Channel.DISTILLATION, link_msg.encode(message))

    async def pass_on(self, session: bytes, message: link_msg.Message) -> None:
        """A long one."""
        if self.wire is None:
            raise PeerError("peer.closed", "the session ended")
        await self.wire.wait_for_backlog(Channel.DISTILLATION, parts.BACKLOG_BYTES)
        self.tell(session, message)
        await asyncio.sleep(0)

    def renew(self) -> bool:
        """There is one session."""
        return False

    async def run_link(self, role: Role, photons: Endpoint) -> LinkEnd:
        """Begin a link's end; its light as fast as it can be made."""
        config = LinkConfig("north", "other", role, Path("unused"), photons, block_clicks=LINK_CLICKS)
        log, psk = open_log("error"), Secret.adopt(PSK)
        self.link = AliceEnd(config, psk, log, 0, paced=False) if role is Role.ALICE else BobEnd(config, psk, log, 0)
        self.link.carrier = self
        await self.link.start()
        return self.link

    # ---- load and measurement

    def _rotation(self, wire: Wire, payload: bytes) -> None:
        now = boottime()
        number, time_s, ahead = STAMP.unpack_from(payload)
        sent = self.sent.pop(number, None)
        if sent is None:
            read = self.reads[max(0, bisect(self.reads, (time_s, 1 << 62)) - 1)][1]
            wire.send(Channel.ROTATION, STAMP.pack(number, now, self.reads[-1][1] - read) + payload[STAMP.size :])
        else:
            self.there_s.append(time_s - sent)
            self.ahead_bytes.append(ahead)

    async def load(self) -> None:
        """Bulk until the session ends."""
        assert self.wire is not None
        data = os.urandom(BULK_BYTES)
        try:
            while True:
                await parts.send(self.wire, data)
        except QhybriddError:
            pass

    async def probe(self, seconds: float, every_s: float) -> None:
        """A message every now and then."""
        assert self.wire is not None
        end, number = boottime() + seconds, 0
        while boottime() < end:
            number += 1
            self.sent[number] = now = boottime()
            self.wire.send(Channel.ROTATION, STAMP.pack(number, now, 0).ljust(MESSAGE_BYTES, b"\0"))
            await asyncio.sleep(every_s)
        for _ in range(200):
            if not self.sent:
                return
            await asyncio.sleep(0.01)
        raise TimeoutError(f"{len(self.sent)} messages without an answer")


def distil(stop: threading.Event) -> None:
    """Both ends of blocks of a link, one after the other: every kernel and all the Python between them."""
    block = block_of(BLOCK_BITS, QBER, seed=1)
    terms = terms_for(block, QBER)
    while not stop.is_set():
        run_sessions(block, terms, make_keys())


async def run(task: dict[str, Any]) -> dict[str, Any]:
    """`task`: role, port, photons, seconds, every_s, bulk, distil, link. The near end gives what it measured."""
    end, near = End(), task["role"] == "near"
    own, other = (identity(1), identity(3)) if near else (identity(3), identity(1))
    pin = PeerPin(other.public, "other")
    stop, working = threading.Event(), None
    if near:
        await dial(
            Endpoint("127.0.0.1", task["port"]),
            0,
            lambda: Counted(Connection.dial(own, pin, SUITES, SUITES[0], ephemeral=OsEphemeral(), now=boottime()), end),
        )
    else:
        pins = {pin.public.fingerprint: pin}
        server = await listen(
            Endpoint("127.0.0.1", 0),
            0,
            lambda: Counted(Connection.accept(own, pins, SUITES, ephemeral=OsEphemeral(), now=boottime()), end),
        )
        photons = 0
        if task["link"]:
            alice = await end.run_link(Role.ALICE, Endpoint("127.0.0.1", 0))
            assert isinstance(alice, AliceEnd)
            photons = alice.photons_port
        print(server.sockets[0].getsockname()[1], photons, flush=True)
    await end.up.wait()
    if task["link"]:
        link = await end.run_link(Role.BOB, Endpoint("127.0.0.1", task["photons"])) if near else end.link
        assert link is not None
        link.session_up(end.session)
        await asyncio.sleep(3.0)
    if task["distil"]:
        working = threading.Thread(target=distil, args=(stop,), daemon=True)
        working.start()
        await asyncio.sleep(0.5)
    loading = asyncio.create_task(end.load()) if task["bulk"] else None
    if not near:
        while end.wire is not None:
            await asyncio.sleep(0.05)
        stop.set()
        if end.link is not None:
            await end.link.stop()
        return {}
    await asyncio.sleep(0.5)
    began, came, cpu = time.monotonic(), end.bulk_bytes, time.process_time()
    await end.probe(task["seconds"], task["every_s"])
    took = time.monotonic() - began
    result = {
        "there_s": end.there_s,
        "ahead_bytes": end.ahead_bytes,
        "bulk_bytes_per_s": (end.bulk_bytes - came) / took,
        "cpu": (time.process_time() - cpu) / took,
        "blocks": 0 if end.link is None else end.link.progress.kept,
    }
    assert end.wire is not None
    end.wire.close()
    if end.link is not None:
        await end.link.stop()
    if loading is not None:
        loading.cancel()
    stop.set()
    return result


if __name__ == "__main__":
    print(json.dumps(asyncio.run(run(json.loads(sys.stdin.readline())))), flush=True)
