"""The codec of NETLINK_XFRM: its layouts are the C header's, requests read back, and no bytes do harm."""

import re
import shutil
import struct
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import replace
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qhybridd.errors import ProgramError
from qhybridd.netlink import xfrm_layout as layout
from qhybridd.netlink.attributes import attribute, walk
from qhybridd.netlink.xfrm_build import (
    Keyed,
    build_alloc_spi,
    build_policy,
    build_policy_id,
    build_sa,
    pack_sa_id,
    pack_selector,
)
from qhybridd.netlink.xfrm_parse import SaHead, parse_policy, parse_sa, read_sa_id
from qhybridd.netlink.xfrm_records import (
    SPI_LEAST,
    SPI_MOST,
    Address,
    Cipher,
    Direction,
    Mode,
    Prefix,
    SaId,
    SaState,
    SecurityAssociation,
    SecurityPolicy,
    Selector,
    Template,
)
from qhybridd.secret import Secret

KEY = bytes(range(1, 37))
SA = SecurityAssociation(
    ip_address("192.0.2.1"), ip_address("192.0.2.2"), 0x1234, 0x51000001, Mode.TUNNEL, Cipher.AES_256_GCM, 1024, 300
)
SELECTOR = Selector(IPv4Network("10.1.0.0/16"), IPv4Network("10.2.0.0/16"))
TEMPLATE = Template(SA.source, SA.destination, SA.reqid, Mode.TUNNEL, SA.spi)
POLICY = SecurityPolicy(Direction.OUT, SELECTOR, 100, TEMPLATE)


# ---- the layouts are those of the header


def c_layouts(tmp_path: Path, fields: Mapping[str, Sequence[str]]) -> dict[str, int]:
    """Size of each struct and offset of each field as the compiler lays linux/xfrm.h out."""
    lines = [f'printf("{name} %zu\\n", sizeof(struct {name}));' for name in fields]
    for name, members in fields.items():
        lines += [f'printf("{name}.{member} %zu\\n", offsetof(struct {name}, {member}));' for member in members]
    source = tmp_path / "layout.c"
    source.write_text(
        "#include <stddef.h>\n#include <stdio.h>\n#include <linux/xfrm.h>\nint main(void) {\n"
        + "\n".join(lines)
        + "\nreturn 0; }\n"
    )
    subprocess.run([str(COMPILER), "-o", str(tmp_path / "layout"), str(source)], check=True)
    done = subprocess.run([str(tmp_path / "layout")], capture_output=True, text=True, check=True)
    return {name: int(size) for name, size in (line.split() for line in done.stdout.splitlines())}


COMPILER = shutil.which("cc")
HEADER = Path("/usr/include/linux/xfrm.h")
needs_header = pytest.mark.skipif(not COMPILER or not HEADER.exists(), reason="no C compiler or no kernel headers")

LIFETIME = (
    "lft.soft_byte_limit lft.hard_byte_limit lft.soft_packet_limit lft.hard_packet_limit "
    "lft.soft_add_expires_seconds lft.hard_add_expires_seconds lft.soft_use_expires_seconds "
    "lft.hard_use_expires_seconds curlft.bytes curlft.packets curlft.add_time curlft.use_time"
)
STATISTICS = "stats.replay_window stats.replay stats.integrity_failed"
LAYOUTS: dict[str, tuple[struct.Struct, str]] = {
    "xfrm_selector": (
        layout.SELECTOR,
        "daddr saddr dport dport_mask sport sport_mask family prefixlen_d prefixlen_s proto ifindex user",
    ),
    "xfrm_id": (layout.ID, "daddr spi proto"),
    "xfrm_usersa_info": (
        layout.SA_INFO,
        f"sel id saddr {LIFETIME} {STATISTICS} seq reqid family mode replay_window flags",
    ),
    "xfrm_usersa_id": (layout.SA_ID, "daddr spi family proto"),
    "xfrm_userpolicy_info": (layout.POLICY_INFO, f"sel {LIFETIME} priority index dir action flags share"),
    "xfrm_userpolicy_id": (layout.POLICY_ID, "sel index dir"),
    "xfrm_user_tmpl": (layout.TEMPLATE, "id family saddr reqid mode share optional aalgos ealgos calgos"),
    "xfrm_user_acquire": (layout.ACQUIRE, "id saddr sel policy aalgos ealgos calgos seq"),
    "xfrm_user_expire": (layout.EXPIRE, "state hard"),
    "xfrm_user_polexpire": (layout.POLICY_EXPIRE, "pol hard"),
    "xfrm_usersa_flush": (layout.FLUSH_SA, "proto"),
    "xfrm_userpolicy_type": (layout.POLICY_TYPE, "type reserved1 reserved2"),
    "xfrm_algo_aead": (layout.AEAD, "alg_name alg_key_len alg_icv_len"),
    "xfrm_replay_state_esn": (layout.ESN, "bmp_len oseq seq oseq_hi seq_hi replay_window"),
    "xfrm_encap_tmpl": (layout.ENCAP, "encap_type encap_sport encap_dport encap_oa"),
    "xfrm_mark": (layout.MARK, "v m"),
    "xfrm_user_offload": (layout.OFFLOAD, "ifindex flags"),
}


