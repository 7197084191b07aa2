"""Associations through the codec on a kernel with ESP: as `ip` says they are, and with packets through them."""

import errno
import select
import socket
import struct
import time
from collections.abc import Iterator
from dataclasses import replace
from ipaddress import ip_network

import pytest

from qhybridd.netlink.socket import NetlinkError
from qhybridd.netlink.xfrm_events import XfrmEvents
from qhybridd.netlink.xfrm_layout import CIPHER_NAMES, UDP_ENCAP_ESPINUDP
from qhybridd.netlink.xfrm_records import (
    Cipher,
    Direction,
    Event,
    Mode,
    SaChanged,
    SaExpired,
    SecurityAssociation,
    SecurityPolicy,
    Selector,
    Template,
)
from tests.kernel.abilities import has_esp
from tests.kernel.xfrm_world import ADDRESSES, INNER, KEY, PLAIN, REQID, World, described, secret
from tests.netns.namespaces import Lab, inside

pytestmark = pytest.mark.skipif(not has_esp(), reason="the running kernel has no ESP: make kernel")


UDP_ENCAP = 100
ETH_P_IP = 0x0800


@pytest.fixture(scope="module")
def made() -> Iterator[World]:
    with Lab() as lab:
        world = World(lab)
        yield world
        world.close()


@pytest.fixture
def world(made: World) -> Iterator[World]:
    """The namespaces stay, since in emulation they take seconds; what a test adds to XFRM goes."""
    yield made
    for side, xfrm in made.xfrm.items():
        xfrm.flush_policies()
        made.lab.ip(side, "xfrm", "state", "flush")


# ---- as `ip` says they are


@pytest.mark.parametrize("cipher", Cipher)
@pytest.mark.parametrize("mode", Mode)
@pytest.mark.parametrize("version", [4, 6])
def test_an_association_is_what_ip_says_it_is(world: World, cipher: Cipher, mode: Mode, version: int) -> None:
    xfrm = world.xfrm["a"]
    local, remote = ADDRESSES[version]
    for window, if_id, encapsulation in ((32, 0, 0), (1024, 7, 4500 if version == 4 else 0), (4096, 0xFFFFFFFF, 0)):
        inbound = SecurityAssociation(
            remote, local, 0, REQID, mode, cipher, window, 600, if_id=if_id, encapsulation=encapsulation
        )
        inbound = replace(inbound, spi=xfrm.alloc_spi(inbound))
        xfrm.add_sa(inbound, secret(), update=True)
        assert world.shown("a").startswith(described(inbound))
        xfrm.delete_sa(inbound.id)
        outbound = replace(inbound, source=local, destination=remote, spi=0xDEADBEEF, hard_expiry_s=0)
        xfrm.add_sa(outbound, secret(), update=False)
        assert world.shown("a").startswith(described(outbound))
        state = xfrm.get_sa(outbound.id)
        assert state is not None and state.key == secret()
        (dumped,) = xfrm.dump_sas()
        assert dumped == replace(state, key=None)
        assert (state.source, state.reqid, state.mode, state.if_id) == (local, REQID, mode, if_id)
        assert (state.valid, state.cipher, state.packets) == (True, CIPHER_NAMES[cipher], 0)
        assert (state.replay_window, state.encapsulation, state.offload_index) == (window, encapsulation, 0)
        xfrm.flush_sas()
        assert xfrm.dump_sas() == []


@pytest.mark.parametrize("cipher", Cipher)
@pytest.mark.parametrize("version", [4, 6])
def test_asking_for_a_cipher_leaves_nothing(world: World, cipher: Cipher, version: int) -> None:
    with inside(world.lab.name("a")):
        others = XfrmEvents((world.xfrm["a"].port,))
    world.xfrm["a"].require_cipher(cipher, version)
    assert world.xfrm["a"].dump_sas() == []
    assert others.read() == []
    others.close()


