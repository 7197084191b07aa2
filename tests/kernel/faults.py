"""The faults of docs/faults.md that one machine can have: how each is done and undone, and what each tunnel has to do.

Three tunnels stand in one laboratory: `fast` (WireGuard, forced handshakes), `wan` (WireGuard in the ordinary), `esp`.
"""

import signal
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from ipaddress import ip_interface
from typing import Final

from qhybridd.apps.lab import UNDERLAY, Lab
from qhybridd.apps.netem import Impairment
from tests.netns.worlds import ORDINARY, SEAMLESS, SHORT

FAST: Final = SHORT.name
WAN: Final = ORDINARY.name
ESP: Final = SEAMLESS.name
KINDS: Final = {FAST: "WireGuard", WAN: "WireGuard", ESP: "ESP"}
MOVED: Final = "192.0.2.11/24"
"""Alice's address after it changed."""

Harm = Callable[[Lab], float] | Callable[[Lab], None]
"""Does it; returns the moment from which times count, where that is not the moment of the call."""


class Outcome(Enum):
    """What a tunnel does about a fault, in the words of the table."""

    CLOSES = "closes at its hard expiry; opens when the fault is over"
    REKEYS = "closes, and is keyed anew by itself"
    GOES_ON = "stays open and goes on rotating"


@dataclass(frozen=True)
class Fault:
    """One row of the matrix, or one for each kind of tunnel."""

    name: str
    """In the records."""
    title: str
    """In the table."""
    harm: Harm
    heal: Harm
    """Undo it; run after every fault, also one that needs no healing."""
    outcomes: dict[str, Outcome]
    """By tunnel; a tunnel that is not named here is not judged."""
    within_s: float = 180.0
    """What a recovery may take; most of it is for a daemon to start in a slow machine."""


def _nothing(lab: Lab) -> None:
    pass


def kill(*names: str) -> Harm:
    """SIGKILL to the daemons named."""

    def harm(lab: Lab) -> None:
        for name in names:
            lab.gateways[name].stop(signal.SIGKILL)

    return harm


def freeze(*names: str) -> Harm:
    """SIGSTOP to the daemons named."""

    def harm(lab: Lab) -> None:
        for name in names:
            lab.gateways[name].freeze()

    return harm


def heal(lab: Lab) -> None:
    """Every daemon runs, every packet passes."""
    lab.mend()
    for gateway in lab.gateways.values():
        gateway.thaw()
        if gateway.daemon is None:
            lab.start_daemon(gateway)


def _cut(lab: Lab) -> None:
    lab.cut()


def _deafen(lab: Lab) -> None:
    lab.cut("bob")


BLACK_HOLE: Final = """
table netdev qhybridd_lab {
  chain lost {
    type filter hook egress device "underlay" priority 0; policy drop;
  }
}
"""


def _one_way(lab: Lab) -> None:
    lab.gateways["alice"].namespace.run(["nft", "-f", "-"], text=BLACK_HOLE)


def _both_ways(lab: Lab) -> None:
    lab.gateways["alice"].namespace.run(["nft", "delete", "table", "netdev", "qhybridd_lab"])


def _move(old: str, new: str) -> Harm:
    def harm(lab: Lab) -> None:
        """The new address is there before the old one goes, as a routing daemon or DHCP client does it."""
        alice = lab.gateways["alice"].namespace
        alice.run(["sh", "-c", f"echo 1 > /proc/sys/net/ipv4/conf/{UNDERLAY}/promote_secondaries"])
        alice.add_address(UNDERLAY, ip_interface(new))
        alice.run(["ip", "address", "del", old, "dev", UNDERLAY])
        for tunnel in lab.gateways["alice"].config.tunnels.values():
            if tunnel.name == ESP:
                for prefix in tunnel.protects:
                    alice.run(["ip", "route", "replace", str(prefix), "via", lab.gateways["bob"].underlay])

    return harm


def _remake(lab: Lab) -> None:
    alice = lab.gateways["alice"]
    device = alice.devices[WAN]
    if device.process:
        device.remove()
        device.process = None
    else:
        alice.namespace.run(["ip", "link", "del", device.name])
    device.make()
    lab.configure_device(alice, WAN)


def _flush_ruleset(lab: Lab) -> None:
    lab.gateways["alice"].namespace.run(["nft", "flush", "ruleset"])


