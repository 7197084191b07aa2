"""What both ends of a link must have configured alike, as digests that tell which part differs."""

import hashlib
from collections.abc import Iterator
from typing import Any, Final

import msgspec

from qhybridd.config.records import LinkConfig
from qhybridd.crypto.kdf import Label, lp, mac
from qhybridd.distill import codes
from qhybridd.errors import PeerError
from qhybridd.links.messages import DIGEST_BYTES
from qhybridd.secret import Secret

GROUPS: Final = ("the protocol", "the simulation", "block_clicks", "the table of error-correcting codes", "the PSK")
"""What each digest of a `Hello` stands for."""


def digests(config: LinkConfig) -> tuple[bytes, ...]:
    """One for each of `GROUPS` but the PSK."""
    groups = (config.protocol, config.simulation, config.block_clicks, codes.digest())
    return tuple(_digest(group) for group in groups)


def psk_digest(config: LinkConfig, psk: Secret, session: bytes) -> bytes:
    """The last of `GROUPS`: of the PSK in this session, so that who reads it cannot tell where it is used again."""
    return mac(psk, Label.LINK_PSK_TAG, lp(session, config.name.encode()))[:DIGEST_BYTES]


def check_digests(mine: tuple[bytes, ...], theirs: tuple[bytes, ...]) -> None:
    """Raises `PeerError` (link.terms) that names what differs."""
    if len(theirs) != len(mine):
        raise PeerError("link.terms", "the peer's version compares other settings")
    differ = [name for name, one, other in zip(GROUPS, mine, theirs, strict=True) if one != other]
    if differ:
        raise PeerError("link.terms", f"the two ends differ in {', '.join(differ)}")


def _digest(group: object) -> bytes:
    text = "\n".join(_lines(msgspec.to_builtins(group), ""))
    return hashlib.sha384(text.encode()).digest()[:DIGEST_BYTES]


def _lines(value: Any, path: str) -> Iterator[str]:
    """A line for each number or word, so that 3 and 3.0 are the same."""
    if isinstance(value, dict):
        for name in sorted(value):
            yield from _lines(value[name], f"{path}.{name}")
    elif isinstance(value, list | tuple):
        for index, item in enumerate(value):
            yield from _lines(item, f"{path}[{index}]")
    elif isinstance(value, int | float):
        yield f"{path}={float(value)!r}"
    else:
        yield f"{path}={value}"
