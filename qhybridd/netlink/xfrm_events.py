"""What XFRM tells by itself: lifetimes that ended, packets that wait for an association, changes by whomever.

Notices of associations hold their keys, so they are read into locked memory, which is wiped before `read` returns.
"""

import errno
import socket
from collections.abc import Collection, Iterator
from typing import Final

from qhybridd.errors import HostError
from qhybridd.netlink.attributes import HEADER, Attribute, Message, malformed, walk, walk_messages
from qhybridd.netlink.socket import DATAGRAM_BYTES, SOL_NETLINK, NetlinkError
from qhybridd.netlink.xfrm_build import family_of
from qhybridd.netlink.xfrm_layout import (
    ACQUIRE,
    ATTR_POLICY,
    ATTR_SA,
    ATTR_TMPL,
    EXPIRE,
    FLUSH_SA,
    GROUP_ACQUIRE,
    GROUP_EXPIRE,
    GROUP_POLICY,
    GROUP_SA,
    ID,
    IPPROTO_ESP,
    MSG_ACQUIRE,
    MSG_DELPOLICY,
    MSG_DELSA,
    MSG_EXPIRE,
    MSG_FLUSHPOLICY,
    MSG_FLUSHSA,
    MSG_NEWPOLICY,
    MSG_NEWSA,
    MSG_POLEXPIRE,
    MSG_UPDPOLICY,
    MSG_UPDSA,
    NETLINK_XFRM,
    POLICY_EXPIRE,
    POLICY_ID,
    POLICY_INFO,
    SA_ID,
    SELECTOR,
    TEMPLATE,
)
from qhybridd.netlink.xfrm_parse import (
    SaHead,
    parse_policy,
    parse_policy_parts,
    read_address,
    read_sa_id,
    read_template,
)
from qhybridd.netlink.xfrm_records import (
    Acquire,
    Event,
    Flushed,
    Lost,
    PolicyChanged,
    SaChanged,
    SaExpired,
    SecurityPolicy,
)
from qhybridd.secret import Secret

GROUPS: Final = (GROUP_ACQUIRE, GROUP_EXPIRE, GROUP_SA, GROUP_POLICY)
NETLINK_ADD_MEMBERSHIP: Final = 1
SO_RCVBUFFORCE: Final = 33
RECEIVE_BUFFER_BYTES: Final = 1 << 20
"""About a thousand notices that wait, so that ENOBUFS stays rare."""
MAX_DATAGRAMS: Final = 256
"""Read at once; what is left makes the descriptor readable again."""
CHANGES: Final = frozenset(
    (
        MSG_NEWSA,
        MSG_UPDSA,
        MSG_DELSA,
        MSG_FLUSHSA,
        MSG_NEWPOLICY,
        MSG_UPDPOLICY,
        MSG_DELPOLICY,
        MSG_FLUSHPOLICY,
    )
)
"""Notices that follow somebody's request."""
EVERY_PROTOCOL: Final = (0, IPPROTO_ESP, 255)
"""A flush of any of these took the associations of ESP (`xfrm_id_proto_match`, net/xfrm.h)."""


class XfrmEvents:
    """Notices of XFRM in the network namespace that the calling thread is in. Never blocks."""

    def __init__(self, own_ports: Collection[int] = (), groups: Collection[int] = GROUPS) -> None:
        """`own_ports`: `XfrmSocket.port` of sockets whose changes are no news. Raises `NetlinkError` (host.xfrm).

        While anybody listens to `GROUP_ACQUIRE`, the kernel keeps a larval association for 30 s for a packet that finds
        none, and tells its sender nothing (`xfrm_state_find`).
        """
        self._own_ports = frozenset(own_ports)
        try:
            kind = socket.SOCK_RAW | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK
            self._socket = socket.socket(socket.AF_NETLINK, kind, NETLINK_XFRM)
        except OSError as error:
            raise _failed(error, "opening the notices of XFRM") from None
        try:
            self._socket.bind((0, 0))
            self._raise_limit()
            for group in groups:
                self._socket.setsockopt(SOL_NETLINK, NETLINK_ADD_MEMBERSHIP, group)
            self._buffer = Secret(DATAGRAM_BYTES)
        except OSError as error:
            self._socket.close()
            raise _failed(error, "subscribing to the notices of XFRM") from None
        except BaseException:
            self._socket.close()
            raise

    def _raise_limit(self) -> None:
        try:
            self._socket.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, RECEIVE_BUFFER_BYTES)
        except PermissionError:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER_BYTES)

    def fileno(self) -> int:
        """Readable when there is news."""
        return self._socket.fileno()

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()
        self._buffer.wipe()

    def read(self) -> list[Event]:
        """What happened since the last call, at most `MAX_DATAGRAMS` notices. `Lost` where notices were dropped."""
        found: list[Event] = []
        try:
            with self._buffer.expose() as view:
                for _ in range(MAX_DATAGRAMS):
                    size = self._receive(view)
                    if size is None:
                        break
                    found += self._understand(view, size)
        finally:
            self._buffer.wipe()
        return found

    def _receive(self, view: memoryview) -> int | None:
        """Size of one datagram of the kernel, 0 where some were lost, None where none waits."""
        while True:
            try:
                size, _, flags, sender = self._socket.recvmsg_into([view], 0)
            except BlockingIOError:
                return None
            except OSError as error:
                if error.errno == errno.ENOBUFS:
                    return 0
                raise _failed(error, "reading the notices of XFRM") from None
            if sender[0] == 0:  # another process may write to our port: only the kernel's is port 0
                return 0 if flags & socket.MSG_TRUNC else size

    def _understand(self, view: memoryview, size: int) -> Iterator[Event]:
        if size == 0:
            yield Lost()
            return
        try:
            for item in walk_messages(view, 0, size):
                if item.kind in CHANGES and _cause(view, item) in self._own_ports:
                    continue
                event = parse_event(view, item)
                if event is not None:
                    yield event
        except HostError:  # of a newer kernel: something happened, whatever it was
            yield Lost()


