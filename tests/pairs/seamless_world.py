"""The same world with devices that behave like ESP in the kernel: keys side by side, one packet at a time.

Every packet of the traffic is sent, travels for half a round trip and is counted: in clear it never is, and one that a
gateway let out and the other did not take is lost.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

from qhybridd.errors import HostError
from qhybridd.protocol import actions as act
from qhybridd.secret import Secret
from tests.pairs.rotation_world import RTT_S, End, World

GRACE_S = 3.0
PROBE_S = 0.2
PACKET_S = 0.01
OFFER = b"esp "


@dataclass
class Association:
    """One security association."""

    epoch: int
    key: bytes
    tag: bytes
    ends_at: float
    packets: int = 0


@dataclass
class Kernel:
    """What one kernel holds, by SPI; it outlives the daemon."""

    into: dict[int, Association] = field(default_factory=dict)
    out: dict[int, Association] = field(default_factory=dict)
    template: int = 0
    """SPI that the policy requires; 0: nothing fits, and what is protected does not leave."""

    def sending(self, now: float) -> Association | None:
        found = self.out.get(self.template)
        return found if found is not None and found.ends_at > now else None


@dataclass
class EspEnd(End):
    """One gateway with ESP."""

    kernel: Kernel = field(default_factory=Kernel)
    probes: set[int] = field(default_factory=set)
    """SPIs under which probes are sent: a daemon's own, it stops with it."""
    sent: int = 0
    lost: int = 0

    def start(self) -> None:
        self.probes.clear()
        super().start()

    def stop(self) -> None:
        self.probes.clear()
        super().stop()

    def close(self) -> None:
        super().close()
        self.probes.clear()
        self.kernel.into.clear()
        self.kernel.out.clear()
        self.kernel.template = 0

    def device_tag(self) -> bytes:
        found = self.kernel.sending(self.world.now)
        return found.tag if found is not None else b""

    def foreign_write(self) -> None:
        self.kernel.into.clear()
        self.kernel.out.clear()

    # ---- actions

    def carry_out(self, action: act.Action) -> None:
        match action:
            case act.ReserveTarget(action_id):
                self.later(0.001, action_id, "reserve", self.reserve)
            case act.Stage(action_id, keys):
                self.tags.add(keys.tag)
                self.later(0.002, action_id, "stage", lambda: self.stage(keys))
            case act.Retire(_, epoch):
                self.world.at(self.world.now + GRACE_S, self.in_this_life(lambda: self.drop_before(epoch)))
            case act.Straddle(action_id, _, keys):
                self.running[action_id] = "straddle"
                self.await_packet(action_id, keys.epoch, lambda: self.straddled(action_id, keys))
            case act.Observe(action_id, epoch):
                self.running[action_id] = "observe"
                self.await_packet(action_id, epoch, lambda: self.finish(action_id, None))
            case _:
                super().carry_out(action)

    def reserve(self) -> act.Reserved:
        spi = self.world.random.randbytes(4)
        return act.Reserved(OFFER + spi, OFFER, free=4)

    def stage(self, keys: act.EpochKeys) -> None:
        self.kernel.into[_spi(keys.offer)] = self.associate(keys, keys.esp_in)

    def activate(self, keys: act.EpochKeys, *, reset: bool) -> None:
        self.world.derived_by_both(keys.tag)
        if reset:
            self.guard_until = 0.0
            self.drop_before(keys.epoch)
        spi = _spi(keys.peer_offer)
        self.kernel.out[spi] = self.associate(keys, keys.esp_out)
        self.kernel.template = spi
        self.probes.add(spi)

    def associate(self, keys: act.EpochKeys, key: Secret) -> Association:
        with key.expose() as text:
            copy = bytes(text)
        self.installed_once(copy)
        return Association(keys.epoch, copy, keys.tag, self.world.now + self.policy.expiry_s)

    def installed_once(self, key: bytes) -> None:
        world = self.world
        assert isinstance(world, EspWorld)
        assert (self.name, key) not in world.installed, "an AEAD key was installed twice"
        world.installed.add((self.name, key))

    def drop_before(self, epoch: int) -> None:
        kernel = self.kernel
        kernel.into = {spi: sa for spi, sa in kernel.into.items() if sa.epoch >= epoch}
        kernel.out = {spi: sa for spi, sa in kernel.out.items() if sa.epoch >= epoch}
        self.probes &= set(kernel.out)

    def straddled(self, action_id: int, keys: act.EpochKeys) -> None:
        self.activate(keys, reset=False)
        self.finish(action_id, keys.epoch)

    def finish(self, action_id: int, result: object) -> None:
        self.running.pop(action_id)
        self.feed(act.Done(action_id, result))

    def await_packet(self, action_id: int, epoch: int, then: Callable[[], None]) -> None:
        """Look every now and then whether the inbound association of an epoch counted a packet."""
        if action_id not in self.running:
            return
        found = [sa for sa in self.kernel.into.values() if sa.epoch == epoch]
        if not found:
            self.running.pop(action_id)
            self.feed(act.Failed(action_id, HostError("host.readback", "somebody deleted the association")))
        elif found[0].packets:
            then()
        else:
            self.world.at(self.world.now + 0.05, self.in_this_life(lambda: self.await_packet(action_id, epoch, then)))

    def in_this_life(self, work: Callable[[], None]) -> Callable[[], None]:
        """Only if the daemon has not died meanwhile."""
        incarnation = self.incarnation
        return lambda: work() if self.incarnation == incarnation else None


