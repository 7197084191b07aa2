"""The laboratory itself, without daemons: what it measures is exact, what it cuts is cut, and nothing of it stays."""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from qhybridd.apps.devices import UAPI_DIRECTORY
from qhybridd.apps.gateway import Gateway
from qhybridd.apps.lab import Lab
from qhybridd.apps.namespaces import NETNS, Namespace
from qhybridd.clock import boottime
from qhybridd.errors import HostError, OperatorError
from qhybridd.keyfiles import load_psk
from tests.netns.worlds import SEAMLESS, SHORT, configs

DEMO = Path(__file__).parents[2] / "configs/demo"
CONNECT = """
import socket, sys

try: socket.create_connection((sys.argv[1], int(sys.argv[2])), 1.0)
except TimeoutError: print("silence")
except ConnectionRefusedError: print("refused")
"""


LOSE = """
table inet lose {{
  chain some {{
    type filter hook prerouting priority 0; policy accept;
    iifname "{device}" udp dport 7000 counter drop
  }}
}}
"""


def _greet(lab: Lab, tunnel: str) -> None:
    """Start the tunnel's WireGuard session from one side: of two that start it at once, each discards the other's."""
    alice, bob = lab.gateways.values()
    alice.namespace.run(["ping", "-c", "1", "-W", "5", bob.address(tunnel)])


def _dial(gateway: Gateway, host: str, port: int) -> str:
    """What a connection attempt from `gateway` to a port that nobody listens on ends in."""
    return gateway.namespace.run([sys.executable, "-c", CONNECT, host, str(port)]).strip()


def test_a_tunnel_carries_every_packet_and_nothing_is_left(demo_configs: dict[str, str]) -> None:
    with Lab(demo_configs) as lab:
        _greet(lab, "wan")
        _greet(lab, "fast")
        flows = [lab.add_flow("wan"), lab.add_flow("fast")]
        began = boottime()
        for flow in flows:
            flow.start()
        time.sleep(5.0)
        readings = [flow.finish() for flow in flows]
        took_s = boottime() - began
        for reading in readings:
            assert reading.lost == 0
            assert reading.duplicates == 0
            assert reading.received == reading.sent
            assert 2 * 490 <= reading.sent <= 2 * 100 * took_s, "one packet every 10 ms, both ways"
            assert reading.gaps == ()
            assert began < reading.last_arrival_s < boottime()
        keys = [device for gateway in lab.gateways.values() for device in gateway.devices.values()]
        assert len({device.public for device in keys}) == 6
    assert lab.leftovers() == []


def test_losses_are_counted_exactly(demo_configs: dict[str, str]) -> None:
    with Lab(demo_configs) as lab:
        bob = lab.gateways["bob"]
        _greet(lab, "wan")
        flow = lab.add_flow("wan")
        flow.start()
        time.sleep(1.0)
        device = bob.devices["wan"].name
        bob.namespace.run(["nft", "-f", "-"], text=LOSE.format(device=device))
        time.sleep(1.0)
        counted = bob.namespace.run(["nft", "list", "table", "inet", "lose"])
        live = flow.read()
        bob.namespace.run(["nft", "flush", "table", "inet", "lose"])
        time.sleep(1.0)
        reading = flow.finish()
        assert int(counted.split("packets ")[1].split()[0]) <= reading.there.lost <= 130
        assert reading.back.lost == 0
        assert live.there.lost > 50
        (gap,) = reading.gaps
        assert 0.9 < gap.next_s - gap.last_s < 1.4
        assert reading.there.lost == pytest.approx((gap.next_s - gap.last_s) * 100, abs=6)
    assert lab.leftovers() == []


def test_a_cut_is_silent_and_takes_the_control_port_only(demo_configs: dict[str, str]) -> None:
    with Lab(demo_configs) as lab:
        alice, bob = lab.gateways["alice"], lab.gateways["bob"]
        assert _dial(alice, bob.underlay, 7420) == "refused"
        lab.cut()
        assert _dial(alice, bob.underlay, 7420) == "silence"
        assert _dial(bob, alice.underlay, 7420) == "silence"
        assert _dial(alice, bob.underlay, 7421) == "refused"
        lab.mend()
        assert _dial(alice, bob.underlay, 7420) == "refused"
        lab.cut("alice")  # hears nothing, but is heard
        assert _dial(alice, bob.underlay, 7420) == "silence"
        tables = [gateway.namespace.run(["nft", "list", "tables"]) for gateway in (alice, bob)]
        assert ["qhybridd_lab" in text for text in tables] == [True, False]
        lab.mend()
    assert lab.leftovers() == []


