"""The WireGuard target against wireguard-go and the kernel: two gateways in namespaces, a cable between them."""

import asyncio
import base64
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Collection, Coroutine, Iterator, Sequence
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from qhybridd.crypto import kdf
from qhybridd.errors import HostError
from qhybridd.netlink.peers import AllowedIp, DeviceState, PeerChange, set_psk
from qhybridd.protocol.actions import EpochKeys
from qhybridd.secret import Secret
from qhybridd.targets.device import Device, Devices
from qhybridd.targets.uapi import socket_path
from qhybridd.targets.wireguard import WireGuardTarget
from tests.netns.namespaces import Lab, inside

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="makes network namespaces: needs root"),
]

PORT = 51820


def keys(epoch: int) -> EpochKeys:
    psk = Secret.adopt(bytearray(os.urandom(32)))
    return EpochKeys(epoch, psk, Secret(36), Secret(36), kdf.key_tag(psk))


def copy(source: EpochKeys) -> EpochKeys:
    with source.psk.expose() as view:
        psk = Secret.adopt(bytes(view))
    return EpochKeys(source.epoch, psk, Secret(36), Secret(36), source.tag)


def text(key: bytes) -> str:
    return base64.b64encode(key).decode()


class Gateway:
    """One end: a namespace with a WireGuard device in it, the kernel's or wireguard-go's."""

    def __init__(self, lab: Lab, short: str, address: str, inner: str, kind: str) -> None:
        self.lab, self.short, self.address, self.inner = lab, short, address, inner
        self.interface = lab.name(short)
        private = X25519PrivateKey.generate()
        self.public = private.public_key().public_bytes_raw()
        if kind == "kernel":
            lab.ip(short, "link", "add", self.interface, "type", "wireguard")
        else:
            lab.start(short, "wireguard-go", "-f", self.interface)
            deadline = time.monotonic() + 5
            while not socket_path(self.interface).exists():
                assert time.monotonic() < deadline, "wireguard-go did not start"
                time.sleep(0.02)
        self.wg("set", "listen-port", str(PORT), "private-key", "/dev/stdin", given=text(private.private_bytes_raw()))
        lab.ip(short, "address", "add", f"{inner}/24", "dev", self.interface)
        lab.ip(short, "link", "set", self.interface, "up")
        with inside(lab.name(short)):
            self.devices = Devices()
            self.device = self.devices.find(self.interface)
            self.devices.find(f"{self.interface}x")  # there is none of that name

    def wg(self, verb: str, *words: str, given: str = "") -> str:
        command = ["ip", "netns", "exec", self.lab.name(self.short), "wg", verb, self.interface, *words]
        done = subprocess.run(command, input=given, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def set_peer(self, peer: bytes, *words: str) -> None:
        self.wg("set", "peer", text(peer), *words)

    def set_foreign_psk(self, peer: bytes, psk: bytes) -> None:
        self.wg("set", "peer", text(peer), "preshared-key", "/dev/stdin", given=text(psk))

    def ping(self, other: "Gateway", count: int = 1) -> bool:
        command = ["ip", "netns", "exec", self.lab.name(self.short), "ping", "-c", str(count), "-i", "0.01", "-W", "1"]
        return subprocess.run([*command, other.inner], capture_output=True, check=False).returncode == 0


def kernel_has_wireguard() -> bool:
    with Lab() as lab:
        lab.add("k")
        add = ["ip", "-n", lab.name("k"), "link", "add", "wgk", "type", "wireguard"]
        return subprocess.run(add, capture_output=True, check=False).returncode == 0


@pytest.fixture(params=["kernel", "userspace"])
def ends(request: pytest.FixtureRequest) -> Iterator[tuple[Gateway, Gateway]]:
    kind = request.param
    if kind == "kernel" and not kernel_has_wireguard():
        pytest.skip("this kernel has no WireGuard")
    if kind == "userspace" and shutil.which("wireguard-go") is None:
        pytest.skip("wireguard-go is not installed")
    if kind == "userspace" and os.environ.get("QHYBRIDD_MACHINE") == "1":
        pytest.skip("wireguard-go is tried outside of the machine, where it is faster")
    with Lab() as lab:
        lab.add("a", "b")
        lab.veth(("a", "eth0", ("192.0.2.1/24",)), ("b", "eth0", ("192.0.2.2/24",)))
        a = Gateway(lab, "a", "192.0.2.1", "10.9.0.1", kind)
        b = Gateway(lab, "b", "192.0.2.2", "10.9.0.2", kind)
        a.set_peer(b.public, "allowed-ips", f"{b.inner}/32", "endpoint", f"{b.address}:{PORT}")
        b.set_peer(a.public, "allowed-ips", f"{a.inner}/32", "endpoint", f"{a.address}:{PORT}")
        yield a, b


def run_with(ends: tuple[Gateway, Gateway], work: Callable[[], Coroutine[Any, Any, None]]) -> None:
    async def whole() -> None:
        try:
            await work()
        finally:
            for end in ends:
                await end.devices.close()

    asyncio.run(whole())


def targets(a: Gateway, b: Gateway) -> tuple[WireGuardTarget, WireGuardTarget]:
    return WireGuardTarget(a.devices, a.interface, b.public), WireGuardTarget(b.devices, b.interface, a.public)


async def both_reset(one: WireGuardTarget, other: WireGuardTarget, key: EpochKeys) -> float:
    """Reset both ends to one key and see the handshake at both; seconds from the kick on."""
    await asyncio.gather(one.reset(key), other.reset(copy(key)))
    began = time.monotonic()
    await asyncio.wait_for(
        asyncio.gather(one.observe(key.epoch, kick=True), other.observe(key.epoch, kick=False)), timeout=5
    )
    return time.monotonic() - began


def test_reset_and_kick_bring_a_handshake_under_the_new_key(ends: tuple[Gateway, Gateway]) -> None:
    a, b = ends

    async def work() -> None:
        one, other = targets(a, b)
        reserved = await one.reserve()
        assert (reserved.offer, reserved.expected) == (a.public, b.public)
        for epoch in (1, 2):
            key = keys(epoch)
            took_s = await both_reset(one, other, key)
            print(f"handshake seen at both ends {took_s * 1000:.0f} ms after the kick")
            assert took_s < 2
            for target in (one, other):
                seen = await target.inspect()
                assert seen.tag == key.tag and seen.last_handshake_ns > 0
                assert await target.check(key.tag) is None
            assert a.ping(b) and b.ping(a)
        assert a.wg("show", "persistent-keepalive").split()[1:] == ["off"]

    run_with(ends, work)


def test_no_handshake_is_seen_when_the_keys_differ(ends: tuple[Gateway, Gateway]) -> None:
    a, b = ends

    async def work() -> None:
        one, other = targets(a, b)
        await asyncio.gather(one.reset(keys(1)), other.reset(keys(1)))
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(one.observe(1, kick=True), timeout=3)
        assert not a.ping(b)

    run_with(ends, work)


def test_activate_leaves_the_running_session_alone(ends: tuple[Gateway, Gateway]) -> None:
    a, b = ends

    async def work() -> None:
        one, other = targets(a, b)
        await both_reset(one, other, keys(1))
        before = await one.inspect()
        key = keys(2)
        pinging = asyncio.create_task(asyncio.to_thread(a.ping, b, 100))
        await asyncio.sleep(0.2)
        await one.activate(key)
        await other.activate(copy(key))
        assert await pinging
        after = await one.inspect()
        assert after.tag == key.tag and after.last_handshake_ns == before.last_handshake_ns
        with pytest.raises(TimeoutError):  # nothing proves the new key yet
            await asyncio.wait_for(one.observe(2, kick=True), timeout=2)

    run_with(ends, work)


def test_a_key_that_the_caller_wipes_meanwhile_is_written_all_the_same(ends: tuple[Gateway, Gateway]) -> None:
    a, b = ends

    async def work() -> None:
        one, _ = targets(a, b)
        key = keys(1)
        writing = asyncio.create_task(one.reset(key))
        await asyncio.sleep(0)
        writing.cancel()
        key.wipe()
        with pytest.raises(asyncio.CancelledError):
            await writing
        assert (await one.inspect()).tag == key.tag  # the change was made whole

    run_with(ends, work)


def test_an_empty_key_is_refused(ends: tuple[Gateway, Gateway]) -> None:
    a, b = ends

    async def work() -> None:
        one, _ = targets(a, b)
        key = keys(1)
        await one.activate(key)
        empty = EpochKeys(2, Secret(32), Secret(36), Secret(36), b"")
        with pytest.raises(Exception, match="not all of them zero"):
            await one.activate(empty)
        assert (await one.inspect()).tag == key.tag

    run_with(ends, work)


@pytest.mark.parametrize("verb", ["reserve", "activate", "reset", "close", "inspect"])
def test_a_peer_or_device_that_does_not_exist_is_an_error(ends: tuple[Gateway, Gateway], verb: str) -> None:
    a, b = ends

    async def work() -> None:
        stranger = os.urandom(32)
        for interface, peer, code in (
            (a.interface, stranger, "host.no-peer"),
            (f"{a.interface}x", b.public, "host.no-device"),
        ):
            target = WireGuardTarget(a.devices, interface, peer)
            arguments = (keys(1),) if verb in ("activate", "reset") else ()
            with pytest.raises(HostError) as caught:
                await getattr(target, verb)(*arguments)
            assert caught.value.code == code
            assert await target.check(b"") is not None
        assert text(stranger) not in a.wg("show", "peers")

    run_with(ends, work)


def test_what_another_program_changed_is_told(ends: tuple[Gateway, Gateway]) -> None:
    a, b = ends

    async def work() -> None:
        one, _ = targets(a, b)
        key = keys(1)
        await one.activate(key)
        assert await one.check(key.tag) is None
        a.set_foreign_psk(b.public, b"\xab" * 32)
        assert "changed" in (await one.check(key.tag) or "")
        with pytest.raises(HostError) as caught:
            await asyncio.wait_for(one.observe(1, kick=False), timeout=3)
        assert caught.value.code == "host.readback"
        a.set_foreign_psk(b.public, bytes(32))
        assert "removed" in (await one.check(key.tag) or "")
        a.set_peer(b.public, "remove")
        assert "no peer" in (await one.check(key.tag) or "")

    run_with(ends, work)


class Meddled:
    """A device to which another program writes between our write and our read."""

    def __init__(self, gateway: Gateway, peer: bytes) -> None:
        self._backend, self._gateway, self._peer, self.dumps = gateway.device._choose(), gateway, peer, 0

    def read(self, wanted: Collection[bytes]) -> DeviceState:
        self.dumps += 1
        return self._backend.read(wanted)

    def write(self, changes: Sequence[PeerChange]) -> None:
        self._backend.write(changes)
        self._gateway.set_foreign_psk(self._peer, b"\xcd" * 32)

    def close(self) -> None:
        self._backend.close()


def meddle(gateway: Gateway, peer: bytes) -> Meddled:
    meddled = Meddled(gateway, peer)
    gateway.device._choose = lambda: meddled  # type: ignore[method-assign]
    return meddled


def test_a_read_back_that_differs_is_an_error(ends: tuple[Gateway, Gateway]) -> None:
    a, b = ends

    async def work() -> None:
        one, _ = targets(a, b)
        meddle(a, b.public)
        for verb in (one.activate, one.reset):
            with pytest.raises(HostError) as caught:
                await verb(keys(1))
            assert caught.value.code == "host.readback"
        with pytest.raises(HostError):
            await one.close()

    run_with(ends, work)


def test_reset_keeps_roamed_endpoint_allowed_ips_keepalive_and_other_peers(ends: tuple[Gateway, Gateway]) -> None:
    a, b = ends

    async def work() -> None:
        one, other = targets(a, b)
        bystander = os.urandom(32)
        a.set_foreign_psk(bystander, b"\x77" * 32)
        a.set_peer(bystander, "allowed-ips", "10.50.0.0/16")
        mine = "10.9.0.2/32,10.60.0.0/16,fd60::/32"
        a.set_peer(b.public, "endpoint", f"192.0.2.99:{PORT}", "persistent-keepalive", "17", "allowed-ips", mine)
        key = keys(1)
        await asyncio.gather(one.reset(key), other.reset(copy(key)))
        await asyncio.wait_for(asyncio.gather(one.observe(1, kick=False), other.observe(1, kick=True)), timeout=5)
        roamed = await one.inspect()
        assert roamed.endpoint == f"192.0.2.2:{PORT}"
        await one.reset(key2 := keys(2))
        device = a.device
        peer = (await device.read(b.public)).peer
        assert (peer.endpoint, peer.keepalive_s) == (f"192.0.2.2:{PORT}", 17)
        expected = {AllowedIp(n.network_address.packed, n.prefixlen) for n in map(ip_network, mine.split(","))}
        assert set(peer.allowed_ips) == expected
        await other.activate(copy(key2))
        await asyncio.wait_for(one.observe(2, kick=True), timeout=20)
        kept = (await device.read(bystander)).peer
        assert kept.psk == Secret.adopt(bytes([0x77] * 32)) and len(kept.allowed_ips) == 1
        assert (await device.read(b.public)).peer.keepalive_s == 17

    run_with(ends, work)


def test_close_ends_the_session_and_lets_none_begin(ends: tuple[Gateway, Gateway]) -> None:
    a, b = ends

    async def work() -> None:
        one, other = targets(a, b)
        key = keys(1)
        await both_reset(one, other, key)
        assert a.ping(b)
        await one.close()
        assert not a.ping(b) and not b.ping(a)
        seen = await one.inspect()
        assert seen.tag not in (b"", key.tag) and seen.last_handshake_ns == 0
        await asyncio.sleep(6)  # both have tried again by now
        assert not a.ping(b)
        assert (await one.inspect()).last_handshake_ns == 0
        await both_reset(one, other, keys(2))
        assert a.ping(b)

    run_with(ends, work)


@pytest.mark.parametrize("peer_holds", ["new", "old"])
def test_straddle_finds_the_key_that_the_peer_uses(ends: tuple[Gateway, Gateway], peer_holds: str) -> None:
    a, b = ends

    async def work() -> None:
        one, other = targets(a, b)
        old, new = keys(1), keys(2)
        await one.reset(old)
        await other.reset(copy(new if peer_holds == "new" else old))
        began = time.monotonic()
        epoch = await asyncio.wait_for(one.straddle(1, new), timeout=40)
        print(f"the {peer_holds} key found after {time.monotonic() - began:.1f} s")
        assert epoch == (2 if peer_holds == "new" else 1)
        assert (await one.inspect()).tag == (new if peer_holds == "new" else old).tag
        assert a.ping(b)

    run_with(ends, work)


def test_readers_that_ask_together_share_a_dump(ends: tuple[Gateway, Gateway]) -> None:
    a, b = ends

    async def work() -> None:
        one, _ = targets(a, b)
        counted = meddle(a, b.public)
        await asyncio.gather(*(one.inspect() for _ in range(200)))
        assert counted.dumps == 1

    run_with(ends, work)


def test_a_thousand_peers(ends: tuple[Gateway, Gateway]) -> None:
    """Measured, not asserted: reading one peer, and a rotation of 500 tunnels on one device."""
    a, _b = ends
    peers = [os.urandom(32) for _ in range(1000)]
    config = "".join(
        f"[Peer]\nPublicKey={text(key)}\nPresharedKey={text(bytes([17]) * 32)}\n"
        f"AllowedIPs=10.{100 + i // 250}.{i % 250}.0/24\n"
        for i, key in enumerate(peers)
    )
    a.wg("addconf", "/dev/stdin", given=config)

    async def work() -> None:
        device = a.device
        count = 20
        began, used = time.monotonic(), time.process_time()
        for _ in range(count):
            await device.read(peers[500])
        print(
            f"one peer of 1,001 read in {(time.monotonic() - began) / count * 1000:.1f} ms, "
            f"{(time.process_time() - used) / count * 1000:.1f} ms of it ours"
        )
        some = [WireGuardTarget(a.devices, a.interface, key) for key in peers[:500]]
        fresh = [keys(1) for _ in some]
        began, used = time.monotonic(), time.process_time()
        await asyncio.gather(*(target.activate(key) for target, key in zip(some, fresh, strict=True)))
        print(
            f"500 PSKs set and read back in {(time.monotonic() - began) * 1000:.0f} ms, "
            f"{(time.process_time() - used) * 1000:.0f} ms of it ours"
        )
        found = await asyncio.gather(*(target.check(key.tag) for target, key in zip(some, fresh, strict=True)))
        assert found == [None] * 500

    run_with(ends, work)


def test_a_socket_of_another_user_is_not_spoken_to(tmp_path: Path) -> None:
    interface = f"qt{os.getpid()}z"
    path = socket_path(interface)
    path.parent.mkdir(mode=0o700, exist_ok=True)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        try:
            os.chown(path, 65534, 65534)
            listener.listen()

            async def work() -> None:
                device = Device(interface)
                psk = Secret.adopt(bytes([1] * 32))
                with pytest.raises(HostError) as caught:
                    await device.change(bytes(32), lambda before: (set_psk(before.public_key, psk),))
                assert caught.value.code == "host.uapi"
                await device.close()

            asyncio.run(work())
            listener.setblocking(False)
            with pytest.raises(BlockingIOError):
                listener.accept()
        finally:
            path.unlink()
