"""What a tunnel's machine wants done, gathered during one event, and the sessions over which it can be said."""

from qhybridd.crypto.levels import Level
from qhybridd.errors import QhybriddError
from qhybridd.protocol import actions as act
from qhybridd.protocol import messages as msg


class Outbox:
    """Actions in order. Also the one place for `now` during an event, for action IDs, and for who can be reached."""

    def __init__(self, tunnel: str) -> None:
        self.tunnel = tunnel
        self.now = 0.0
        """CLOCK_BOOTTIME seconds of the event under way."""
        self.session: act.SessionKeys | None = None
        """The session in use."""
        self._sessions: dict[bytes, act.SessionKeys] = {}
        self._actions: list[act.Action] = []
        self._ids = 0

    def take(self) -> list[act.Action]:
        """The actions since the last time."""
        actions, self._actions = self._actions, []
        return actions

    # ---- sessions

    def session_up(self, session: act.SessionKeys) -> None:
        """It is the one in use; older ones may still end what they began."""
        self._sessions[session.hash] = self.session = session

    def session_down(self, session: bytes) -> None:
        """It is gone."""
        self._sessions.pop(session, None)
        if self.session is not None and self.session.hash == session:
            self.session = next(reversed(self._sessions.values()), None)

    def find(self, session: bytes) -> act.SessionKeys | None:
        """The session with this hash, while it is up."""
        return self._sessions.get(session)

    # ---- actions

    def next_id(self) -> int:
        """A number that no other action has."""
        self._ids += 1
        return self._ids

    def add(self, action: act.Action) -> None:
        """Something to be done."""
        self._actions.append(action)

    def send(self, session: act.SessionKeys, message: msg.Message) -> None:
        """To the peer, on this session."""
        self.add(act.Send(session.hash, message))

    def tell(self, session: act.SessionKeys, message: msg.Message) -> None:
        """To the peer, on this session or the one in use when it is gone; without any the next `State` tells it."""
        reachable = self._sessions.get(session.hash, self.session)
        if reachable is not None:
            self.send(reachable, message)

    def abort(self, session: act.SessionKeys, epoch: int, error: QhybriddError) -> None:
        """Give an epoch up. Only the code goes out: the text of an error is this end's own affair."""
        if session.hash in self._sessions:
            self.send(session, msg.Abort(self.tunnel, epoch, error.code))

    def report(
        self, event: act.ReportEvent, epoch: int, error: QhybriddError | None = None, level: Level | None = None
    ) -> None:
        """Something for the log and the status."""
        self.add(act.Report(event, epoch, level, error))
