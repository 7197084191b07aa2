"""The status for eyes: what must be seen at a glance, on a narrow terminal and without one."""

import io
from dataclasses import dataclass

import msgspec
import pytest
from rich.console import Console

from qhybridd.cli.render import render
from qhybridd.cli.words import current, period, rate, size, span
from qhybridd.status import (
    EspStatus,
    ExposureStatus,
    GatewayStatus,
    LastError,
    LinkStatus,
    PeerStatus,
    Status,
    StoreStatus,
    TunnelStatus,
)

GATEWAY = GatewayStatus("ab" * 48, "bb6n-lyim-qrnz-y2c6", "0.1.0", 11_530.0)
PEER = PeerStatus("berlin", "cd" * 48, "up", 7_400.0, "192.0.2.1:7420", "x25519-mlkem768", "")
OPEN = TunnelStatus(
    name="wan",
    peer="berlin",
    interface="wg0",
    state="open",
    why="",
    level="pqc",
    simulated=False,
    epoch=42,
    phase="idle",
    key_age_s=63.4,
    expires_in_s=236.6,
    last_handshake_s=31.0,
    renew="wait",
    period_s=120.0,
    expiry_s=300.0,
    rotations=41,
    failures=2,
    rx_bytes=3_250_000,
    tx_bytes=812,
)
CLOSED = msgspec.structs.replace(
    OPEN,
    name="lab",
    state="closed",
    why="the key expired 12 s ago and the peer does not answer",
    level=None,
    epoch=0,
    phase="asking",
    key_age_s=None,
    expires_in_s=None,
    last_handshake_s=None,
    renew="reset",
    period_s=10.0,
    expiry_s=20.0,
    last_error=LastError("tunnel.late", "a step was not done in time", "See the peer's log.", 12.0),
)


@dataclass(frozen=True)
class Picture:
    lines: list[str]

    def line(self, start: str) -> str:
        found = [line for line in self.lines if line.startswith(start)]
        assert len(found) == 1, "\n".join(self.lines)
        return found[0]

    @property
    def text(self) -> str:
        return "\n".join(self.lines)


def draw(
    *tunnels: TunnelStatus,
    peers: tuple[PeerStatus, ...] = (PEER,),
    links: tuple[LinkStatus, ...] = (),
    width: int = 80,
    colour: bool = False,
) -> Picture:
    out = io.StringIO()
    colours = {"force_terminal": True, "color_system": "standard"} if colour else {"force_terminal": False}
    console = Console(file=out, width=width, highlight=False, **colours)
    console.print(render(Status(GATEWAY, list(peers), list(tunnels), list(links))))
    return Picture([line.rstrip() for line in out.getvalue().splitlines()])


def test_an_open_tunnel_says_all_of_its_key() -> None:
    picture = draw(OPEN)
    assert picture.line("1 of 1 tunnels open").endswith("gateway bb6n-lyim-qrnz-y2c6, up 3h12m, qhybridd 0.1.0")
    assert picture.line("* wan").split() == ["*", "wan", "open", "pqc", "42", "1m03s", "3m56s", "31s", "ago"]
    assert "wg0 to berlin, wait: a key every 2m, expiry 5m" in picture.text
    assert "41 rotations, 2 failed, received 3.1 MiB, sent 812 B" in picture.text
    assert picture.line("* berlin") == "* berlin  up 2h03m, 192.0.2.1:7420, x25519-mlkem768"


ESP = msgspec.structs.replace(
    OPEN,
    interface="",
    last_handshake_s=None,
    renew="seamless",
    esp=EspStatus("192.0.2.1", "192.0.2.2", "tunnel", "aes-256-gcm", 0x51000001),
)


