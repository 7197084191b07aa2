"""Nothing lost and nothing in clear while keys change, both ways, at the highest steady rate that is carried at all."""

import os
import time
from typing import Final

import pytest

from qhybridd.apps.lab import Lab
from tests.kernel.abilities import has_esp, has_kernel_wireguard
from tests.kernel.rates import COARSE, FINE, LEAST_RATE, check, find_rate, rotate_under
from tests.netns.worlds import ORDINARY, Plan, configs

EVERY_SECOND: Final = Plan("esp", "seamless", 1, 10)
ROTATIONS: Final = int(os.environ.get("ROTATIONS", "100"))
BEFORE_S: Final = 300.0
RATES: Final = [pytest.param(COARSE, id="coarse"), pytest.param(FINE, marks=pytest.mark.long, id="fine")]


@pytest.mark.slow
@pytest.mark.parametrize("rates", RATES)
@pytest.mark.skipif(not has_esp(), reason="this kernel has no ESP")
def test_esp_rotates_every_second_and_loses_nothing(rates: tuple[int, ...]) -> None:
    # The rate is found on a tunnel that does not rotate meanwhile, of the same kind and in the same machine.
    quiet = Plan(EVERY_SECOND.name, EVERY_SECOND.renew, 3600, 7200)
    with Lab(configs(quiet)) as lab:
        lab.start_daemons()
        lab.wait_open("esp", BEFORE_S)
        rate = find_rate(lab, "esp", rates)
        print(f"\nhighest steady rate without rotation: {rate} packets a second each way")
        assert rate >= LEAST_RATE
    with Lab(configs(EVERY_SECOND)) as lab:
        lab.start_daemons()
        lab.wait_open("esp", BEFORE_S)
        lab.capture()
        flow = lab.add_flow("esp", 1000 / rate)
        began_s = time.monotonic()
        reading = rotate_under(lab, flow, "esp", ROTATIONS, 15.0)
        assert time.monotonic() - began_s < 2 * ROTATIONS + 10, "about one rotation a second"
        check(lab, reading)
    assert lab.leftovers() == []


@pytest.mark.slow
@pytest.mark.parametrize("rates", RATES)
@pytest.mark.skipif(not has_kernel_wireguard(), reason="this kernel has no WireGuard")
def test_wireguard_rotates_in_the_ordinary_and_loses_nothing(rates: tuple[int, ...]) -> None:
    with Lab(configs(ORDINARY)) as lab:
        lab.start_daemons()
        lab.wait_open("wan", BEFORE_S)
        lab.capture()
        rate = find_rate(lab, "wan", rates)
        print(f"\nhighest steady rate without rotation: {rate} packets a second each way")
        assert rate >= LEAST_RATE
        reading = rotate_under(lab, lab.add_flow("wan", 1000 / rate), "wan", 1, 180.0)
        check(lab, reading)
    assert lab.leftovers() == []
