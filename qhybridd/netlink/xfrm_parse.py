"""Answers of NETLINK_XFRM, read in place. A key moves from the answer into a `Secret` without a copy in between.

Every length is checked before anything is read; what cannot be is a `HostError` (host.netlink). What other programs
set up and these records cannot say comes out as a record that is marked as foreign.
"""

import socket
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import Final

from qhybridd.netlink.attributes import Attribute, malformed, read_uint, walk
from qhybridd.netlink.xfrm_layout import (
    AEAD,
    ALGORITHM_NAME_BYTES,
    ATTR_ALG_AEAD,
    ATTR_ALG_AUTH,
    ATTR_ALG_AUTH_TRUNC,
    ATTR_ALG_CRYPT,
    ATTR_ENCAP,
    ATTR_IF_ID,
    ATTR_MARK,
    ATTR_OFFLOAD_DEV,
    ATTR_POLICY_TYPE,
    ATTR_REPLAY_ESN_VAL,
    ATTR_TMPL,
    ENCAP,
    ESN,
    EXACT_MARK,
    ID,
    IPPROTO_ESP,
    KEY_BYTES,
    MARK,
    OFFLOAD,
    POLICY_ALLOW,
    POLICY_BLOCK,
    POLICY_INFO,
    POLICY_TYPE,
    POLICY_TYPE_MAIN,
    SA_ID,
    SA_INFO,
    SELECTOR,
    TEMPLATE,
    UDP_ENCAP_ESPINUDP,
)
from qhybridd.netlink.xfrm_records import (
    Address,
    Direction,
    Mode,
    Prefix,
    SaId,
    SaState,
    SecurityPolicy,
    Selector,
    Template,
)
from qhybridd.secret import Secret

MAX_TEMPLATES: Final = 6
"""XFRM_MAX_DEPTH (net/xfrm.h)."""


def read_address(packed: bytes, family: int) -> Address:
    """The address in 16 bytes. Raises `HostError` for another family than IPv4 and IPv6."""
    if family == socket.AF_INET:
        return IPv4Address(packed[:4])
    if family == socket.AF_INET6:
        return IPv6Address(packed)
    raise malformed(f"an address of family {family}")


def read_sa_id(view: memoryview, start: int, end: int) -> SaId | None:
    """struct xfrm_usersa_id; None for another protocol than ESP."""
    if end - start < SA_ID.size:
        raise malformed(f"the name of an association in {end - start} bytes")
    destination, spi, family, protocol = SA_ID.unpack_from(view, start)
    if protocol != IPPROTO_ESP:
        return None
    return SaId(read_address(destination, family), int.from_bytes(spi, "big"))


# ---- security associations


class SaHead:
    """struct xfrm_usersa_info, without what nobody asks for."""

    __slots__ = ("bytes", "id", "mode", "packets", "protocol", "reqid", "source")

    def __init__(self, view: memoryview, start: int, end: int) -> None:
        """Raises `HostError` for fewer bytes than it has, or an unknown family."""
        if end - start < SA_INFO.size:
            raise malformed(f"an association in {end - start} bytes")
        fields = SA_INFO.unpack_from(view, start)
        identity, source = fields[1], fields[2]
        self.bytes, self.packets = int(fields[11]), int(fields[12])
        self.reqid, family, self.mode = int(fields[19]), int(fields[20]), int(fields[21])
        destination, spi, self.protocol = ID.unpack(identity)
        self.id = SaId(read_address(destination, family), int.from_bytes(spi, "big"))
        self.source = read_address(source, family)


