"""The disks of a machine: one of the Python packages, made again when they change, and one of this tree.

A Python that imports over 9p takes half a minute for the daemon in emulation, from a disk seconds. Both are ext4 and
made by `mke2fs -d`, which needs no mount and no root; a machine writes into a copy that is thrown away.
"""

import shutil
import subprocess
import sys
from pathlib import Path

TREE = Path(__file__).parents[2]
BUILD = TREE / "build"
PYTHON = Path(sys.base_prefix) / "lib" / f"python{sys.version_info.major}.{sys.version_info.minor}"
LEFT_OUT = (
    *("mypy", "mypyc", "ruff", "matplotlib", "mpl_toolkits", "fontTools", "PIL", "pillow.libs", "kiwisolver", "pip"),
    *("test", "idlelib", "ensurepip", "lib2to3", "tkinter"),
)
"""Packages that no test in a machine needs, and that are large."""


def packages(directory: Path) -> Path:
    """The disk with the virtual environment and Python's own library: `venv/` and `python/`."""
    image, stamp = directory / "packages.img", TREE / ".stamps/venv"
    if image.exists() and image.stat().st_mtime > max(stamp.stat().st_mtime, Path(__file__).stat().st_mtime):
        return image
    staging = directory / "packages"
    shutil.rmtree(staging, ignore_errors=True)
    staging.mkdir(parents=True)
    copy(TREE / ".venv", staging / "venv")
    (staging / "python").mkdir()
    for part in PYTHON.iterdir():
        if part.name not in ("site-packages", "dist-packages", *LEFT_OUT) and not part.name.startswith("config-"):
            copy(part, staging / "python" / part.name)
    make(staging, image, room_mb=64)
    return image


def tree(directory: Path, name: str) -> Path:
    """The disk with the files of this tree, changed ones and new ones too, as they are now."""
    staging, image = directory / f"{name}.tree", directory / f"{name}.img"
    shutil.rmtree(staging, ignore_errors=True)
    staging.mkdir(parents=True)
    for part in sorted(TREE.iterdir()):
        if part.name in (".venv", "build", ".git", ".mypy_cache", ".ruff_cache", ".hypothesis", ".pytest_cache"):
            continue
        copy(part, staging / part.name)
    make(staging, image, room_mb=128)
    return image


def copy(source: Path, target: Path) -> None:
    """Copy a tree as links to the same files, or their content on another file system."""
    for how in (["-al"], ["-a"]):
        done = subprocess.run(["cp", *how, str(source), str(target)], capture_output=True, text=True, check=False)
        if done.returncode == 0:
            return
        shutil.rmtree(target, ignore_errors=True)
    raise OSError(done.stderr)


def make(staging: Path, image: Path, *, room_mb: int) -> None:
    """Make an ext4 image of a directory, with some free room, and remove the directory."""
    for path in list(staging.rglob("*")):
        if path.name in LEFT_OUT and path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
    blocks = int(
        subprocess.run(["du", "-sk", str(staging)], capture_output=True, text=True, check=True).stdout.split()[0]
    )
    image.unlink(missing_ok=True)
    size = f"{blocks * 5 // 4 // 1024 + room_mb}M"
    options = ["-q", "-F", "-t", "ext4", "-O", "^has_journal", "-m", "0", "-d", str(staging)]
    command = ["mke2fs", *options, str(image), size]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env={"PATH": "/usr/sbin:/sbin:/usr/bin:/bin"})
    shutil.rmtree(staging)
