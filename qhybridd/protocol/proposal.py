"""What an answerer takes of a proposer: the checks of a `Prepare` that need no secret."""

from qhybridd.crypto import kem
from qhybridd.crypto.kdf import chain_tag
from qhybridd.crypto.levels import Level
from qhybridd.errors import PeerError
from qhybridd.policy import Policy
from qhybridd.protocol.messages import Prepare
from qhybridd.protocol.standing import Standing


def check_prepare(prepare: Prepare, policy: Policy, standing: Standing) -> None:
    """Raises `PeerError` when this end must not take the proposal."""
    level: Level = prepare.level
    if prepare.epoch <= standing.last_epoch:
        raise PeerError("tunnel.epoch", f"epoch {prepare.epoch} is not above {standing.last_epoch}")
    if not policy.accepts(level):
        raise PeerError("tunnel.policy", f"level {level.label} is under {policy.least.label}, the least here")
    if level.needs_qkd != (prepare.qkd is not None):
        raise PeerError("peer.malformed", f"level {level.label} and the QKD reference do not go together")
    if level.needs_qkd and not policy.qkd:
        raise PeerError("tunnel.policy", f"level {level.label} needs a QKD key source, and there is none here")
    codes = tuple(share.code for share in prepare.kems)
    if codes != (policy.kems if level.needs_kem else ()):
        wanted, here = (" + ".join(map(kem.name_of, some)) or "none" for some in (codes, policy.kems))
        message = f"the peer proposes the KEMs {wanted}; `kems` here says {here}"
        raise PeerError("tunnel.mismatch", message, hint="Write the same `kems` in the same order at both ends.")
    if (policy.reset or standing.live is None) and not prepare.reset:
        raise PeerError("tunnel.mismatch", "this end needs a forced handshake, and the peer proposes none")
    if prepare.chain and (standing.chain is None or prepare.chain != chain_tag(standing.chain)):
        raise PeerError("tunnel.mismatch", "the peer builds on a chain key that is not held here")
