"""The one clock of the program: CLOCK_BOOTTIME, which counts suspended time too and never steps."""

import time


def boottime() -> float:
    """Seconds since boot."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)
