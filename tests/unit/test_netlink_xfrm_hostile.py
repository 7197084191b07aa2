"""What XFRM says: foreign policies, every notice, and bytes that no kernel sends."""

import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from ipaddress import ip_address

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qhybridd.errors import HostError
from qhybridd.netlink import xfrm_layout as layout
from qhybridd.netlink.attributes import Message, attribute, message, walk_messages
from qhybridd.netlink.xfrm_build import build_policy, build_policy_id, build_sa, pack_sa_id, pack_selector
from qhybridd.netlink.xfrm_events import parse_event
from qhybridd.netlink.xfrm_parse import parse_policy, parse_sa
from qhybridd.netlink.xfrm_records import (
    Acquire,
    Event,
    Flushed,
    PolicyChanged,
    SaChanged,
    SaExpired,
    SecurityPolicy,
)
from tests.unit.test_netlink_xfrm import KEY, POLICY, SA, SELECTOR, TEMPLATE, with_key

INFO = layout.POLICY_INFO.size
SA_PAYLOAD = with_key(build_sa(replace(SA, if_id=7, encapsulation=4500), 3, inbound=True))
POLICY_PAYLOAD = build_policy(replace(POLICY, if_id=7, mark=9))
POLICY_HEAD = build_policy(POLICY)[:INFO]
TEMPLATE_BYTES = build_policy(POLICY)[INFO + 4 :]


def read_policy(payload: bytes | bytearray) -> SecurityPolicy | None:
    return parse_policy(memoryview(bytes(payload)), 0, len(payload))


def changed(payload: bytes, at: int, value: bytes) -> bytes:
    return payload[:at] + value + payload[at + len(value) :]


# ---- what other programs set up


@pytest.mark.parametrize(
    "payload",
    [
        POLICY_HEAD + attribute(layout.ATTR_TMPL, 2 * TEMPLATE_BYTES),
        POLICY_HEAD + attribute(layout.ATTR_TMPL, changed(TEMPLATE_BYTES, 20, b"\x33")),  # AH
        POLICY_HEAD + attribute(layout.ATTR_TMPL, changed(TEMPLATE_BYTES, 48, b"\x04")),  # BEET
        POLICY_HEAD + attribute(layout.ATTR_TMPL, changed(TEMPLATE_BYTES, 50, b"\x01")),  # optional
        POLICY_HEAD + attribute(layout.ATTR_TMPL, changed(TEMPLATE_BYTES, 49, b"\x03")),  # unique
        changed(build_policy(POLICY), 48, struct.pack("=i", 4)),  # an interface
        changed(build_policy(POLICY), 52, struct.pack("=I", 1000)),  # a user
        changed(build_policy(POLICY), 34, b"\xff\xff"),  # destination port 0 exactly
        changed(build_policy(POLICY), 3, b"\x01"),  # 10.2.0.1/16: not the selector 10.2.0.0/16
        changed(build_policy(POLICY), 161, b"\x01"),  # to be dropped, and with a template
        changed(build_policy(POLICY), 162, b"\x01"),  # flag `localok`
        build_policy(POLICY) + attribute(layout.ATTR_MARK, struct.pack("=II", 0x10, 0xF0)),
        build_policy(POLICY) + attribute(layout.ATTR_MARK, struct.pack("=II", 0, 0xFFFFFFFF)),
    ],
)
def test_a_policy_that_no_record_can_say_is_foreign_and_has_no_template(payload: bytes) -> None:
    policy = read_policy(payload)
    assert policy is not None and policy.foreign and policy.template is None


def test_a_policy_that_ip_marks_with_zeros_is_no_foreign_one() -> None:
    assert read_policy(build_policy(POLICY) + attribute(layout.ATTR_MARK, bytes(8))) == POLICY


@pytest.mark.parametrize("direction", [3, 4, 5])
def test_policies_of_sockets_are_left_out(direction: int) -> None:
    assert read_policy(changed(build_policy(POLICY), 160, bytes([direction]))) is None


