"""The guard without a daemon, as the units load and close it: real commands, the real kernel, no device."""

import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from qhybridd.boot import CLOSED, COPY
from qhybridd.clock import boottime
from qhybridd.config.records import default_reqid
from qhybridd.crypto.levels import Level
from qhybridd.daemon.records import Records, TunnelRecord
from qhybridd.keyfiles import stored_pins
from qhybridd.protocol.actions import LiveEpoch
from tests.netns.test_cli import CONFIG, Host

SHUT = "wan: BLOCKED, wg-none only\n    10.2.0.0/16\n"


ESP = """
[tunnel.esp]
target = "xfrm"
peer = "berlin"
local = "192.0.2.1"
remote = "192.0.2.2"
behind = ["10.1.0.0/16"]
protects = ["10.4.0.0/16"]
least = "pqc"
"""


def inside(host: Host, *command: str) -> str:
    whole = ["nsenter", "-t", str(host.holder.pid), "-n", *command]
    return subprocess.run(whole, capture_output=True, text=True, check=True).stdout


def xfrm_policies(host: Host) -> str:
    return inside(host, "ip", "xfrm", "policy")


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Host]:
    made = Host(tmp_path)
    yield made
    made.holder.kill()
    made.holder.wait()


def records(host: Host) -> Records:
    return Records(host.config.parent / "run" / "tunnels")


def opened(host: Host, left_s: float, level: Level = Level.PQC, tunnel: str = "wan", age_s: float = 1.0) -> None:
    """A daemon of this boot had opened the tunnel."""
    now = boottime()
    live = LiveEpoch(7, level, bytes(16), now - age_s, now + left_s, b"\1" * 48)
    records(host).write(tunnel, live, ())


def flush(host: Host) -> None:
    inside(host, "nft", "flush", "ruleset")


def _kernel_shows(host: Host) -> str:
    """Past a daemon that does not answer."""
    host.config.write_text(CONFIG.replace('runtime = "run"', 'runtime = "elsewhere"'))
    return host.run("guard", "show")[1]


def passes(host: Host) -> bool:
    text = host.run("guard", "show")[1]
    assert "10.2.0.0/16" in text
    return "passes for" in text


# ---- before the network


def test_at_boot_everything_is_shut(host: Host) -> None:
    before = time.monotonic()
    assert host.run("guard", "load", "--restore") == (0, "1 tunnel guarded, 0 of them open.\n")
    print(f"guard load took {time.monotonic() - before:.2f} s")
    assert host.run("guard", "show") == (0, SHUT)
    assert (host.config.parent / "state" / COPY).stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("broken", [CONFIG.replace("least", "leest"), CONFIG + "\n[tunnel", CONFIG + "\n\x00", None])
def test_a_configuration_that_is_broken_is_replaced_by_the_last_good_one(host: Host, broken: str | None) -> None:
    host.config.write_text(CONFIG)
    assert host.run("guard", "load")[0] == 0
    assert host.run("guard", "remove", "--yes")[0] == 0
    if broken is None:
        host.config.unlink()  # nothing says where the state is: the default place has no copy of this file
        code, text = host.run("guard", "load")
        assert code == 1
        assert "NOTHING NEW IS GUARDED" in text
        return
    host.config.write_text(broken)
    code, text = host.run("guard", "load")
    assert code == 0
    assert f"{host.config}:" in text, "what is wrong"
    assert "The last good copy of the configuration is guarded instead." in text
    assert host.run("guard", "show")[1] == SHUT


def unit_command(host: Host) -> str:
    """What the unit runs, for this host, with a Python that is gone."""
    unit = (Path(__file__).parents[2] / "systemd" / "qhybridd-guard.service").read_text()
    line = next(line for line in unit.splitlines() if line.startswith("ExecStart=/bin/sh -c '"))
    command = line.removeprefix("ExecStart=/bin/sh -c '").removesuffix("'")
    return command.replace("/opt/qhybridd", "/nowhere").replace("/var/lib/qhybridd", f"{host.config.parent}/state")


