"""The policies of all XFRM tunnels in the kernel: put there, kept, switched to another association, looked at.

Blocking; used from one worker thread. Ours are the policies whose template has a reqid of our range, and, of those
without a template, the ones that a note names. Whatever else stands in the kernel is somebody else's and stays.
"""

import errno
from collections.abc import Iterable
from dataclasses import dataclass, field

from qhybridd.errors import HostError, ProgramError
from qhybridd.netlink.socket import NetlinkError
from qhybridd.netlink.xfrm import XfrmSocket
from qhybridd.netlink.xfrm_records import Direction, SecurityPolicy
from qhybridd.targets.esp_notes import Notes, PassNote
from qhybridd.targets.esp_selectors import (
    Key,
    ProtectedTunnel,
    is_ours,
    key_of,
    policies_of,
    reqid_of,
    switch,
    without_spi,
)


@dataclass(slots=True)
class Policies:
    """What is to stand in the kernel, and the way to it."""

    kernel: XfrmSocket
    notes: Notes
    wanted: dict[Key, SecurityPolicy] = field(default_factory=dict)
    """Without SPIs."""

    def protect(self, tunnels: Iterable[ProtectedTunnel]) -> int:
        """Put the tunnels' policies into the kernel and take away those of ours that no tunnel needs any longer.

        Policies that are right stay as they are, with the association that they name. How many were missing or not as
        they are to be. Raises `HostError`: host.conflict where another program's policy is in the place, after all
        others were put.
        """
        self.wanted = policies_of(tunnels)
        # a policy that says more than a record may have the name of one of ours and be another one to the kernel
        standing = {key_of(policy): policy for policy in self.kernel.dump_policies() if not policy.foreign}
        passes = frozenset(note for policy in self.wanted.values() if (note := _pass_note(policy)) is not None)
        before = self.notes.read_passes()
        if not passes <= before:
            self.notes.write_passes(before | passes)
        mended, conflicts = self._put(standing, before)
        for key, policy in standing.items():
            ours = reqid_of(policy) is not None or _pass_note(policy) in before
            if ours and key not in self.wanted:
                self.kernel.delete_policy(policy)
        if before != passes:
            self.notes.write_passes(passes)
        if conflicts:
            raise conflicts[0]
        return mended

    def _put(self, standing: dict[Key, SecurityPolicy], passes: frozenset[PassNote]) -> tuple[int, list[HostError]]:
        """Add what is missing and correct what is ours: how many, and what is said of others that are in the way."""
        spis = {
            policy.template.reqid: policy.template.spi
            for policy in standing.values()
            if policy.direction is Direction.OUT and policy.template is not None and policy.template.spi
        }
        mended, conflicts = 0, list[HostError]()
        for key, policy in self.wanted.items():
            target = policy
            if policy.template is not None and policy.direction is Direction.OUT:
                target = switch(policy, spis.get(policy.template.reqid, 0))
            found = standing.get(key)
            if found is None:
                try:
                    self._add(target)
                    mended += 1
                except HostError as error:
                    if error.code != "host.conflict":
                        raise
                    conflicts.append(error)
            elif found == target:
                continue
            elif reqid_of(found) is not None or _pass_note(found) in passes:
                self.kernel.update_policy(target)
                mended += 1
            else:
                conflicts.append(_conflict(found))
        return mended, conflicts

    def _add(self, policy: SecurityPolicy) -> None:
        """Raises `HostError`: host.conflict where another program's is there."""
        try:
            self.kernel.add_policy(policy)
        except NetlinkError as error:
            if error.errno == errno.EEXIST:
                raise _conflict(policy) from None
            raise

    # ---- one tunnel's

    def of(self, reqid: int) -> list[SecurityPolicy]:
        """Its policies, without SPIs."""
        return [policy for policy in self.wanted.values() if policy.template and policy.template.reqid == reqid]

    def switch(self, reqid: int, spi: int) -> None:
        """Have all that the tunnel sends take the association with this SPI, and read that back; 0: any, or none.

        A policy that was deleted comes back. Raises `HostError`: host.conflict, host.readback.
        """
        for policy in self.of(reqid):
            target = switch(policy, spi) if policy.direction is Direction.OUT else policy
            found = self.kernel.get_policy(target)
            if found == target:
                continue
            if found is None:
                self._add(target)
            elif reqid_of(found) is None:
                raise _conflict(found)
            else:
                self.kernel.update_policy(target)
            if self.kernel.get_policy(target) != target:
                raise HostError("host.readback", f"{_shown(target)} is not what was just set")

    def sending(self, reqid: int) -> int:
        """The SPI that all of the tunnel's OUT policies name; 0 where they name none, or different ones."""
        found = [self.kernel.get_policy(policy) for policy in self.of(reqid) if policy.direction is Direction.OUT]
        spis = {policy.template.spi if policy and policy.template else 0 for policy in found}
        return spis.pop() if len(spis) == 1 else 0

    def differs(self, reqid: int, spi: int) -> str | None:
        """What is not as it should be where the tunnel sends by this SPI; None if all is well."""
        for policy in self.of(reqid):
            target = switch(policy, spi) if policy.direction is Direction.OUT else policy
            found = self.kernel.get_policy(target)
            if found is None:
                return f"another program deleted {_shown(target)}"
            if found != target:
                return f"another program changed {_shown(target)}"
        return None

    def complete(self, reqid: int) -> None:
        """Raises `HostError` (host.conflict) unless every policy of the tunnel stands; what was deleted comes back."""
        policies = self.of(reqid)
        if not policies:
            raise ProgramError("program.state", "a tunnel is keyed whose policies were never put")
        for policy in policies:
            found = self.kernel.get_policy(policy)
            if found is None:
                self._add(policy)
            elif without_spi(found) != policy:
                raise _conflict(found)

    def concerns(self, policy: SecurityPolicy | None) -> bool:
        """Whether a policy that somebody changed is one of ours; None: nobody knows which it was."""
        return policy is None or key_of(policy) in self.wanted or is_ours(reqid_of(policy) or 0)


def _conflict(policy: SecurityPolicy) -> HostError:
    return HostError("host.conflict", f"another program has {_shown(policy)}")


def _shown(policy: SecurityPolicy) -> str:
    selector = policy.selector
    return f"the policy {policy.direction.name.lower()} {selector.source} to {selector.destination}"


def _pass_note(policy: SecurityPolicy) -> PassNote | None:
    if policy.template is not None or policy.block or policy.mark:
        return None
    selector = policy.selector
    return PassNote(
        int(policy.direction),
        str(selector.source),
        str(selector.destination),
        selector.protocol,
        selector.source_port,
        selector.destination_port,
        policy.priority,
        policy.if_id,
    )
