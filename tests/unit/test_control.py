"""The control server over a real Unix socket: whatever a client does, the daemon goes on."""

import asyncio
import stat
from collections.abc import Awaitable, Callable
from pathlib import Path

import msgspec
import pytest

from qhybridd import control, status
from qhybridd.control import ControlServer
from qhybridd.errors import HostError, OperatorError
from qhybridd.telemetry.log import Log
from tests.unit.daemons import Lines


async def handle(request: status.Request) -> msgspec.Struct | None:
    match request:
        case status.RotateRequest("broken"):
            raise ValueError("hunter2")
        case status.RotateRequest(name):
            raise OperatorError("tunnel.unknown", f"no tunnel is called {name}")
        case status.ReloadRequest():
            return status.Reloaded(["x" * (8 << 20)], [])
        case _:
            return None


def run(path: Path, body: Callable[[Path, Lines], Awaitable[None]]) -> None:
    async def main() -> None:
        lines = Lines()
        server = ControlServer(path / "run" / "control.sock", handle, Log(lines))
        await server.open()
        await body(path / "run" / "control.sock", lines)
        assert server._clients == set() or await asyncio.sleep(0.3) is None
        await server.close()
        assert not (path / "run" / "control.sock").exists()
        await asyncio.sleep(0.05)
        assert asyncio.all_tasks() == {asyncio.current_task()}

    asyncio.run(main())


async def ask(path: Path, *lines: bytes) -> list[status.Answer]:
    reader, writer = await asyncio.open_unix_connection(str(path), limit=status.MAX_ANSWER_BYTES)
    answers = []
    for line in lines:
        writer.write(line)
        answers.append(msgspec.json.decode(await reader.readline(), type=status.Answer))
    writer.close()
    return answers


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def code(answer: status.Answer) -> str:
    assert not answer.ok and answer.error is not None
    return answer.error.code


def test_answers_come_in_order_and_errors_keep_their_code(tmp_path: Path) -> None:
    async def body(path: Path, lines: Lines) -> None:
        assert mode_of(path) == control.SOCKET_MODE
        guard, wan, broken, garbage, again = await ask(
            path,
            b'{"verb":"guard"}\n',
            b'{"verb":"rotate","tunnel":"wan"}\n',
            b'{"verb":"rotate","tunnel":"broken"}\n',
            b'{"verb":[[[[\xff\n',
            b'{"verb":"guard"}\n',
        )
        assert guard.ok and again.ok
        assert (code(wan), code(broken), code(garbage)) == ("tunnel.unknown", "program.state", "control.refused")
        assert lines.events() == ["defect"] and "hunter2" not in str(lines.lines) + str(broken)

    run(tmp_path, body)


def test_a_line_without_an_end_and_a_client_that_leaves_are_their_own_affair(tmp_path: Path) -> None:
    async def body(path: Path, lines: Lines) -> None:
        for data in (b"x" * (2 * status.MAX_REQUEST_BYTES), b'{"verb":', b'{"verb":"guard"}\n'):
            _, writer = await asyncio.open_unix_connection(str(path))
            writer.write(data)
            writer.close()
        assert (await ask(path, b'{"verb":"guard"}\n'))[0].ok
        assert lines.events() == []

    run(tmp_path, body)


def test_clients_that_hang_or_do_not_read_hold_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(control, "REQUEST_TIMEOUT_S", 0.2)

    async def body(path: Path, _: Lines) -> None:
        before = len(asyncio.all_tasks())
        hanging = [await asyncio.open_unix_connection(str(path), limit=1) for _ in range(control.MAX_CLIENTS)]
        for _, writer in hanging:
            writer.write(b'{"verb":"reload"}\n')
        reader, _ = await asyncio.open_unix_connection(str(path))
        assert await reader.read() == b"", "one too many is turned away"
        await asyncio.sleep(1.0)
        assert len(asyncio.all_tasks()) <= before
        assert (await ask(path, b'{"verb":"guard"}\n'))[0].ok
        for _, writer in hanging:
            writer.close()

    run(tmp_path, body)


def test_a_second_daemon_is_refused_and_a_dead_ones_socket_is_taken(tmp_path: Path) -> None:
    async def body(path: Path, lines: Lines) -> None:
        with pytest.raises(HostError, match="another daemon"):
            await ControlServer(path, handle, Log(lines)).open()
        assert (await ask(path, b'{"verb":"guard"}\n'))[0].ok

    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "control.sock").touch()
    run(tmp_path, body)
