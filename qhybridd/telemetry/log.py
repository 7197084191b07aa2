"""Structured logs on stderr: text for a terminal, JSON lines for everything else. No secret is ever an argument."""

import logging
import sys
import traceback
from collections.abc import MutableMapping
from pathlib import Path
from typing import Any, Final

import structlog

from qhybridd.clock import boottime
from qhybridd.errors import OperatorError, QhybriddError

REPEAT_S: Final = 60.0
"""The same error of the same subject is told once in this time, with the number of times it happened."""


class Log:
    """A logger bound to a subject, for instance a tunnel."""

    def __init__(self, logger: Any) -> None:
        self._logger = logger
        self._told: dict[tuple[str, str], tuple[float, int]] = {}
        """When each event with each code was told last, and how often it happened since."""

    def bind(self, **subject: str) -> "Log":
        """The same log for a narrower subject."""
        return Log(self._logger.bind(**subject))

    def debug(self, event: str, **fields: object) -> None:
        """For whoever looks for a fault."""
        self._logger.debug(event, **fields)

    def info(self, event: str, **fields: object) -> None:
        """What happens in the ordinary."""
        self._logger.info(event, **fields)

    def warning(self, event: str, **fields: object) -> None:
        """What an operator should know."""
        self._logger.warning(event, **fields)

    def error(self, event: str, **fields: object) -> None:
        """What an operator must mend."""
        self._logger.error(event, **fields)

    def defect(self, error: BaseException, **fields: object) -> None:
        """An exception that nothing foresaw: its kind and where it came from.

        Its text and the variables of its frames are left out, since they may hold anything, secrets too.
        """
        frames = [
            f"{Path(frame.f_code.co_filename).name}:{line} {frame.f_code.co_name}"
            for frame, line in traceback.walk_tb(error.__traceback__)
        ]
        self._logger.error("defect", kind=type(error).__name__, frames=frames, **fields)

    def repeated(self, event: str, error: QhybriddError, **fields: object) -> None:
        """A warning that may come often: told at once, then once a minute with its count."""
        key, now = (event, error.code), boottime()
        last, count = self._told.get(key, (-REPEAT_S, 0))
        if now - last < REPEAT_S:
            self._told[key] = (last, count + 1)
            return
        self._told[key] = (now, 0)
        extra: dict[str, object] = {"times": count + 1} if count else {}
        if error.where:
            extra["where"] = error.where
        extra |= fields
        self._logger.warning(event, code=error.code, blame=error.blame, message=error.message, hint=error.hint, **extra)


def open_log(level: str = "info") -> Log:
    """Set up structlog for the process. `level`: debug, info, warning or error. Raises `OperatorError` for another."""
    threshold = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}
    if level not in threshold:
        raise OperatorError(
            "config.value", f"{level!r} is no level of the log", hint=f"QHYBRIDD_LOG is one of: {', '.join(threshold)}."
        )
    terminal = sys.stderr.isatty()
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            _printable,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.dev.ConsoleRenderer() if terminal else structlog.processors.JSONRenderer(),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(threshold[level]),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )
    return Log(structlog.get_logger())


def _printable(_logger: object, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """No control character of a peer's text reaches a terminal."""
    for name, value in event.items():
        if isinstance(value, str) and not value.isprintable():
            event[name] = "".join(c if c.isprintable() else "?" for c in value)
    return event
