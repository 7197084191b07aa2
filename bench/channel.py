"""How long a message of a rotation takes while the same session carries a distillation that runs flat out."""

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from bench.figures import Figure

GOAL_S: Final = 0.050
SECONDS: Final = 8.0
EVERY_S: Final = 0.005


@dataclass(frozen=True, slots=True)
class Delays:
    """What one run gave."""

    there_s: list[float]
    """From one end to the other, sorted."""
    ahead_bytes: list[int]
    """What was read from the sending of a message to its coming, sorted: the queue that priority does not reach."""
    bulk_bytes_per_s: float
    """Each way."""
    cpu: float
    """Of one end, over a core."""
    blocks: int = 0
    """That the link kept meanwhile."""

    def there(self, share: float) -> float:
        """The delay that so many messages do not exceed."""
        return self.there_s[min(len(self.there_s) - 1, int(share * len(self.there_s)))]

    def ahead(self, share: float) -> int:
        """The bytes ahead that so many messages do not exceed."""
        return self.ahead_bytes[min(len(self.ahead_bytes) - 1, int(share * len(self.ahead_bytes)))]


def measure_delays(
    *, bulk: bool, distil: bool, link: bool = False, seconds: float = SECONDS, every_s: float = EVERY_S
) -> Delays:
    """Two processes on this host, one real session, bulk both ways, distillation in a thread of both; or a link."""
    task = {"seconds": seconds, "every_s": every_s, "bulk": bulk, "distil": distil, "link": link}
    far = start(task | {"role": "far"})
    try:
        assert far.stdout is not None
        port, photons = map(int, far.stdout.readline().split())
        near = start(task | {"role": "near", "port": port, "photons": photons})
        try:
            out, _ = near.communicate(timeout=60 + seconds)
        finally:
            near.kill()
            near.wait()
    finally:
        far.kill()
        far.wait()
    result: dict[str, Any] = json.loads(out)
    there, ahead = sorted(result["there_s"]), sorted(result["ahead_bytes"])
    return Delays(there, ahead, result["bulk_bytes_per_s"], result["cpu"], result["blocks"])


def start(task: dict[str, object]) -> "subprocess.Popen[bytes]":
    """One end; its task goes over standard input."""
    process = subprocess.Popen(
        [sys.executable, "-m", "bench.channel_end"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=Path(__file__).parents[1],
    )
    assert process.stdin is not None
    process.stdin.write(json.dumps(task).encode() + b"\n")
    process.stdin.flush()
    return process


def measure() -> list[Figure]:
    """Alone; beside a real link; and beside more than a link makes: bulk, and bulk with both ends' kernels."""
    figures = []
    for what, bulk, distil, link in (
        ("an idle session", False, False, False),
        ("a link that distils flat out", False, False, True),
        ("bulk flat out", True, False, False),
        ("bulk and kernels flat out", True, True, False),
    ):
        delays = measure_delays(bulk=bulk, distil=distil, link=link)
        p99 = delays.there(0.99)
        figures.append(
            Figure(
                f"delay of a rotation message, p99, {what}",
                f"{1e3 * p99:.2f} ms",
                f"median {1e3 * delays.there(0.5):.2f} ms, most {1e3 * delays.there_s[-1]:.1f} ms of "
                f"{len(delays.there_s)}; {delays.bulk_bytes_per_s / 1e6:.0f} MB/s each way, "
                f"{delays.ahead(0.99) / 1024:.0f} KiB ahead (p99), "
                f"{delays.cpu:.2f} cores an end, {delays.blocks} blocks; two processes over loopback",
                "≤ 50 ms" if link else "–",
                p99 <= GOAL_S if link else None,
            )
        )
    return figures


if __name__ == "__main__":
    for figure in measure():
        print(figure)
