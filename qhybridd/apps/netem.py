"""A bad underlay: the kernel's network emulator (`sch_netem`) on what leaves one end of a cable."""

import errno
from dataclasses import dataclass
from typing import Final

from pyroute2.netlink.exceptions import NetlinkError

from qhybridd.apps.namespaces import Namespace
from qhybridd.errors import HostError

MAX_QUEUE: Final = 10_000
"""Packets that wait in the emulator. Its own default, 1000, would itself lose packets at 3,000 a second and 300 ms."""


@dataclass(frozen=True, slots=True)
class Impairment:
    """What happens to the packets of one direction."""

    delay_ms: float = 0.0
    jitter_ms: float = 0.0
    """Each packet's delay differs from `delay_ms` by up to this, on its own: packets overtake each other."""
    loss: float = 0.0
    """Share of packets, 0 to 1, each on its own."""


def impair(namespace: Namespace, link: str, impairment: Impairment | None) -> None:
    """Do this to what leaves by `link`, in place of what was done before; None: nothing any more.

    Raises `HostError` (host.lab) where the kernel has no netem.
    """
    with namespace.links() as links:
        index = links.link_lookup(ifname=link)[0]
        if impairment is None:
            try:
                links.tc("del", index=index, root=True)
            except NetlinkError as error:
                if error.code not in (errno.ENOENT, errno.EINVAL):  # nothing to take away
                    raise
            return
        told = {
            "delay": round(impairment.delay_ms * 1000),
            "jitter": round(impairment.jitter_ms * 1000),
            "loss": impairment.loss * 100,
            "limit": MAX_QUEUE,
        }
        try:
            links.tc("replace", "netem", index, "1:", **told)
        except NetlinkError as error:
            if error.code == errno.ENOENT:
                raise HostError("host.lab", "this kernel has no netem", where=namespace.name) from None
            raise HostError("host.lab", f"netem: {error}", where=namespace.name) from None
