"""Floor 4: the guard, an nftables table of our own that keeps every tunnel closed unless told otherwise in time."""

from qhybridd.guard.prefixes import GuardedEsp, GuardedTunnel, flatten
from qhybridd.guard.service import Guard, GuardState

__all__ = ["Guard", "GuardState", "GuardedEsp", "GuardedTunnel", "flatten"]
