"""Associations against a model of the kernel, in every order of verbs, kills and changes by others.

The model counts as the kernel does: a key begins with number one whenever it is added, so it must not be added twice.
"""

import asyncio
import errno
import itertools
import os
import tempfile
from dataclasses import dataclass, field, replace
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Any, cast

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from qhybridd.config.records import TunnelConfig, XfrmConfig, default_reqid
from qhybridd.crypto.kdf import key_tag
from qhybridd.errors import HostError, PeerError, QhybriddError
from qhybridd.netlink.socket import NetlinkError
from qhybridd.netlink.xfrm import XfrmSocket
from qhybridd.netlink.xfrm_records import SaId, SaState, SecurityAssociation, SecurityPolicy
from qhybridd.protocol.actions import EpochKeys, Reserved
from qhybridd.secret import Secret
from qhybridd.targets import xfrm as xfrm_target
from qhybridd.targets.esp_associations import KEPT_ATTEMPTS, Associations, Pair
from qhybridd.targets.esp_notes import Notes
from qhybridd.targets.esp_policies import Policies
from qhybridd.targets.esp_selectors import Key, key_of, protected_of
from qhybridd.targets.xfrm import Xfrm, XfrmTarget

LOCAL, REMOTE = ip_address("192.0.2.1"), ip_address("192.0.2.2")
ESP = XfrmConfig(LOCAL, REMOTE, default_reqid("x"))
CONFIG = TunnelConfig("x", "peer", ESP, (ip_network("10.2.0.0/16"),), renew="seamless", period_s=1, expiry_s=60)
FOREIGN = SaId(REMOTE, 0x1000)
"""An association of an IKE daemon's to the same gateway."""


PEER_SPIS = (FOREIGN.spi, 0x2000)
"""What a peer chooses: taken already, or the same one again and again."""


@dataclass
class Kernel:
    """What XFRM does with associations and policies (net/xfrm/xfrm_state.c, xfrm_user.c)."""

    sas: dict[SaId, SaState] = field(default_factory=dict)
    policies: dict[Key, SecurityPolicy] = field(default_factory=dict)
    begun: list[bytes] = field(default_factory=list)
    """Every key that began to count."""
    spis: Any = field(default_factory=lambda: itertools.count(0xC0000000))
    port = 0

    def close(self) -> None:
        """As the socket's."""

    def alloc_spi(self, sa: SecurityAssociation, low: int = 0, high: int = 0) -> int:
        spi = low if low else next(self.spis)
        if (held := replace(sa, spi=spi)).id in self.sas:
            raise NetlinkError(errno.ENOENT, "taken")
        self.sas[held.id] = self._state(held, None)
        return spi

    def add_sa(self, sa: SecurityAssociation, key: Secret, *, update: bool) -> None:
        there = self.sas.get(sa.id)
        if there is None and update:
            raise NetlinkError(errno.ESRCH, "none")
        if there is not None and not update:
            raise NetlinkError(errno.EEXIST, "there")
        if there is not None and there.valid:
            return  # success, and the old key stays
        with key.expose() as view:
            begins = bytes(view)
        assert begins not in self.begun, "a key began to count twice"
        self.begun.append(begins)
        self.sas[sa.id] = self._state(sa, begins)

    def _state(self, sa: SecurityAssociation, key: bytes | None) -> SaState:
        secret = None if key is None else Secret.adopt(key)
        return SaState(sa.id, sa.source, sa.reqid, sa.mode, key is not None, sa.if_id, 0, 0, "", secret)

    def get_sa(self, sa: SaId) -> SaState | None:
        return self.sas.get(sa)

    def delete_sa(self, sa: SaId) -> bool:
        return self.sas.pop(sa, None) is not None

    def dump_sas(self) -> list[SaState]:
        return list(self.sas.values())

    def add_policy(self, policy: SecurityPolicy) -> None:
        if key_of(policy) in self.policies:
            raise NetlinkError(errno.EEXIST, "there")
        self.update_policy(policy)

    def update_policy(self, policy: SecurityPolicy) -> None:
        self.policies[key_of(policy)] = policy

    def get_policy(self, policy: SecurityPolicy) -> SecurityPolicy | None:
        return self.policies.get(key_of(policy))

    def delete_policy(self, policy: SecurityPolicy) -> bool:
        return self.policies.pop(key_of(policy), None) is not None

    def dump_policies(self) -> list[SecurityPolicy]:
        return list(self.policies.values())