def test_where_the_program_does_not_run_nft_alone_blocks_what_is_protected(host: Host) -> None:
    wide = CONFIG.replace('["10.2.0.0/16"]', '["0.0.0.0/0", "::/0"]\nexcept = ["192.0.2.9/32"]')
    inside(host, "ip", "link", "add", "wan0", "type", "veth", "peer", "name", "far0")
    inside(host, "ip", "link", "set", "far0", "up")
    inside(host, "ip", "link", "set", "wan0", "up")
    inside(host, "ip", "address", "add", "192.0.2.1/24", "dev", "wan0")
    inside(host, "ip", "route", "add", "10.0.0.0/8", "dev", "wan0")
    for config in (wide, CONFIG):
        host.config.write_text(config)
        assert host.run("guard", "load")[0] == 0
        command = ["sh", "-c", unit_command(host)]
        with pytest.raises(subprocess.CalledProcessError):
            inside(host, *command)
        assert "qhybridd_closed" not in inside(host, "nft", "list", "tables"), "the guard stands: nothing to do"
        flush(host)
        assert sends(host, "10.2.0.1")
        for _ in range(2):
            with pytest.raises(subprocess.CalledProcessError):
                inside(host, *command)
        assert "BLOCKED by the table qhybridd_closed" in host.run("guard", "show")[1]
        assert not sends(host, "10.2.0.1")
        assert sends(host, "10.3.0.1") is (config is CONFIG)
        assert sends(host, "192.0.2.9")
        assert host.run("guard", "load")[0] == 0
        assert "qhybridd_closed" not in inside(host, "nft", "list", "tables"), "the guard took its place"
        assert not sends(host, "10.2.0.1")


def test_a_running_daemon_takes_the_fallback_away(host: Host) -> None:
    with host.daemon():
        closed = host.config.parent / "state" / CLOSED
        deadline = time.monotonic() + 30
        while not closed.exists():  # it answers before its guard is loaded
            assert time.monotonic() < deadline
            time.sleep(0.05)
        inside(host, "nft", "-f", str(closed))
        while "qhybridd_closed" in inside(host, "nft", "list", "tables"):
            assert time.monotonic() < deadline
            time.sleep(0.05)
        assert host.run("guard", "show") == (0, SHUT)


def sends(host: Host, address: str) -> bool:
    """Whether the kernel lets a datagram go: a dropped one is EPERM to its sender."""
    code = f"import socket; socket.socket(2, 2).sendto(b'x', ('{address}', 9))"
    try:
        inside(host, sys.executable, "-c", code)
    except subprocess.CalledProcessError:
        return False
    return True


def test_the_copy_of_another_gateway_is_none(host: Host) -> None:
    assert host.run("guard", "load")[0] == 0
    assert host.run("guard", "remove", "--yes")[0] == 0
    host.config = host.config.rename(host.config.with_name("other.toml"))
    host.config.write_text(CONFIG.replace("least", "leest"))
    code, text = host.run("guard", "load")
    assert code == 1
    assert "NOTHING NEW IS GUARDED" in text
    assert "Nothing is guarded" in host.run("guard", "show")[1]


def test_without_room_for_the_copy_all_is_guarded_nonetheless(host: Host) -> None:
    host.config.write_text(CONFIG.replace('state = "state"', 'state = "qhybridd.toml/state"') + ESP)
    code, text = host.run("guard", "load")
    assert code == 0
    assert "No copy of the configuration was kept" in text
    assert "2 tunnels guarded, 0 of them open." in text
    assert "10.4.0.0/16" in xfrm_policies(host), "the policies stand too"


