"""The text protocol of a userspace WireGuard (wireguard.com/xplatform, `/var/run/wireguard/<interface>.sock`).

The same rules as for the kernel: an answer is read into locked memory and searched in place, and a PSK goes between its
hex form and a `Secret` digit by digit, so that no `bytes` or `str` ever holds one.
"""

import errno
import os
import re
import socket
import stat
from collections.abc import Collection, Sequence
from ipaddress import ip_network
from pathlib import Path
from typing import Final

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from qhybridd.errors import HostError
from qhybridd.netlink.peers import KEY_BYTES, AllowedIp, DeviceState, PeerChange, PeerState
from qhybridd.secret import MAX_SECRET_BYTES, Secret

SOCKET_FOLDER: Final = Path("/var/run/wireguard")
TIMEOUT_S: Final = 5.0
"""wireguard-go answers within milliseconds; a stopped one must not stop us."""
FIRST_BUFFER_BYTES: Final = 1 << 18
MAX_NUMBER_DIGITS: Final = 20
"""2⁶⁴ has 20 digits."""

_PEER: Final = re.compile(rb"^public_key=([0-9a-f]{64})\n", re.MULTILINE)
_LINE: Final = re.compile(rb"([a-z_]{1,64})=([^\n]*)\n")
_PRIVATE: Final = re.compile(rb"^private_key=([0-9a-f]{64})\n", re.MULTILINE)
_END: Final = re.compile(rb"(?:^|\n)errno=(-?[0-9]{1,9})\n\n\Z")
_HEX: Final = b"0123456789abcdef"
_DIGIT: Final = {digit: value for value, digit in enumerate(_HEX)} | {
    digit: value for value, digit in enumerate(b"0123456789ABCDEF")
}


def socket_path(interface: str) -> Path:
    """Where a userspace WireGuard of that name listens."""
    return SOCKET_FOLDER / f"{interface}.sock"


def malformed(what: str) -> HostError:
    """The error for an answer that no userspace WireGuard gives."""
    return HostError("host.uapi", f"malformed answer of the userspace WireGuard: {what}")


def connect(interface: str) -> socket.socket | None:
    """A connection to the userspace WireGuard of that name; None where there is none.

    Raises `HostError` (host.uapi) where the socket belongs to another user: PSKs are not for them.
    """
    path = socket_path(interface)
    try:
        found = path.lstat()
    except OSError:
        return None
    if not stat.S_ISSOCK(found.st_mode):
        return None
    if found.st_uid not in (0, os.geteuid()):
        raise HostError("host.uapi", f"{path} belongs to user {found.st_uid}: neither root nor this one")
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    connection.settimeout(TIMEOUT_S)
    try:
        connection.connect(str(path))
    except (ConnectionRefusedError, FileNotFoundError):
        connection.close()
        return None  # left behind by a process that is gone
    except OSError as error:
        connection.close()
        raise HostError("host.uapi", f"{path}: {error.strerror or error}") from None
    return connection


# ---- reading


def decode_key(view: memoryview, start: int, into: memoryview) -> None:
    """64 hex digits from `start` on, into 32 bytes, without a copy in between."""
    for at in range(KEY_BYTES):
        high, low = _DIGIT.get(view[start + 2 * at]), _DIGIT.get(view[start + 2 * at + 1])
        if high is None or low is None:
            raise malformed("a key that is not hex")
        into[at] = high << 4 | low


def encode_key(key: memoryview, into: memoryview, start: int) -> None:
    """32 bytes as 64 hex digits from `start` on, without a copy in between."""
    for at in range(KEY_BYTES):
        into[start + 2 * at] = _HEX[key[at] >> 4]
        into[start + 2 * at + 1] = _HEX[key[at] & 15]


def parse_device(view: memoryview, wanted: Collection[bytes]) -> DeviceState:
    """The device's public key and the peers of `wanted`, of a whole answer without its `errno=0`.

    Raises `HostError` (host.uapi) for an answer that makes no sense.
    """
    peers: dict[bytes, PeerState] = {}
    places = [(match[1], match.start(), match.end()) for match in _PEER.finditer(view)]
    names = {key.hex().encode(): key for key in wanted}
    for index, (name, _, start) in enumerate(places):
        key = names.get(name)
        if key is not None:
            end = places[index + 1][1] if index + 1 < len(places) else len(view)
            peers[key] = _parse_peer(view, key, start, end)
    return DeviceState(_public_key(view), peers)


def _public_key(view: memoryview) -> bytes:
    """The protocol tells only the private key."""
    match = _PRIVATE.search(view)
    if match is None:
        return b""
    private = Secret(KEY_BYTES)
    with private.expose() as key:
        decode_key(view, match.start(1), key)
        if private.is_zero:
            return b""
        return X25519PrivateKey.from_private_bytes(key).public_key().public_bytes_raw()


def _parse_peer(view: memoryview, key: bytes, start: int, end: int) -> PeerState:
    psk = Secret(KEY_BYTES)
    endpoint, allowed_ips = "", []
    numbers = {
        b"persistent_keepalive_interval": 0,
        b"last_handshake_time_sec": 0,
        b"last_handshake_time_nsec": 0,
        b"rx_bytes": 0,
        b"tx_bytes": 0,
    }
    at = start
    while at < end:
        match = _LINE.match(view, at, end)
        if match is None:
            raise malformed("a line that is not key=value")
        name = match[1]
        if name == b"preshared_key":
            if match.end(2) - match.start(2) != 2 * KEY_BYTES:
                raise malformed("a PSK that has not 64 digits")
            with psk.expose() as place:
                decode_key(view, match.start(2), place)
        elif name == b"endpoint":
            endpoint = match[2].decode("ascii", "replace")
        elif name == b"allowed_ip":
            allowed_ips.append(_parse_allowed_ip(match[2]))
        elif name == b"public_key":
            raise malformed("a public key that has not 64 digits")
        elif name in numbers:
            numbers[name] = _parse_number(match[2])
        at = match.end()
    return PeerState(
        public_key=key,
        psk=psk,
        endpoint=endpoint,
        keepalive_s=numbers[b"persistent_keepalive_interval"],
        last_handshake_ns=numbers[b"last_handshake_time_sec"] * 1_000_000_000 + numbers[b"last_handshake_time_nsec"],
        rx_bytes=numbers[b"rx_bytes"],
        tx_bytes=numbers[b"tx_bytes"],
        allowed_ips=tuple(allowed_ips),
    )


