"""Drives one peer: dials, keeps its connections, and passes rotation messages between the session and the tunnels."""

import asyncio
import random
from collections.abc import Callable
from functools import partial
from ipaddress import IPv4Address, IPv6Address
from typing import Final

from qhybridd.clock import boottime
from qhybridd.config.records import Endpoint
from qhybridd.crypto.ephemeral import OsEphemeral
from qhybridd.daemon.services import Services
from qhybridd.daemon.tunnel import Tunnel
from qhybridd.errors import CODES, HostError, PeerError, ProgramError, QhybriddError
from qhybridd.links import messages as link_msg
from qhybridd.links import parts
from qhybridd.links.link import LinkEnd
from qhybridd.protocol import actions as act
from qhybridd.protocol import messages as msg
from qhybridd.protocol import peering
from qhybridd.protocol.connection import ChannelMessage, Closed, Connection, Established, Event
from qhybridd.protocol.handshake import PeerPin, attempt
from qhybridd.protocol.session import Channel
from qhybridd.transport import Wire, dial

_SAID_AS_INFO: Final = frozenset({"peer.closed", "host.socket", "peer.silent", "peer.slow"})
"""What a cut or a restart of the peer looks like: worth a line, no alarm."""


TRIES: Final = 2
"""A handshake that ends without a word may have been cut: only the second such one counts as a refusal."""


