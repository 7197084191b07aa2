"""Numbers and structures of NETLINK_XFRM (linux/xfrm.h; net/xfrm/xfrm_user.c of the kernel).

All numbers are in host byte order except SPIs, ports and addresses. An address takes 16 bytes; one of IPv4 stands in
the first four. Sizes are those of a 64-bit kernel; the padding at the end is written out.
"""

import struct
from typing import Final

from qhybridd.netlink.xfrm_records import Cipher

NETLINK_XFRM: Final = 6
IPPROTO_ESP: Final = 50

# ---- messages

MSG_NEWSA: Final = 0x10
MSG_DELSA: Final = 0x11
MSG_GETSA: Final = 0x12
MSG_NEWPOLICY: Final = 0x13
MSG_DELPOLICY: Final = 0x14
MSG_GETPOLICY: Final = 0x15
MSG_ALLOCSPI: Final = 0x16
MSG_ACQUIRE: Final = 0x17
MSG_EXPIRE: Final = 0x18
MSG_UPDPOLICY: Final = 0x19
MSG_UPDSA: Final = 0x1A
MSG_POLEXPIRE: Final = 0x1B
MSG_FLUSHSA: Final = 0x1C
MSG_FLUSHPOLICY: Final = 0x1D

# ---- attributes

ATTR_ALG_AUTH: Final = 1
ATTR_ALG_CRYPT: Final = 2
ATTR_ENCAP: Final = 4
ATTR_TMPL: Final = 5
ATTR_SA: Final = 6
ATTR_POLICY: Final = 7
ATTR_POLICY_TYPE: Final = 16
ATTR_ALG_AEAD: Final = 18
ATTR_ALG_AUTH_TRUNC: Final = 20
ATTR_MARK: Final = 21
ATTR_REPLAY_ESN_VAL: Final = 23
ATTR_PROTO: Final = 25
ATTR_OFFLOAD_DEV: Final = 28
ATTR_IF_ID: Final = 31

# ---- groups of events

GROUP_ACQUIRE: Final = 1
GROUP_EXPIRE: Final = 2
GROUP_SA: Final = 3
GROUP_POLICY: Final = 4

# ---- values

INFINITE: Final = (1 << 64) - 1
"""XFRM_INF: no limit of bytes or packets. 0 would be reached at once; of seconds, 0 is none."""
ALL_ALGORITHMS: Final = 0xFFFFFFFF
EXACT_MARK: Final = 0xFFFFFFFF
POLICY_ALLOW: Final = 0
POLICY_BLOCK: Final = 1
POLICY_TYPE_MAIN: Final = 0
STATE_AF_UNSPEC: Final = 32
"""The packets inside may be of another family than the outer ones; only with tunnel mode."""
STATE_ESN: Final = 128
UDP_ENCAP_ESPINUDP: Final = 2
"""linux/udp.h"""
OFFLOAD_INBOUND: Final = 2
MAX_REPLAY_WINDOW: Final = 4096
"""XFRMA_REPLAY_ESN_MAX, in packets."""
REPLAY_WINDOWS: Final = tuple(1 << bits for bits in range(MAX_REPLAY_WINDOW.bit_length()))
"""Powers of two only. The kernel finds a packet's bit as its number modulo the window, and computes "the number before
0" in 32 bits (`xfrm_replay_advance_esn`, net/xfrm/xfrm_replay.c): unless the window divides 2^32, the bits of the first
packet, and of all in the window when the low half wraps, stand in the wrong place, and replays of these are taken."""

# ---- structures

ADDRESS_BYTES: Final = 16
SELECTOR: Final = struct.Struct("=16s16s2s2s2s2sHBBB3xiI")
"""struct xfrm_selector: destination, source, ports with masks (destination first), family, prefix lengths (destination
first), protocol, interface, user."""
ID: Final = struct.Struct("=16s4sB3x")
"""struct xfrm_id: destination, SPI, protocol."""
SA_INFO: Final = struct.Struct("=56s24s16s8Q4Q3IIIHBBB7x")
"""struct xfrm_usersa_info: selector, id, source, 8 limits (soft and hard: bytes, packets, seconds since it was added,
seconds since its first use), bytes, packets, time added, time used, 3 statistics, sequence, reqid, family, mode, replay
window, flags."""
SA_ID: Final = struct.Struct("=16s4sHBx")
"""struct xfrm_usersa_id: destination, SPI, family, protocol."""
SPI_RANGE: Final = struct.Struct("=II")
"""What follows xfrm_usersa_info in struct xfrm_userspi_info."""
POLICY_INFO: Final = struct.Struct("=56s8Q4QIIBBBB4x")
"""struct xfrm_userpolicy_info: selector, 8 limits, 4 counts, priority, index, direction, action, flags, share."""
POLICY_ID: Final = struct.Struct("=56sIB3x")
"""struct xfrm_userpolicy_id: selector, index, direction."""
TEMPLATE: Final = struct.Struct("=24sH2x16sIBBBxIII")
"""struct xfrm_user_tmpl: id, family, source, reqid, mode, share, optional, and three sets of algorithms."""
ACQUIRE: Final = struct.Struct("=24s16s56s168sIIII")
"""struct xfrm_user_acquire: id, source, selector, policy, three sets of algorithms, sequence."""
EXPIRE: Final = struct.Struct("=224sB7x")
"""struct xfrm_user_expire: xfrm_usersa_info, hard."""
POLICY_EXPIRE: Final = struct.Struct("=168sB7x")
"""struct xfrm_user_polexpire: xfrm_userpolicy_info, hard."""
FLUSH_SA: Final = struct.Struct("=B")
"""struct xfrm_usersa_flush: protocol."""
AEAD: Final = struct.Struct("=64sII")
"""struct xfrm_algo_aead: name, bits of the key with its salt, bits of the ICV; the key follows."""
ALGORITHM_NAME_BYTES: Final = 64
ESN: Final = struct.Struct("=IIIIII")
"""struct xfrm_replay_state_esn: 32-bit words of the bitmap, two numbers sent and seen with their upper halves behind
(sent, seen, sent high, seen high), window; the bitmap follows."""
ENCAP: Final = struct.Struct("=H2s2s2x16s")
"""struct xfrm_encap_tmpl: type, source port, destination port, original address."""
MARK: Final = struct.Struct("=II")
"""struct xfrm_mark: value, mask."""
OFFLOAD: Final = struct.Struct("=iB3x")
"""struct xfrm_user_offload: interface, flags."""
POLICY_TYPE: Final = struct.Struct("=BxHBx")
"""struct xfrm_userpolicy_type: type; the rest is reserved."""

# ---- algorithms

KEY_BYTES: Final = 36
"""Key of 32 bytes and salt of 4 (RFC 4106 section 8.1, RFC 7634 section 2): the same for both ciphers."""
ICV_BITS: Final = 128
CIPHER_NAMES: Final[dict[Cipher, str]] = {
    Cipher.AES_256_GCM: "rfc4106(gcm(aes))",
    Cipher.CHACHA20_POLY1305: "rfc7539esp(chacha20,poly1305)",
}
