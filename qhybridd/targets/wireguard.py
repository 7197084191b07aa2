"""The WireGuard target: one peer of one device.

What WireGuard gives: a new PSK enters at the next handshake; an initiator begins one with the first packet that it
sends after REKEY_AFTER_TIME (120 s); a session ends at REJECT_AFTER_TIME (180 s); an initiation is repeated no sooner
than after REKEY_TIMEOUT (5 s) (WireGuard whitepaper, section 6.1). Nothing asks for a handshake directly. Two things
lead to one: a peer that is removed and added again has no session, and a keepalive that goes from 0 to another value
sends a packet, behind a closed guard too.

A changed handshake time says that some handshake ended. It proves the PSK only for the end that began it: the other
end's moves at the first data packet. So both ends must see the change, which is the protocol's affair.
"""

import asyncio
import hmac
import os
import time
from collections.abc import Sequence
from typing import Final

from qhybridd.crypto import kdf
from qhybridd.errors import HostError
from qhybridd.netlink.peers import KEY_BYTES, PeerChange, PeerState, remove_and_add, set_keepalive, set_psk
from qhybridd.protocol.actions import EpochKeys, Reserved
from qhybridd.secret import Secret
from qhybridd.targets.base import Observation
from qhybridd.targets.device import Device, Devices, Reading

# ---- constants of WireGuard (whitepaper section 6.1, wireguard-go device/constants.go)

REKEY_AFTER_TIME_S: Final = 120.0
REKEY_TIMEOUT_S: Final = 5.0

# ---- constants of ours

IDLE_S: Final = REKEY_AFTER_TIME_S + 1
"""From this age on a packet of the initiator begins a handshake; without traffic nobody sends one, so we do."""
OVERDUE_S: Final = REKEY_AFTER_TIME_S + REKEY_TIMEOUT_S
"""A handshake that was due at 120 s and failed once."""
KICK_KEEPALIVE_S: Final = 25
"""Only the step from 0 counts; it is set back in the same operation."""
KICK_AGAIN_S: Final = REKEY_TIMEOUT_S
OTHER_END_S: Final = 8.0
"""An end that is not told to kick leaves this time to the other one, and one repetition: two initiations that meet undo
each other, and the next ones come REKEY_TIMEOUT later."""
STRADDLE_S: Final = 12.0
"""One try under one PSK: two initiations, REKEY_TIMEOUT and jitter apart."""
SETTLE_S: Final = 1.0
"""After a change of PSK the first data packet of a session under the one before may come: longer than a round trip."""
FAST_POLL_S: Final = 0.05
FAST_FOR_S: Final = 2.0
"""After a reset or a kick the handshake takes one round trip, and the tunnel is shut until it is seen."""
POLL_S: Final = 1.0


