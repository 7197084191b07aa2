"""The status for eyes: what is open, on which level, until when, and why not."""

from typing import Final

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.text import Text

from qhybridd.cli.failures import plain
from qhybridd.cli.render_links import links
from qhybridd.cli.words import cut, name_width, period, size, span
from qhybridd.status import EspStatus, ExposureStatus, PeerStatus, Status, TunnelStatus

SOON: Final = 0.2
"""The part of a key's life that is its last: an open tunnel that comes there was not renewed in time."""
_COLUMNS: Final = (("STATE", 6), ("LEVEL", 9), ("EPOCH", 6), ("KEY AGE", 7), ("CLOSES IN", 9), ("HANDSHAKE", 10))
_DETAIL: Final = (0, 0, 0, 4)
HYBRID: Final = "hybrid"
SIMULATED: Final = "*"
"""Behind a level whose QKD part came out of a simulation; the legend explains it."""


def render(status: Status) -> RenderableType:
    """The whole status; it fits 80 columns."""
    gateway = status.gateway
    parts: list[RenderableType] = [
        Text.assemble(
            _summary(status.tunnels),
            ("   gateway ", "dim"),
            plain(gateway.short),
            (f", up {span(gateway.uptime_s)}, qhybridd {plain(gateway.version)}", "dim"),
        ),
        Text(),
    ]
    simulated = [link.name for link in status.links if link.simulated]
    if simulated or any(tunnel.level and tunnel.simulated for tunnel in status.tunnels):
        parts.insert(1, _legend(simulated))
    parts += _tunnels(status.tunnels)
    if status.links:
        parts += [Text(), *links(status.links)]
    parts += [Text(), *_peers(status.peers)]
    return Group(*parts)


def _legend(simulated: list[str]) -> Text:
    """Near the top, where no small window cuts it off."""
    names = f": {', '.join(plain(name) for name in simulated)}" if simulated else ""
    return Text.assemble(
        (f"SIMULATED QKD{names}.", "bold magenta"),
        (f" {HYBRID}{SIMULATED} = with a simulated QKD key, no safer than pqc", "magenta"),
    )


def _summary(tunnels: list[TunnelStatus]) -> Text:
    """The one line for a glance."""
    if not tunnels:
        return Text("no tunnel is configured", "yellow")
    shut = sum(tunnel.state == "closed" for tunnel in tunnels)
    if not shut:
        return Text(f"{len(tunnels)} of {len(tunnels)} tunnels open", "bold green")
    return Text(f"{shut} of {len(tunnels)} tunnels CLOSED", "bold red")


def _tunnels(tunnels: list[TunnelStatus]) -> list[RenderableType]:
    width = name_width([tunnel.name for tunnel in tunnels])
    head = f"  {'TUNNEL':{width}}" + "".join(f"  {title:>{columns}}" for title, columns in _COLUMNS)
    parts: list[RenderableType] = [Text(head, "dim", no_wrap=True)] if tunnels else []
    for tunnel in tunnels:
        parts += [_tunnel(tunnel, width), *(Padding(line, _DETAIL, expand=False) for line in _details(tunnel))]
    return parts


def _tunnel(tunnel: TunnelStatus, width: int) -> Text:
    """The tunnel's line: a mark, the name, and the figures of the live key."""
    mark, style = _mark(tunnel)
    ago = "never" if tunnel.last_handshake_s is None else f"{span(tunnel.last_handshake_s)} ago"
    if tunnel.esp is not None:
        ago = "-"  # ESP has none: both ends' counters prove the key
    shut = tunnel.state == "closed"
    cells = (
        "CLOSED" if shut else "open",
        (tunnel.level or "-") + (SIMULATED if tunnel.level and tunnel.simulated else ""),
        str(tunnel.epoch or "-"),
        span(tunnel.key_age_s),
        span(None if shut else tunnel.expires_in_s),
        ago,
    )
    line = Text(no_wrap=True)
    line.append(f"{mark} ", style)
    line.append(cut(tunnel.name, width), "bold")
    for cell, (_, columns) in zip(cells, _COLUMNS, strict=True):
        line.append(f"  {cell:>{columns}}", style if cell in ("open", "CLOSED") or mark == "!" else "")
    return line


