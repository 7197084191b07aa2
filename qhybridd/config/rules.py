"""What must hold between the values of a configuration, and between it and the files that it names."""

import stat
from dataclasses import replace
from ipaddress import ip_network
from pathlib import Path
from typing import Final

from qhybridd.config import values
from qhybridd.config.links import check_links
from qhybridd.config.records import (
    PEER_SUFFIX,
    REVOKED,
    Config,
    GatewayConfig,
    PeerConfig,
    Prefix,
    TunnelConfig,
    WireGuardConfig,
    XfrmConfig,
)
from qhybridd.config.tables import Problems
from qhybridd.config.xfrm import check_xfrm
from qhybridd.crypto.levels import MAX_KEMS, Level
from qhybridd.errors import QhybriddError
from qhybridd.policy import (
    MIN_PERIOD_S,
    MIN_SEAMLESS_PERIOD_S,
    REJECT_AFTER_S,
    REKEY_AFTER_S,
    RESET_MARGIN_S,
    SEAMLESS_MARGIN_S,
)

MAX_SOCKET_PATH_BYTES: Final = 107
"""sun_path less its final zero (linux/un.h)."""
BUILT_IN_KEMS: Final = ("ml-kem-768", "ml-kem-1024")
MAX_PINS: Final = 4
"""Peer files of one peer: one, two while an identity is rolled over, and some slack."""


def check(config: Config, problems: Problems) -> None:
    """Note every rule that `config` breaks."""
    _check_socket(config.gateway, problems)
    for tunnel in config.tunnels.values():
        _check_times(tunnel, problems)
        _check_level(tunnel, problems)
        _check_qkd(tunnel, config, problems)
        _check_kems(tunnel, problems)
        _check_prefixes(tunnel, problems)
    _check_devices(config, problems)
    _check_overlap(config, problems)
    _check_underlay(config, problems)
    check_xfrm(config, problems)
    check_links(config, problems)


def find_files(config: Config, problems: Problems) -> Config:
    """`config` with the peers directory's files counted in; note every file that is not there.

    A peer of which nothing but revoked identities is left stays, without a pin: its tunnels are guarded, and closed.
    Looks at names and kinds only, opens nothing.
    """
    gateway = config.gateway
    _refuse_writable(problems.source, (), problems)
    _expect_file(gateway.identity, ("gateway", "identity"), "Make one with `qhybridd keygen`.", problems)
    found = _peer_files(gateway.peers, problems)
    peers = dict(config.peers)
    for name, files in found.items():
        peers[name] = replace(peers.get(name, PeerConfig(name)), files=tuple(files))
        if len(files) > MAX_PINS:
            message = f"{name} has {len(files)} peer files, more than {MAX_PINS}"
            problems.add(("gateway", "peers"), "config.value", message, "Revoke the old ones: `qhybridd peer revoke`.")
    revoked = _revoked_names(gateway.peers)
    for name in (*(tunnel.peer for tunnel in config.tunnels.values()), *(link.peer for link in config.links.values())):
        if name in revoked:
            # Its tunnels stay closed; that they are configured is no reason to keep the others from starting.
            peers.setdefault(name, PeerConfig(name))
    for peer in peers.values():
        if not peer.files and peer.name not in revoked:
            hint = f"Add its file with `qhybridd peer add --name {peer.name} FILE`, or remove the table."
            message = f"no file {peer.name}{PEER_SUFFIX} in {gateway.peers}"
            problems.add(("peer", peer.name), "config.reference", message, hint)
        if peer.bootstrap_psk:
            hint = "Make one with `wg genpsk`, mode 0600, the same at both gateways."
            _expect_file(peer.bootstrap_psk, ("peer", peer.name, "bootstrap_psk"), hint, problems)
    for link in config.links.values():
        if not problems.noted("link", link.name, "psk") and link.psk != problems.source:
            hint = "Make one with `wg genpsk`, mode 0600, the same at both gateways."
            _expect_file(link.psk, ("link", link.name, "psk"), hint, problems)
    named = [(("tunnel", tunnel.name, "peer"), tunnel.peer) for tunnel in config.tunnels.values()]
    named += [(("link", link.name, "peer"), link.peer) for link in config.links.values()]
    for path, name in named:
        if name and name not in peers:
            hint = values.nearest(name, tuple(peers)) or f"Add it: `qhybridd peer add --name {name} FILE`."
            problems.add(path, "config.reference", f'there is no peer "{name}"', hint)
    return replace(config, peers=peers)


def _peer_files(directory: Path, problems: Problems) -> dict[str, list[Path]]:
    """Peer files by the name of the peer, what stands before the first dot."""
    found: dict[str, list[Path]] = {}
    try:
        _refuse_writable(directory, ("gateway", "peers"), problems)
        files = sorted(
            (path for path in directory.iterdir() if path.name.endswith(PEER_SUFFIX)),
            key=lambda path: (path.name.count("."), path.name),  # NAME.peer before NAME.next.peer
        )
    except FileNotFoundError:
        hint = f"Make it: `install -d -m 0755 {directory}`; `qhybridd peer add` does so too."
        problems.add(("gateway", "peers"), "file.missing", f"there is no directory {directory}", hint)
        return {}
    except OSError as error:
        message = f"{directory} cannot be read: {error.strerror}"
        problems.add(("gateway", "peers"), "file.unreadable", message)
        return {}
    for path in files:
        found.setdefault(path.name.partition(".")[0], []).append(path)
    return found