def test_a_daemon_that_cannot_start_guards_by_the_copy_too(host: Host) -> None:
    assert host.run("guard", "load")[0] == 0
    assert host.run("guard", "remove", "--yes")[0] == 0
    host.config.write_text(CONFIG.replace("least", "leest"))
    assert host.run("run")[0] == 1
    assert host.run("guard", "show")[1] == SHUT


def test_a_daemon_keeps_the_copy_at_its_start_and_at_a_reload(host: Host) -> None:
    copy = host.config.parent / "state" / COPY
    with host.daemon():
        deadline = time.monotonic() + 30
        while not copy.exists():  # it answers before its guard is loaded
            assert time.monotonic() < deadline
            time.sleep(0.05)
        assert '"10.2.0.0/16"' in copy.read_text()
        host.config.write_text(CONFIG.replace("10.2.", "10.3."))
        assert host.run("reload")[0] == 0
        assert '"10.3.0.0/16"' in copy.read_text()


def test_xfrm_policies_stand_before_there_is_a_daemon(host: Host) -> None:
    host.config.write_text(CONFIG + ESP)
    code, text = host.run("guard", "load")
    assert (code, text) == (0, "2 tunnels guarded, 0 of them open.\n")
    shown = xfrm_policies(host)
    policies = [" ".join(part.split()) for part in shown.replace("\nsrc", "\0src").split("\0")]
    for start in (
        "src 10.1.0.0/16 dst 10.4.0.0/16 dir out ",
        "src 10.4.0.0/16 dst 10.1.0.0/16 dir in ",
        "src 10.4.0.0/16 dst 10.1.0.0/16 dir fwd ",
    ):
        assert any(policy.startswith(start) for policy in policies), shown
    assert f"reqid {default_reqid('esp')}" in shown
    assert host.run("guard", "show")[1] == f"esp: BLOCKED, ESP only\n    10.4.0.0/16\n{SHUT}"
    foreign = "src 10.8.0.0/16 dst 10.9.0.0/16 dir out tmpl src 192.0.2.1 dst 192.0.2.2 proto esp reqid 7 mode tunnel"
    inside(host, "ip", "xfrm", "policy", "add", *foreign.split())
    assert host.run("guard", "remove", "--yes")[0] == 0
    assert "10.4.0.0/16" not in xfrm_policies(host), "or it would block for ever"
    assert "10.9.0.0/16" in xfrm_policies(host), "another program's is left alone"


def test_policies_of_a_tunnel_that_is_gone_go_too(host: Host) -> None:
    host.config.write_text(CONFIG + ESP)
    assert host.run("guard", "load")[0] == 0
    host.config.write_text(CONFIG)
    assert host.run("guard", "load")[0] == 0
    assert "10.4.0.0/16" not in xfrm_policies(host)


# ---- after the host's firewall was loaded anew


def test_a_flushed_guard_comes_back_with_the_time_that_is_left(host: Host) -> None:
    assert host.run("guard", "load")[0] == 0
    opened(host, left_s=20)
    flush(host)
    assert "Nothing is guarded" in host.run("guard", "show")[1]
    code, text = host.run("guard", "load", "--restore")
    assert code == 0
    assert "1 tunnel guarded, 1 of them open.\n    wan for 1" in text
    assert passes(host)
    opened(host, left_s=1.0)
    flush(host)
    assert host.run("guard", "load", "--restore")[0] == 0
    time.sleep(1.1)
    assert not passes(host)


def test_without_restore_it_comes_back_shut(host: Host) -> None:
    assert host.run("guard", "load")[0] == 0
    opened(host, left_s=20)
    flush(host)
    assert host.run("guard", "load")[0] == 0
    assert not passes(host)


def test_what_is_not_restored(host: Host) -> None:
    """A deadline that is over, a level that is no longer enough, an expiry that became shorter."""
    assert host.run("guard", "load")[0] == 0
    for left_s, level, age_s in ((-1.0, Level.PQC, 1.0), (20.0, Level.CLASSICAL, 1.0), (20.0, Level.PQC, 301.0)):
        opened(host, left_s, level, age_s=age_s)
        flush(host)
        assert host.run("guard", "load", "--restore")[0] == 0
        assert not passes(host), (left_s, level, age_s)


