"""Events of devices and addresses: the kernel's own, in a namespace, and bytes that no kernel sends."""

import os
import select
from ipaddress import ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qhybridd.errors import HostError
from qhybridd.netlink.attributes import attribute, message, text
from qhybridd.netlink.route_events import (
    ADDRESS,
    IFA_ADDRESS,
    IFA_LOCAL,
    IFLA_IFNAME,
    LINK,
    RTM_DELADDR,
    RTM_DELLINK,
    RTM_NEWLINK,
    AddressGone,
    DeviceChanged,
    RouteEvent,
    RouteEvents,
    parse,
)
from tests.netns.namespaces import Lab, inside


def test_several_messages_in_one_datagram() -> None:
    link = LINK.pack(0, 1, 7, 0, 0) + text(IFLA_IFNAME, "wg0")
    bridge = LINK.pack(7, 1, 7, 0, 0) + text(IFLA_IFNAME, "wg0")
    pair = attribute(IFA_ADDRESS, ip_address("192.0.2.9").packed) + attribute(IFA_LOCAL, ip_address("192.0.2.1").packed)
    data = message(RTM_NEWLINK, 0, 0, link) + message(RTM_DELLINK, 0, 0, bridge) + message(RTM_DELLINK, 0, 0, link)
    data += message(RTM_DELADDR, 0, 0, ADDRESS.pack(2, 32, 0, 0, 7) + pair)
    assert parse(data) == [
        DeviceChanged("wg0", 7, gone=False),
        DeviceChanged("wg0", 7, gone=True),
        AddressGone(ip_address("192.0.2.1")),
    ]


@given(st.binary(max_size=200), st.sampled_from([RTM_NEWLINK, RTM_DELLINK, RTM_DELADDR, 99]))
def test_any_bytes_are_events_or_an_error(data: bytes, kind: int) -> None:
    for datagram in (data, message(kind, 0, 0, data)):
        try:
            parse(datagram)
        except HostError as error:
            assert error.code == "host.netlink"


@pytest.mark.skipif(os.geteuid() != 0, reason="network namespaces need root")
def test_the_kernel_tells_what_becomes_of_a_device() -> None:
    with Lab() as lab:
        lab.add("a")
        with inside(lab.name("a")):
            devices, everything = RouteEvents(), RouteEvents(addresses=True)
        assert devices.read() == []
        lab.ip("a", "link", "add", "one", "type", "veth", "peer", "name", "two")
        lab.ip("a", "address", "add", "192.0.2.1/24", "dev", "one")
        lab.ip("a", "address", "add", "2001:db8::1/64", "dev", "one", "nodad")
        lab.ip("a", "address", "del", "192.0.2.1/24", "dev", "one")
        lab.ip("a", "link", "del", "one")
        select.select([everything], [], [], 1)
        seen: list[RouteEvent] = everything.read()
        made, gone = (DeviceChanged("one", _index(seen), gone=word) for word in (False, True))
        assert seen.index(made) < seen.index(gone)
        assert seen.index(AddressGone(ip_address("192.0.2.1"))) < seen.index(gone)
        assert AddressGone(ip_address("2001:db8::1")) in seen
        assert {type(event) for event in devices.read()} == {DeviceChanged}
        devices.close()
        everything.close()


def _index(events: list[RouteEvent]) -> int:
    return next(event.index for event in events if isinstance(event, DeviceChanged) and event.name == "one")
