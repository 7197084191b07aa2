"""The table of a block's phases, and the page that shows it."""

from dataclasses import fields
from pathlib import Path

from qhybridd.distill import messages as msg
from qhybridd.distill import record
from qhybridd.distill.authenticate import Role
from qhybridd.distill.budget import EpsilonBudget
from qhybridd.distill.session_table import FROM_ALICE, OVER, TABLE, TURN, Phase, diagram

PAGE = (Path(__file__).parents[2] / "docs" / "distillation.md").read_text()


def test_the_diagram_in_the_docs_is_drawn_from_the_table() -> None:
    assert diagram() in PAGE


def test_every_message_and_every_field_of_the_record_is_explained() -> None:
    for message in msg.Message.__args__:
        assert f"`{message.__name__}`" in PAGE
    for part in (
        record.BlockRecord,
        record.Authentication,
        record.Reconciliation,
        record.Disclosed,
        record.Outcome,
        EpsilonBudget,
    ):
        for field in fields(part):
            assert any(name in PAGE for name in (f"`{field.name}`", f"`{field.name}.", f".{field.name}`")), field.name


def test_every_phase_is_reached_and_leads_to_an_end() -> None:
    reached = {Phase.READY}
    for _ in Phase:
        reached |= {following for (phase, _), following in TABLE.items() if phase in reached}
    assert reached == set(Phase)
    leading = set(OVER)
    for _ in Phase:
        leading |= {phase for (phase, message), after in TABLE.items() if message is not msg.Abort and after in leading}
    assert leading == set(Phase)
    assert not any(phase in OVER for phase, _ in TABLE)


def test_turns_alternate() -> None:
    for (phase, message), following in TABLE.items():
        if message is msg.Abort:
            assert following is Phase.DROPPED
            continue
        assert (message in FROM_ALICE) == (TURN[phase] is Role.ALICE)
        if following not in OVER:
            assert TURN[following] is not TURN[phase]
    assert set(TURN) == set(Phase) - OVER
