"""Two gateways as machines of their own, each booted by systemd, joined by a network cable between two processes.

What is on the cable is captured by qemu itself, from the moment the power is on.
"""

import base64
import contextlib
import json
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path

from tests.machines import disks
from tests.machines.kernels import Kernel
from tests.machines.machine import Machine

BOOT_S = 600.0
ANSWER_S = 120.0


class Host:
    """A machine that runs systemd, and the way to ask it."""

    def __init__(self, name: str, number: int, kernel: Kernel, ports: tuple[int, int]) -> None:
        own, other = ports
        self.name, self.number = name, number
        self.directory = disks.BUILD / "machine"
        self.capture = self.directory / f"{name}.pcap"
        self._ask_path, self._qmp_path = (Path("/tmp") / f"qhybridd-{own}-{what}" for what in ("ask", "qmp"))
        cable = f"socket,id=cable,udp=127.0.0.1:{other},localaddr=127.0.0.1:{own}"
        devices = ["-netdev", cable, "-device", f"virtio-net-pci,netdev=cable,romfile=,mac=52:54:00:00:00:0{number}"]
        devices += ["-object", f"filter-dump,id=dump,netdev=cable,file={self.capture},maxlen=128"]
        devices += ["-chardev", f"socket,id=ask,path={self._ask_path},server=on,wait=off"]
        devices += ["-device", "virtserialport,chardev=ask,name=ask"]
        devices += ["-qmp", f"unix:{self._qmp_path},server=on,wait=off"]
        script = Path(__file__).with_name("gateway.sh")
        then = f"/bin/bash,{script},{name},{number}"
        self.machine = Machine(name, kernel, then, memory_mb=1024, cpus=1, devices=devices, stays=True)
        self._asked = 0
        self._process: subprocess.Popen[bytes] | None = None
        self._channel: socket.socket | None = None
        self._rest = b""

    def start(self) -> None:
        """Power on."""
        self._process = self.machine.start(subprocess.DEVNULL)
        self._channel = connect(self._ask_path)

    def close(self) -> None:
        """Power off, at once."""
        if self._channel is not None:
            self._channel.close()
        if self._process is not None:
            self._process.kill()
            self._process.wait()
        for path in (self._ask_path, self._qmp_path):
            path.unlink(missing_ok=True)

    def reset(self) -> None:
        """Cut the power and give it again: nothing is written or told before."""
        with contextlib.closing(connect(self._qmp_path)) as qmp, qmp.makefile("rw") as lines:
            lines.readline()
            for command in ("qmp_capabilities", "system_reset"):
                lines.write(json.dumps({"execute": command}) + "\n")
                lines.flush()
                lines.readline()

    def ask(self, command: str, timeout_s: float = ANSWER_S) -> tuple[int, str]:
        """Run a shell command in it; its exit status and what it wrote.

        Raises:
            TimeoutError: no answer came; the message ends with what the console said last.
            ConnectionError: the machine is gone.
        """
        assert self._channel is not None
        self._asked += 1
        line = b"\n%d %s\n" % (self._asked, base64.b64encode(command.encode()))
        self._channel.sendall(line)
        deadline = time.monotonic() + timeout_s
        while (left := deadline - time.monotonic()) > 0:
            self._channel.settimeout(left)
            with contextlib.suppress(TimeoutError):
                data = self._channel.recv(65536)
                if not data:
                    raise ConnectionError(f"{self.name}: qemu ended\n{self.machine.console_tail()}")
                self._rest += data
            *lines, self._rest = self._rest.split(b"\n")
            for answer in lines:
                words = answer.split()
                if len(words) == 3 and words[0] == b"%d" % self._asked:
                    return int(words[1]), base64.b64decode(words[2]).decode(errors="replace").strip()
        raise TimeoutError(f"{self.name}: no answer to {command!r}\n{self.machine.console_tail()}")

    def run(self, command: str, timeout_s: float = ANSWER_S) -> str:
        """Run a shell command that must succeed; what it wrote."""
        status, text = self.ask(command, timeout_s)
        assert status == 0, f"{self.name}: {command}: {status}\n{text}\n{self.machine.console_tail()}"
        return text

    def wait_up(self, timeout_s: float = BOOT_S) -> float:
        """Wait until it answers; the seconds since its kernel began."""
        deadline = time.monotonic() + timeout_s
        while True:
            try:
                return float(self.ask("cat /proc/uptime", 5)[1].split()[0])
            except TimeoutError:
                if time.monotonic() > deadline:
                    raise

    def replies(self, net: int) -> list[float]:
        """When its pings to the other machine's 10.NET were answered: seconds of its wall clock."""
        answered = "/bytes from/ { print substr($1, 2, length($1) - 2) }"
        return [float(word) for word in self.run(f"awk '{answered}' /run/ping-{net}").split()]


def connect(path: Path) -> socket.socket:
    """Connect to a socket of qemu, as soon as it is there."""
    deadline = time.monotonic() + 30
    while True:
        channel = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            channel.connect(str(path))
        except OSError:
            channel.close()
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)
        else:
            return channel


def free_ports() -> tuple[int, int]:
    """Two free UDP ports of this host, for both ends of the cable."""
    with socket.socket(type=socket.SOCK_DGRAM) as one, socket.socket(type=socket.SOCK_DGRAM) as two:
        one.bind(("127.0.0.1", 0))
        two.bind(("127.0.0.1", 0))
        return one.getsockname()[1], two.getsockname()[1]


@contextlib.contextmanager
def two_hosts(kernel: Kernel) -> Iterator[tuple[Host, Host]]:
    """Two running hosts with a cable between them; `build/machine/gateways/NAME` holds their configuration."""
    here, there = free_ports()
    first, second = Host("alice", 1, kernel, (here, there)), Host("bob", 2, kernel, (there, here))
    with contextlib.ExitStack() as stack:
        for host in (first, second):
            stack.callback(host.close)
            host.start()
        yield first, second


def seen(capture: Path, network: IPv4Network) -> int:
    """How many packets on the cable come from or go to an address of this network, outside of any tunnel."""
    content = capture.read_bytes()
    count, at = 0, 24
    while at + 16 <= len(content):
        length = int.from_bytes(content[at + 8 : at + 12], "little")
        frame = content[at + 16 : at + 16 + length]
        if frame[12:14] == b"\x08\x00" and any(IPv4Address(frame[place : place + 4]) in network for place in (26, 30)):
            count += 1
        at += 16 + length
    return count


def wait(reached: Callable[[], bool], timeout_s: float, what: str) -> float:
    """Wait for something; the seconds that it took."""
    began = time.monotonic()
    while not reached():
        assert time.monotonic() - began < timeout_s, f"{what}: not within {timeout_s:g} s"
        time.sleep(0.5)
    return time.monotonic() - began