def test_policies_of_the_other_database_are_left_out() -> None:
    assert read_policy(build_policy(POLICY) + attribute(layout.ATTR_POLICY_TYPE, b"\1\0\0\0\0\0")) is None
    assert read_policy(build_policy(POLICY) + attribute(layout.ATTR_POLICY_TYPE, bytes(6))) == POLICY


def test_an_association_of_another_protocol_is_left_out() -> None:
    payload = changed(SA_PAYLOAD, 56 + 20, b"\x33")
    assert parse_sa(memoryview(payload), 0, len(payload), with_key=True) is None


def test_an_association_of_an_ike_daemon_is_valid_without_our_algorithms() -> None:
    named = b"cbc(aes)".ljust(64, b"\0") + struct.pack("=I", 128) + bytes(16)
    payload = SA_PAYLOAD[: layout.SA_INFO.size] + attribute(layout.ATTR_ALG_CRYPT, named)
    state = parse_sa(memoryview(payload), 0, len(payload), with_key=True)
    assert state is not None and (state.valid, state.cipher, state.key) == (True, "cbc(aes)", None)


# ---- notices


def event_of(kind: int, payload: bytes) -> Event | None:
    data = message(kind, 0, 0, payload)
    (item,) = walk_messages(memoryview(data), 0, len(data))
    return parse_event(memoryview(data), item)


SA_HEAD = SA_PAYLOAD[: layout.SA_INFO.size]
NAME = build_policy_id(POLICY)[: layout.POLICY_ID.size]
TEMPLATES = attribute(layout.ATTR_TMPL, TEMPLATE_BYTES)
ACQUIRE = layout.ACQUIRE.pack(
    layout.ID.pack(SA.destination.packed.ljust(16, b"\0"), bytes(4), 50),
    SA.source.packed.ljust(16, b"\0"),
    pack_selector(SELECTOR),
    POLICY_HEAD,
    *(0, 0, 0, 5),
)

NOTICES: list[tuple[int, bytes, Event | None]] = [
    (layout.MSG_EXPIRE, SA_HEAD + b"\1".ljust(8, b"\0"), SaExpired(SA.id, SA.reqid, True)),
    (layout.MSG_EXPIRE, SA_HEAD + bytes(8), SaExpired(SA.id, SA.reqid, False)),
    (layout.MSG_NEWSA, SA_PAYLOAD, SaChanged(SA.id, False, SA.reqid)),
    (layout.MSG_UPDSA, SA_PAYLOAD, SaChanged(SA.id, False, SA.reqid)),
    (layout.MSG_DELSA, pack_sa_id(SA.id) + attribute(layout.ATTR_SA, SA_HEAD), SaChanged(SA.id, True, SA.reqid)),
    (layout.MSG_DELSA, pack_sa_id(SA.id), SaChanged(SA.id, True, 0)),
    (layout.MSG_NEWPOLICY, build_policy(POLICY), PolicyChanged(False, POLICY)),
    (layout.MSG_UPDPOLICY, build_policy(POLICY), PolicyChanged(False, POLICY)),
    (layout.MSG_DELPOLICY, NAME + attribute(layout.ATTR_POLICY, POLICY_HEAD) + TEMPLATES, PolicyChanged(True, POLICY)),
    (layout.MSG_DELPOLICY, NAME, PolicyChanged(True)),
    (layout.MSG_POLEXPIRE, POLICY_HEAD + b"\1".ljust(8, b"\0") + TEMPLATES, PolicyChanged(True, POLICY)),
    (layout.MSG_POLEXPIRE, POLICY_HEAD + bytes(8) + TEMPLATES, None),
    (layout.MSG_ACQUIRE, ACQUIRE + TEMPLATES, Acquire(SA.reqid, SA.destination)),
    (layout.MSG_ACQUIRE, ACQUIRE, Acquire(0, SA.destination)),
    (layout.MSG_FLUSHSA, b"\x32", Flushed(policies=False)),
    (layout.MSG_FLUSHSA, b"\xff", Flushed(policies=False)),
    (layout.MSG_FLUSHSA, b"\x33", None),
    (layout.MSG_FLUSHPOLICY, b"", Flushed(policies=True)),
    (layout.MSG_ALLOCSPI, SA_PAYLOAD, None),
]


