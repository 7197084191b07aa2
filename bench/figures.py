"""What a benchmark gives."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Figure:
    """One figure. Times are medians over runs unless `how` says otherwise."""

    what: str
    text: str
    """The figure with its unit."""
    how: str
    """What was measured, so that another can repeat it."""
    goal: str = "–"
    met: bool | None = None
    """None where there is no goal."""