class Peer:
    """One peer of the running daemon."""

    def __init__(
        self, name: str, pins: tuple[PeerPin, ...], endpoints: tuple[Endpoint, ...], services: Services
    ) -> None:
        self.name, self.pins, self.endpoints = name, pins, endpoints
        self.tunnels: dict[str, Tunnel] = {}
        self.links: dict[str, LinkEnd] = {}
        self.trouble: QhybriddError | None = None
        """Why there is no session; None while there is one, and before the first dial."""
        self.since: float | None = None
        self._services = services
        self._log = services.log.bind(peer=name)
        self._spawn = services.spawn
        self._wires: dict[int, Wire] = {}
        self._established: dict[int, Established] = {}
        self._claimed: set[tuple[bytes, str]] = set()
        """Links by session in which an end of them has spoken."""
        self._dial: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._stopped = False
        self._own_reason: QhybriddError | None = None
        """Why a handshake that the peer began was refused here."""
        self._dialled = ""
        self._unreached = 0
        """Dials that came to nothing: the next endpoint is tried."""
        self._refused = 0
        """Dials since the last session whose first message was refused: the next pin, then the next suite is tried."""
        lower = bool(pins) and services.signer.public.fingerprint < pins[0].public.fingerprint
        self._peering = peering.Peering(
            lower=lower, dials=bool(endpoints and pins), jitter=random.SystemRandom().random, now=boottime()
        )

    # ---- the surface

    @property
    def fingerprints(self) -> frozenset[bytes]:
        """Of the identities under which the peer is taken."""
        return frozenset(pin.public.fingerprint for pin in self.pins)

    def start(self) -> None:
        """Begin to dial."""
        self._do(self._peering.tick(boottime()))

    @property
    def session(self) -> Established | None:
        """The session in use."""
        return self._established.get(self._peering.current) if self._peering.current is not None else None

    @property
    def endpoint(self) -> str:
        """The other end of the session in use, or the endpoint that was dialled last."""
        wire = self._wires.get(self._peering.current) if self._peering.current is not None else None
        if wire is not None:
            return wire.endpoint
        return self._dialled or (str(self.endpoints[0]) if self.endpoints else "")

    @property
    def why(self) -> str:
        """Why there is no session."""
        error = self.trouble
        if error is not None:
            return f"{error.message} [{error.code}]"
        if not self.pins:
            return "its identity was revoked here [peer.revoked]"
        return "not dialled yet" if self.endpoints else "it has to dial: no endpoint of it is known here"

    @property
    def hint(self) -> str:
        """The way out of what `why` says."""
        if self.trouble is not None:
            return self.trouble.hint
        return "" if self.pins else CODES["peer.revoked"]

    def refused(self, error: QhybriddError) -> None:
        """A handshake came from an address of this peer and was refused here: that says more than its silence does."""
        if self.session is None:
            self.trouble = self._own_reason = error

    def add_tunnel(self, tunnel: Tunnel) -> None:
        """Key this tunnel over the peer's session from now on."""
        self.tunnels[tunnel.config.name] = tunnel
        tunnel.sender = self
        for number in (*self._peering.draining, self._peering.current):
            if number is not None and number in self._established:
                tunnel.feed(act.SessionUp(self._established[number].session))

    def add_link(self, link: LinkEnd) -> None:
        """Distil its keys over the peer's session from now on."""
        self.links[link.config.name] = link
        link.carrier = self
        session = self.session
        if session is not None:
            self._tell_link(link, lambda: link.session_up(session.session.hash))

    def incoming(self, wire: Wire, event: Established) -> None:
        """A connection that the peer opened has authenticated it."""
        number = self._peering.number()
        self._wires[number] = wire
        self._up(number, event)

    def on_event(self, wire: Wire, event: Event) -> None:
        """An event of a connection that belongs to this peer."""
        number = next((n for n, w in self._wires.items() if w is wire), None)
        if number is None or self._stopped:
            return
        match event:
            case Established():
                self._up(number, event)
            case ChannelMessage(channel, payload):
                self._message(number, channel, payload)
            case Closed(error):
                self._down(number, error)

    def send(self, session: bytes, message: msg.Message) -> None:
        """Send on the rotation channel of a session, if it is still there."""
        self._send(session, Channel.ROTATION, msg.encode(message))

    # ---- what a link asks for

    def claim(self, session: bytes, link: str) -> bool:
        """Whether no end of this link has spoken in this session yet; from now on one has."""
        fresh = (session, link) not in self._claimed
        self._claimed.add((session, link))
        return fresh

    def tell(self, session: bytes, message: link_msg.Message) -> None:
        """Send on the distillation channel of a session, if it is still there."""
        self._send(session, Channel.DISTILLATION, link_msg.encode(message))

    async def pass_on(self, session: bytes, message: link_msg.Message) -> None:
        """Send a long message there as the channel drains. Raises `PeerError` (peer.closed) when the session ends."""
        number = self._number_of(session)
        if number is None:
            raise PeerError("peer.closed", "the session ended before the message was sent")
        await self._wires[number].wait_for_backlog(Channel.DISTILLATION, parts.BACKLOG_BYTES)
        self.tell(session, message)
        await asyncio.sleep(0)  # a fast peer leaves nothing to wait for, and others want to speak too

    def address_gone(self, address: IPv4Address | IPv6Address) -> None:
        """Leave the sessions from an address that this host has no longer: nothing more will come of them."""
        for number, wire in list(self._wires.items()):
            if wire.local == str(address) and number in self._established:
                wire.close()
                self._down(number, HostError("host.socket", f"this host's address {address} is gone"))

    def renew(self) -> bool:
        """Replace the session by a fresh handshake, as the hourly renewal does; False where only the peer can dial."""
        possible = self._peering.renew(boottime())
        self._rearm()
        return possible

    def _send(self, session: bytes, channel: Channel, data: bytes) -> None:
        number = self._number_of(session)
        if number is None:
            return
        try:
            self._wires[number].send(channel, data)
        except PeerError as error:
            self._spawn(self._drop_later(number, error))

    def _number_of(self, session: bytes) -> int | None:
        return next((n for n, established in self._established.items() if established.session.hash == session), None)

    # ---- pins and the end

    def revoke(self, fingerprint: bytes) -> bool:
        """Take a pin away; end the sessions that it authenticated. True when no pin is left."""
        self.pins = tuple(pin for pin in self.pins if pin.public.fingerprint != fingerprint)
        self._peering.dials = bool(self.endpoints and self.pins)
        for number, established in list(self._established.items()):
            if established.session.peer == fingerprint:
                self._wires[number].close("peer.revoked")
                self._down(number, PeerError("peer.revoked", "the identity was revoked here"))
        if not self.pins:
            self.trouble = None
        return not self.pins

    async def stop(self, code: str | None = None) -> None:
        """Close every connection."""
        self._stopped = True
        if self._timer is not None:
            self._timer.cancel()
        if self._dial is not None:
            self._dial.cancel()
            await asyncio.gather(self._dial, return_exceptions=True)
        for number in list(self._wires):
            self._wires[number].close(code)
            established = self._established.pop(number, None)
            if established is not None:
                self._session_down(established)
        self._wires.clear()

    # ---- connections

    def _do(self, actions: list[peering.Action]) -> None:
        for action in actions:
            match action:
                case peering.Dial(number):
                    self._dial = self._spawn(self._connect(number))
                case peering.Use(number):
                    self._session_up(self._established[number])
                case peering.Drop(number):
                    wire = self._wires.get(number)
                    if wire is not None:
                        wire.close()
                    self._down(number, None)
        self._rearm()

    async def _connect(self, number: int) -> None:
        if not self.pins:  # the last one was revoked since this dial was due
            self._down(number, PeerError("peer.revoked", "no identity of the peer is left"))
            return
        endpoint = self.endpoints[self._unreached % len(self.endpoints)]
        self._dialled = str(endpoint)
        signer, suites = self._services.signer, self._services.suites
        pin, keyed = attempt(self._refused // TRIES, self.pins, suites)

        def make() -> Wire:
            connection = Connection.dial(signer, pin, suites, keyed, ephemeral=OsEphemeral(), now=boottime())
            wire = self._wires[number] = Wire(connection, self.on_event)
            return wire

        try:
            await dial(endpoint, self._services.mark, make)
        except HostError as error:
            self._unreached += 1
            self._down(number, error)
        except Exception as error:
            self._log.defect(error)
            self._down(number, ProgramError("program.state", f"a defect: {type(error).__name__}"))

    def _up(self, number: int, event: Established) -> None:
        wire = self._wires[number]
        if event.session.peer not in self.fingerprints:
            # The handshake began before the revocation, and knew the pin.
            event.session.exporter.wipe()
            wire.close("peer.revoked")
            self._down(number, PeerError("peer.revoked", "the identity was revoked during the handshake"))
            return
        self._established[number] = event
        self._log.info("session up", endpoint=wire.endpoint, suite=event.suite.label, dialled=event.dialled)
        self.trouble, self._own_reason, self.since = None, None, boottime()
        self._refused = 0
        self._do(self._peering.up(number, dialled=event.dialled, lower=event.session.proposes, now=boottime()))

    def _down(self, number: int, error: QhybriddError | None) -> None:
        wire = self._wires.pop(number, None)
        established = self._established.pop(number, None)
        if established is None and isinstance(error, PeerError):
            self._unreached += 1
            # A peer that has proved who it is refused something else than its pin or the suite.
            self._refused += wire is None or not wire.connection.proven
        actions = self._peering.down(number, boottime())
        if established is not None:
            self._session_down(established)
        if self._peering.current is None:
            self.trouble = self._told_trouble(error)
            if established is not None:
                self.since = boottime()
        if error is not None:
            if error.code in _SAID_AS_INFO and established is not None:
                self._log.info("session down", code=error.code, message=error.message)
            else:
                self._log.repeated("no session", error)
        self._do(actions)

    def _told_trouble(self, error: QhybriddError | None) -> QhybriddError | None:
        """What the status says: this end's own refusal of the peer, if it is why the peer is silent, before silence."""
        if not self.pins:
            return None
        if self._own_reason is not None and error is not None and error.code == "peer.closed":
            return self._own_reason
        self._own_reason = None
        return error or PeerError("peer.closed", "the peer said goodbye", hint="Nothing: it is dialled again.")

    async def _drop_later(self, number: int, error: QhybriddError) -> None:
        """A peer that does not read: its connection ends, but not in the middle of a tunnel's own doing."""
        wire = self._wires.get(number)
        if wire is not None:
            wire.close(error.code)
            self._down(number, error)

    def _tick(self) -> None:
        self._timer = None
        self._do(self._peering.tick(boottime()))

    def _rearm(self) -> None:
        now = boottime()
        for number in self._peering.draining:
            established = self._established.get(number)
            if established is None or not self._busy_with(established.session.hash):
                self._peering.drained(number, now)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        deadline = self._peering.deadline()
        if deadline is not None and deadline != float("inf") and not self._stopped:
            self._timer = asyncio.get_running_loop().call_later(max(0.0, deadline - now), self._tick)

    # ---- messages

    def _message(self, number: int, channel: Channel, payload: bytes) -> None:
        wire, session = self._wires[number], self._established[number].session
        try:
            if channel is Channel.ROTATION:
                self._rotation_message(session.hash, msg.decode(payload))
            else:
                self._link_message(session.hash, link_msg.decode(payload))
        except PeerError as error:
            wire.close(error.code)
            self._down(number, error)
            return
        if self._peering.draining:
            self._rearm()

    def _rotation_message(self, session: bytes, message: msg.Message) -> None:
        tunnel = self.tunnels.get(message.tunnel)
        if tunnel is not None:
            tunnel.feed(act.Received(session, message))
        elif not isinstance(message, msg.Abort):
            epoch = getattr(message, "epoch", 0)
            self.send(session, msg.Abort(message.tunnel, epoch, "tunnel.unknown"))
            self._log.repeated(
                "unknown tunnel", PeerError("tunnel.unknown", f"the peer keys a tunnel {message.tunnel}, unknown here")
            )

    def _link_message(self, session: bytes, message: link_msg.Message) -> None:
        link = self.links.get(message.link)
        if link is not None:
            self._tell_link(link, lambda: link.receive(session, message))
        elif isinstance(message, link_msg.Hello):
            self.tell(session, link_msg.Refuse(message.link, "link.unknown"))
            error = PeerError("link.unknown", f"the peer has a link {message.link}, unknown here")
            self._log.repeated("unknown link", error)

    def _tell_link(self, link: LinkEnd, tell: Callable[[], None]) -> None:
        """A defect of a link is no matter of the session, nor of the tunnels."""
        try:
            tell()
        except QhybriddError as error:
            self._log.repeated("link", error, link=link.config.name)
        except Exception as error:
            self._log.defect(error, link=link.config.name)

    def _busy_with(self, session: bytes) -> bool:
        tunnels = any(tunnel.busy_with(session) for tunnel in self.tunnels.values())
        return tunnels or any(link.uses(session) for link in self.links.values())

    def _session_up(self, established: Established) -> None:
        session = established.session
        self._feed_all(act.SessionUp(session))
        for link in list(self.links.values()):
            self._tell_link(link, partial(link.session_up, session.hash))

    def _session_down(self, established: Established) -> None:
        session = established.session.hash
        self._feed_all(act.SessionDown(session))
        for link in list(self.links.values()):
            self._tell_link(link, partial(link.session_down, session))
        self._claimed = {(hash_, link) for hash_, link in self._claimed if hash_ != session}

    def _feed_all(self, event: act.Event) -> None:
        for tunnel in list(self.tunnels.values()):
            tunnel.feed(event)
