"""What a `[tunnel.NAME]` table says of its target, WireGuard or XFRM, and what must hold for the XFRM ones."""

from collections.abc import Iterator
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from typing import Final, TypeVar, get_args

from qhybridd.config import values
from qhybridd.config.records import (
    DEFAULT_PORT,
    REQID_LEAST,
    REQID_MOST,
    Address,
    Config,
    EspCipher,
    EspMode,
    Prefix,
    TunnelConfig,
    WireGuardConfig,
    XfrmConfig,
    default_reqid,
)
from qhybridd.config.tables import Problems, Table

XFRM: Final = "xfrm"
TARGETS: Final = ("wireguard", XFRM)
REPLAY_WINDOW_LEAST: Final = 32
"""RFC 4303 section 3.4.3: a window of 32 must be supported, and 64 should be the default."""
REPLAY_WINDOW_MOST: Final = 4096
"""XFRMA_REPLAY_ESN_MAX (linux/xfrm.h)."""
WIREGUARD_KEYS: Final = ("wireguard_peer",)
XFRM_KEYS: Final = (
    "local",
    "remote",
    "behind",
    "mode",
    "cipher",
    "replay_window",
    "if_id",
    "encapsulation",
    "offload",
    "reqid",
)
NOWHERE: Final[Address] = IPv4Address(0)
"""Stands in for an outer address that is missing or wrong."""

N = TypeVar("N", EspMode, EspCipher)
Pair = tuple[TunnelConfig, XfrmConfig]


def read_wireguard(table: Table) -> WireGuardConfig:
    """The keys of a WireGuard tunnel. What is wrong is noted, and has a stand-in."""
    for key in XFRM_KEYS:
        table.refuse(key, f'It is one of XFRM tunnels: write target = "{XFRM}", or remove it.')
    return WireGuardConfig(
        table.need("interface", str, values.interface, ""),
        table.need("wireguard_peer", str, values.wireguard_key, b""),
    )


def read_xfrm(table: Table) -> XfrmConfig:
    """The keys of an XFRM tunnel. What is wrong is noted, and has a stand-in."""
    for key in WIREGUARD_KEYS:
        table.refuse(key, f'It is one of WireGuard tunnels: remove it, or the line target = "{XFRM}".')
    table.refuse("renew", "Remove it: in an XFRM tunnel the new key stands beside the old one, and no packet is lost.")
    local = table.need("local", str, _outer, NOWHERE)
    default = XfrmConfig(local, NOWHERE, 0)
    mode = table.get("mode", str, _mode, default.mode)
    return XfrmConfig(
        local=local,
        remote=table.need("remote", str, _outer, NOWHERE),
        reqid=table.get("reqid", int, _reqid, default_reqid(table.path[-1])),
        behind=table.get_list("behind", values.prefix, default.behind if mode == "tunnel" else (ip_network(local),)),
        mode=mode,
        cipher=table.get("cipher", str, _cipher, default.cipher),
        replay_window=table.get("replay_window", int, _replay_window, default.replay_window),
        interface=table.get("interface", str, values.interface, default.interface),
        if_id=table.get("if_id", int, _if_id, default.if_id),
        encapsulation=table.get("encapsulation", int, _encapsulation, default.encapsulation),
        offload=table.get("offload", str, values.interface, default.offload),
    )


def check_xfrm(config: Config, problems: Problems) -> None:
    """What must hold for each XFRM tunnel, and between them and the others."""
    for tunnel, target in _xfrm_tunnels(config):
        _check_addresses(tunnel, target, problems)
        _check_selectors(tunnel, target, problems)
        _check_interface(tunnel, target, problems)
    _check_reqids(config, problems)
    _check_interfaces(config, problems)
    _check_carried(config, problems)


def _xfrm_tunnels(config: Config) -> Iterator[Pair]:
    for tunnel in config.tunnels.values():
        if isinstance(tunnel.target, XfrmConfig):
            yield tunnel, tunnel.target


def _check_addresses(tunnel: TunnelConfig, target: XfrmConfig, problems: Problems) -> None:
    path = ("tunnel", tunnel.name)
    if problems.noted(*path, "local") or problems.noted(*path, "remote"):
        return
    if target.local.version != target.remote.version:
        message = f'"{target.remote}" and local = "{target.local}" are of two families: no packet has both'
        problems.add((*path, "remote"), "config.value", message, "Write two IPv4 or two IPv6 addresses.")
    elif target.local == target.remote:
        message = f'"{target.remote}" is `local` too: the tunnel would end where it begins'
        problems.add((*path, "remote"), "config.value", message, "Write the other gateway's address.")


