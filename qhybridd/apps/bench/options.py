"""What a run of the benchmark covers."""

from dataclasses import dataclass
from typing import Final

QBERS: Final = (0.01, 0.02, 0.03, 0.05, 0.08)


@dataclass(frozen=True, slots=True)
class Options:
    """As the command line gives them."""

    qbers: tuple[float, ...] = QBERS
    quick: bool = False
    """Small sizes: seconds in all, figures are rough."""
    full: bool = False
    """Sizes up to 10^8 bits: minutes."""
