"""Configurations for the laboratory, and waiting in it."""

import time
from dataclasses import dataclass
from typing import Final

from qhybridd.apps.flow import Flow
from qhybridd.apps.lab import Lab
from qhybridd.clock import boottime

GATEWAY = """
[gateway]
identity = "identity.key"
peers = "peers"
listen = ["192.0.2.{own}:7420"]
runtime = "run"
state = "state"

[peer.{peer}]
endpoints = ["192.0.2.{other}:7420"]
"""
TUNNEL = """
[tunnel.{name}]
peer = "{peer}"
interface = "wg-{name}"
wireguard_peer = "{key}"
protects = ["10.{net}.{other}.0/24"]
renew = "{renew}"
period = "{period_s}s"
expiry = "{expiry_s}s"
least = "pqc"
"""
ESP = """
[tunnel.{name}]
peer = "{peer}"
target = "xfrm"
local = "192.0.2.{own}"
remote = "192.0.2.{other}"
behind = ["10.{net}.{own}.0/24"]
protects = ["10.{net}.{other}.0/24"]
period = "{period_s}s"
expiry = "{expiry_s}s"
least = "pqc"
"""


@dataclass(frozen=True)
class Plan:
    """A tunnel to make."""

    name: str
    renew: str
    """`seamless` for one over ESP."""
    period_s: int
    expiry_s: int


ORDINARY: Final = Plan("wan", "wait", 120, 300)
SHORT: Final = Plan("fast", "reset", 4, 10)
"""Closes soon after a cut, so that a test need not wait long."""
SEAMLESS: Final = Plan("esp", "seamless", 3, 12)
"""The same over ESP."""


def configs(*plans: Plan) -> dict[str, str]:
    """The configuration files of both gateways."""
    texts = {}
    for own, (name, peer) in enumerate((("alice", "bob"), ("bob", "alice")), start=1):
        text = GATEWAY.format(own=own, other=3 - own, peer=peer)
        for index, plan in enumerate(plans):
            key = f"{chr(ord('A') + index)}{own}".ljust(42, "A") + "A="
            template = ESP if plan.renew == "seamless" else TUNNEL
            text += template.format(**vars(plan), peer=peer, net=77 + index, own=own, other=3 - own, key=key)
        texts[name] = text
    return texts


def run_for(lab: Lab, seconds: float) -> None:
    """Let the world turn; a daemon that dies ends the test."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        for gateway in lab.gateways.values():
            gateway.check()
        time.sleep(0.05)


def epochs(lab: Lab, tunnel: str) -> list[int]:
    """The live epoch at each gateway; 0 where the tunnel is not open or the daemon does not answer."""
    seen = [gateway.tunnel(tunnel) for gateway in lab.gateways.values()]
    return [status.epoch if status is not None and status.state == "open" else 0 for status in seen]


def wait_epoch(lab: Lab, tunnel: str, after: int, timeout_s: float) -> int:
    """Wait until both gateways are live on one epoch later than `after`, and return it."""
    found = 0

    def reached() -> bool:
        nonlocal found
        first, second = epochs(lab, tunnel)
        found = first if first == second and first > after else 0
        return found > 0

    lab.wait(reached, timeout_s, f"{tunnel} is live on an epoch after {after} at both gateways")
    return found


def hard_expiry_s(lab: Lab, tunnel: str) -> float:
    """The later of the hard expiries that the daemons tell, CLOCK_BOOTTIME seconds."""
    left = [gateway.tunnel(tunnel) for gateway in lab.gateways.values()]
    return boottime() + max(status.expires_in_s or 0.0 for status in left if status is not None)


def wait_arrivals(lab: Lab, flow: Flow, timeout_s: float) -> float:
    """Wait until packets arrive at both ends again; returns when."""
    before = flow.read()

    def arriving() -> bool:
        now = flow.read()
        return all(
            new.receiver.received > old.receiver.received + 20
            for new, old in ((now.there, before.there), (now.back, before.back))
        )

    lab.wait(arriving, timeout_s, "packets arrive at both ends")
    return boottime()


def wait_silence(lab: Lab, flow: Flow, timeout_s: float, for_s: float = 2.0) -> float:
    """Wait until nothing arrived at either end for `for_s`; returns when the last packet arrived."""
    lab.wait(lambda: boottime() - flow.read().last_arrival_s > for_s, timeout_s, "the traffic ends")
    return flow.read().last_arrival_s
