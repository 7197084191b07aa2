"""The text protocol of userspace WireGuards: it reads back, and no answer makes it fail other than by a `HostError`."""

from ipaddress import ip_address, ip_network

import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from hypothesis import given, settings
from hypothesis import strategies as st

from qhybridd.errors import HostError
from qhybridd.netlink.peers import AllowedIp, PeerChange, PeerState, remove_and_add, set_keepalive, set_psk
from qhybridd.secret import Secret
from qhybridd.targets.uapi import build_set, decode_key, encode_key, parse_device

KEY, OTHER = b"k" * 32, b"o" * 32


def secret(byte: int) -> Secret:
    return Secret.adopt(bytes([byte]) * 32)


def text_of(state: PeerState) -> str:
    with state.psk.expose() as psk:
        lines = [f"public_key={state.public_key.hex()}", f"preshared_key={psk.hex()}", "protocol_version=1"]
    seconds, nanoseconds = divmod(state.last_handshake_ns, 1_000_000_000)
    if state.endpoint:
        lines.append(f"endpoint={state.endpoint}")
    lines += [f"last_handshake_time_sec={seconds}", f"last_handshake_time_nsec={nanoseconds}"]
    lines += [f"tx_bytes={state.tx_bytes}", f"rx_bytes={state.rx_bytes}"]
    lines.append(f"persistent_keepalive_interval={state.keepalive_s}")
    lines += [f"allowed_ip={entry}" for entry in state.allowed_ips]
    return "".join(f"{line}\n" for line in lines)


networks = st.ip_addresses(v=4).map(lambda a: ip_network((int(a) & 0xFFFFFF00, 24))) | st.ip_addresses(v=6).map(
    lambda a: ip_network(f"{ip_address(int(a) >> 64 << 64)}/64" if int(a) >> 64 else "::/64")
)
peers = st.builds(
    PeerState,
    public_key=st.binary(min_size=32, max_size=32),
    psk=st.integers(0, 255).map(secret),
    endpoint=st.sampled_from(["", "192.0.2.1:51820", "[2001:db8::1]:1", "[fe80::1%eth0]:51820"]),
    keepalive_s=st.integers(0, 65535),
    last_handshake_ns=st.integers(0, 1 << 62),
    rx_bytes=st.integers(0, (1 << 64) - 1),
    tx_bytes=st.integers(0, (1 << 64) - 1),
    allowed_ips=st.lists(networks.map(lambda n: AllowedIp(n.network_address.packed, n.prefixlen)), max_size=4).map(
        tuple
    ),
)


@given(st.lists(peers, max_size=4, unique_by=lambda peer: peer.public_key))
def test_an_answer_reads_back(states: list[PeerState]) -> None:
    private = X25519PrivateKey.generate()
    head = f"private_key={private.private_bytes_raw().hex()}\nlisten_port=51820\nfwmark=1\n"
    answer = memoryview((head + "".join(map(text_of, states))).encode())
    device = parse_device(answer, {state.public_key for state in states})
    assert device.public_key == private.public_key().public_bytes_raw()
    assert device.peers == {state.public_key: state for state in states}


def test_only_the_peers_asked_for_are_read_and_a_device_may_have_no_key() -> None:
    states = [PeerState(bytes([i]) * 32, secret(i), "", 0, 0, 0, 0, ()) for i in range(1, 9)]
    answer = memoryview("".join(map(text_of, states)).encode())
    device = parse_device(answer, {states[3].public_key, KEY})
    assert device.public_key == b"" and device.peers == {states[3].public_key: states[3]}


@given(st.binary(min_size=32, max_size=32))
def test_keys_go_to_hex_and_back(key: bytes) -> None:
    place, back = bytearray(70), bytearray(32)
    encode_key(memoryview(key), memoryview(place), 3)
    assert place[3:67] == key.hex().encode() and place[:3] + place[67:] == bytes(6)
    decode_key(memoryview(place), 3, memoryview(back))
    assert back == key


def test_a_set_operation_has_holes_for_its_psks() -> None:
    state = PeerState(KEY, secret(1), "192.0.2.1:5", 17, 9, 1, 2, (AllowedIp(b"\x0a\0\0\0", 8),))
    changes = [set_psk(OTHER, secret(0xEE)), *remove_and_add(state, secret(0xDD)), set_keepalive(OTHER, 0)]
    text, holes = build_set(changes)
    assert b"ee" * 8 not in text and b"dd" * 8 not in text
    filled = bytearray(text)
    for offset, psk in holes:
        with psk.expose() as view:
            encode_key(view, memoryview(filled), offset)
    assert bytes(filled).decode() == (
        f"set=1\npublic_key={OTHER.hex()}\nupdate_only=true\npreshared_key={'ee' * 32}\n"
        f"public_key={KEY.hex()}\nremove=true\n"
        f"public_key={KEY.hex()}\npreshared_key={'dd' * 32}\nendpoint=192.0.2.1:5\npersistent_keepalive_interval=17\n"
        "replace_allowed_ips=true\nallowed_ip=10.0.0.0/8\n"
        f"public_key={OTHER.hex()}\nupdate_only=true\npersistent_keepalive_interval=0\n\n"
    )


def test_an_update_of_nothing_is_still_an_update() -> None:
    assert build_set([PeerChange(KEY)])[0] == f"set=1\npublic_key={KEY.hex()}\nupdate_only=true\n\n".encode()


SAMPLE = (f"private_key={'11' * 32}\n" + text_of(PeerState(KEY, secret(1), "192.0.2.1:5", 17, 9, 1, 2, ()))).encode()


@settings(max_examples=300)
@given(st.data())
def test_mutated_answers_are_at_most_a_host_error(data: st.DataObject) -> None:
    raw = bytearray(SAMPLE + text_of(PeerState(OTHER, secret(2), "", 0, 0, 0, 0, ())).encode())
    for _ in range(data.draw(st.integers(1, 8))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    try:
        parse_device(memoryview(bytes(raw[: data.draw(st.integers(0, len(raw)))])), {KEY, OTHER})
    except HostError as error:
        assert error.code == "host.uapi" and "11" * 8 not in str(error)


@given(st.binary(max_size=300))
def test_random_bytes_are_at_most_a_host_error(raw: bytes) -> None:
    answer = f"public_key={KEY.hex()}\n".encode() + raw
    try:
        parse_device(memoryview(answer), {KEY})
    except HostError as error:
        assert error.code == "host.uapi"


@pytest.mark.parametrize(
    "line",
    [
        "preshared_key=11",
        f"preshared_key={'zz' * 32}",
        "rx_bytes=-1",
        f"tx_bytes={'9' * 21}",
        "allowed_ip=x",
        "public_key=1",
        "no",
    ],
)
def test_a_line_that_makes_no_sense_is_an_error(line: str) -> None:
    with pytest.raises(HostError):
        parse_device(memoryview(f"public_key={KEY.hex()}\n{line}\n".encode()), {KEY})
