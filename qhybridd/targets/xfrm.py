"""The XFRM target: ESP in the kernel, the old key and the new one side by side (RFC 4301, RFC 4303; net/xfrm).

A packet that goes out takes the association that its policy names; one that comes in is opened by the SPI that it
carries. So a new key comes into use without a gap: each end adds the new inbound association first, then the outbound
one, and then has its policies name that. The old inbound one stays until nothing under it can be on the way.

The policies demand ESP whether there is an association or not, so a closed tunnel blocks. They are put before the
daemon keys anything, stay when it ends, and are taken away only when the configuration no longer has the tunnel.
"""

import asyncio
import contextlib
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Final, TypeVar

from qhybridd.config.records import Address, TunnelConfig, XfrmConfig
from qhybridd.errors import HostError, PeerError, ProgramError
from qhybridd.netlink.coalesce import Coalescer
from qhybridd.netlink.xfrm import XfrmSocket
from qhybridd.netlink.xfrm_events import XfrmEvents
from qhybridd.netlink.xfrm_layout import GROUP_EXPIRE, GROUP_POLICY, GROUP_SA
from qhybridd.netlink.xfrm_records import SPI_LEAST, Event, Flushed, Lost, PolicyChanged, SaChanged, SaExpired
from qhybridd.protocol.actions import EpochKeys, Reserved
from qhybridd.secret import Secret
from qhybridd.targets.base import Observation
from qhybridd.targets.esp_associations import CIPHERS, Associations, Pair
from qhybridd.targets.esp_notes import Notes
from qhybridd.targets.esp_policies import Policies
from qhybridd.targets.esp_probe import EncapsulationSocket, Prober
from qhybridd.targets.esp_selectors import ProtectedTunnel, is_ours

__all__ = ["Xfrm", "XfrmTarget"]

SPI_BYTES: Final = 4
GROUPS: Final = (GROUP_EXPIRE, GROUP_SA, GROUP_POLICY)
"""Not what waits for an association: nothing here makes one for a packet, and senders hear that there is none."""
GRACE_S: Final = 3.0
"""What was sent under the old key arrives within this time, or is lost on the way anyhow."""
POLL_S: Final = 0.05
"""Between two looks at the new association's counter; a probe that comes is looked at right away."""

_T = TypeVar("_T")


