"""The QKD links in the status: whether light comes through, what keys come of it, and how many are in store."""

from typing import Final

from rich.console import RenderableType
from rich.padding import Padding
from rich.text import Text

from qhybridd.cli.failures import plain
from qhybridd.cli.words import current, cut, name_width, percent, rate, span
from qhybridd.status import LinkStatus, StoreStatus

KEY_BITS: Final = 256
"""What a rotation takes: the store's figures are shown in these."""
_COLUMNS: Final = (("STATE", 8), ("QBER", 7), ("KEY RATE", 11), ("STORE", 8), ("KEYS", 6), ("LIGHT", 7))
_DETAIL: Final = (0, 0, 0, 4)
_MARKS: Final = {"up": ("*", "green"), "starting": ("!", "bold yellow"), "down": ("x", "bold red")}
_STORE_STYLES: Final = {"ready": "", "warning": "yellow", "charging": "yellow", "empty": "red"}
_PHOTONS: Final = {"connected": "yes", "waiting": "none"}


def links(found: list[LinkStatus]) -> list[RenderableType]:
    """All of them; they fit 80 columns."""
    width = name_width([link.name for link in found])
    head = f"  {'LINK':{width}}" + "".join(f"  {title:>{columns}}" for title, columns in _COLUMNS)
    parts: list[RenderableType] = [Text(head, "dim", no_wrap=True)]
    for link in found:
        parts += [_link(link, width), *(Padding(line, _DETAIL, expand=False) for line in _details(link))]
    return parts


def _link(link: LinkStatus, width: int) -> Text:
    mark, style = _MARKS[link.state]
    qber = max((one for one in (link.qber_key, link.qber_test) if one is not None), default=None)
    store = link.store
    cells = (
        ("DOWN" if link.state == "down" else link.state, style),
        (percent(qber), "bold red" if link.code == "link.attack" else ""),
        (rate(link.key_bits_per_s, "bit"), ""),
        (store.mark, _STORE_STYLES[store.mark]),
        (str((store.own_bits + store.peer_bits) // KEY_BITS), ""),
        (_PHOTONS[link.photons], "" if link.photons == "connected" else "red"),
    )
    line = Text(no_wrap=True)
    line.append(f"{mark} ", style)
    line.append(cut(link.name, width), "bold")
    for (cell, cell_style), (_, columns) in zip(cells, _COLUMNS, strict=True):
        line.append(f"  {cell:>{columns}}", cell_style)
    return line


def _details(link: LinkStatus) -> list[Text]:
    """The lines below: that it is simulated, why it is not up, what is broken on purpose, the figures."""
    role = f"{link.role} here, {'bob' if link.role == 'alice' else 'alice'} is {plain(link.peer)}"
    lines = [Text.assemble(("SIMULATED: ", "bold magenta"), (role, "dim")) if link.simulated else Text(role, "dim")]
    if link.state != "up" and link.why:
        style = "red" if link.state == "down" else "yellow"
        lines.append(Text(f"{link.state}: {plain(link.why)} [{plain(link.code)}]".removesuffix(" []"), style))
        if link.hint:
            lines.append(Text(f"fix: {plain(link.hint)}", "yellow"))
    lines += [Text(f"broken on purpose: {plain(fault)}", "yellow") for fault in link.faults]
    lines += [Text(line, "dim") for line in (*_blocks(link), _store(link.store))]
    return lines


def _blocks(link: LinkStatus) -> list[str]:
    """What came of the blocks, and what the last one was like."""
    if not link.block:
        return ["no block yet"]
    last = "none kept yet" if link.block_age_s is None else f"last key {span(link.block_age_s)} ago"
    figures = [f"QBER X {percent(link.qber_key)} Z {percent(link.qber_test)}"]
    if link.angle_rad is not None:
        figures.append(f"angle {link.angle_rad:+.3f} rad")
    if link.current_a is not None:
        figures.append(f"detectors {current(link.current_a)}")
    if link.synchronised is False:
        figures.append("NOT SYNCHRONISED")
    told = f"block {link.block}, {link.kept} kept, {link.dropped} dropped, {last}, {rate(link.clicks_per_s, 'click')}"
    return [told, ", ".join(figures)]


def _store(store: StoreStatus) -> str:
    """In keys, as a rotation takes them."""
    own, peer, waiting, used, expired, burnt = (
        bits // KEY_BITS
        for bits in (
            store.own_bits,
            store.peer_bits,
            store.waiting_bits,
            store.used_bits,
            store.expired_bits,
            store.burnt_bits,
        )
    )
    return f"keys: {own} here, {peer} there, {waiting} unconfirmed, {used} used, {expired} expired, {burnt} burnt"
