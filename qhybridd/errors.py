"""Errors that say who is to blame, where, and how to mend it.

Every error that an operator or a peer can cause carries a stable code from `CODES`. The code is the name to search
the documentation for (`docs/errors.md`), the hint is the way out. An error text never holds a secret.
"""

from typing import ClassVar, Final, Literal

Blame = Literal["operator", "peer", "host", "program"]

CODES: Final[dict[str, str]] = {}
"""Every code with its default hint. Filled below, one block for each area."""


class QhybriddError(Exception):
    """The root: a stable `code`, a `message` for people, `where` it happened and a `hint` that names the way out."""

    blame: ClassVar[Blame] = "program"

    def __init__(self, code: str, message: str, *, where: str = "", hint: str = "") -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.where = where
        self.hint = hint or CODES.get(code, "")

    def __str__(self) -> str:
        place = f"{self.where}: " if self.where else ""
        return f"{place}{self.message} [{self.code}]"


class OperatorError(QhybriddError):
    """The operator's config, files or command cannot be carried out as they stand."""

    blame = "operator"


class PeerError(QhybriddError):
    """The other end, or somebody between, broke the protocol. Never raised for a mistake of this end."""

    blame = "peer"


class HostError(QhybriddError):
    """The environment refused: the kernel, a device, a socket, a missing tool."""

    blame = "host"


class ProgramError(QhybriddError):
    """This program misused itself: an illegal event for a state, an argument out of range."""

    blame = "program"