@pytest.mark.parametrize(("kind", "payload", "event"), NOTICES)
def test_a_notice_is_understood(kind: int, payload: bytes, event: Event | None) -> None:
    assert event_of(kind, payload) == event


@pytest.mark.parametrize("kind", [layout.MSG_EXPIRE, layout.MSG_NEWSA])
def test_notices_of_other_protocols_are_no_news(kind: int) -> None:
    assert event_of(kind, changed(SA_HEAD, 56 + 20, b"\x33") + bytes(8)) is None


def test_an_acquire_names_the_missing_association_and_not_the_packet() -> None:
    gateway = ip_address("2001:db8::9")
    tunnel = replace(POLICY, template=replace(TEMPLATE, destination=gateway, source=ip_address("::1")))
    head = layout.ID.pack(gateway.packed, bytes(4), 50)
    event = event_of(layout.MSG_ACQUIRE, head + ACQUIRE[24:] + build_policy(tunnel)[INFO:])
    assert event == Acquire(SA.reqid, gateway)


# ---- nothing that comes in can do harm


@contextmanager
def only_host_errors() -> Iterator[None]:
    try:
        yield
    except HostError as error:
        assert error.code == "host.netlink"


def try_everything(raw: bytes) -> None:
    view = memoryview(raw)
    with only_host_errors():
        parse_sa(view, 0, len(view), with_key=True)
    with only_host_errors():
        parse_policy(view, 0, len(view))
    for kind in range(layout.MSG_NEWSA, layout.MSG_FLUSHPOLICY + 2):
        with only_host_errors():
            parse_event(view, Message(kind, 0, 0, 0, len(view)))


SAMPLES = [SA_PAYLOAD, POLICY_PAYLOAD, *(payload for _, payload, _ in NOTICES if payload)]


@given(st.binary(max_size=500))
def test_random_bytes_are_at_most_a_host_error(raw: bytes) -> None:
    try_everything(raw)


@settings(max_examples=500)
@given(st.data())
def test_mutated_answers_are_at_most_a_host_error(data: st.DataObject) -> None:
    raw = bytearray(data.draw(st.sampled_from(SAMPLES)))
    for _ in range(data.draw(st.integers(1, 6))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    try_everything(bytes(raw[: data.draw(st.integers(0, len(raw)))]))


@pytest.mark.parametrize("sample", SAMPLES)
def test_every_cut_is_at_most_a_host_error(sample: bytes) -> None:
    for size in range(len(sample)):
        try_everything(sample[:size])


@pytest.mark.parametrize(
    "payload",
    [
        changed(SA_PAYLOAD, 212, b"\x63"),  # family
        changed(SA_PAYLOAD, layout.SA_INFO.size + 4 + 64, struct.pack("=I", 8 * 37 + 8 * 100)),  # key longer than it is
        changed(SA_PAYLOAD, layout.SA_INFO.size + 4 + 64, struct.pack("=I", 287)),  # half bytes
    ],
)
def test_an_association_that_makes_no_sense_is_a_host_error(payload: bytes) -> None:
    with pytest.raises(HostError):
        parse_sa(memoryview(payload), 0, len(payload), with_key=True)


def test_a_key_of_another_size_is_not_taken() -> None:
    payload = changed(SA_PAYLOAD, layout.SA_INFO.size + 4 + 64, struct.pack("=I", 160))
    state = parse_sa(memoryview(payload), 0, len(payload), with_key=True)
    assert state is not None and state.key is None and KEY[:20] in payload


@pytest.mark.parametrize(
    "payload",
    [
        changed(POLICY_PAYLOAD, 42, b"\x21"),  # 33 bits of IPv4
        POLICY_HEAD + attribute(layout.ATTR_TMPL, TEMPLATE_BYTES[:-1]),
        POLICY_HEAD + attribute(layout.ATTR_TMPL, 7 * TEMPLATE_BYTES),
    ],
)
def test_a_policy_that_makes_no_sense_is_a_host_error(payload: bytes) -> None:
    with pytest.raises(HostError):
        read_policy(payload)
