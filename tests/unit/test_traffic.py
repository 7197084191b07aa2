"""The account of a measured stream, held against sets and lists."""

import random
import socket
import time
from pathlib import Path

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from qhybridd.apps.flow import Direction
from qhybridd.apps.traffic import GAP_S, LATE_S, MAX_SEQUENCE, PACKET, Account, Arrivals, End, write_report

STREAM = b"stream-1"


@given(st.lists(st.integers(min_value=-3, max_value=5000), max_size=200))
def test_each_packet_counts_once_in_any_order(sequences: list[int]) -> None:
    arrivals = Arrivals()
    for step, sequence in enumerate(sequences):
        arrivals.note(sequence, 0.001, 1.0 + step)
    valid = [sequence for sequence in sequences if sequence >= 0]
    assert arrivals.received == len(set(valid))
    assert arrivals.duplicates == len(valid) - len(set(valid))
    assert arrivals.next_sequence == max(valid, default=-1) + 1


def test_a_sequence_number_out_of_range_takes_no_memory() -> None:
    arrivals = Arrivals()
    arrivals.note(MAX_SEQUENCE, 0.0, 1.0)
    arrivals.note((1 << 64) - 1, 0.0, 1.0)
    assert arrivals.received == arrivals.next_sequence == 0


def test_a_gap_is_a_silence_of_a_quarter_second() -> None:
    arrivals = Arrivals()
    for sequence, now in enumerate((10.0, 10.01, 10.01 + GAP_S, 10.02 + GAP_S, 20.0)):
        arrivals.note(sequence, 0.0, now)
    assert [(gap.last_s, gap.next_s) for gap in arrivals.gaps] == [(10.01, 10.01 + GAP_S), (10.02 + GAP_S, 20.0)]


@given(st.sets(st.integers(min_value=0, max_value=299)), st.randoms(use_true_random=False))
def test_what_is_lost_is_what_did_not_arrive(dropped: set[int], shuffle: random.Random) -> None:
    arrivals = Arrivals()
    order = [sequence for sequence in range(300) if sequence not in dropped]
    shuffle.shuffle(order)
    for sequence in order:
        arrivals.note(sequence, 0.0, 5.0)
    sender = Account(at_s=9.0, sent=300, hushed=True)
    receiver = Account(at_s=9.0, received=arrivals.received, next_sequence=arrivals.next_sequence, hushed=True)
    assert Direction(sender, receiver).lost == len(dropped)


def test_what_is_on_its_way_is_not_lost_yet() -> None:
    sender = Account(at_s=9.0, sent=110)
    assert Direction(sender, Account(at_s=9.0, received=100, next_sequence=100, last_arrival_s=8.9)).lost == 0
    assert Direction(sender, Account(at_s=9.0, received=100, next_sequence=100, last_arrival_s=8.0)).lost == 10


def _pair(interval_s: float) -> tuple[End, socket.socket, socket.socket]:
    one, other = (socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(2))
    for bound in (one, other):
        bound.setblocking(False)
        bound.bind(("127.0.0.1", 0))
    return End(STREAM, one, other.getsockname(), interval_s), one, other


def test_packets_leave_at_absolute_deadlines() -> None:
    end, one, other = _pair(0.01)
    with one, other:
        end.send_due(50.0)
        assert end.account(50.0).sent == 0, "nothing before it is told to"
        end.command("send", 50.0)
        for now in (50.0, 50.004, 50.035, 50.036, 50.0401):  # a late turn does not shift what follows
            end.send_due(now)
        assert end.account(51.0).sent == 5
        assert end.wait_s(50.0401) is not None
        end.send_due(50.0401 + 2 * LATE_S)  # a long stop: one packet, no burst
        assert end.account(53.0).sent == 6
        end.command("hush", 53.0)
        end.send_due(60.0)
        assert end.account(60.0).sent == 6
        assert [PACKET.unpack_from(other.recv(100))[1] for _ in range(6)] == list(range(6))


def test_packets_of_others_are_left_out() -> None:
    end, one, other = _pair(0.01)
    with one, other:
        sent_ns = int(time.clock_gettime(time.CLOCK_BOOTTIME) * 1e9)
        mine, foreign = PACKET.pack(STREAM, 0, sent_ns), PACKET.pack(b"stream-2", 1, sent_ns)
        for data in (mine.ljust(64, b"\0"), foreign.ljust(64, b"\0"), mine, b""):
            other.sendto(data, one.getsockname())
        time.sleep(0.05)
        end.receive()
        account = end.account(9.0)
        assert (account.received, account.next_sequence) == (1, 1)
        assert 0 < account.delay_s < 5


def test_a_refused_packet_is_sent_and_refused() -> None:
    bound = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    with bound:
        end = End(STREAM, bound, ("255.255.255.255", 9), 0.01)  # broadcast without leave: EACCES
        end.command("send", 1.0)
        end.send_due(1.0)
        assert (end.account(1.0).sent, end.account(1.0).refused) == (1, 1)


def test_a_report_is_read_as_it_was_written(tmp_path: Path) -> None:
    account = Account(at_s=1.5, sent=7, refused=1, received=5, next_sequence=6, hushed=True)
    write_report(tmp_path / "report.json", account)
    assert msgspec.json.decode((tmp_path / "report.json").read_bytes(), type=Account) == account
    assert [path.name for path in tmp_path.iterdir()] == ["report.json"]