def _refuse_writable(path: Path, key: tuple[str, ...], problems: Problems) -> None:
    """What says whom to trust is nothing that anybody may change."""
    mode = path.stat().st_mode
    if mode & stat.S_IWOTH:
        message = f"anybody may change {path} (mode {stat.S_IMODE(mode):04o}); mend it with: chmod o-w {path}"
        problems.add(key, "file.mode", message, "Run that, after looking what it holds now.")


def _revoked_names(directory: Path) -> frozenset[str]:
    """Peers of whom an identity was revoked: the records are called FINGERPRINT.NAME.peer."""
    try:
        names = [path.name.split(".") for path in (directory / REVOKED).iterdir()]
    except OSError:
        return frozenset()
    return frozenset(parts[1] for parts in names if len(parts) == 3 and f".{parts[2]}" == PEER_SUFFIX)


def _expect_file(path: Path, key: tuple[str, ...], hint: str, problems: Problems) -> None:
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        problems.add(key, "file.missing", f"there is no file {path}", hint)
    except OSError as error:
        problems.add(key, "file.unreadable", f"{path} cannot be looked at: {error.strerror}")
    else:
        if not stat.S_ISREG(mode):
            problems.add(
                key, "file.unreadable", f"{path} is no regular file", "Name the file itself, not a link to it."
            )


def _check_socket(gateway: GatewayConfig, problems: Problems) -> None:
    if len(str(gateway.socket).encode()) > MAX_SOCKET_PATH_BYTES:
        message = f"{gateway.socket} is longer than the {MAX_SOCKET_PATH_BYTES} bytes of a Unix socket's name"
        problems.add(("gateway", "runtime"), "config.value", message, "Choose a shorter directory.")


def _check_times(tunnel: TunnelConfig, problems: Problems) -> None:
    path = ("tunnel", tunnel.name, "expiry")
    period_s, expiry_s = tunnel.period_s, tunnel.expiry_s
    if any(problems.noted(*path[:2], key) for key in ("renew", "period", "expiry")):
        return
    seamless = tunnel.renew == "seamless"
    least_period_s = MIN_SEAMLESS_PERIOD_S if seamless else MIN_PERIOD_S
    if period_s < least_period_s:
        message = f"a rotation every {period_s} s leaves no time for one"
        problems.add((*path[:2], "period"), "config.policy", message, f'Write period = "{least_period_s}s" or more.')
    if tunnel.renew == "wait" and expiry_s < period_s + REJECT_AFTER_S:
        least_s = period_s + REJECT_AFTER_S
        problems.add(
            path,
            "config.policy",
            f"{expiry_s} s is under the period plus {REJECT_AFTER_S} s: WireGuard takes a new key only at its own "
            f"handshake, {REKEY_AFTER_S} s after the last one, and a session dies at {REJECT_AFTER_S} s, so that a key "
            f"which expires earlier would close a healthy tunnel",
            f'Write expiry = "{least_s}s" or more, or renew = "reset", which forces the handshake at a little loss.',
        )
    margin_s = SEAMLESS_MARGIN_S if seamless else RESET_MARGIN_S
    if tunnel.renew != "wait" and expiry_s < period_s + margin_s:
        message = f"{expiry_s} s is under the period plus {margin_s} s, so that one late rotation would close it"
        problems.add(path, "config.policy", message, f'Write expiry = "{period_s + margin_s}s" or more.')


def _check_level(tunnel: TunnelConfig, problems: Problems) -> None:
    path = ("tunnel", tunnel.name, "least")
    if problems.noted(*path):
        return
    if tunnel.least is Level.HYBRID and tunnel.qkd is None and not problems.noted(*path[:2], "qkd"):
        hint = 'Name its link: qkd = "LINK", or set least = "pqc" to run the tunnel on ML-KEM and X25519.'
        message = "hybrid keys need a QKD key source, and the tunnel has none: it would never open"
        problems.add(path, "source.none", message, hint)
    elif tunnel.least is Level.CLASSICAL:
        message = "a classical key is a fallback and needs a time budget, which this version cannot keep"
        problems.add(path, "config.policy", message, 'Set least = "pqc".')


