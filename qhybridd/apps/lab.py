"""A laboratory: two gateways in network namespaces, joined by a cable, with tunnels between them and a real daemon in
each. The demo, the soak test and the tests in namespaces and on the real kernel run in it.

The two configuration files say everything: the gateways' underlay addresses are what they listen on and what ESP runs
between, and what lies on one side of a tunnel is what the other side's file protects. A WireGuard tunnel gets a device
at each end. An XFRM tunnel gets none (or its XFRM interface): its traffic is routed to the other gateway, and without a
daemon nothing keeps it from going there in clear. Where they have a QKD link whose photons go to an address
that is not on that cable, there is a fibre too, and a third host in the middle of it. The laboratory writes a copy of
each file with an interface name of its own and fresh WireGuard keys in place, makes the world that it describes, and on
the way out, whatever the way, leaves nothing of it behind.
"""

import base64
import os
import re
import secrets
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from ipaddress import ip_interface
from pathlib import Path
from types import TracebackType
from typing import Final

from qhybridd.apps.capture import Capture
from qhybridd.apps.devices import Device, WireGuardPeer
from qhybridd.apps.fibre import lay, photons_of
from qhybridd.apps.flow import Flow
from qhybridd.apps.gateway import LAN, Gateway
from qhybridd.apps.interrupts import Interrupts
from qhybridd.apps.namespaces import Child, Interface, Namespace, join
from qhybridd.apps.netem import Impairment, impair
from qhybridd.config import Config, TunnelConfig, XfrmConfig, parse_config
from qhybridd.errors import HostError, OperatorError
from qhybridd.keyfiles import PSK_BYTES
from qhybridd.secretfile import SECRET_MODE, create_file

UNDERLAY: Final = "underlay"
"""Name of the cable's two ends."""
UNDERLAY_PREFIX: Final = {4: 24, 6: 64}
WIREGUARD_PORT: Final = 51820
FLOW_PORT: Final = 7000
_MEND: Final = """
table inet qhybridd_lab
delete table inet qhybridd_lab
"""
"""Takes the cut away, also where there is none."""
_CUT: Final = """
table inet qhybridd_lab {{
  chain cut {{
    type filter hook prerouting priority -450; policy accept;
    tcp dport {port} drop
    tcp sport {port} drop
  }}
}}
"""
"""A table of its own, beside the daemon's, that loses what comes in on the control port."""
MAX_INTERFACE: Final = 15
"""IFNAMSIZ less its final zero."""
POLL_S: Final = 0.1


