"""Two gateways whose XFRM is used through the codec, and what `ip` says of an association."""

from ipaddress import ip_address
from pathlib import Path

from qhybridd.netlink.xfrm import XfrmSocket
from qhybridd.netlink.xfrm_layout import CIPHER_NAMES
from qhybridd.netlink.xfrm_records import Address, Cipher, Mode, SecurityAssociation
from qhybridd.secret import Secret
from tests.netns.namespaces import Lab, inside

REQID = 0x51000001
KEY = bytes(range(1, 37))
ADDRESSES: dict[int, tuple[Address, Address]] = {
    4: (ip_address("192.0.2.1"), ip_address("192.0.2.2")),
    6: (ip_address("2001:db8::1"), ip_address("2001:db8::2")),
}
INNER = {4: ("10.1.0.1", "10.2.0.1"), 6: ("fd00:1::1", "fd00:2::1")}
PLAIN = SecurityAssociation(*ADDRESSES[4], 0x1000, REQID, Mode.TUNNEL, Cipher.AES_256_GCM, 64, 600)


class World:
    """Two gateways, a cable between them, an address behind each, and a socket to the XFRM of either."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        lab.add("a", "b")
        ends = [(side, "under0", (f"192.0.2.{n}/24", f"2001:db8::{n}/64")) for side, n in (("a", 1), ("b", 2))]
        lab.veth(ends[0], ends[1])
        for here, side in enumerate("ab"):
            for version in (4, 6):
                lab.ip(side, "address", "add", INNER[version][here], "dev", "lo")
                self.route(side, version)
        self.xfrm = {}
        for side in "ab":
            with inside(lab.name(side)):
                self.xfrm[side] = XfrmSocket()

    def route(self, side: str, version: int) -> None:
        """What is behind the other gateway is reached over the cable."""
        here, there = (0, 1) if side == "a" else (1, 0)
        near, far = INNER[version][here], INNER[version][there]
        self.lab.ip(side, "route", "add", far, "via", str(ADDRESSES[version][there]), "src", near)

    def close(self) -> None:
        for xfrm in self.xfrm.values():
            xfrm.close()

    def shown(self, side: str) -> str:
        """`ip -s xfrm state` in one line of words."""
        return " ".join(self.lab.run(side, "ip", "-s", "xfrm", "state", "show").split())

    def errors(self, side: str, name: str) -> int:
        """One count of /proc/net/xfrm_stat."""
        with inside(self.lab.name(side)):
            text = Path("/proc/thread-self/net/xfrm_stat").read_text()
        return next(int(line.split()[1]) for line in text.splitlines() if line.split()[0] == name)


def secret(key: bytes = KEY) -> Secret:
    return Secret.adopt(key)


def described(sa: SecurityAssociation) -> str:
    """What `ip -s xfrm state` says of a new association, up to the numbers of its life."""
    flags = "af-unspec esn (0x10100000)" if sa.mode is Mode.TUNNEL else "esn (0x10000000)"
    any_address = "::" if sa.source.version == 6 else "0.0.0.0"
    words = (sa.replay_window + 31) // 32
    encapsulation = f"encap type espinudp sport {sa.encapsulation} dport {sa.encapsulation} addr {any_address} "
    anything = f"sel src {any_address}/0 dst {any_address}/0 uid 0 "
    return (
        f"src {sa.source} dst {sa.destination} proto esp spi {sa.spi:#010x}({sa.spi}) "
        f"reqid {sa.reqid}({sa.reqid:#010x}) mode {sa.mode.name.lower()} replay-window 0 seq 0x00000000 flag {flags} "
        f"aead {CIPHER_NAMES[sa.cipher]} 0x{KEY.hex()} (288 bits) 128 "
        + (encapsulation if sa.encapsulation else "")
        + "anti-replay esn context: seq-hi 0x0, seq 0x0, oseq-hi 0x0, oseq 0x0 "
        f"replay_window {sa.replay_window}, bitmap-length {words} {'00000000 ' * words}"
        + (f"if_id {sa.if_id:#x} " if sa.if_id else "")
        + ("" if sa.mode is Mode.TUNNEL else anything)
        + "lifetime config: limit: soft (INF)(bytes), hard (INF)(bytes) limit: soft (INF)(packets), "
        f"hard (INF)(packets) expire add: soft 0(sec), hard {sa.hard_expiry_s}(sec) "
        "expire use: soft 0(sec), hard 0(sec) lifetime current: 0(bytes), 0(packets)"
    )