def fresh(epoch: int, spi_in: int, spi_out: int) -> Pair:
    """An epoch's keys, as the rotation makes them."""
    keys = (Secret.adopt(os.urandom(36)), Secret.adopt(os.urandom(36)))
    return Pair(epoch, os.urandom(16), spi_in, spi_out, *keys)


class Orders(RuleBasedStateMachine):
    """Verbs with the keys of any of the last epochs, whatever the core would ask for."""

    @initialize()
    def begin(self) -> None:
        self.directory = tempfile.TemporaryDirectory()
        self.kernel = Kernel()
        foreign = SecurityAssociation(LOCAL, REMOTE, FOREIGN.spi, 1, ESP.mode == "tunnel", 1, 64, 0)  # type: ignore[arg-type]
        self.kernel.add_sa(foreign, Secret.adopt(os.urandom(36)), update=False)
        self.foreign = self.kernel.sas[FOREIGN]
        self.pairs: list[Pair] = []
        self.epoch = 0
        self.restart()

    def teardown(self) -> None:
        self.directory.cleanup()

    @rule()
    def restart(self) -> None:
        policies = Policies(cast(XfrmSocket, self.kernel), Notes(Path(self.directory.name)))
        policies.protect([protected_of(CONFIG)])
        self.own = Associations("x", ESP, 60, policies)

    @rule(spi=st.sampled_from(PEER_SPIS))
    def reserve(self, spi: int) -> None:
        self.epoch += 1
        self.pairs.append(fresh(self.epoch, self.own.reserve(), spi))

    @rule(verb=st.sampled_from(("activate", "reset")))
    def rotate(self, verb: str) -> None:
        self.reserve(PEER_SPIS[1])
        self._install("stage", self.pairs[-1])
        self._install(verb, self.pairs[-1])

    @precondition(lambda self: self.pairs)
    @rule(verb=st.sampled_from(("stage", "activate", "reset")), data=st.data())
    def install(self, verb: str, data: st.DataObject) -> None:
        self._install(verb, data.draw(st.sampled_from(self.pairs[-3:])))

    def _install(self, verb: str, pair: Pair) -> None:
        try:
            getattr(self.own, verb)(pair)
        except QhybriddError:
            return
        if verb != "stage":
            state = self.kernel.sas[SaId(REMOTE, pair.spi_out)]
            assert state.key == pair.key_out, "sent under another key"
            assert self.own._policies.sending(ESP.reqid) == pair.spi_out

    @precondition(lambda self: self.pairs)
    @rule(data=st.data())
    def retire(self, data: st.DataObject) -> None:
        pair = data.draw(st.sampled_from(self.pairs[-3:]))
        there = self.own._policies.sending(ESP.reqid) == pair.spi_out and self.own.inspect().tag == pair.tag
        self.own.retire(pair.epoch)
        if there:
            assert self.own.inspect().tag == pair.tag, "what is in use stays"

    @rule()
    def close(self) -> None:
        self.own.close()
        assert set(self.kernel.sas) == {FOREIGN}

    @rule(data=st.data())
    def another_program_deletes(self, data: st.DataObject) -> None:
        gone = data.draw(st.sampled_from(sorted(self.kernel.sas, key=str)))
        if gone != FOREIGN:
            self.kernel.delete_sa(gone)

    def check_invariants(self, *args: Any, **kwargs: Any) -> None:
        super().check_invariants(*args, **kwargs)
        if hasattr(self, "foreign"):
            assert self.kernel.sas.get(FOREIGN) is self.foreign


TestOrders = Orders.TestCase
TestOrders.settings = settings(max_examples=100, stateful_step_count=25, deadline=None)


def opened(path: Path) -> tuple[Kernel, Associations]:
    """A tunnel whose policies stand."""
    kernel = Kernel()
    policies = Policies(cast(XfrmSocket, kernel), Notes(path))
    policies.protect([protected_of(CONFIG)])
    return kernel, Associations("x", ESP, 60, policies)


