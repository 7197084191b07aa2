"""The security associations of one XFRM tunnel: added with fresh keys, switched to, counted, deleted.

Blocking; used from one worker thread, and each call leaves a whole change behind. What must not be forgotten is noted
on disk before the kernel is told (`esp_notes`).
"""

import errno
from dataclasses import dataclass
from typing import Final

import msgspec

from qhybridd.config.records import XfrmConfig
from qhybridd.crypto.kdf import key_tag
from qhybridd.errors import HostError, PeerError, ProgramError
from qhybridd.netlink.socket import NetlinkError
from qhybridd.netlink.xfrm_records import Cipher, Mode, SaId, SaState, SecurityAssociation
from qhybridd.secret import Secret
from qhybridd.targets.base import Observation
from qhybridd.targets.esp_notes import PairNote, TunnelNote
from qhybridd.targets.esp_policies import Policies

CIPHERS: Final = {"aes-256-gcm": Cipher.AES_256_GCM, "chacha20-poly1305": Cipher.CHACHA20_POLY1305}
KEPT_ATTEMPTS: Final = 8
"""Epochs of which nothing came are kept so long: the peer may send by one of them yet."""


@dataclass(frozen=True, slots=True)
class Pair:
    """The two associations of an epoch, with keys of their own to be wiped."""

    epoch: int
    tag: bytes
    """Public tag of the epoch's key."""
    spi_in: int
    """Chosen here (`reserve`)."""
    spi_out: int
    """Chosen by the peer."""
    key_in: Secret
    key_out: Secret

    def note(self) -> PairNote:
        """What is written of it."""
        keys = key_tag(self.key_in).hex(), key_tag(self.key_out).hex()
        return PairNote(self.epoch, self.tag.hex(), self.spi_in, self.spi_out, *keys)


