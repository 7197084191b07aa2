"""Imports go down the floors only, and never in a circle."""

import ast
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[2]
PACKAGE = "qhybridd"

FLOORS: dict[str, int] = {
    "": 0,
    "_native": 0,
    "bits": 0,
    "errors": 0,
    "secret": 0,
    "crypto": 1,
    "optics": 1,
    "distill": 2,
    "exposure": 3,
    "health": 3,
    "keystore": 3,
    "policy": 3,
    "protocol": 3,
    "armour": 4,
    "clock": 4,
    "config": 4,
    "guard": 4,
    "keyexchange": 4,
    "keyfiles": 4,
    "kme": 4,
    "links": 4,
    "netlink": 4,
    "peerfile": 4,
    "secretfile": 4,
    "sources": 4,
    "statefile": 4,
    "status": 4,
    "targets": 4,
    "telemetry": 4,
    "transport": 4,
    "apps": 5,
    "boot": 5,
    "control": 5,
    "daemon": 5,
    "__main__": 6,
    "cli": 6,
}
"""The first part of a module's name below the package, and its floor (docs: the house)."""

PURE_FORBIDDEN = {"asyncio", "random", "secrets", "select", "socket", "ssl", "subprocess", "threading", "time"}
"""What floor 3 may not import: the pure core has no clock, socket, process, thread or random generator of its own."""


class Program(NamedTuple):
    """Every module of the package by dotted name, and what it imports when it is loaded or when it runs."""

    imports: dict[str, set[str]]
    """With those under `if TYPE_CHECKING:`: a type that goes up is a dependency that goes up."""
    at_run_time: dict[str, set[str]]
    """Without them: on one floor two modules may name each other's types."""


class WithoutTypes(ast.NodeTransformer):
    """Drops what stands under `if TYPE_CHECKING:`."""

    def visit_If(self, node: ast.If) -> ast.AST | None:
        if isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
            return None
        return self.generic_visit(node)


def find_imports(root: Path) -> Program:
    """The program below `root`/qhybridd."""
    files = {_name(path, root): path for path in sorted((root / PACKAGE).rglob("*.py"))}
    trees = {name: ast.parse(path.read_text(), str(path)) for name, path in files.items()}
    packages = {name for name, path in files.items() if path.name == "__init__.py"}
    everything = {name: _imported(tree, name, packages, set(files)) for name, tree in trees.items()}
    running = {name: _imported(WithoutTypes().visit(tree), name, packages, set(files)) for name, tree in trees.items()}
    return Program(everything, running)


def _name(path: Path, root: Path) -> str:
    parts = path.relative_to(root).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def _imported(tree: ast.AST, name: str, packages: set[str], modules: set[str]) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            package = name if name in packages else name.rpartition(".")[0]
            for _ in range(node.level - 1):
                package = package.rpartition(".")[0]
            base = ".".join(filter(None, [package if node.level else "", node.module or ""]))
            found |= {
                full if (full := f"{base}.{alias.name}") in modules or full == f"{PACKAGE}._native" else base
                for alias in node.names
            }
    return found - {name}


def floor_of(module: str) -> int | None:
    """The floor of a module of the package; None for one that the table does not know."""
    return FLOORS.get(".".join(module.split(".")[1:2]))


def find_violations(program: Program) -> list[str]:
    """Every module without a floor, every upward import, every circle, every impure import of the core."""
    imports = program.imports
    found = [f"{module} has no floor: add it to the table" for module in imports if floor_of(module) is None]
    for module, targets in imports.items():
        floor = floor_of(module)
        for target in sorted(targets):
            above = floor_of(target) if target.split(".")[0] == PACKAGE else None
            if floor is not None and above is not None and above > floor:
                found.append(f"{module} (floor {floor}) imports {target} (floor {above})")
        if floor == 3:
            found += [f"{module} is pure and imports {bad}" for bad in sorted(targets & PURE_FORBIDDEN)]
    return found + find_circles(program.at_run_time)


def find_circles(graph: dict[str, set[str]]) -> list[str]:
    """One line for each circle met by a depth-first walk.

    A package's `__init__` that imports its own modules is no circle as long as they do not import the package.
    """
    found: list[str] = []
    done: set[str] = set()

    def walk(module: str, trail: list[str]) -> None:
        if module in trail:
            found.append("circle: " + " -> ".join([*trail[trail.index(module) :], module]))
            return
        if module in done:
            return
        for target in sorted(graph.get(module, ())):
            walk(target, [*trail, module])
        done.add(module)

    for module in sorted(graph):
        walk(module, [])
    return found


def test_imports_go_down_only() -> None:
    program = find_imports(ROOT)
    assert len(program.imports) > 20
    assert find_violations(program) == []


def write(root: Path, files: dict[str, str]) -> Program:
    for name, text in files.items():
        path = root / PACKAGE / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        (path.parent / "__init__.py").touch()
    return find_imports(root)


@pytest.mark.parametrize(
    ("files", "complaint"),
    [
        (
            {"crypto/a.py": "from qhybridd.cli.main import cli\n", "cli/main.py": ""},
            "qhybridd.crypto.a (floor 1) imports qhybridd.cli.main (floor 6)",
        ),
        (
            {"errors.py": "def late():\n    import qhybridd.config\n", "config/__init__.py": ""},
            "qhybridd.errors (floor 0) imports qhybridd.config (floor 4)",
        ),
        (
            {"protocol/a.py": "if TYPE_CHECKING:\n    from qhybridd import daemon\n", "daemon.py": ""},
            "qhybridd.protocol.a (floor 3) imports qhybridd.daemon (floor 5)",
        ),
        (
            {"protocol/a.py": "from ..apps import demo\n", "apps/demo.py": ""},
            "qhybridd.protocol.a (floor 3) imports qhybridd.apps.demo (floor 5)",
        ),
        (
            {"guard/a.py": "from . import b\n", "guard/b.py": "from qhybridd.guard.a import x\n"},
            "circle: qhybridd.guard.a -> qhybridd.guard.b -> qhybridd.guard.a",
        ),
        ({"protocol/a.py": "import time\n"}, "qhybridd.protocol.a is pure and imports time"),
        ({"attic.py": ""}, "qhybridd.attic has no floor: add it to the table"),
    ],
)
def test_each_violation_is_seen(tmp_path: Path, files: dict[str, str], complaint: str) -> None:
    assert find_violations(write(tmp_path, files)) == [complaint]


def test_downward_imports_pass(tmp_path: Path) -> None:
    files = {
        "daemon.py": "from qhybridd.protocol.a import x\nfrom qhybridd import _native\nimport time\n",
        "protocol/a.py": "from qhybridd.errors import y\nfrom .b import z\n",
        "protocol/b.py": "if TYPE_CHECKING:\n    from qhybridd.protocol.a import x\n",
        "errors.py": "",
    }
    assert find_violations(write(tmp_path, files)) == []
