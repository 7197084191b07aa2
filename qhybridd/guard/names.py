"""By which names the guard's chains, sets and maps stand in its tables."""

import re
from typing import Final

from qhybridd.guard.prefixes import GuardedTunnel

TABLE: Final = "qhybridd"
FALLBACK: Final = "qhybridd_closed"
"""The table that a boot gets where the guard could not be loaded (`fallback`)."""
OUT_MAPS: Final = ("out4", "out6")
IN_MAPS: Final = ("in4", "in6")
GUARDED: Final = "guarded"
PROBES: Final = "probes"
VERSIONED: Final = (*OUT_MAPS, *IN_MAPS, GUARDED, PROBES)
"""Sets and maps that each load makes anew, under these names with its version behind."""
CLOSED_COMMENT: Final = "closed, or not through "
"""Comment of a tunnel's last rule; its way follows (`way_of`). `Guard.show` reads it back."""
MAP_COMMENT: Final = "to its tunnel by "
"""Comment of the rules that read a prefix map; its name follows. `Guard.show` reads it back."""

_LIVE: Final = re.compile(r"(?:live|esp)_(.+)_[ab]")
_ESP_WAY: Final = re.compile(r"ESP 0x([0-9a-f]{8})(?: by (\S+))?")


def versioned(name: str, version: int) -> str:
    """The name of a set of one load."""
    return f"{name}_{version}"


def split_version(name: str) -> tuple[str, int] | None:
    """The name and the load of a versioned set; None for any other."""
    stem, _, version = name.rpartition("_")
    if stem in VERSIONED and version.isdecimal():
        return stem, int(version)
    return None


def tunnel_chain(direction: str, tunnel: str) -> str:
    """The chain of a tunnel in one direction; its named counter has the same name."""
    return f"{direction}_{tunnel}"


def interface_sets(tunnel: str) -> tuple[str, str]:
    """The two sets of live interfaces of which either one lets the tunnel pass: they are renewed in turn."""
    return f"live_{tunnel}_a", f"live_{tunnel}_b"


def esp_sets(tunnel: str) -> tuple[str, str]:
    """The same for an XFRM tunnel, by its reqid: names of their own, since the keys are of another type."""
    return f"esp_{tunnel}_a", f"esp_{tunnel}_b"


def live_sets(tunnel: GuardedTunnel) -> tuple[str, str]:
    """The live sets that tell this tunnel's packets."""
    return interface_sets(tunnel.name) if tunnel.esp is None else esp_sets(tunnel.name)


def device_chains(device: str) -> tuple[str, str]:
    """The base chains of a guarded device in the netdev table: out, in."""
    return f"egress_{device}", f"ingress_{device}"


def is_device_chain(name: str) -> bool:
    """Whether a chain of the netdev table stands at a device, and is no tunnel's."""
    return name.startswith(("egress_", "ingress_"))


def is_live_set(name: str) -> bool:
    """Whether a set of this name is some tunnel's live set."""
    return _LIVE.fullmatch(name) is not None


def way_of(tunnel: GuardedTunnel) -> str:
    """What a tunnel's packets are known by: `wg0`, `ESP 0x51000007`, `ESP 0x51000007 by ipsec0`."""
    if tunnel.esp is None:
        return tunnel.interface
    return f"ESP 0x{tunnel.esp.reqid:08x}" + (f" by {tunnel.interface}" if tunnel.interface else "")


def read_way(way: str) -> tuple[str, int]:
    """Interface (empty: none) and reqid (0: none) of `way_of`."""
    found = _ESP_WAY.fullmatch(way)
    return (found[2] or "", int(found[1], 16)) if found else (way, 0)
