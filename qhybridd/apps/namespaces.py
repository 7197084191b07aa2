"""Network namespaces, links and processes in them, for the laboratory.

Everything here is undone by the caller, who notes it for removal first.
"""

import os
import signal
import socket
import subprocess
import time
from collections.abc import Mapping, Sequence
from ipaddress import IPv4Interface, IPv6Interface
from pathlib import Path
from typing import IO, Final

from pyroute2 import IPRoute, netns
from pyroute2.netlink.exceptions import NetlinkError

from qhybridd.errors import HostError

NETNS: Final = Path("/var/run/netns")
IFA_F_NODAD: Final = 0x02
"""linux/if_addr.h: use the address at once, nobody else is on the link."""
END_S: Final = 5.0
"""How long a process may take to end by itself before it is killed."""

Interface = IPv4Interface | IPv6Interface


class Namespace:
    """A named network namespace with its loopback up. Made by `make`, gone after `remove`."""

    __slots__ = ("_inode", "name")

    def __init__(self, name: str) -> None:
        self.name = name
        self._inode = 0

    @property
    def path(self) -> Path:
        """The file that names it, for setns(2)."""
        return NETNS / self.name

    def make(self) -> None:
        """Create it."""
        netns.create(self.name)
        self._inode = self.path.stat().st_ino
        with self.links() as links:
            links.link("set", index=links.link_lookup(ifname="lo")[0], state="up")

    def remove(self) -> None:
        """Take its name away; the kernel ends it with the last process and link in it. Twice does no harm."""
        if self.path.exists():
            netns.remove(self.name)

    def links(self) -> IPRoute:
        """A netlink socket inside; a context manager."""
        return IPRoute(netns=self.name)

    def open_socket(self, family: int, kind: int, protocol: int) -> socket.socket:
        """A socket inside, also after this thread went back to where it was."""
        netns.pushns(self.name)
        try:
            return socket.socket(family, kind, protocol)
        finally:
            netns.popns()

    def add_address(self, link: str, address: Interface) -> None:
        """Give `link` an address and set it up."""
        with self.links() as links:
            index = links.link_lookup(ifname=link)[0]
            flags = {"flags": IFA_F_NODAD} if address.version == 6 else {}
            links.addr("add", index=index, address=str(address.ip), prefixlen=address.network.prefixlen, **flags)
            links.link("set", index=index, state="up")

    def add_route(self, prefix: str, *, link: str = "", via: str = "") -> None:
        """Route `prefix` over a link or a neighbour."""
        with self.links() as links:
            hop = {"gateway": via} if via else {"oif": links.link_lookup(ifname=link)[0]}
            links.route("add", dst=prefix, **hop)

    def add_xfrm_interface(self, name: str, link: str, if_id: int) -> None:
        """Make an XFRM interface over `link`. Raises `HostError` (host.lab) where the kernel has none."""
        with self.links() as links:
            below = links.link_lookup(ifname=link)[0]
            try:
                links.link("add", ifname=name, kind="xfrm", xfrm_link=below, xfrm_if_id=if_id)
            except NetlinkError as error:
                raise HostError("host.lab", f"no XFRM interface: {error}", where=name) from None

    def spawn(
        self,
        command: Sequence[str],
        *,
        log: IO[bytes] | None = None,
        stdin: int = subprocess.DEVNULL,
        environment: Mapping[str, str] | None = None,
    ) -> "Child":
        """Start a process inside. It gets no terminal signals and dies with the thread that started it."""
        inside = ["setpriv", "--pdeathsig", "KILL", "nsenter", f"--net={self.path}", "--", *command]
        where = log if log is not None else subprocess.DEVNULL
        process = subprocess.Popen(
            inside,
            stdin=stdin,
            stdout=where,
            stderr=subprocess.STDOUT if log is not None else where,
            env={**os.environ, **(environment or {})},
            process_group=0,
        )
        return Child(process)

    def run(self, command: Sequence[str], *, text: str = "") -> str:
        """Run a short command inside and return its output. Raises `HostError` (host.lab) if it fails."""
        return _run(["nsenter", f"--net={self.path}", "--", *command], command, self.name, text)

    def processes(self) -> list[int]:
        """The PIDs inside, also after the name was removed."""
        found = []
        for entry in Path("/proc").iterdir():
            try:
                if entry.name.isdigit() and (entry / "ns/net").stat().st_ino == self._inode:
                    found.append(int(entry.name))
            except OSError:
                continue  # it ended meanwhile
        return found


class Child:
    """A process that the laboratory started: leader of a process group of its own, reaped by `end`."""

    __slots__ = ("process",)

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self.process = process

    @property
    def pid(self) -> int:
        """Its process ID."""
        return self.process.pid

    @property
    def running(self) -> bool:
        """Whether it still runs (a stopped one does)."""
        return self.process.returncode is None and self._ended() is None

    def send(self, number: signal.Signals) -> None:
        """Send it a signal; nothing happens if it ended."""
        if self.running:
            os.kill(self.pid, number)

    def wait(self, timeout_s: float) -> bool:
        """Wait until it ended, without reaping it. False if it did not within `timeout_s`."""
        deadline = time.monotonic() + timeout_s
        while self.running:
            if time.monotonic() >= deadline:
                return False
            time.sleep(0.01)
        return True

    def end(self, first: signal.Signals = signal.SIGTERM) -> int:
        """End it with its group, kindly first, and reap it. Returns its exit status. Twice does no harm."""
        if self.process.returncode is None:
            self.send(first)
            self.send(signal.SIGCONT)
            self.wait(END_S)
            # The leader is not reaped yet, so the number still names this group and no other.
            os.killpg(self.pid, signal.SIGKILL)
        if self.process.stdin:
            self.process.stdin.close()
        return self.process.wait()

    def _ended(self) -> object:
        return os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOWAIT | os.WNOHANG)


def run_on_host(command: Sequence[str]) -> str:
    """Run a short command outside and return its output. Raises `HostError` (host.lab) if it fails."""
    return _run(command, command, "", "")


def _run(whole: Sequence[str], command: Sequence[str], where: str, text: str) -> str:
    result = subprocess.run(whole, input=text, capture_output=True, text=True, timeout=30, check=False)
    if result.returncode:
        raise HostError("host.lab", f"`{' '.join(command)}` failed: {result.stderr.strip()}", where=where)
    return result.stdout


def join(one: Namespace, other: Namespace, name: str, other_name: str = "") -> None:
    """A veth pair between two namespaces, called `name` at both ends unless the other one has a name of its own."""
    with one.links() as links:
        links.link("add", ifname=name, kind="veth", peer={"ifname": other_name or name, "net_ns_fd": other.name})