def test_a_peer_that_chooses_an_spi_again_disturbs_nothing(tmp_path: Path) -> None:
    kernel, own = opened(tmp_path)
    first = fresh(1, own.reserve(), 0x2000)
    own.activate(first)
    again = fresh(2, own.reserve(), 0x2000)
    with pytest.raises(PeerError, match="chose the SPI 0x00002000 again"):
        own.activate(again)
    assert own.inspect().tag == first.tag and own.differs(first.tag) is None
    own.activate(fresh(3, own.reserve(), 0x2001))
    own.retire(3)
    own.activate(fresh(4, own.reserve(), 0x2000))
    assert len(kernel.begun) == 6


def test_attempts_that_come_to_nothing_do_not_pile_up(tmp_path: Path) -> None:
    """A peer that fails at the same step for an hour: the live epoch goes on, and what failed is let go."""
    kernel, own = opened(tmp_path)
    live = fresh(1, own.reserve(), 0x2000)
    own.activate(live)
    into = SaId(LOCAL, live.spi_in)
    kernel.sas[into] = replace(kernel.sas[into], packets=1)
    for epoch in range(2, 60):
        own.stage(fresh(epoch, own.reserve(), 0x2000 + epoch))
        assert own.differs(live.tag) is None
    assert len(kernel.sas) <= 2 + KEPT_ATTEMPTS + 1
    noted = [pair.epoch for pair in Notes(tmp_path).read("x").pairs]
    assert noted == [1, *range(60 - KEPT_ATTEMPTS - 1, 60)]
    own = Associations("x", ESP, 60, own._policies)  # a restart knows no more than the note
    own.stage(fresh(60, own.reserve(), 0x3000))
    assert own.inspect().tag == live.tag


@pytest.mark.parametrize("harm", ["damaged", "full"])
def test_a_close_takes_the_keys_away_whatever_became_of_the_note(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, harm: str
) -> None:
    kernel, own = opened(tmp_path)
    own.activate(fresh(1, own.reserve(), 0x2000))
    if harm == "damaged":
        (tmp_path / "x.json").write_bytes(b"{")
        own = Associations("x", ESP, 60, own._policies)
    else:
        monkeypatch.setattr(os, "write", lambda descriptor, data: 0)
    with pytest.raises(HostError) as caught:
        own.close()
    assert caught.value.code == "host.state"
    assert not kernel.sas and own._policies.sending(ESP.reqid) == 0


def keys_of(epoch: int, own: Reserved, spi_out: int) -> EpochKeys:
    """Fresh keys of an epoch, for a peer that chose this SPI."""
    assert own.expected is not None
    psk, out, into = (Secret.adopt(os.urandom(length)) for length in (32, 36, 36))
    return EpochKeys(epoch, psk, out, into, key_tag(psk), own.offer, own.expected + spi_out.to_bytes(4, "big"))


def test_what_is_to_be_retired_at_a_reload_is_not_forgotten_and_forgets_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A tunnel whose expiry changed is made anew, while old associations still wait for the end of the grace."""
    monkeypatch.setattr(xfrm_target, "GRACE_S", 0.1)
    monkeypatch.setattr(xfrm_target, "XfrmSocket", Kernel)

    async def main() -> None:
        xfrm = Xfrm(tmp_path)
        await xfrm.protect([protected_of(CONFIG)])
        target = XfrmTarget(xfrm, CONFIG)
        for epoch in (1, 2):
            await target.activate(keys_of(epoch, await target.reserve(), 0x2000 + epoch))
        await target.retire(2)
        target = XfrmTarget(xfrm, replace(CONFIG, expiry_s=90))
        await target.activate(keys_of(3, await target.reserve(), 0x2003))
        await asyncio.sleep(0.3)
        noted = Notes(tmp_path / "xfrm").read("x").pairs
        await xfrm.close()
        assert [pair.epoch for pair in noted] == [2, 3]
        assert len(cast(Kernel, xfrm.policies.kernel).sas) == 4

    asyncio.run(main())
