"""A link in one session of the control channel, and what it needs of the peer whose session it is."""

from dataclasses import dataclass
from typing import Protocol

from qhybridd.distill.authenticate import LinkKeys
from qhybridd.links import messages as msg


class Carrier(Protocol):
    """What a link needs of the peer."""

    def claim(self, session: bytes, link: str) -> bool:
        """Whether no end of this link has spoken in this session yet; from now on one has."""
        ...

    def tell(self, session: bytes, message: msg.Message) -> None:
        """Send a short message, if the session is still there."""
        ...

    async def pass_on(self, session: bytes, message: msg.Message) -> None:
        """Send a long one as the channel drains. Raises `PeerError` (peer.closed) when the session is gone."""
        ...

    def renew(self) -> bool:
        """Ask for a new session; False where only the other end can."""
        ...


@dataclass(slots=True)
class Contact:
    """The link in one session of the control channel."""

    session: bytes
    keys: LinkKeys | None
    """None where another life of this link has spoken in the session: its pads must not come twice."""
    met: bool = False
    """Whether the other end was heard, and fits."""
    number: int = 0
    """Of the last block that was distilled in it."""

    @property
    def usable(self) -> bool:
        """Whether another block can begin."""
        return self.met and self.keys is not None and self.keys.blocks_left > 0

    def wipe(self) -> None:
        """The session is over."""
        if self.keys is not None:
            self.keys.wipe()
