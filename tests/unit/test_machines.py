"""What the harness of the emulated machines computes; the machines themselves are tried by `make kernel`."""

import struct
from ipaddress import IPv4Network
from pathlib import Path

import pytest

from tests.machines.hosts import seen
from tests.machines.initramfs import archive, closure
from tests.machines.kernels import Kernel, newest_of
from tests.machines.run import exit_status, parts


def test_an_archive_holds_names_modes_and_contents() -> None:
    written = archive({"init": (0o755, b"#!/busybox sh\n"), "order": (0o644, b"")})
    found, at = {}, 0
    while True:
        assert written[at : at + 6] == b"070701"
        fields = [int(written[at + 6 + 8 * number : at + 14 + 8 * number], 16) for number in range(13)]
        mode, size, name_size = fields[1], fields[6], fields[11]
        name = written[at + 110 : at + 110 + name_size - 1].decode()
        start = (at + 110 + name_size + 3) // 4 * 4
        if name == "TRAILER!!!":
            break
        found[name] = (mode, written[start : start + size])
        at = (start + size + 3) // 4 * 4
    assert found == {"dev": (0o40755, b""), "init": (0o100755, b"#!/busybox sh\n"), "order": (0o100644, b"")}


def test_a_module_comes_after_what_it_needs(tmp_path: Path) -> None:
    (tmp_path / "modules.dep").write_text(
        "fs/ext4.ko.xz: fs/jbd2.ko lib/crc-16.ko\nfs/jbd2.ko: lib/crc-16.ko\nlib/crc-16.ko:\n"
    )
    order = closure(Kernel(tmp_path, tmp_path), ("ext4", "built_in"))
    assert [path.name for path in order] == ["crc-16.ko", "jbd2.ko", "ext4.ko.xz"]


def test_the_newest_kernel_by_number_with_modules(tmp_path: Path) -> None:
    boot, modules = tmp_path / "boot", tmp_path / "modules"
    boot.mkdir()
    for version in ("6.1.0-9-amd64", "6.1.0-56-amd64", "6.12.0-1-amd64"):
        (boot / f"vmlinuz-{version}").touch()
        (modules / version).mkdir(parents=True)
    for version in ("6.1.0-9-amd64", "6.1.0-56-amd64"):
        (modules / version / "modules.dep").touch()
    found = newest_of(boot, modules)
    assert found is not None
    assert found.image.name == "vmlinuz-6.1.0-56-amd64"
    assert newest_of(modules, boot) is None


def test_a_capture_counts_packets_from_and_to_a_network(tmp_path: Path) -> None:
    def record(source: str, destination: str, kind: int = 0x0800) -> bytes:
        addresses = b"".join(bytes(map(int, text.split("."))) for text in (source, destination))
        frame = bytes(12) + struct.pack(">H", kind) + bytes(12) + addresses + bytes(8)
        return struct.pack("<IIII", 0, 0, len(frame), len(frame)) + frame

    records = [record("10.77.1.1", "192.0.2.2"), record("192.0.2.2", "10.77.0.9"), record("192.0.2.1", "192.0.2.2")]
    capture = tmp_path / "capture"
    capture.write_bytes(
        bytes(24) + b"".join(records) + record("10.77.1.1", "10.77.2.1", kind=0x86DD) + b"half a record"
    )
    assert seen(capture, IPv4Network("10.77.0.0/16")) == 2


@pytest.mark.parametrize(("text", "status"), [("0\n", 0), ("5\n", 5), ("", 1), (None, 1)])
def test_a_machine_that_leaves_no_status_failed(tmp_path: Path, text: str | None, status: int) -> None:
    path = tmp_path / "status"
    if text is not None:
        path.write_text(text)
    assert exit_status(path) == status


def test_parts_of_a_run() -> None:
    assert parts(["-q", "one", "--then", "two"]) == [["-q", "one"], ["two"]]
    assert parts([]) == [[]]
