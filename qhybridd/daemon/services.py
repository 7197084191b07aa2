"""What every tunnel and every peer of one daemon shares."""

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any, Protocol

from qhybridd.crypto.identity import Signer
from qhybridd.daemon.records import Records
from qhybridd.protocol.handshake_messages import Suite
from qhybridd.protocol.messages import Message
from qhybridd.telemetry.log import Log


class Gate(Protocol):
    """What a tunnel needs of the guard."""

    async def open(self, name: str, deadline: float) -> None:
        """Let traffic pass until `deadline`."""

    async def shut(self, name: str) -> None:
        """Let none pass."""


class Sender(Protocol):
    """What a tunnel needs of the peer."""

    def send(self, session: bytes, message: Message) -> None:
        """Send on the rotation channel of a session, if it is still there."""


@dataclass(frozen=True, slots=True)
class Services:
    """Made once when the daemon starts."""

    signer: Signer
    suites: tuple[Suite, ...]
    mark: int
    """SO_MARK of the control sockets."""
    gate: Gate
    records: Records
    log: Log
    spawn: Callable[[Coroutine[Any, Any, None]], asyncio.Task[None]]
    """Run something in the daemon's task group."""
