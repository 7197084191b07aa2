"""Two real daemons with a simulated link: its keys make tunnels hybrid, and its troubles do what policy says."""

import signal
import socket
from collections.abc import Callable

import msgspec

from qhybridd.apps.gateway import Gateway
from qhybridd.apps.lab import Lab
from qhybridd.clock import boottime
from qhybridd.status import Answer, FaultRequest, LinkStatus, ReloadRequest, Request, encode_line

MAX_AGE = 'max_age = "20s"'
STOP_S = 5.0
"""What a daemon may take to stop in the middle of a block."""


def ask(gateway: Gateway, request: Request) -> Answer:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as control:
        control.settimeout(10.0)
        control.connect(str(gateway.config.gateway.socket))
        control.sendall(encode_line(request))
        with control.makefile("rb") as lines:
            return msgspec.json.decode(lines.readline(), type=Answer)


def links(lab: Lab) -> list[LinkStatus]:
    """At both ends; empty while one does not answer."""
    seen = [gateway.status() for gateway in lab.gateways.values()]
    return [link for status in seen if status is not None for link in status.links]


def up(lab: Lab) -> bool:
    return [link.state for link in links(lab)] == ["up", "up"]


def at_level(lab: Lab, tunnel: str, level: str | None) -> Callable[[], bool]:
    """Whether both ends have the tunnel open at this level, and say so where its keys are simulated."""

    def look() -> bool:
        seen = [gateway.tunnel(tunnel) for gateway in lab.gateways.values()]
        return all(
            status is not None and status.level == level and status.simulated == (level == "hybrid") for status in seen
        )

    return look


def test_an_eavesdropper_costs_the_strict_tunnel_and_the_other_one_its_level_until_she_leaves(
    demo_configs: dict[str, str],
) -> None:
    texts = {name: text.replace(MAX_AGE, 'max_age = "8s"') for name, text in demo_configs.items()}
    with Lab(texts) as lab:
        lab.start_daemons()
        alice, bob = lab.gateways.values()
        for tunnel in ("fast", "office"):
            lab.wait(at_level(lab, tunnel, "hybrid"), 60.0, f"{tunnel} rests on keys of the link")
        eve = FaultRequest("fibre", "eve", 1.0, "intercept-resend")
        refused = ask(bob, eve)
        assert refused.error is not None and refused.error.code == "control.refused"
        assert ask(alice, eve).ok
        lab.wait(lambda: {link.code for link in links(lab)} == {"link.attack"}, 30.0, "both ends see an attack")
        lab.wait(lambda: all(0.24 < (link.qber_test or 0) < 0.28 for link in links(lab)), 10.0, "a QBER of a quarter")
        lab.wait(at_level(lab, "fast", None), 60.0, "the strict tunnel closes")
        lab.wait(at_level(lab, "office", "pqc"), 30.0, "the other one falls back")
        assert ask(alice, FaultRequest("fibre", mend=True)).ok
        lab.wait(lambda: up(lab), 60.0, "the link recovers")
        for tunnel in ("fast", "office"):
            lab.wait(at_level(lab, tunnel, "hybrid"), 60.0, f"{tunnel} rests on keys of the link again")
        log = alice.log_file.read_text()
        assert '"event": "attack"' in log and '"event": "link recovered"' in log and '"defect"' not in log


def test_a_link_comes_back_after_a_crash_a_change_and_a_stop(demo_configs: dict[str, str]) -> None:
    with Lab(demo_configs) as lab:
        lab.start_daemons()
        alice, bob = lab.gateways.values()
        lab.wait(lambda: up(lab), 60.0, "the link gives keys")

        bob.stop(signal.SIGKILL)
        lab.start_daemon(bob)
        lab.wait(lambda: up(lab) and links(lab)[1].kept > 0, 60.0, "the link gives keys after a crash")
        lab.wait(at_level(lab, "fast", "hybrid"), 60.0, "the strict tunnel rests on keys that both have")

        text = alice.config_file.read_text()
        assert text.count(MAX_AGE) == 1
        alice.config_file.write_text(text.replace(MAX_AGE, 'max_age = "21s"'))
        kept = links(lab)[1].kept
        changed = ask(alice, ReloadRequest())
        assert changed.ok and b"changed link fibre" in bytes(changed.result)
        assert (tunnel := alice.tunnel("fast")) is not None and tunnel.state == "open"
        lab.wait(
            lambda: up(lab) and links(lab)[0].kept > 0 and links(lab)[1].kept > kept + 1,
            90.0,
            "the link gives keys after a reload",
        )
        for gateway in (alice, bob):
            began = boottime()
            assert gateway.stop() == 0
            assert boottime() - began < STOP_S
            assert '"defect"' not in gateway.log_file.read_text()
