"""XFRM over netlink: security associations of ESP, and the policies that demand them (linux/xfrm.h).

A security association is added with its key, read back and deleted; a policy is added, changed and deleted; the kernel
chooses SPIs. Keys pass through locked memory only. The layouts are in `xfrm_layout`, requests in `xfrm_build`, answers
in `xfrm_parse`, what the kernel tells by itself in `xfrm_events`.
"""

import errno
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from ipaddress import ip_network
from typing import Final

from qhybridd.errors import ProgramError
from qhybridd.netlink.attributes import HEADER, NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST, attribute, malformed
from qhybridd.netlink.socket import NetlinkError, NetlinkSocket
from qhybridd.netlink.xfrm_build import (
    build_alloc_spi,
    build_policy,
    build_policy_id,
    build_sa,
    pack_sa_id,
)
from qhybridd.netlink.xfrm_layout import (
    ATTR_PROTO,
    FLUSH_SA,
    IPPROTO_ESP,
    KEY_BYTES,
    MSG_ALLOCSPI,
    MSG_DELPOLICY,
    MSG_DELSA,
    MSG_FLUSHPOLICY,
    MSG_FLUSHSA,
    MSG_GETPOLICY,
    MSG_GETSA,
    MSG_NEWPOLICY,
    MSG_NEWSA,
    MSG_UPDPOLICY,
    MSG_UPDSA,
    NETLINK_XFRM,
    REPLAY_WINDOWS,
)
from qhybridd.netlink.xfrm_parse import SaHead, parse_policy, parse_sa
from qhybridd.netlink.xfrm_records import (
    SPI_LEAST,
    SPI_MOST,
    Cipher,
    Mode,
    SaId,
    SaState,
    SecurityAssociation,
    SecurityPolicy,
)
from qhybridd.secret import Secret

NO_ESP: Final = (errno.EPROTONOSUPPORT, errno.ENOSYS, errno.ENOENT)
"""What a kernel without ESP, without the name of the cipher, or without its code answers to a new association."""
TRIAL_S: Final = 1
"""Lifetime of an association that is added only to see whether it can be: it goes even if this program is killed."""


