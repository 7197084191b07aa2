"""The states of a rotation and every transition between them: one table, from which the diagram in the docs is drawn.

Commit order: the answerer activates before the proposer, and each only after the other proved that it holds the key.
"""

from collections.abc import Mapping
from enum import Enum
from typing import Final


class Phase(Enum):
    """Where the rotation of one tunnel stands."""

    IDLE = "idle"
    # proposer
    ASKED = "asked"
    PREPARING = "preparing"
    PROPOSED = "proposed"
    OPENING = "opening"
    STAGING = "staging"
    COMMITTED = "committed"
    DOUBT = "in doubt"
    # answerer
    ANSWERING = "answering"
    ANSWERED = "answered"
    INSTALLING = "installing"
    # both
    ACTIVATING = "activating"
    OBSERVING = "observing"


class Trigger(Enum):
    """What moves a rotation."""

    BEGIN = "due"
    STATE = "State"
    READY = "results in"
    PREPARE = "Prepare"
    PREPARED = "Prepared"
    STAGED = "staged"
    COMMIT = "Commit"
    INSTALLED = "Installed"
    ACTIVATED = "activated"
    PROVEN = "both observed"
    LOST = "no answer"
    SETTLED_NEW = "the new key works"
    ABANDON = "failed"


_FORWARD: Final[Mapping[tuple[Phase, Trigger], Phase]] = {
    (Phase.IDLE, Trigger.BEGIN): Phase.ASKED,
    (Phase.ASKED, Trigger.STATE): Phase.PREPARING,
    (Phase.PREPARING, Trigger.READY): Phase.PROPOSED,
    (Phase.PROPOSED, Trigger.PREPARED): Phase.OPENING,
    (Phase.OPENING, Trigger.READY): Phase.STAGING,
    (Phase.STAGING, Trigger.STAGED): Phase.COMMITTED,
    (Phase.COMMITTED, Trigger.INSTALLED): Phase.ACTIVATING,
    (Phase.COMMITTED, Trigger.LOST): Phase.DOUBT,
    (Phase.DOUBT, Trigger.INSTALLED): Phase.ACTIVATING,
    (Phase.DOUBT, Trigger.SETTLED_NEW): Phase.OBSERVING,
    (Phase.IDLE, Trigger.PREPARE): Phase.ANSWERING,
    (Phase.ANSWERING, Trigger.READY): Phase.ANSWERED,
    (Phase.ANSWERED, Trigger.COMMIT): Phase.INSTALLING,
    (Phase.INSTALLING, Trigger.STAGED): Phase.ACTIVATING,
    (Phase.ACTIVATING, Trigger.ACTIVATED): Phase.OBSERVING,
    (Phase.OBSERVING, Trigger.PROVEN): Phase.IDLE,
}

TABLE: Final[Mapping[tuple[Phase, Trigger], Phase]] = {
    **_FORWARD,
    **{(phase, Trigger.ABANDON): Phase.IDLE for phase in Phase if phase is not Phase.IDLE},
}
"""Every legal transition; anything else raises and changes nothing."""


def diagram() -> str:
    """The table as a Mermaid state diagram; transitions to `idle` by failure are left out, every phase has one."""
    lines = ["stateDiagram-v2", "    [*] --> idle"]
    for (phase, trigger), following in _FORWARD.items():
        lines.append(f"    {phase.value.replace(' ', '_')} --> {following.value.replace(' ', '_')}: {trigger.value}")
    return "\n".join(lines)
