"""deploy/build-liboqs refuses what it must not build. (That it builds is seen when it is run: it takes a minute.)"""

import shutil
import subprocess
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "deploy" / "build-liboqs"
TOOLS = ("bash", "cmake", "cc", "make", "sha256sum", "tar", "nproc", "realpath", "mktemp", "rm", "mkdir")
pytestmark = pytest.mark.skipif(
    any(shutil.which(tool) is None for tool in TOOLS), reason="cmake or a C compiler is missing"
)


def run(*arguments: str, path: str | None = None) -> subprocess.CompletedProcess[str]:
    environment = {"PATH": path} if path else None
    return subprocess.run(
        [shutil.which("bash") or "bash", SCRIPT, *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        env=environment,
        check=False,
    )


def test_an_altered_archive_is_refused(tmp_path: Path) -> None:
    archive = tmp_path / "source.crate"
    archive.write_bytes(b"not what was pinned")
    done = run("--prefix", str(tmp_path / "prefix"), "--crate", str(archive))
    assert done.returncode == 1
    assert "does not have the checksum" in done.stderr
    assert not (tmp_path / "prefix").exists()


def test_a_missing_archive_is_refused(tmp_path: Path) -> None:
    done = run("--prefix", str(tmp_path / "prefix"), "--crate", str(tmp_path / "nothing"))
    assert done.returncode == 1
    assert not (tmp_path / "prefix").exists()


def test_without_cargo_it_says_what_to_do(tmp_path: Path) -> None:
    for tool in TOOLS:
        (tmp_path / tool).symlink_to(shutil.which(tool) or "")
    done = run("--prefix", str(tmp_path / "prefix"), path=str(tmp_path))
    assert done.returncode == 1
    assert "cargo is missing" in done.stderr
    assert "--crate" in done.stderr


def test_without_a_compiler_it_says_what_to_install(tmp_path: Path) -> None:
    (tmp_path / "nproc").symlink_to(shutil.which("nproc") or "")
    done = run(path=str(tmp_path))
    assert done.returncode == 1
    assert "missing: cmake cc make sha256sum tar" in done.stderr


@pytest.mark.parametrize("arguments", [("--nonsense",), ("--prefix",), ("--crate",)])
def test_wrong_arguments_are_refused(arguments: tuple[str, ...]) -> None:
    assert run(*arguments).returncode == 1


def test_help_is_the_head_of_the_script() -> None:
    done = run("--help")
    assert done.returncode == 0
    assert done.stdout.startswith("Builds the C library liboqs")
    assert "--prefix" in done.stdout
    assert "set -e" not in done.stdout
