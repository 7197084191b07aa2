"""Floor 4: the guard, an nftables table of our own that keeps every tunnel closed unless told otherwise in time."""

from qhybridd.guard.fallback import build_fallback
from qhybridd.guard.prefixes import GuardedEsp, GuardedTunnel, flatten
from qhybridd.guard.reading import GuardState
from qhybridd.guard.service import Guard

__all__ = ["Guard", "GuardState", "GuardedEsp", "GuardedTunnel", "build_fallback", "flatten"]