def _mark(tunnel: TunnelStatus) -> tuple[str, str]:
    """A sign and a colour: the sign alone tells it where there is no colour."""
    if tunnel.state == "closed":
        return "x", "bold red"
    if tunnel.expires_in_s is not None and tunnel.expires_in_s < SOON * tunnel.expiry_s:
        return "!", "bold yellow"
    return ("!", "bold yellow") if _fallen(tunnel) else ("*", "green")


def _fallen(tunnel: TunnelStatus) -> bool:
    """Whether its key lacks the QKD part that it was to have."""
    return tunnel.state == "open" and bool(tunnel.qkd) and tunnel.level != HYBRID


def _details(tunnel: TunnelStatus) -> list[Text]:
    """The lines below a tunnel's: why it is closed, what it is, what went wrong last."""
    lines: list[Text] = []
    if tunnel.state == "closed":
        lines.append(Text(f"closed: {plain(tunnel.why) or 'no key has become live yet'}", "red"))
    if _fallen(tunnel):
        lines.append(Text(f"fallen back to {tunnel.level}: its key has no part of link {plain(tunnel.qkd)}", "yellow"))
    busy = "" if tunnel.phase == "idle" else f", now: {plain(tunnel.phase)}"
    times = f"a key every {period(tunnel.period_s)}, expiry {period(tunnel.expiry_s)}{busy}"
    if tunnel.esp is None:
        lines.append(Text(f"{plain(tunnel.interface)} to {plain(tunnel.peer)}, {tunnel.renew}: {times}", "dim"))
    else:
        lines.append(Text(f"{_esp(tunnel.esp)}{_through(tunnel)}", "dim"))
        lines.append(Text(f"to {plain(tunnel.peer)}: {times}", "dim"))
    if tunnel.exposure is not None:
        lines.append(Text(_exposure(tunnel.exposure), "dim"))
    lines.append(
        Text(
            f"{_count(tunnel.rotations, 'rotation')}, {tunnel.failures} failed, "
            f"received {size(tunnel.rx_bytes)}, sent {size(tunnel.tx_bytes)}",
            "dim",
        )
    )
    error = tunnel.last_error
    if error is not None:
        ago = "" if error.age_s is None else f" {span(error.age_s)} ago"
        lines.append(Text(f"last error{ago}: {plain(error.message)} [{plain(error.code)}]", "yellow"))
        if error.hint:
            lines.append(Text(f"fix: {plain(error.hint)}", "yellow"))
    return lines


def _esp(esp: EspStatus) -> str:
    wrapped = f" in UDP {esp.encapsulation}" if esp.encapsulation else ""
    return f"ESP{wrapped} {plain(esp.local)} to {plain(esp.remote)}, {esp.mode}, {plain(esp.cipher)}"


def _through(tunnel: TunnelStatus) -> str:
    return f", {plain(tunnel.interface)}" if tunnel.interface else ""


def _exposure(exposure: ExposureStatus) -> str:
    """What the worst case is if something is lost now."""
    text = f"at worst closed {span(exposure.peer_gone_s)} after the peer is gone"
    if exposure.qkd_gone_s is None:
        return text
    what = "without a QKD part" if exposure.falls_back else "closed"
    keys = _count(exposure.qkd_keys, "key")
    return f"{text}, {what} {span(exposure.qkd_gone_s)} after QKD is ({keys} in store)"


def _peers(peers: list[PeerStatus]) -> list[RenderableType]:
    width = name_width([peer.name for peer in peers])
    parts: list[RenderableType] = [Text(f"  {'PEER':{width}}  SESSION", "dim")] if peers else [Text("no peer is known")]
    for peer in peers:
        up = peer.session == "up"
        since = "" if peer.since_s is None else f" {span(peer.since_s)}"
        what = [f"{peer.session}{since}", plain(peer.endpoint), plain(peer.suite) if up else ""]
        line = Text.assemble(
            ("* " if up else "x ", "green" if up else "red"), (cut(peer.name, width), "bold"), "  "
        ).append(", ".join(part for part in what if part), "" if up else "red")
        parts.append(line)
        if not up:
            told = [Text(f"why: {plain(peer.why)}", "red")] if peer.why else []
            told += [Text(f"fix: {plain(peer.hint)}", "yellow")] if peer.hint else []
            parts += [Padding(text, _DETAIL, expand=False) for text in told]
    return parts


def _count(number: int, thing: str) -> str:
    return f"{number} {thing}{'' if number == 1 else 's'}"
