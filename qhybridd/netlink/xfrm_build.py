"""Requests of NETLINK_XFRM as bytes. A key is not in them: it goes into its hole later, in locked memory."""

import socket
import sys
from dataclasses import dataclass
from typing import Final

from qhybridd.errors import ProgramError
from qhybridd.netlink.attributes import ATTRIBUTE, attribute
from qhybridd.netlink.xfrm_layout import (
    ADDRESS_BYTES,
    AEAD,
    ALL_ALGORITHMS,
    ATTR_ALG_AEAD,
    ATTR_ENCAP,
    ATTR_IF_ID,
    ATTR_MARK,
    ATTR_OFFLOAD_DEV,
    ATTR_REPLAY_ESN_VAL,
    ATTR_TMPL,
    CIPHER_NAMES,
    ENCAP,
    ESN,
    EXACT_MARK,
    ICV_BITS,
    ID,
    INFINITE,
    IPPROTO_ESP,
    KEY_BYTES,
    MARK,
    OFFLOAD,
    OFFLOAD_INBOUND,
    POLICY_ALLOW,
    POLICY_BLOCK,
    POLICY_ID,
    POLICY_INFO,
    REPLAY_WINDOWS,
    SA_ID,
    SA_INFO,
    SELECTOR,
    SPI_RANGE,
    STATE_AF_UNSPEC,
    STATE_ESN,
    TEMPLATE,
    UDP_ENCAP_ESPINUDP,
)
from qhybridd.netlink.xfrm_records import (
    SPI_LEAST,
    SPI_MOST,
    Address,
    Mode,
    SaId,
    SecurityAssociation,
    SecurityPolicy,
    Selector,
    Template,
)


@dataclass(frozen=True, slots=True)
class Keyed:
    """The payload of a request, with zeros where the key goes."""

    data: bytes
    hole: int
    """Offset of the key, `KEY_BYTES` long."""


def family_of(address: Address) -> int:
    """AF_INET or AF_INET6."""
    return socket.AF_INET if address.version == 4 else socket.AF_INET6


def pack_address(address: Address) -> bytes:
    """16 bytes; IPv4 in the first four."""
    return address.packed.ljust(ADDRESS_BYTES, b"\0")


def pack_selector(selector: Selector) -> bytes:
    """struct xfrm_selector. Raises `ProgramError` for prefixes of two families."""
    if selector.source.version != selector.destination.version:
        raise ProgramError("program.argument", "a selector of two address families")
    return SELECTOR.pack(
        pack_address(selector.destination.network_address),
        pack_address(selector.source.network_address),
        *_pack_port(selector.destination_port),
        *_pack_port(selector.source_port),
        family_of(selector.source.network_address),
        selector.destination.prefixlen,
        selector.source.prefixlen,
        selector.protocol,
        0,
        0,
    )


def _pack_port(port: int) -> tuple[bytes, bytes]:
    """Port and mask."""
    return _port(port), b"\xff\xff" if port else b"\0\0"


def _port(port: int) -> bytes:
    if not 0 <= port < 1 << 16:
        raise ProgramError("program.argument", f"no port is {port}")
    return port.to_bytes(2, "big")


def _spi(spi: int) -> bytes:
    return spi.to_bytes(4, "big")


def _uint(kind: int, value: int) -> bytes:
    return attribute(kind, value.to_bytes(4, sys.byteorder))


NO_LIMITS: Final = (INFINITE, INFINITE, INFINITE, INFINITE, 0, 0, 0, 0)


# ---- security associations


def pack_sa_id(sa: SaId) -> bytes:
    """struct xfrm_usersa_id: what `get` and `delete` name an association by."""
    return SA_ID.pack(pack_address(sa.destination), _spi(sa.spi), family_of(sa.destination), IPPROTO_ESP)


def _pack_sa_info(sa: SecurityAssociation, spi: int) -> bytes:
    if sa.source.version != sa.destination.version:
        raise ProgramError("program.argument", "an association between two address families")
    bytes_and_packets = (INFINITE, INFINITE, INFINITE, INFINITE)
    seconds = (0, sa.hard_expiry_s, 0, 0)  # soft and hard since it was added, soft and hard since it was first used
    # a selector of zeros fits every packet: the policies choose, as RFC 4301 section 4.4.1 wants
    flags = STATE_ESN | (STATE_AF_UNSPEC if sa.mode is Mode.TUNNEL else 0)
    return SA_INFO.pack(
        bytes(SELECTOR.size),
        ID.pack(pack_address(sa.destination), _spi(spi), IPPROTO_ESP),
        pack_address(sa.source),
        *bytes_and_packets,
        *seconds,
        *(0, 0, 0, 0),  # counts so far
        *(0, 0, 0),  # statistics
        0,  # sequence of an acquire
        sa.reqid,
        family_of(sa.destination),
        sa.mode,
        0,  # the window stands in XFRMA_REPLAY_ESN_VAL
        flags,
    )


