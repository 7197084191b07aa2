"""What the systemd unit promises."""

import shutil
import subprocess
from pathlib import Path

import pytest

UNIT = Path(__file__).parents[2] / "systemd" / "qhybridd.service"


def settings() -> dict[str, str]:
    lines = [line for line in UNIT.read_text().splitlines() if "=" in line and not line.startswith("#")]
    pairs = [line.split("=", 1) for line in lines]
    assert len({key for key, _ in pairs}) == len(pairs)
    return dict(pairs)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("MemoryDenyWriteExecute", "yes"),
        ("NoNewPrivileges", "yes"),
        ("LimitCORE", "0"),
        ("LimitMEMLOCK", "infinity"),
        ("MemorySwapMax", "0"),
        ("Type", "notify"),
        ("Restart", "always"),
        ("StartLimitIntervalSec", "0"),
        ("RuntimeDirectoryPreserve", "yes"),
        ("RuntimeDirectory", "qhybridd"),
        ("RuntimeDirectoryMode", "0700"),
        ("StateDirectory", "qhybridd"),
        ("CapabilityBoundingSet", "CAP_NET_ADMIN"),
        ("ExecReload", "/bin/kill -HUP $MAINPID"),
    ],
)
def test_it_is_set(key: str, value: str) -> None:
    assert settings()[key] == value


def test_stopping_does_not_remove_the_guard() -> None:
    assert not {"ExecStop", "ExecStopPost"} & settings().keys()
    assert "guard" not in settings()["ExecStart"]


def test_the_guard_is_there_before_the_network_and_after_who_flushes_it() -> None:
    assert "network-pre.target" in settings()["Before"].split()
    assert settings()["Wants"] == "network-pre.target"
    assert "nftables.service" in settings()["After"].split()
    # Else it would start after sysinit.target, which on some systems waits for the network: a circle.
    assert settings()["DefaultDependencies"] == "no"


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="there is no systemd-analyze")
def test_systemd_takes_it(tmp_path: Path) -> None:
    unit = tmp_path / UNIT.name
    unit.write_text(UNIT.read_text().replace("/opt/qhybridd/bin/qhybridd", "/bin/true"))
    done = subprocess.run(
        ["systemd-analyze", "verify", str(unit)], capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_what_the_daemon_needs_is_not_taken_away() -> None:
    assert set(settings()["RestrictAddressFamilies"].split()) == {"AF_INET", "AF_INET6", "AF_UNIX", "AF_NETLINK"}
    assert "ProcSubset" not in settings()  # the boot ID stands in /proc/sys