class Xfrm:
    """XFRM of the network namespace in which this object is made: one worker thread for all tunnels."""

    def __init__(self, runtime: Path) -> None:
        """`runtime`: the runtime directory. Raises `HostError`: host.no-esp, host.xfrm, host.state."""
        notes = Notes(runtime / "xfrm")
        self._kernel = XfrmSocket()
        try:
            self._events = XfrmEvents((self._kernel.port,), GROUPS)
        except HostError:
            self._kernel.close()
            raise
        self.policies = Policies(self._kernel, notes)
        """For the worker thread only."""
        self._worker: Coalescer[None, None] = Coalescer(lambda requests: [None] * len(requests), "xfrm")
        self._sockets: dict[tuple[Address, int], EncapsulationSocket] = {}
        self._probers: dict[int, Prober] = {}
        self._known: dict[int, Associations] = {}
        self._late: set[asyncio.TimerHandle] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._changed = asyncio.Event()
        self._listening = False

    async def run(self, function: Callable[[], _T]) -> _T:
        """Call `function` in the worker thread. Once begun it is carried out whole, also when the caller is gone."""
        return await self._worker.call(function)

    async def protect(self, tunnels: Iterable[ProtectedTunnel]) -> int:
        """Have the kernel demand ESP for what these tunnels protect, from now on and also when this program ends.

        What else of ours is in the kernel goes: policies and associations of tunnels that are none any more. Returns
        how many policies were missing or changed. Raises `HostError`: host.conflict where another program's policy
        stands in the place of one, after all others are put.
        """
        return await self.run(lambda: self._protect(tuple(tunnels)))

    def _protect(self, tunnels: tuple[ProtectedTunnel, ...]) -> int:
        reqids = {tunnel.esp.reqid for tunnel in tunnels if tunnel.esp is not None}
        try:
            return self.policies.protect(tunnels)
        finally:
            for state in self._kernel.dump_sas():
                if is_ours(state.reqid) and state.reqid not in reqids and state.id.spi:
                    self._kernel.delete_sa(state.id)

    async def prepare(self, tunnels: Iterable[ProtectedTunnel]) -> None:
        """Have the kernel load what the first associations need, before a rotation waits for it.

        Raises `HostError`: host.no-esp where it lacks ESP or a cipher.
        """
        kinds = {(CIPHERS[esp.cipher], esp.local.version) for tunnel in tunnels if (esp := tunnel.esp) is not None}
        for cipher, version in sorted(kinds):
            await self.run(partial(self._kernel.require_cipher, cipher, version))

    async def changed(self) -> None:
        """Return when another program deleted, replaced or flushed what is ours, or the kernel an association."""
        if not self._listening:
            asyncio.get_running_loop().add_reader(self._events.fileno(), self._read_events)
            self._listening = True
        await self._changed.wait()
        self._changed.clear()

    async def close(self) -> None:
        """End the worker. Policies and associations stay as they are."""
        for handle in self._late:
            handle.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._listening:
            asyncio.get_running_loop().remove_reader(self._events.fileno())
        self._events.close()
        for prober in self._probers.values():
            prober.close()
        for socket in self._sockets.values():
            socket.close()
        await self.run(self._kernel.close)
        self._worker.close()

    # ---- for the targets

    def associations(self, name: str, esp: XfrmConfig, expiry_s: int) -> Associations:
        """A tunnel's associations, for the worker thread only."""
        self._known[esp.reqid] = Associations(name, esp, expiry_s, self.policies)
        return self._known[esp.reqid]

    def encapsulation(self, local: Address, port: int) -> EncapsulationSocket:
        """What takes ESP in UDP there: one for all tunnels that end at this address and port."""
        if (local, port) not in self._sockets:
            self._sockets[local, port] = EncapsulationSocket(local, port)
        return self._sockets[local, port]

    def prober(self, esp: XfrmConfig) -> Prober:
        """What sends a tunnel's probes; one that was made for its reqid before gives way."""
        if (before := self._probers.get(esp.reqid)) is not None:
            before.close()
        self._probers[esp.reqid] = Prober(esp)
        return self._probers[esp.reqid]

    def retire_later(self, reqid: int, epoch: int) -> None:
        """Let the tunnel's associations from before `epoch` go after the grace, unless this program ends before.

        The tunnel may be made anew meanwhile, and only its present object knows what is noted.
        """

        async def work() -> None:
            with contextlib.suppress(HostError):  # the next one does it too
                await self.run(lambda: self._known[reqid].retire(epoch))

        def begin() -> None:
            self._late.discard(handle)
            task = asyncio.create_task(work())
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

        handle = asyncio.get_running_loop().call_later(GRACE_S, begin)
        self._late.add(handle)

    # ---- events

    def _read_events(self) -> None:
        try:
            events = self._events.read()
        except HostError:
            events = [Lost()]
        if any(self._concerns(event) for event in events):
            self._changed.set()

    def _concerns(self, event: Event) -> bool:
        match event:
            case SaExpired(association, reqid, hard):
                known = self._known.get(reqid)
                return hard and known is not None and known.knows(association)
            case SaChanged(association, deleted):
                return deleted and any(known.knows(association) for known in list(self._known.values()))
            case PolicyChanged(_, policy):
                return self.policies.concerns(policy)
            case Flushed() | Lost():
                return True
            case _:
                return False