CODES.update(
    {
        # identities, peers and files
        "file.missing": "Check the path, or create the file.",
        "file.exists": "It is left as it is: choose another path, or pass --force to overwrite it.",
        "file.mode": "Run the chmod that the message names.",
        "file.unreadable": "Run it as root (`sudo qhybridd …`), and look at the file's mode and owner.",
        "file.malformed": "Copy it again whole, with its BEGIN and END lines, or make it again with its command.",
        # configuration
        "config.syntax": "Mend the TOML at the line given.",
        "config.unknown-key": "Remove the key, or use the one suggested.",
        "config.value": "Give a value of the kind and range that the message names.",
        "config.duplicate": "Names are unique: rename one of the two.",
        "config.reference": "Define what is referred to, or correct the name.",
        "config.policy": "Change the periods or the level as the message says.",
        # handshake and session
        "peer.unknown": "If it is a gateway of yours, add its file: `qhybridd peer add FILE`, then `qhybridd reload`.",
        "peer.identity": "Compare fingerprints over the telephone, then renew the peer file.",
        "peer.revoked": "The peer's pin was revoked here; add its new one if that was not meant.",
        "peer.malformed": "The peer runs another version, or something on the path alters the bytes.",
        "peer.oversized": "The message exceeds its bound; the peer runs another version or is hostile.",
        "peer.truncated": "The connection ended in the middle of a message: look at the path between the gateways.",
        "peer.order": "A message came where none of its kind may; the peer is faulty or the bytes were reordered.",
        "peer.replay": "An old message was sent again; no action is needed unless it repeats.",
        "peer.reflection": "This gateway's own message came back to it; look at the path between the gateways.",
        "peer.mac": "A message was altered or made with another key.",
        "peer.signature": "The peer could not prove its identity; compare fingerprints.",
        "peer.suite": "Update the older gateway, or align `suites` in both configurations.",
        "peer.downgrade": "The peer keyed a suite although an earlier one of its list is accepted here.",
        "peer.version": "Update the gateway with the older version.",
        "peer.psk": "Both ends need the same bootstrap PSK for each other, or none.",
        "peer.slow": "The peer took longer than a step may take; look at the path and the peer's load.",
        "peer.silent": "Look at the path to the peer and whether its daemon runs.",
        "peer.closed": "It is dialled again; the other gateway's log says why it closed.",
        # tunnels and rotation
        "tunnel.unknown": "Both gateways need a tunnel of the same name for each other.",
        "tunnel.mismatch": "The two gateways' configs of this tunnel disagree; compare what the message names.",
        "tunnel.policy": "The peer proposed what this gateway's policy does not allow; compare both policies.",
        "tunnel.confirm": "The two ends derived different keys; if it repeats, compare versions and configs.",
        "tunnel.epoch": "An epoch was proposed that is not new; no action is needed unless it repeats.",
        "tunnel.late": "A step of the rotation was not done in time; see the peer's log.",
        "tunnel.aborted": "The peer gave the rotation up; its log says why.",
        "tunnel.input": "A source of secrets is broken: nothing was installed; see which one in the log.",
        "tunnel.revoked": "The peer is revoked; remove the tunnel or add the peer's new identity.",
        "tunnel.expired": "No new key was agreed in time: look at the peer's session and the last error.",
        # key sources
        "source.none": "Configure a key source for the tunnel, or lower `least`.",
        "source.empty": "The key source has no keys left; it refills by itself once the link works.",
        "source.simulated": "The link is simulated: write `simulated = true` in the tunnel to take its keys anyway.",
        "source.lost": "The peer reserved a key that is not here; it is burnt and the next one is taken.",
        # links and distillation
        "link.attack": "Look at the fibre and the devices for an intruder or a fault; the next block is tried anyway.",
        "link.outage": "Look at the fibre's loss, the detectors and the clock.",
        "link.leakage": "More errors, or more light, than was planned for; it is planned anew if a key is left.",
        "link.verification": "The corrected keys differed; nothing was kept. Report it if it repeats.",
        "link.authentication": "A message was altered on the way, or the two ends hold different link PSKs.",
        "link.malformed": "The peer runs another version, or something on the path alters the bytes.",
        "link.order": "A message came where none of its kind may; nothing of the block was kept.",
        "link.terms": "The two ends' configs of this link disagree; compare what the message names.",
        "link.pads": "The session's pads are used up or out of step; a new session of the link brings new ones.",
        "link.aborted": "The peer gave the block up; its log says why.",
        "link.sync": "The receiver lost the source's clock; it looks for it by itself. Look at clock and fibre delay.",
        "link.calibration": "Nothing: it takes seconds. If it is often, the fibre drifts fast.",
        "link.blinding": "Somebody shines into the receiver: look along the fibre; nothing of the block was kept.",
        "link.mismatch": "The detectors differ more than the proof covers: compare and recalibrate them.",
        "link.timing": "Light comes at times that the source does not send it: look along the fibre for a device.",
        "link.photons": "Look at the photon endpoint in both configurations, and whether the port is open on the way.",
        "link.unknown": "Both gateways need a link of the same name for each other, one as alice and one as bob.",
        "link.real": "Faults can be injected on a simulated link only.",
        # host
        "host.no-device": "Create the WireGuard interface (`wg-quick up`, networkd) or correct its name.",
        "host.no-peer": "Add the peer to the interface (`wg set … peer …`) or correct its public key.",
        "host.netlink": "The kernel refused. For `Operation not permitted`: run it as root (`sudo qhybridd …`).",
        "host.uapi": "The userspace WireGuard refused; the message names its errno.",
        "host.readback": "Another program writes to the device: find it and let only qhybridd own PSKs.",
        "host.xfrm": "The kernel refused a security association or policy; the message names what, and its errno.",
        "host.no-esp": "Load `esp4`, `esp6` and `gcm` (or `chacha20poly1305`), or take a kernel that has them.",
        "host.conflict": "Another program owns what stands there: remove one of the two, or change the prefixes.",
        "host.guard": "It needs root (CAP_NET_ADMIN: `sudo qhybridd …`) and nf_tables in the kernel.",
        "host.state": "Check the space and the rights of the runtime directory.",
        "host.memory": "Raise LimitMEMLOCK, or give the daemon CAP_IPC_LOCK.",
        "host.crypto": "The installed `cryptography` lacks an algorithm: install the versions of requirements.lock.",
        "host.liboqs": "Build it with deploy/build-liboqs, or take the KEM off `kems` at both ends.",
        "host.exhausted": "The session used its keys as long as it may; a new one replaces it by itself.",
        "host.slept": "The tunnel opens again by itself with a fresh key; a gateway should not sleep.",
        "host.socket": "Check the address and that nothing else holds the port.",
        "host.plot": "Install matplotlib beside qhybridd (`pip install 'qhybridd[plot]'`), or leave --plot out.",
        "host.root": "Run it as root: `sudo make demo`, or `sudo qhybridd demo`.",
        "host.intercept": "It needs root (CAP_NET_ADMIN: `sudo qhybridd eve …`), and nobody else may intercept there.",
        "host.machine": "Install qemu-system-x86, linux-image-amd64 and virtme-ng: `make .stamps/machine` does.",
        "host.lab": "The laboratory needs root, nftables, and WireGuard in the kernel or wireguard-go.",
        # control
        "control.unreachable": "Start the daemon (`systemctl start qhybridd`) or name its socket with --socket.",
        "control.refused": "Correct the request as the message says.",
        "control.malformed": "The daemon and this command are of different versions: restart the daemon.",
        # program
        "program.state": "This is a defect: please report it with the log around it.",
        "program.argument": "This is a defect: please report it with the log around it.",
    }
)
