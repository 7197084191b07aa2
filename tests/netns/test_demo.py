"""The demo in the hands of somebody impatient."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from qhybridd.apps.devices import UAPI_DIRECTORY
from qhybridd.apps.namespaces import NETNS


@pytest.mark.parametrize("after_s", [0.7, 6.0])
def test_ctrl_c_leaves_nothing(after_s: float, tmp_path: Path) -> None:
    """To the whole process group, as a terminal sends it, and twice."""
    before = _sockets()
    command = [sys.executable, "-m", "qhybridd", "demo"]
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment, process_group=0
    ) as process:
        time.sleep(after_s)
        os.killpg(process.pid, signal.SIGINT)
        time.sleep(0.05)
        os.killpg(process.pid, signal.SIGINT)
        output, _ = process.communicate(timeout=30)
    assert process.returncode == 130, output
    assert "Everything that the demo made is gone." in output
    assert list(tmp_path.iterdir()) == []
    assert not list(NETNS.glob(f"qhy-{process.pid}-*"))
    assert _sockets() <= before


def _sockets() -> set[Path]:
    """Those of laboratories."""
    return set(UAPI_DIRECTORY.glob("q????[ab]-*.sock"))
