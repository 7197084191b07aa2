"""The netlink codecs: what is built reads back, and no bytes make a parser fail other than by a `HostError`."""

import os
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qhybridd.errors import HostError, ProgramError
from qhybridd.netlink import nft_dumps, nft_steps, route_dump, route_events, wireguard
from qhybridd.netlink.attributes import (
    ATTRIBUTE,
    Attribute,
    Message,
    attribute,
    message,
    nested,
    text,
    walk,
    walk_messages,
)
from qhybridd.netlink.nft_bytecode import be32, be64
from qhybridd.netlink.peers import AllowedIp, PeerChange, PeerState, remove_and_add, set_psk
from qhybridd.netlink.socket import Dump, read_error
from qhybridd.netlink.wireguard import parse_device
from qhybridd.secret import Secret

KEY, OTHER = b"k" * 32, b"o" * 32


def secret(byte: int) -> Secret:
    return Secret.adopt(bytes([byte]) * 32)


def dump_of(*payloads: bytes) -> Dump:
    data = b"".join(message(0x20, 0, 1, payload) for payload in payloads)
    view = memoryview(data)
    return Dump(view, list(walk_messages(view, 0, len(data))))


@contextmanager
def only_host_errors() -> Iterator[None]:
    try:
        yield
    except HostError as error:
        assert error.code in ("host.netlink", "host.guard")


# ---- a device as the kernel would dump it


def kernel_peer(state: PeerState) -> bytes:
    with state.psk.expose() as psk:
        parts = [attribute(1, state.public_key), attribute(2, bytes(psk))]
    seconds, nanoseconds = divmod(state.last_handshake_ns, 1_000_000_000)
    parts += [
        attribute(6, struct.pack("=qq", seconds, nanoseconds)),
        attribute(5, struct.pack("=H", state.keepalive_s)),
        attribute(8, struct.pack("=Q", state.tx_bytes)),
        attribute(7, struct.pack("=Q", state.rx_bytes)),
    ]
    if state.endpoint:
        parts.append(attribute(4, wireguard.pack_endpoint(state.endpoint)))
    entries = (
        nested(0, attribute(3, bytes([ip.prefix])), attribute(1, b"\2\0"), attribute(2, ip.address))
        for ip in state.allowed_ips
    )
    return nested(0, *parts, nested(9, *entries))


def kernel_device(*peers: bytes, head: tuple[bytes, ...] = (attribute(4, b"d" * 32),)) -> bytes:
    return wireguard.GENL_HEADER.pack(0, 1, 0) + b"".join(head) + nested(8, *peers)


addresses = st.binary(min_size=4, max_size=4) | st.binary(min_size=16, max_size=16)
allowed = addresses.flatmap(lambda a: st.builds(AllowedIp, st.just(a), st.integers(0, 8 * len(a))))
endpoints = st.one_of(
    st.just(""),
    st.builds("{}:{}".format, st.ip_addresses(v=4), st.integers(0, 65535)),
    st.builds("[{}]:{}".format, st.ip_addresses(v=6), st.integers(0, 65535)),
    st.builds("[fe80::1%{}]:{}".format, st.integers(1, 1 << 31), st.integers(0, 65535)),
)
peers = st.builds(
    PeerState,
    public_key=st.binary(min_size=32, max_size=32),
    psk=st.integers(0, 255).map(secret),
    endpoint=endpoints,
    keepalive_s=st.integers(0, 65535),
    last_handshake_ns=st.integers(0, 1 << 62),
    rx_bytes=st.integers(0, (1 << 64) - 1),
    tx_bytes=st.integers(0, (1 << 64) - 1),
    allowed_ips=st.lists(allowed, max_size=4).map(tuple),
)