def build_alloc_spi(sa: SecurityAssociation, low: int, high: int) -> bytes:
    """struct xfrm_userspi_info and attributes: an SPI for packets to `sa.destination`. Raises `ProgramError`."""
    if not SPI_LEAST <= low <= high <= SPI_MOST:
        raise ProgramError("program.argument", f"no SPIs are {low:#x} to {high:#x}")
    return _pack_sa_info(sa, 0) + SPI_RANGE.pack(low, high) + _if_id(sa.if_id)


def build_sa(sa: SecurityAssociation, offload_index: int, *, inbound: bool) -> Keyed:
    """struct xfrm_usersa_info and attributes. Raises `ProgramError` for values that ESP cannot have.

    `offload_index` is that of the device named by `sa.offload`, 0 for none; only offload asks for the direction.
    """
    if not SPI_LEAST <= sa.spi <= SPI_MOST:
        raise ProgramError("program.argument", f"no SPI is {sa.spi:#x}")
    if sa.replay_window not in REPLAY_WINDOWS:
        raise ProgramError("program.argument", f"no replay window has {sa.replay_window} packets")
    if not 0 <= sa.hard_expiry_s < 1 << 32:
        raise ProgramError("program.argument", f"no lifetime is {sa.hard_expiry_s} s")
    algorithm = AEAD.pack(CIPHER_NAMES[sa.cipher].encode(), 8 * KEY_BYTES, ICV_BITS)
    info = _pack_sa_info(sa, sa.spi)
    data = info + attribute(ATTR_ALG_AEAD, algorithm + bytes(KEY_BYTES)) + _esn(sa.replay_window)
    if sa.encapsulation:
        port = _port(sa.encapsulation)
        data += attribute(ATTR_ENCAP, ENCAP.pack(UDP_ENCAP_ESPINUDP, port, port, bytes(ADDRESS_BYTES)))
    if offload_index:
        data += attribute(ATTR_OFFLOAD_DEV, OFFLOAD.pack(offload_index, OFFLOAD_INBOUND if inbound else 0))
    return Keyed(data + _if_id(sa.if_id), len(info) + ATTRIBUTE.size + AEAD.size)


def _esn(window: int) -> bytes:
    """Counters at zero, and a bitmap that holds the window."""
    words = (window + 31) // 32
    return attribute(ATTR_REPLAY_ESN_VAL, ESN.pack(words, 0, 0, 0, 0, window) + bytes(4 * words))


def _if_id(if_id: int) -> bytes:
    return _uint(ATTR_IF_ID, if_id) if if_id else b""


# ---- policies


def build_policy(policy: SecurityPolicy) -> bytes:
    """struct xfrm_userpolicy_info and attributes. Raises `ProgramError` for a record that says what it cannot."""
    if policy.foreign or (policy.block and policy.template is not None):
        raise ProgramError("program.argument", "a policy that cannot be written")
    info = POLICY_INFO.pack(
        pack_selector(policy.selector),
        *NO_LIMITS,
        *(0, 0, 0, 0),
        policy.priority,
        0,
        policy.direction,
        POLICY_BLOCK if policy.block else POLICY_ALLOW,
        0,
        0,
    )
    template = b"" if policy.template is None else attribute(ATTR_TMPL, _pack_template(policy.template))
    return info + template + _mark(policy.mark) + _if_id(policy.if_id)


def build_policy_id(policy: SecurityPolicy) -> bytes:
    """struct xfrm_userpolicy_id and attributes: what names a policy are direction, selector, mark and `if_id`."""
    name = POLICY_ID.pack(pack_selector(policy.selector), 0, policy.direction)
    return name + _mark(policy.mark) + _if_id(policy.if_id)


def _mark(mark: int) -> bytes:
    return attribute(ATTR_MARK, MARK.pack(mark, EXACT_MARK)) if mark else b""


def _pack_template(template: Template) -> bytes:
    if template.source.version != template.destination.version:
        raise ProgramError("program.argument", "a template of two address families")
    return TEMPLATE.pack(
        ID.pack(pack_address(template.destination), _spi(template.spi), IPPROTO_ESP),
        family_of(template.destination),
        pack_address(template.source),
        template.reqid,
        template.mode,
        0,  # XFRM_SHARE_ANY
        0,  # required, not optional
        ALL_ALGORITHMS,
        ALL_ALGORITHMS,
        ALL_ALGORITHMS,
    )
