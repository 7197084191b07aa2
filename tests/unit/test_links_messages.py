"""The messages of a link: what goes out comes in, and nothing else does."""

import os
from dataclasses import replace
from pathlib import Path
from typing import get_args

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qhybridd.config.records import Endpoint, LinkConfig
from qhybridd.distill.authenticate import Role
from qhybridd.distill.messages import wire_terms
from qhybridd.errors import PeerError
from qhybridd.keystore import ListedBlock, StoreListing
from qhybridd.links import messages as msg
from qhybridd.links import parts, settings
from qhybridd.links.planning import Planner, lay_out
from qhybridd.optics.parameters import Optics
from qhybridd.secret import Secret

CONFIG = LinkConfig("north", "bob", Role.ALICE, Path("psk"), Endpoint("192.0.2.1", 7421), block_clicks=4_000_000)
PLANNER = Planner(CONFIG.protocol, CONFIG.simulation, lay_out(CONFIG.simulation, CONFIG.block_clicks).block_pulses)
TERMS = PLANNER.terms
RUN = bytes(range(16))
assert TERMS is not None
EVERY: tuple[msg.Message, ...] = (
    msg.Hello("north", Role.BOB, settings.digests(CONFIG), answer=True),
    msg.Refuse("north", "link.terms"),
    msg.Listing("north", StoreListing((ListedBlock(RUN, 3, 5),), (RUN,))),
    msg.Plan("north", RUN, 7, wire_terms(TERMS)),
    msg.Ready("north", RUN, 7),
    msg.Begin("north", RUN, 7, 9),
    msg.Part("north", 9, b"part"),
    msg.Skip("north", RUN, 7, "link.sync"),
    msg.Stored("north", RUN),
    msg.Renew("north"),
)


@pytest.mark.parametrize("message", EVERY, ids=lambda message: type(message).__name__)
def test_every_message_comes_in_as_it_went_out(message: msg.Message) -> None:
    assert msg.decode(msg.encode(message)) == message
    for end in range(len(msg.encode(message))):
        with pytest.raises(PeerError, match="does not parse"):
            msg.decode(msg.encode(message)[:end])


def test_the_list_of_messages_is_whole() -> None:
    assert {type(message) for message in EVERY} == set(get_args(msg.Message))


@pytest.mark.parametrize(
    "message",
    [
        msg.Ready("", RUN, 7),
        msg.Ready("a b", RUN, 7),
        msg.Ready("north\n", RUN, 7),
        msg.Ready("n" * 64, RUN, 7),
        msg.Ready("north", RUN[:-1], 7),
        msg.Ready("north", RUN, -1),
        msg.Ready("north", RUN, 1 << 63),
        msg.Part("north", 1, b""),
        msg.Part("north", 1, bytes(msg.MAX_PART_BYTES + 1)),
        msg.Skip("north", RUN, 7, "no code"),
        msg.Hello("north", Role.BOB, (bytes(15),)),
        msg.Hello("north", Role.BOB, (bytes(16),) * 17),
        msg.Stored("north", RUN + b"x"),
    ],
)
def test_what_is_out_of_bounds_is_refused(message: msg.Message) -> None:
    with pytest.raises(PeerError) as refused:
        msg.decode(msg.encode(message))
    assert refused.value.code == "link.malformed"


@given(
    st.binary(max_size=200)
    | st.recursive(st.integers(-(2**63), 2**64 - 1) | st.binary() | st.text(), st.lists).map(msgspec.msgpack.encode)
)
def test_noise_is_refused_with_one_error(data: bytes) -> None:
    try:
        msg.decode(data)
    except PeerError as error:
        assert error.code == "link.malformed"


def test_the_longest_part_of_the_distillation_fits() -> None:
    longest = max(len(part) for part in parts.split(bytes(3 * parts.PART_BYTES)))
    msg.decode(msg.encode(msg.Part("north", 1, os.urandom(longest))))
    assert longest == msg.MAX_PART_BYTES


# ---- terms and settings


def every(config: LinkConfig, psk: bytes = b"p" * 32, session: bytes = b"session") -> tuple[bytes, ...]:
    """All digests of a `Hello`."""
    return (*settings.digests(config), settings.psk_digest(config, Secret.adopt(psk), session))


def test_terms_travel_whole_and_only_for_the_same_protocol() -> None:
    assert TERMS is not None
    wire = wire_terms(TERMS)
    assert msg.terms_of(wire, CONFIG.protocol) == TERMS
    with pytest.raises(PeerError) as refused:
        msg.terms_of(wire, replace(CONFIG.protocol, qber_most=0.09))
    assert refused.value.code == "link.terms"


def test_digests_do_not_depend_on_how_a_number_is_written_or_on_what_each_end_has_for_itself() -> None:
    same = replace(
        CONFIG, role=Role.BOB, peer="alice", photons=Endpoint("::", 1), capacity_bits=1 << 18, max_age_s=60,
        simulation=CONFIG.simulation.with_length(50),
    )  # fmt: skip
    assert settings.digests(same) == settings.digests(CONFIG)
    settings.check_digests(every(CONFIG), every(same))


@pytest.mark.parametrize(
    ("other", "words"),
    [
        (replace(CONFIG, block_clicks=1), "block_clicks"),
        (replace(CONFIG, epsilon_sec=1e-9), "the protocol"),
        (replace(CONFIG, simulation=Optics().with_length(49.9)), "the simulation"),
    ],
)
def test_a_digest_tells_what_differs(other: LinkConfig, words: str) -> None:
    with pytest.raises(PeerError) as refused:
        settings.check_digests(every(CONFIG), every(other))
    assert refused.value.code == "link.terms" and refused.value.message == f"the two ends differ in {words}"


def test_another_number_of_digests_is_another_version() -> None:
    with pytest.raises(PeerError, match="version"):
        settings.check_digests(every(CONFIG), every(CONFIG)[:-1])


def test_another_psk_is_told_and_its_digest_is_another_in_each_session() -> None:
    with pytest.raises(PeerError, match=r"the two ends differ in the PSK \[link\.terms\]$") as refused:
        settings.check_digests(every(CONFIG), every(CONFIG, b"q" * 32))
    assert refused.value.code == "link.terms"
    assert every(CONFIG)[-1] != every(CONFIG, session=b"another")[-1] != every(replace(CONFIG, name="south"))[-1]
