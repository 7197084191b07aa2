"""One attempt at a new epoch: what both ends said, the secrets on the way, and the keys that come of them."""

import hmac
from base64 import b64encode
from dataclasses import dataclass, field
from typing import Literal

from qhybridd.crypto.combiner import Inputs, KemTranscript, QkdTranscript, Transcript, combine
from qhybridd.crypto.kdf import chain_tag, export_chain_key, key_tag
from qhybridd.crypto.levels import Level
from qhybridd.errors import PeerError
from qhybridd.protocol.actions import Encapsulated, EpochKeys, Exchanged, QkdKey, Reserved, SessionKeys, Shares
from qhybridd.protocol.messages import Held, Prepare, Prepared, QkdRef
from qhybridd.secret import Secret

Slot = Literal["shares", "reserved", "qkd", "encapsulated", "exchanged", "stage", "activate", "observe", "straddle"]
"""What the result of an action fills, or the step that it ends."""


@dataclass(slots=True)
class Attempt:
    """One attempt. Fields fill as it goes on; secrets are dropped, and with that wiped, as soon as they are used."""

    session: SessionKeys
    began_at: float
    """CLOCK_BOOTTIME seconds."""
    deadline: float | None
    """When the present step is late, CLOCK_BOOTTIME seconds; None when only the live epoch's expiry bounds it."""
    proposer: bool = False
    reset: bool = False
    epoch: int = 0
    level: Level = Level.HYBRID
    base: bytes = b""
    """Tag of the chain key that both ends hold; empty: the session's export is the base."""
    pending: dict[int, Slot] = field(default_factory=dict)
    """Actions whose result is awaited."""

    prepare: Prepare | None = None
    prepared: Prepared | None = None
    shares: Shares | None = None
    reserved: Reserved | None = None
    qkd: QkdKey | None = None
    encapsulated: Encapsulated | None = None
    exchanged: Exchanged | None = None

    keys: EpochKeys | None = None
    chain: Secret | None = None
    """The next chain key; it becomes the tunnel's when the epoch is live."""
    own_confirm: bytes = field(default=b"", repr=False)
    peer_confirm: Secret | None = None
    combined_at: float = 0.0

    activated: bool = False
    observed: bool = False
    peer_observed: bool = False

    @property
    def held(self) -> Held:
        """The attempt's epoch and its key's tag."""
        return Held(self.epoch, self.keys.tag if self.keys else b"")

    def base_chain(self, chain: Secret | None) -> Secret:
        """S0: the tunnel's chain key where both ends hold the same, else the one that this session exports."""
        assert self.prepare is not None
        if chain is not None and self.base == chain_tag(chain):
            return chain
        return export_chain_key(self.session.exporter, self.prepare.tunnel)

    def combine(self, chain: Secret | None, prepared: Prepared, secrets: Exchanged, now: float) -> None:
        """Derive the epoch's keys from what both ends said and the secrets at hand; the secrets are dropped."""
        prepare, session = self.prepare, self.session
        assert prepare is not None
        base = self.base_chain(chain)
        ends = (session.local, session.peer) if self.proposer else (session.peer, session.local)
        transcript = Transcript(
            session=session.hash,
            tunnel=prepare.tunnel,
            chain=chain_tag(base),
            level=prepare.level,
            policy=(prepare.policy.least, prepare.policy.period_s, prepare.policy.expiry_s),
            reset=prepare.reset,
            epoch=prepare.epoch,
            nonces=(prepare.nonce, prepared.nonce),
            identities=ends,
            kems=tuple(
                KemTranscript(share.code, share.ek, reply.ct)
                for share, reply in zip(prepare.kems, prepared.kems, strict=True)
            ),
            x25519=(prepare.x25519, prepared.x25519),
            qkd=_qkd_transcript(prepare.qkd) if prepare.qkd else None,
            offers=(prepare.offer, prepared.offer),
        )
        combined = combine(
            transcript, Inputs(base, secrets.x25519, secrets.kems, self.qkd.secret if self.qkd else None)
        )
        forward, backward = combined.esp_forward, combined.esp_backward
        out, into = (forward, backward) if self.proposer else (backward, forward)
        own, theirs = combined.confirm_proposer, combined.confirm_answerer
        if not self.proposer:
            own, theirs = theirs, own
        with own.expose() as text:
            self.own_confirm = bytes(text)
        self.peer_confirm = theirs
        offers = (prepare.offer, prepared.offer) if self.proposer else (prepared.offer, prepare.offer)
        self.keys = EpochKeys(prepare.epoch, combined.psk, out, into, key_tag(combined.psk), *offers)
        self.chain = combined.chain
        self.combined_at = now
        self.shares = self.exchanged = self.encapsulated = self.qkd = None

    def check_confirm(self, confirm: bytes) -> None:
        """Raises `PeerError` (tunnel.confirm) unless the peer proved that it holds the same keys."""
        assert self.peer_confirm is not None
        with self.peer_confirm.expose() as expected:
            if not hmac.compare_digest(expected, confirm):
                raise PeerError("tunnel.confirm", f"the peer derived another key for epoch {self.epoch}")

    def check_offer(self, offer: bytes) -> None:
        """Raises `PeerError` (tunnel.mismatch) when the peer's target is not the one configured here."""
        assert self.reserved is not None
        expected, free = self.reserved.expected, self.reserved.free
        if expected is None or (len(offer) == len(expected) + free and offer.startswith(expected)):
            return
        has, wanted = _shown(offer[: len(offer) - free]), _shown(expected)
        message = f"the peer's end of the tunnel is {has}, the configuration here says {wanted}"
        raise PeerError("tunnel.mismatch", message, hint=self.reserved.hint)


def _shown(offer: bytes) -> str:
    """An offer for eyes: XFRM's are text, WireGuard's are public keys."""
    text = offer.decode("ascii", "replace")
    return f"«{text}»" if text.isprintable() and "\ufffd" not in text else b64encode(offer).decode()


def _qkd_transcript(ref: QkdRef) -> QkdTranscript:
    return QkdTranscript(ref.source, ref.kme_ids, ref.sae_ids, ref.key_ids, ref.bits)
