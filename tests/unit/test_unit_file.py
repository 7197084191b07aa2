"""What the systemd units promise."""

import shutil
import subprocess
from pathlib import Path

import pytest

UNITS = Path(__file__).parents[2] / "systemd"
DAEMON, GUARD, SLEEP = "qhybridd.service", "qhybridd-guard.service", "qhybridd-sleep.service"
DROP_IN = "nftables.service.d/qhybridd.conf"
PROGRAM = "/opt/qhybridd/bin/qhybridd"


def settings(unit: str = DAEMON) -> dict[str, str]:
    lines = [line for line in (UNITS / unit).read_text().splitlines() if "=" in line and not line.startswith("#")]
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


@pytest.mark.parametrize("unit", [GUARD, SLEEP])
def test_the_short_ones_have_no_more_rights_than_the_daemon(unit: str) -> None:
    confining = {key for key in settings() if key.startswith(("Protect", "Restrict", "SystemCall", "Memory", "Lock"))}
    confining |= {"NoNewPrivileges", "CapabilityBoundingSet", "PrivateDevices"}
    confining -= {"MemorySwapMax"}  # no secrets here
    families = "RestrictAddressFamilies"
    for key in confining - {families}:
        assert settings(unit)[key] == settings()[key], key
    assert set(settings(unit)[families].split()) <= set(settings()[families].split())


def test_stopping_does_not_remove_the_guard() -> None:
    for unit in (DAEMON, GUARD, SLEEP):
        assert not {"ExecStop", "ExecStopPost"} & settings(unit).keys()
    assert "guard" not in settings()["ExecStart"]


def test_the_guard_is_there_before_the_network_and_after_who_flushes_it() -> None:
    guard = settings(GUARD)
    assert "network-pre.target" in guard["Before"].split()
    assert guard["Wants"] == "network-pre.target"
    assert "nftables.service" in guard["After"].split()
    assert guard["RemainAfterExit"] == "yes"
    assert guard["TimeoutStartSec"] == "infinity", "else a slow machine gets its network without a guard"
    assert "sysinit.target" in guard["WantedBy"].split()
    # Else it would start after sysinit.target, which on some systems waits for the network: a circle.
    assert guard["DefaultDependencies"] == settings()["DefaultDependencies"] == "no"


def test_the_guard_follows_the_hosts_firewall() -> None:
    """Debian's nftables.service flushes at its start, at its reload and at its stop."""
    guard = settings(GUARD)
    assert guard["PartOf"] == guard["ReloadPropagatedFrom"] == "nftables.service"
    assert "nftables.service" in guard["WantedBy"].split(), "PartOf alone would not start it again after a stop"
    assert guard["ExecStart"] == guard["ExecReload"]
    assert guard["ExecStart"].startswith(f"/bin/sh -c '{PROGRAM} guard load --restore && exit; ")
    command = f"systemctl is-enabled -q qhybridd-guard && exec {PROGRAM} guard load --restore"
    assert settings(DROP_IN) == {"ExecStopPost": f"-/bin/sh -c '{command}'"}


def test_who_stops_using_it_is_told_to_stop_the_guards_unit_too() -> None:
    """A unit that is still up loads the guard again at the next reload of the firewall."""
    readme = (UNITS.parent / "README.md").read_text()
    assert "systemctl disable --now qhybridd qhybridd-guard qhybridd-sleep" in readme


def test_the_daemon_comes_after_the_guard_and_does_not_fall_with_it() -> None:
    daemon = settings()
    assert daemon["Wants"] == GUARD
    assert GUARD in daemon["After"].split()
    assert not {"Requires", "BindsTo", "PartOf"} & daemon.keys()
    assert daemon["Also"].split() == [GUARD, SLEEP]


def test_tunnels_are_closed_before_the_machine_sleeps() -> None:
    sleep = settings(SLEEP)
    assert sleep["ExecStart"] == f"{PROGRAM} guard close"
    assert sleep["Before"] == sleep["WantedBy"] == "sleep.target"
    assert sleep["Type"] == "oneshot"


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="there is no systemd-analyze")
def test_systemd_takes_them(tmp_path: Path) -> None:
    units = [tmp_path / unit for unit in (DAEMON, GUARD, SLEEP)]
    for unit in units:
        unit.write_text((UNITS / unit.name).read_text().replace(PROGRAM, "/bin/true"))
    done = subprocess.run(
        ["systemd-analyze", "verify", *map(str, units)], capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_every_unit_is_installed() -> None:
    makefile = (UNITS.parent / "Makefile").read_text()
    listed = next(line for line in makefile.splitlines() if line.startswith("UNITS :="))
    there = {str(path.relative_to(UNITS)) for path in UNITS.rglob("*") if path.is_file()}
    assert set(listed.split()[2:]) == there == {DAEMON, GUARD, SLEEP, DROP_IN}


def test_what_the_daemon_needs_is_not_taken_away() -> None:
    assert set(settings()["RestrictAddressFamilies"].split()) == {"AF_INET", "AF_INET6", "AF_UNIX", "AF_NETLINK"}
    for unit in (DAEMON, GUARD, SLEEP):
        assert "ProcSubset" not in settings(unit)  # the boot ID stands in /proc/sys
