"""The combiner: one chain key and fresh secrets in, an epoch's keys out, bound to everything both ends saw.

Every step is HMAC under a fixed 48-byte key, so any one good secret makes a good key: a cascade in the shape of CasKDF
(ETSI TS 103 744 clause 8; its shape, not its bytes), each step the two-step derivation of NIST SP 800-56C rev. 2,
combining KEM secrets with their public keys and ciphertexts in the context as NIST SP 800-227 asks. Key IDs of QKD are
in the context too, so that a swapped or replayed QKD key gives no related key (arXiv:2509.12478).

    T   = SHA384(label || LP(groups))                      `Transcript.digest`
    S0  = chain key
    S1  = Extract(S0, LP("x25519") || LP(K_x25519) || T)
    S2  = Extract(S1, LP("kem", code) || LP(K_kem) || T)    one for each KEM, in the order proposed
    S3  = Extract(S2, LP("qkd") || LP(K_qkd) || T)
    out = Expand(S_last, LP(purpose) || LP(T))
"""

from dataclasses import dataclass
from typing import Final

from qhybridd.crypto.kdf import Label, chain_tag, expand, extract, lp, sha384, u64
from qhybridd.crypto.levels import Level
from qhybridd.errors import HostError, ProgramError
from qhybridd.secret import Secret

PSK_BYTES: Final = 32
"""WireGuard's preshared key (wireguard.com/protocol: PresharedKey)."""
ESP_BYTES: Final = 36
"""AES-256-GCM in ESP: 32 bytes of key and 4 of salt (RFC 4106 section 8.1); ChaCha20-Poly1305 alike (RFC 7634)."""


@dataclass(frozen=True, slots=True)
class KemTranscript:
    """One KEM as both ends saw it."""

    code: int
    ek: bytes
    ct: bytes


@dataclass(frozen=True, slots=True)
class QkdTranscript:
    """Which QKD keys entered, by the names both ends used."""

    source: str
    kme_ids: tuple[str, ...]
    sae_ids: tuple[str, ...]
    key_ids: tuple[bytes, ...]
    bits: int


@dataclass(frozen=True, slots=True)
class Transcript:
    """Everything both ends saw of one epoch. In pairs the proposer comes first, the answerer second."""

    session: bytes
    tunnel: str
    chain: bytes
    """Public tag of the chain key that enters as S0."""
    level: Level
    policy: tuple[int, int, int]
    """The proposer's policy as PREPARE carried it: least level, period and expiry in seconds."""
    reset: bool
    epoch: int
    nonces: tuple[bytes, bytes]
    identities: tuple[bytes, bytes]
    kems: tuple[KemTranscript, ...]
    x25519: tuple[bytes, bytes]
    qkd: QkdTranscript | None
    offers: tuple[bytes, bytes]
    """The targets' parts: WireGuard public keys, or addresses, SPIs and algorithm."""

    def digest(self) -> bytes:
        """T, 48 bytes. Every group is one length-prefixed item, an absent one is empty: the encoding is injective."""
        qkd = b""
        if self.qkd is not None:
            qkd = lp(
                self.qkd.source.encode(),
                lp(*(name.encode() for name in self.qkd.kme_ids)),
                lp(*(name.encode() for name in self.qkd.sae_ids)),
                lp(*self.qkd.key_ids),
                u64(self.qkd.bits),
            )
        least, period_s, expiry_s = self.policy
        groups = lp(
            lp(self.session, self.tunnel.encode(), self.chain),
            lp(u64(self.level), u64(least), u64(period_s), u64(expiry_s), u64(self.reset)),
            u64(self.epoch),
            lp(*self.nonces),
            lp(*self.identities),
            lp(*(lp(u64(kem.code), kem.ek, kem.ct) for kem in self.kems)),
            lp(*self.x25519),
            qkd,
            lp(*self.offers),
        )
        return sha384(Label.ROTATION.encoded, groups)


@dataclass(frozen=True, slots=True)
class Inputs:
    """The secrets of one epoch. The level fixes which must be there."""

    chain: Secret
    """48 bytes."""
    x25519: Secret
    kems: tuple[Secret, ...]
    qkd: Secret | None


@dataclass(frozen=True, slots=True)
class Combined:
    """What one epoch gives. `forward` is proposer to answerer."""

    chain: Secret
    confirm_proposer: Secret
    confirm_answerer: Secret
    psk: Secret
    esp_forward: Secret
    esp_backward: Secret

    def wipe(self) -> None:
        """Overwrite every output."""
        for secret in (
            self.chain,
            self.confirm_proposer,
            self.confirm_answerer,
            self.psk,
            self.esp_forward,
            self.esp_backward,
        ):
            secret.wipe()


def combine(transcript: Transcript, inputs: Inputs) -> Combined:
    """Derive an epoch's keys.

    Raises `ProgramError` when the inputs are not exactly those of the level, `HostError` (tunnel.input) when one of
    them is all zero: a source that gives zeros is broken, and nothing may be built on it.
    """
    _check(transcript, inputs)
    t = transcript.digest()
    steps: list[tuple[bytes, Secret]] = [(Label.INPUT_X25519.encoded, inputs.x25519)]
    steps += [
        (Label.INPUT_KEM.encoded + lp(u64(kem.code)), secret)
        for kem, secret in zip(transcript.kems, inputs.kems, strict=True)
    ]
    if inputs.qkd is not None:
        steps.append((Label.INPUT_QKD.encoded, inputs.qkd))

    state = inputs.chain
    for label, secret in steps:
        with secret.expose() as text:
            following = extract(state, label, len(text).to_bytes(4, "big"), text, t)
        if state is not inputs.chain:
            state.wipe()
        state = following
    combined = Combined(
        chain=expand(state, Label.CHAIN_KEY, t),
        confirm_proposer=expand(state, Label.CONFIRM_PROPOSER, t),
        confirm_answerer=expand(state, Label.CONFIRM_ANSWERER, t),
        psk=expand(state, Label.WIREGUARD_PSK, t, PSK_BYTES),
        esp_forward=expand(state, Label.ESP_FORWARD, t, ESP_BYTES),
        esp_backward=expand(state, Label.ESP_BACKWARD, t, ESP_BYTES),
    )
    state.wipe()
    return combined


def _check(transcript: Transcript, inputs: Inputs) -> None:
    level = transcript.level
    if transcript.chain != chain_tag(inputs.chain):
        raise ProgramError("program.argument", "the transcript names another chain key")
    if level.needs_kem != bool(inputs.kems) or len(inputs.kems) != len(transcript.kems):
        raise ProgramError("program.argument", f"level {level.label} with {len(inputs.kems)} KEM secrets")
    if level.needs_qkd != (inputs.qkd is not None) or level.needs_qkd != (transcript.qkd is not None):
        raise ProgramError("program.argument", f"level {level.label} and the QKD key do not go together")
    secrets = [inputs.chain, inputs.x25519, *inputs.kems, *([inputs.qkd] if inputs.qkd else [])]
    if any(secret.is_zero for secret in secrets):
        raise HostError("tunnel.input", "an input of the key is all zero")
