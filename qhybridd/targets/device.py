"""WireGuard devices, whatever they are: the kernel's, or a userspace one behind a socket.

One worker thread for each device carries out what its tunnels ask, in rounds: a round takes everything that waits,
reads the device once if there are changes, makes them all, and reads once more. So one dump, begun after they asked,
serves all who wait, and a change that depends on the peer's state is made whole though its caller be gone.
"""

import time
from base64 import b64encode
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from qhybridd.errors import HostError
from qhybridd.netlink.coalesce import Coalescer
from qhybridd.netlink.peers import DeviceState, PeerChange, PeerState
from qhybridd.netlink.wireguard import KernelDevice
from qhybridd.targets import uapi

MAX_ATTEMPTS: Final = 3
"""A refused change is made again so often. Changes may be repeated: they say what is to be, not what is to differ."""
RETRY_S: Final = 0.05

Plan = Callable[[PeerState], Sequence[PeerChange]]
"""From a peer as it is to the changes to make."""


class WireGuardBackend(Protocol):
    """A device behind one of the two protocols. Blocking; called from one thread."""

    def read(self, wanted: Collection[bytes]) -> DeviceState:
        """Dump the device and pick the peers of `wanted`. Raises `HostError`."""

    def write(self, changes: Sequence[PeerChange]) -> None:
        """Carry out the changes in order. Raises `HostError`."""

    def close(self) -> None:
        """Give up what is held."""


@dataclass(frozen=True, slots=True)
class Reading:
    """A peer and its device, read after the change if there was one."""

    device_key: bytes
    """The device's public key; empty where it has none."""
    before: PeerState
    """The peer before the change; the same as `peer` where there was none."""
    peer: PeerState


@dataclass(frozen=True, slots=True)
class _Job:
    peer: bytes
    plan: Plan | None


class Device:
    """One WireGuard interface. Whether kernel or userspace is looked at in each round: it may be made anew."""

    def __init__(self, interface: str) -> None:
        """The kernel is asked about the network namespace in which this object is made."""
        self.interface = interface
        self._jobs: Coalescer[_Job, Reading] = Coalescer(self._carry_out, f"wg-{interface}")
        self._kernel = KernelDevice(interface)
        self._userspace: uapi.UserspaceDevice | None = None

    async def read(self, peer: bytes) -> Reading:
        """One peer by its public key. Raises `HostError`: host.no-device, host.no-peer, host.netlink, host.uapi."""
        return await self._jobs.submit(_Job(peer, None))

    async def change(self, peer: bytes, plan: Plan) -> Reading:
        """Read the peer, make the changes of `plan`, read it again. Raises `HostError` as `read` does."""
        return await self._jobs.submit(_Job(peer, plan))

    async def close(self) -> None:
        """Finish what is under way and end the worker."""
        await self._jobs.call(self._close_backends)
        self._jobs.close()

    # ---- in the worker

    def _choose(self) -> WireGuardBackend:
        """A userspace device has a socket that answers; anything else is asked of the kernel."""
        if (connection := uapi.connect(self.interface)) is not None:
            connection.close()
            self._userspace = self._userspace or uapi.UserspaceDevice(self.interface)
            return self._userspace
        return self._kernel

    def _close_backends(self) -> None:
        self._kernel.close()
        if self._userspace is not None:
            self._userspace.close()

    def _carry_out(self, jobs: Sequence[_Job]) -> Sequence[Reading | Exception]:
        backend = self._choose()
        failures: dict[int, Exception] = {}
        before: dict[bytes, PeerState] = {}
        planned = [(index, job, job.plan) for index, job in enumerate(jobs) if job.plan is not None]
        if planned:
            before = backend.read({job.peer for _, job, _ in planned}).peers
            changes: dict[int, Sequence[PeerChange]] = {}
            for index, job, plan in planned:
                try:
                    changes[index] = plan(before[job.peer])
                except KeyError:
                    failures[index] = self._no_peer(job.peer)
                except Exception as error:
                    failures[index] = error
            failures |= _write(backend, changes)
        after = backend.read({job.peer for job in jobs})
        results: list[Reading | Exception] = []
        for index, job in enumerate(jobs):
            peer = after.peers.get(job.peer)
            if index in failures:
                results.append(failures[index])
            elif peer is None:
                results.append(self._no_peer(job.peer))
            else:
                results.append(Reading(after.public_key, before.get(job.peer, peer) if job.plan else peer, peer))
        return results

    def _no_peer(self, peer: bytes) -> HostError:
        return HostError("host.no-peer", f"{self.interface} has no peer {b64encode(peer).decode()}")


def _write(backend: WireGuardBackend, changes: dict[int, Sequence[PeerChange]]) -> dict[int, Exception]:
    """Make all changes at once; if that is refused, each by itself, so that one bad change spoils no other."""
    everything = [change for group in changes.values() for change in group]
    if not everything:
        return {}
    try:
        backend.write(everything)
    except HostError:
        return {index: error for index, group in changes.items() if (error := _write_group(backend, group)) is not None}
    return {}


def _write_group(backend: WireGuardBackend, group: Sequence[PeerChange]) -> HostError | None:
    """Repeat until it is taken: a peer may have been removed and not yet added again."""
    for attempt in range(1, MAX_ATTEMPTS + 1):
        try:
            backend.write(group)
        except HostError as error:
            if attempt == MAX_ATTEMPTS:
                return error
            time.sleep(RETRY_S)
        else:
            break
    return None


class Devices:
    """The WireGuard devices of this host by interface: one object each, so that a device's tunnels share its dumps."""

    def __init__(self) -> None:
        self._devices: dict[str, Device] = {}

    def find(self, interface: str) -> Device:
        """The device of that name; whether there is one shows when it is used."""
        if interface not in self._devices:
            self._devices[interface] = Device(interface)
        return self._devices[interface]

    async def close(self) -> None:
        """End all workers."""
        for device in self._devices.values():
            await device.close()
        self._devices.clear()
