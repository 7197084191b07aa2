"""Names, times and sizes for eyes."""

from typing import Final

from qhybridd.cli.failures import plain

MAX_NAME: Final = 19
"""Columns for a name; a longer one is cut there."""


def name_width(names: list[str]) -> int:
    """Columns for a table's names."""
    return min(MAX_NAME, max([6, *map(len, names)]))


def cut(name: str, width: int) -> str:
    """A name in exactly `width` columns."""
    shown = plain(name)
    return f"{shown:{width}}" if len(shown) <= width else f"{shown[: width - 1]}…"


def span(seconds: float | None) -> str:
    """`48s`, `3m07s`, `2h05m`, `3d04h`; `-` for none."""
    if seconds is None:
        return "-"
    whole = max(0, int(seconds))
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02}s"
    if whole < 86_400:
        return f"{whole // 3600}h{whole % 3600 // 60:02}m"
    return f"{whole // 86_400}d{whole % 86_400 // 3600:02}h"


def period(seconds: float) -> str:
    """A configured span, `2m` instead of `2m00s`."""
    return span(seconds).removesuffix("00s").removesuffix("00m") if seconds >= 60 else span(seconds)


def size(count_bytes: int) -> str:
    """`812 B`, `3.1 MiB`."""
    if count_bytes < 1024:
        return f"{count_bytes} B"
    power = min((count_bytes.bit_length() - 1) // 10, 4)
    return f"{count_bytes / 1024**power:.1f} {' KMGT'[power]}iB"


def rate(per_s: float, unit: str) -> str:
    """`0 bit/s`, `812 bit/s`, `3.1 kbit/s`."""
    if per_s < 999.5:
        return f"{per_s:.0f} {unit}/s"
    power = 1 if per_s < 999_500 else 2 if per_s < 999.5e6 else 3
    return f"{per_s / 1000**power:.3g} {'kMG'[power - 1]}{unit}/s"


def percent(share: float | None) -> str:
    """`1.21 %`; `-` for none."""
    return "-" if share is None else f"{100 * share:.2f} %"


def current(amperes: float) -> str:
    """`0.215 pA`, `10 nA`, `1 µA`."""
    for scale, unit in ((1e12, "pA"), (1e9, "nA")):
        if amperes * scale < 999.5:
            return f"{amperes * scale:.3g} {unit}"
    return f"{amperes * 1e6:.3g} µA"
