"""The daemon's part of XFRM: policies stand whether or not the kernel has ESP, and what it lacks is told at once."""

import asyncio
from collections.abc import Iterator
from dataclasses import replace
from ipaddress import ip_address, ip_network
from pathlib import Path

import pytest

from qhybridd.config.records import Config, TunnelConfig, XfrmConfig, default_reqid
from qhybridd.daemon.esp import Esp
from qhybridd.netlink.xfrm import XfrmSocket
from qhybridd.targets.esp_selectors import policies_of, protected_of
from qhybridd.targets.xfrm import Xfrm
from qhybridd.telemetry.log import Log
from tests.kernel.abilities import has_esp
from tests.netns.namespaces import Lab, inside, run
from tests.unit.daemons import Lines

ESP = XfrmConfig(ip_address("192.0.2.1"), ip_address("192.0.2.2"), default_reqid("wan"))
CONFIG = Config(tunnels={"wan": TunnelConfig("wan", "berlin", ESP, (ip_network("10.2.0.0/16"),), renew="seamless")})


@pytest.fixture
def namespace() -> Iterator[str]:
    with Lab() as lab:
        lab.add("a")
        yield lab.name("a")


def test_policies_stand_and_a_missing_esp_is_told_before_the_first_key(namespace: str, tmp_path: Path) -> None:
    lines = Lines()

    async def start() -> None:
        esp = Esp(tmp_path, Log(lines))
        esp.require(CONFIG)
        await esp.protect(CONFIG)
        await esp.protect(CONFIG)  # a reload, while the kernel still loads
        await esp.close()

    with inside(namespace):
        asyncio.run(start())
        kernel = XfrmSocket()
    standing = kernel.dump_policies()
    assert len(standing) == len(policies_of([protected_of(CONFIG.tunnels["wan"])]))
    assert kernel.dump_sas() == [], "what was tried is gone"
    kernel.close()
    told = [(line["event"], line["code"]) for line in lines.lines if "code" in line]
    assert told == ([] if has_esp() else [("esp", "host.no-esp")])


FOREIGN = "src 10.7.0.0/16 dst 10.8.0.0/16 dir out"


@pytest.mark.parametrize(
    ("words", "ours"),
    [
        ("policy flush", True),
        ("policy delete dir in src 10.2.0.0/16 dst 0.0.0.0/0", True),
        ("policy update dir out src 0.0.0.0/0 dst 10.2.0.0/16 action block", True),
        (f"policy add {FOREIGN}", False),
        ("state allocspi src 192.0.2.7 dst 192.0.2.8 proto esp min 0x100 max 0x100", False),
    ],
)
def test_only_what_others_do_to_ours_is_news(namespace: str, tmp_path: Path, words: str, ours: bool) -> None:
    tunnel = protected_of(CONFIG.tunnels["wan"])
    wider = replace(tunnel, protects=(*tunnel.protects, ip_network("10.3.0.0/16")))

    async def watch() -> None:
        xfrm = Xfrm(tmp_path)
        await xfrm.protect([tunnel])
        news = asyncio.create_task(xfrm.changed())
        for tunnels in ([wider], [tunnel], [], [tunnel]):
            await xfrm.protect(tunnels)
        if has_esp():
            await xfrm.prepare([tunnel])
        await asyncio.sleep(0.1)
        assert not news.done(), "what it does itself is none"
        await asyncio.to_thread(run, "ip", "-n", namespace, "xfrm", *words.split())
        if ours:
            await asyncio.wait_for(news, 2)
        else:
            await asyncio.sleep(0.3)
            assert not news.done()
            news.cancel()
        await xfrm.close()

    with inside(namespace):
        asyncio.run(watch())
