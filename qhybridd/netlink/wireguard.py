"""WireGuard's generic netlink (linux/wireguard.h).

A dump of a device holds its private key and every peer's PSK. It is read in place, in locked memory: of the peers that
nobody asked about only the public key is looked at, and a PSK moves from the dump into a `Secret` without a copy in
between. Requests that carry a PSK are built with a hole, and the PSK is put into it in locked memory.
"""

import errno
import socket
import struct
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from ipaddress import IPv6Address, ip_address
from typing import Final

from qhybridd.errors import HostError
from qhybridd.netlink.attributes import (
    ATTRIBUTE,
    HEADER,
    NLM_F_ACK,
    NLM_F_DUMP,
    NLM_F_REQUEST,
    Attribute,
    attribute,
    malformed,
    nested,
    read_uint,
    text,
    walk,
)
from qhybridd.netlink.peers import KEY_BYTES, AllowedIp, DeviceState, PeerChange, PeerState
from qhybridd.netlink.socket import Dump, NetlinkError, NetlinkSocket
from qhybridd.secret import Secret

# ---- constants of the kernel

NETLINK_GENERIC: Final = 16
GENL_ID_CTRL: Final = 16
CTRL_CMD_GETFAMILY: Final = 3
CTRL_ATTR_FAMILY_ID: Final = 1
CTRL_ATTR_FAMILY_NAME: Final = 2
GENL_HEADER: Final = struct.Struct("=BBH")
"""struct genlmsghdr: command, version, reserved."""

WG_FAMILY: Final = "wireguard"
WG_VERSION: Final = 1
WG_CMD_GET_DEVICE: Final = 0
WG_CMD_SET_DEVICE: Final = 1

DEVICE_IFNAME: Final = 2
DEVICE_PUBLIC_KEY: Final = 4
DEVICE_PEERS: Final = 8
PEER_PUBLIC_KEY: Final = 1
PEER_PSK: Final = 2
PEER_FLAGS: Final = 3
PEER_ENDPOINT: Final = 4
PEER_KEEPALIVE: Final = 5
PEER_LAST_HANDSHAKE: Final = 6
PEER_RX_BYTES: Final = 7
PEER_TX_BYTES: Final = 8
PEER_ALLOWED_IPS: Final = 9
ALLOWED_FAMILY: Final = 1
ALLOWED_ADDRESS: Final = 2
ALLOWED_MASK: Final = 3
PEER_F_REMOVE_ME: Final = 1
PEER_F_REPLACE_ALLOWED_IPS: Final = 2
PEER_F_UPDATE_ONLY: Final = 4

TIMESPEC: Final = struct.Struct("=qq")
SOCKADDR_IN: Final = struct.Struct("=H2s4s8x")
SOCKADDR_IN6: Final = struct.Struct("=H2s4s16sI")

# ---- constants of ours

MAX_ALLOWED_IPS: Final = 1024
"""Allowed IPs in one request: the list is one attribute of at most 64 KiB, and one takes up to 44 bytes."""
MAX_REQUEST_BYTES: Final = 48_000
"""Peers in one request: the same bound for the list of peers."""


# ---- endpoints


def parse_endpoint(endpoint: str) -> tuple[bytes, int, int]:
    """Address (4 or 16 bytes), port and scope of an endpoint. Raises `HostError` (host.netlink)."""
    host, _, port = endpoint.rpartition(":")
    try:
        address = ip_address(host.removeprefix("[").removesuffix("]"))
        scope = 0
        if isinstance(address, IPv6Address) and address.scope_id:
            scope = _scope_number(address.scope_id)
        number = int(port)
    except (ValueError, OSError):
        raise HostError("host.netlink", f"{endpoint!r} is not an endpoint") from None
    if not 0 <= number < 1 << 16:
        raise HostError("host.netlink", f"{endpoint!r} has no such port")
    return address.packed, number, scope


def _scope_number(scope: str) -> int:
    number = int(scope) if scope.isascii() and scope.isdecimal() else socket.if_nametoindex(scope)
    if not 0 <= number < 1 << 32:
        raise ValueError(scope)
    return number


