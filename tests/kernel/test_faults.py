"""Every fault of the matrix, on both kinds of tunnel, on the real kernel: each ends as stated, in time, with nothing in
clear. What was measured goes to docs/faults.md (`make faults`)."""

from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest

from tests.kernel.abilities import has_esp, has_netem
from tests.kernel.fault_table import note
from tests.kernel.faults import FAULTS, STEPS, Fault, Outcome, hang_title, heal
from tests.kernel.hang import hang_on
from tests.kernel.world import World
from tests.netns.worlds import ORDINARY, SEAMLESS, SHORT, Plan


@dataclass
class Keeper:
    """Keeps one world for many tests, and makes another when a test left it broken."""

    plans: tuple[Plan, ...]
    world: World | None = None
    broken: bool = field(default=False)

    def take(self) -> World:
        """A world that is whole."""
        if self.broken:
            self.drop()
        if self.world is None:
            self.world = World.make(*self.plans)
        self.broken = True  # until the test says otherwise
        return self.world

    def give_back(self) -> None:
        """The test went well."""
        self.broken = False

    def drop(self) -> None:
        """Take it down."""
        world, self.world, self.broken = self.world, None, False
        if world is not None:
            world.close()


@pytest.fixture(scope="module")
def keeper() -> Iterator[Keeper]:
    """Both kinds of tunnel where the kernel has ESP, else WireGuard alone."""
    kept = Keeper((SHORT, ORDINARY, SEAMLESS) if has_esp() else (SHORT, ORDINARY))
    yield kept
    kept.drop()


IN_EVERY_RUN = {"kill", "freeze-both", "policies", "states", "ruleset"}
"""One of each kind; the others take half a minute each, and are left to `make faults`."""


@pytest.mark.parametrize(
    "fault",
    [
        pytest.param(fault, id=fault.name, marks=() if fault.name in IN_EVERY_RUN else pytest.mark.long)
        for fault in FAULTS
    ],
)
def test_a_fault_ends_as_stated(keeper: Keeper, fault: Fault) -> None:
    if fault.name == "lossy" and not has_netem():
        pytest.skip("this kernel has no netem")
    if not any(plan.name in fault.outcomes for plan in keeper.plans):
        pytest.skip("this kernel has no ESP")
    _suffer(keeper, fault)


LONE = [
    pytest.param(SHORT, marks=pytest.mark.long, id="wireguard"),
    pytest.param(SEAMLESS, marks=pytest.mark.long, id="esp"),
]


@pytest.fixture(scope="module", params=LONE)
def lone(request: pytest.FixtureRequest) -> Iterator[Keeper]:
    """One tunnel alone: its rotation can be followed on the wire."""
    if request.param is SEAMLESS and not has_esp():
        pytest.skip("this kernel has no ESP")
    kept = Keeper((request.param,))
    yield kept
    kept.drop()


@pytest.mark.parametrize("step", range(len(STEPS)), ids=[step.split()[0] + str(at) for at, step in enumerate(STEPS)])
def test_a_peer_may_hang_on_any_message(lone: Keeper, step: int) -> None:
    name = lone.plans[0].name
    _suffer(lone, Fault(f"hang-{step}", hang_title(step), hang_on(step), heal, {name: Outcome.CLOSES}))


def _suffer(keeper: Keeper, fault: Fault) -> None:
    """Measure it, print and note the figures."""
    world = keeper.take()
    try:
        rows = world.suffer(fault)
    except Exception as error:
        for gateway in world.lab.gateways.values():
            error.add_note(gateway.last_words())
        raise
    for row in rows:
        times = [
            f"{what} {seconds:.2f} s"
            for what, seconds in (
                ("closed", row.close_s),
                ("after the hard expiry", row.after_expiry_s),
                ("open again", row.recover_s),
            )
            if seconds is not None
        ]
        print(f"\n{row.fault}, {row.target}: {row.outcome}; {', '.join(times)}; {row.in_clear} in clear")
        note(row)
    keeper.give_back()
