"""Two gateways as two machines: real systemd, the installed units, and the cable between them captured from power on.

`10.77` goes over ESP, `10.78` over the kernel's WireGuard, `10.79` over nothing: the control that shows that the
capture sees what is in clear. Each machine sends on all three from before its network is up.
"""

import base64
import os
import shutil
import time
from collections.abc import Iterator
from ipaddress import IPv4Network
from itertools import pairwise
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from qhybridd.crypto.identity import Identity
from qhybridd.keyfiles import create_identity, store_peer
from qhybridd.peerfile import export_peer
from tests.kernel.fault_table import Row, note
from tests.kernel.faults import expected_rows
from tests.machines import disks, kernels
from tests.machines.hosts import Host, seen, two_hosts, wait

ESP, WIREGUARD, BARE = 77, 78, 79
GUARD = "nft list table inet qhybridd >/dev/null"
KIND = {ESP: "ESP", WIREGUARD: "WireGuard"}
CONFIG = """
[gateway]
identity = "/etc/qhybridd/identity.key"
peers = "/etc/qhybridd/peers"
listen = ["192.0.2.{own}:7420"]

[peer.{peer}]
endpoints = ["192.0.2.{other}:7420"]

[tunnel.esp]
peer = "{peer}"
target = "xfrm"
local = "192.0.2.{own}"
remote = "192.0.2.{other}"
behind = ["10.77.{own}.0/24"]
protects = ["10.77.{other}.0/24"]
period = "10s"
expiry = "45s"
least = "pqc"

[tunnel.wan]
peer = "{peer}"
interface = "wg-wan"
wireguard_peer = "{key}"
protects = ["10.78.{other}.0/24"]
renew = "wait"
period = "120s"
expiry = "300s"
least = "pqc"
"""
pytestmark = pytest.mark.skipif(os.environ.get("QHYBRIDD_MACHINE") == "1", reason="starts machines itself")


def write_gateways(directory: Path) -> None:
    """Both gateways' configuration, identities, peers and WireGuard keys."""
    names = ("alice", "bob")
    identities = [Identity.generate() for _ in names]
    private = [X25519PrivateKey.generate() for _ in names]
    public = [base64.b64encode(key.public_key().public_bytes_raw()).decode() for key in private]
    for own, name in enumerate(names):
        other, home = 1 - own, directory / name
        home.mkdir(parents=True)
        create_identity(home / "identity.key", identities[own])
        (home / "wireguard.key").write_text(base64.b64encode(private[own].private_bytes_raw()).decode())
        (home / "wireguard.peer").write_text(public[other])
        text = CONFIG.format(own=own + 1, other=other + 1, peer=names[other], key=public[other])
        (home / "qhybridd.toml").write_text(text)
        peer_file = export_peer(identities[other], names[other], ())
        store_peer(home / "peers", names[other], peer_file.encode(), beside=False)


@pytest.fixture(scope="module")
def hosts() -> Iterator[tuple[Host, Host]]:
    kernel = kernels.newest()
    if kernel is None or not kernels.can_emulate():
        (pytest.skip if os.environ.get("SKIP_MACHINE") == "1" else pytest.fail)(kernels.WAY_OUT)
    directory = disks.BUILD / "machine/gateways"
    shutil.rmtree(directory, ignore_errors=True)
    write_gateways(directory)
    with two_hosts(kernel) as both:
        yield both


def in_clear(hosts: tuple[Host, Host]) -> int:
    return sum(seen(host.capture, IPv4Network(f"10.{net}.0.0/16")) for host in hosts for net in (ESP, WIREGUARD))


def note_row(
    hosts: tuple[Host, Host], title: str, net: int, outcome: str, close_s: float | None, recover_s: float
) -> None:
    """Leave a row for the table of faults."""
    kernel = hosts[0].run("uname -r")
    place = expected_rows().index((title, KIND[net]))
    note(Row(title, KIND[net], outcome, close_s, recover_s, in_clear(hosts), kernel=kernel, place=place))


def wait_traffic(host: Host, net: int, timeout_s: float = 300) -> float:
    """Wait until its pings are answered again from now on; the seconds until then."""
    already = len(host.replies(net))
    return wait(lambda: len(host.replies(net)) > already + 5, timeout_s, f"{host.name}: traffic over 10.{net}")


def silence(host: Host, net: int, since: int) -> float:
    """The longest time without an answer after the first `since` answers, seconds."""
    times = host.replies(net)[max(since - 1, 0) :]
    return max(later - earlier for earlier, later in pairwise(times))


def test_from_power_on_nothing_leaves_in_clear(hosts: tuple[Host, Host]) -> None:
    began = time.monotonic()
    for host in hosts:
        print(f"{host.name}: systemd answers {host.wait_up():.1f} s after its kernel began")
    for host in hosts:
        for net in (BARE, ESP, WIREGUARD):
            wait_traffic(host, net, 600)
            print(f"{host.name}: 10.{net} passes {time.monotonic() - began:.1f} s after power on")
        order = host.run(
            "systemctl show -P ActiveEnterTimestampMonotonic qhybridd-guard network-pre.target test-underlay"
        )
        guard, before_network, network = (int(word) for word in order.split())
        print(f"{host.name}, microseconds: guard {guard}, network-pre {before_network}, network {network}")
        assert 0 < guard <= before_network < network
    control = seen(hosts[0].capture, IPv4Network("10.79.0.0/16"))
    print(f"in the capture: {control} packets of the control in clear, {in_clear(hosts)} of the tunnels")
    assert control > 10
    assert in_clear(hosts) == 0