def pack_endpoint(endpoint: str) -> bytes:
    """The endpoint as a socket address."""
    address, port, scope = parse_endpoint(endpoint)
    if len(address) == 4:
        return SOCKADDR_IN.pack(socket.AF_INET, port.to_bytes(2, "big"), address)
    return SOCKADDR_IN6.pack(socket.AF_INET6, port.to_bytes(2, "big"), bytes(4), address, scope)


def read_endpoint(view: memoryview, item: Attribute) -> str:
    """The text of a socket address."""
    size = item.end - item.start
    family = int.from_bytes(view[item.start : item.start + 2], "little" if _LITTLE else "big") if size >= 2 else 0
    if family == socket.AF_INET and size >= SOCKADDR_IN.size:
        _, port, address = SOCKADDR_IN.unpack_from(view, item.start)
        return f"{ip_address(address)}:{int.from_bytes(port, 'big')}"
    if family == socket.AF_INET6 and size >= SOCKADDR_IN6.size:
        _, port, _, address, scope = SOCKADDR_IN6.unpack_from(view, item.start)
        zone = f"%{scope}" if scope else ""
        return f"[{IPv6Address(address)}{zone}]:{int.from_bytes(port, 'big')}"
    raise malformed(f"an endpoint of family {family} in {size} bytes")


_LITTLE: Final = struct.pack("=H", 1) == b"\x01\x00"

# ---- reading


def parse_device(dump: Dump, wanted: Collection[bytes]) -> DeviceState:
    """The device's public key and the peers of `wanted`. Raises `HostError` for bytes that make no sense."""
    public_key = b""
    peers: dict[bytes, PeerState] = {}
    for item in dump.messages:
        for entry in walk(dump.view, item.start + GENL_HEADER.size, item.end):
            if entry.kind == DEVICE_PUBLIC_KEY:
                public_key = _read_key(dump.view, entry)
            elif entry.kind == DEVICE_PEERS:
                for key, start, end in _find_peers(dump.view, entry):
                    if key in wanted:
                        state = _parse_peer(dump.view, key, start, end, peers.get(key))
                        peers[key] = state
    return DeviceState(public_key, peers)


def _read_key(view: memoryview, item: Attribute) -> bytes:
    if item.end - item.start != KEY_BYTES:
        raise malformed("a public key that has not 32 bytes")
    return bytes(view[item.start : item.end])


def _find_peers(view: memoryview, peers: Attribute) -> Iterator[tuple[bytes, int, int]]:
    """Public key and place of each peer. The kernel puts the key first, which saves a walk for each of a thousand."""
    for peer in walk(view, peers.start, peers.end):
        start = peer.start + ATTRIBUTE.size
        if peer.end - start >= KEY_BYTES and ATTRIBUTE.unpack_from(view, peer.start) == _KEY_FIRST:
            yield bytes(view[start : start + KEY_BYTES]), peer.start, peer.end
            continue
        for entry in walk(view, peer.start, peer.end):
            if entry.kind == PEER_PUBLIC_KEY:
                yield _read_key(view, entry), peer.start, peer.end


_KEY_FIRST: Final = (ATTRIBUTE.size + KEY_BYTES, PEER_PUBLIC_KEY)


def _parse_peer(view: memoryview, key: bytes, start: int, end: int, before: PeerState | None) -> PeerState:
    """One peer. A peer with many allowed IPs goes on in the next message, with its key and the rest of them only."""
    psk = before.psk if before else Secret(KEY_BYTES)
    endpoint = before.endpoint if before else ""
    keepalive_s = before.keepalive_s if before else 0
    last_handshake_ns = before.last_handshake_ns if before else 0
    rx_bytes = before.rx_bytes if before else 0
    tx_bytes = before.tx_bytes if before else 0
    allowed_ips = list(before.allowed_ips) if before else []
    for item in walk(view, start, end):
        if item.kind == PEER_PSK:
            if item.end - item.start != KEY_BYTES:
                raise malformed("a PSK that has not 32 bytes")
            with psk.expose() as place:
                place[:] = view[item.start : item.end]
        elif item.kind == PEER_ENDPOINT:
            endpoint = read_endpoint(view, item)
        elif item.kind == PEER_KEEPALIVE:
            keepalive_s = read_uint(view, item, 2)
        elif item.kind == PEER_LAST_HANDSHAKE:
            last_handshake_ns = _read_time(view, item)
        elif item.kind == PEER_RX_BYTES:
            rx_bytes = read_uint(view, item, 8)
        elif item.kind == PEER_TX_BYTES:
            tx_bytes = read_uint(view, item, 8)
        elif item.kind == PEER_ALLOWED_IPS:
            allowed_ips += [_read_allowed_ip(view, entry) for entry in walk(view, item.start, item.end)]
    return PeerState(key, psk, endpoint, keepalive_s, last_handshake_ns, rx_bytes, tx_bytes, tuple(allowed_ips))