@given(st.lists(peers, max_size=4, unique_by=lambda peer: peer.public_key))
def test_a_device_dump_reads_back(states: list[PeerState]) -> None:
    device = parse_device(dump_of(kernel_device(*map(kernel_peer, states))), {state.public_key for state in states})
    assert device.public_key == b"d" * 32
    assert list(device.peers.values()) == states


def test_only_the_peers_asked_for_are_read() -> None:
    states = [PeerState(bytes([i]) * 32, secret(i), "", 0, 0, 0, 0, ()) for i in range(1, 9)]
    device = parse_device(dump_of(kernel_device(*map(kernel_peer, states))), {states[3].public_key, KEY})
    assert list(device.peers) == [states[3].public_key]


def test_a_peer_goes_on_in_the_next_message() -> None:
    state = PeerState(KEY, secret(1), "192.0.2.1:5", 7, 9, 1, 2, (AllowedIp(b"\x0a\0\0\0", 8),))
    rest = nested(0, attribute(1, KEY), nested(9, nested(0, attribute(2, b"\x0b\0\0\0"), attribute(3, b"\x10"))))
    device = parse_device(dump_of(kernel_device(kernel_peer(state)), kernel_device(rest, head=())), {KEY})
    peer = device.peers[KEY]
    assert peer.allowed_ips == (AllowedIp(b"\x0a\0\0\0", 8), AllowedIp(b"\x0b\0\0\0", 16))
    assert (peer.psk, peer.endpoint, peer.keepalive_s) == (state.psk, state.endpoint, 7)


def test_a_public_key_that_is_not_the_first_attribute_is_found() -> None:
    peer = nested(0, attribute(5, b"\x19\0"), attribute(1, KEY))
    assert parse_device(dump_of(kernel_device(peer)), {KEY}).peers[KEY].keepalive_s == 25


# ---- requests


def requested(built: object) -> list[dict[int, bytes]]:
    """The peers of a request, attributes by kind, with the PSKs put into their holes."""
    data = bytearray(built.data)  # type: ignore[attr-defined]
    for offset, psk in built.holes:  # type: ignore[attr-defined]
        with psk.expose() as view:
            assert data[offset : offset + 32] == bytes(32)
            data[offset : offset + 32] = view
    view = memoryview(bytes(data))
    return [
        {entry.kind: bytes(view[entry.start : entry.end]) for entry in walk(view, peer.start, peer.end)}
        for item in walk(view, wireguard.GENL_HEADER.size, len(view))
        if item.kind == wireguard.DEVICE_PEERS
        for peer in walk(view, item.start, item.end)
    ]


def test_a_psk_stands_only_in_its_hole() -> None:
    (built,) = wireguard.build_requests("wg0", [set_psk(KEY, secret(0xEE)), set_psk(OTHER, secret(0xDD))])
    assert b"\xee" * 8 not in built.data and b"\xdd" * 8 not in built.data
    one, other = requested(built)
    assert (one[1], one[2], other[1], other[2]) == (KEY, b"\xee" * 32, OTHER, b"\xdd" * 32)
    assert one[3] == struct.pack("=I", wireguard.PEER_F_UPDATE_ONLY)


def test_remove_and_add_keeps_what_was_there() -> None:
    state = PeerState(KEY, secret(1), "[fe80::1%3]:51820", 17, 9, 1, 2, (AllowedIp(b"\x0a\0\0\0", 8),))
    (built,) = wireguard.build_requests("wg0", remove_and_add(state, secret(2)))
    removed, added = requested(built)
    assert removed[3] == struct.pack("=I", wireguard.PEER_F_REMOVE_ME) and 2 not in removed
    assert added[2] == b"\2" * 32 and added[5] == struct.pack("=H", 17)
    assert added[3] == struct.pack("=I", wireguard.PEER_F_REPLACE_ALLOWED_IPS)
    view = memoryview(added[4])
    assert wireguard.read_endpoint(view, Attribute(4, 0, len(view))) == state.endpoint