def _check_selectors(tunnel: TunnelConfig, target: XfrmConfig, problems: Problems) -> None:
    """Each protected prefix has a local one to go with; in transport mode both are the gateways themselves."""
    path = ("tunnel", tunnel.name)
    if problems.noted(*path, "behind") or problems.noted(*path, "mode"):
        return
    if not target.behind:
        problems.add((*path, "behind"), "config.value", "the list is empty", "List at least one, or remove the key.")
        return
    if target.mode == "transport":
        _check_transport(tunnel, target, problems)
        return
    for prefix in tunnel.protects:
        if not any(prefix.version == near.version for near in target.behind):
            message = f'"{prefix}" is IPv{prefix.version}, and `behind` names nothing of that family'
            hint = f'Add what may talk to it, e.g. "{"0.0.0.0/0" if prefix.version == 4 else "::/0"}", or remove it.'
            problems.add((*path, "behind"), "config.value", message, hint)
    for near in target.behind:
        if not any(_is_within(near, prefix) for prefix in tunnel.excepts):
            for prefix in tunnel.protects:
                if near != prefix and _is_within(near, prefix):
                    message = f'"{near}" lies in the protected "{prefix}", so that what it sends here would be dropped'
                    problems.add((*path, "behind"), "config.value", message, f'Add "{near}" to `except`.')


def _is_within(prefix: Prefix, wider: Prefix) -> bool:
    return (
        prefix.version == wider.version
        and int(wider.network_address) <= int(prefix.network_address)
        and int(prefix.broadcast_address) <= int(wider.broadcast_address)
    )


def _check_transport(tunnel: TunnelConfig, target: XfrmConfig, problems: Problems) -> None:
    """A transport-mode packet has no address but the gateways' own (RFC 4301 section 4.1)."""
    path = ("tunnel", tunnel.name)
    for key, address_key, address, prefixes in (
        ("behind", "local", target.local, target.behind),
        ("protects", "remote", target.remote, tunnel.protects),
    ):
        if problems.noted(*path, key) or problems.noted(*path, address_key):
            continue
        host: Prefix = ip_network(address)
        for prefix in prefixes:
            if prefix != host:
                message = f'"{prefix}" is not `{address_key}`: transport mode carries what the gateways say themselves'
                hint = f'Write {key} = ["{host}"], or mode = "tunnel".'
                problems.add((*path, key), "config.value", message, hint)


def _check_interface(tunnel: TunnelConfig, target: XfrmConfig, problems: Problems) -> None:
    """An XFRM interface and its number come together."""
    path = ("tunnel", tunnel.name)
    if problems.noted(*path, "interface") or problems.noted(*path, "if_id"):
        return
    if target.interface and not target.if_id:
        hint = f"Add if_id = …: `ip -d link show {target.interface}` shows it."
        message = f"the XFRM interface {target.interface} has an if_id, and the tunnel names none"
        problems.add((*path, "interface"), "config.value", message, hint)
    elif target.if_id and not target.interface:
        message = "an if_id belongs to an XFRM interface, and the tunnel names none"
        problems.add((*path, "if_id"), "config.value", message, 'Add interface = "…", or remove it.')


def _check_reqids(config: Config, problems: Problems) -> None:
    """One reqid, one tunnel: the guard and the kernel tell tunnels apart by it."""
    taken: dict[int, str] = {}
    for tunnel, target in _xfrm_tunnels(config):
        if problems.noted("tunnel", tunnel.name, "reqid"):
            continue
        first = taken.setdefault(target.reqid, tunnel.name)
        if first != tunnel.name:
            at = problems.where("tunnel", first)
            message = f"{target.reqid:#x} is the reqid of tunnel {first} too ({at})"
            hint = f"Write another one, between {REQID_LEAST:#x} and {REQID_MOST:#x}, in one of the two."
            problems.add(("tunnel", tunnel.name, "reqid"), "config.duplicate", message, hint)


def _check_interfaces(config: Config, problems: Problems) -> None:
    """An XFRM interface has one number, a number one interface, and WireGuard's devices are others."""
    by_name: dict[str, tuple[int, str]] = {}
    by_number: dict[int, tuple[str, str]] = {}
    for tunnel in config.tunnels.values():
        if isinstance(tunnel.target, WireGuardConfig) and tunnel.interface:
            by_name.setdefault(tunnel.interface, (0, tunnel.name))
    for tunnel, target in _xfrm_tunnels(config):
        path = ("tunnel", tunnel.name)
        if not target.interface or not target.if_id or problems.noted(*path, "interface"):
            continue
        number, first = by_name.setdefault(target.interface, (target.if_id, tunnel.name))
        if number != target.if_id:
            what = f"has if_id {number}" if number else "is a WireGuard device"
            message = f"{target.interface} {what} in tunnel {first} ({problems.where('tunnel', first)})"
            problems.add((*path, "interface"), "config.duplicate", message, "Correct one of the two.")
            continue
        name, first = by_number.setdefault(target.if_id, (target.interface, tunnel.name))
        if name != target.interface:
            message = f"{target.if_id} is the if_id of {name} in tunnel {first} ({problems.where('tunnel', first)})"
            problems.add((*path, "if_id"), "config.duplicate", message, "Correct one of the two.")