def parse_sa(view: memoryview, start: int, end: int, *, with_key: bool) -> SaState | None:
    """An association as NEWSA brings it; None for another protocol than ESP. Its key only where asked for."""
    head = SaHead(view, start, end)
    if head.protocol != IPPROTO_ESP:
        return None
    cipher, key, valid = "", None, False
    if_id = window = encapsulation = offload_index = 0
    for item in walk(view, start + SA_INFO.size, end):
        if item.kind == ATTR_ALG_AEAD:
            cipher, place = _read_aead(view, item)
            valid = True
            key = _take_key(view, place) if with_key else None
        elif item.kind in (ATTR_ALG_CRYPT, ATTR_ALG_AUTH, ATTR_ALG_AUTH_TRUNC):
            valid = True
            cipher = _read_name(view, item) if item.kind == ATTR_ALG_CRYPT else cipher
        elif item.kind == ATTR_IF_ID:
            if_id = read_uint(view, item, 4)
        elif item.kind == ATTR_REPLAY_ESN_VAL:
            window = _read_window(view, item)
        elif item.kind == ATTR_ENCAP:
            encapsulation = _read_encapsulation(view, item)
        elif item.kind == ATTR_OFFLOAD_DEV:
            offload_index = _read_offload(view, item)
    return SaState(
        id=head.id,
        source=head.source,
        reqid=head.reqid,
        mode=head.mode,
        valid=valid,
        if_id=if_id,
        packets=head.packets,
        bytes=head.bytes,
        cipher=cipher,
        key=key,
        replay_window=window,
        encapsulation=encapsulation,
        offload_index=offload_index,
    )


def _read_name(view: memoryview, item: Attribute) -> str:
    if item.end - item.start < ALGORITHM_NAME_BYTES:
        raise malformed("an algorithm without its name")
    name = bytes(view[item.start : item.start + ALGORITHM_NAME_BYTES])
    return name.split(b"\0", 1)[0].decode("utf-8", "replace")