def _write_device(lab: Lab) -> None:
    """Somebody sets another PSK, as `wg setconf` of a stale file does."""
    alice = lab.gateways["alice"]
    device = alice.devices[WAN]
    public = alice.namespace.run(["wg", "show", device.name, "peers"]).strip()
    psk = alice.namespace.run(["wg", "genpsk"])
    alice.namespace.run(["wg", "set", device.name, "peer", public, "preshared-key", "/dev/stdin"], text=psk)


def _flush_policies(lab: Lab) -> None:
    lab.gateways["alice"].namespace.run(["ip", "xfrm", "policy", "flush"])


def _flush_states(lab: Lab) -> None:
    lab.gateways["alice"].namespace.run(["ip", "xfrm", "state", "flush"])


def _fill_disk(lab: Lab) -> None:
    lab.gateways["alice"].fill_disk()


def _free_disk(lab: Lab) -> None:
    lab.gateways["alice"].free_disk()


def _impair(lab: Lab) -> None:
    lab.impair(Impairment(delay_ms=300, jitter_ms=100, loss=0.01))


def _unimpair(lab: Lab) -> None:
    lab.impair(None)


BOTH_CLOSE: Final = {FAST: Outcome.CLOSES, ESP: Outcome.CLOSES}
BOTH_GO_ON: Final = {FAST: Outcome.GOES_ON, ESP: Outcome.GOES_ON}

FAULTS: Final = (
    Fault("kill", "one daemon killed (-9)", kill("alice"), heal, BOTH_CLOSE),
    Fault("kill-both", "both daemons killed (-9)", kill("alice", "bob"), heal, BOTH_CLOSE),
    Fault("freeze", "one daemon frozen (SIGSTOP)", freeze("bob"), heal, BOTH_CLOSE),
    Fault("freeze-both", "both daemons frozen", freeze("alice", "bob"), heal, BOTH_CLOSE),
    Fault("cut", "control channel cut", _cut, heal, BOTH_CLOSE),
    Fault("deaf", "control channel cut in one direction", _deafen, heal, BOTH_CLOSE),
    Fault("one-way", "everything lost in one direction", _one_way, _both_ways, BOTH_CLOSE),
    Fault(
        "moved",
        "a gateway's underlay address changed",
        _move("192.0.2.1/24", MOVED),
        _move(MOVED, "192.0.2.1/24"),
        {FAST: Outcome.GOES_ON, ESP: Outcome.CLOSES},
    ),
    Fault("device", "device deleted and made again", _remake, _nothing, {WAN: Outcome.REKEYS}),
    Fault("psk", "a foreign PSK written to the device", _write_device, _nothing, {WAN: Outcome.REKEYS}),
    Fault("policies", "all XFRM policies flushed", _flush_policies, _nothing, {ESP: Outcome.REKEYS}),
    Fault("states", "all security associations flushed", _flush_states, _nothing, {ESP: Outcome.REKEYS}),
    Fault("ruleset", "the ruleset flushed under traffic", _flush_ruleset, _nothing, BOTH_GO_ON),
    Fault("disk", "a gateway's disk full", _fill_disk, _free_disk, BOTH_GO_ON),
    Fault("lossy", "300 ms delay, 100 ms jitter, 1 % loss each way", _impair, _unimpair, BOTH_GO_ON),
)

STEPS: Final = ("Ask", "State", "Prepare", "Prepared", "Commit", "Installed (answerer's)", "Installed (proposer's)")
"""The messages of a rotation in their order (docs/rotation.md); a peer can hang on each. The last one, `Live`, is sent
by both ends at no fixed moment."""


TWO_MACHINES: Final = tuple(
    (title, kind)
    for title in (
        "one gateway loses power and boots",
        "one gateway's clock an hour ahead",
        "one gateway's clock two hours back",
        "one gateway asleep",
    )
    for kind in ("WireGuard", "ESP")
)
"""Title and kind of tunnel of the rows that take two machines, which stand behind these."""


def hang_title(step: int) -> str:
    """The row of a peer that hangs as it gets this message."""
    return f"a peer hangs on `{STEPS[step]}`"


def expected_rows() -> list[tuple[str, str]]:
    """Title and kind of tunnel of every row, in the order of the table."""
    rows = [(fault.title, KINDS[tunnel]) for fault in FAULTS for tunnel in fault.outcomes]
    rows += [(hang_title(step), kind) for step in range(len(STEPS)) for kind in ("WireGuard", "ESP")]
    return [*rows, *TWO_MACHINES]
