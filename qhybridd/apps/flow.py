"""A measured stream between two namespaces: starts its two ends (`apps/traffic.py`) and reads their accounts."""

import secrets
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec

from qhybridd.apps.namespaces import Child, Namespace
from qhybridd.apps.traffic import Account, Gap
from qhybridd.errors import HostError

TAIL_S: Final = 0.5
"""A direction that was silent for so long has lost what was sent meanwhile; before, it may be on its way."""
SETTLE_S: Final = 1.0
START_S: Final = 15.0


@dataclass(frozen=True, slots=True)
class Direction:
    """One direction of a stream: the sender's account and the receiver's."""

    sender: Account
    receiver: Account

    @property
    def lost(self) -> int:
        """Packets that did not arrive. Exact once the stream has ended; before, what is lost for certain."""
        seen = self.receiver
        missing = seen.next_sequence - seen.received
        ended = self.sender.hushed and self.receiver.hushed
        if ended or seen.at_s - seen.last_arrival_s > TAIL_S:
            missing += max(0, self.sender.sent - seen.next_sequence)
        return missing


@dataclass(frozen=True, slots=True)
class Reading:
    """Both directions of a stream."""

    there: Direction
    back: Direction

    @property
    def sent(self) -> int:
        """Packets sent, both directions."""
        return self.there.sender.sent + self.back.sender.sent

    @property
    def received(self) -> int:
        """Different packets that arrived, both directions."""
        return self.there.receiver.received + self.back.receiver.received

    @property
    def lost(self) -> int:
        """Packets lost, both directions."""
        return self.there.lost + self.back.lost

    @property
    def duplicates(self) -> int:
        """Packets that arrived twice, both directions."""
        return self.there.receiver.duplicates + self.back.receiver.duplicates

    @property
    def last_arrival_s(self) -> float:
        """When the last packet arrived at either end, CLOCK_BOOTTIME seconds."""
        return max(self.there.receiver.last_arrival_s, self.back.receiver.last_arrival_s)

    @property
    def delay_s(self) -> float:
        """The longest way of a packet in either direction."""
        return max(self.there.receiver.delay_s, self.back.receiver.delay_s)

    @property
    def gaps(self) -> tuple[Gap, ...]:
        """The silences of both directions."""
        return self.there.receiver.gaps + self.back.receiver.gaps


class Flow:
    """A stream both ways between two addresses."""

    __slots__ = ("_children", "_last", "_reports", "_started", "name")

    def __init__(self, name: str, directory: Path) -> None:
        self.name = name
        self._reports = (directory / f"{name}-1.json", directory / f"{name}-2.json")
        self._children: list[Child] = []
        self._last = [Account(), Account()]
        self._started = False

    def make(
        self, spaces: tuple[Namespace, Namespace], addresses: tuple[str, str], port: int, interval_ms: float
    ) -> None:
        """Start both ends; nothing is sent yet. Raises `HostError` (host.lab)."""
        stream = secrets.token_hex(8)
        for report in self._reports:
            report.unlink(missing_ok=True)  # of an earlier stream of this name
        bound = [f"[{address}]:{port}" if ":" in address else f"{address}:{port}" for address in addresses]
        for index, space in enumerate(spaces):
            command = [
                *(sys.executable, "-m", "qhybridd.apps.traffic", "--stream", stream, "--bind", bound[index]),
                *("--peer", bound[1 - index], "--interval-ms", str(interval_ms)),
                *("--report", str(self._reports[index])),
            ]
            self._children.append(space.spawn(command, stdin=subprocess.PIPE))
        deadline = time.monotonic() + START_S
        while not all(report.exists() for report in self._reports):
            if time.monotonic() > deadline or not all(child.running for child in self._children):
                raise HostError("host.lab", "an end of the measured traffic did not start", where=self.name)
            time.sleep(0.02)

    def start(self) -> None:
        """Both ends begin to send."""
        self._started = True
        self._command(b"send\n")

    def read(self) -> Reading:
        """The accounts as they stand, at most `traffic.REPORT_EVERY_S` old."""
        for index, report in enumerate(self._reports):
            if report.exists():
                self._last[index] = msgspec.json.decode(report.read_bytes(), type=Account)
        one, other = self._last
        return Reading(Direction(one, other), Direction(other, one))

    def finish(self, settle_s: float = SETTLE_S) -> Reading:
        """Stop sending, wait for what is on its way, end both ends and return the exact account."""
        if any(child.running for child in self._children):
            self._command(b"hush\n")
            time.sleep(settle_s)
            for child in self._children:
                if child.process.stdin:
                    child.process.stdin.close()
                if not child.wait(START_S):
                    raise HostError("host.lab", "an end of the measured traffic does not end", where=self.name)
                child.end()
        return self.read()

    def remove(self) -> None:
        """End both ends at once. Twice does no harm."""
        for child in self._children:
            child.end(signal.SIGKILL)

    def _command(self, line: bytes) -> None:
        for child in self._children:
            if child.process.stdin is None or not child.running:
                raise HostError("host.lab", "an end of the measured traffic has died", where=self.name)
            child.process.stdin.write(line)
            child.process.stdin.flush()
