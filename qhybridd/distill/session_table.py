"""The phases of a block and every transition between them: one table, from which the diagram in the docs is drawn.

The messages go strictly in turn, so both ends run the same table: each message moves the one that sends it and the one
that receives it from the same phase to the same phase.
"""

from collections.abc import Mapping
from enum import Enum
from typing import Final

from qhybridd.distill import messages as msg
from qhybridd.distill.authenticate import Role


class Phase(Enum):
    """Where a block stands: named after the last message."""

    READY = "ready"
    OPENED = "opened"
    DETECTED = "detected"
    SIFTED = "sifted"
    MEASURED = "measured"
    DECODING = "decoding"
    FAILED = "failed"
    DECODED = "decoded"
    COMPARING = "comparing"
    DIFFERING = "differing"
    LOCATING = "locating"
    LOCATED = "located"
    PATCHED = "patched"
    CHECKED = "checked"
    AMPLIFIED = "amplified"
    KEPT = "kept"
    DROPPED = "dropped"


OVER: Final = frozenset({Phase.KEPT, Phase.DROPPED})

_FORWARD: Final[Mapping[tuple[Phase, type[msg.Message]], Phase]] = {
    (Phase.READY, msg.Open): Phase.OPENED,
    (Phase.OPENED, msg.Detected): Phase.DETECTED,
    (Phase.DETECTED, msg.Sifted): Phase.SIFTED,
    (Phase.SIFTED, msg.Measured): Phase.MEASURED,
    (Phase.MEASURED, msg.Syndromes): Phase.DECODING,
    (Phase.DECODING, msg.Failed): Phase.FAILED,
    (Phase.FAILED, msg.More): Phase.DECODING,
    (Phase.DECODING, msg.Decoded): Phase.DECODED,
    (Phase.DECODED, msg.Hashes): Phase.COMPARING,
    (Phase.COMPARING, msg.Differ): Phase.DIFFERING,
    (Phase.DIFFERING, msg.FrameHashes): Phase.LOCATING,
    (Phase.LOCATING, msg.Failed): Phase.LOCATED,
    (Phase.LOCATED, msg.Whole): Phase.PATCHED,
    (Phase.PATCHED, msg.Decoded): Phase.DECODED,
    (Phase.COMPARING, msg.Checked): Phase.CHECKED,
    (Phase.CHECKED, msg.Amplify): Phase.AMPLIFIED,
    (Phase.AMPLIFIED, msg.Accept): Phase.KEPT,
}

TABLE: Final[Mapping[tuple[Phase, type[msg.Message]], Phase]] = {
    **_FORWARD,
    **{(phase, msg.Abort): Phase.DROPPED for phase in Phase if phase not in OVER},
}
"""Every legal transition. A message that it does not have ends the block with nothing kept."""

FROM_ALICE: Final = frozenset(
    {msg.Open, msg.Sifted, msg.Syndromes, msg.More, msg.Hashes, msg.FrameHashes, msg.Whole, msg.Amplify}
)
"""What only Alice sends; all else but `Abort` only Bob."""

TURN: Final[Mapping[Phase, Role]] = {
    phase: Role.ALICE if message in FROM_ALICE else Role.BOB for phase, message in _FORWARD
}
"""Whose turn it is in a phase: only that end sends, be it `Abort`."""


def diagram() -> str:
    """The table as a Mermaid state diagram; transitions to `dropped` are left out, every phase has one."""
    lines = ["stateDiagram-v2", "    [*] --> ready"]
    for (phase, message), following in _FORWARD.items():
        way = "A→B" if TURN[phase] is Role.ALICE else "B→A"
        lines.append(f"    {phase.value} --> {following.value}: {message.__name__} {way}")
    return "\n".join([*lines, "    kept --> [*]"])