def test_a_tunnel_over_esp_shows_its_ends_and_no_handshake() -> None:
    picture = draw(ESP)
    assert picture.line("* wan").split() == ["*", "wan", "open", "pqc", "42", "1m03s", "3m56s", "-"]
    assert "    ESP 192.0.2.1 to 192.0.2.2, tunnel, aes-256-gcm" in picture.lines
    assert "    to berlin: a key every 2m, expiry 5m" in picture.lines
    wrapped = EspStatus("2001:db8::1", "2001:db8::2", "transport", "chacha20-poly1305", 0x51000001, 4500, 7)
    picture = draw(msgspec.structs.replace(ESP, interface="ipsec0", esp=wrapped))
    assert "ESP in UDP 4500 2001:db8::1 to 2001:db8::2, transport," in picture.text
    assert "ipsec0" in picture.text


def test_the_worst_case_is_shown() -> None:
    def drawn(exposure: ExposureStatus) -> str:
        return " ".join(draw(msgspec.structs.replace(OPEN, exposure=exposure)).text.split())

    assert "at worst closed 5m00s after the peer is gone 41 rotations" in drawn(ExposureStatus(300.0))
    strict = drawn(ExposureStatus(300.0, 1530.0, 4))
    assert "5m00s after the peer is gone, closed 25m30s after QKD is (4 keys in store)" in strict
    assert "without a QKD part 5m30s after QKD is (1 key in store)" in drawn(ExposureStatus(300.0, 330.0, 1, True))


def test_a_closed_tunnel_says_why() -> None:
    picture = draw(OPEN, CLOSED)
    assert picture.line("1 of 2 tunnels CLOSED")
    assert picture.line("x lab").split() == ["x", "lab", "CLOSED", "-", "-", "-", "-", "never"]
    assert "    closed: the key expired 12 s ago and the peer does not answer" in picture.lines
    assert "now: asking" in picture.text
    assert "    last error 12s ago: a step was not done in time [tunnel.late]" in picture.lines
    assert "    fix: See the peer's log." in picture.lines
    unexplained = draw(msgspec.structs.replace(CLOSED, why=""))
    assert "    closed: no key has become live yet" in unexplained.lines


def test_a_tunnel_that_is_about_to_close_stands_out() -> None:
    assert draw(msgspec.structs.replace(OPEN, expires_in_s=60.5)).line("* wan")
    assert draw(msgspec.structs.replace(OPEN, expires_in_s=59.5)).line("! wan")


def test_a_peer_that_is_down_says_why() -> None:
    down = msgspec.structs.replace(
        PEER, session="down", since_s=250.0, suite="", why="connection refused", hint="look there"
    )
    assert draw(OPEN, peers=(down,)).line("x berlin") == "x berlin  down 4m10s, 192.0.2.1:7420"
    assert draw(OPEN, peers=(down,)).line("    why: ") == "    why: connection refused"
    assert draw(OPEN, peers=(down,)).line("    fix: ") == "    fix: look there"


def test_the_columns_stand_below_their_titles() -> None:
    picture = draw(OPEN, CLOSED)
    head = picture.line("  TUNNEL")
    row = picture.line("* wan")
    for title, cell in (("LEVEL", "pqc"), ("EPOCH", "42"), ("KEY AGE", "1m03s"), ("CLOSES IN", "3m56s")):
        assert head.index(title) + len(title) == row.index(cell) + len(cell)


def test_it_fits_80_columns_whatever_the_names() -> None:
    long = msgspec.structs.replace(
        OPEN,
        exposure=ExposureStatus(86_399.0, 359_999.0, 1_048_576, True),
        name="n" * 63,
        peer="p" * 63,
        interface="i" * 15,
        level="classical",
        epoch=123456,
        key_age_s=359_999.0,
    )
    peer = msgspec.structs.replace(PEER, name="p" * 63, endpoint="[2001:db8:aaaa:bbbb:cccc:dddd:eeee:ffff]:65535")
    picture = draw(long, msgspec.structs.replace(CLOSED, name="m" * 63), peers=(peer,))
    assert max(map(len, picture.lines)) <= 80
    assert "ago" in picture.line("* nnn")
    assert "classical" in picture.line("* nnn")


def test_no_colour_without_a_terminal_and_no_meaning_by_colour_alone() -> None:
    assert "\x1b" not in draw(OPEN, CLOSED).text
    assert "\x1b[" in draw(OPEN, CLOSED, colour=True).text


