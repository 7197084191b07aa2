"""The rules of an XFRM tunnel's chains: what ESP of it passes, and what its outer packets need.

A packet that XFRM will wrap crosses postrouting twice: as it is, with its security associations already chosen, and as
ESP. One that was unwrapped crosses prerouting twice as well. Only the inner one is judged by the live sets; the reqid
tells which tunnel's ESP it is. A packet without ESP is dropped, also while the tunnel is open.

The outer packets come here only where the tunnel protects the other gateway's own address. There, next to ESP itself,
the control channel passes (its sockets carry a mark; what comes in is TCP to this host, and no foreign connection
completes, since its answers have no mark), and the probes that the target sends through a new association before the
tunnel is open.
"""

import socket
from ipaddress import IPv4Address
from typing import Final

from qhybridd.config.records import PROBE_PORT
from qhybridd.guard.names import TABLE, esp_sets, tunnel_chain
from qhybridd.guard.prefixes import GuardedEsp, GuardedTunnel
from qhybridd.netlink.nft_bytecode import (
    BASE_NETWORK,
    BASE_TRANSPORT,
    CMP_NEQ,
    META_L4PROTO,
    META_MARK,
    META_NFPROTO,
    META_OIFKIND,
    META_OIFNAME,
    META_SECPATH,
    NFPROTO_IPV4,
    NFPROTO_IPV6,
    REG_1,
    RTN_LOCAL,
    VERDICT_ACCEPT,
    VERDICT_DROP,
    XFRM_IN,
    XFRM_OUT,
    compare,
    destination_kind,
    lookup,
    mask,
    meta,
    payload,
    verdict,
    xfrm_reqid,
)
from qhybridd.netlink.nft_steps import Operation, interface_key, new_rule, number_key

ESP: Final = 50
"""Protocol number (RFC 4303)."""
XFRM_KIND: Final = interface_key("xfrm")
"""What an XFRM interface is to rtnetlink. One packet comes round again from it, with its ESP; another device that took
the name would send it as it is."""
ACCEPT: Final = verdict(VERDICT_ACCEPT)


def build_esp_out(tunnel: GuardedTunnel, esp: GuardedEsp, mark: int) -> list[Operation]:
    """Rules before the last of the tunnel's outgoing chain. `mark`: SO_MARK of the control sockets, 0 for none."""
    chain = tunnel_chain("out", tunnel.name)

    def rule(comment: str, *expressions: bytes) -> Operation:
        return new_rule(TABLE, chain, comment, *expressions)

    reqid = xfrm_reqid(XFRM_OUT, REG_1)
    own = compare(REG_1, number_key(esp.reqid))
    steps = [rule("open", reqid, lookup(live, REG_1), ACCEPT) for live in esp_sets(tunnel.name)]
    if tunnel.interface:
        device = meta(META_OIFNAME, REG_1) + compare(REG_1, interface_key(tunnel.interface))
        steps.append(rule("comes round again with its ESP", device, is_xfrm_interface(), ACCEPT))
    steps.append(rule("ESP itself", _between(esp, out=True), _wrapped(esp), ACCEPT))
    if mark:
        steps.append(rule("control channel", meta(META_MARK, REG_1), compare(REG_1, number_key(mark)), ACCEPT))
    steps.append(rule("probe", meta(META_MARK, REG_1), own, reqid, own, ACCEPT))
    return steps


def build_esp_in(tunnel: GuardedTunnel, esp: GuardedEsp) -> list[Operation]:
    """Rules before the last of the tunnel's incoming chain."""
    chain = tunnel_chain("in", tunnel.name)

    def rule(comment: str, *expressions: bytes) -> Operation:
        return new_rule(TABLE, chain, comment, *expressions)

    reqid = xfrm_reqid(XFRM_IN, REG_1)
    in_clear = meta(META_SECPATH, REG_1) + compare(REG_1, b"\0")
    local = destination_kind(REG_1) + compare(REG_1, number_key(RTN_LOCAL))
    outer = _between(esp, out=False)
    steps = [rule("open", reqid, lookup(live, REG_1), ACCEPT) for live in esp_sets(tunnel.name)]
    steps.append(rule("ESP itself", in_clear, outer, _wrapped(esp), ACCEPT))
    if esp.encapsulation and isinstance(esp.local, IPv4Address):
        udp = _protocol(socket.IPPROTO_UDP)
        steps.append(rule("rest of a fragmented ESP packet", in_clear, outer, _later_fragment(), udp, ACCEPT))
    control = _from(esp) + _protocol(socket.IPPROTO_TCP)
    steps.append(rule("control channel", in_clear, control, local, ACCEPT))
    probe = _protocol(socket.IPPROTO_UDP) + payload(BASE_TRANSPORT, 2, 2, REG_1) + compare(REG_1, _port(PROBE_PORT))
    own = compare(REG_1, number_key(esp.reqid))
    # Its association counted it already, which is all that a probe is for.
    steps.append(rule("probe", reqid, own, outer, probe, verdict(VERDICT_DROP)))
    return steps


def is_xfrm_interface() -> bytes:
    """Matches a packet that leaves by a device of this kind, whatever its name."""
    return meta(META_OIFKIND, REG_1) + compare(REG_1, XFRM_KIND)


def _family(esp: GuardedEsp) -> bytes:
    family = NFPROTO_IPV4 if isinstance(esp.local, IPv4Address) else NFPROTO_IPV6
    return meta(META_NFPROTO, REG_1) + compare(REG_1, bytes((family,)))


def _from(esp: GuardedEsp) -> bytes:
    offset = 12 if isinstance(esp.local, IPv4Address) else 8
    return _family(esp) + _address(offset, esp.remote.packed)


def _between(esp: GuardedEsp, *, out: bool) -> bytes:
    """Matches the outer addresses, in nft's own order, so that it lists them as `ip saddr … ip daddr …`."""
    source, destination = (esp.local, esp.remote) if out else (esp.remote, esp.local)
    first = 12 if isinstance(esp.local, IPv4Address) else 8
    size = len(source.packed)
    return _family(esp) + _address(first, source.packed) + _address(first + size, destination.packed)


def _address(offset: int, packed: bytes) -> bytes:
    return payload(BASE_NETWORK, offset, len(packed), REG_1) + compare(REG_1, packed)


def _protocol(number: int) -> bytes:
    return meta(META_L4PROTO, REG_1) + compare(REG_1, bytes((number,)))


def _port(number: int) -> bytes:
    return number.to_bytes(2, "big")


def _wrapped(esp: GuardedEsp) -> bytes:
    if not esp.encapsulation:
        return _protocol(ESP)
    ports = 2 * _port(esp.encapsulation)
    return _protocol(socket.IPPROTO_UDP) + payload(BASE_TRANSPORT, 0, 4, REG_1) + compare(REG_1, ports)


def _later_fragment() -> bytes:
    """An IPv4 fragment without ports (RFC 791 section 3.1). Alone it is of no use to anybody: what it belongs to is put
    together only with its first one, which has the ports. Over IPv6 outer packets are not fragmented.
    """
    return payload(BASE_NETWORK, 6, 2, REG_1) + mask(REG_1, b"\x1f\xff") + compare(REG_1, b"\0\0", CMP_NEQ)