class XfrmSocket:
    """Requests to XFRM in the network namespace that the calling thread is in. Blocking; called from one thread.

    What the kernel refuses is a `NetlinkError` with its `errno`, host.xfrm or host.no-esp.
    """

    def __init__(self) -> None:
        """Raises `NetlinkError` (host.no-esp) where the kernel has no XFRM."""
        try:
            self._netlink = NetlinkSocket(NETLINK_XFRM)
        except NetlinkError as error:
            code = "host.no-esp" if error.errno == errno.EPROTONOSUPPORT else "host.xfrm"
            raise NetlinkError(error.errno, "opening XFRM", code=code) from None

    @property
    def port(self) -> int:
        """By which `XfrmEvents` knows what this socket did."""
        return self._netlink.port

    def close(self) -> None:
        """Close the socket."""
        self._netlink.close()

    # ---- security associations

    def require_cipher(self, cipher: Cipher, version: int) -> None:
        """Have the kernel load ESP over IPv4 or IPv6 (`version` 4 or 6) and the cipher, which may take seconds.

        The only way to ask is to add an association: one with a random key, between addresses that nobody has, of no
        reqid, and deleted at once. Raises `NetlinkError`: host.no-esp where the kernel lacks either.
        """
        nobody = ip_network("198.51.100.0/24" if version == 4 else "2001:db8::/32")  # RFC 5737, RFC 3849
        source, destination = nobody[1], nobody[2]
        trial = SecurityAssociation(source, destination, 0, 0, Mode.TUNNEL, cipher, REPLAY_WINDOWS[-1], TRIAL_S)
        trial = replace(trial, spi=self.alloc_spi(trial))
        try:
            self.add_sa(trial, Secret.adopt(bytearray(os.urandom(KEY_BYTES))), update=True)
        finally:
            self.delete_sa(trial.id)

    def alloc_spi(self, sa: SecurityAssociation, low: int = SPI_LEAST, high: int = SPI_MOST) -> int:
        """Let the kernel choose an SPI for packets to `sa.destination`; `sa.spi` does not count.

        It is held by an association without a key, which the kernel deletes after `net.core.xfrm_acq_expires` (30 s)
        unless `add_sa` with `update` takes its place.
        """
        what = f"an SPI for {sa.destination}"
        payload = build_alloc_spi(sa, low, high)
        with _explained(what), self._netlink.dump(MSG_ALLOCSPI, payload, what, flags=0) as answer:
            for item in answer.messages:
                if item.kind == MSG_NEWSA:
                    return SaHead(answer.view, item.start, item.end).id.spi
        raise malformed("an answer without an SPI")

    def add_sa(self, sa: SecurityAssociation, key: Secret, *, update: bool) -> None:
        """Add an association with its key of 36 bytes; with `update`, in place of the one that holds its SPI.

        The receiver of a direction chooses the SPI, so `update` also means inbound, which only offload asks for. The
        kernel answers `update` of an association that has a key already with success and keeps the old key: read it
        back. Raises `NetlinkError`: EEXIST where it is there already (without `update`), ESRCH where no SPI is held.
        Where offload is asked for and not granted, the association is deleted again: EOPNOTSUPP.
        """
        if len(key) != KEY_BYTES or key.is_zero:
            raise ProgramError("program.argument", f"a key of ESP has {KEY_BYTES} bytes, not all of them zero")
        what = f"adding the association {sa.spi:#010x} to {sa.destination}"
        with _explained(what, of_esp=True):
            request = build_sa(sa, _device_index(sa.offload, what), inbound=update)
            self._send(MSG_UPDSA if update else MSG_NEWSA, request.data, what, key=key, hole=request.hole)
        if sa.offload:
            self._demand_offload(sa, what)

    def _demand_offload(self, sa: SecurityAssociation, what: str) -> None:
        """A device that cannot encrypt is no error to the kernel: it encrypts itself then (`xfrm_dev_state_add`)."""
        state = self._get_sa(sa.id, with_key=False)
        if state is not None and state.offload_index:
            return
        self.delete_sa(sa.id)
        raise NetlinkError(errno.EOPNOTSUPP, what, f"{sa.offload} has no ESP offload", code="host.xfrm")

    def get_sa(self, sa: SaId) -> SaState | None:
        """An association with its key; None if it is not there."""
        return self._get_sa(sa, with_key=True)

    def _get_sa(self, sa: SaId, *, with_key: bool) -> SaState | None:
        what = f"reading the association {sa.spi:#010x} to {sa.destination}"
        try:
            with _explained(what), self._netlink.dump(MSG_GETSA, pack_sa_id(sa), what, flags=0) as answer:
                for item in answer.messages:
                    if item.kind == MSG_NEWSA:
                        return parse_sa(answer.view, item.start, item.end, with_key=with_key)
        except NetlinkError as error:
            if error.errno == errno.ESRCH:
                return None
            raise
        raise malformed("an answer without an association")

    def delete_sa(self, sa: SaId) -> bool:
        """Delete an association; False if it was gone."""
        what = f"deleting the association {sa.spi:#010x} to {sa.destination}"
        return self._unless(errno.ESRCH, MSG_DELSA, pack_sa_id(sa), what)

    def dump_sas(self) -> list[SaState]:
        """Every association of ESP, without keys."""
        what = "reading the associations"
        payload = attribute(ATTR_PROTO, bytes((IPPROTO_ESP,)))
        with _explained(what), self._netlink.dump(MSG_GETSA, payload, what, flags=NLM_F_DUMP) as answer:
            states = [
                parse_sa(answer.view, item.start, item.end, with_key=False)
                for item in answer.messages
                if item.kind == MSG_NEWSA
            ]
        return [state for state in states if state is not None]

    def flush_sas(self) -> None:
        """Delete every association of ESP, whosever it is."""
        what = "flushing the associations"
        with _explained(what):
            self._send(MSG_FLUSHSA, FLUSH_SA.pack(IPPROTO_ESP), what)

    # ---- policies

    def add_policy(self, policy: SecurityPolicy) -> None:
        """Add a policy. Raises `NetlinkError`: EEXIST where one of its direction, selector, mark and `if_id` is."""
        self._put_policy(MSG_NEWPOLICY, policy, "adding")

    def update_policy(self, policy: SecurityPolicy) -> None:
        """Put a policy in the place of the one of its direction, selector, mark and `if_id`, if there is one."""
        self._put_policy(MSG_UPDPOLICY, policy, "updating")

    def _put_policy(self, kind: int, policy: SecurityPolicy, verb: str) -> None:
        what = _describe(verb, policy)
        with _explained(what):
            self._send(kind, build_policy(policy), what)

    def get_policy(self, policy: SecurityPolicy) -> SecurityPolicy | None:
        """The policy of this direction, selector, mark and `if_id`; None if it is not there."""
        what = _describe("reading", policy)
        payload = build_policy_id(policy)
        try:
            with _explained(what), self._netlink.dump(MSG_GETPOLICY, payload, what, flags=0) as answer:
                for item in answer.messages:
                    if item.kind == MSG_NEWPOLICY:
                        return parse_policy(answer.view, item.start, item.end)
        except NetlinkError as error:
            if error.errno == errno.ENOENT:
                return None
            raise
        raise malformed("an answer without a policy")

    def delete_policy(self, policy: SecurityPolicy) -> bool:
        """Delete the policy of this direction, selector, mark and `if_id`; False if it was gone."""
        return self._unless(errno.ENOENT, MSG_DELPOLICY, build_policy_id(policy), _describe("deleting", policy))

    def dump_policies(self) -> list[SecurityPolicy]:
        """Every policy of the namespace, without those of single sockets. One that a record cannot say is `foreign`."""
        what = "reading the policies"
        with _explained(what), self._netlink.dump(MSG_GETPOLICY, b"", what, flags=NLM_F_DUMP) as answer:
            policies = [
                parse_policy(answer.view, item.start, item.end)
                for item in answer.messages
                if item.kind == MSG_NEWPOLICY
            ]
        return [policy for policy in policies if policy is not None]

    def flush_policies(self) -> None:
        """Delete every policy of the namespace, whosever it is; those of sockets stay."""
        what = "flushing the policies"
        with _explained(what):
            self._send(MSG_FLUSHPOLICY, b"", what)

    # ---- sending

    def _unless(self, gone: int, kind: int, payload: bytes, what: str) -> bool:
        """Carry a request out; False where the kernel answers with `gone`."""
        try:
            with _explained(what):
                self._send(kind, payload, what)
        except NetlinkError as error:
            if error.errno == gone:
                return False
            raise
        return True

    def _send(self, kind: int, payload: bytes, what: str, *, key: Secret | None = None, hole: int = 0) -> None:
        """One request in locked memory, with the key in its hole."""
        sequence = self._netlink.next_sequence()
        size = HEADER.size + len(payload)
        request = Secret(size)
        try:
            with request.expose() as view:
                # the kernel takes the cause that its notices name from the request itself
                HEADER.pack_into(view, 0, size, kind, NLM_F_REQUEST | NLM_F_ACK, sequence, self.port)
                view[HEADER.size :] = payload
                if key is not None:
                    with key.expose() as secret:
                        view[HEADER.size + hole : HEADER.size + hole + KEY_BYTES] = secret
                self._netlink.acknowledged(view, sequence, what)
        finally:
            request.wipe()


@contextmanager
def _explained(what: str, *, of_esp: bool = False) -> Iterator[None]:
    """The kernel's refusal under the code that says whether ESP is missing."""
    try:
        yield
    except NetlinkError as error:
        code = "host.no-esp" if of_esp and error.errno in NO_ESP else "host.xfrm"
        raise NetlinkError(error.errno, what, error.explanation, code=code) from None


def _device_index(name: str, what: str) -> int:
    if not name:
        return 0
    try:
        return socket.if_nametoindex(name)
    except OSError:
        raise NetlinkError(errno.ENODEV, what, f"there is no {name}", code="host.xfrm") from None


def _describe(verb: str, policy: SecurityPolicy) -> str:
    selector = policy.selector
    return f"{verb} the policy {policy.direction.name.lower()} {selector.source} to {selector.destination}"