def test_a_stranger_cannot_write_on_the_terminal() -> None:
    evil = "\x1b[2J\x1b]0;x\x07\r\n[bold]"
    picture = draw(
        msgspec.structs.replace(CLOSED, why=evil, last_error=LastError("peer.closed", evil, evil), phase=evil),
        peers=(msgspec.structs.replace(PEER, session="down", why=evil, endpoint=evil, name=evil),),
    )
    assert not set(picture.text) & {"\x1b", "\x07", "\r"}
    assert "[bold]" in picture.text  # shown, not obeyed


def test_nothing_configured() -> None:
    picture = draw(peers=())
    assert picture.line("no tunnel is configured")
    assert "no peer is known" in picture.text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (None, "-"),
        (-1, "0s"),
        (0.9, "0s"),
        (59.9, "59s"),
        (60, "1m00s"),
        (3600, "1h00m"),
        (86_399, "23h59m"),
        (90_000, "1d01h"),
    ],
)
def test_spans(seconds: float | None, text: str) -> None:
    assert span(seconds) == text


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1.0 KiB"),
        (1 << 20, "1.0 MiB"),
        (1536 << 20, "1.5 GiB"),
        (1 << 60, "1048576.0 TiB"),
    ],
)
def test_sizes(count: int, text: str) -> None:
    assert size(count) == text


@pytest.mark.parametrize(("seconds", "text"), [(20, "20s"), (120, "2m"), (90, "1m30s"), (3600, "1h"), (5400, "1h30m")])
def test_periods(seconds: float, text: str) -> None:
    assert period(seconds) == text


# ---- links

STORE = StoreStatus("ready", 1_000_000, 51_200, 2_560, 512, 8_000, 307_200, 304_640, 25_600)
LINK = LinkStatus(
    name="fibre",
    peer="berlin",
    role="alice",
    simulated=True,
    state="up",
    why="",
    code="",
    hint="",
    photons="connected",
    faults=[],
    block=42,
    kept=40,
    dropped=2,
    qber_key=0.0112,
    qber_test=0.0131,
    clicks_per_s=1_930_000.0,
    key_bits_per_s=412_345.0,
    block_age_s=2.4,
    angle_rad=None,
    current_a=None,
    synchronised=None,
    store=STORE,
)


def test_a_link_says_what_it_gives() -> None:
    picture = draw(OPEN, links=(LINK,))
    assert picture.line("* fibre").split() == ["*", "fibre", "up", "1.31", "%", "412", "kbit/s", "ready", "2390", "yes"]
    assert "    SIMULATED: alice here, bob is berlin" in picture.lines
    assert "    block 42, 40 kept, 2 dropped, last key 2s ago, 1.93 Mclick/s" in picture.lines
    assert "    QBER X 1.12 % Z 1.31 %" in picture.lines
    assert "    keys: 1200 here, 1190 there, 100 unconfirmed, 200 used, 10 expired, 2 burnt" in picture.lines
    head, row = picture.line("  LINK"), picture.line("* fibre")
    for title, cell in (("QBER", "1.31 %"), ("KEY RATE", "412 kbit/s"), ("STORE", "ready"), ("KEYS", "2390")):
        assert head.index(title) + len(title) == row.index(cell) + len(cell)


def test_a_simulation_says_so_at_the_top_and_beside_each_level() -> None:
    taken = msgspec.structs.replace(OPEN, level="hybrid", simulated=True, qkd="fibre")
    picture = draw(taken, links=(LINK,))
    assert picture.line("* wan").split()[3] == "hybrid*"
    assert picture.lines[1].startswith("SIMULATED QKD: fibre.") and "hybrid* = " in picture.lines[1]
    assert draw(OPEN, links=(LINK,)).lines[1] == picture.lines[1]
    assert draw(taken).lines[1].startswith("SIMULATED QKD.")  # the link is gone, its key is live
    real = draw(
        msgspec.structs.replace(taken, simulated=False), links=(msgspec.structs.replace(LINK, simulated=False),)
    )
    assert "SIMULATED" not in real.text and real.line("* wan").split()[3] == "hybrid"


