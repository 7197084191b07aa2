"""Which link is simulated: parameters by name, a link of a configuration, another rate."""

from pathlib import Path

import pytest

from qhybridd.apps.sim.settings import at_rate, change, default_link, link_of, parameters
from qhybridd.apps.sim.sweep import PARAMETERS
from qhybridd.apps.sim.totals import predict
from qhybridd.cli.sim import OVER
from qhybridd.distill.terms import Bound
from qhybridd.errors import OperatorError

SITE = """
[gateway]
identity = "identity.key"
peers = "peers"

[peer.bob]
endpoints = ["192.0.2.2:7420"]

[link.north]
peer = "bob"
role = "alice"
psk = "north.psk"
photons = "192.0.2.1:7421"
block_clicks = 250000

[link.north.simulation.fibre]
length_km = 12.5
"""


def test_parameters_of_every_record() -> None:
    link = change(
        default_link(),
        [
            "source.intensities=0.5,0.1,0.01",
            "source.intensity_probabilities=0.6,0.3,0.1",
            "fibre.length_km=80",
            "fibre.connectors=4",
            "receiver.visibility=0.95",
            "detectors.dark_hz=2000",
            "detectors.1.efficiency=0.15",
            "bound=wiesemann-2",
            "block_clicks=2e6",
            "capacity_keys=64",
            "max_age=2h",
        ],
    )
    optics = link.simulation
    assert optics.source.intensities == (0.5, 0.1, 0.01) and optics.fibre.length_km == 80
    assert optics.fibre.connectors == 4 and isinstance(optics.fibre.connectors, int)
    assert [one.dark_hz for one in optics.receiver.detectors] == [2000, 2000]
    assert [one.efficiency for one in optics.receiver.detectors] == [0.2, 0.15]
    assert link.bound is Bound.WIESEMANN_TWO and link.protocol.bound is Bound.WIESEMANN_TWO
    assert (link.block_clicks, link.capacity_bits, link.max_age_s) == (2_000_000, 64 * 256, 7200)


def test_every_parameter_has_a_name_that_is_taken() -> None:
    names = parameters()
    assert {"source.intensity_spread", "fibre.drift_rad_per_sqrt_s", "detectors.jitter_ps", "qber_most"} <= set(names)
    for name in names:
        with pytest.raises(OperatorError) as refused:
            change(default_link(), [f"{name}=nothing"])
        assert refused.value.code == "config.value" and name in refused.value.message


@pytest.mark.parametrize(
    ("setting", "code", "hint"),
    [
        ("fibre.lenght_km=3", "config.unknown-key", "fibre.length_km"),
        ("length_km=3", "config.unknown-key", "fibre.length_km"),
        ("fibre=3", "config.unknown-key", ""),
        ("detectors.2.efficiency=0.1", "config.unknown-key", ""),
        ("source.0.repetition_hz=1", "config.unknown-key", ""),
        ("receiver.detectors=1", "config.unknown-key", ""),
        ("fibre.length_km", "config.value", "fibre.length_km=80"),
        ("fibre.length_km=-1", "config.value", ""),
        ("fibre.length_km=nan", "config.value", ""),
        ("fibre.connectors=1.5", "config.value", ""),
        ("detectors.efficiency=2", "config.value", ""),
        ("block_clicks=5", "config.value", ""),
        ("bound=wiesemann", "config.value", "wiesemann-"),
    ],
)
def test_what_cannot_be(setting: str, code: str, hint: str) -> None:
    with pytest.raises(OperatorError) as refused:
        change(default_link(), [setting])
    assert refused.value.code == code and hint in refused.value.hint
    assert setting.partition("=")[0].rpartition(".")[2] in str(refused.value)


def test_another_rate_opens_the_same_gates_less_often() -> None:
    link = default_link()
    slow, fast = predict(at_rate(link, 1e6).simulation), predict(link.simulation)
    for one, other in zip((*slow.gains, *slow.error_rates), (*fast.gains, *fast.error_rates), strict=True):
        assert one == pytest.approx(other, rel=0.15)  # dead time and afterpulses are what is left
    with pytest.raises(OperatorError, match="repetition_hz"):
        at_rate(link, 1.0)


def test_a_link_of_a_configuration(tmp_path: Path) -> None:
    file = tmp_path / "site.toml"
    file.write_text(SITE)
    link = link_of(file, "north")  # none of the files that it names is there
    assert link.simulation.fibre.length_km == 12.5 and link.block_clicks == 250_000
    with pytest.raises(OperatorError) as refused:
        link_of(file, "nroth")
    assert refused.value.code == "config.reference" and "north" in refused.value.hint


def test_the_command_names_what_can_be_swept() -> None:
    assert list(OVER) == list(PARAMETERS)
