"""The handshake's transcript and keys: HKDF-SHA384 (RFC 5869) in the manner of RFC 8446 section 7.1.

Both ends make the same calls in the same order. Every output is one HMAC under the running key over an injectively
encoded, labelled input that holds the transcript so far, so no two outputs are related, and none is the same in two
handshakes.
"""

import hashlib
from dataclasses import dataclass

from qhybridd.crypto import kdf
from qhybridd.crypto.aead import KEY_BYTES
from qhybridd.crypto.ephemeral import SharedSecrets
from qhybridd.crypto.kdf import HASH_BYTES, Label, lp
from qhybridd.errors import ProgramError
from qhybridd.secret import Secret


@dataclass(frozen=True, slots=True)
class SessionSecrets:
    """What a finished handshake leaves behind."""

    hash: bytes
    """Names the session, 48 bytes."""
    initiator_traffic: Secret
    """AES-256 key from initiator to responder."""
    responder_traffic: Secret
    """AES-256 key from responder to initiator."""
    exporter: Secret
    """48 bytes, for keys that other parts derive from the session."""


class KeySchedule:
    """The running hash and the running key of one handshake."""

    __slots__ = ("_key", "_transcript")

    def __init__(self) -> None:
        self._transcript = hashlib.sha384(Label.TRANSCRIPT.encoded)
        self._key = Secret(HASH_BYTES)  # RFC 5869 section 2.2: without a salt, zeros as long as the hash

    @property
    def transcript(self) -> bytes:
        """SHA-384 over everything added so far, 48 bytes."""
        return self._transcript.digest()

    def add(self, *items: bytes) -> None:
        """Append what was sent or received; each item carries its length."""
        self._transcript.update(lp(*items))

    def mix_shares(self, kem: int, secrets: SharedSecrets) -> None:
        """Extract from both secrets in turn, so that either makes the key good; they are wiped."""
        self._mix(Label.X25519_SECRET, b"", secrets.x25519)
        self._mix(Label.KEM_SECRET, kem.to_bytes(2, "big"), secrets.kem)
        secrets.wipe()

    def mix_psk(self, psk: Secret) -> None:
        """Extract from the bootstrap PSK; it is not wiped."""
        self._mix(Label.PSK_SECRET, b"", psk)

    def sealing_key(self, label: Label) -> Secret:
        """The key of one sealed part, 32 bytes."""
        return kdf.expand(self._key, label, self.transcript, KEY_BYTES)

    def finished(self, label: Label) -> bytes:
        """The MAC over the transcript so far, 48 bytes."""
        return kdf.mac(self._key, label, self.transcript)

    def finish(self) -> SessionSecrets:
        """The session's secrets; the running key is wiped."""
        session = kdf.sha384(Label.SESSION_HASH.encoded, lp(self.transcript))
        result = SessionSecrets(
            session,
            kdf.expand(self._key, Label.INITIATOR_TRAFFIC, session, KEY_BYTES),
            kdf.expand(self._key, Label.RESPONDER_TRAFFIC, session, KEY_BYTES),
            kdf.expand(self._key, Label.EXPORTER, session),
        )
        self.wipe()
        return result

    def wipe(self) -> None:
        """Overwrite the running key."""
        self._key.wipe()

    def _mix(self, label: Label, context: bytes, secret: Secret) -> None:
        if secret.is_zero:
            raise ProgramError("program.argument", "an all-zero secret: it was wiped, or never filled")
        with secret.expose() as view:
            length = len(view).to_bytes(4, "big")
            mixed = kdf.extract(self._key, label.encoded, lp(context), length, view, self.transcript)
        self._key.wipe()
        self._key = mixed
