"""WireGuard devices for the laboratory: the kernel's where it has WireGuard, else wireguard-go.

Their private keys live as long as a laboratory does and key nothing else; still none is ever in an argv.
"""

import base64
import errno
import shutil
import socket
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from pyroute2 import WireGuard
from pyroute2.netlink.exceptions import NetlinkError

from qhybridd.apps.namespaces import Child, Namespace
from qhybridd.errors import HostError

UAPI_DIRECTORY: Final = Path("/var/run/wireguard")
"""Where wireguard-go puts its sockets. All namespaces share it, so interface names are unique on the host."""
MTU: Final = 1420
START_S: Final = 10.0


@dataclass(frozen=True, slots=True)
class WireGuardPeer:
    """The other end as a device is told of it."""

    public: bytes
    endpoint: tuple[str, int]
    allowed: tuple[str, ...]


@dataclass(slots=True)
class Device:
    """One WireGuard device in a namespace: `make`, `configure`, `remove`."""

    namespace: Namespace
    name: str
    """At most 15 characters (IFNAMSIZ), unique on the host."""
    port: int
    private: X25519PrivateKey = field(default_factory=X25519PrivateKey.generate, repr=False)
    process: Child | None = None
    """wireguard-go; None for a kernel device."""

    @property
    def public(self) -> bytes:
        """The public key, 32 bytes."""
        return self.private.public_key().public_bytes_raw()

    @property
    def socket(self) -> Path:
        """The UAPI socket of a userspace device."""
        return UAPI_DIRECTORY / f"{self.name}.sock"

    @property
    def kind(self) -> str:
        """What drives it."""
        return "wireguard-go" if self.process else "kernel"

    def make(self) -> None:
        """Create the link. Raises `HostError` (host.lab) where neither kind is to be had."""
        if self._make_in_kernel():
            return
        program = shutil.which("wireguard-go", path="/usr/bin:/usr/local/bin:/usr/sbin:/usr/local/sbin")
        if not program:
            raise HostError("host.lab", "this kernel has no WireGuard and there is no wireguard-go", where=self.name)
        self.process = self.namespace.spawn([program, "-f", self.name], environment={"LOG_LEVEL": "error"})
        deadline = time.monotonic() + START_S
        while not self.socket.is_socket():
            if not self.process.running or time.monotonic() > deadline:
                raise HostError("host.lab", "wireguard-go did not start", where=self.name)
            time.sleep(0.01)

    def configure(self, peer: WireGuardPeer) -> None:
        """Set private key, port and the one peer."""
        if self.process:
            self._configure_userspace(peer)
        else:
            self._configure_kernel(peer)
        with self.namespace.links() as links:
            links.link("set", index=links.link_lookup(ifname=self.name)[0], mtu=MTU)

    def remove(self) -> None:
        """End wireguard-go and what it leaves; a kernel device ends with its namespace. Twice does no harm."""
        if self.process:
            self.process.end()
            self.socket.unlink(missing_ok=True)

    def _make_in_kernel(self) -> bool:
        with self.namespace.links() as links:
            try:
                links.link("add", ifname=self.name, kind="wireguard")
            except NetlinkError as error:
                if error.code == errno.EOPNOTSUPP:
                    return False
                raise HostError("host.lab", f"no WireGuard link: {error}", where=self.name) from None
        return True

    def _configure_kernel(self, peer: WireGuardPeer) -> None:
        told = {
            "public_key": base64.b64encode(peer.public).decode(),
            "endpoint_addr": peer.endpoint[0],
            "endpoint_port": peer.endpoint[1],
            "allowed_ips": list(peer.allowed),
            "replace_allowed_ips": True,
        }
        with WireGuard(netns=self.namespace.name) as wireguard:
            private = base64.b64encode(self.private.private_bytes_raw()).decode()
            wireguard.set(self.name, private_key=private, listen_port=self.port, peer=told)

    def _configure_userspace(self, peer: WireGuardPeer) -> None:
        host, port = peer.endpoint
        lines = [
            "set=1",
            f"private_key={self.private.private_bytes_raw().hex()}",
            f"listen_port={self.port}",
            "replace_peers=true",
            f"public_key={peer.public.hex()}",
            f"endpoint=[{host}]:{port}" if ":" in host else f"endpoint={host}:{port}",
            "replace_allowed_ips=true",
            *(f"allowed_ip={prefix}" for prefix in peer.allowed),
        ]
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as uapi:
            uapi.settimeout(START_S)
            uapi.connect(str(self.socket))
            uapi.sendall(("\n".join(lines) + "\n\n").encode())
            answer = uapi.recv(4096)
        if answer.strip() != b"errno=0":
            raise HostError("host.lab", f"wireguard-go refused: {answer.decode().strip()}", where=self.name)
