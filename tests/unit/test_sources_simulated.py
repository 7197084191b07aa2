"""The key source over a simulated link's store."""

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

import pytest

from qhybridd.clock import boottime
from qhybridd.errors import HostError, PeerError
from qhybridd.keystore import KeyStore
from qhybridd.protocol.messages import QkdRef
from qhybridd.sources.base import Supply
from qhybridd.sources.shares import Claim, Shares
from qhybridd.sources.simulated import LinkSource
from tests.unit.stores import fill, pair

Result = TypeVar("Result")


class End:
    """One gateway's end of the link `fibre`, with two tunnels on it."""

    def __init__(self, store: KeyStore, link: str = "fibre") -> None:
        self.store = store
        self.shares = Shares(store.available_bits)
        self.changes = 0
        now = boottime()
        self.shares.join("office", Claim(120.0, strict=True), now)
        self.shares.join("backup", Claim(120.0, strict=False), now)
        self.office = LinkSource(link, "office", store, self.shares, self.changed)
        self.backup = LinkSource(link, "backup", store, self.shares, self.changed)

    def changed(self) -> None:
        self.changes += 1


def ends(bits: int = 2560) -> tuple[End, End]:
    """Both ends, with a block."""
    alice, bob = pair()
    fill(alice, bob, bits=bits, now=boottime())
    return End(alice), End(bob)


def run(work: Coroutine[Any, Any, Result]) -> Result:
    return asyncio.run(work)


@pytest.mark.parametrize("bits", [256, 512])
def test_what_one_end_reserves_the_other_fetches(bits: int) -> None:
    alice, bob = ends()
    reserved = run(alice.office.reserve(bits))
    assert reserved.ref == QkdRef("sim:fibre", (), (), reserved.ref.key_ids, bits)
    assert len(reserved.secret) == bits // 8 and len(reserved.ref.key_ids) == bits // 256
    fetched = run(bob.office.fetch(reserved.ref))
    assert fetched.secret == reserved.secret and fetched.ref == reserved.ref
    assert (alice.changes, bob.changes) == (1, 1)
    with pytest.raises(HostError, match=r"source\.lost"):
        run(bob.office.fetch(reserved.ref))


def test_a_reference_to_another_source_is_refused_and_touches_nothing() -> None:
    alice, bob = ends()
    other = End(bob.store, link="other")
    ref = run(alice.office.reserve(256)).ref
    for verb in (other.office.fetch, other.office.burn):
        with pytest.raises(PeerError, match="sim:fibre, not from sim:other") as caught:
            run(verb(ref))
        assert caught.value.code == "tunnel.mismatch"
    assert bob.store.account.burnt_bits == 0
    run(bob.office.fetch(ref))


def test_the_supply_says_that_it_is_simulated() -> None:
    alice, _ = ends(bits=2560)
    assert alice.office.supply() == alice.backup.supply() == Supply(1280, simulated=True)


def test_the_last_key_is_the_strict_tunnel_s() -> None:
    alice, _ = ends(bits=512)
    assert alice.office.supply().available_bits == 256 and alice.backup.supply().available_bits == 0
    with pytest.raises(HostError, match="whose turn it is") as caught:
        run(alice.backup.reserve(256))
    assert caught.value.code == "source.empty" and alice.changes == 0
    run(alice.office.reserve(256))
    with pytest.raises(HostError, match="0 bits of key are in store"):
        run(alice.office.reserve(256))
    assert alice.store.account.balanced


def test_who_was_served_waits_its_turn() -> None:
    alice, _ = ends(bits=512)
    alice.shares.join("second", Claim(120.0, strict=True), boottime() + 0.001)
    second = LinkSource("fibre", "second", alice.store, alice.shares, alice.changed)
    run(alice.office.reserve(256))
    fill(alice.store, number=2, bits=512, now=boottime())
    assert alice.office.supply().available_bits == 0
    while not second.supply().available_bits:  # its turn comes in a millisecond
        pass
    run(second.reserve(256))


def test_burning_works_at_either_end() -> None:
    alice, bob = ends()
    ref = run(alice.office.reserve(256)).ref
    run(alice.office.burn(ref))
    run(bob.office.burn(ref))
    assert alice.store.account.burnt_bits == bob.store.account.burnt_bits == 256
    assert alice.store.account.used_bits == bob.store.account.used_bits == 0
    with pytest.raises(HostError, match=r"source\.lost"):
        run(bob.office.fetch(ref))
    assert (alice.changes, bob.changes) == (2, 2)