@pytest.mark.parametrize("verb", ["reload", "restart"])
def test_the_firewall_flushes_and_the_guard_comes_back(hosts: tuple[Host, Host], verb: str) -> None:
    alice, _ = hosts
    counts = {net: len(alice.replies(net)) for net in (ESP, WIREGUARD)}
    alice.run(f"{GUARD} && systemctl {verb} nftables", 300)
    wait(lambda: alice.ask(GUARD)[0] == 0, 60, "the guard is back")
    for net, count in counts.items():
        wait_traffic(alice, net)
        print(f"10.{net}: longest silence {silence(alice, net, count):.2f} s")
    assert in_clear(hosts) == 0


def test_the_firewall_flushes_while_the_daemon_is_stopped(hosts: tuple[Host, Host]) -> None:
    """The unit alone brings the guard back, with the time that was left: of 300 s for WireGuard."""
    alice, _ = hosts
    alice.run("systemctl stop qhybridd", 300)
    try:
        alice.run(f"{GUARD} && systemctl reload nftables", 300)
        took = wait(lambda: alice.ask(GUARD)[0] == 0, 300, "the guard is back")
        elements = alice.run("nft list table inet qhybridd | grep -E 'elements|expires'")
        print(f"the guard is back {took:.1f} s after the reload was answered:\n{elements}")
        assert "expires" in elements
        wait_traffic(alice, WIREGUARD)
        assert in_clear(hosts) == 0
    finally:
        alice.run("systemctl start qhybridd", 600)
    for net in (ESP, WIREGUARD):
        wait_traffic(alice, net)


def test_systemd_brings_a_killed_daemon_back(hosts: tuple[Host, Host]) -> None:
    alice, _ = hosts
    before = alice.run("systemctl show -P MainPID qhybridd")
    counts = {net: len(alice.replies(net)) for net in (ESP, WIREGUARD)}
    alice.run("systemctl kill --signal=KILL qhybridd")

    def back() -> bool:
        state = alice.run("systemctl show -P MainPID -P ActiveState qhybridd").split()
        return state[-1] == "active" and state[0] not in ("0", before)

    print(f"the daemon is ready again {wait(back, 120, 'the daemon is back'):.1f} s after kill -9")
    for net, count in counts.items():
        wait_traffic(alice, net)
        print(f"10.{net}: longest silence {silence(alice, net, count):.2f} s")
    assert in_clear(hosts) == 0


@pytest.mark.parametrize(
    ("step", "title"),
    [
        ("+1 hour", "one gateway's clock an hour ahead"),
        ("-2 hours", "one gateway's clock two hours back"),
    ],
)
def test_a_clock_step_ends_no_tunnel_for_long(hosts: tuple[Host, Host], step: str, title: str) -> None:
    alice, bob = hosts
    counts = {net: len(alice.replies(net)) for net in (ESP, WIREGUARD)}
    bob.run(f"date --set='{step}'")
    time.sleep(10)  # two rotations over ESP
    for net, count in counts.items():
        wait_traffic(alice, net)
        longest = silence(alice, net, count)
        print(f"bob's clock {step}: 10.{net}: longest silence {longest:.2f} s")
        assert longest < 60  # a few seconds where the machine is not starved
        note_row(hosts, title, net, "stays open or is keyed anew at once", None, longest)
    assert in_clear(hosts) == 0


def test_a_sleep_closes_and_the_wake_opens(hosts: tuple[Host, Host]) -> None:
    """The freezer stops every process for 5 s, as before a sleep; the kernel itself runs on and would pass packets."""
    alice, bob = hosts
    counts = {net: len(bob.replies(net)) for net in (ESP, WIREGUARD)}
    alice.run("echo freezer >/sys/power/pm_test; systemctl start --no-block suspend.target")
    wait(lambda: "PM: suspend exit" in alice.ask("dmesg")[1], 120, "alice slept and woke")
    assert alice.run("systemctl show -P Result qhybridd-sleep") == "success"
    for net, count in counts.items():
        wait_traffic(bob, net)
        longest = silence(bob, net, count)
        print(f"alice asleep: 10.{net}: longest silence {longest:.2f} s")
        assert longest > 4.5
        note_row(hosts, "one gateway asleep", net, "closed before the sleep, keyed anew after", 0.0, longest)
    assert in_clear(hosts) == 0


def test_a_gateway_that_loses_power_comes_back(hosts: tuple[Host, Host]) -> None:
    alice, bob = hosts
    counts = {net: len(alice.replies(net)) for net in (ESP, WIREGUARD)}
    bob.reset()
    time.sleep(5)
    up_s = bob.wait_up()
    for net, count in counts.items():
        wait_traffic(alice, net, 600)
        longest = silence(alice, net, count)
        print(f"bob reset: answers {up_s:.1f} s after its kernel began; 10.{net}: longest silence {longest:.2f} s")
        note_row(hosts, "one gateway loses power and boots", net, "boots closed, keyed anew", 0.0, longest)
    assert in_clear(hosts) == 0
