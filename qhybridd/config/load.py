"""From a TOML file to a `Config`, or to everything that is wrong with it.

`parse_config` looks at the text alone. `load_config` also looks whether the files that it names are there. Neither
opens a secret or changes anything.
"""

import re
import tomllib
from pathlib import Path
from typing import Final

from qhybridd.config import rules, values
from qhybridd.config.links import read_link
from qhybridd.config.places import Places
from qhybridd.config.records import Config, ConfigError, GatewayConfig, PeerConfig, Renew, TunnelConfig, WireGuardConfig
from qhybridd.config.tables import Problems, Table
from qhybridd.config.xfrm import TARGETS, XFRM, read_wireguard, read_xfrm
from qhybridd.crypto.levels import Level
from qhybridd.errors import OperatorError

MAX_FILE_BYTES: Final = 1 << 22
"""4 MiB: ten thousand tunnels."""
RENEWALS: Final[tuple[Renew, ...]] = ("wait", "reset")
"""What a WireGuard tunnel may choose from; an XFRM one has no choice."""
SUITES: Final = ("x25519-mlkem768", "x25519-mlkem1024")

_AT_LINE: Final = re.compile(r" \(at line (\d+), column (\d+)\)$|\(at end of document\)$")
_TWICE: Final = ("Cannot declare", "Cannot overwrite")


def load_config(path: Path) -> Config:
    """The configuration at `path`, with the files in its peers directory counted in.

    Raises `OperatorError` (file.*) for a file that cannot be read and `ConfigError` with every problem in it.
    """
    problems, root = _open(read_text(path), path)
    config = _read(root)
    config = rules.find_files(config, problems)
    rules.check(config, problems)
    return _settle(config, problems)


def parse_config(text: str, source: Path) -> Config:
    """The configuration in `text`, as it stands: no file is looked at. Raises `ConfigError`.

    Relative paths count from the directory of `source`, which also names the file in errors.
    """
    problems, root = _open(text, source)
    config = _read(root)
    rules.check(config, problems)
    return _settle(config, problems)


def load_gateway(path: Path) -> GatewayConfig:
    """The `[gateway]` table alone, whatever is wrong with the rest: for commands that mend the rest.

    Raises like `load_config`.
    """
    problems, root = _open(read_text(path), path)
    gateway = _read_gateway(root)
    if problems.found:
        raise ConfigError(problems.found)
    return gateway


def read_text(path: Path) -> str:
    """The text of a file of at most `MAX_FILE_BYTES`. Raises `OperatorError` (file.missing, file.unreadable, …)."""
    where = str(path)
    try:
        with path.open("rb") as file:
            data = file.read(MAX_FILE_BYTES + 1)
    except FileNotFoundError:
        hint = "Write it: docs/config.md tells how, configs/minimal.toml is the least. Another place: --config."
        raise OperatorError("file.missing", "there is no configuration file", where=where, hint=hint) from None
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not a path"
        raise OperatorError("file.unreadable", f"the file cannot be read: {reason}", where=where) from None
    if len(data) > MAX_FILE_BYTES:
        raise OperatorError("config.value", f"the file is longer than {MAX_FILE_BYTES} bytes", where=where)
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise OperatorError(
            "config.syntax", "the file is not UTF-8 text", where=f"{where}:{line}", hint="Save it as UTF-8."
        ) from None


def _open(text: str, source: Path) -> tuple[Problems, Table]:
    """The root table. Raises `ConfigError` with the one thing that tomllib saw if the text is no TOML."""
    try:
        raw = tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise ConfigError((_syntax(str(error), text, source),)) from None
    problems = Problems(source, Places(text))
    return problems, Table(raw, (), problems)


def _syntax(message: str, text: str, source: Path) -> OperatorError:
    """tomllib's complaint with the place that it ends with, and for a repeated name where the first one is."""
    at = _AT_LINE.search(message)
    line = int(at[1]) if at and at[1] else len(text.splitlines())
    where = f"{source}:{line}"
    lines = text.splitlines()
    shown = lines[line - 1].strip()[:60] if 0 < line <= len(lines) else ""
    if message.startswith(_TWICE):
        before = Places("\n".join(lines[: line - 1]))
        name = Places(shown).innermost
        first = before.line(*(name if shown.startswith("[") else before.last_table + name))
        hint = f"The first one is at line {first}: remove or rename one of the two." if first else ""
        return OperatorError("config.duplicate", f"`{shown}` stands here a second time", where=where, hint=hint)
    return OperatorError("config.syntax", f"this is no TOML: {message[: at.start()] if at else message}", where=where)