def _parse_number(raw: bytes) -> int:
    if not raw.isdigit() or len(raw) > MAX_NUMBER_DIGITS:
        raise malformed("a number that is none")
    return int(raw)


def _parse_allowed_ip(raw: bytes) -> AllowedIp:
    try:
        network = ip_network(raw.decode("ascii"))
    except ValueError:
        raise malformed("an allowed IP that is no prefix") from None
    return AllowedIp(network.network_address.packed, network.prefixlen)


# ---- writing


def build_set(changes: Sequence[PeerChange]) -> tuple[bytes, list[tuple[int, Secret]]]:
    """The text of a `set` operation, and where in it which PSK's hex form is still to be put."""
    parts: list[bytes] = [b"set=1\n"]
    holes: list[tuple[int, Secret]] = []
    for change in changes:
        lines = [b"public_key=" + change.public_key.hex().encode()]
        if change.remove:
            lines.append(b"remove=true")
        else:
            if not change.create:
                lines.append(b"update_only=true")
            if change.psk is not None:
                before = sum(map(len, parts)) + sum(len(line) + 1 for line in lines)
                holes.append((before + len(b"preshared_key="), change.psk))
                lines.append(b"preshared_key=" + bytes(2 * KEY_BYTES))
            if change.endpoint:
                lines.append(b"endpoint=" + change.endpoint.encode())
            if change.keepalive_s is not None:
                lines.append(b"persistent_keepalive_interval=%d" % change.keepalive_s)
            if change.allowed_ips is not None:
                lines.append(b"replace_allowed_ips=true")
                lines += [b"allowed_ip=" + str(entry).encode() for entry in change.allowed_ips]
        parts.append(b"\n".join(lines) + b"\n")
    parts.append(b"\n")
    return b"".join(parts), holes


class UserspaceDevice:
    """One device of a userspace WireGuard. Blocking; called from one thread."""

    def __init__(self, interface: str) -> None:
        """Nothing is opened yet: each operation has a connection of its own."""
        self._interface = interface
        self._buffer = Secret(FIRST_BUFFER_BYTES)

    def close(self) -> None:
        """Wipe the buffer."""
        self._buffer.wipe()

    def read(self, wanted: Collection[bytes]) -> DeviceState:
        """Dump the device and pick the peers of `wanted`. Raises `HostError`: host.no-device, host.uapi."""
        try:
            with self._connection() as connection:
                connection.sendall(b"get=1\n\n")
                size = self._receive(connection)
            with self._buffer.expose() as view, view[:size] as used:
                return parse_device(used, wanted)
        except OSError as error:
            raise self._failed(error) from None
        finally:
            self._buffer.wipe()

    def write(self, changes: Sequence[PeerChange]) -> None:
        """Carry out the changes in order. Raises `HostError`; then those before the refused one were carried out."""
        text, holes = build_set(changes)
        message = Secret(len(text))
        try:
            with message.expose() as view:
                view[:] = text
                for offset, psk in holes:
                    with psk.expose() as key:
                        encode_key(key, view, offset)
                with self._connection() as connection:
                    connection.sendall(view)
                    self._receive(connection)
        except OSError as error:
            raise self._failed(error) from None
        finally:
            message.wipe()
            self._buffer.wipe()

    def _connection(self) -> socket.socket:
        connection = connect(self._interface)
        if connection is None:
            raise HostError("host.no-device", f"no userspace WireGuard has a device {self._interface}")
        return connection

    def _receive(self, connection: socket.socket) -> int:
        """Read a whole answer; its size without the `errno=0`. Raises `HostError` for any other errno."""
        used = 0
        while True:
            if used == len(self._buffer):
                self._grow()
            with self._buffer.expose() as view, view[used:] as free:
                size = connection.recv_into(free)
            if not size:
                raise malformed("it ends too early")
            used += size
            with self._buffer.expose() as view, view[max(0, used - 32) : used] as tail:
                end = _END.search(tail)
                if end is None:
                    continue
                number = abs(int(end[1]))
                length = max(0, used - 32) + end.start(1) - len(b"errno=")
                del end
            if number:
                name = errno.errorcode.get(number, str(number))
                raise HostError("host.uapi", f"{self._interface}: the userspace WireGuard refused ({name})")
            return length

    def _grow(self) -> None:
        if 2 * len(self._buffer) > MAX_SECRET_BYTES:
            raise malformed(f"it is longer than {MAX_SECRET_BYTES >> 20} MiB")
        larger = Secret(2 * len(self._buffer))
        with self._buffer.expose() as old, larger.expose() as new:
            new[: len(old)] = old
        self._buffer.wipe()
        self._buffer = larger

    def _failed(self, error: OSError) -> HostError:
        reason = f"no answer within {TIMEOUT_S:.0f} s" if isinstance(error, TimeoutError) else error.strerror or error
        return HostError("host.uapi", f"{self._interface}: {reason}")
