"""A virtual machine that boots the distribution's kernel with the host's files, in software: never by KVM.

Emulation is what every host can do; a `/dev/kvm` that hangs is worse than none.
"""

import subprocess
from dataclasses import dataclass, field
from pathlib import Path

from tests.machines import disks, initramfs
from tests.machines.kernels import Kernel


@dataclass(slots=True)
class Machine:
    """One machine: where its files are, and how it is started."""

    name: str
    kernel: Kernel
    then: str
    """What the first process goes on with: a command of the host's file system."""
    memory_mb: int = 1536
    cpus: int = 2
    devices: list[str] = field(default_factory=list)
    """Further arguments of qemu."""
    stays: bool = False
    """Whether a reset boots again instead of ending the machine."""

    @property
    def console(self) -> Path:
        """What the kernel and the first process said."""
        return disks.BUILD / "machine" / f"{self.name}.console"

    def console_tail(self, length: int = 6000) -> str:
        """The end of it."""
        return self.console.read_text(errors="replace")[-length:] if self.console.exists() else ""

    def start(self, output: int | None = None) -> subprocess.Popen[bytes]:
        """Make the disks and start it; what it writes to the port `out` goes to `output`, or to our own output."""
        directory = disks.BUILD / "machine"
        directory.mkdir(parents=True, exist_ok=True)
        initrd = directory / f"{self.name}.cpio"
        initramfs.write(self.kernel, initrd)
        command = self.command(disks.packages(directory), disks.tree(directory, self.name), initrd)
        return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=output)

    def command(self, packages: Path, tree: Path, initrd: Path) -> list[str]:
        """The command line of qemu."""
        # The rate of the time stamp counter is measured at boot, and wrongly on a busy host: such a machine's clock ran
        # 3.5 times as fast as the host's. The HPET has a fixed rate; a reading costs microseconds more.
        words = [
            "console=ttyS0",
            "quiet",
            "panic=-1",
            "random.trust_cpu=on",
            "mitigations=off",
            "net.ifnames=0",
            "clocksource=hpet",
            "tsc=unstable",
        ]
        words += [f"tree={disks.TREE}", f"python={disks.PYTHON}", f"then={self.then}"]
        line = [
            "setpriv",
            "--pdeathsig",
            "KILL",
            "qemu-system-x86_64",
            "-machine",
            "q35",
            "-accel",
            "tcg,thread=multi,tb-size=512",
            "-cpu",
            "max",
        ]
        line += ["-name", self.name, "-m", f"{self.memory_mb}M", "-smp", str(self.cpus), "-nodefaults"]
        line += [] if self.stays else ["-no-reboot"]
        line += [
            "-display",
            "none",
            "-kernel",
            str(self.kernel.image),
            "-initrd",
            str(initrd),
            "-append",
            " ".join(words),
        ]
        line += ["-serial", f"file:{self.console}", "-device", "virtio-rng-pci", "-device", "virtio-serial-pci"]
        line += ["-chardev", "stdio,id=out,signal=off", "-device", "virtserialport,chardev=out,name=out"]
        for image in (packages, tree):
            line += ["-drive", f"file={image},format=raw,if=virtio,snapshot=on"]
        common = "security_model=none,multidevs=remap"
        line += ["-virtfs", f"local,path=/,mount_tag=root,readonly=on,{common}"]
        line += ["-virtfs", f"local,path={disks.BUILD},mount_tag=build,{common}"]
        return line + self.devices