def test_more_than_fits_goes_into_further_requests() -> None:
    ips = tuple(AllowedIp(i.to_bytes(4, "big"), 32) for i in range(3000))
    state = PeerState(KEY, secret(1), "", 0, 0, 0, 0, ips)
    requests = wireguard.build_requests("wg0", remove_and_add(state, secret(2)))
    assert all(len(built.data) < 0xFFFF for built in requests) and len(requests) == 3
    found = [peer for built in requests for peer in requested(built)]
    assert [bool(peer.get(2)) for peer in found] == [False, True, False, False]
    assert struct.unpack("=I", found[2][3])[0] == wireguard.PEER_F_UPDATE_ONLY
    count = 0
    for peer in found:
        entries = memoryview(peer.get(9, b""))
        count += len(list(walk(entries, 0, len(entries))))
    assert count == 3000
    many = [set_psk(os.urandom(32), secret(1)) for _ in range(1000)]
    requests = wireguard.build_requests("wg0", many)
    assert all(len(built.data) < 0xFFFF for built in requests)
    assert [peer[1] for built in requests for peer in requested(built)] == [change.public_key for change in many]


@pytest.mark.parametrize("psk", [Secret(32), Secret(16)])
def test_a_psk_that_means_none_is_refused(psk: Secret) -> None:
    with pytest.raises(ProgramError):
        set_psk(KEY, psk)


@pytest.mark.parametrize(
    "endpoint", ["", "nonsense", "1.2.3.4", "1.2.3.4:70000", "host:1", "[::1]:-1", "[fe80::1%nodev]:1"]
)
def test_an_endpoint_that_is_none_is_a_host_error(endpoint: str) -> None:
    with pytest.raises(HostError):
        wireguard.pack_endpoint(endpoint)


def test_a_change_without_a_psk_has_no_hole() -> None:
    (built,) = wireguard.build_requests("wg0", [PeerChange(KEY, keepalive_s=25)])
    assert built.holes == () and 2 not in requested(built)[0]


# ---- nothing that comes in can do harm


def mutate(data: st.DataObject, original: bytes) -> bytes:
    raw = bytearray(original)
    for _ in range(data.draw(st.integers(1, 6))):
        at = data.draw(st.integers(0, len(raw) - 1))
        raw[at] = data.draw(st.integers(0, 255))
    return bytes(raw[: data.draw(st.integers(0, len(raw)))])


def try_everything(raw: bytes) -> None:
    view = memoryview(raw)
    parsers: list[Callable[[Dump], object]] = [
        lambda dump: parse_device(dump, {KEY, OTHER}),
        nft_dumps.parse_elements,
        nft_dumps.parse_names,
        nft_dumps.parse_rules,
        nft_dumps.parse_counters,
        nft_dumps.parse_tables,
        nft_dumps.parse_chains,
        route_dump.parse_devices,
        lambda dump: [read_error(dump.view, item, "x") for item in dump.messages],
    ]
    with only_host_errors():
        messages = list(walk_messages(view, 0, len(view)))
        for parse in parsers:
            with only_host_errors():
                parse(Dump(view, messages))
    for parse in parsers:
        with only_host_errors():
            parse(Dump(view, [Message(2, 0x100, 1, 0, len(raw))]))


@given(st.binary(max_size=400))
def test_random_bytes_are_at_most_a_host_error(raw: bytes) -> None:
    try_everything(raw)


