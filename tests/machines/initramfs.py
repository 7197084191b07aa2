"""The first file system of a machine: busybox, the modules that its disks need, and `init.sh`, as a cpio archive.

The archive is written here (format: Documentation/driver-api/early-userspace/buffer-format.rst, "newc"), because the
host's own initramfs holds other modules and takes seconds more to unpack in emulation.
"""

import lzma
import shutil
import stat
from pathlib import Path

from tests.machines.kernels import Kernel

MODULES = ("virtio_pci", "virtio_blk", "virtio_console", "ext4", "9pnet_virtio", "9p", "overlay", "virtio_rng")
INIT = Path(__file__).with_name("init.sh")


def write(kernel: Kernel, target: Path) -> None:
    """Write the archive for a kernel to `target`.

    Raises:
        FileNotFoundError: there is no static busybox.
    """
    busybox = shutil.which("busybox", path="/bin:/usr/bin")
    if busybox is None:
        raise FileNotFoundError("busybox (Debian: busybox-static)")
    files = {"busybox": (0o755, Path(busybox).read_bytes()), "init": (0o755, INIT.read_bytes())}
    order = []
    for path in closure(kernel, MODULES):
        name = path.name.removesuffix(".xz")
        files[name] = (0o644, lzma.decompress(path.read_bytes()) if path.suffix == ".xz" else path.read_bytes())
        order.append(name)
    files["order"] = (0o644, "\n".join(order).encode() + b"\n")
    target.write_bytes(archive(files))


def closure(kernel: Kernel, names: tuple[str, ...]) -> list[Path]:
    """The files of modules and of all that they need, each after what it needs; what is built in is left out."""
    needs = {}
    for line in (kernel.modules / "modules.dep").read_text().splitlines():
        path, _, rest = line.partition(":")
        needs[plain(path)] = (kernel.modules / path, [plain(other) for other in rest.split()])
    softly = {"ext4": ["crc32c_generic"], "9p": [], "virtio_blk": []}  # found by name when a disk is mounted
    order: dict[str, Path] = {}

    def add(name: str) -> None:
        if name in order or name not in needs:
            return
        path, before = needs[name]
        for other in before + softly.get(name, []):
            add(other)
        order[name] = path

    for name in names:
        add(name)
    return list(order.values())


def plain(path: str) -> str:
    """A module's name from its path: `kernel/fs/ext4/ext4.ko.xz` is `ext4`."""
    return Path(path).name.split(".ko")[0].replace("-", "_")


def archive(files: dict[str, tuple[int, bytes]]) -> bytes:
    """A newc archive of regular files (mode, content) by name."""
    entries = [("dev", stat.S_IFDIR | 0o755, b"")]
    entries += [(name, stat.S_IFREG | mode, content) for name, (mode, content) in files.items()]
    entries.append(("TRAILER!!!", 0, b""))
    out = bytearray()
    for number, (name, mode, content) in enumerate(entries, 1):
        encoded = name.encode() + b"\0"
        fields = (number, mode, 0, 0, 1, 0, len(content), 0, 0, 0, 0, len(encoded), 0)
        out += b"070701" + b"".join(b"%08x" % field for field in fields) + encoded
        out += bytes(-len(out) % 4) + content
        out += bytes(-len(out) % 4)
    return bytes(out)
