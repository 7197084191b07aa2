"""Everything above the lower end of the way: the source, the fibre, and perhaps somebody in between."""

from typing import Protocol

from qhybridd.optics.fibre import FibreState
from qhybridd.optics.parameters import Optics
from qhybridd.optics.randomness import Randomness
from qhybridd.optics.records import Arrivals, Light, Prepared, Request
from qhybridd.optics.source import Emitter


class InBetween(Protocol):
    """Who stands in the way: what `Line` needs of an attack."""

    def request(self, below: Request) -> Request:
        """What it asks of the way above, where it is asked for `below` itself."""
        ...

    def act(self, arrivals: Arrivals, below: Request) -> Arrivals:
        """What it sends on instead of what arrives."""
        ...


class Line:
    """Source, fibre and attack in one process. One thread may ask for frames while another one recalls."""

    def __init__(self, optics: Optics, randomness: Randomness) -> None:
        """Raises `HostError` (host.memory) where no locked memory is left."""
        self._repetition_hz = optics.source.repetition_hz
        self._emitter = Emitter(optics.source, randomness)
        gate_ps = max(detector.gate_ps for detector in optics.receiver.detectors)
        self.fibre = FibreState(optics.fibre, self._repetition_hz, gate_ps, randomness.child("fibre"))
        self.attack: InBetween | None = None

    def frame(self, first: int, pulses: int, request: Request) -> Arrivals:
        """The light of the frame [first, first + pulses) at the lower end; the fibre ages by the frame's time."""
        attack = self.attack
        wanted = request if attack is None else attack.request(request)
        conditions = self.fibre.step(pulses / self._repetition_hz)
        transmission, noise, light = (
            (conditions.transmission, conditions.noise_photons, conditions.light)
            if wanted.fibre
            else (1.0, 0.0, Light())
        )
        arrivals = self._emitter.emit(
            first, pulses, transmission * wanted.thinning, noise * wanted.thinning, light, wanted.photons_least
        )
        return arrivals if attack is None else attack.act(arrivals, request)

    def recall(self, first: int, pulses: int, gaps: bytes | memoryview) -> Prepared:
        """What was prepared in the pulses that clicked: `Emitter.recall`."""
        return self._emitter.recall(first, pulses, gaps)
