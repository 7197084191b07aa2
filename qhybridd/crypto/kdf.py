"""The key derivation: HKDF-SHA384 steps, length prefixes, and every label of the program as one tree.

Extract is HMAC under a fixed 48-byte key (RFC 5869 section 2.2; the key is the salt), Expand is RFC 5869 section 2.3.
An output is bound to its purpose by its label; two labels never encode to the same bytes, because every item carries
its length. No label stands anywhere else in the program.
"""

import hashlib
import hmac
from enum import Enum
from typing import Final

from qhybridd.errors import ProgramError
from qhybridd.secret import Secret

HASH_BYTES: Final = 48
"""SHA-384 output, and the size of every key of the schedule."""
TAG_BYTES: Final = 16
"""Public tags of keys: 128 bits tell any two keys of a gateway's life apart."""
PREFIX: Final = b"qhybridd 1"
"""Domain of every label: the program and the version of its key schedule."""


class Label(Enum):
    """The tree of labels, `branch/leaf`."""

    # handshake (protocol/handshake.py)
    HELLO_MAC = b"handshake/hello mac"
    TRANSCRIPT = b"handshake/transcript"
    KEM_SECRET = b"handshake/kem secret"
    X25519_SECRET = b"handshake/x25519 secret"
    PSK_SECRET = b"handshake/bootstrap psk"
    REPLY_KEY = b"handshake/reply key"
    FINISH_KEY = b"handshake/finish key"
    RESPONDER_FINISHED = b"handshake/responder finished"
    INITIATOR_FINISHED = b"handshake/initiator finished"
    RESPONDER_SIGNATURE = b"handshake/responder signature"
    INITIATOR_SIGNATURE = b"handshake/initiator signature"
    # session
    SESSION_HASH = b"session/hash"
    INITIATOR_TRAFFIC = b"session/initiator traffic"
    RESPONDER_TRAFFIC = b"session/responder traffic"
    EXPORTER = b"session/exporter"
    CHAIN_EXPORT = b"session/export/chain key"
    # identity
    FINGERPRINT = b"identity/fingerprint"
    PEER_FILE_SIGNATURE = b"identity/peer file signature"
    # rotation (crypto/combiner.py)
    ROTATION = b"rotation"
    INPUT_X25519 = b"rotation/input/x25519"
    INPUT_KEM = b"rotation/input/kem"
    INPUT_QKD = b"rotation/input/qkd"
    CHAIN_KEY = b"rotation/output/chain key"
    CONFIRM_PROPOSER = b"rotation/output/confirm proposer"
    CONFIRM_ANSWERER = b"rotation/output/confirm answerer"
    WIREGUARD_PSK = b"rotation/output/wireguard psk"
    ESP_FORWARD = b"rotation/output/esp proposer to answerer"
    ESP_BACKWARD = b"rotation/output/esp answerer to proposer"
    # authentication of a link (distill/authenticate.py)
    LINK_SECRET = b"link/psk"
    LINK_PSK_TAG = b"link/psk tag"
    LINK_HASH_KEY = b"link/hash key"
    LINK_PADS_FORWARD = b"link/pads alice to bob"
    LINK_PADS_BACKWARD = b"link/pads bob to alice"
    LINK_TRANSCRIPT = b"link/transcript"
    BLOCK_KEY_ID = b"link/block key id"
    # key store (keystore/block.py)
    UNIT_KEY_ID = b"store/unit key id"
    # public tags
    KEY_TAG = b"tag/key"
    CHAIN_TAG = b"tag/chain key"

    @property
    def encoded(self) -> bytes:
        """The label as it enters a hash: length-prefixed domain and name."""
        return lp(PREFIX, self.value)


def lp(*items: bytes) -> bytes:
    """Each item behind its length as a 32-bit big-endian number: no two lists encode to the same bytes."""
    return b"".join(len(item).to_bytes(4, "big") + item for item in items)


def u64(number: int) -> bytes:
    """A 64-bit big-endian number."""
    return number.to_bytes(8, "big")


def sha384(*parts: bytes) -> bytes:
    """SHA-384 over the parts run together."""
    digest = hashlib.sha384()
    for part in parts:
        digest.update(part)
    return digest.digest()


def extract(key: Secret, *parts: bytes | memoryview) -> Secret:
    """HMAC-SHA384 under a 48-byte key, a new 48-byte key: one input enters the cascade.

    RFC 5869 section 2.2, with the running key in the place of the salt.
    """
    if len(key) != HASH_BYTES:
        raise ProgramError("program.argument", "the running key has 48 bytes")
    message = Secret(sum(len(part) for part in parts))
    with key.expose() as running, message.expose() as text:
        at = 0
        for part in parts:
            text[at : at + len(part)] = part
            at += len(part)
        result = Secret.adopt(hmac.digest(running, text, "sha384"))
    message.wipe()
    return result


def expand(key: Secret, label: Label, context: bytes, size: int = HASH_BYTES) -> Secret:
    """HKDF-Expand (RFC 5869 section 2.3) of at most one block: `size` ≤ 48 bytes bound to `label` and `context`."""
    if not 0 < size <= HASH_BYTES:
        raise ProgramError("program.argument", f"expand gives 1 to {HASH_BYTES} bytes, not {size}")
    with key.expose() as running:
        block = hmac.digest(running, label.encoded + lp(context) + b"\x01", "sha384")
    return Secret.adopt(block[:size])


def mac(key: Secret, label: Label, context: bytes) -> bytes:
    """A public 48-byte MAC over `context`, bound to `label`."""
    with key.expose() as running:
        return hmac.digest(running, label.encoded + lp(context), "sha384")


def key_tag(psk: Secret) -> bytes:
    """The public tag of an installed key, 16 bytes: tells keys apart without showing them."""
    return mac(psk, Label.KEY_TAG, b"")[:TAG_BYTES]


def chain_tag(chain: Secret) -> bytes:
    """The public tag of a chain key, 16 bytes."""
    return mac(chain, Label.CHAIN_TAG, b"")[:TAG_BYTES]


def export_chain_key(exporter: Secret, tunnel: str) -> Secret:
    """The first chain key of a tunnel, from the session that both ends share, 48 bytes."""
    if exporter.is_zero:
        raise ProgramError("program.argument", "the session was wiped")
    return expand(exporter, Label.CHAIN_EXPORT, lp(tunnel.encode()))
