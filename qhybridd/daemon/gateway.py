"""The running gateway: builds the graph from a configuration, owns the tasks, and changes both when asked."""

import asyncio
import ipaddress
import time
from collections.abc import Coroutine, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import msgspec

from qhybridd import status
from qhybridd.boot import keep_copy
from qhybridd.clock import boottime
from qhybridd.config import changes, difference
from qhybridd.config.changes import Difference
from qhybridd.config.records import TunnelConfig, WireGuardConfig, XfrmConfig
from qhybridd.control import ControlServer
from qhybridd.daemon.door import Door
from qhybridd.daemon.esp import Esp
from qhybridd.daemon.host import tell_service_manager, watch_clocks
from qhybridd.daemon.links import Links
from qhybridd.daemon.peer import Peer
from qhybridd.daemon.records import Records
from qhybridd.daemon.report import report
from qhybridd.daemon.services import Services
from qhybridd.daemon.site import PeerSite, Site, load_site, policy_of
from qhybridd.daemon.sleep import SleepGate
from qhybridd.daemon.tunnel import Tunnel
from qhybridd.daemon.watch import Watch
from qhybridd.errors import HostError, OperatorError, PeerError, QhybriddError
from qhybridd.guard import Guard
from qhybridd.protocol import actions as act
from qhybridd.protocol.handshake import PeerPin
from qhybridd.protocol.rotation_table import Phase
from qhybridd.targets.base import Target
from qhybridd.targets.device import Devices
from qhybridd.targets.wireguard import WireGuardTarget
from qhybridd.telemetry.log import Log

GUARD_RETRY_S: Final = 0.1
"""Until the guard is looked at again after that failed."""

_NO_REFUSAL: Final = frozenset({"peer.closed", "peer.slow", "peer.truncated"})
"""How a handshake ends that nobody refused."""


