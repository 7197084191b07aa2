"""Network namespaces for one test: made, entered, wired and taken down."""

import ctypes
import itertools
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType

CLONE_NEWNET = 0x40000000
_serial = itertools.count()
_libc = ctypes.CDLL(None, use_errno=True)


def run(*command: str) -> str:
    """A command that has to succeed; its output."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise AssertionError(f"{' '.join(command)}: {done.stderr or done.stdout}")
    return done.stdout


@contextmanager
def inside(name: str) -> Iterator[None]:
    """This thread is in the namespace: sockets and processes that are made here belong to it."""
    home = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
    there = os.open(f"/run/netns/{name}", os.O_RDONLY)
    try:
        _enter(there)
        yield
    finally:
        _enter(home)
        os.close(home)
        os.close(there)


def _enter(descriptor: int) -> None:
    if _libc.setns(descriptor, CLONE_NEWNET):
        raise OSError(ctypes.get_errno(), "setns")


class Lab:
    """Namespaces of one test, by short name; everything goes when it is left."""

    def __init__(self) -> None:
        self._prefix = f"qt{os.getpid()}{chr(97 + next(_serial) % 26)}"
        self._names: list[str] = []
        self._processes: list[subprocess.Popen[bytes]] = []

    def __enter__(self) -> "Lab":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        for process in self._processes:
            process.terminate()  # so that it takes its socket away
        for process in self._processes:
            try:
                process.wait(5)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        for name in self._names:
            subprocess.run(["ip", "netns", "del", name], capture_output=True, check=False)

    def name(self, short: str) -> str:
        return f"{self._prefix}{short}"

    def add(self, *shorts: str) -> None:
        for short in shorts:
            run("ip", "netns", "add", self.name(short))
            self._names.append(self.name(short))
            self.ip(short, "link", "set", "lo", "up")
            for key in ("all", "default"):
                with inside(self.name(short)):
                    Path(f"/proc/sys/net/ipv6/conf/{key}/accept_dad").write_text("0")
                    Path(f"/proc/sys/net/ipv4/conf/{key}/rp_filter").write_text("0")

    def ip(self, short: str, *words: str) -> str:
        return run("ip", "-n", self.name(short), *words)

    def run(self, short: str, *command: str) -> str:
        return run("ip", "netns", "exec", self.name(short), *command)

    def nft(self, short: str, commands: str) -> None:
        with inside(self.name(short)):
            subprocess.run(["nft", "-f", "-"], input=commands, text=True, check=True)

    def forward(self, short: str) -> None:
        with inside(self.name(short)):
            Path("/proc/sys/net/ipv4/ip_forward").write_text("1")
            Path("/proc/sys/net/ipv6/conf/all/forwarding").write_text("1")

    def veth(self, one: tuple[str, str, tuple[str, ...]], other: tuple[str, str, tuple[str, ...]]) -> None:
        """A cable between (namespace, device, addresses) and another."""
        peer = ("peer", "name", other[1], "netns", self.name(other[0]))
        run("ip", "-n", self.name(one[0]), "link", "add", one[1], "type", "veth", *peer)
        for short, device, addresses in (one, other):
            for address in addresses:
                self.ip(short, "address", "add", address, "dev", device, *(["nodad"] if ":" in address else []))
            self.ip(short, "link", "set", device, "up")

    def start(self, short: str, *command: str) -> subprocess.Popen[bytes]:
        process = subprocess.Popen(
            ["ip", "netns", "exec", self.name(short), *command], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        self._processes.append(process)
        return process
