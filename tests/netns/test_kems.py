"""A rotation with a further KEM from liboqs: large keys over the control channel, slow generation beside the loop."""

import pytest

from qhybridd.apps.lab import Lab
from qhybridd.crypto import liboqs
from tests.netns.worlds import SHORT, configs, epochs, wait_epoch

WANTED = ("Classic-McEliece-348864", "HQC-128", "eFrodoKEM-640-AES")


@pytest.mark.skipif(liboqs.find_library() is None, reason="liboqs is not installed: run `make liboqs`")
def test_a_tunnel_is_keyed_by_ml_kem_and_a_further_kem_together() -> None:
    names = {kem.name for kem in liboqs.available()}
    further = next(name for name in WANTED if name in names)
    texts = {name: text + f'kems = ["ml-kem-768", "{further}"]\n' for name, text in configs(SHORT).items()}
    with Lab(texts) as lab:
        lab.start_daemons()
        lab.wait_open("fast")
        first = max(epochs(lab, "fast"))
        assert wait_epoch(lab, "fast", first, 3 * SHORT.period_s) > first
        for gateway in lab.gateways.values():
            tunnel = gateway.tunnel("fast")
            assert tunnel is not None and tunnel.failures == 0, tunnel
    assert lab.leftovers() == []