def test_hosts_behind_the_gateways_reach_each_other(demo_configs: dict[str, str]) -> None:
    with Lab(demo_configs) as lab:
        lab.add_hosts()
        _greet(lab, "fast")
        flow = lab.add_host_flow("fast")
        flow.start()
        time.sleep(1.5)
        reading = flow.finish()
        assert reading.received == reading.sent > 0
    assert lab.leftovers() == []


def test_the_underlay_carries_both_address_families(demo_configs: dict[str, str]) -> None:
    for index, text in enumerate(demo_configs.values(), start=1):
        name = list(demo_configs)[index - 1]
        demo_configs[name] = text.replace(
            f'"192.0.2.{index}:7420"]', f'"[2001:db8::{index}]:7420", "192.0.2.{index}:7420"]', 1
        )
    with Lab(demo_configs) as lab:
        alice, bob = lab.gateways.values()
        assert bob.underlay == "2001:db8::2"
        assert _dial(alice, bob.underlay, 7420) == "refused"
        assert _dial(alice, "192.0.2.2", 7420) == "refused"
        _greet(lab, "wan")
        flow = lab.add_flow("wan")
        flow.start()
        time.sleep(0.5)
        assert flow.finish().lost == 0
    assert lab.leftovers() == []


COUNT = """
table inet count {
  chain through {
    type filter hook forward priority 0; policy accept;
    tcp dport 7421 counter
    counter
  }
}
"""
LISTEN = "import socket, sys; socket.create_server((sys.argv[1], int(sys.argv[2])), family=int(sys.argv[3])).accept()"


def _packets(namespace: Namespace) -> list[int]:
    """What the counters of `COUNT` say: to the photon port, and of all kinds."""
    text = namespace.run(["nft", "list", "table", "inet", "count"])
    return [int(part.split()[0]) for part in text.split("packets ")[1:]]


@pytest.mark.parametrize("host", ["198.51.100.1", "2001:db8:100::1"])
def test_the_photons_pass_through_the_middle_and_nothing_else_does(demo_configs: dict[str, str], host: str) -> None:
    endpoint = f"[{host}]:7421" if ":" in host else f"{host}:7421"
    configs = {name: text.replace("198.51.100.1:7421", endpoint) for name, text in demo_configs.items()}
    with Lab(configs) as lab:
        alice, bob = lab.gateways["alice"], lab.gateways["bob"]
        assert lab.middle is not None
        lab.middle.run(["nft", "-f", "-"], text=COUNT)
        family = str(int(socket.AF_INET6 if ":" in host else socket.AF_INET))
        server = alice.namespace.spawn([sys.executable, "-c", LISTEN, host, "7421", family])
        try:
            lab.wait(lambda: _dial(bob, host, 7421) == "", 5.0, "bob reaches alice's photon port")
        finally:
            server.end()
        photons, all_packets = _packets(lab.middle)
        assert 0 < photons < all_packets
        assert _dial(bob, alice.underlay, 7420) == "refused"
        _greet(lab, "wan")
        assert _packets(lab.middle) == [photons, all_packets]
        psks = [gateway.config.links["fibre"].psk for gateway in (alice, bob)]
        assert load_psk(psks[0]) == load_psk(psks[1])
    assert lab.leftovers() == []


def test_who_is_in_the_middle_goes_with_the_laboratory(demo_configs: dict[str, str]) -> None:
    with Lab(demo_configs) as lab:
        lab.start_eve("--help")
        assert lab.eve is not None and lab.eve.wait(10.0)
        with pytest.raises(HostError, match="somebody"):
            lab.start_eve("--help")
        lab.stop_eve()
        assert lab.eve is None and lab.eve_log.read_text()
        lab.start_eve("--help")
    assert lab.leftovers() == []


def test_without_a_fibre_there_is_no_middle(demo_configs: dict[str, str]) -> None:
    """The photons may as well share the underlay."""
    with Lab({name: text.replace("198.51.100.1:7421", "192.0.2.1:7421") for name, text in demo_configs.items()}) as lab:
        assert lab.middle is None
        with pytest.raises(HostError, match="no fibre"):
            lab.start_eve("--help")
    assert lab.leftovers() == []