class WireGuardTarget:
    """One peer of one device."""

    def __init__(self, devices: Devices, interface: str, peer: bytes) -> None:
        """`peer` is its public key, 32 bytes. Nothing is touched yet."""
        self._devices = devices
        self._interface = interface
        self._peer = peer
        self._noted_ns: int | None = None
        """Last handshake at the activation's read-back; None before the first one."""
        self._tag = b""
        """Public tag of the PSK that was read back; empty before the first activation and while straddling."""
        self._fast_until = 0.0

    async def reserve(self) -> Reserved:
        """Check that interface and peer exist. Raises `HostError`: host.no-device, host.no-peer."""
        reading = await self._device.read(self._peer)
        if not reading.device_key:
            raise HostError("host.no-device", f"{self._interface} has no private key", hint="Set one: `wg set`.")
        return Reserved(
            reading.device_key,
            self._peer,
            hint="Correct `wireguard_peer`: it is the public key that `wg show` prints at the other gateway.",
        )

    async def stage(self, keys: EpochKeys) -> None:
        """Nothing: WireGuard holds one PSK for a peer."""

    async def activate(self, keys: EpochKeys) -> None:
        """Set the PSK and read it back; running sessions live on. Raises `HostError` (host.readback)."""
        psk = _copy(keys.psk)
        reading = await self._device.change(self._peer, lambda before: (set_psk(before.public_key, psk),))
        self._note(reading.peer, psk, keys.tag)

    async def reset(self, keys: EpochKeys) -> None:
        """Remove the peer and add it as it was with the new PSK: no session is left. The guard is shut meanwhile."""
        psk = _copy(keys.psk)
        reading = await self._device.change(self._peer, lambda before: remove_and_add(before, psk))
        self._note(reading.peer, psk, keys.tag)
        self._noted_ns = 0  # the peer is a new one: whatever handshake it tells of was made under this PSK
        self._fast_until = time.monotonic() + FAST_FOR_S

    async def observe(self, epoch: int, *, kick: bool) -> None:
        """Return once the last handshake is another one than at the read-back.

        With `kick` a handshake is asked for at once, otherwise when one is due and no packet asked for it. Raises
        `HostError`: host.readback where another program changed the PSK meanwhile.
        """
        kick_at = time.monotonic() + (0.0 if kick else OTHER_END_S)
        while True:
            peer = (await self._device.read(self._peer)).peer
            if self._noted_ns is None:
                self._noted_ns = peer.last_handshake_ns
            self._expect_tag(peer, epoch)
            if peer.last_handshake_ns != self._noted_ns:
                return
            now = time.monotonic()
            if (kick or _is_older(peer, IDLE_S)) and now >= kick_at:
                await self._kick()
                kick_at = now + KICK_AGAIN_S
                if kick:
                    self._fast_until = now + FAST_FOR_S
            await _tick(FAST_POLL_S if time.monotonic() < self._fast_until else POLL_S)

    async def straddle(self, old: int, keys: EpochKeys) -> int:
        """Try the PSK on the device (`old`) and `keys` in turn, while a handshake is overdue, until one works."""
        psks = {old: _copy((await self._device.read(self._peer)).peer.psk), keys.epoch: _copy(keys.psk)}
        other = {old: keys.epoch, keys.epoch: old}
        held = keys.epoch if psks[old] == psks[keys.epoch] else old
        self._tag = b""
        noted: int | None = None
        switched_at, kick_at = time.monotonic() - STRADDLE_S, 0.0
        while True:
            peer = (await self._device.read(self._peer)).peer
            now = time.monotonic()
            if noted is None or now < switched_at + SETTLE_S:
                noted = peer.last_handshake_ns  # it may belong to the PSK before
            if peer.last_handshake_ns != noted:
                self._noted_ns, self._tag = peer.last_handshake_ns, kdf.key_tag(psks[held])
                return held
            if _is_older(peer, OVERDUE_S):
                if now >= switched_at + STRADDLE_S and psks[old] != psks[keys.epoch]:
                    candidate = other[held]
                    if await self._switch(peer, psks[candidate]):
                        held, switched_at, kick_at = candidate, now, now + SETTLE_S
                elif now >= kick_at:
                    await self._kick()
                    kick_at = now + KICK_AGAIN_S
            await _tick(POLL_S)

    async def retire(self, epoch: int) -> None:
        """Nothing: the PSK before was overwritten."""

    async def close(self) -> None:
        """Remove the peer and add it as it was with a random PSK: no session is left and none can begin."""
        random = Secret.adopt(bytearray(os.urandom(KEY_BYTES)))
        self._tag = b""
        self._noted_ns = None
        reading = await self._device.change(self._peer, lambda before: remove_and_add(before, random))
        if reading.peer.psk != random:
            raise HostError("host.readback", f"{self._interface} holds another PSK than the one that was just set")

    async def inspect(self) -> Observation:
        """Read the device. Raises `HostError`."""
        peer = (await self._device.read(self._peer)).peer
        return Observation(_tag(peer), peer.last_handshake_ns, peer.endpoint, peer.rx_bytes, peer.tx_bytes)

    async def check(self, tag: bytes) -> str | None:
        """What another program changed, where the key of `tag` should be on the device; None if nothing.

        All tunnels of a device that ask together cost one dump.
        """
        try:
            peer = (await self._device.read(self._peer)).peer
        except HostError as error:
            if error.code in ("host.no-device", "host.no-peer"):
                return str(error.message)
            raise
        found = _tag(peer)
        if hmac.compare_digest(found, tag):
            return None
        return f"another program {'changed' if found else 'removed'} the PSK of a peer of {self._interface}"

    # ---- inside

    @property
    def _device(self) -> Device:
        return self._devices.find(self._interface)

    def _note(self, peer: PeerState, psk: Secret, tag: bytes) -> None:
        if peer.psk != psk:
            raise HostError("host.readback", f"{self._interface} holds another PSK than the one that was just set")
        self._noted_ns, self._tag = peer.last_handshake_ns, tag

    def _expect_tag(self, peer: PeerState, epoch: int) -> None:
        if self._tag and not hmac.compare_digest(_tag(peer), self._tag):
            raise HostError("host.readback", f"another program changed the PSK of epoch {epoch} on {self._interface}")

    async def _kick(self) -> None:
        """Have the device send a packet to the peer: it begins a handshake where one is due, and else does no harm."""
        await self._device.change(self._peer, _plan_kick)

    async def _switch(self, seen: PeerState, psk: Secret) -> bool:
        """Put `psk` on the device, unless a handshake came since `seen`."""
        reading: Reading = await self._device.change(
            self._peer,
            lambda before: (
                (set_psk(before.public_key, psk),) if before.last_handshake_ns == seen.last_handshake_ns else ()
            ),
        )
        return reading.before.last_handshake_ns == seen.last_handshake_ns and reading.peer.psk == psk


def _plan_kick(before: PeerState) -> Sequence[PeerChange]:
    """The keepalive from 0 to another value and back to what it was, in one operation: nothing is left to restore."""
    if not before.endpoint:
        return ()
    up = set_keepalive(before.public_key, before.keepalive_s or KICK_KEEPALIVE_S)
    down = set_keepalive(before.public_key, 0)
    return (down, up) if before.keepalive_s else (up, down)


def _copy(secret: Secret) -> Secret:
    """A PSK of our own: the caller may wipe its one while the worker still has to write it."""
    copy = Secret(len(secret))
    with secret.expose() as source, copy.expose() as place:
        place[:] = source
    return copy


def _tag(peer: PeerState) -> bytes:
    return b"" if peer.psk.is_zero else kdf.key_tag(peer.psk)


def _is_older(peer: PeerState, age_s: float) -> bool:
    """Whether the last handshake is older, by the wall clock that stamped it; if that was set back, it may be."""
    age = time.time() - peer.last_handshake_ns / 1e9
    return age > age_s or age < -1.0


async def _tick(period_s: float) -> None:
    """Sleep to the next multiple of `period_s`: all tunnels look at once, and one dump serves them."""
    now = time.monotonic()
    await asyncio.sleep(period_s - now % period_s)