def _failed(error: OSError, what: str) -> NetlinkError:
    return NetlinkError(error.errno or 0, what, code="host.xfrm")


def _cause(view: memoryview, item: Message) -> int:
    """The port of the socket whose request it was; 0: the kernel by itself."""
    return int(HEADER.unpack_from(view, item.start - HEADER.size)[4])


# ---- parsing


def parse_event(view: memoryview, item: Message) -> Event | None:
    """The event of one notice; None for what is no news here. Raises `HostError` for bytes that make no sense."""
    if item.kind == MSG_EXPIRE:
        return _parse_expire(view, item)
    if item.kind in (MSG_NEWSA, MSG_UPDSA):
        return _changed_sa(SaHead(view, item.start, item.end), deleted=False)
    if item.kind == MSG_DELSA:
        return _parse_deleted_sa(view, item)
    if item.kind == MSG_ACQUIRE:
        return _parse_acquire(view, item)
    if item.kind in (MSG_NEWPOLICY, MSG_UPDPOLICY):
        return _changed_policy(parse_policy(view, item.start, item.end), deleted=False)
    if item.kind == MSG_DELPOLICY:
        return _parse_deleted_policy(view, item)
    if item.kind == MSG_POLEXPIRE:
        return _parse_expired_policy(view, item)
    if item.kind == MSG_FLUSHSA:
        return _parse_flushed_sas(view, item)
    if item.kind == MSG_FLUSHPOLICY:
        return Flushed(policies=True)
    return None


def _parse_expire(view: memoryview, item: Message) -> SaExpired | None:
    if item.end - item.start < EXPIRE.size:
        raise malformed("an expiry that is too short")
    head = SaHead(view, item.start, item.end)
    hard = EXPIRE.unpack_from(view, item.start)[1]
    return SaExpired(head.id, head.reqid, bool(hard)) if head.protocol == IPPROTO_ESP else None


def _changed_sa(head: SaHead, *, deleted: bool) -> SaChanged | None:
    return SaChanged(head.id, deleted, head.reqid) if head.protocol == IPPROTO_ESP else None


def _parse_deleted_sa(view: memoryview, item: Message) -> SaChanged | None:
    """struct xfrm_usersa_id, and the association as it was in an attribute."""
    name = read_sa_id(view, item.start, item.end)
    if name is None:
        return None
    for entry in walk(view, item.start + SA_ID.size, item.end):
        if entry.kind == ATTR_SA:
            return SaChanged(name, True, SaHead(view, entry.start, entry.end).reqid)
    return SaChanged(name, True)


def _changed_policy(policy: SecurityPolicy | None, *, deleted: bool) -> PolicyChanged | None:
    return None if policy is None else PolicyChanged(deleted, policy)


def _parse_deleted_policy(view: memoryview, item: Message) -> PolicyChanged | None:
    """struct xfrm_userpolicy_id, the policy as it was in an attribute, and its own attributes beside that."""
    if item.end - item.start < POLICY_ID.size:
        raise malformed("the name of a policy that is too short")
    start = item.start + POLICY_ID.size
    for entry in walk(view, start, item.end):
        if entry.kind == ATTR_POLICY:
            return _changed_policy(parse_policy_parts(view, entry, start, item.end), deleted=True)
    return PolicyChanged(deleted=True)


def _parse_expired_policy(view: memoryview, item: Message) -> PolicyChanged | None:
    start = item.start + POLICY_EXPIRE.size
    if item.end < start:
        raise malformed("the expiry of a policy that is too short")
    if not POLICY_EXPIRE.unpack_from(view, item.start)[1]:
        return None
    info = Attribute(ATTR_POLICY, item.start, item.start + POLICY_INFO.size)
    return _changed_policy(parse_policy_parts(view, info, start, item.end), deleted=True)


def _parse_acquire(view: memoryview, item: Message) -> Acquire | None:
    """The address is that of the association that is missing; the reqid, of the first template of ESP."""
    if item.end - item.start < ACQUIRE.size:
        raise malformed("an acquire that is too short")
    identity, _, selector, *_ = ACQUIRE.unpack_from(view, item.start)
    destination, _, protocol = ID.unpack(identity)
    if protocol != IPPROTO_ESP:
        return None
    family = SELECTOR.unpack(selector)[6]
    for entry in walk(view, item.start + ACQUIRE.size, item.end):
        if entry.kind == ATTR_TMPL and entry.end - entry.start >= TEMPLATE.size:
            template = read_template(view, entry.start)
            if template is not None:
                return Acquire(template.reqid, read_address(destination, family_of(template.destination)))
    return Acquire(0, read_address(destination, family))


def _parse_flushed_sas(view: memoryview, item: Message) -> Flushed | None:
    if item.end - item.start < FLUSH_SA.size:
        raise malformed("a flush that is too short")
    return Flushed(policies=False) if view[item.start] in EVERY_PROTOCOL else None