def test_an_association_is_added_once_and_updated_only_where_an_spi_is_held(world: World) -> None:
    xfrm = world.xfrm["a"]
    with pytest.raises(NetlinkError) as refused:
        xfrm.add_sa(PLAIN, secret(), update=True)
    assert (refused.value.errno, refused.value.code) == (errno.ESRCH, "host.xfrm")
    xfrm.add_sa(PLAIN, secret(), update=False)
    with pytest.raises(NetlinkError) as refused:
        xfrm.add_sa(PLAIN, secret(b"x" * 36), update=False)
    assert (refused.value.errno, refused.value.code) == (errno.EEXIST, "host.xfrm")
    assert "x" * 8 not in str(refused.value)
    xfrm.add_sa(PLAIN, secret(b"x" * 36), update=True)
    state = xfrm.get_sa(PLAIN.id)
    assert state is not None and state.key == secret(), "the kernel keeps the key and says it went well"
    with pytest.raises(NetlinkError) as refused:
        xfrm.alloc_spi(PLAIN, PLAIN.spi, PLAIN.spi)
    assert xfrm.delete_sa(PLAIN.id) and not xfrm.delete_sa(PLAIN.id)


def test_those_of_an_ike_daemon_are_read_and_left_alone(world: World) -> None:
    xfrm = world.xfrm["a"]
    tunnel = "src 192.0.2.1 dst 192.0.2.2 mode tunnel reqid 9"
    esp = f"proto esp spi 0x500 {tunnel} enc cbc(aes) 0x{'11' * 16} auth-trunc hmac(sha256) 0x{'22' * 32} 128"
    for words in (esp, f"proto ah spi 0x501 {tunnel} auth hmac(sha256) 0x{'22' * 32}"):
        world.lab.ip("a", "xfrm", "state", "add", *words.split())
    before = world.shown("a")
    (state,) = xfrm.dump_sas()
    assert (state.id.spi, state.reqid, state.valid, state.cipher, state.key) == (0x500, 9, True, "cbc(aes)", None)
    assert xfrm.get_sa(state.id) == state
    xfrm.add_sa(PLAIN, secret(), update=False)
    assert xfrm.delete_sa(PLAIN.id)
    assert world.shown("a") == before
    xfrm.flush_sas()
    assert "proto ah spi 0x00000501" in world.shown("a"), "a flush is of ESP only"


@pytest.mark.parametrize("update", [True, False])
def test_a_device_that_cannot_encrypt_is_refused(world: World, update: bool) -> None:
    xfrm = world.xfrm["a"]
    spi = xfrm.alloc_spi(PLAIN) if update else 0x1000
    with inside(world.lab.name("a")):
        for device, number in (("under0", errno.EOPNOTSUPP), ("under9", errno.ENODEV)):
            with pytest.raises(NetlinkError) as refused:
                xfrm.add_sa(replace(PLAIN, spi=spi, offload=device), secret(), update=update)
            assert (refused.value.errno, refused.value.code) == (number, "host.xfrm")
            assert device in str(refused.value)
    assert [state for state in xfrm.dump_sas() if state.valid] == [], "nor does the kernel encrypt in its place"


# ---- packets


def connect(world: World, pair: dict[str, SecurityAssociation]) -> None:
    """Associations in both directions, by who sends, and the policies that demand them at both ends."""
    for sender, sa in pair.items():
        for side, xfrm in world.xfrm.items():
            if side == sender:
                xfrm.add_sa(sa, secret(), update=False)
            else:
                xfrm.alloc_spi(sa, sa.spi, sa.spi)
                xfrm.add_sa(sa, secret(), update=True)
            template = Template(sa.source, sa.destination, sa.reqid, sa.mode, sa.spi if side == sender else 0)
            for version in (4, 6):
                near, far = INNER[version] if sender == "a" else INNER[version][::-1]
                if sa.mode is Mode.TRANSPORT:
                    near, far = str(sa.source), str(sa.destination)
                direction = Direction.OUT if side == sender else Direction.IN
                selector = Selector(ip_network(near), ip_network(far))
                xfrm.update_policy(SecurityPolicy(direction, selector, 10, template, sa.if_id))


def pair_of(mode: Mode, cipher: Cipher, version: int, encapsulation: int = 0) -> dict[str, SecurityAssociation]:
    local, remote = ADDRESSES[version]
    there = replace(
        PLAIN, source=local, destination=remote, spi=0x2001, mode=mode, cipher=cipher, encapsulation=encapsulation
    )
    return {"a": there, "b": replace(there, source=remote, destination=local, spi=0x2002)}