@pytest.mark.parametrize(
    ("name", "old", "new"),
    [
        ("bob", "198.51.100.1:7421", "198.51.100.2:7421"),
        ("bob", 'role = "bob"', 'role = "alice"'),
        ("bob", "[link.fibre", "[link.fiber"),
    ],
)
def test_ends_that_are_not_of_one_link_are_refused(demo_configs: dict[str, str], name: str, old: str, new: str) -> None:
    text = demo_configs[name].replace(old, new)
    if "fiber" in new:
        text = text.replace('qkd = "fibre"', 'qkd = "fiber"')
    lab = Lab(demo_configs | {name: text})
    with pytest.raises(OperatorError) as caught, lab:
        pass
    assert caught.value.code == "host.lab"
    assert lab.leftovers() == []


class MishapError(Exception):
    pass


def test_nothing_is_left_when_the_body_raises(demo_configs: dict[str, str]) -> None:
    with pytest.raises(MishapError), Lab(demo_configs) as lab:
        lab.add_flow("wan").start()
        assert len(lab.leftovers()) > 5, "the check sees what is there"
        raise MishapError
    assert lab.leftovers() == []


def test_nothing_is_left_when_making_fails_half_way(
    demo_configs: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    lab = Lab(demo_configs)
    monkeypatch.setattr(Lab, "_configure", lambda *_: os.kill(os.getpid(), signal.SIGTERM))
    with pytest.raises(SystemExit) as ended, lab:
        pass
    assert ended.value.code == 128 + signal.SIGTERM
    assert lab.leftovers() == []


SCRIPT = """
import sys, time
from pathlib import Path
from qhybridd.apps.lab import Lab
configs = {name: (Path(sys.argv[1]) / f"{name}.toml").read_text() for name in ("alice", "bob")}
with Lab(configs) as lab:
    lab.add_flow("wan").start()
    print(lab.tag, flush=True)
    time.sleep(60)
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize("after_s", [0.0, 0.35, 0.6, None])
def test_a_signal_at_any_moment_leaves_nothing(number: signal.Signals, after_s: float | None) -> None:
    """`None`: once the laboratory stands; else so long after the process began, mostly while it is made."""
    command = [sys.executable, "-c", SCRIPT, str(DEMO)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        try:
            if after_s is None:
                assert process.stdout is not None
                tag = process.stdout.readline().strip()
                assert list(NETNS.glob(f"qhy-{process.pid}-{tag}-*"))
            else:
                time.sleep(after_s)
            process.send_signal(number)
            process.send_signal(number)  # an impatient second one does not stop the removal
            process.wait(20)
        finally:
            process.kill()
    assert not list(NETNS.glob(f"qhy-{process.pid}-*"))
    if after_s is None:
        assert not list(UAPI_DIRECTORY.glob(f"q{tag}*"))


def test_no_process_outlives_a_killed_laboratory(tmp_path: Path) -> None:
    """SIGKILL leaves names and files, which nothing can help; but nothing runs on."""
    command = [sys.executable, "-c", SCRIPT, str(DEMO)]
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stdout is not None
        tag = process.stdout.readline().strip()
        process.kill()
    names = list(NETNS.glob(f"qhy-{process.pid}-{tag}-*"))
    try:
        assert len(names) == 3
        inodes = {path.stat().st_ino for path in names}
        deadline = time.monotonic() + 5
        while (alive := _inside(inodes)) and time.monotonic() < deadline:
            time.sleep(0.05)
        assert alive == []
    finally:
        for path in names:
            Namespace(path.name).remove()
        for path in UAPI_DIRECTORY.glob(f"q{tag}*.sock"):
            path.unlink()


def _inside(inodes: set[int]) -> list[int]:
    """The processes in these network namespaces."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and (entry / "ns/net").stat().st_ino in inodes:
                found.append(int(entry.name))
        except OSError:
            continue
    return found


def test_esp_without_a_daemon_goes_in_clear_and_is_counted() -> None:
    """The measure itself: where no daemon and no guard stand in the way, every packet leaves in clear, and is seen."""
    with Lab(configs(SHORT, SEAMLESS)) as lab:
        lab.add_hosts()
        lab.capture()
        flows = [lab.add_flow("esp"), lab.add_host_flow("esp")]
        for flow in flows:
            flow.start()
        time.sleep(1.0)
        readings = [flow.finish() for flow in flows]
        sent = sum(reading.sent for reading in readings)
        assert all(reading.lost == 0 for reading in readings)
        assert lab.in_clear() == sent > 300
    assert lab.leftovers() == []