def test_a_key_of_a_revoked_identity_is_not_restored(host: Host) -> None:
    assert host.run("guard", "load")[0] == 0
    (pin,) = [pin for _, pin in stored_pins(host.config.parent / "peers")[0]]
    now = boottime()
    live = LiveEpoch(7, Level.PQC, bytes(16), now - 1, now + 60, pin.fingerprint)
    records(host).write("wan", live, ())
    flush(host)
    text = host.run("peer", "revoke", "berlin")[1]
    assert "`qhybridd guard close` shuts them now" in text
    assert host.run("guard", "load", "--restore")[1].endswith("1 tunnel guarded, 0 of them open.\n")
    assert records(host).read("wan") is None


def test_a_record_of_another_boot_is_void(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    assert host.run("guard", "load")[0] == 0
    path = host.config.parent / "run" / "tunnels" / "wan.json"
    opened(host, left_s=20)
    text = path.read_text()
    boot_id = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    path.write_text(text.replace(boot_id, "00000000-0000-0000-0000-000000000000"))
    flush(host)
    assert host.run("guard", "load", "--restore")[0] == 0
    assert not passes(host)


def test_a_tunnel_that_moved_is_not_restored_however_often(host: Host) -> None:
    assert host.run("guard", "load")[0] == 0
    opened(host, left_s=20)
    host.config.write_text(CONFIG.replace("wg-none", "wg-other"))
    for _ in range(2):
        flush(host)
        assert host.run("guard", "load", "--restore")[0] == 0
        assert not passes(host)


def test_a_running_daemon_puts_its_guard_back_itself(host: Host) -> None:
    with host.daemon():
        host.config.write_text(CONFIG.replace("10.2.", "10.3."))
        flush(host)
        code, text = host.run("guard", "load", "--restore")
        assert code == 0
        assert "A daemon runs and guards 1 tunnel" in text
        assert host.run("guard", "show")[1] == SHUT, "what the daemon has, not what the file says"


def test_a_frozen_daemon_keeps_what_it_owns(host: Host) -> None:
    """From kernel 6.9 on nobody can flush it; before, the command puts it back."""
    with host.daemon() as process:
        deadline = time.monotonic() + 30
        while host.run("guard", "show")[1] != SHUT:
            assert time.monotonic() < deadline
        process.send_signal(signal.SIGSTOP)
        flush(host)
        code, text = host.run("guard", "load", "--restore")
        assert code == 0
        assert "owns the guard" in text or "1 tunnel guarded" in text
        assert SHUT in _kernel_shows(host)


# ---- before a sleep


def test_a_close_is_not_undone_by_a_restore(host: Host) -> None:
    assert host.run("guard", "load")[0] == 0
    opened(host, left_s=20)
    flush(host)
    assert host.run("guard", "load", "--restore")[0] == 0
    assert passes(host)
    assert host.run("guard", "close") == (0, "1 tunnel shut.\n")
    assert not passes(host)
    assert records(host).read("wan") is None
    assert host.run("guard", "load", "--restore")[0] == 0
    assert not passes(host)


def test_a_running_daemon_closes_for_a_sleep(host: Host) -> None:
    with host.daemon():
        host.config.write_text("")
        assert host.run("--socket", str(host.config.parent / "run/control.sock"), "guard", "close") == (
            0,
            "1 tunnel shut.\n",
        ), "the daemon's tunnels, not those of the file"


def test_the_records_are_the_daemons(host: Host) -> None:
    """What stands in for a daemon here is what it writes."""
    opened(host, left_s=20)
    found = records(host).read("wan")
    assert isinstance(found, TunnelRecord)
    assert found.live().level is Level.PQC