def _check_qkd(tunnel: TunnelConfig, config: Config, problems: Problems) -> None:
    """Its link leads to the same peer, and where that is a simulation the operator said that he knows."""
    path = ("tunnel", tunnel.name)
    if tunnel.qkd is None:
        if tunnel.simulated and not problems.noted(*path, "qkd"):
            message = "the tunnel takes no QKD keys, so that there is nothing simulated about it"
            problems.add((*path, "simulated"), "config.value", message, 'Name its link: qkd = "LINK", or remove it.')
        return
    link = config.links.get(tunnel.qkd)
    if link is None:
        hint = values.nearest(tunnel.qkd, tuple(config.links)) or f"Define it: `[link.{tunnel.qkd}]`."
        problems.add((*path, "qkd"), "config.reference", f'there is no link "{tunnel.qkd}"', hint)
        return
    if tunnel.peer and link.peer and link.peer != tunnel.peer:
        message = f"link {link.name} leads to {link.peer}, and the tunnel to {tunnel.peer}"
        problems.add((*path, "qkd"), "config.reference", message, "Name a link to the tunnel's own peer.")
    if not tunnel.simulated and not problems.noted(*path, "simulated"):
        message = f"link {link.name} is simulated: its keys protect nothing against a quantum computer"
        hint = "Write simulated = true in the tunnel to take them all the same, for a trial."
        problems.add((*path, "qkd"), "source.simulated", message, hint)


def _check_kems(tunnel: TunnelConfig, problems: Problems) -> None:
    """Every KEM is one that this host can compute, and the first needs no library beside `cryptography`."""
    from qhybridd.crypto import kem  # here, so that a command that reads no tunnel does not load it

    path = ("tunnel", tunnel.name, "kems")
    if problems.noted(*path):
        return
    if not tunnel.kems or tunnel.kems[0].lower() not in BUILT_IN_KEMS:
        message = "the first KEM must be a built-in one"
        problems.add(path, "config.value", message, f"Begin the list with {' or '.join(BUILT_IN_KEMS)}.")
    if len(tunnel.kems) > MAX_KEMS:
        problems.add(
            path, "config.value", f"more than {MAX_KEMS} KEMs", "Each one is an input of its own; leave some out."
        )
    for name in tunnel.kems:
        try:
            kem.by_name(name)
        except QhybriddError as error:
            problems.add(path, error.code, error.message, error.hint)


def _check_prefixes(tunnel: TunnelConfig, problems: Problems) -> None:
    path = ("tunnel", tunnel.name)
    for hole in tunnel.excepts:
        if hole in tunnel.protects:
            message = f'"{hole}" is protected and excepted at once'
            problems.add((*path, "except"), "config.value", message, "Remove it from `protects` or from `except`.")
        elif tunnel.protects and not any(values.inside(hole, whole) and hole != whole for whole in tunnel.protects):
            message = f'"{hole}" is no part of what the tunnel protects'
            problems.add((*path, "except"), "config.value", message, "Remove it, or correct the prefix.")


def _check_devices(config: Config, problems: Problems) -> None:
    """One WireGuard peer has one PSK, so one tunnel."""
    taken: dict[tuple[str, bytes], str] = {}
    for tunnel in config.tunnels.values():
        target = tunnel.target
        if not isinstance(target, WireGuardConfig) or not target.interface or not target.peer:
            continue
        first = taken.setdefault((target.interface, target.peer), tunnel.name)
        if first != tunnel.name:
            at = problems.where("tunnel", first)
            message = f"the same peer on {tunnel.interface} is keyed by tunnel {first} ({at})"
            problems.add(
                ("tunnel", tunnel.name, "wireguard_peer"), "config.duplicate", message, "Remove one of the two tunnels."
            )


def _check_overlap(config: Config, problems: Problems) -> None:
    """Nested prefixes are told apart by their length; equal ones cannot be."""
    taken: dict[Prefix, str] = {}
    for tunnel in config.tunnels.values():
        for prefix in tunnel.protects:
            first = taken.setdefault(prefix, tunnel.name)
            if first != tunnel.name:
                at = problems.where("tunnel", first, "protects")
                message = f'"{prefix}" is protected by tunnel {first} too ({at})'
                problems.add(
                    ("tunnel", tunnel.name, "protects"), "config.duplicate", message, "A prefix belongs to one tunnel."
                )


def _check_underlay(config: Config, problems: Problems) -> None:
    """What a tunnel protects passes through the tunnel only: an underlay within it would cut the tunnel off itself."""
    for tunnel in config.tunnels.values():
        peer = config.peers.get(tunnel.peer)
        for endpoint in peer.endpoints if peer is not None else ():
            try:
                address: Prefix = ip_network(endpoint.host)
            except ValueError:
                continue  # a name: known only when it is resolved
            if _is_end(address, tunnel) and config.gateway.mark:
                continue  # the control channel passes by its mark, and ESP by its addresses
            whole = next((prefix for prefix in tunnel.protects if values.inside(address, prefix)), None)
            if whole is None or any(values.inside(address, hole) for hole in tunnel.excepts):
                continue
            own = "" if isinstance(tunnel.target, XfrmConfig) else ", and WireGuard's own packets to that host,"
            problems.add(
                ("tunnel", tunnel.name, "protects"),
                "config.policy",
                f'"{whole}" covers the endpoint {endpoint} of {tunnel.peer}: the control channel{own} would be dropped',
                f'Leave it out: except = ["{address}"].',
            )


def _is_end(address: Prefix, tunnel: TunnelConfig) -> bool:
    """Whether ESP of the tunnel goes to the address."""
    return isinstance(tunnel.target, XfrmConfig) and address == ip_network(tunnel.target.remote)
