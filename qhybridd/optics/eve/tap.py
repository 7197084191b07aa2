"""A plain tap: copies the bytes of the simulated stream, which are no light, and changes nothing."""

from qhybridd.optics.eve.attack import Tally
from qhybridd.optics.records import Arrivals, Request


class Tap:
    """Whoever copies the stream knows every state that Alice prepared: the stream is a simulation and no secret.

    So it has no counterpart in physics, and nothing shows it.
    """

    name = "tap"

    def __init__(self) -> None:
        self._tally = Tally()

    def request(self, below: Request) -> Request:
        """The same."""
        return below

    def act(self, arrivals: Arrivals, below: Request) -> Arrivals:  # noqa: ARG002 - the protocol's signature
        """The same."""
        self._tally += Tally(pulses=arrivals.pulses, passed=arrivals.count)
        return arrivals

    @property
    def tally(self) -> Tally:
        """What passed; a copy counts for no bits, as no light told them."""
        return self._tally
