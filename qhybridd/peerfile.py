"""A gateway's public half as one pasteable text: who it is and where it listens.

The readable headers are what the self-signature covers, so that nothing can be read in a peer file that was not signed:

    -----BEGIN QHYBRIDD PEER-----
    Version: 1
    Name: paris
    Endpoints: 192.0.2.1:7420, gw.example:7420
    Fingerprint:
     96 hexadecimal digits, folded
    (empty line)
    base64 of Ed25519 key, ML-DSA-65 key, signature
    -----END QHYBRIDD PEER-----

The signature proves that whoever made the file holds the keys in it. That it is the gateway one means, only the
comparison of fingerprints proves.
"""

import binascii
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from qhybridd.armour import armour, between, decode64, malformed
from qhybridd.config.records import Endpoint
from qhybridd.config.values import endpoint, peer_name
from qhybridd.crypto.identity import PUBLIC_BYTES, SIGNATURE_BYTES, Identity, PublicIdentity
from qhybridd.crypto.kdf import Label, lp
from qhybridd.errors import OperatorError, QhybriddError

FORMAT: Final = 1
MAX_PEER_FILE: Final = 64 * 1024
"""A peer file has about 8 KiB; the rest is for the mail that it came in."""
MAX_ENDPOINTS: Final = 16
FOLD: Final = 48
"""Digits of the fingerprint on a line: mail programs break longer ones."""
_PEER: Final = "QHYBRIDD PEER"


@dataclass(frozen=True, slots=True)
class PeerFile:
    """What a gateway says of itself: the content of a peer file."""

    name: str
    """A suggestion; the receiver may store it under another name."""
    endpoints: tuple[Endpoint, ...]
    identity: PublicIdentity


def export_peer(identity: Identity, name: str, endpoints: tuple[Endpoint, ...]) -> str:
    """This gateway's peer file, to paste at another one."""
    public = identity.public
    if len(endpoints) > MAX_ENDPOINTS:
        raise OperatorError("config.value", f"a peer file takes {MAX_ENDPOINTS} endpoints")
    file = PeerFile(peer_name(name), tuple(endpoint(str(one)) for one in endpoints), public)
    signature = identity.sign(Label.PEER_FILE_SIGNATURE, _signed(file))
    digits = public.fingerprint.hex()
    fold = f" {digits[:FOLD]}\n {digits[FOLD:]}"
    headers = (
        f"Version: {FORMAT}\n"
        f"Name: {file.name}\n"
        f"Endpoints: {', '.join(map(str, file.endpoints))}\n"
        f"Fingerprint:\n{fold}\n"
        "\n"
    )
    body = binascii.b2a_base64(public.encode() + signature, newline=False)
    return armour(body, _PEER, headers.encode()).decode()


def parse_peer(data: bytes, source: Path) -> PeerFile:
    """The peer file in `data`; text around it is passed over. Raises `OperatorError` (file.malformed)."""
    if len(data) > MAX_PEER_FILE:
        raise malformed(f"a peer file has at most {MAX_PEER_FILE} bytes", source)
    headers, body = _parse_headers(between(data, _PEER, source), source)
    raw = decode64(body, "the base64 of the peer file is damaged", source)
    if len(raw) != PUBLIC_BYTES + SIGNATURE_BYTES:
        raise malformed("the peer file is cut or damaged", source)
    try:
        texts = [part.strip() for part in headers["endpoints"].split(",") if part.strip()]
        if len(texts) > MAX_ENDPOINTS:
            raise malformed(f"more than {MAX_ENDPOINTS} endpoints", source)
        endpoints = tuple(endpoint(text) for text in texts)
        file = PeerFile(peer_name(headers["name"]), endpoints, PublicIdentity.decode(raw[:PUBLIC_BYTES]))
        file.identity.verify(Label.PEER_FILE_SIGNATURE, _signed(file), raw[PUBLIC_BYTES:])
    except QhybriddError as error:
        raise malformed(error.message, source) from None
    if headers["fingerprint"] != file.identity.fingerprint.hex():
        raise malformed("the fingerprint in the peer file is not the one of its keys", source)
    return file


def peer_block(data: bytes, source: Path) -> bytes:
    """The block in `data` alone, without the mail around it. Raises `OperatorError` (file.malformed)."""
    lines = [line.rstrip() for line in between(data, _PEER, source)]
    return b"\n".join([f"-----BEGIN {_PEER}-----".encode(), *lines, f"-----END {_PEER}-----\n".encode()])


def _signed(file: PeerFile) -> bytes:
    """What the self-signature covers: everything that the file says."""
    endpoints = lp(*(str(endpoint).encode() for endpoint in file.endpoints))
    return lp(bytes([FORMAT]), file.name.encode(), endpoints, file.identity.encode())


def _parse_headers(lines: Iterable[bytes], source: Path) -> tuple[dict[str, str], bytes]:
    """The four headers, lower case, and the base64 behind the empty line."""
    headers: dict[str, str] = {}
    last = ""
    body: list[bytes] = []
    inside = False
    for line in lines:
        if inside:
            body.append(line.strip())
        elif not line.strip():
            inside = bool(headers)
        elif line[:1] in b" \t" and last:
            headers[last] += line.strip().decode("ascii", "replace")
        else:
            key, colon, value = line.decode("ascii", "replace").partition(":")
            last = key.strip().lower()
            if not colon or last in headers:
                raise malformed("a header of the peer file is damaged", source)
            headers[last] = value.strip()
    if headers.keys() != {"version", "name", "endpoints", "fingerprint"} or headers["version"] != str(FORMAT):
        raise malformed(f"a peer file of version {FORMAT} has other headers", source)
    return headers, b"".join(body)