def _read_time(view: memoryview, item: Attribute) -> int:
    if item.end - item.start != TIMESPEC.size:
        raise malformed("a time that has not 16 bytes")
    seconds, nanoseconds = TIMESPEC.unpack_from(view, item.start)
    return int(seconds) * 1_000_000_000 + int(nanoseconds)


def _read_allowed_ip(view: memoryview, item: Attribute) -> AllowedIp:
    address, prefix = b"", 0
    for entry in walk(view, item.start, item.end):
        if entry.kind == ALLOWED_ADDRESS:
            address = bytes(view[entry.start : entry.end])
        elif entry.kind == ALLOWED_MASK:
            prefix = read_uint(view, entry, 1)
    if len(address) not in (4, 16) or prefix > 8 * len(address):
        raise malformed(f"an allowed IP of {len(address)} bytes with prefix {prefix}")
    return AllowedIp(address, prefix)


# ---- writing


@dataclass(frozen=True, slots=True)
class _Built:
    """Bytes with holes: where which PSK is still to be put."""

    data: bytes
    holes: tuple[tuple[int, Secret], ...]


def _build_peer(change: PeerChange) -> _Built:
    """The attributes of one peer. The PSK's hole comes right after the public key."""
    parts = [attribute(PEER_PUBLIC_KEY, change.public_key)]
    if change.remove:
        flags = PEER_F_REMOVE_ME
        return _Built(nested(0, *parts, attribute(PEER_FLAGS, struct.pack("=I", flags))), ())
    holes: tuple[tuple[int, Secret], ...] = ()
    if change.psk is not None:
        holes = ((ATTRIBUTE.size + len(parts[0]) + ATTRIBUTE.size, change.psk),)
        parts.append(attribute(PEER_PSK, bytes(KEY_BYTES)))
    flags = 0 if change.create else PEER_F_UPDATE_ONLY
    if change.allowed_ips is not None:
        flags |= PEER_F_REPLACE_ALLOWED_IPS
        parts.append(_build_allowed_ips(change.allowed_ips[:MAX_ALLOWED_IPS]))
    if change.endpoint:
        parts.append(attribute(PEER_ENDPOINT, pack_endpoint(change.endpoint)))
    if change.keepalive_s is not None:
        parts.append(attribute(PEER_KEEPALIVE, struct.pack("=H", change.keepalive_s)))
    parts.append(attribute(PEER_FLAGS, struct.pack("=I", flags)))
    return _Built(nested(0, *parts), holes)


def _build_allowed_ips(allowed_ips: Sequence[AllowedIp]) -> bytes:
    return nested(PEER_ALLOWED_IPS, *(_build_allowed_ip(entry) for entry in allowed_ips))


def _build_allowed_ip(entry: AllowedIp) -> bytes:
    family = socket.AF_INET if len(entry.address) == 4 else socket.AF_INET6
    return nested(
        0,
        attribute(ALLOWED_FAMILY, struct.pack("=H", family)),
        attribute(ALLOWED_ADDRESS, entry.address),
        attribute(ALLOWED_MASK, bytes((entry.prefix,))),
    )


def _further_allowed_ips(change: PeerChange) -> Iterator[_Built]:
    """What of the allowed IPs did not fit with the peer: more of them, without replacing."""
    allowed_ips = change.allowed_ips or ()
    for at in range(MAX_ALLOWED_IPS, len(allowed_ips), MAX_ALLOWED_IPS):
        flags = attribute(PEER_FLAGS, struct.pack("=I", PEER_F_UPDATE_ONLY))
        more = _build_allowed_ips(allowed_ips[at : at + MAX_ALLOWED_IPS])
        yield _Built(nested(0, attribute(PEER_PUBLIC_KEY, change.public_key), flags, more), ())


