"""Carries injected faults out on the simulation of one end, and keeps what is broken in words."""

from abc import ABC, abstractmethod
from typing import ClassVar, Protocol

from qhybridd.distill.authenticate import Role
from qhybridd.links.faults import check, describe
from qhybridd.optics.eve import make_attack
from qhybridd.optics.line import Line
from qhybridd.optics.parameters import Optics
from qhybridd.optics.randomness import Randomness
from qhybridd.status import FaultKind, FaultRequest


class Receiving(Protocol):
    """What can be broken of `optics.receiver.Station`."""

    efficiency_factor: float
    dark_factor: float
    clock_offset_ps: float


class Breaking(ABC):
    """The faults of one end. They take effect from the next frame on."""

    role: ClassVar[Role]

    def __init__(self) -> None:
        self._on: dict[FaultKind, str] = {}

    @property
    def told(self) -> list[str]:
        """What is broken now, one line of text each."""
        return [self._on[kind] for kind in sorted(self._on)]

    def change(self, request: FaultRequest) -> None:
        """Break or mend. Raises `OperatorError` (control.refused, config.value for an unknown attack)."""
        check(request, self.role)
        if request.mend:
            for kind in list(self._on) if request.kind is None else [request.kind]:
                self._mend(kind)
                self._on.pop(kind, None)
        elif request.kind is not None:
            self._break(request.kind, request)
            self._on[request.kind] = describe(request)

    @abstractmethod
    def _break(self, kind: FaultKind, request: FaultRequest) -> None: ...

    @abstractmethod
    def _mend(self, kind: FaultKind) -> None: ...


class LineBreaking(Breaking):
    """Of the fibre, and an eavesdropper: at Alice's end."""

    role = Role.ALICE

    def __init__(self, line: Line, optics: Optics, randomness: Randomness) -> None:
        """`randomness`: the eavesdropper's."""
        super().__init__()
        self._line, self._optics, self._randomness = line, optics, randomness
        self._attacks = 0

    def _break(self, kind: FaultKind, request: FaultRequest) -> None:
        if kind == "eve":
            self._attacks += 1
            randomness = self._randomness.child(f"attack {self._attacks}")
            self._line.attack = make_attack(request.attack, self._optics, request.value, randomness)
        else:
            self._bend(kind, request.value, cut=True)

    def _mend(self, kind: FaultKind) -> None:
        if kind == "eve":
            self._line.attack = None
        else:
            self._bend(kind, 0.0, cut=False)

    def _bend(self, kind: FaultKind, value: float, *, cut: bool) -> None:
        fibre = self._line.fibre
        match kind:
            case "cut":
                fibre.cut = cut
            case "loss":
                fibre.extra_loss_db = value
            case "degradation":
                fibre.loss_db_per_hour = value
            case "misalignment":
                fibre.extra_angle_rad = value


class StationBreaking(Breaking):
    """Of detectors and clock: at Bob's end."""

    role = Role.BOB

    def __init__(self, station: Receiving) -> None:
        super().__init__()
        self._station = station

    def _break(self, kind: FaultKind, request: FaultRequest) -> None:
        self._set(kind, request.value)

    def _mend(self, kind: FaultKind) -> None:
        self._set(kind, 0.0 if kind == "clock" else 1.0)

    def _set(self, kind: FaultKind, value: float) -> None:
        match kind:
            case "efficiency":
                self._station.efficiency_factor = value
            case "dark":
                self._station.dark_factor = value
            case "clock":
                self._station.clock_offset_ps = value
