"""SIGINT, SIGTERM and SIGHUP as exceptions that come between two steps, never in the middle of one.

What makes a thing and notes it for removal does both inside `hold`, so that no signal finds it made but not noted. What
forks by `os.fork` stands inside `hold` too: an exception that comes during the fork's hooks is printed and swallowed.
So that a swallowed one is not lost, a signal stands until the removal, and each step raises it again.
"""

import math
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType
from typing import Any, Final

CAUGHT: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

IMPATIENCE_S: Final = 1.0
"""A further signal in less than this, from a double Ctrl-C for instance, must not break into the way to the removal."""

_Handler = Callable[[int, FrameType | None], Any] | int | signal.Handlers | None


class Interrupts:
    """While entered, the first signal of `CAUGHT` raises in the main thread; in other threads this does nothing."""

    __slots__ = ("_depth", "_former", "_owner", "_pending", "_raised_s")

    def __init__(self) -> None:
        self._former: dict[signal.Signals, _Handler] = {}
        self._owner = os.getpid()
        self._depth = 0
        self._pending = 0
        self._raised_s = -math.inf

    def __enter__(self) -> "Interrupts":
        if threading.current_thread() is threading.main_thread():
            self._former = {number: signal.signal(number, self._on_signal) for number in CAUGHT}
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        for number, former in self._former.items():
            signal.signal(number, former)
        self._former = {}

    @contextmanager
    def hold(self) -> Iterator[None]:
        """A step: signals that come inside wait until it is over. Raises what a waiting signal stands for."""
        self._depth += 1
        try:
            yield
        finally:
            self._depth -= 1
            self._raise_pending()

    @contextmanager
    def last(self) -> Iterator[None]:
        """The removal: signals that come inside are dropped, as it is what they ask for."""
        self._depth += 1
        try:
            yield
        finally:
            self._depth -= 1
            self._pending = 0

    def _on_signal(self, number: int, _frame: FrameType | None) -> None:
        if os.getpid() != self._owner:
            # A fork that has not executed its program yet (pyroute2 makes some): the removal is not its business.
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
            return
        self._pending = self._pending or number
        if time.monotonic() - self._raised_s > IMPATIENCE_S:
            self._raise_pending()

    def _raise_pending(self) -> None:
        if self._depth or not self._pending:
            return
        self._raised_s = time.monotonic()
        if self._pending == signal.SIGINT:
            raise KeyboardInterrupt
        raise SystemExit(128 + self._pending)
