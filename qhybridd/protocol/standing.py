"""Where a tunnel stands at one end, between and during rotations."""

from dataclasses import dataclass
from typing import Final

from qhybridd.crypto.kdf import chain_tag
from qhybridd.protocol.actions import LiveEpoch
from qhybridd.protocol.messages import Held, State
from qhybridd.secret import Secret

NOTHING: Final = Held()


@dataclass(slots=True)
class Standing:
    """What this end knows of its epochs."""

    live: LiveEpoch | None = None
    """The epoch under which traffic may pass; None while the tunnel is closed."""
    installed: Held = NOTHING
    """The key on the device as far as known."""
    observed: int = 0
    """The epoch of which this end saw proof under traffic; 0 if none."""
    last_epoch: int = 0
    """The highest epoch ever used here."""
    chain: Secret | None = None
    """The chain key; it moves on only when an epoch is live."""

    @property
    def live_held(self) -> Held:
        """The live epoch and its key's tag."""
        return Held(self.live.epoch, self.live.tag) if self.live else NOTHING

    @property
    def chain_tag(self) -> bytes:
        """The public tag of the chain key; empty when there is none."""
        return chain_tag(self.chain) if self.chain is not None else b""

    def message(self, tunnel: str) -> State:
        """What the peer is told."""
        return State(tunnel, self.last_epoch, self.live_held, self.installed, self.observed, self.chain_tag)

    def agrees(self, peer: State) -> bool:
        """Whether the peer stands where this end does: on the same live key, or only a `Live` message behind."""
        if self.live is None:
            return False
        behind = peer.observed == self.live.epoch
        return self.installed == self.live_held == peer.installed and (peer.live == self.live_held or behind)

    def shut(self) -> None:
        """The tunnel is closed and no key that is known is on the device."""
        self.live, self.installed, self.observed = None, NOTHING, 0