def test_a_fallback_stands_out() -> None:
    fallen = draw(msgspec.structs.replace(OPEN, qkd="fibre"), links=(LINK,))
    assert fallen.line("! wan").split()[3] == "pqc"
    assert "    fallen back to pqc: its key has no part of link fibre" in fallen.lines
    closed = draw(msgspec.structs.replace(CLOSED, qkd="fibre"))
    assert closed.line("x lab") and "fallen" not in closed.text


def test_a_link_that_is_down_says_why_and_what_was_broken() -> None:
    down = msgspec.structs.replace(
        LINK,
        state="down",
        why="a QBER of 25.1 % in the test basis",
        code="link.attack",
        hint="look there",
        faults=["an eavesdropper: intercept-resend on 1 of the pulses"],
        qber_test=0.251,
        block_age_s=61.0,
        photons="waiting",
        synchronised=False,
        angle_rad=-0.02,
        current_a=2e-9,
        store=msgspec.structs.replace(STORE, mark="empty", own_bits=0, peer_bits=0),
    )
    picture = draw(OPEN, links=(down,))
    row = picture.line("x fibre").split()
    assert row == ["x", "fibre", "DOWN", "25.10", "%", "412", "kbit/s", "empty", "0", "none"]
    assert "    down: a QBER of 25.1 % in the test basis [link.attack]" in picture.lines
    assert "    fix: look there" in picture.lines
    assert "    broken on purpose: an eavesdropper: intercept-resend on 1 of the pulses" in picture.lines
    for figure in ("angle -0.020 rad", "detectors 2 nA", "NOT SYNCHRONISED", "last key 1m01s ago"):
        assert figure in " ".join(picture.text.split())


def test_a_link_before_its_first_block() -> None:
    starting = msgspec.structs.replace(
        LINK, state="starting", why="no session yet", block=0, qber_key=None, qber_test=None, key_bits_per_s=0.0
    )
    picture = draw(OPEN, links=(starting,))
    assert picture.line("! fibre").split()[2:6] == ["starting", "-", "0", "bit/s"]
    assert "    starting: no session yet" in picture.lines
    assert "    no block yet" in picture.lines


def test_links_fit_80_columns_and_obey_nobody() -> None:
    evil = "\x1b[2J\x1b]0;x\x07\r\n[bold]"
    wild = msgspec.structs.replace(
        LINK,
        name=evil + "n" * 60,
        peer="p" * 63,
        state="starting",
        why=evil,
        code=evil,
        hint=evil * 9,
        faults=[evil],
        key_bits_per_s=123_456_789.0,
        clicks_per_s=999_499.0,
        qber_key=1.0,
        store=msgspec.structs.replace(STORE, mark="charging", own_bits=(1 << 20) * 200, peer_bits=0),
    )
    picture = draw(OPEN, links=(wild, LINK))
    assert max(map(len, picture.lines)) <= 80
    assert not set(picture.text) & {"\x1b", "\x07", "\r"}
    assert "819200" in picture.line("! ")


@pytest.mark.parametrize(
    ("per_s", "text"),
    [
        (0.0, "0 bit/s"),
        (999.4, "999 bit/s"),
        (999.6, "1 kbit/s"),
        (999_499.0, "999 kbit/s"),
        (999_600.0, "1 Mbit/s"),
        (1.234e9, "1.23 Gbit/s"),
    ],
)
def test_rates(per_s: float, text: str) -> None:
    assert rate(per_s, "bit") == text


@pytest.mark.parametrize(
    ("amperes", "text"),
    [(0.0, "0 pA"), (2.15e-13, "0.215 pA"), (1e-9, "1 nA"), (9.996e-7, "1 µA"), (1e-3, "1e+03 µA")],
)
def test_currents(amperes: float, text: str) -> None:
    assert current(amperes) == text