def build_requests(interface: str, changes: Sequence[PeerChange]) -> list[_Built]:
    """The payloads of as few requests as hold all changes, in order; changes to one peer may share one."""
    peers: list[_Built] = []
    for change in changes:
        peers += [_build_peer(change), *_further_allowed_ips(change)]
    head = GENL_HEADER.pack(WG_CMD_SET_DEVICE, WG_VERSION, 0) + text(DEVICE_IFNAME, interface)
    requests: list[_Built] = []
    group: list[_Built] = []
    size = 0
    for peer in peers:
        if group and size + len(peer.data) > MAX_REQUEST_BYTES:
            requests.append(_join(head, group))
            group, size = [], 0
        group.append(peer)
        size += len(peer.data)
    if group:
        requests.append(_join(head, group))
    return requests


def _join(head: bytes, peers: Sequence[_Built]) -> _Built:
    holes: list[tuple[int, Secret]] = []
    at = len(head) + ATTRIBUTE.size
    for peer in peers:
        holes += [(at + offset, psk) for offset, psk in peer.holes]
        at += len(peer.data)
    return _Built(head + nested(DEVICE_PEERS, *(peer.data for peer in peers)), tuple(holes))


class KernelDevice:
    """One WireGuard device of the kernel. Blocking; called from one thread."""

    def __init__(self, interface: str) -> None:
        """Raises `HostError` where the kernel has no generic netlink."""
        self._interface = interface
        self._netlink = NetlinkSocket(NETLINK_GENERIC)
        self._family = 0

    def close(self) -> None:
        """Close the socket."""
        self._netlink.close()

    def read(self, wanted: Collection[bytes]) -> DeviceState:
        """Dump the device and pick the peers of `wanted`. Raises `HostError`: host.no-device, host.netlink."""
        payload = GENL_HEADER.pack(WG_CMD_GET_DEVICE, WG_VERSION, 0) + text(DEVICE_IFNAME, self._interface)
        try:
            with self._netlink.dump(self._resolve(), payload, f"reading {self._interface}", flags=NLM_F_DUMP) as dump:
                return parse_device(dump, wanted)
        except NetlinkError as error:
            raise self._explain(error) from None

    def write(self, changes: Sequence[PeerChange]) -> None:
        """Carry out the changes in order. Raises `HostError`; then those before the refused one were carried out."""
        family = self._resolve()
        for request in build_requests(self._interface, changes):
            sequence = self._netlink.next_sequence()
            size = HEADER.size + len(request.data)
            message = Secret(size)
            with message.expose() as view:
                HEADER.pack_into(view, 0, size, family, NLM_F_REQUEST | NLM_F_ACK, sequence, 0)
                view[HEADER.size :] = request.data
                for offset, psk in request.holes:
                    with psk.expose() as key:
                        view[HEADER.size + offset : HEADER.size + offset + KEY_BYTES] = key
                try:
                    self._netlink.acknowledged(view, sequence, f"changing {self._interface}")
                except NetlinkError as error:
                    raise self._explain(error) from None
                finally:
                    message.wipe()

    def _resolve(self) -> int:
        """The number of the WireGuard family; asking for it loads the kernel module."""
        if self._family:
            return self._family
        payload = GENL_HEADER.pack(CTRL_CMD_GETFAMILY, 1, 0) + text(CTRL_ATTR_FAMILY_NAME, WG_FAMILY)
        try:
            with self._netlink.dump(GENL_ID_CTRL, payload, "looking for WireGuard in the kernel", flags=0) as answer:
                for item in answer.messages:
                    for entry in walk(answer.view, item.start + GENL_HEADER.size, item.end):
                        if entry.kind == CTRL_ATTR_FAMILY_ID:
                            self._family = read_uint(answer.view, entry, 2)
        except NetlinkError as error:
            raise self._explain(error) from None
        if not self._family:
            raise HostError("host.netlink", "the kernel names WireGuard without a number")
        return self._family

    def _explain(self, error: NetlinkError) -> HostError:
        if error.errno == errno.ENOENT and not self._family:
            return HostError(
                "host.no-device",
                f"{self._interface}: no WireGuard in the kernel, and no userspace WireGuard has a device of that name",
            )
        if error.errno in (errno.ENODEV, errno.EOPNOTSUPP):
            return HostError("host.no-device", f"{self._interface} is not a WireGuard device")
        return error
