"""QKD dies at the worst moment: how long a tunnel that takes nothing but hybrid keys goes on, against the formula of
docs/exposure.md as `qhybridd status` computes it."""

from typing import Final

from qhybridd.apps.lab import Lab
from qhybridd.clock import boottime
from qhybridd.status import FaultRequest
from tests.netns.test_links import ask, at_level
from tests.netns.worlds import epochs, run_for, wait_epoch, wait_silence

PERIOD_S: Final = 4
EXPIRY_S: Final = 10
MAX_AGE_S: Final = 10
"""Of a key in the link's store."""
STEPS_S: Final = 3 * PERIOD_S / 2
"""Three steps of a rotation, by their deadlines."""
DISTILLED_S: Final = 2.0
"""What was on its way in the fibre makes its last block in that time."""
SLACK_S: Final = 1.0


def _short(text: str) -> str:
    """The demo's gateway with a short-lived store, and its strict tunnel alone with short times."""
    text = text.replace('max_age = "20s"', f'max_age = "{MAX_AGE_S}s"')
    head, _, rest = text.partition("[tunnel.fast]")
    strict = "[tunnel.fast]" + rest.partition("[tunnel.office]")[0]
    strict = strict.replace('period = "10s"', f'period = "{PERIOD_S}s"').replace(
        'expiry = "20s"', f'expiry = "{EXPIRY_S}s"'
    )
    return head.partition("[tunnel.wan]")[0] + strict


def test_a_strict_tunnel_outlives_its_link_no_longer_than_the_formula_says(demo_configs: dict[str, str]) -> None:
    with Lab({name: _short(text) for name, text in demo_configs.items()}) as lab:
        lab.start_daemons()
        lab.wait(at_level(lab, "fast", "hybrid"), 60.0, "the tunnel rests on keys of the link")
        flow = lab.add_flow("fast")
        flow.start()
        wait_epoch(lab, "fast", max(epochs(lab, "fast")), 30.0)
        # The last key is taken from the store just before it gets too old: rotations come at 4, 8 s, …
        run_for(lab, (2 * PERIOD_S - MAX_AGE_S) % PERIOD_S - 0.3)
        cut_s = boottime()
        for gateway in lab.gateways.values():
            ask(gateway, FaultRequest("fibre", "cut"))
        run_for(lab, DISTILLED_S)
        told_s = boottime()
        seen = [gateway.tunnel("fast") for gateway in lab.gateways.values()]
        bounds = [one.exposure.qkd_gone_s for one in seen if one is not None and one.exposure is not None]
        assert len(bounds) == 2
        worst_s = told_s - cut_s + max(bound or 0.0 for bound in bounds)
        last_s = wait_silence(lab, flow, worst_s + 15.0, 3.0)
        print(
            f"\nlast packet {last_s - cut_s:.1f} s after QKD died; the status had said at most {worst_s:.1f} s "
            f"({told_s - cut_s:.1f} s after it: {', '.join(f'{bound:.1f} s' for bound in bounds)})"
        )
        assert last_s - cut_s <= worst_s + SLACK_S
        ordinary_s = MAX_AGE_S - PERIOD_S + EXPIRY_S - SLACK_S
        assert last_s - cut_s >= ordinary_s - DISTILLED_S, "the store did carry it for a while"
        assert worst_s <= MAX_AGE_S + EXPIRY_S + STEPS_S + DISTILLED_S + SLACK_S, "and the bound is not just any"
    assert lab.leftovers() == []
