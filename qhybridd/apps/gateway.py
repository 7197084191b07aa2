"""One gateway of the laboratory: its namespace, its directory, its WireGuard devices and its daemon process."""

import contextlib
import signal
import socket
import sys
from dataclasses import dataclass, field
from ipaddress import ip_interface
from pathlib import Path
from typing import Final

import msgspec

from qhybridd.apps.devices import Device
from qhybridd.apps.namespaces import Child, Namespace, run_on_host
from qhybridd.config import Config, Prefix
from qhybridd.crypto.identity import Identity
from qhybridd.errors import HostError
from qhybridd.keyfiles import create_identity, store_peer
from qhybridd.peerfile import export_peer
from qhybridd.status import MAX_ANSWER_BYTES, Answer, Status, StatusRequest, TunnelStatus, encode_line

STATUS_TIMEOUT_S: Final = 3.0
FILLER: Final = "filler"
"""Name of the file that takes the disk's last byte."""
LAN: Final = "lan"
"""Name of both ends of the cable between a gateway and the host behind it."""


@dataclass(slots=True)
class Gateway:
    """A gateway as the laboratory runs it."""

    name: str
    namespace: Namespace
    directory: Path
    config: Config
    prefixes: dict[str, Prefix]
    """What lies on this side of each tunnel. Its first address is the gateway's, the second the host's behind it."""
    devices: dict[str, Device] = field(default_factory=dict)
    """By tunnel, those of WireGuard."""
    host: Namespace | None = None
    """The host behind it, where the laboratory has hosts."""
    daemon: Child | None = None

    @property
    def config_file(self) -> Path:
        """Its configuration."""
        return self.directory / "qhybridd.toml"

    @property
    def log_file(self) -> Path:
        """What its daemons wrote, one after the other."""
        return self.directory / "daemon.log"

    @property
    def underlay(self) -> str:
        """Its first address on the cable between the gateways."""
        return self.config.gateway.listen[0].host

    def address(self, tunnel: str) -> str:
        """Its address in a tunnel: the prefix itself where that is one address (ESP between the gateways alone)."""
        prefix = self.prefixes[tunnel]
        return str(prefix[1] if prefix.num_addresses > 1 else prefix[0])

    def host_address(self, tunnel: str) -> str:
        """The address of the host behind it, as the tunnel's other side knows it."""
        return str(self.prefixes[tunnel][2])

    def attach_host(self) -> None:
        """Wire the host behind it up, and forward for it."""
        if self.host is None:
            return
        inner = [prefix for prefix in self.prefixes.values() if prefix.num_addresses > 1]
        for prefix in inner:
            length = prefix.prefixlen
            self.namespace.add_address(LAN, ip_interface(f"{prefix[3]}/{length}"))
            self.host.add_address(LAN, ip_interface(f"{prefix[2]}/{length}"))
        for prefix in {prefix.version: prefix for prefix in reversed(inner)}.values():
            self.host.add_route("::/0" if prefix.version == 6 else "0.0.0.0/0", via=str(prefix[3]))
        switches = ("ipv4/ip_forward", "ipv6/conf/all/forwarding")
        self.namespace.run(["sh", "-c", "; ".join(f"echo 1 > /proc/sys/net/{switch}" for switch in switches)])

    # ---- identity

    def enrol(self) -> str:
        """Make its identity and return the peer file that others take."""
        identity = Identity.generate()
        create_identity(self.config.gateway.identity, identity)
        text = export_peer(identity, self.name, self.config.gateway.listen)
        identity.wipe()
        return text

    def trust(self, name: str, peer_file: str) -> None:
        """Take a peer's file."""
        store_peer(self.config.gateway.peers, name, peer_file.encode(), beside=False)

    # ---- disk

    def limit_disk(self, kib: int) -> None:
        """Give its state a disk of its own, so small. Before the daemon starts."""
        for path in self._disks:
            path.mkdir(mode=0o700, exist_ok=True)
            run_on_host(["mount", "-t", "tmpfs", "-o", f"size={kib}k,mode=0700", "qhybridd-lab", str(path)])

    def fill_disk(self) -> None:
        """Leave no byte free on what `limit_disk` made."""
        for path in self._disks:
            with (path / FILLER).open("wb", buffering=0) as filler, contextlib.suppress(OSError):
                while True:
                    filler.write(bytes(512))

    def free_disk(self) -> None:
        """Undo `fill_disk`."""
        for path in self._disks:
            (path / FILLER).unlink(missing_ok=True)

    def release_disk(self) -> None:
        """Undo `limit_disk`, also where there was none."""
        for path in self._disks:
            if path.is_mount():
                run_on_host(["umount", "--lazy", str(path)])

    @property
    def _disks(self) -> tuple[Path, Path]:
        return self.config.gateway.runtime, self.config.gateway.state

    # ---- daemon

    def start(self) -> None:
        """Start the daemon. Raises `HostError` (host.lab) if one runs."""
        if self.daemon:
            raise HostError("host.lab", "the daemon runs already", where=self.name)
        command = [sys.executable, "-m", "qhybridd", "--debug", "--config", str(self.config_file), "run"]
        with self.log_file.open("ab") as log:
            self.daemon = self.namespace.spawn(command, log=log)

    def stop(self, how: signal.Signals = signal.SIGTERM) -> int:
        """End the daemon, by SIGTERM as an operator would or by SIGKILL, and return its exit status (0 if none ran)."""
        if not self.daemon:
            return 0
        status = self.daemon.end(how)
        self.daemon = None
        return status

    def freeze(self) -> None:
        """Stop the daemon where it stands (SIGSTOP)."""
        if self.daemon:
            self.daemon.send(signal.SIGSTOP)

    def thaw(self) -> None:
        """Let a frozen daemon go on (SIGCONT)."""
        if self.daemon:
            self.daemon.send(signal.SIGCONT)

    def check(self) -> None:
        """Raise `HostError` (host.lab) if its daemon died by itself."""
        if self.daemon and not self.daemon.running:
            raise HostError("host.lab", "the daemon died", where=self.name, hint="Its last words are shown.")

    def last_words(self, lines: int = 60) -> str:
        """The end of the log, under a heading."""
        text = self.log_file.read_text(errors="replace") if self.log_file.exists() else ""
        return "\n".join((f"--- the last words of {self.name}'s daemon:", *text.splitlines()[-lines:]))

    def status(self) -> Status | None:
        """What the daemon says of itself; None if it does not run, is frozen, or is not ready yet."""
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as control:
                control.settimeout(STATUS_TIMEOUT_S)
                control.connect(str(self.config.gateway.socket))
                control.sendall(encode_line(StatusRequest()))
                with control.makefile("rb") as lines:
                    answer = msgspec.json.decode(lines.readline(MAX_ANSWER_BYTES), type=Answer)
            return msgspec.json.decode(answer.result, type=Status) if answer.ok else None
        except (OSError, msgspec.DecodeError):
            return None

    def tunnel(self, name: str) -> TunnelStatus | None:
        """What the daemon says of one tunnel; None as for `status`."""
        status = self.status()
        return next((tunnel for tunnel in status.tunnels if tunnel.name == name), None) if status else None
