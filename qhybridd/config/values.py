"""From a TOML string to a value: one reader for each kind. Each raises `OperatorError` (config.value) without a place.

The texts say what is wrong and the hints what to write instead; the caller adds file and line.
"""

import binascii
import re
from difflib import get_close_matches
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_interface, ip_network
from pathlib import Path
from typing import Final

from qhybridd.config.records import DEFAULT_PORT, Endpoint, Prefix
from qhybridd.errors import OperatorError

MAX_DURATION_S: Final = 86_400
"""A key that may live longer than a day is a mistake of units."""
MAX_NAME: Final = 63
MAX_INTERFACE: Final = 15
"""IFNAMSIZ - 1 (linux/if.h)."""
MAX_PATH_BYTES: Final = 4095
"""PATH_MAX - 1 (linux/limits.h)."""
WIREGUARD_KEY_BYTES: Final = 32

_DURATION: Final = re.compile(r"(?:(\d{1,6})h)?(?:(\d{1,6})m)?(?:(\d{1,6})s)?", re.ASCII)
_WIRE_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*", re.ASCII)
_PEER_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*", re.ASCII)
_HOST_LABEL: Final = re.compile(r"(?!-)[A-Za-z0-9_-]{1,63}(?<!-)", re.ASCII)
_KEM_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.+-]{0,63}", re.ASCII)


def unfit(message: str, hint: str = "") -> OperatorError:
    """A value that cannot be taken."""
    return OperatorError("config.value", message, hint=hint)


def nearest(word: str, known: tuple[str, ...]) -> str:
    """`did you mean …?` where something is near, the whole list where it is short, else nothing."""
    close = get_close_matches(word, known, n=1, cutoff=0.6)
    if close:
        return f'Did you mean "{close[0]}"?'
    return f"Known: {', '.join(known)}." if 0 < len(known) <= 12 else ""


def duration(text: str) -> int:
    """Whole seconds from `120s`, `5m`, `1h` or `1h30m`, hours before minutes before seconds."""
    hint = 'Write a duration with its unit, largest first: "120s", "5m", "1h", "1h30m".'
    match = _DURATION.fullmatch(text)
    if not text or match is None:
        if text.isascii() and text.isdigit():
            raise unfit(f'"{text}" has no unit', f'Write "{text}s" for seconds, "{text}m" for minutes.')
        raise unfit(f'"{text}" is no duration', hint)
    hours, minutes, seconds = (int(part or 0) for part in match.groups())
    total_s = hours * 3600 + minutes * 60 + seconds
    if not 0 < total_s <= MAX_DURATION_S:
        raise unfit(f'"{text}" is not between 1s and 24h', hint)
    return total_s


def endpoint(text: str, port: int = DEFAULT_PORT) -> Endpoint:
    """`192.0.2.1:7420`, `[2001:db8::1]:7420` or `gw.example:7420`; `port` is the one that examples have."""
    example = f'Write "192.0.2.1:{port}", "[2001:db8::1]:{port}" or "gw.example:{port}".'
    host, colon, digits = text.rpartition(":")
    if not colon or not (digits.isascii() and digits.isdigit() and len(digits) <= 5 and 0 < int(digits) <= 0xFFFF):
        raise unfit(f'"{text}" names no port between 1 and 65535', example)
    if host.startswith("[") and host.endswith("]"):
        try:
            return Endpoint(str(IPv6Address(host[1:-1])), int(digits))
        except ValueError:
            raise unfit(f'"{host}" is no IPv6 address', example) from None
    if ":" in host:
        raise unfit(f'the IPv6 address in "{text}" needs brackets', f'Write "[{host}]:{digits}" or give a port.')
    return Endpoint(_host(host, text, example), int(digits))


def _host(host: str, text: str, example: str) -> str:
    """An IPv4 address or a DNS name."""
    labels = host.removesuffix(".").split(".")
    if labels[-1].isascii() and labels[-1].isdigit():  # no top-level domain is a number (RFC 3696 section 2)
        try:
            return str(IPv4Address(host))
        except ValueError:
            raise unfit(f'"{host}" is no IPv4 address', example) from None
    if len(host) > 253 or not all(_HOST_LABEL.fullmatch(label) for label in labels):
        raise unfit(f'"{text}" names no host', example)
    return host