def _check_carried(config: Config, problems: Problems) -> None:
    """ESP is not put into ESP again: a tunnel's outer packets must not belong to another XFRM tunnel."""
    for tunnel, target in _xfrm_tunnels(config):
        if problems.noted("tunnel", tunnel.name, "remote"):
            continue
        outer: Prefix = ip_network(target.remote)
        owner, prefix = _owner(outer, config)
        if owner is None or prefix is None or owner is tunnel or not isinstance(owner.target, XfrmConfig):
            continue
        message = (
            f'"{prefix}" covers {target.remote}, the remote end of tunnel {tunnel.name} '
            f"({problems.where('tunnel', tunnel.name)}), whose ESP would be dropped"
        )
        problems.add(
            ("tunnel", owner.name, "protects"), "config.policy", message, f'Leave it out: except = ["{outer}"].'
        )


def _owner(host: Prefix, config: Config) -> tuple[TunnelConfig | None, Prefix | None]:
    """The tunnel that an address belongs to: the one with the longest prefix around it, as `guard.prefixes` has it."""
    best: tuple[TunnelConfig | None, Prefix | None] = (None, None)
    longest = -1
    for tunnel in config.tunnels.values():
        holes = [hole.prefixlen for hole in tunnel.excepts if values.inside(host, hole)]
        for prefix in tunnel.protects:
            left_out = any(length > prefix.prefixlen for length in holes)
            if values.inside(host, prefix) and not left_out and prefix.prefixlen > longest:
                best, longest = (tunnel, prefix), prefix.prefixlen
    return best


def _outer(text: str) -> Address:
    """An address that ESP can go between."""
    example = 'Write an address alone, such as "192.0.2.1" or "2001:db8::1".'
    try:
        address = ip_address(text)
    except ValueError:
        raise values.unfit(f'"{text}" is no address', example) from None
    if isinstance(address, IPv6Address) and (address.scope_id or address.is_link_local):
        raise values.unfit(f'"{text}" is link-local, which means nothing without a device', example)
    if address.is_multicast or address.is_unspecified or address.is_loopback:
        raise values.unfit(f'"{text}" is no address of one gateway', example)
    if isinstance(address, IPv6Address) and address.ipv4_mapped:
        raise values.unfit(f'"{text}" is an IPv4 address in disguise', f'Write "{address.ipv4_mapped}".')
    return address


def _one_of(text: str, known: tuple[N, ...], what: str) -> N:
    for word in known:
        if text == word:
            return word
    raise values.unfit(f'"{text}" is no {what}', values.nearest(text, known))


def _mode(text: str) -> EspMode:
    modes: tuple[EspMode, ...] = get_args(EspMode)
    return _one_of(text, modes, "mode of ESP")


def _cipher(text: str) -> EspCipher:
    ciphers: tuple[EspCipher, ...] = get_args(EspCipher)
    return _one_of(text, ciphers, "cipher")


def _replay_window(number: int) -> int:
    if not REPLAY_WINDOW_LEAST <= number <= REPLAY_WINDOW_MOST:
        message = f"{number} packets are not between {REPLAY_WINDOW_LEAST} and {REPLAY_WINDOW_MOST}"
        raise values.unfit(message, "More is for fast lines on which packets overtake each other.")
    if number & (number - 1):
        below = 1 << (number.bit_length() - 1)
        message = f"{number} packets are no power of two: the kernel would take some packets twice"
        raise values.unfit(message, f"Write {below} or {2 * below}.")
    return number


def _if_id(number: int) -> int:
    if not 0 < number < 1 << 32:
        raise values.unfit(f"{number} is not between 1 and 0xffffffff", "Without an XFRM interface remove the key.")
    return number


def _encapsulation(number: int) -> int:
    if not 0 < number <= 0xFFFF:
        raise values.unfit(f"{number} is no UDP port", "4500 is the usual one (RFC 3948); remove it for plain ESP.")
    if number == DEFAULT_PORT:
        raise values.unfit(f"port {number} over UDP is where probes go", "4500 is the usual one (RFC 3948).")
    return number


def _reqid(number: int) -> int:
    if not REQID_LEAST <= number <= REQID_MOST:
        message = f"{number:#x} is not between {REQID_LEAST:#x} and {REQID_MOST:#x}, where all reqids are ours"
        raise values.unfit(message, "Remove the key: the default comes from the tunnel's name.")
    return number