SAMPLE_PEER = PeerState(KEY, secret(1), "[fe80::1%3]:51820", 17, 9, 1, 2, (AllowedIp(b"\x0a\0\0\0", 8),))
SAMPLE_ELEMENTS = (
    b"\1\0\0\0"
    + text(1, "qhybridd")
    + nested(
        3,
        nested(1, nested(1, attribute(1, b"wg0".ljust(16, b"\0"))), be64(4, 60_000), be64(5, 5_000)),
        nested(1, nested(1, attribute(1, b"\x0a\0\0\0")), nested(2, nested(2, be32(1, 0xFFFFFFFC), text(2, "out_a")))),
        nested(1, nested(1, attribute(1, b"\x0b\0\0\0")), be32(3, 1)),
    )
)
SAMPLE_COUNTER = b"\1\0\0\0" + text(1, "t") + text(2, "out_a") + nested(4, be64(1, 700), be64(2, 9))
SAMPLE_TABLE = b"\1\0\0\0" + text(1, "qhybridd") + be32(2, 6) + be32(7, 4711)
SAMPLE_CHAIN = b"\1\0\0\0" + text(1, "qhybridd") + text(3, "out")
SAMPLE_LINK = route_events.LINK.pack(0, 1, 9, 0, 0) + text(3, "wg0")
SAMPLE_RULE = b"\1\0\0\0" + text(2, "out_a") + attribute(7, nft_steps.comment_data("closed"))


@settings(max_examples=300)
@given(st.data())
def test_mutated_answers_are_at_most_a_host_error(data: st.DataObject) -> None:
    samples = [kernel_device(kernel_peer(SAMPLE_PEER)), SAMPLE_ELEMENTS, SAMPLE_COUNTER, SAMPLE_RULE]
    samples += [SAMPLE_TABLE, SAMPLE_CHAIN, SAMPLE_LINK]
    sample = data.draw(st.sampled_from(samples))
    try_everything(mutate(data, message(0x20, 0, 1, sample)))


def test_nftables_answers_are_understood() -> None:
    one, other, end = nft_dumps.parse_elements(dump_of(SAMPLE_ELEMENTS))
    assert (one.key, one.expires_ms, one.goto) == (nft_steps.interface_key("wg0"), 5000, "")
    assert (other.key, other.goto, other.ends_interval) == (b"\x0a\0\0\0", "out_a", False)
    assert end.ends_interval and end.expires_ms is None
    assert nft_dumps.parse_counters(dump_of(SAMPLE_COUNTER)) == {"out_a": 9}
    assert nft_dumps.parse_rules(dump_of(SAMPLE_RULE)) == [("out_a", "closed")]


def test_lists_of_elements_are_split() -> None:
    items = [nft_steps.element(i.to_bytes(16, "big")) for i in range(5000)]
    operations = nft_steps.add_elements("t", "s", items)
    assert all(len(operation.body) < 0xFFFF for operation in operations) and len(operations) > 1
    assert sum(operation.body.count(ATTRIBUTE.pack(len(items[0]), 0x8001)) for operation in operations) == 5000


@pytest.mark.parametrize("name", ["", "x" * 16, "a\0b"])
def test_a_name_that_no_interface_has_is_refused(name: str) -> None:
    with pytest.raises(HostError):
        nft_steps.interface_key(name)


def test_an_errors_text_names_the_reason() -> None:
    raw = message(2, 0x300, 5, struct.pack("=i", -2) + bytes(16) + text(1, "no such table"))
    view = memoryview(raw)
    (item,) = walk_messages(view, 0, len(raw))
    error = read_error(view, item, "doing it")
    assert error is not None and error.errno == 2
    assert "doing it" in str(error) and "ENOENT" in str(error) and "no such table" in str(error)


def test_tables_chains_and_devices_are_understood() -> None:
    def dump(sample: bytes) -> Dump:
        return Dump(memoryview(sample), [Message(16, 2, 1, 0, len(sample))])

    assert nft_dumps.parse_tables(dump(SAMPLE_TABLE)) == [nft_dumps.TableState("qhybridd", 6, 4711)]
    assert nft_dumps.parse_chains(dump(SAMPLE_CHAIN)) == [("qhybridd", "out")]
    assert route_dump.parse_devices(dump(SAMPLE_LINK)) == {"wg0": 9}
    with pytest.raises(HostError):
        route_dump.parse_devices(dump(SAMPLE_LINK[:8]))
