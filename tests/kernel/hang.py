"""A peer that hangs in the middle of a rotation: its daemon is stopped as it gets a certain message.

The messages are encrypted, but a lone tunnel's rotation shows on the wire by direction and size: `Prepare` and
`Prepared` carry KEM keys and are the only large ones, and the others follow in a fixed order.
"""

import socket
import time
from dataclasses import dataclass
from typing import Final

from qhybridd.apps.capture import JUMP_EQUAL, LD_BYTE, RETURN, TAKE, Instruction, open_capture
from qhybridd.apps.lab import UNDERLAY, Lab
from qhybridd.clock import boottime
from tests.kernel.faults import STEPS, Harm

TCP_ONLY: Final[list[Instruction]] = [
    (LD_BYTE, 0, 0, 9),
    (JUMP_EQUAL, 0, 1, socket.IPPROTO_TCP),
    (RETURN, 0, 0, TAKE),
    (RETURN, 0, 0, 0),
]
LARGE: Final = 1000
"""Bytes; an ML-KEM-768 public key has 1184, its ciphertext 1088 (FIPS 203 table 3)."""
TRIES: Final = 10
WITHIN_S: Final = 60.0
QUIET_S: Final = 0.5
"""One that said nothing for so long was stopped before it could answer."""


@dataclass(frozen=True)
class _Segment:
    """TCP payload on the wire."""

    sender: str
    size: int


class _Wire:
    """The control channel's segments, as they pass alice's end of the cable."""

    def __init__(self, lab: Lab) -> None:
        self._names = {socket.inet_aton(one.underlay): one.name for one in lab.gateways.values()}
        self._socket = open_capture(lab.gateways["alice"].namespace, UNDERLAY, TCP_ONLY)

    def __enter__(self) -> "_Wire":
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def next(self, timeout_s: float) -> _Segment | None:
        """The next segment with a payload; None if none came in time."""
        deadline = time.monotonic() + timeout_s
        while (left := deadline - time.monotonic()) > 0:
            self._socket.settimeout(left)
            try:
                packet = self._socket.recv(65536)
            except TimeoutError:
                return None
            header = (packet[0] & 15) * 4
            size = int.from_bytes(packet[2:4]) - header - (packet[header + 12] >> 4) * 4
            if size > 0:
                return _Segment(self._names[packet[12:16]], size)
        return None


def hang_on(step: int) -> Harm:
    """Stop whoever gets message `step` of `faults.STEPS`, before it says anything more."""

    def harm(lab: Lab) -> float:
        for _ in range(TRIES):
            with _Wire(lab) as wire:
                ask, state, proposer = _learn(wire)
                answerer = next(name for name in lab.gateways if name != proposer)
                ways = [_Segment(proposer, ask), _Segment(answerer, state)]
                sender = proposer if step % 2 == 0 else answerer
                stopped = answerer if sender == proposer else proposer
                _wait_message(wire, step, ways, sender)
                lab.gateways[stopped].freeze()
                harmed_s = boottime()
                if _says_nothing(wire, stopped):
                    return harmed_s
                lab.gateways[stopped].thaw()
        raise AssertionError(f"nobody could be stopped on {STEPS[step]}")

    return harm


def _learn(wire: _Wire) -> tuple[int, int, str]:
    """Watch one rotation: the sizes of `Ask` and `State`, and who proposes."""
    before: list[_Segment] = []
    deadline = time.monotonic() + WITHIN_S
    while time.monotonic() < deadline:
        segment = wire.next(WITHIN_S)
        if segment is None:
            break
        if segment.size > LARGE:
            own = [one.size for one in before if one.sender == segment.sender]
            others = [one.size for one in before if one.sender != segment.sender]
            if own and others and wire.next(WITHIN_S) is not None:
                _drain(wire)
                return own[-1], others[-1], segment.sender
        before.append(segment)
    raise AssertionError("no rotation was seen")


def _drain(wire: _Wire) -> None:
    while wire.next(0.2) is not None:
        pass


def _wait_message(wire: _Wire, step: int, ways: list[_Segment], sender: str) -> None:
    """Return as message `step` of the next rotation is on the wire."""
    at = -1
    while (segment := wire.next(WITHIN_S)) is not None:
        if segment.size > LARGE:
            at = 2 if segment.sender == ways[0].sender else 3
        elif at < 2:
            at = 1 if segment == ways[1] and at == 0 else 0 if segment == ways[0] else -1
        elif segment.sender == ways[(at + 1) % 2].sender:
            at += 1
        if at == step and segment.sender == sender:
            return
    raise AssertionError(f"{STEPS[step]} was not seen")


def _says_nothing(wire: _Wire, name: str) -> bool:
    deadline = time.monotonic() + QUIET_S
    while (left := deadline - time.monotonic()) > 0:
        segment = wire.next(left)
        if segment is not None and segment.sender == name:
            return False
    return True
