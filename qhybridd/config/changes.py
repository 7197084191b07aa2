"""What differs between two configurations, so that a reload touches nothing else."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeVar

from qhybridd.config.records import Config

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Difference:
    """Names, each list sorted."""

    added: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()
    changed: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.added or self.removed or self.changed)


@dataclass(frozen=True, slots=True)
class Changes:
    """What a reload has to do."""

    gateway: tuple[str, ...]
    """Fields of `GatewayConfig` that differ; they take effect at the next start."""
    peers: Difference
    tunnels: Difference
    links: Difference = Difference()

    def __bool__(self) -> bool:
        return bool(self.gateway or self.peers or self.tunnels or self.links)


def changes(old: Config, new: Config) -> Changes:
    """From `old` to `new`. A `Config` has no contents of key files: hold pins and PSKs against each other too."""
    fields = type(old.gateway).__dataclass_fields__
    gateway = tuple(name for name in fields if getattr(old.gateway, name) != getattr(new.gateway, name))
    return Changes(
        gateway,
        difference(old.peers, new.peers),
        difference(old.tunnels, new.tunnels),
        difference(old.links, new.links),
    )


def difference(old: Mapping[str, T], new: Mapping[str, T]) -> Difference:
    """By name; also for what was loaded from files, for instance pins."""
    return Difference(
        added=tuple(sorted(new.keys() - old.keys())),
        removed=tuple(sorted(old.keys() - new.keys())),
        changed=tuple(sorted(name for name in old.keys() & new.keys() if old[name] != new[name])),
    )
