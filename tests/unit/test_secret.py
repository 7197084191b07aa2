"""Secrets: locked, out of dumps, wiped, redacted, and never copied by accident."""

import copy
import os
import pickle
import re
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from qhybridd import _native
from qhybridd.errors import HostError, ProgramError
from qhybridd.secret import MAX_SECRET_BYTES, Secret

KEY = bytes(range(1, 33))


def text(secret: Secret) -> bytes:
    with secret.expose() as view:
        return bytes(view)


def test_adopting_takes_the_bytes_and_wipes_a_mutable_source() -> None:
    source = bytearray(KEY)
    assert text(Secret.adopt(source)) == KEY and source == bytes(32)
    source = bytearray(KEY)
    assert text(Secret.adopt(memoryview(source))) == KEY and source == bytes(32)
    assert text(Secret.adopt(KEY)) == KEY


def test_a_secret_shows_nothing_of_itself() -> None:
    secret = Secret.adopt(KEY)
    for shown in (repr(secret), str(secret), f"{secret}", repr([secret]), repr({"psk": secret})):
        assert KEY.hex() not in shown and "\\x01" not in shown
    assert repr(secret) == "<Secret 32 bytes>" and not hasattr(secret, "__dict__")


def test_a_secret_cannot_be_copied_hashed_or_pickled() -> None:
    secret = Secret.adopt(KEY)
    for take in (copy.copy, copy.deepcopy, pickle.dumps):
        with pytest.raises(ProgramError):
            take(secret)
    with pytest.raises(TypeError):
        hash(secret)


def test_comparison_is_by_content_and_only_with_secrets() -> None:
    assert Secret.adopt(KEY) == Secret.adopt(KEY) != Secret.adopt(bytes(32))
    assert Secret.adopt(KEY) != Secret.adopt(KEY[:16])
    assert Secret.adopt(KEY) != KEY


def test_wiping_leaves_zeros_that_are_told() -> None:
    secret = Secret.adopt(KEY)
    assert not secret.is_zero
    secret.wipe()
    assert secret.is_zero and text(secret) == bytes(32)


@pytest.mark.parametrize("size", [1, 32, 64, 65, 4096, 100_000])
def test_memory_is_zero_when_it_is_given_and_zeroed_when_it_is_given_back(size: int) -> None:
    for _ in range(3):
        secrets = [Secret(size) for _ in range(50)]
        assert all(secret.is_zero for secret in secrets)
        for secret in secrets:
            with secret.expose() as view:
                view[:] = b"\xa5" * size


def test_small_secrets_do_not_share_bytes() -> None:
    secrets = [Secret.adopt(bytes([n % 255 + 1]) * 64) for n in range(3000)]
    assert all(text(secret) == bytes([n % 255 + 1]) * 64 for n, secret in enumerate(secrets))


@pytest.mark.parametrize("size", [0, -1, MAX_SECRET_BYTES + 1])
def test_sizes_are_bounded(size: int) -> None:
    with pytest.raises(ProgramError):
        Secret(size)


def test_the_native_buffer_refuses_misuse() -> None:
    with pytest.raises(ValueError, match="at least 1"):
        _native.LockedBuffer(0)
    with pytest.raises(TypeError):
        _native.LockedBuffer("32")  # type: ignore[arg-type]
    buffer = _native.LockedBuffer(8)
    with pytest.raises(RuntimeError):
        buffer.__init__(8)  # type: ignore[misc]
    raw = _native.LockedBuffer.__new__(_native.LockedBuffer)
    with pytest.raises(BufferError):
        memoryview(raw)
    raw.wipe()
    assert len(raw) == 0


def test_the_memory_is_locked_and_left_out_of_dumps() -> None:
    """The kernel says so: flags `lo` and `dd` of the mapping (proc(5), smaps)."""
    secret = Secret(1 << 20)
    with secret.expose() as view:
        view[:4] = b"\x5a\xa5\x5a\xa5"
        found = False
        for block in re.split(r"(?m)^(?=[0-9a-f]+-[0-9a-f]+ )", Path("/proc/self/smaps").read_text()):
            if "VmFlags" not in block:
                continue
            first, last = (int(part, 16) for part in block.split(" ", 1)[0].split("-"))
            if last - first < 1 << 20 or "Size:" not in block:
                continue
            flags = block.split("VmFlags:")[1].split()
            found = found or {"lo", "dd"} <= set(flags)
        assert found


def test_a_forked_child_finds_zeros() -> None:
    secret = Secret.adopt(KEY)
    pid = os.fork()
    if pid == 0:
        os._exit(0 if secret.is_zero else 1)
    _, status = os.waitpid(pid, 0)
    assert os.waitstatus_to_exitcode(status) == 0
    assert text(secret) == KEY


def test_no_locked_memory_left_is_a_host_error_with_the_way_out() -> None:
    program = """
import ctypes, os, resource
from qhybridd.errors import HostError
from qhybridd.secret import Secret
resource.setrlimit(resource.RLIMIT_MEMLOCK, (0, 0))
if os.geteuid() == 0:
    os.setgroups([]); os.setgid(65534); os.setuid(65534)
try:
    Secret(1 << 20)
except HostError as error:
    assert error.code == "host.memory" and "LimitMEMLOCK" in error.hint, error
    print("refused")
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "refused", done.stderr
    assert issubclass(HostError, Exception) and resource.RLIMIT_MEMLOCK >= 0