def _settle(config: Config, problems: Problems) -> Config:
    if problems.found:
        raise ConfigError(problems.found)
    return config


def _read(root: Table) -> Config:
    """All tables."""
    gateway = _read_gateway(root)
    peers = [_read_peer(table) for table in root.tables("peer", values.peer_name)]
    tunnels = [_read_tunnel(table) for table in root.tables("tunnel", values.tunnel_name)]
    links = [read_link(table) for table in root.tables("link", values.link_name)]
    root.finish()
    return Config(
        gateway,
        {peer.name: peer for peer in peers},
        {tunnel.name: tunnel for tunnel in tunnels},
        {link.name: link for link in links},
    )


def _read_gateway(root: Table) -> GatewayConfig:
    default = GatewayConfig()
    table = root.table("gateway") or Table({}, ("gateway",), root.problems)
    gateway = GatewayConfig(
        identity=table.get_path("identity", default.identity),
        peers=table.get_path("peers", default.peers),
        listen=table.get_list("listen", values.listener, default.listen),
        runtime=table.get_path("runtime", default.runtime),
        state=table.get_path("state", default.state),
        suites=table.get_list("suites", _suite, default.suites),
        mark=table.get("mark", int, _mark, default.mark),
    )
    if not gateway.suites and not table.problems.noted("gateway", "suites"):
        table.note("suites", "config.value", "the list is empty", f"Known: {', '.join(SUITES)}.")
    table.finish()
    return gateway


def _read_peer(table: Table) -> PeerConfig:
    peer = PeerConfig(
        name=table.path[-1],
        endpoints=table.get_list("endpoints", values.endpoint, ()),
        bootstrap_psk=table.get_path("bootstrap_psk", Path()) if "bootstrap_psk" in table else None,
    )
    table.finish()
    return peer


def _read_tunnel(table: Table) -> TunnelConfig:
    default = TunnelConfig("", "", WireGuardConfig("", b""), ())
    esp = table.get("target", str, _esp, False)
    target = read_xfrm(table) if esp else read_wireguard(table)
    tunnel = TunnelConfig(
        name=table.path[-1],
        peer=table.need("peer", str, values.peer_name, ""),
        target=target,
        protects=table.need_list("protects", values.prefix),
        excepts=table.get_list("except", values.prefix, ()),
        renew="seamless" if esp else table.get("renew", str, _renew, default.renew),
        period_s=table.get_duration("period", default.period_s),
        expiry_s=table.get_duration("expiry", default.expiry_s),
        least=table.get("least", str, _level, default.least),
        kems=table.get_list("kems", values.kem_name, default.kems),
        qkd=table.get("qkd", str, values.link_name, default.qkd),
        simulated=table.get("simulated", bool, bool, default.simulated),
    )
    table.finish()
    return tunnel


def _esp(text: str) -> bool:
    """Whether the target is XFRM."""
    if text not in TARGETS:
        raise values.unfit(f'"{text}" is no target', values.nearest(text, TARGETS))
    return text == XFRM


def _suite(text: str) -> str:
    if text not in SUITES:
        raise values.unfit(f'"{text}" is no suite', values.nearest(text, SUITES))
    return text


def _mark(number: int) -> int:
    if not 0 <= number < 1 << 32:
        raise values.unfit(f"{number} is not between 0 and 0xffffffff")
    return number


def _renew(text: str) -> Renew:
    for known in RENEWALS:
        if text == known:
            return known
    raise values.unfit(f'"{text}" is no way to renew', 'Write "wait" (ordinary) or "reset" (short periods).')


def _level(text: str) -> Level:
    for level in Level:
        if text == level.label:
            return level
    raise values.unfit(f'"{text}" is no level', values.nearest(text, tuple(level.label for level in Level)))
