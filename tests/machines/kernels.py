"""Which kernel a machine boots, and whether the running one would do."""

import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Kernel:
    """A kernel of the distribution, installed on this host."""

    image: Path
    """The file that is booted."""
    modules: Path
    """Its modules, with `modules.dep`."""


WAY_OUT = "install qemu-system-x86, linux-image-amd64, busybox-static and systemd: deploy/install-deps machine"
"""What to do where there is no machine to be had."""


def can_emulate() -> bool:
    """Whether the programs that make and run a machine are installed."""
    path = os.environ.get("PATH", "") + ":/usr/sbin:/sbin"
    return all(shutil.which(name, path=path) for name in ("qemu-system-x86_64", "busybox", "mke2fs", "setpriv"))


def newest() -> Kernel | None:
    """The newest installed kernel that has its modules beside it, or None."""
    return newest_of(Path("/boot"), Path("/lib/modules"))


def newest_of(boot: Path, modules: Path) -> Kernel | None:
    """The newest kernel of a directory that has its modules in another, or None."""
    found = [
        Kernel(image, beside)
        for image in boot.glob("vmlinuz-*")
        if ((beside := modules / image.name.removeprefix("vmlinuz-")) / "modules.dep").exists()
    ]
    return max(found, key=lambda kernel: [int(part) for part in re.findall(r"\d+", kernel.image.name)], default=None)


PROBES = (
    "ip link add probe type wireguard",
    "ip link add probex type xfrm dev lo if_id 1",
    f"ip xfrm state add src 192.0.2.1 dst 192.0.2.2 proto esp spi 256 aead 'rfc4106(gcm(aes))' 0x{'5a' * 36} 128",
    "tc qdisc add dev lo root netem delay 1ms",
)
"""What the tests in `tests/kernel` need of a kernel, each tried in a namespace that ends with the command."""


def lacks() -> list[str]:
    """Those of the probes that the running kernel refuses."""
    return [
        probe
        for probe in PROBES
        if subprocess.run(
            ["unshare", "--net", "sh", "-c", f"PATH=$PATH:/sbin:/usr/sbin; ip link set lo up; {probe}"],
            capture_output=True,
            check=False,
        ).returncode
    ]


if __name__ == "__main__":
    if missing := lacks():
        sys.exit(f"this kernel refuses: {'; '.join(missing)}")
