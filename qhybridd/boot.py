"""The guard without a daemon: before the network is up, after the host's firewall was loaded anew, before a sleep.

What is to be guarded stands in the configuration. One that does not parse at boot must not open a gateway, so the last
one that did is kept under the state directory: its text, which names secrets' files and holds none.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from qhybridd.clock import boottime
from qhybridd.config import Config, GatewayConfig, XfrmConfig, load_gateway, parse_config
from qhybridd.config.load import read_text
from qhybridd.config.records import TunnelConfig
from qhybridd.errors import HostError, OperatorError
from qhybridd.guard import Guard, GuardedEsp, GuardedTunnel, build_fallback
from qhybridd.secretfile import replace_file

COPY: Final = "last-good.toml"
"""In the state directory."""
CLOSED: Final = "closed.nft"
"""Beside it: for `nft -f`, where this program does not run at all."""
_STATE: Final = re.compile(r"""^\s*state\s*=\s*["']([^"']+)["']""", re.MULTILINE)
_HEAD: Final = "# What `qhybridd guard load` falls back to, a copy of "


@dataclass(frozen=True, slots=True)
class Guarded:
    """What a load without a daemon did."""

    config: Config
    """What is guarded now."""
    refused: OperatorError | None
    """Why the configuration file itself could not be used; None: it was. Else `config` is the last good copy."""
    open_s: Mapping[str, float]
    """Seconds for which tunnels pass, by name."""
    uncopied: OperatorError | None = None
    """Why no copy of the configuration could be kept, on a full disk for instance."""
    held: bool = False
    """Another process owns the guard, so that nothing was changed, and nothing could have been flushed."""


def guarded_of(config: Config) -> tuple[GuardedTunnel, ...]:
    """What the guard is to enforce."""
    return tuple(
        GuardedTunnel(tunnel.name, tunnel.interface, tunnel.protects, tunnel.excepts, _esp(tunnel))
        for tunnel in config.tunnels.values()
    )


def _esp(tunnel: TunnelConfig) -> GuardedEsp | None:
    target = tunnel.target
    if not isinstance(target, XfrmConfig):
        return None
    return GuardedEsp(target.reqid, target.local, target.remote, target.encapsulation)


async def load_guard(path: Path, *, restore: bool) -> Guarded:
    """Load the guard from the configuration at `path`, or else from its last good copy. Tunnels that are new are shut.

    Where there are XFRM tunnels the kernel is also told to demand ESP for what they protect. With `restore`, tunnels
    that a daemon of this boot had opened pass again for what is left of their time: for a firewall that flushed the
    guard away. Raises `OperatorError` where neither can be read: then nothing is guarded but what was. Raises
    `HostError`: host.guard where nothing is guarded, and where all is, but IPsec is missing or in other hands,
    host.no-esp, host.xfrm, host.conflict.
    """
    config, refused = _read(path)
    deadlines = _deadlines(config, _read_copy(path, config.gateway.state)) if restore else {}
    guard = Guard(config.gateway.mark)
    try:
        if await guard.held():
            left = {state.name: state.left_s for state in await guard.show() if state.open}
            return Guarded(config, refused, left, held=True)
        await guard.load(guarded_of(config), deadlines)
        left = await guard.remaining()
    finally:
        await guard.close()
    await _protect(config)
    uncopied = _try_keep_copy(path) if refused is None else None
    return Guarded(config, refused, left, uncopied=uncopied)


async def _protect(config: Config) -> None:
    """Put the policies that demand ESP, which outlive this process, and take away those of tunnels that are gone."""
    runtime = config.gateway.runtime
    if any(isinstance(tunnel.target, XfrmConfig) for tunnel in config.tunnels.values()) or (runtime / "xfrm").exists():
        await _demand(config.tunnels.values(), runtime)


async def _demand(tunnels: Iterable[TunnelConfig], runtime: Path) -> None:
    """Have the kernel demand ESP for these and no others. Raises `HostError` as `Xfrm.protect`."""
    from qhybridd.targets.esp_selectors import protected_of
    from qhybridd.targets.xfrm import Xfrm

    xfrm = Xfrm(runtime)
    try:
        await xfrm.protect(map(protected_of, tunnels))
    finally:
        await xfrm.close()


def _try_keep_copy(path: Path) -> OperatorError | None:
    try:
        keep_copy(path)
    except OperatorError as error:
        return error
    return None


def keep_copy(path: Path) -> None:
    """Keep the configuration at `path` as the last good one, and rules that block all that it protects.

    Raises `OperatorError` where that cannot be done.
    """
    text = read_text(path)
    config = parse_config(text, path)
    state = config.gateway.state
    try:
        state.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        message = f"the directory cannot be made: {error.strerror}"
        raise OperatorError("file.unreadable", message, where=str(state)) from None
    for name, wanted in ((CLOSED, build_fallback(guarded_of(config))), (COPY, f"{_HEAD}{path}\n{text}")):
        if _text(state / name) != wanted:
            replace_file(state / name, wanted.encode(), 0o600)


def _read(path: Path) -> tuple[Config, OperatorError | None]:
    """The configuration, or its last good copy and why. Raises the `OperatorError` of the file if there is no copy."""
    try:
        return parse_config(read_text(path), path), None
    except OperatorError as error:
        refused = error
    copy = _read_copy(path, _state_of(path))
    if copy is None:
        raise refused
    return copy, refused


def _state_of(path: Path) -> Path:
    """Where the state directory is, also when the file is no TOML any more: a copy says itself whose it is."""
    try:
        return load_gateway(path).state
    except OperatorError:
        found = _STATE.search(_text(path))
    return path.parent / found[1] if found else GatewayConfig().state


def _read_copy(path: Path, state: Path) -> Config | None:
    """The last good copy of the configuration at `path`; None where there is none, or none that parses any more."""
    head, text = f"{_HEAD}{path}\n", _text(state / COPY)
    if not text.startswith(head):
        return None
    try:
        return parse_config(text.removeprefix(head), path)
    except OperatorError:
        return None


def _text(copy: Path) -> str:
    try:
        return read_text(copy)
    except OperatorError:
        return ""


def _deadlines(config: Config, before: Config | None) -> dict[str, float]:
    """Until when the daemon of this boot had opened each tunnel, as far as the configuration still allows that.

    `before` is the configuration that the daemon had, which a tunnel must not have left for another device or peer: the
    records do not say what they were written for. A record of one that did is void from now on.
    """
    from qhybridd.daemon.records import Records  # here, so that a boot does not load it
    from qhybridd.keyfiles import revoked_fingerprints

    try:
        records = Records(config.gateway.runtime / "tunnels")
        revoked = revoked_fingerprints(config.gateway.peers)
    except (HostError, OperatorError):
        return {}
    found: dict[str, float] = {}
    for name, tunnel in config.tunnels.items():
        old = before.tunnels.get(name) if before is not None else None
        if old is None or (old.target, old.peer) != (tunnel.target, tunnel.peer):
            records.remove(name)
            continue
        record = records.read(name)
        if record is None or record.level < tunnel.least:
            continue
        if bytes.fromhex(record.peer) in revoked:
            records.remove(name)
            continue
        deadline = min(record.deadline, record.combined_at + tunnel.expiry_s)
        if deadline > boottime():
            found[name] = deadline
    return found


async def shut_guard(path: Path) -> int:
    """Shut every tunnel, and forget that it was open: nothing restores it. Returns how many there are.

    Raises `HostError` (host.guard).
    """
    from qhybridd.daemon.records import Records

    guard = Guard()
    try:
        await guard.shut_all()
        tunnels = await guard.show()
    finally:
        await guard.close()
    Records(_runtime_of(path) / "tunnels").clear()
    return len(tunnels)


async def remove_guard(path: Path) -> None:
    """Take everything away: nothing is guarded any more, and the kernel demands no ESP. Raises `HostError`."""
    guard = Guard()
    try:
        await guard.remove()
    finally:
        await guard.close()
    try:
        await _demand((), _runtime_of(path))
    except HostError as error:
        if error.code != "host.no-esp":  # a kernel without IPsec has nothing of it
            raise


def _runtime_of(path: Path) -> Path:
    try:
        return _read(path)[0].gateway.runtime
    except OperatorError:
        return GatewayConfig().runtime