def offsets(layout_of: struct.Struct) -> list[int]:
    """Where each value of a struct stands, in order."""
    found, at = [], 0
    for count, kind in re.findall(r"(\d*)([a-zA-Z])", layout_of.format.lstrip("=")):
        size = struct.calcsize(f"={kind}")
        if kind == "s":
            found.append(at)
            at += int(count or 1)
        elif kind == "x":
            at += int(count or 1)
        else:
            for _ in range(int(count or 1)):
                found.append(at)
                at += size
    return found


@needs_header
def test_every_structure_is_the_headers(tmp_path: Path) -> None:
    members = {name: words.split() for name, (_, words) in LAYOUTS.items()}
    theirs = c_layouts(tmp_path, members | {"xfrm_userspi_info": ["min", "max"]})
    for name, (ours, _) in LAYOUTS.items():
        assert ours.size == theirs[name], name
        assert offsets(ours) == [theirs[f"{name}.{member}"] for member in members[name]], name
    assert theirs["xfrm_userspi_info"] == layout.SA_INFO.size + layout.SPI_RANGE.size
    assert theirs["xfrm_userspi_info.min"] == layout.SA_INFO.size


@needs_header
def test_every_number_is_the_headers(tmp_path: Path) -> None:
    names = {name: value for name, value in vars(layout).items() if name.startswith(("MSG_", "ATTR_", "GROUP_"))}
    prefixes = {"MSG_": "XFRM_MSG_", "ATTR_": "XFRMA_", "GROUP_": "XFRMNLGRP_"}
    theirs = {}
    for name in names:
        head, tail = name.split("_", 1)
        theirs[name] = prefixes[f"{head}_"] + tail
    theirs |= {
        "STATE_AF_UNSPEC": "XFRM_STATE_AF_UNSPEC",
        "STATE_ESN": "XFRM_STATE_ESN",
        "OFFLOAD_INBOUND": "XFRM_OFFLOAD_INBOUND",
        "MAX_REPLAY_WINDOW": "XFRMA_REPLAY_ESN_MAX",
        "POLICY_BLOCK": "XFRM_POLICY_BLOCK",
    }
    source = tmp_path / "numbers.c"
    checks = "\n".join(f'_Static_assert({theirs[name]} == {getattr(layout, name)}, "{name}");' for name in theirs)
    source.write_text(f"#include <linux/xfrm.h>\n{checks}\n")
    done = subprocess.run([str(COMPILER), "-fsyntax-only", str(source)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert len(theirs) > 30


# ---- what is built reads back

ports = st.integers(0, 65535)
families = st.sampled_from((4, 6))


def addresses(version: int) -> st.SearchStrategy[Address]:
    return st.ip_addresses(v=version)  # type: ignore[arg-type]


def prefixes(version: int) -> st.SearchStrategy[Prefix]:
    bits = 32 if version == 4 else 128
    return st.builds(
        lambda address, length: ip_network((address, length), strict=False),
        addresses(version),
        st.integers(0, bits),
    )


def associations(version: int) -> st.SearchStrategy[SecurityAssociation]:
    return st.builds(
        SecurityAssociation,
        source=addresses(version),
        destination=addresses(version),
        spi=st.integers(SPI_LEAST, SPI_MOST),
        reqid=st.integers(0, (1 << 32) - 1),
        mode=st.sampled_from(Mode),
        cipher=st.sampled_from(Cipher),
        replay_window=st.sampled_from(layout.REPLAY_WINDOWS),
        hard_expiry_s=st.integers(0, (1 << 32) - 1),
        if_id=st.integers(0, (1 << 32) - 1),
        encapsulation=ports,
    )


def policies(version: int, inner: int) -> st.SearchStrategy[SecurityPolicy]:
    template = st.builds(
        Template,
        source=addresses(version),
        destination=addresses(version),
        reqid=st.integers(0, (1 << 32) - 1),
        mode=st.sampled_from(Mode),
        spi=st.integers(0, SPI_MOST),
    )
    selector = st.builds(Selector, prefixes(inner), prefixes(inner), st.integers(0, 255), ports, ports)
    policy = st.builds(
        SecurityPolicy,
        direction=st.sampled_from(Direction),
        selector=selector,
        priority=st.integers(0, (1 << 32) - 1),
        template=st.none() | template,
        if_id=st.integers(0, (1 << 32) - 1),
        mark=st.integers(0, (1 << 32) - 1),
    )
    return st.tuples(policy, st.booleans()).map(lambda pair: replace(pair[0], block=pair[1] and not pair[0].template))


def with_key(built: Keyed, key: bytes = KEY) -> bytes:
    assert built.data[built.hole : built.hole + layout.KEY_BYTES] == bytes(layout.KEY_BYTES)
    return built.data[: built.hole] + key + built.data[built.hole + layout.KEY_BYTES :]


def read_sa(payload: bytes, *, key: bool = True) -> SaState:
    state = parse_sa(memoryview(payload), 0, len(payload), with_key=key)
    assert state is not None
    return state


@given(families.flatmap(associations), st.integers(0, (1 << 31) - 1), st.booleans())
def test_an_association_reads_back(sa: SecurityAssociation, device: int, inbound: bool) -> None:
    state = read_sa(with_key(build_sa(sa, device, inbound=inbound)))
    assert state == SaState(
        id=sa.id,
        source=sa.source,
        reqid=sa.reqid,
        mode=sa.mode,
        valid=True,
        if_id=sa.if_id,
        packets=0,
        bytes=0,
        cipher=layout.CIPHER_NAMES[sa.cipher],
        key=Secret.adopt(KEY),
        replay_window=sa.replay_window,
        encapsulation=sa.encapsulation,
        offload_index=device,
    )
    assert read_sa_id(memoryview(pack_sa_id(sa.id)), 0, layout.SA_ID.size) == sa.id


@given(st.tuples(families, families).flatmap(lambda pair: policies(*pair)))
def test_a_policy_reads_back(policy: SecurityPolicy) -> None:
    payload = build_policy(policy)
    assert parse_policy(memoryview(payload), 0, len(payload)) == policy


def test_counts_are_read_and_a_key_only_where_asked_for() -> None:
    payload = bytearray(with_key(build_sa(SA, 0, inbound=True)))
    struct.pack_into("=QQ", payload, 160, 700, 9)
    state = read_sa(bytes(payload), key=False)
    assert (state.bytes, state.packets, state.key) == (700, 9, None)


def test_a_key_that_a_kernel_in_lockdown_does_not_tell_is_none() -> None:
    assert read_sa(with_key(build_sa(SA, 0, inbound=True), bytes(36))).key is None


def test_lifetimes_and_flags_stand_where_they_belong() -> None:
    fields = layout.SA_INFO.unpack_from(build_sa(SA, 0, inbound=True).data)
    assert fields[3:7] == (layout.INFINITE,) * 4, "a limit of 0 bytes or packets is reached at once"
    assert fields[7:11] == (0, 300, 0, 0)
    assert fields[22:24] == (0, layout.STATE_ESN | layout.STATE_AF_UNSPEC)
    assert layout.SA_INFO.unpack_from(build_sa(replace(SA, mode=Mode.TRANSPORT), 0, inbound=True).data)[23] == 128
    assert layout.POLICY_INFO.unpack_from(build_policy(POLICY))[1:9] == (layout.INFINITE,) * 4 + (0,) * 4


@pytest.mark.parametrize(("window", "words"), [(1, 1), (32, 1), (64, 2), (1024, 32), (4096, 128)])
def test_the_bitmap_holds_the_window(window: int, words: int) -> None:
    data = memoryview(build_sa(replace(SA, replay_window=window), 0, inbound=True).data)
    (esn,) = (item for item in walk(data, layout.SA_INFO.size, len(data)) if item.kind == layout.ATTR_REPLAY_ESN_VAL)
    assert layout.ESN.unpack_from(data, esn.start) == (words, 0, 0, 0, 0, window)
    assert esn.end - esn.start == layout.ESN.size + 4 * words


def test_offload_tells_the_direction() -> None:
    for inbound, flags in ((True, layout.OFFLOAD_INBOUND), (False, 0)):
        data = memoryview(build_sa(SA, 7, inbound=inbound).data)
        (item,) = (item for item in walk(data, layout.SA_INFO.size, len(data)) if item.kind == layout.ATTR_OFFLOAD_DEV)
        assert layout.OFFLOAD.unpack_from(data, item.start) == (7, flags)


def test_an_spi_is_asked_for_by_the_association_without_one() -> None:
    payload = build_alloc_spi(replace(SA, if_id=7), 0x1000, 0x2000)
    head = SaHead(memoryview(payload), 0, len(payload))
    assert (head.id, head.source, head.reqid, head.mode) == (SaId(SA.destination, 0), SA.source, SA.reqid, 1)
    assert layout.SPI_RANGE.unpack_from(payload, layout.SA_INFO.size) == (0x1000, 0x2000)
    assert payload[layout.SA_INFO.size + layout.SPI_RANGE.size :] == attribute(31, struct.pack("=I", 7))


def test_a_policys_name_is_all_that_the_kernel_compares() -> None:
    plain = build_policy_id(POLICY)
    assert layout.POLICY_ID.unpack_from(plain) == (pack_selector(SELECTOR), 0, Direction.OUT)
    assert len(plain) == layout.POLICY_ID.size
    assert build_policy_id(replace(POLICY, priority=7, template=None)) == plain
    others = [
        replace(POLICY, direction=Direction.IN),
        replace(POLICY, mark=1),
        replace(POLICY, if_id=1),
        replace(POLICY, selector=replace(SELECTOR, protocol=17)),
    ]
    assert len({plain, *map(build_policy_id, others)}) == 5


@pytest.mark.parametrize(
    "wrong",
    [
        {"spi": 0},
        {"spi": 255},
        {"spi": 1 << 32},
        {"replay_window": 0},
        {"replay_window": 200},
        {"replay_window": 8192},
        {"hard_expiry_s": -1},
        {"hard_expiry_s": 1 << 32},
        {"encapsulation": 1 << 16},
        {"source": ip_address("2001:db8::1")},
    ],
)
def test_an_association_that_cannot_be_is_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(ProgramError):
        build_sa(replace(SA, **wrong), 0, inbound=True)  # type: ignore[arg-type]


@pytest.mark.parametrize("span", [(0, 9), (0x1000, 0xFFF), (0x1000, 1 << 32)])
def test_a_range_of_spis_that_is_none_is_refused(span: tuple[int, int]) -> None:
    with pytest.raises(ProgramError):
        build_alloc_spi(SA, *span)


@pytest.mark.parametrize(
    "wrong",
    [
        replace(POLICY, foreign=True),
        replace(POLICY, block=True),
        replace(POLICY, selector=Selector(SELECTOR.source, IPv6Network("::/0"))),
        replace(POLICY, selector=replace(SELECTOR, source_port=-1)),
        replace(POLICY, template=replace(TEMPLATE, source=ip_address("::1"))),
    ],
)
def test_a_policy_that_cannot_be_is_refused(wrong: SecurityPolicy) -> None:
    with pytest.raises(ProgramError):
        build_policy(wrong)
