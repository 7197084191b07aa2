"""What the demo sees: both daemons' word on each tunnel, the traffic's account, and the events between two looks."""

from dataclasses import dataclass, field
from itertools import pairwise
from typing import Final

from qhybridd.apps.flow import Reading
from qhybridd.apps.lab import Lab
from qhybridd.clock import boottime
from qhybridd.status import LinkStatus, Status, TunnelStatus

LOSS_SHOWN_S: Final = 1.0
"""Losses are told once a second, not packet by packet."""


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened, for the log."""

    at_s: float
    """Seconds since the demo began."""
    text: str
    weight: str = "plain"
    """`plain`, `good`, `bad` or `phase`: how it is shown."""


@dataclass(frozen=True, slots=True)
class Look:
    """Everything at one moment. Times are CLOCK_BOOTTIME seconds."""

    at_s: float
    gateways: dict[str, Status | None]
    flows: dict[str, Reading]

    def tunnels(self, name: str) -> dict[str, TunnelStatus]:
        """One tunnel by gateway, as far as the daemons answered."""
        return {
            gateway: tunnel
            for gateway, status in self.gateways.items()
            if status is not None
            for tunnel in status.tunnels
            if tunnel.name == name
        }

    def links(self, name: str) -> dict[str, LinkStatus]:
        """One QKD link by gateway, as far as the daemons answered."""
        return {
            gateway: link
            for gateway, status in self.gateways.items()
            if status is not None
            for link in status.links
            if link.name == name
        }

    def levels(self, name: str) -> set[str]:
        """What the tunnel's live keys rest on at the two gateways; `none` where it has no live key."""
        return {tunnel.level or "none" for tunnel in self.tunnels(name).values()}

    def states(self, name: str) -> set[str]:
        """What the daemons call the tunnel: one word if they agree; `silent` for one that does not answer."""
        seen = self.tunnels(name)
        return {seen[gateway].state if gateway in seen else "silent" for gateway in self.gateways}

    def epoch(self, name: str) -> int:
        """The epoch that is live at both gateways; 0 while they differ."""
        epochs = {tunnel.epoch for tunnel in self.tunnels(name).values()}
        return epochs.pop() if len(epochs) == 1 and len(self.tunnels(name)) == len(self.gateways) else 0

    def deadline_s(self, name: str) -> float:
        """The later of the two hard expiries; 0 if the tunnel is closed at both."""
        left = [tunnel.expires_in_s for tunnel in self.tunnels(name).values() if tunnel.state == "open"]
        known = [seconds for seconds in left if seconds is not None]
        return self.at_s + max(known) if known else 0.0


@dataclass(slots=True)
class Watch:
    """Looks again and again, and tells what changed."""

    lab: Lab
    began_s: float = field(default_factory=boottime)
    log: list[Event] = field(default_factory=list)
    epochs: dict[str, list[int]] = field(default_factory=dict)
    """By tunnel: the epochs that were seen live at both gateways, in order."""
    deadlines_s: dict[str, float] = field(default_factory=dict)
    """By tunnel: the last hard expiry that was told while it was open."""
    qbers: dict[str, list[float]] = field(default_factory=dict)
    """By link: the QBER of each block that was looked at, in order."""
    last: Look | None = None
    _lost: dict[str, int] = field(default_factory=dict)
    """By flow: the lost packets that were told."""
    _blocks: dict[str, int] = field(default_factory=dict)
    """By link: the last block that was told."""

    @property
    def elapsed_s(self) -> float:
        """Since the demo began."""
        return boottime() - self.began_s

    def tell(self, text: str, weight: str = "plain") -> None:
        """Add a line to the log."""
        self.log.append(Event(self.elapsed_s, text, weight))

    def look(self) -> Look:
        """Ask both daemons and read the traffic; what changed since the last look goes to the log."""
        at_s = boottime()
        look = Look(
            at_s,
            {name: gateway.status() for name, gateway in self.lab.gateways.items()},
            {name: flow.read() for name, flow in self.lab.flows.items()},
        )
        for gateway in self.lab.gateways.values():
            gateway.check()
        for name in next(iter(self.lab.gateways.values())).config.tunnels:
            self._note_tunnel(name, look)
        for name in next(iter(self.lab.gateways.values())).config.links:
            self._note_link(name, look)
        if self.last is not None:
            self._tell_sessions(self.last, look)
            self._tell_losses(self.last, look)
        self.last = look
        return look

    def rotations_follow(self, name: str) -> bool:
        """Whether the tunnel's epochs only ever counted up."""
        return all(earlier < later for earlier, later in pairwise(self.epochs.get(name, [])))

    def _note_tunnel(self, name: str, look: Look) -> None:
        deadline_s = look.deadline_s(name)
        if deadline_s:
            self.deadlines_s[name] = deadline_s
        epoch, seen = look.epoch(name), self.epochs.setdefault(name, [])
        if epoch and look.states(name) == {"open"} and epoch not in seen[-1:]:
            seen.append(epoch)
            tunnel = next(iter(look.tunnels(name).values()))
            kind = " (simulated QKD)" if tunnel.simulated else ""
            self.tell(f"{name}: epoch {epoch} is live at both gateways, level {tunnel.level}{kind}", "good")
        if self.last is None:
            return
        before = self.last.tunnels(name)
        for gateway, tunnel in look.tunnels(name).items():
            if gateway in before and before[gateway].state != tunnel.state:
                weight = "good" if tunnel.state == "open" else "bad"
                reason = f": {tunnel.why}" if tunnel.why else ""
                self.tell(f"{name}: {gateway} says {tunnel.state}{reason}", weight)

    def _note_link(self, name: str, look: Look) -> None:
        """The error rate as the detecting end tells it, and what either end says of the link when that changes."""
        for gateway, link in look.links(name).items():
            if link.role == "bob" and link.block > self._blocks.get(name, 0):
                self._blocks[name] = link.block
                rate = link.qber_test if link.qber_test is not None else link.qber_key
                if rate is not None:
                    self.qbers.setdefault(name, []).append(rate)
            before = self.last.links(name).get(gateway) if self.last is not None else None
            if before is not None and (before.state, before.code) != (link.state, link.code):
                reason = f": {link.why}" if link.why else ""
                self.tell(f"link {name}: {gateway} says {link.state}{reason}", "good" if link.state == "up" else "bad")

    def _tell_sessions(self, before: Look, now: Look) -> None:
        for gateway, status in now.gateways.items():
            former = before.gateways.get(gateway)
            if status is None or former is None:
                continue
            sessions = {peer.name: peer.session for peer in former.peers}
            for peer in status.peers:
                if sessions.get(peer.name, peer.session) != peer.session:
                    reason = f": {peer.why}" if peer.why else ""
                    self.tell(f"{gateway}: session with {peer.name} is {peer.session}{reason}")

    def _tell_losses(self, before: Look, now: Look) -> None:
        """What lacked at the last look too: a packet that is still on its way is not lost."""
        for name, reading in now.flows.items():
            if name not in before.flows:
                continue
            lost, told = min(reading.lost, before.flows[name].lost), self._lost.get(name, 0)
            if lost > told and now.states(name) == before.states(name) == {"open"}:
                self.tell(f"{name}: {lost - told} packets lost")
            self._lost[name] = max(lost, told)
