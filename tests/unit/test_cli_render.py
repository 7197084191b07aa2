"""The status for eyes: what must be seen at a glance, on a narrow terminal and without one."""

import io
from dataclasses import dataclass

import msgspec
import pytest
from rich.console import Console

from qhybridd.cli.render import render
from qhybridd.cli.words import period, size, span
from qhybridd.status import GatewayStatus, LastError, PeerStatus, Status, TunnelStatus

GATEWAY = GatewayStatus("ab" * 48, "bb6n-lyim-qrnz-y2c6", "0.1.0", 11_530.0)
PEER = PeerStatus("berlin", "cd" * 48, "up", 7_400.0, "192.0.2.1:7420", "x25519-mlkem768", "")
OPEN = TunnelStatus(
    name="wan",
    peer="berlin",
    interface="wg0",
    state="open",
    why="",
    level="pqc",
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
    *tunnels: TunnelStatus, peers: tuple[PeerStatus, ...] = (PEER,), width: int = 80, colour: bool = False
) -> Picture:
    out = io.StringIO()
    colours = {"force_terminal": True, "color_system": "standard"} if colour else {"force_terminal": False}
    console = Console(file=out, width=width, highlight=False, **colours)
    console.print(render(Status(GATEWAY, list(peers), list(tunnels))))
    return Picture([line.rstrip() for line in out.getvalue().splitlines()])


def test_an_open_tunnel_says_all_of_its_key() -> None:
    picture = draw(OPEN)
    assert picture.line("1 of 1 tunnels open").endswith("gateway bb6n-lyim-qrnz-y2c6, up 3h12m, qhybridd 0.1.0")
    assert picture.line("* wan").split() == ["*", "wan", "open", "pqc", "42", "1m03s", "3m56s", "31s", "ago"]
    assert "wg0 to berlin, wait: a key every 2m, expiry 5m" in picture.text
    assert "41 rotations, 2 failed, received 3.1 MiB, sent 812 B" in picture.text
    assert picture.line("* berlin") == "* berlin  up 2h03m, 192.0.2.1:7420, x25519-mlkem768"


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
        OPEN, name="n" * 63, peer="p" * 63, interface="i" * 15, level="classical", epoch=123456, key_age_s=359_999.0
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