class EspWorld(World):
    """Two gateways with ESP between them."""

    end_type = EspEnd
    ends: tuple[EspEnd, EspEnd]
    proposer: EspEnd
    answerer: EspEnd
    deaf: EspEnd | None = None
    """The end that no ESP reaches."""
    packet_s = PACKET_S

    def __init__(self, *args: object) -> None:
        self.installed: set[tuple[str, bytes]] = set()
        super().__init__(*args)  # type: ignore[arg-type]
        for end in self.ends:
            self.at(self.now, self._probing(end))

    def _traffic(self) -> None:
        """One packet each way, as often as it takes to hit every moment of a rotation."""
        for end in self.ends:
            sa = end.kernel.sending(self.now)
            if not end.idle and end.guard_until > self.now and sa is not None:
                end.sent += 1
                self._carry(end, end.kernel.template, sa, counted=True)
        self.at(self.now + self.packet_s, self._traffic)

    def _probing(self, end: EspEnd) -> Callable[[], None]:
        def probe() -> None:
            for spi in end.probes & set(end.kernel.out):
                if end.kernel.out[spi].ends_at > self.now:
                    self._carry(end, spi, end.kernel.out[spi], counted=False)
            self.at(self.now + PROBE_S, probe)

        return probe

    def _carry(self, sender: EspEnd, spi: int, sa: Association, *, counted: bool) -> None:
        """Half a round trip; the guard of the receiver counts for traffic only."""
        receiver = self.ends[1] if sender is self.ends[0] else self.ends[0]

        def arrive() -> None:
            found = receiver.kernel.into.get(spi)
            if found is not None and found.key == sa.key and found.ends_at > self.now and receiver is not self.deaf:
                found.packets += 1
                if not counted or receiver.guard_until > self.now:
                    return
            sender.lost += counted

        self.at(self.now + RTT_S / 2, arrive)

    def passes(self) -> bool:
        for sender, receiver in (self.ends, self.ends[::-1]):
            sa = sender.kernel.sending(self.now)
            found = receiver.kernel.into.get(sender.kernel.template)
            if sa is None or found is None or found.key != sa.key or found.ends_at <= self.now:
                return False
        return min(end.guard_until for end in self.ends) > self.now

    @property
    def lost(self) -> int:
        """Packets of the traffic, both ways."""
        return sum(end.lost for end in self.ends)


def _spi(offer: bytes) -> int:
    assert offer.startswith(OFFER) and len(offer) == len(OFFER) + 4
    return int.from_bytes(offer[-4:], "big")