@pytest.mark.parametrize("cipher", Cipher)
@pytest.mark.parametrize("mode", Mode)
@pytest.mark.parametrize("version", [4, 6])
def test_packets_pass_and_are_counted(world: World, cipher: Cipher, mode: Mode, version: int) -> None:
    pair = pair_of(mode, cipher, version)
    connect(world, pair)
    inner = (4, 6) if mode is Mode.TUNNEL else (version,)
    for at, family in enumerate(inner, 1):  # either family inside a tunnel over either
        target = INNER[family][1] if mode is Mode.TUNNEL else str(ADDRESSES[version][1])
        source = INNER[family][0] if mode is Mode.TUNNEL else str(ADDRESSES[version][0])
        world.lab.run("a", "ping", "-q", "-c", "3", "-i", "0.05", "-W", "2", "-I", source, target)
        for side in "ab":
            for sa in pair.values():
                state = world.xfrm[side].get_sa(sa.id)
                assert state is not None and state.packets >= 3 * at and state.bytes > 0
    assert world.errors("b", "XfrmInStateProtoError") == 0


@pytest.mark.parametrize("cipher", Cipher)
def test_packets_pass_in_udp(world: World, cipher: Cipher) -> None:
    pair = pair_of(Mode.TUNNEL, cipher, 4, encapsulation=4500)
    connect(world, pair)
    holders = []
    for side in "ab":
        with inside(world.lab.name(side)):
            holder = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            holder.bind(("0.0.0.0", 4500))
            holder.setsockopt(socket.IPPROTO_UDP, UDP_ENCAP, UDP_ENCAP_ESPINUDP)
            holders.append(holder)
    world.lab.run("a", "ping", "-q", "-c", "3", "-i", "0.05", "-W", "2", "-I", INNER[4][0], INNER[4][1])
    state = world.xfrm["b"].get_sa(pair["a"].id)
    assert state is not None and state.packets == 3
    for holder in holders:
        holder.close()


def test_packets_pass_by_an_interface_of_the_same_number(world: World) -> None:
    pair = {side: replace(sa, if_id=7) for side, sa in pair_of(Mode.TUNNEL, Cipher.AES_256_GCM, 4).items()}
    connect(world, pair)
    for side, far in (("a", INNER[4][1]), ("b", INNER[4][0])):
        world.lab.ip(side, "link", "add", "ipsec0", "type", "xfrm", "if_id", "7")
        world.lab.ip(side, "link", "set", "ipsec0", "up")
        near = INNER[4][0 if side == "a" else 1]
        world.lab.ip(side, "route", "replace", f"{far}/32", "dev", "ipsec0", "src", near)
    world.lab.run("a", "ping", "-q", "-c", "3", "-i", "0.05", "-W", "2", "-I", INNER[4][0], INNER[4][1])
    state = world.xfrm["b"].get_sa(pair["a"].id)
    assert state is not None and (state.packets, state.if_id) == (3, 7)
    for side in "ab":
        world.lab.ip(side, "link", "delete", "ipsec0")
        world.route(side, 4)


# ---- extended sequence numbers and the window

REFUSED = ("XfrmInStateSeqError", "XfrmInStateProtoError")
"""With ESN a number below the window is one of the next 2^32: it fails authentication instead."""


def capture(world: World, count: int) -> list[bytes]:
    """Frames with ESP that `a` sends, numbers 1 to `count`; `b` has no association yet and drops them."""
    with inside(world.lab.name("a")):
        tap = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
        tap.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8 << 20)
        tap.bind(("under0", 3))
        sender = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sender.bind((INNER[4][0], 0))
    frames: dict[int, bytes] = {}
    tap.settimeout(5)
    for number in range(1, count + 1):
        sender.sendto(b"x", (INNER[4][1], 9))
        while number not in frames:
            frame = tap.recv(2048)
            if frame[12:14] == b"\x08\x00" and frame[23] == socket.IPPROTO_ESP:
                frames[struct.unpack_from("!I", frame, 38)[0]] = frame
    tap.close()
    sender.close()
    assert sorted(frames) == list(range(1, count + 1)), "numbers begin at 1 and go up by 1"
    return [b"", *(frames[number] for number in sorted(frames))]


