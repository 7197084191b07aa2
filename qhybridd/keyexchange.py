"""Carries out the key-exchange actions of the rotation core with the cryptography below it."""

from qhybridd.crypto import shares
from qhybridd.errors import ProgramError
from qhybridd.protocol.actions import Decapsulate, Encapsulate, Encapsulated, Exchanged, MakeShares, Shares
from qhybridd.protocol.messages import KemReply, KemShare


def perform(action: MakeShares | Encapsulate | Decapsulate) -> Shares | Encapsulated | Exchanged:
    """The result. Raises `PeerError` (peer.malformed) on the peer's bad bytes. Slow KEMs need a thread."""
    match action:
        case MakeShares():
            made = shares.make(action.kems)
            return Shares(made.nonce, made.x25519, tuple(KemShare(code, ek) for code, ek in made.kems), made.private)
        case Encapsulate():
            answer = shares.answer(action.x25519, tuple((share.code, share.ek) for share in action.kems))
            return Encapsulated(
                answer.nonce,
                answer.x25519,
                tuple(KemReply(code, ct) for code, ct in answer.kems),
                Exchanged(answer.secrets.x25519, answer.secrets.kems),
            )
        case Decapsulate():
            if not isinstance(action.private, shares.PrivateShares):
                raise ProgramError("program.argument", "the private halves are of another kind")
            opened = shares.open_answer(
                action.private, action.x25519, tuple((reply.code, reply.ct) for reply in action.kems)
            )
            return Exchanged(opened.x25519, opened.kems)