def listener(text: str, port: int = DEFAULT_PORT) -> Endpoint:
    """An endpoint to bind: an address, no name."""
    found = endpoint(text, port)
    try:
        ip_address(found.host)
    except ValueError:
        raise unfit(
            f'"{text}" is a name, and listening needs an address', 'Write an address of this host, or "0.0.0.0:PORT".'
        ) from None
    return found


def prefix(text: str) -> Prefix:
    """A network in CIDR form, without host bits."""
    if "/" not in text:
        raise unfit(f'"{text}" has no prefix length', 'Write "10.2.0.0/16"; a single host is "10.2.0.1/32".')
    try:
        return ip_network(text)
    except ValueError:
        pass
    try:
        meant = ip_interface(text).network
    except ValueError:
        raise unfit(f'"{text}" is no prefix', 'Write "10.2.0.0/16" or "2001:db8:2::/48".') from None
    raise unfit(f'"{text}" has bits set behind its prefix length', f'Did you mean "{meant}"?')


def inside(part: Prefix, whole: Prefix) -> bool:
    """Whether `whole` covers all of `part`."""
    return part.version == whole.version and part.subnet_of(whole)  # type: ignore[arg-type]  # same version, just checked


def wireguard_key(text: str) -> bytes:
    """A WireGuard public key as `wg` prints it."""
    hint = "Paste the peer's public key as `wg show` prints it: 44 characters that end in `=`."
    try:
        key = binascii.a2b_base64(text.encode("ascii"), strict_mode=True)
    except (ValueError, UnicodeEncodeError):
        raise unfit("this is no base64 of a WireGuard public key", hint) from None
    if len(key) != WIREGUARD_KEY_BYTES or binascii.b2a_base64(key, newline=False).decode() != text:
        raise unfit("a WireGuard public key has 32 bytes", hint)
    if not any(key):
        raise unfit("an all-zero WireGuard public key belongs to nobody", hint)
    return key


def path(text: str) -> Path:
    """A path, as written; the caller resolves a relative one against the directory of the file."""
    if not text or "\0" in text or len(text.encode()) > MAX_PATH_BYTES:
        raise unfit("this is no path", 'Write a path such as "/etc/qhybridd/identity.key".')
    return Path(text)


def interface(text: str) -> str:
    """A network device's name (dev_valid_name in the kernel's net/core/dev.c)."""
    if (
        not 0 < len(text.encode()) <= MAX_INTERFACE
        or text in (".", "..")
        or any(char in "/:\0" or char.isspace() for char in text)
    ):
        raise unfit(
            f'"{text}" cannot be the name of an interface', 'Write up to 15 characters without space, e.g. "wg0".'
        )
    return text


def tunnel_name(text: str) -> str:
    """A tunnel's name: it goes over the wire and into the key."""
    return _wire_name(text, "a tunnel")


def link_name(text: str) -> str:
    """A link's name: it goes over the wire and into its tags."""
    return _wire_name(text, "a link")


def _wire_name(text: str, what: str) -> str:
    if len(text) > MAX_NAME or not _WIRE_NAME.fullmatch(text):
        raise unfit(
            f'"{text}" cannot be the name of {what}',
            "Up to 63 letters, digits, `-`, `_` and `.`, beginning with a letter or digit.",
        )
    return text


def peer_name(text: str) -> str:
    """A peer's name: it names files, so it has no dot."""
    if len(text) > MAX_NAME or not _PEER_NAME.fullmatch(text):
        raise unfit(
            f'"{text}" cannot be the name of a peer',
            "Up to 63 letters, digits, `-` and `_`, beginning with a letter or digit.",
        )
    return text


def kem_name(text: str) -> str:
    """A KEM's name, well-formed; whether it exists is the registry's to say."""
    if not _KEM_NAME.fullmatch(text):
        raise unfit(f'"{text}" cannot be the name of a KEM', 'Write for instance "ml-kem-768".')
    return text