class Lab:
    """The laboratory. Entering makes everything but the daemons (`start_daemons`); leaving removes everything."""

    def __init__(self, configs: Mapping[str, str]) -> None:
        """Take the two gateways' configuration files, by gateway name. Raises `ConfigError` for a bad one."""
        if len(configs) != 2:
            raise OperatorError("host.lab", f"a laboratory has two gateways, not {len(configs)}")
        self.tag = secrets.token_hex(2)
        self.gateways: dict[str, Gateway] = {}
        self.flows: dict[str, Flow] = {}
        self.middle: Namespace | None = None
        """The host that the fibre passes through; None in a laboratory without one."""
        self.eve: Child | None = None
        self._captures: list[Capture] = []
        self._texts = dict(configs)
        self._interrupts = Interrupts()
        self._stack = ExitStack()
        self._directory = Path()
        self._spaces: list[Namespace] = []

    # ---- making

    def __enter__(self) -> "Lab":
        require_root()
        self._interrupts.__enter__()
        try:
            with self._interrupts.hold():
                self._make()
        except BaseException:
            self._remove()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        """Remove everything. An exception gets the daemons' last words as notes, since their logs go too."""
        with self._interrupts.last():
            if isinstance(error, Exception):
                for gateway in self.gateways.values():
                    error.add_note(gateway.last_words())
            self._remove()

    def _make(self) -> None:
        self._directory = Path(tempfile.mkdtemp(prefix="qhy-"))
        self._stack.callback(shutil.rmtree, self._directory)
        parsed = {name: parse_config(text, Path(f"{name}.toml")) for name, text in self._texts.items()}
        names = list(parsed)
        for name, other in zip(names, reversed(names), strict=True):
            self._make_gateway(name, other, parsed)
        first, second = self.gateways.values()
        join(first.namespace, second.namespace, UNDERLAY)
        for gateway in (first, second):
            for host in underlays(gateway.config):
                gateway.namespace.add_address(UNDERLAY, on_the_underlay(host))
            for device in gateway.devices.values():
                self._stack.callback(device.remove)
                device.make()
        self._make_fibre(parsed)
        self._configure(first, second)
        self._configure(second, first)
        self._share_psks()

    def _make_gateway(self, name: str, other: str, parsed: Mapping[str, Config]) -> None:
        """Namespace, directory and written configuration of one gateway; the devices get their keys here."""
        namespace = self._make_namespace(name)
        directory = self._directory / name
        directory.mkdir(mode=0o700)
        devices = {}
        for index, (tunnel, config) in enumerate(parsed[name].tunnels.items()):
            if isinstance(config.target, XfrmConfig):
                continue
            interface = f"q{self.tag}{name[:1]}-{tunnel}"
            if len(interface) > MAX_INTERFACE:
                raise OperatorError("host.lab", f"the tunnel name {tunnel} is too long for a laboratory")
            devices[tunnel] = Device(namespace, interface, WIREGUARD_PORT + index)
        prefixes = {tunnel: config.protects[0] for tunnel, config in parsed[other].tunnels.items()}
        self.gateways[name] = Gateway(name, namespace, directory, parsed[name], prefixes, devices)

    def _make_fibre(self, parsed: Mapping[str, Config]) -> None:
        found = photons_of(parsed)
        if found is None:
            return
        name, photons = found
        self.middle = self._make_namespace("eve")
        alice = self.gateways[name]
        bob = next(gateway for gateway in self.gateways.values() if gateway is not alice)
        lay((alice.name, alice.namespace), self.middle, (bob.name, bob.namespace), photons.host)

    def _share_psks(self) -> None:
        """A PSK for each link, the same at both gateways."""
        for name in next(iter(self.gateways.values())).config.links:
            text = base64.b64encode(secrets.token_bytes(PSK_BYTES)) + b"\n"
            for gateway in self.gateways.values():
                create_file(gateway.directory / gateway.config.links[name].psk.name, text, SECRET_MODE)

    def _configure(self, gateway: Gateway, other: Gateway) -> None:
        """Devices, addresses, routes and the configuration file of one gateway."""
        text = self._texts[gateway.name]
        for tunnel, config in gateway.config.tunnels.items():
            if isinstance(config.target, XfrmConfig):
                self._configure_esp(gateway, config, config.target)
                continue
            device, opposite = gateway.devices[tunnel], other.devices[tunnel]
            self.configure_device(gateway, tunnel)
            text = _put(text, config.interface, device.name)
            text = _put(text, base64.b64encode(config.target.peer).decode(), base64.b64encode(opposite.public).decode())
        gateway.config_file.write_text(text)
        gateway.config = parse_config(text, gateway.config_file)

    def configure_device(self, gateway: Gateway, tunnel: str) -> None:
        """Keys, peer, address and routes of a WireGuard device that was just made."""
        other = next(one for one in self.gateways.values() if one is not gateway)
        device, opposite = gateway.devices[tunnel], other.devices[tunnel]
        protects = tuple(str(prefix) for prefix in gateway.config.tunnels[tunnel].protects)
        device.configure(WireGuardPeer(opposite.public, (other.underlay, opposite.port), protects))
        gateway.namespace.add_address(device.name, ip_interface(gateway.address(tunnel)))
        for prefix in protects:
            gateway.namespace.add_route(prefix, link=device.name)

    def _configure_esp(self, gateway: Gateway, config: TunnelConfig, target: XfrmConfig) -> None:
        """The XFRM interface if there is one, the gateway's inner address, and the way to the other side."""
        if target.interface:
            gateway.namespace.add_xfrm_interface(target.interface, UNDERLAY, target.if_id)
        inner = gateway.address(config.name)
        if inner != str(target.local):
            gateway.namespace.add_address(target.interface or "lo", ip_interface(inner))
        for prefix in config.protects:
            if target.interface:
                gateway.namespace.add_route(str(prefix), link=target.interface)
            elif target.remote not in prefix:
                gateway.namespace.add_route(str(prefix), via=str(target.remote))

    def _make_namespace(self, role: str) -> Namespace:
        namespace = Namespace(f"qhy-{os.getpid()}-{self.tag}-{role}")
        self._stack.callback(namespace.remove)
        namespace.make()
        self._spaces.append(namespace)
        return namespace

    def add_hosts(self) -> None:
        """A host behind each gateway, whose traffic the gateways forward."""
        with self._interrupts.hold():
            for gateway in self.gateways.values():
                gateway.host = self._make_namespace(f"{gateway.name}-host")
                join(gateway.namespace, gateway.host, LAN)
                gateway.attach_host()

    def enrol(self) -> None:
        """Give both gateways their identities and each other's, unless they have them."""
        first, second = self.gateways.values()
        if first.config.gateway.identity.exists():
            return
        peer_files = {gateway.name: gateway.enrol() for gateway in (first, second)}
        for gateway, other in ((first, second), (second, first)):
            gateway.trust(other.name, peer_files[other.name])

    def start_daemons(self) -> None:
        """Start both daemons, which know each other."""
        self.enrol()
        for gateway in self.gateways.values():
            self._stack.callback(gateway.stop)
            self.start_daemon(gateway)

    def start_daemon(self, gateway: Gateway) -> None:
        """Start one gateway's daemon, again for instance after it was stopped."""
        with self._interrupts.hold():
            gateway.start()

    def limit_disk(self, gateway: Gateway, kib: int) -> None:
        """Give a gateway's state a disk of its own, before its daemon starts."""
        self._stack.callback(gateway.release_disk)
        gateway.limit_disk(kib)

    # ---- in the middle of the fibre

    def start_eve(self, *arguments: str) -> None:
        """Have `qhybridd eve` with these arguments run in the middle. Raises `HostError` (host.lab) if it cannot."""
        if self.middle is None or self.eve is not None:
            raise HostError("host.lab", "there is no fibre to stand at, or somebody stands there already")
        command = [sys.executable, "-m", "qhybridd", "--debug", "eve", *arguments]
        with self._interrupts.hold(), self.eve_log.open("ab") as log:
            self.eve = self.middle.spawn(command, log=log)
            self._stack.callback(self.eve.end)

    def stop_eve(self) -> int:
        """Ctrl-C to who is in the middle; its exit status (0 if nobody is)."""
        status = self.eve.end(signal.SIGINT) if self.eve is not None else 0
        self.eve = None
        return status

    @property
    def eve_log(self) -> Path:
        """What was said in the middle."""
        return self._directory / "eve.log"

    # ---- measuring

    def capture(self) -> None:
        """From now on count the packets of every protected prefix that a gateway sends over the cable in clear."""
        for gateway in self.gateways.values():
            prefixes = [prefix for tunnel in gateway.config.tunnels.values() for prefix in tunnel.protects]
            capture = Capture(gateway.namespace, UNDERLAY, prefixes)
            self._stack.callback(capture.close)
            self._captures.append(capture)

    def in_clear(self) -> int:
        """How many packets went over the cable in clear since `capture`, in both directions."""
        if not self._captures:
            raise HostError("host.lab", "nothing was captured")
        return sum(capture.count() for capture in self._captures)

    def add_flow(self, tunnel: str, interval_ms: float = 10.0) -> Flow:
        """A measured stream through a tunnel between the gateways themselves. Nothing is sent before its `start`."""
        first, second = self.gateways.values()
        spaces = (first.namespace, second.namespace)
        return self._add_flow(tunnel, spaces, (first.address(tunnel), second.address(tunnel)), interval_ms)

    def add_host_flow(self, tunnel: str, interval_ms: float = 10.0) -> Flow:
        """A measured stream through a tunnel between the hosts behind the gateways."""
        first, second = self.gateways.values()
        if not first.host or not second.host:
            raise HostError("host.lab", "this laboratory has no hosts")
        addresses = (first.host_address(tunnel), second.host_address(tunnel))
        return self._add_flow(f"{tunnel}-hosts", (first.host, second.host), addresses, interval_ms)

    def _add_flow(
        self, name: str, spaces: tuple[Namespace, Namespace], addresses: tuple[str, str], interval_ms: float
    ) -> Flow:
        flow = Flow(name, self._directory)
        with self._interrupts.hold():
            self._stack.callback(flow.remove)
            flow.make(spaces, addresses, FLOW_PORT + len(self.flows), interval_ms)
        self.flows[name] = flow
        return flow

    def wait(self, condition: Callable[[], bool], timeout_s: float, what: str) -> None:
        """Poll until `condition` holds. Raises `HostError` (host.lab) after `timeout_s`, or when a daemon died."""
        deadline = time.monotonic() + timeout_s
        while not condition():
            for gateway in self.gateways.values():
                gateway.check()
            if time.monotonic() > deadline:
                raise HostError("host.lab", f"not within {timeout_s:g} s: {what}")
            time.sleep(POLL_S)

    def wait_open(self, tunnel: str, timeout_s: float = 30.0) -> None:
        """Wait until both daemons call `tunnel` open."""

        def opened() -> bool:
            seen = [gateway.tunnel(tunnel) for gateway in self.gateways.values()]
            return all(status is not None and status.state == "open" for status in seen)

        self.wait(opened, timeout_s, f"tunnel {tunnel} opens at both gateways")

    # ---- breaking and mending

    def impair(self, impairment: Impairment | None, *senders: str) -> None:
        """Do this to what the gateways named, or both, send over the cable; None: nothing any more."""
        for name in senders or tuple(self.gateways):
            impair(self.gateways[name].namespace, UNDERLAY, impairment)

    def cut(self, *deaf: str) -> None:
        """Lose the control channel's packets silently: what comes in at the gateways named, or at both."""
        for name in deaf or tuple(self.gateways):
            port = self.gateways[name].config.gateway.listen[0].port
            self.gateways[name].namespace.run(["nft", "-f", "-"], text=_MEND + _CUT.format(port=port))

    def mend(self) -> None:
        """Undo every cut (not `impair`)."""
        for gateway in self.gateways.values():
            gateway.namespace.run(["nft", "-f", "-"], text=_MEND)

    # ---- removing

    def _remove(self) -> None:
        try:
            with self._interrupts.last():
                self._stack.close()
        finally:
            self._interrupts.__exit__(None, None, None)

    def leftovers(self) -> list[str]:
        """What is left on the host of this laboratory: nothing, once it was left."""
        found = [f"namespace {space.name}" for space in self._spaces if space.path.exists()]
        found += [f"process {pid} in {space.name}" for space in self._spaces for pid in space.processes()]
        if self._directory != Path() and self._directory.exists():
            found.append(f"directory {self._directory}")
        for gateway in self.gateways.values():
            for device in gateway.devices.values():
                if device.socket.exists():
                    found.append(f"socket {device.socket}")
                if Path("/sys/class/net", device.name).exists():
                    found.append(f"link {device.name}")
        return found


def require_root() -> None:
    """Raise `OperatorError` (host.root) for anybody else."""
    if os.geteuid() != 0:
        raise OperatorError("host.root", "network namespaces and WireGuard devices need root")


def underlays(config: Config) -> tuple[str, ...]:
    """The gateway's addresses on the cable: where it listens, and where its ESP comes from."""
    targets = [tunnel.target for tunnel in config.tunnels.values()]
    esp = [str(target.local) for target in targets if isinstance(target, XfrmConfig)]
    return tuple(dict.fromkeys([*(listener.host for listener in config.gateway.listen), *esp]))


def on_the_underlay(host: str) -> Interface:
    """An address with the length of the cable's prefix."""
    address = ip_interface(host)
    return ip_interface(f"{address.ip}/{UNDERLAY_PREFIX[address.version]}")


def _put(text: str, old: str, new: str) -> str:
    """`text` with the one quoted string `old` replaced. Raises `OperatorError` (host.lab) unless it is there once."""
    changed, count = re.subn(f'"{re.escape(old)}"', f'"{new}"', text)
    if count != 1:
        raise OperatorError("host.lab", f'"{old}" stands {count} times in a configuration of the laboratory')
    return changed
