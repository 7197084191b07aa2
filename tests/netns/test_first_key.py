"""From boot until the first key: the guard is loaded as the unit before the network does it, no daemon has run yet, and
applications do not wait."""

import sys

from qhybridd.apps.lab import Lab
from tests.netns.worlds import SEAMLESS, SHORT, configs, run_for


def test_nothing_leaves_in_clear_before_the_first_key() -> None:
    with Lab(configs(SHORT, SEAMLESS)) as lab:
        lab.enrol()
        for gateway in lab.gateways.values():
            command = [sys.executable, "-m", "qhybridd", "--config", str(gateway.config_file), "guard", "load"]
            gateway.namespace.run(command)
        lab.add_hosts()
        lab.capture()
        flows = [lab.add_flow("fast"), lab.add_flow("esp"), lab.add_host_flow("esp")]
        for flow in flows:
            flow.start()
        run_for(lab, 2.0)
        readings = [flow.read() for flow in flows]
        assert all(reading.sent > 100 for reading in readings)
        assert [reading.received for reading in readings] == [0, 0, 0]
        assert lab.in_clear() == 0
        # The measure itself: what the guard and the policies held back leaves in clear without them.
        for gateway in lab.gateways.values():
            gateway.namespace.run(["nft", "delete", "table", "inet", "qhybridd"])
            gateway.namespace.run(["ip", "xfrm", "policy", "flush"])
        run_for(lab, 2.0)
        assert lab.in_clear() > 100
    assert lab.leftovers() == []
