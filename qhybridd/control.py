"""The control socket: one request line, one answer line, each bounded. Only root, and who root allows, may connect."""

import asyncio
import contextlib
import os
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Final

import msgspec

from qhybridd import status
from qhybridd.errors import HostError, QhybriddError
from qhybridd.telemetry.log import Log

MAX_CLIENTS: Final = 32
"""Connections served at once; more are turned away."""
REQUEST_TIMEOUT_S: Final = 5.0
"""For the request to come, and for each answer to be taken."""
SOCKET_MODE: Final = 0o660
"""The owner (root) and the socket's group; the directory's rights bound it further."""

Handler = Callable[[status.Request], Awaitable[msgspec.Struct | None]]


class ControlServer:
    """Answers the command line."""

    def __init__(self, path: Path, handler: Handler, log: Log) -> None:
        self._path, self._handler, self._log = path, handler, log
        self._server: asyncio.Server | None = None
        self._clients: set[asyncio.Task[None]] = set()

    async def open(self) -> None:
        """Listen. Raises `HostError` (host.socket) when another daemon does already, or the place cannot be had."""
        try:
            self._path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
            if await daemon_answers(self._path):
                hint = "`systemctl status qhybridd` shows it. A second gateway on one host needs its own `runtime`."
                message = "another daemon runs with this runtime directory"
                raise HostError("host.socket", message, where=str(self._path), hint=hint)
            self._path.unlink(missing_ok=True)
            before = os.umask(0o777 & ~SOCKET_MODE)
            try:
                self._server = await asyncio.start_unix_server(
                    self._serve, str(self._path), limit=status.MAX_REQUEST_BYTES
                )
            finally:
                os.umask(before)
        except OSError as error:
            raise HostError("host.socket", f"no control socket: {error.strerror}", where=str(self._path)) from None

    async def close(self) -> None:
        """Stop, and take the socket away."""
        if self._server is None:
            return
        self._server.close()
        for client in list(self._clients):
            client.cancel()
        await asyncio.gather(*self._clients, return_exceptions=True)
        self._path.unlink(missing_ok=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        if len(self._clients) >= MAX_CLIENTS:
            writer.close()
            return
        self._clients.add(task)
        try:
            while line := await self._read(reader):
                answer = await self._answer(line)
                writer.write(status.encode_line(answer))
                async with asyncio.timeout(REQUEST_TIMEOUT_S):
                    await writer.drain()
        except (TimeoutError, OSError):
            writer.transport.abort()  # a client that hangs or leaves is its own affair, and nobody waits for it
        finally:
            self._clients.discard(task)
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()

    async def _read(self, reader: asyncio.StreamReader) -> bytes:
        """A line; nothing when the client left, or sent too much."""
        async with asyncio.timeout(REQUEST_TIMEOUT_S):
            try:
                return await reader.readline()
            except ValueError:
                return b""

    async def _answer(self, line: bytes) -> status.Answer:
        try:
            request = status.decode_request(line)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            return status.refusal("control.refused", f"the request does not parse: {error}", "", "")
        try:
            return status.answer(await self._handler(request))
        except QhybriddError as error:
            return status.refusal(error.code, error.message, error.where, error.hint)
        except Exception as error:  # a defect in one answer must not end the daemon
            self._log.defect(error)
            return status.refusal("program.state", f"a defect: {type(error).__name__}", "", "")


async def daemon_answers(path: Path) -> bool:
    """Whether somebody listens on the socket."""
    try:
        _, writer = await asyncio.open_unix_connection(str(path))
    except OSError:
        return False
    writer.close()
    return True