class XfrmTarget:
    """One tunnel over ESP. Its policies must have been put (`Xfrm.protect`)."""

    def __init__(self, xfrm: Xfrm, config: TunnelConfig) -> None:
        """Sockets belong to the network namespace in which this object is made. Nothing is sent or bound yet."""
        if not isinstance(config.target, XfrmConfig):
            raise ProgramError("program.argument", f"tunnel {config.name} is not over XFRM")
        self._xfrm, self._esp = xfrm, config.target
        self._own = xfrm.associations(config.name, self._esp, config.expiry_s)
        self._prober = xfrm.prober(self._esp)
        port = self._esp.encapsulation
        self._encapsulation = xfrm.encapsulation(self._esp.local, port) if port else None

    async def reserve(self) -> Reserved:
        """Have the kernel choose the SPI of the inbound association.

        Raises `HostError`: host.xfrm, host.no-esp, host.conflict, host.socket.
        """
        if self._encapsulation is not None:
            self._encapsulation.open()
        spi = await self._xfrm.run(self._own.reserve)
        offer = self._offer(self._esp.local, self._esp.remote) + spi.to_bytes(SPI_BYTES, "big")
        return Reserved(
            offer,
            self._offer(self._esp.remote, self._esp.local),
            free=SPI_BYTES,
            hint="Compare `local`, `remote`, `mode`, `cipher` and `encapsulation` of the tunnel at both gateways.",
        )

    async def stage(self, keys: EpochKeys) -> None:
        """Add the inbound association.

        Raises `HostError`: host.xfrm, host.no-esp, host.readback, host.state; `PeerError` for an SPI that cannot be.
        """
        pair = _pair(keys)
        await self._xfrm.run(lambda: self._own.stage(pair))

    async def activate(self, keys: EpochKeys) -> None:
        """Add the outbound association and send by it from now on; what comes under older keys still gets in."""
        pair = _pair(keys)
        await self._xfrm.run(lambda: self._own.activate(pair))
        self._prober.start()

    async def reset(self, keys: EpochKeys) -> None:
        """As `activate`, and no other association of the tunnel is left."""
        pair = _pair(keys)
        await self._xfrm.run(lambda: self._own.reset(pair))
        self._prober.start()

    async def observe(self, epoch: int, *, kick: bool) -> None:
        """Return once a packet came on the inbound association of `epoch`: the peer sends by it.

        `kick` changes nothing: probes go out from the activation on. Raises `HostError` (host.readback) where the
        association is gone.
        """
        while not await self._xfrm.run(lambda: self._own.received(epoch)):
            self._prober.arrived.clear()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._prober.arrived.wait(), POLL_S)

    async def straddle(self, old: int, keys: EpochKeys) -> int:
        """Both inbound associations work; the outbound one follows once the peer shows that it sends by the new key.

        Never returns `old`: a packet under it says nothing, the peer may have sent it before it changed.
        """
        pair = _pair(keys)
        await self.observe(keys.epoch, kick=False)
        await self._xfrm.run(lambda: self._own.activate(pair))
        self._prober.start()
        return keys.epoch

    async def retire(self, epoch: int) -> None:
        """What is older than `epoch` goes when nothing under it can be on the way any more."""
        self._prober.stop()
        self._xfrm.retire_later(self._esp.reqid, epoch)

    async def close(self) -> None:
        """Delete the tunnel's associations; its policies stay, and block. Raises `HostError`."""
        self._prober.stop()
        await self._xfrm.run(self._own.close)

    async def inspect(self) -> Observation:
        """Read the kernel. Raises `HostError`."""
        if self._encapsulation is not None:
            self._encapsulation.open()  # a tunnel that goes on after a restart takes packets from here on
        return await self._xfrm.run(self._own.inspect)

    async def check(self, tag: bytes) -> str | None:
        """What another program changed, where the key of `tag` should be in use; None if nothing."""
        return await self._xfrm.run(lambda: self._own.differs(tag))

    def _offer(self, near: Address, far: Address) -> bytes:
        """Text for eyes too: it stands in the error when the two gateways' configurations disagree."""
        esp = self._esp
        wrapped = f"udp/{esp.encapsulation} " if esp.encapsulation else ""
        return f"esp {esp.mode} {esp.cipher} esn {wrapped}{near} {far} ".encode()


def _pair(keys: EpochKeys) -> Pair:
    """The epoch's part of ESP, with copies of the keys: the caller may wipe its own while the worker needs them.

    Raises `PeerError` for a peer's SPI that is reserved (RFC 4303 section 2.1), which no kernel chooses.
    """
    spi_in, spi_out = (int.from_bytes(offer[-SPI_BYTES:], "big") for offer in (keys.offer, keys.peer_offer))
    if spi_out < SPI_LEAST:
        raise PeerError("peer.malformed", f"the peer chose the SPI {spi_out:#x}, which is reserved")
    return Pair(keys.epoch, keys.tag, spi_in, spi_out, _copy(keys.esp_in), _copy(keys.esp_out))


def _copy(secret: Secret) -> Secret:
    copy = Secret(len(secret))
    with secret.expose() as source, copy.expose() as place:
        place[:] = source
    return copy