class Gateway:
    """One gateway from start to stop."""

    def __init__(self, config_path: Path, site: Site, log: Log) -> None:
        self.site = site
        self.peers: dict[str, Peer] = {}
        self.tunnels: dict[str, Tunnel] = {}
        self._started_at = boottime()
        self._config_path, self._log = config_path, log
        self._pins: dict[bytes, PeerPin] = {}
        self._guard = Guard(site.config.gateway.mark)
        self._gate = SleepGate(self._guard)
        self._devices = Devices()
        gateway = site.config.gateway
        self._esp = Esp(gateway.runtime, log)
        self._watch = Watch(self.tunnels, self.peers, log)
        records = Records(gateway.runtime / "tunnels")
        self._services = Services(site.identity, site.suites, gateway.mark, self._gate, records, log, self._spawn)
        self._links = Links(self._services, self.peers, self.tunnels)
        self._door = Door(site.identity, site.suites, self._pins, self.peers.get, told=self._on_refused, log=log)
        self._control = ControlServer(site.config.gateway.socket, self._answer, log)
        self._tasks: asyncio.TaskGroup | None = None
        self._stop = asyncio.Event()
        self._changing = asyncio.Lock()
        """Start, reload, revocation and stop wait for each other."""

    # ---- from start to stop

    async def run(self) -> None:
        """Run until `stop`. Raises `QhybriddError` when it cannot start."""
        try:
            async with asyncio.TaskGroup() as tasks:
                self._tasks = tasks
                async with self._changing:
                    await self._start()
                watches = [tasks.create_task(w) for w in self._watches()]
                tell_service_manager("READY=1")
                self._log.info("started", fingerprint=self.site.identity.public.short, tunnels=len(self.tunnels))
                await self._stop.wait()
                tell_service_manager("STOPPING=1")
                for watch in watches:
                    watch.cancel()
                async with self._changing:
                    await self._shut_down()
        except* QhybriddError as group:
            raise group.exceptions[0] from None

    def stop(self) -> None:
        """End in good order. Tunnels stay open until their hard expiry, which the kernel keeps."""
        self._stop.set()

    async def _start(self) -> None:
        await self._control.open()
        await self._guard.load(self.site.guarded)
        self._esp.require(self.site.config)  # after the guard: a kernel without IPsec keeps everything closed
        remaining = await self._guard.remaining()
        await self._esp.protect(self.site.config)
        for site in self.site.peers.values():
            self._add_peer(site)
        for link in self.site.links.values():
            await self._links.add(link)
        await self._add_tunnels(self.site.config.tunnels.values(), remaining)
        await self._keep_copy()
        await self._door.open(self.site.config.gateway.listen, self.site.config.gateway.mark)
        for peer in self.peers.values():
            peer.start()

    async def _shut_down(self) -> None:
        self._door.close()
        await self._control.close()
        await self._links.stop()
        for peer in self.peers.values():
            await peer.stop()
        await asyncio.gather(*(tunnel.stop() for tunnel in self.tunnels.values()))
        await self._guard.close()
        await self._devices.close()
        await self._esp.close()
        self._watch.close()
        self._log.info("stopped")

    def _spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        assert self._tasks is not None
        return self._tasks.create_task(work)

    def _watches(self) -> tuple[Coroutine[Any, Any, None], ...]:
        watches = (self._watch.poll(), self._watch.follow_devices(), self._watch.await_devices())
        clocks = watch_clocks(self._woke, self._clock_set)
        return *watches, self._esp.watch(self._restore_policies), self._watch_guard(), clocks, self._door.retry()

    async def _watch_guard(self) -> None:
        """Put the guard back when somebody else took it away, `nft flush ruleset` for instance."""
        while True:
            try:
                await self._guard.changed()
                if await self._guard.disturbed():
                    await self._restore_guard()
            except HostError as error:
                self._log.repeated("guard", error)
                await asyncio.sleep(GUARD_RETRY_S)

    async def _restore_guard(self) -> None:
        if not await self._guard.restore():  # a reload or a renewal did it meanwhile
            return
        self._log.error("guard restored", hint="Find what flushes nftables; until now nothing was guarded.")
        for tunnel in self.tunnels.values():
            tunnel.reopen()

    async def _restore_policies(self) -> None:
        """Others changed XFRM: what they took is put back, and what is keyed there looked at."""
        async with self._changing:
            await self._esp.restore(self.site.config)
        await self._watch.look(tunnel for tunnel in self.tunnels.values() if tunnel.rotation.policy.seamless)

    def _woke(self, slept_s: float) -> None:
        """The kernel's timeouts stood still meanwhile, so that the guard holds tunnels open for too long: close all."""
        error = HostError("host.slept", f"the machine slept for {slept_s:.0f} s")
        self._log.warning("woke", slept_s=round(slept_s))
        self._gate.woke()
        for tunnel in self.tunnels.values():
            if tunnel.rotation.live is not None or tunnel.rotation.phase is not Phase.IDLE:
                tunnel.feed(act.CloseNow(error))

    def _clock_set(self, by_s: float) -> None:
        """Lifetimes of associations follow the wall clock: fresh ones take their place, and nothing is lost by it."""
        self._log.warning("clock set", by_s=round(by_s, 1))
        for tunnel in self.tunnels.values():
            if tunnel.rotation.policy.seamless:
                tunnel.feed(act.RotateNow(reset=False))

    # ---- peers and tunnels

    def _add_peer(self, site: PeerSite) -> Peer:
        peer = Peer(site.name, site.pins, site.endpoints, self._services)
        self.peers[site.name] = peer
        self._pins.update({pin.public.fingerprint: pin for pin in (*site.revoked, *site.pins)})
        return peer

    def _on_refused(self, address: str, error: QhybriddError) -> None:
        """A handshake from this address was refused here: its peer's status says so."""
        if error.code in _NO_REFUSAL:
            return
        for peer in self.peers.values():
            if any(_is_address(endpoint.host, address) for endpoint in peer.endpoints):
                peer.refused(error)

    async def _remove_peer(self, name: str) -> None:
        peer = self.peers.pop(name)
        for fingerprint in [f for f, pin in self._pins.items() if pin.name == name]:
            del self._pins[fingerprint]
        await peer.stop()

    async def _add_tunnels(self, configs: Iterable[TunnelConfig], remaining: Mapping[str, float]) -> None:
        """`remaining`: seconds for which the guard still holds a tunnel open, by name."""
        await asyncio.gather(*(self._add_tunnel(config, remaining.get(config.name, 0.0)) for config in configs))

    async def _add_tunnel(self, config: TunnelConfig, remaining_s: float) -> None:
        target = self._make_target(config)
        tunnel = Tunnel(config, policy_of(config), target, self._links.source(config), self._services)
        self.tunnels[config.name] = tunnel
        peer = self.peers[config.peer]
        await tunnel.start(remaining_s, peer.fingerprints)
        if not peer.pins:
            await tunnel.close(act.Revoke())
        peer.add_tunnel(tunnel)
        self._links.join(config)

    def _make_target(self, config: TunnelConfig) -> Target:
        match config.target:
            case WireGuardConfig(interface, peer):
                return WireGuardTarget(self._devices, interface, peer)
            case XfrmConfig():
                return self._esp.target(config)

    async def _remove_tunnel(self, name: str) -> Tunnel:
        tunnel = self.tunnels.pop(name)
        peer = self.peers.get(tunnel.config.peer)
        if peer is not None:
            peer.tunnels.pop(name, None)
        self._links.leave(tunnel.config)
        await tunnel.stop()
        return tunnel

    # ---- what the operator asks for

    async def reload(self) -> status.Reloaded:
        """Apply the configuration file as it is now. Raises `OperatorError`, and then nothing has changed."""
        async with self._changing:
            self._refuse_when_stopping()
            tell_service_manager(f"RELOADING=1\nMONOTONIC_USEC={time.monotonic_ns() // 1000}")
            try:
                return await self._reload(load_site(self._config_path))
            finally:
                tell_service_manager("READY=1")

    async def _reload(self, new: Site) -> status.Reloaded:
        self._esp.require(new.config)
        old = self.site
        differ = changes(old.config, new.config)
        peers, tunnels, links = difference(old.peers, new.peers), differ.tunnels, difference(old.links, new.links)
        moved = tuple(name for name in tunnels.changed if _moved(old.config.tunnels[name], new.config.tunnels[name]))
        # What is given up is closed first, while the old guard still stands around it.
        gone = [await self._remove_tunnel(name) for name in (*tunnels.removed, *moved)]
        await asyncio.gather(*(tunnel.retire() for tunnel in gone))
        try:
            remaining = await self._guard.remaining()
            await self._guard.load(new.guarded)
        except QhybriddError:
            await self._add_tunnels([tunnel.config for tunnel in gone], {})
            raise
        # What is the daemon's own until it starts anew stays as it is, so that the next reload tells of it again.
        self.site = replace(
            new, config=replace(new.config, gateway=old.config.gateway), identity=old.identity, suites=old.suites
        )
        await self._esp.protect(new.config)
        for name in (*links.removed, *links.changed):
            await self._links.remove(name)
        for name in (*peers.removed, *peers.changed):
            await self._remove_peer(name)
        fresh = [self._add_peer(new.peers[name]) for name in (*peers.added, *peers.changed)]
        await self._change_links(links, {name: old.peers[name].pins for name in peers.changed})
        for name in set(tunnels.changed) - set(moved):
            await self._remove_tunnel(name)
        for tunnel in self.tunnels.values():
            if tunnel.config.peer in peers.changed:
                self._distrust(tunnel, old.peers[tunnel.config.peer].pins)
                self.peers[tunnel.config.peer].add_tunnel(tunnel)
        await self._add_tunnels(
            [new.config.tunnels[name] for name in (*tunnels.added, *tunnels.changed)],
            {name: left for name, left in remaining.items() if name not in moved},
        )
        for peer in fresh:
            peer.start()
        told = [f"{word} {kind} {name}" for kind, word, name in _told(peers, tunnels, links)]
        await self._keep_copy()
        self._log.info("reloaded", changes=told, needs_restart=list(differ.gateway))
        return status.Reloaded(told, list(differ.gateway))

    async def _change_links(self, links: Difference, pins: Mapping[str, tuple[PeerPin, ...]]) -> None:
        """Begin the new ones, and those that changed. `pins`: what the peers that are new under their name had."""
        for name in (*links.added, *links.changed):
            await self._links.add(self.site.links[name])
        for name, before in pins.items():
            peer = self.peers[name]
            self._links.attach(peer)
            if any(pin.public.fingerprint not in peer.fingerprints for pin in before):
                await self._links.renew(name, self.site.links)

    async def _keep_copy(self) -> None:
        """For a boot at which the configuration does not parse. The daemon itself can do without."""
        try:
            await asyncio.to_thread(keep_copy, self._config_path)
        except OperatorError as error:
            self._log.repeated("copy", error)

    async def _close_all(self) -> status.Closed:
        """Shut every tunnel for a sleep that is about to begin; what is agreed from now on opens after it."""
        async with self._changing:
            self._gate.hold()
            error = HostError("host.slept", "the machine is about to sleep")
            await asyncio.gather(*(tunnel.close(act.CloseNow(error)) for tunnel in self.tunnels.values()))
            self._log.warning("closed for a sleep", tunnels=len(self.tunnels))
            return status.Closed(len(self.tunnels))

    def _refuse_when_stopping(self) -> None:
        if self._stop.is_set():
            raise HostError("control.unreachable", "the daemon is stopping")

    def _distrust(self, tunnel: Tunnel, before: Iterable[PeerPin]) -> None:
        """Close a tunnel whose key rests on a pin that is no longer there."""
        left = self.peers[tunnel.config.peer].fingerprints
        for pin in before:
            if pin.public.fingerprint not in left and tunnel.rotation.rests_on(pin.public.fingerprint):
                tunnel.feed(act.CloseNow(_revoked()))

    async def revoke(self, name: str, fingerprint: bytes) -> None:
        """Refuse this pin from now on: its session ends and what was keyed with it closes, before this returns."""
        async with self._changing:
            self._refuse_when_stopping()
            peer = self.peers.get(name)
            if peer is None:
                raise OperatorError("peer.unknown", f"no peer is called {name}")
            pin = self._pins.get(fingerprint)
            if pin is not None and pin.name == name:
                self._pins[fingerprint] = replace(pin, revoked=True)
            resting = {tunnel for tunnel in peer.tunnels.values() if tunnel.rotation.rests_on(fingerprint)}
            last = peer.revoke(fingerprint)
            self.site.peers[name] = replace(self.site.peers[name], pins=peer.pins)
            event: act.Event = act.Revoke() if last else act.CloseNow(_revoked())
            closing = peer.tunnels.values() if last else resting
            await asyncio.gather(*(tunnel.close(event) for tunnel in closing))
            await self._links.renew(name, self.site.links)
            self._log.warning("revoked", peer=name, fingerprint=fingerprint.hex())

    async def _answer(self, request: status.Request) -> msgspec.Struct | None:
        match request:
            case status.StatusRequest():
                return await report(
                    self.site.identity.public,
                    self._started_at,
                    self.peers.values(),
                    self.tunnels.values(),
                    self._links.report(),
                )
            case status.RotateRequest(name, reset):
                tunnel = self.tunnels.get(name)
                if tunnel is None:
                    hint = f"The tunnels here: {', '.join(sorted(self.tunnels)) or 'none'}."
                    raise OperatorError("tunnel.unknown", f"no tunnel is called {name}", hint=hint)
                peer = self.peers[tunnel.config.peer]
                if tunnel.sender is None or peer.session is None:
                    message = f"there is no session with {peer.name} to rotate over: {peer.why}"
                    raise HostError("peer.silent", message, where=f"tunnel {name}", hint=peer.hint)
                tunnel.feed(act.RotateNow(reset))
                return None
            case status.ReloadRequest():
                return await self.reload()
            case status.RevokeRequest(name, fingerprint):
                await self.revoke(name, bytes.fromhex(fingerprint))
                return None
            case status.FaultRequest():
                return self._links.fault(request)
            case status.CloseRequest():
                return await self._close_all()
            case status.GuardRequest():
                return status.report_guard(await self._guard.show())


def _is_address(host: str, address: str) -> bool:
    """Whether an endpoint's host is this address; a name is not looked up."""
    try:
        return ipaddress.ip_address(host) == ipaddress.ip_address(address)
    except ValueError:
        return False


def _told(*differences: Any) -> list[tuple[str, str, str]]:
    words = []
    for kind, differ in zip(("peer", "tunnel", "link"), differences, strict=True):
        for word in ("added", "removed", "changed"):
            words += [(kind, word, name) for name in getattr(differ, word)]
    return words


def _moved(old: TunnelConfig, new: TunnelConfig) -> bool:
    """Whether a tunnel of this name is on another device now, or another peer of it."""
    return old.target != new.target


def _revoked() -> PeerError:
    return PeerError("peer.revoked", "the identity that the key was agreed with was revoked")
