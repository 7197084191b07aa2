"""Tests in network namespaces: they need root, and skip with the reason where they cannot run."""

import os
from pathlib import Path

import pytest

DEMO = Path(__file__).parents[2] / "configs/demo"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if os.geteuid() == 0:
        return
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.skip(reason="network namespaces need root"))


@pytest.fixture
def demo_configs() -> dict[str, str]:
    """The configuration files of the demo."""
    return {name: (DEMO / f"{name}.toml").read_text() for name in ("alice", "bob")}