class Associations:
    """One tunnel's."""

    def __init__(self, name: str, esp: XfrmConfig, expiry_s: int, policies: Policies) -> None:
        """`expiry_s`: the hard lifetime of each association, the second lock behind the guard."""
        self._name, self._esp, self._expiry_s = name, esp, expiry_s
        self._kernel, self._policies, self._notes = policies.kernel, policies, policies.notes
        self._note: TunnelNote | None = None
        self._reserved = 0
        """SPI that is held for the attempt under way; 0: none."""
        self._staged: set[str] = set()
        """Tags of the epochs whose inbound association this process added."""
        self._sending: set[str] = set()
        """And of those whose outbound key it offered to the kernel."""
        self._rx_bytes = self._tx_bytes = 0
        """Through associations that are deleted."""

    # ---- the verbs

    def reserve(self) -> int:
        """An SPI for the next inbound association. One that was held for an attempt which came to nothing is let go.

        Raises `HostError`: host.conflict where a policy of the tunnel is missing because another one is in its place.
        """
        self._policies.complete(self._esp.reqid)
        self._forget(tuple(pair for pair in self._read_note().pairs[:-KEPT_ATTEMPTS] if self._idle(pair)))
        if self._reserved:
            self._kernel.delete_sa(SaId(self._esp.local, self._reserved))
            self._reserved = 0
        self._reserved = self._kernel.alloc_spi(self._inbound(0))
        return self._reserved

    def stage(self, pair: Pair) -> None:
        """Add the inbound association and read it back.

        Raises `ProgramError` for keys that were used before, `PeerError` for a peer that chose an SPI again while its
        association may be there: one name would stand for two keys.
        """
        note, fresh = self._read_note(), pair.note()
        if fresh.key_in == fresh.key_out or {fresh.key_in, fresh.key_out} & set(note.used):
            raise ProgramError("program.state", f"epoch {pair.epoch}: a key of ESP would be used twice")
        if pair.spi_in != self._reserved:
            raise ProgramError("program.state", f"epoch {pair.epoch}: its SPI is not held")
        if any(other.spi_out == pair.spi_out for other in note.pairs):
            raise PeerError("peer.malformed", f"the peer chose the SPI {pair.spi_out:#010x} again, which is in use")
        association = self._inbound(pair.spi_in)
        held = self._kernel.get_sa(association.id)
        if held is None:  # the kernel holds it for 30 s only: take the same one, or fail
            self._kernel.alloc_spi(association, pair.spi_in, pair.spi_in)
        elif held.valid or held.reqid != self._esp.reqid:
            raise HostError("host.conflict", f"another program has the association {pair.spi_in:#010x}")
        self._write_note(note.adding(fresh))
        self._reserved = 0
        self._staged.add(fresh.tag)
        self._kernel.add_sa(association, pair.key_in, update=True)
        self._expect(association, pair.key_in)

    def activate(self, pair: Pair) -> None:
        """Add the outbound association, read it back, and have the policies name it. May be repeated."""
        if pair.tag.hex() not in self._staged:
            self.stage(pair)  # which refuses what a process before this one added
        association = self._outbound(pair.spi_out)
        if pair.tag.hex() not in self._sending:
            self._sending.add(pair.tag.hex())  # before: a key is offered to the kernel once, whatever comes of it
            try:
                self._kernel.add_sa(association, pair.key_out, update=False)
            except NetlinkError as error:
                if error.errno == errno.EEXIST:
                    what = f"another program has the association {pair.spi_out:#010x} to {self._esp.remote}"
                    raise HostError("host.conflict", what) from None
                raise
        self._expect(association, pair.key_out)
        self._policies.switch(self._esp.reqid, pair.spi_out)

    def reset(self, pair: Pair) -> None:
        """As `activate`, and no other association of the tunnel is left."""
        self._forget(tuple(old for old in self._read_note().pairs if old.tag != pair.tag.hex()))
        self.activate(pair)

    def received(self, epoch: int) -> bool:
        """Whether a packet came on the inbound association of this epoch. Raises `HostError` (host.readback)."""
        pair = next((pair for pair in reversed(self._read_note().pairs) if pair.epoch == epoch), None)
        state = self._kernel.get_sa(SaId(self._esp.local, pair.spi_in)) if pair else None
        if state is None or not state.valid:
            raise HostError("host.readback", f"the inbound association of epoch {epoch} is gone")
        return state.packets > 0

    def retire(self, epoch: int) -> None:
        """Delete what is older than `epoch`."""
        pairs = self._read_note().pairs
        at = next((at for at in range(len(pairs) - 1, -1, -1) if pairs[at].epoch == epoch), 0)
        self._forget(pairs[:at])

    def close(self) -> None:
        """Delete every association of the tunnel. The policies stay, and block; what is missing of them comes back."""
        try:
            self._forget(self._read_note().pairs)
        finally:  # a note that cannot be read or written keeps no key in the kernel
            for state in self._kernel.dump_sas():  # also those that no note names
                if state.reqid == self._esp.reqid and state.id.spi:
                    self._kernel.delete_sa(state.id)
            self._reserved = 0
            self._policies.switch(self._esp.reqid, 0)

    # ---- looking

    def inspect(self) -> Observation:
        """The epoch that the policies send by, if both its associations are there, and what went through."""
        endpoint, rx_bytes, tx_bytes = str(self._esp.remote), self._rx_bytes, self._tx_bytes
        tag, spi = b"", self._policies.sending(self._esp.reqid)
        for pair in self._read_note().pairs:
            into, out = self._states(pair)
            rx_bytes += into.bytes if into else 0
            tx_bytes += out.bytes if out else 0
            if pair.spi_out == spi and _works(into, pair.key_in) and _works(out, pair.key_out):
                tag = bytes.fromhex(pair.tag)
        return Observation(tag, 0, endpoint, rx_bytes, tx_bytes)

    def differs(self, tag: bytes) -> str | None:
        """What another program changed, where both ends should use the key of `tag`; None if nothing."""
        pair = self._read_note().pair(tag.hex())
        if pair is None:
            return "another program took the note of the tunnel's associations away"
        for state, key, what in zip(
            self._states(pair), (pair.key_in, pair.key_out), ("inbound", "outbound"), strict=True
        ):
            if state is None or not state.valid:
                return f"the {what} association of epoch {pair.epoch} is gone"
            if not _works(state, key) or state.reqid != self._esp.reqid:
                return f"another program replaced the {what} association of epoch {pair.epoch}"
        return self._policies.differs(self._esp.reqid, pair.spi_out)

    def knows(self, association: SaId) -> bool:
        """Whether an association should be there. Also for other threads than the worker."""
        pairs = self._note.pairs if self._note is not None else ()
        return any(association in self._ids(pair) for pair in pairs)

    # ---- inside

    def _inbound(self, spi: int) -> SecurityAssociation:
        return self._association(spi, inbound=True)

    def _outbound(self, spi: int) -> SecurityAssociation:
        return self._association(spi, inbound=False)

    def _association(self, spi: int, *, inbound: bool) -> SecurityAssociation:
        esp = self._esp
        return SecurityAssociation(
            source=esp.remote if inbound else esp.local,
            destination=esp.local if inbound else esp.remote,
            spi=spi,
            reqid=esp.reqid,
            mode=Mode.TUNNEL if esp.mode == "tunnel" else Mode.TRANSPORT,
            cipher=CIPHERS[esp.cipher],
            replay_window=esp.replay_window,
            hard_expiry_s=self._expiry_s,
            if_id=esp.if_id,
            encapsulation=esp.encapsulation,
            offload=esp.offload,
        )

    def _expect(self, association: SecurityAssociation, key: Secret) -> None:
        """Read back. A kernel in lockdown does not tell keys: then reqid and state have to do."""
        state = self._kernel.get_sa(association.id)
        if state is None or not state.valid or state.reqid != association.reqid:
            raise HostError("host.readback", f"the association {association.spi:#010x} is not what was just added")
        if state.key is not None and state.key != key:
            self._kernel.delete_sa(association.id)
            raise HostError("host.readback", f"the association {association.spi:#010x} holds another key")

    def _states(self, pair: PairNote) -> tuple[SaState | None, SaState | None]:
        into, out = self._ids(pair)
        return self._kernel.get_sa(into), self._kernel.get_sa(out)

    def _idle(self, pair: PairNote) -> bool:
        """Whether nothing was received by it, and nothing can be sent."""
        into, out = self._states(pair)
        return out is None and (into is None or not into.packets)

    def _ids(self, pair: PairNote) -> tuple[SaId, SaId]:
        return SaId(self._esp.local, pair.spi_in), SaId(self._esp.remote, pair.spi_out)

    def _forget(self, pairs: tuple[PairNote, ...]) -> None:
        """Delete their associations. The note is the last to hear of it: one that is too long does no harm."""
        for pair in pairs:
            into, out = self._states(pair)
            self._rx_bytes += into.bytes if into else 0
            self._tx_bytes += out.bytes if out else 0
            for state in (into, out):
                if state is not None and state.reqid == self._esp.reqid:
                    self._kernel.delete_sa(state.id)
            self._staged.discard(pair.tag)
            self._sending.discard(pair.tag)
        if pairs:
            note = self._read_note()
            self._write_note(
                msgspec.structs.replace(note, pairs=tuple(pair for pair in note.pairs if pair not in pairs))
            )

    def _read_note(self) -> TunnelNote:
        if self._note is None:
            self._note = self._notes.read(self._name)
        return self._note

    def _write_note(self, note: TunnelNote) -> None:
        self._note = note  # first: what cannot be written must not be forgotten here
        self._notes.write(self._name, note)


def _works(state: SaState | None, key: str) -> bool:
    """Whether an association is there and holds the key of this tag, as far as the kernel tells."""
    return state is not None and state.valid and (state.key is None or key_tag(state.key).hex() == key)
