"""`make kernel`: the tests that need a real kernel, here if the running one will do, otherwise in a machine."""

import os
import shlex
import subprocess
import sys
import time
from pathlib import Path

from tests.machines import disks, kernels
from tests.machines.machine import Machine

LIMIT_S = 3600
"""For everything that runs in one machine."""
MODULES = (
    "tun dummy veth wireguard esp4 esp6 gcm chacha20poly1305 ccm xfrm_interface xfrm_user sch_netem nft_xfrm nft_socket"
)
"""Loaded beforehand: the first use of a cipher takes seconds in emulation, for its self test."""
JOB = """#!/bin/bash
exec </dev/null >/dev/$(basename $(dirname $(grep -lx out /sys/class/virtio-ports/*/name))) 2>&1
export PATH={tree}/.venv/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root TERM=dumb
export QHYBRIDD_MACHINE=1 PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1
modprobe -qab {modules}
ip link set lo up
hostname {name}
cd {tree}
echo "machine: $(uname -r), booted in $(cut -d' ' -f1 /proc/uptime) s"
{command}
echo $? >{tree}/build/machine/{name}.status
sync
echo o >/proc/sysrq-trigger
sleep 60
"""


def main(words: list[str]) -> int:
    """Run pytest with these arguments, once for each part between `--then`; after `--module`, another module.

    Returns:
        The exit status: 0, or that of the first part that failed. Every part is run.
    """
    if words[:1] == ["--shell"]:  # a look around in a machine
        kernel = kernels.newest()
        return 1 if kernel is None else run(kernel, words[1])
    commands = [["python", "-m", "pytest", "-p", "no:cacheprovider", *part] for part in parts(words)]
    if words[:1] == ["--module"]:
        commands = [["python", "-m", *words[1:]]]
    missing = kernels.lacks() if os.geteuid() == 0 else ["root"]
    if not missing:
        statuses = [subprocess.run([sys.executable, *command[1:]], check=False).returncode for command in commands]
        return next(filter(None, statuses), 0)
    kernel = kernels.newest()
    if kernel is None or not kernels.can_emulate():
        lacking = "; ".join(missing)
        print(f"these tests need a machine, since this kernel refuses: {lacking}\n{kernels.WAY_OUT}", file=sys.stderr)
        if os.environ.get("SKIP_MACHINE") == "1":
            print("NOT RUN, as SKIP_MACHINE=1 asks: every test of the real kernel", file=sys.stderr)
            return 0
        return 1
    # A machine that lacks something would skip its tests, and the run would look as if it had passed.
    commands.insert(0, ["python", "-m", "tests.machines.kernels"])
    script = "\n".join(f"{shlex.join(command)} || failed=${{failed:-$?}}" for command in commands)
    return run(kernel, f"{script}\n(exit ${{failed:-0}})")


def parts(words: list[str]) -> list[list[str]]:
    """The words between `--then`."""
    found: list[list[str]] = [[]]
    for word in words:
        if word == "--then":
            found.append([])
        else:
            found[-1].append(word)
    return found


def run(kernel: kernels.Kernel, command: str, name: str = "kernel") -> int:
    """Run a shell command in one machine, its output to ours as it comes; its exit status."""
    directory = disks.BUILD / "machine"
    directory.mkdir(parents=True, exist_ok=True)
    job, status = directory / f"{name}.sh", directory / f"{name}.status"
    status.unlink(missing_ok=True)
    job.write_text(JOB.format(tree=disks.TREE, modules=MODULES, name=name, command=command))
    job.chmod(0o755)
    began = time.monotonic()
    machine = Machine(name, kernel, f"/bin/bash,{job}")
    process = machine.start()
    print(f"machine: {kernel.image.name}, disks after {time.monotonic() - began:.1f} s", flush=True)
    try:
        process.wait(LIMIT_S)
    except subprocess.TimeoutExpired:
        print(f"machine: ended after {LIMIT_S} s", flush=True)
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
    code = exit_status(status)
    print(f"machine: ended after {time.monotonic() - began:.1f} s with {code}", flush=True)
    if code:
        print(f"--- console ({machine.console}) ---\n" + machine.console_tail())
    return code


def exit_status(path: Path) -> int:
    """The exit status that a machine left in a file; 1 if it left none."""
    text = path.read_text().strip() if path.exists() else ""
    return int(text) if text else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
