"""Links between two gateways' peers over real sessions: their keys reach the tunnels, and their faults no further."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from qhybridd.config.records import Endpoint, LinkConfig
from qhybridd.crypto import kem
from qhybridd.crypto.identity import Identity
from qhybridd.crypto.levels import Level
from qhybridd.daemon.links import Links
from qhybridd.daemon.site import LinkSite
from qhybridd.daemon.tunnel import Tunnel
from qhybridd.distill.authenticate import Role
from qhybridd.errors import HostError, OperatorError
from qhybridd.links import messages as msg
from qhybridd.links.alice import AliceEnd
from qhybridd.policy import Policy
from qhybridd.protocol import actions as act
from qhybridd.secret import Secret
from qhybridd.status import FaultRequest
from tests.pairs.link_world import LINK, PSK
from tests.unit.daemons import WAN, Host, Target, cable, until

STRICT = replace(WAN, qkd="north", simulated=True, least=Level.HYBRID)
POLICY = Policy(Level.HYBRID, 1, 10, reset=True, kems=(kem.ML_KEM_768,), qkd=True)


@dataclass(eq=False)
class Side:
    """One gateway."""

    host: Host
    links: Links = field(init=False)
    tunnels: dict[str, Tunnel] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.links = Links(self.host.services, self.host.peers, self.tunnels)

    async def add_link(self, config: LinkConfig) -> None:
        await self.links.add(LinkSite(config, Secret.adopt(PSK)))

    @property
    def end(self) -> AliceEnd:
        """As Alice's; tests of Bob's touch what both have."""
        return self.links._places["north"].end  # type: ignore[return-value]

    @property
    def peer(self) -> object:
        return self.host.peers["peer"]


@asynccontextmanager
async def gateways(tmp_path: Path) -> AsyncIterator[tuple[Side, Side]]:
    """Alice's and Bob's, with a session; no links yet."""
    async with asyncio.TaskGroup() as tasks:
        identities = Identity.generate(), Identity.generate()
        alice, bob = (Side(Host(identity, tmp_path / str(n), tasks)) for n, identity in enumerate(identities))
        endpoint = await alice.host.listen()
        alice.host.add_peer(identities[1])
        bob.host.add_peer(identities[0], endpoints=(endpoint,))
        for side in (alice, bob):
            side.host.peers["peer"].start()
        await until(lambda: all(side.host.peers["peer"].session for side in (alice, bob)))
        try:
            yield alice, bob
        finally:
            for side in (bob, alice):
                await side.links.stop()
            for side in (bob, alice):
                await side.host.stop()


async def add_both(alice: Side, bob: Side) -> None:
    hers = replace(LINK, peer="peer")
    await alice.add_link(hers)
    await bob.add_link(his_end(alice))


def his_end(alice: Side) -> LinkConfig:
    return replace(LINK, peer="peer", role=Role.BOB, photons=Endpoint("127.0.0.1", alice.end.photons_port))


async def add_tunnels(alice: Side, bob: Side) -> None:
    for side, device in zip((alice, bob), cable(), strict=True):
        tunnel = Tunnel(STRICT, POLICY, Target(device), side.links.source(STRICT), side.host.services)
        side.host.tunnels.append(tunnel)
        side.tunnels["wan"] = tunnel
        await tunnel.start(0.0, side.host.peers["peer"].fingerprints)
        side.host.peers["peer"].add_tunnel(tunnel)
        side.links.join(STRICT)


def run(tmp_path: Path, story: Callable[[Side, Side], Awaitable[None]]) -> None:
    async def tell() -> None:
        async with gateways(tmp_path) as (alice, bob):
            await story(alice, bob)

    asyncio.run(tell())


def live(side: Side) -> act.LiveEpoch | None:
    return side.tunnels["wan"].rotation.live


def test_keys_of_the_link_make_a_strict_tunnel_hybrid_and_keep_it_so(tmp_path: Path) -> None:
    async def story(alice: Side, bob: Side) -> None:
        await add_tunnels(alice, bob)
        await asyncio.sleep(0.3)
        assert live(alice) is None
        await add_both(alice, bob)
        await until(lambda: live(alice) and live(bob), 20.0)
        first = live(alice)
        assert first is not None and first.level is Level.HYBRID
        await until(lambda: (now := live(alice)) and now.epoch >= first.epoch + 2, 20.0)
        await asyncio.sleep(0.1)
        used = alice.end.store.account.used_bits
        assert used >= 3 * 256
        (status,) = alice.links.report()
        assert status.state == "up" and status.simulated and status.store.used_bits >= used

    run(tmp_path, story)


def test_a_session_is_replaced_when_a_link_asks_and_distillation_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("qhybridd.protocol.peering.RENEW_LEAST_S", 0.1)

    async def story(alice: Side, bob: Side) -> None:
        await add_both(alice, bob)
        await until(lambda: alice.end.progress.kept >= 2, 20.0)
        old = alice.host.peers["peer"].session
        assert not alice.host.peers["peer"].renew()  # she has no endpoint of his
        assert old is not None
        alice.end._renew(alice.end._contacts[old.session.hash])
        await until(lambda: alice.host.peers["peer"].session not in (None, old), 10.0)
        kept = alice.end.progress.kept
        await until(lambda: alice.end.progress.kept >= kept + 3, 20.0)
        assert "defect" not in alice.host.lines.events() + bob.host.lines.events()

    run(tmp_path, story)


@pytest.mark.parametrize("which", [0, 1])
def test_a_link_that_is_made_anew_at_one_end_takes_no_pads_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, which: int
) -> None:
    monkeypatch.setattr("qhybridd.protocol.peering.RENEW_LEAST_S", 0.1)

    async def story(alice: Side, bob: Side) -> None:
        await add_both(alice, bob)
        await until(lambda: alice.end.progress.kept >= 4, 20.0)
        side = (alice, bob)[which]
        old = alice.host.peers["peer"].session
        if side is alice:  # her photons have to stay where they are
            config = replace(side.end.config, photons=Endpoint("127.0.0.1", side.end.photons_port))
        else:
            config = side.end.config
        await side.links.renew("peer", {"north": LinkSite(config, Secret.adopt(PSK))})
        assert side.end.store.available_bits() == 0
        await until(lambda: alice.host.peers["peer"].session not in (None, old), 10.0)
        kept = bob.end.progress.kept if side is alice else 0
        await until(lambda: bob.end.progress.kept >= kept + 5, 30.0)
        mine, other = bob.end.store, alice.end.store
        await until(lambda: mine.available_bits() > 0)
        ids, secret = mine.reserve(256, 0.0)
        assert other.fetch(ids, 256, 0.0) == secret

    run(tmp_path, story)


def test_a_link_that_the_other_gateway_does_not_have_says_so_until_it_has(tmp_path: Path) -> None:
    async def story(alice: Side, bob: Side) -> None:
        await alice.add_link(replace(LINK, peer="peer"))
        await until(lambda: "unknown link" in bob.host.lines.events())
        await until(lambda: "does not take" in alice.links.report()[0].why)
        assert alice.links.report()[0].code == "link.unknown"
        await bob.add_link(his_end(alice))
        await until(lambda: bob.end.progress.kept >= 1, 20.0)
        await bob.links.remove("north")
        await until(lambda: alice.links.report()[0].photons == "waiting")

    run(tmp_path, story)


def test_a_defect_of_a_link_ends_neither_the_session_nor_the_tunnel(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError

    async def story(alice: Side, bob: Side) -> None:
        await add_both(alice, bob)
        session = alice.host.peers["peer"].session
        for end in (alice.end, bob.end):
            monkeypatch.setattr(end, "_on_message", fail)
        await until(lambda: "defect" in alice.host.lines.events() + bob.host.lines.events(), 20.0)
        await asyncio.sleep(0.3)
        assert alice.host.peers["peer"].session is session

    run(tmp_path, story)


def test_a_message_that_is_none_ends_the_session(tmp_path: Path) -> None:
    async def story(alice: Side, bob: Side) -> None:
        session = alice.host.peers["peer"].session
        assert session is not None
        bad = msg.Ready("north", b"short", 0)
        alice.host.peers["peer"].tell(session.session.hash, bad)
        await until(lambda: any(line.get("code") == "link.malformed" for line in bob.host.lines.lines))

    run(tmp_path, story)


def test_faults_reach_the_link_that_is_named(tmp_path: Path) -> None:
    async def story(alice: Side, bob: Side) -> None:
        await add_both(alice, bob)
        assert alice.links.fault(FaultRequest("north", "loss", 3.0)).faults
        assert alice.links.fault(FaultRequest("north")).faults == alice.links.report()[0].faults
        assert not alice.links.fault(FaultRequest("north", mend=True)).faults
        with pytest.raises(OperatorError, match="no link is called south") as refused:
            alice.links.fault(FaultRequest("south"))
        assert "north" in refused.value.hint
        monkey = type(alice.end)
        monkey.simulated = False
        try:
            with pytest.raises(OperatorError, match="not simulated"):
                alice.links.fault(FaultRequest("north", "cut"))
        finally:
            monkey.simulated = True

    run(tmp_path, story)


def test_a_tunnel_hears_of_its_supply_and_of_its_end(tmp_path: Path) -> None:
    async def story(alice: Side, bob: Side) -> None:
        await add_tunnels(alice, bob)
        heard: list[bool] = []
        tunnel = alice.tunnels["wan"]
        feed = tunnel.feed

        def listen(event: act.Event) -> None:
            if isinstance(event, act.QkdSupply):
                heard.append(event.ready)
            feed(event)

        tunnel.feed = listen  # type: ignore[method-assign]
        await add_both(alice, bob)
        await until(lambda: True in heard, 20.0)
        await alice.links.remove("north")
        await until(lambda: heard[-1] is False)
        source = alice.links.source(STRICT)
        assert source is not None and source.supply().available_bits == 0
        with pytest.raises(HostError) as refused:
            await source.reserve(256)
        assert refused.value.code == "source.empty"
        assert alice.links.source(WAN) is None

    run(tmp_path, story)


def test_a_link_without_memory_stops_neither_a_reload_nor_a_revocation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise HostError("host.memory", "no locked memory is left")

    async def story(alice: Side, bob: Side) -> None:
        await add_both(alice, bob)
        sites = {"north": LinkSite(replace(LINK, peer="peer"), Secret.adopt(PSK))}
        monkeypatch.setattr("qhybridd.links.alice.Line", refuse)
        await alice.links.renew("peer", sites)
        assert alice.links.report() == []
        with pytest.raises(OperatorError, match="no link is called"):
            alice.links.fault(FaultRequest("north"))

    run(tmp_path, story)