def _read_aead(view: memoryview, item: Attribute) -> tuple[str, Attribute]:
    """Name, and where the key stands."""
    if item.end - item.start < AEAD.size:
        raise malformed("an AEAD without its key")
    bits = AEAD.unpack_from(view, item.start)[1]
    start = item.start + AEAD.size
    if bits % 8 or bits // 8 > item.end - start:
        raise malformed(f"a key of {bits} bits in {item.end - start} bytes")
    return _read_name(view, item), Attribute(item.kind, start, start + bits // 8)


def _take_key(view: memoryview, place: Attribute) -> Secret | None:
    """The key in locked memory. None for one of another size, or zeros: a locked-down kernel does not tell keys."""
    if place.end - place.start != KEY_BYTES:
        return None
    key = Secret(KEY_BYTES)
    with key.expose() as into:
        into[:] = view[place.start : place.end]
    return None if key.is_zero else key


def _read_window(view: memoryview, item: Attribute) -> int:
    if item.end - item.start < ESN.size:
        raise malformed("a replay state that is too short")
    return int(ESN.unpack_from(view, item.start)[5])


def _read_encapsulation(view: memoryview, item: Attribute) -> int:
    """The port at the destination; 0 for another encapsulation than ours."""
    if item.end - item.start < ENCAP.size:
        raise malformed("an encapsulation that is too short")
    kind, source_port, destination_port, _ = ENCAP.unpack_from(view, item.start)
    ours = kind == UDP_ENCAP_ESPINUDP and source_port == destination_port
    return int.from_bytes(destination_port, "big") if ours else 0


def _read_offload(view: memoryview, item: Attribute) -> int:
    if item.end - item.start < OFFLOAD.size:
        raise malformed("an offload that is too short")
    return max(0, int(OFFLOAD.unpack_from(view, item.start)[0]))


# ---- policies


def parse_policy(view: memoryview, start: int, end: int) -> SecurityPolicy | None:
    """A policy as NEWPOLICY brings it; None for those of single sockets and of the sub-policy database.

    `foreign` is set where the record cannot say all of it.
    """
    return parse_policy_parts(view, Attribute(0, start, end), start + POLICY_INFO.size, end)


def parse_policy_parts(view: memoryview, info: Attribute, start: int, end: int) -> SecurityPolicy | None:
    """The same with struct xfrm_userpolicy_info in one place and the attributes in another, as DELPOLICY brings it."""
    if info.end - info.start < POLICY_INFO.size:
        raise malformed(f"a policy in {info.end - info.start} bytes")
    fields = POLICY_INFO.unpack_from(view, info.start)
    priority, _, direction, action, flags, _ = fields[13:]
    if direction > Direction.FORWARD:
        return None  # 3 and above: the policies of sockets (IP_XFRM_POLICY), which are in the same list
    selector, foreign = _read_selector(fields[0])
    foreign |= action not in (POLICY_ALLOW, POLICY_BLOCK) or flags != 0
    if_id = mark = 0
    templates: list[Template | None] = []
    for item in walk(view, start, end):
        if item.kind == ATTR_TMPL:
            templates = _read_templates(view, item)
        elif item.kind == ATTR_IF_ID:
            if_id = read_uint(view, item, 4)
        elif item.kind == ATTR_MARK:
            mark, mask = _read_mark(view, item)
            foreign |= (mark, mask) != (0, 0) and (mask != EXACT_MARK or mark == 0)
        elif item.kind == ATTR_POLICY_TYPE and _read_type(view, item) != POLICY_TYPE_MAIN:
            return None
    block = action == POLICY_BLOCK
    foreign |= len(templates) > 1 or None in templates or (block and bool(templates))
    template = templates[0] if templates and not foreign else None
    return SecurityPolicy(Direction(direction), selector, priority, template, if_id, mark, block, foreign)


def _read_selector(packed: bytes) -> tuple[Selector, bool]:
    """The selector, and whether it says more than the record can."""
    fields = SELECTOR.unpack(packed)
    destination, source, destination_port, destination_mask, source_port, source_mask = fields[:6]
    family, destination_bits, source_bits, protocol, interface, user = fields[6:]
    to, to_exact = _read_prefix(destination, family, destination_bits)
    from_, from_exact = _read_prefix(source, family, source_bits)
    ports_exact = all(
        (port, mask) == (b"\0\0", b"\0\0") or (mask == b"\xff\xff" and port != b"\0\0")
        for port, mask in ((source_port, source_mask), (destination_port, destination_mask))
    )
    ports = int.from_bytes(source_port, "big"), int.from_bytes(destination_port, "big")
    exact = to_exact and from_exact and ports_exact and interface == 0 and user == 0
    return Selector(from_, to, protocol, *ports), not exact


def _read_prefix(packed: bytes, family: int, bits: int) -> tuple[Prefix, bool]:
    """The prefix, and whether the address has no bits outside it (the kernel compares them too)."""
    address = read_address(packed, family)
    if bits > address.max_prefixlen:
        raise malformed(f"a prefix of {bits} bits")
    prefix: Prefix
    if isinstance(address, IPv4Address):
        prefix = IPv4Network((address, bits), strict=False)
    else:
        prefix = IPv6Network((address, bits), strict=False)
    return prefix, prefix.network_address.packed.ljust(len(packed), b"\0") == packed


def _read_templates(view: memoryview, item: Attribute) -> list[Template | None]:
    """Every template; None for one that the record cannot say."""
    count, rest = divmod(item.end - item.start, TEMPLATE.size)
    if rest or count > MAX_TEMPLATES:
        raise malformed(f"templates in {item.end - item.start} bytes")
    return [read_template(view, item.start + at * TEMPLATE.size) for at in range(count)]


def read_template(view: memoryview, at: int) -> Template | None:
    """struct xfrm_user_tmpl; None for another protocol than ESP, an optional one, or another mode than the two."""
    identity, family, source, reqid, mode, share, optional, *_ = TEMPLATE.unpack_from(view, at)
    destination, spi, protocol = ID.unpack(identity)
    if protocol != IPPROTO_ESP or optional or share or mode not in (Mode.TRANSPORT, Mode.TUNNEL):
        return None
    addresses = read_address(source, family), read_address(destination, family)
    return Template(*addresses, reqid, Mode(mode), int.from_bytes(spi, "big"))


def _read_mark(view: memoryview, item: Attribute) -> tuple[int, int]:
    if item.end - item.start != MARK.size:
        raise malformed("a mark that has not 8 bytes")
    value, mask = MARK.unpack_from(view, item.start)
    return value, mask


def _read_type(view: memoryview, item: Attribute) -> int:
    if item.end - item.start < POLICY_TYPE.size:
        raise malformed("a kind of policy that is too short")
    return int(POLICY_TYPE.unpack_from(view, item.start)[0])
