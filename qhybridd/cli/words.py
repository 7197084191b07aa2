"""Times and sizes for eyes."""


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
