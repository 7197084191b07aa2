"""The client of the control socket, against a real socket that answers well, badly, slowly, or not at all."""

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qhybridd.cli import client
from qhybridd.cli.client import ask, running
from qhybridd.errors import HostError, OperatorError, QhybriddError
from qhybridd.status import (
    Reloaded,
    ReloadRequest,
    RevokeRequest,
    RotateRequest,
    Status,
    StatusRequest,
    answer,
    decode_request,
    encode_line,
    refusal,
)

Serve = Callable[[socket.socket], None]


@contextmanager
def daemon(path: Path, serve: Serve) -> Iterator[Path]:
    """A daemon for one connection."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        listener.bind(str(path))
        listener.listen(1)
        listener.settimeout(5)

        def work() -> None:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            with connection:
                serve(connection)

        thread = threading.Thread(target=work)
        thread.start()
        try:
            yield path
        finally:
            listener.close()
            thread.join(5)
            assert not thread.is_alive()


def saying(data: bytes) -> Serve:
    def serve(connection: socket.socket) -> None:
        connection.recv(1 << 16)
        connection.sendall(data)

    return serve


def failing(path: Path, kind: type = Reloaded, timeout_s: float = 5.0) -> QhybriddError:
    with pytest.raises(QhybriddError) as caught:
        ask(path, StatusRequest(), kind, timeout_s=timeout_s)
    return caught.value


def test_one_line_each_way(tmp_path: Path) -> None:
    heard: list[bytes] = []

    def serve(connection: socket.socket) -> None:
        heard.append(connection.recv(1 << 16))
        for byte in encode_line(answer(Reloaded(["tunnel wan changed"], ["mark"]))):
            connection.send(bytes([byte]))

    with daemon(tmp_path / "s", serve) as path:
        assert ask(path, ReloadRequest(), Reloaded) == Reloaded(["tunnel wan changed"], ["mark"])
    assert heard == [b'{"verb":"reload"}\n']


@pytest.mark.parametrize(
    ("request_", "line"),
    [
        (StatusRequest(), b'{"verb":"status"}\n'),
        (RotateRequest("wan", reset=True), b'{"verb":"rotate","tunnel":"wan","reset":true}\n'),
        (
            RevokeRequest("berlin", "ab" * 48),
            b'{"verb":"revoke","peer":"berlin","fingerprint":"' + b"ab" * 48 + b'"}\n',
        ),
    ],
)
def test_requests_are_what_the_protocol_says(request_: StatusRequest | RotateRequest, line: bytes) -> None:
    assert encode_line(request_) == line
    assert decode_request(line) == request_


def test_a_refusal_comes_as_the_daemon_meant_it(tmp_path: Path) -> None:
    line = encode_line(refusal("config.value", "tunnel.wan.period: no", "/etc/q.toml:3", "Write it."))
    with daemon(tmp_path / "s", saying(line)) as path:
        error = failing(path)
    assert isinstance(error, OperatorError)
    assert (error.code, error.message, error.where, error.hint) == (
        "config.value",
        "tunnel.wan.period: no",
        "/etc/q.toml:3",
        "Write it.",
    )


@pytest.mark.parametrize(
    ("line", "code"),
    [
        (b"", "control.unreachable"),
        (b'{"ok":true,"result"', "control.unreachable"),
        (b"no json\n", "control.malformed"),
        (b"\n", "control.malformed"),
        (b"\xff\n", "control.malformed"),
        (b"[1]\n", "control.malformed"),
        (b'{"ok":true,"result":{"gateway":3}}\n', "control.malformed"),
        (b'{"ok":true}\n', "control.malformed"),
        (b'{"ok":false}\n', "control.malformed"),
        (b'{"ok":true,"result":' + b"[" * 100_000 + b"\n", "control.malformed"),
    ],
)
def test_a_bad_answer(tmp_path: Path, line: bytes, code: str) -> None:
    with daemon(tmp_path / "s", saying(line)) as path:
        error = failing(path, Status)
    assert isinstance(error, HostError)
    assert error.code == code


@given(st.binary(max_size=60))
def test_no_answer_breaks_the_client(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    with daemon(tmp_path_factory.mktemp("s") / "s", saying(data + b"\n")) as path:
        assert failing(path, Status).code == "control.malformed"


def test_an_endless_answer_is_cut_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "MAX_ANSWER_BYTES", 1 << 20)

    def serve(connection: socket.socket) -> None:
        with pytest.raises(OSError, match=r"Broken pipe|reset"):
            while True:
                connection.sendall(b" " * 65536)

    with daemon(tmp_path / "s", serve) as path:
        assert "longer than" in failing(path).message


def test_a_hung_daemon(tmp_path: Path) -> None:
    """Also one that sends a byte now and then: the time is for the whole answer."""
    stop = threading.Event()

    def serve(connection: socket.socket) -> None:
        while not stop.wait(0.05):
            try:
                connection.send(b" ")
            except OSError:
                return

    began = time.monotonic()
    with daemon(tmp_path / "s", serve) as path:
        error = failing(path, timeout_s=0.3)
        stop.set()
    assert (error.code, error.message) == ("control.unreachable", "the daemon does not answer")
    assert time.monotonic() - began < 2


def test_nobody_there(tmp_path: Path) -> None:
    path = tmp_path / "s"
    assert failing(path).message == "no daemon runs here: there is no socket"
    assert not running(path)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as left_behind:
        left_behind.bind(str(path))
        assert failing(path).message == "no daemon runs here: nobody listens on the socket"
        assert not running(path)
        left_behind.listen(1)
        assert running(path)
    error = failing(tmp_path / ("x" * 200))
    assert error.code == "control.unreachable"