@pytest.mark.parametrize("window", [32, 256])
def test_the_window_takes_late_packets_and_each_once(world: World, window: int) -> None:
    sa = replace(pair_of(Mode.TUNNEL, Cipher.AES_256_GCM, 4)["a"], replay_window=window)
    template = Template(sa.source, sa.destination, REQID, Mode.TUNNEL, sa.spi)
    selector = Selector(ip_network(INNER[4][0]), ip_network(INNER[4][1]))
    world.xfrm["a"].add_sa(sa, secret(), update=False)
    world.xfrm["a"].add_policy(SecurityPolicy(Direction.OUT, selector, 10, template))
    last = window + 40
    frames = capture(world, last)
    receiver = world.xfrm["b"]
    receiver.alloc_spi(sa, sa.spi, sa.spi)
    receiver.add_sa(sa, secret(), update=True)
    with inside(world.lab.name("a")):
        wire = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
        wire.bind(("under0", ETH_P_IP))

    def taken(number: int) -> bool:
        before = receiver.get_sa(sa.id)
        refused = sum(world.errors("b", name) for name in REFUSED)
        wire.send(frames[number])
        deadline = time.monotonic() + 3
        while time.monotonic() < deadline:
            after = receiver.get_sa(sa.id)
            assert before is not None and after is not None
            if after.packets == before.packets + 1:
                return True
            if sum(world.errors("b", name) for name in REFUSED) == refused + 1:
                return False
        raise AssertionError("neither taken nor refused")

    oldest = last - window + 1
    expected = [(last, True), (last, False), (oldest, True), (oldest, False), (oldest - 1, False), (last - 1, True)]
    expected += [(1, False), (oldest + 1, True), (oldest + 1, False)]
    assert [(number, taken(number)) for number, _ in expected] == expected
    late = range(oldest + 2, oldest + 9)
    assert [(taken(number), taken(number)) for number in late] == [(True, False)] * len(late)
    wire.close()


# ---- lifetimes and notices


def wait_for(events: XfrmEvents, seconds: float = 3) -> list[Event]:
    """The first news; notices of the socket's own changes wake its reader too, and are none."""
    deadline = time.monotonic() + seconds
    while not (found := events.read()) and (left := deadline - time.monotonic()) > 0:
        select.select([events], [], [], left)
    return found


def test_a_hard_lifetime_ends_it_and_is_told(world: World) -> None:
    with inside(world.lab.name("a")):
        events = XfrmEvents((world.xfrm["a"].port,))
    began = time.monotonic()
    world.xfrm["a"].add_sa(replace(PLAIN, hard_expiry_s=2), secret(), update=False)
    assert world.xfrm["a"].get_sa(PLAIN.id) is not None
    assert wait_for(events, 6) == [SaExpired(PLAIN.id, REQID, hard=True)]
    passed = time.monotonic() - began
    assert world.xfrm["a"].get_sa(PLAIN.id) is None
    print(f"a lifetime of 2 s ended after {passed:.2f} s")
    assert 1 <= passed <= 3.5, "whole seconds of the wall clock"
    events.close()


def test_changes_are_told_and_keys_are_wiped(world: World) -> None:
    xfrm = world.xfrm["a"]
    with inside(world.lab.name("a")):
        everything, others = XfrmEvents(), XfrmEvents((xfrm.port,))
    xfrm.add_sa(PLAIN, secret(), update=False)
    inbound = replace(PLAIN, spi=xfrm.alloc_spi(PLAIN))
    xfrm.add_sa(inbound, secret(), update=True)
    xfrm.delete_sa(PLAIN.id)
    assert wait_for(everything) == [
        SaChanged(PLAIN.id, False, REQID),
        SaChanged(inbound.id, False, REQID),
        SaChanged(PLAIN.id, True, REQID),
    ]
    assert others.read() == []
    words = f"src {inbound.source} dst {inbound.destination} proto esp spi {inbound.spi:#x}"
    world.lab.ip("a", "xfrm", "state", "delete", *words.split())
    assert wait_for(others) == [SaChanged(inbound.id, True, REQID)]
    for buffer in (others._buffer, everything._buffer, xfrm._netlink._buffer):
        with buffer.expose() as view:
            assert KEY not in bytes(view)
    everything.close()
    others.close()


def test_many_associations_are_dumped_whole(world: World) -> None:
    xfrm = world.xfrm["a"]
    for spi in range(0x1000, 0x1000 + 200):
        xfrm.add_sa(replace(PLAIN, spi=spi), secret(), update=False)
    states = xfrm.dump_sas()
    assert {state.id.spi for state in states} == set(range(0x1000, 0x1000 + 200))
    assert all(state.key is None for state in states)
    with xfrm._netlink._buffer.expose() as view:
        assert KEY not in bytes(view)
