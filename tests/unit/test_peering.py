"""Which session is in use, and when a peer is dialled."""

from qhybridd.protocol.peering import (
    DRAIN_S,
    HIGHER_WAITS_S,
    MAX_BACKOFF_S,
    RENEW_LEAST_S,
    RENEW_S,
    Dial,
    Drop,
    Peering,
    Use,
)


def peering(*, lower: bool = True, dials: bool = True) -> Peering:
    return Peering(lower=lower, dials=dials, jitter=lambda: 0.5, now=100.0)


def test_the_lower_dials_at_once_and_the_higher_later() -> None:
    assert peering().tick(100.0) == [Dial(1)]
    higher = peering(lower=False)
    assert higher.tick(100.0) == [] and higher.deadline() == 100.0 + HIGHER_WAITS_S
    assert higher.tick(100.0 + HIGHER_WAITS_S) == [Dial(1)]


def test_without_an_endpoint_nobody_is_dialled() -> None:
    waits = peering(dials=False)
    assert waits.deadline() is None and waits.tick(1e6) == []


def test_who_falls_silent_dials_no_more() -> None:
    p = peering()
    (dial,) = p.tick(100.0)
    assert isinstance(dial, Dial)
    p.dials = False
    p.down(dial.connection, 100.0)
    assert p.deadline() is None
    assert p.tick(1e6) == []


def test_failed_dials_back_off_to_a_bound() -> None:
    p = peering()
    now, pauses = 100.0, []
    for _ in range(12):
        (dial,) = p.tick(now)
        assert isinstance(dial, Dial)
        assert p.tick(now) == []
        assert p.down(dial.connection, now) == []
        following = p.deadline()
        assert following is not None
        pauses.append(following - now)
        assert p.tick(following - 0.01) == []
        now = following
    assert pauses == sorted(pauses) and pauses[0] < 0.5 and pauses[-1] == MAX_BACKOFF_S * 0.75


def test_a_session_is_used_and_a_lost_one_dialled_again() -> None:
    p = peering()
    p.tick(100.0)
    assert p.up(1, dialled=True, lower=True, now=101.0) == [Use(1)]
    assert p.current == 1 and p.tick(200.0) == []
    assert p.down(1, 201.0) == []
    assert p.current is None
    assert p.tick(202.0) == [Dial(2)]


def test_the_newer_session_wins_and_the_old_one_drains() -> None:
    p = peering()
    p.tick(100.0)
    p.up(1, dialled=True, lower=True, now=100.0)
    incoming = p.number()
    assert p.up(incoming, dialled=False, lower=True, now=200.0) == [Use(incoming)]
    assert p.draining == (1,) and p.deadline() == 200.0 + DRAIN_S
    assert p.tick(200.0 + DRAIN_S) == [Drop(1)]
    assert p.down(1, 211.0) == [] and p.current == incoming


def test_a_drained_session_goes_early() -> None:
    p = peering()
    p.tick(100.0)
    p.up(1, dialled=True, lower=True, now=100.0)
    p.up(p.number(), dialled=False, lower=True, now=200.0)
    p.drained(1, 201.0)
    p.drained(7, 201.0)
    assert p.tick(201.0) == [Drop(1)]


def test_both_ends_keep_the_same_one_of_two_crossing_sessions() -> None:
    """X was dialled by the lower end, Y by the higher; each end sees its own order."""
    for order in ("XY", "YX"):
        for lower in (True, False):
            p = peering(lower=lower)
            p.tick(200.0)
            numbers = {"X": 1 if lower else p.number(), "Y": p.number() if lower else 1}
            for i, name in enumerate(order):
                p.up(numbers[name], dialled=(name == "X") == lower, lower=lower, now=200.0 + i)
            assert p.current == numbers["X"], (order, lower)


def test_the_dialler_renews_the_session_hourly() -> None:
    p = peering()
    p.tick(100.0)
    p.up(1, dialled=True, lower=True, now=100.0)
    assert p.tick(100.0 + RENEW_S - 1) == []
    (dial,) = p.tick(100.0 + RENEW_S)
    assert isinstance(dial, Dial)
    assert p.up(dial.connection, dialled=True, lower=True, now=100.0 + RENEW_S) == [Use(dial.connection)]
    answerer = peering(dials=True)
    answerer.up(answerer.number(), dialled=False, lower=True, now=100.0)
    assert answerer.tick(100.0 + 2 * RENEW_S) == []


def test_when_the_new_session_dies_the_draining_one_is_used_again() -> None:
    p = peering()
    p.tick(100.0)
    p.up(1, dialled=True, lower=True, now=100.0)
    second = p.number()
    p.up(second, dialled=False, lower=True, now=200.0)
    assert p.down(second, 201.0) == [Use(1)]
    assert p.current == 1 and p.draining == ()


def test_a_fresh_handshake_may_be_asked_for_and_comes_when_the_session_is_old_enough() -> None:
    p = peering()
    assert not p.renew(100.0)  # there is no session to replace
    (dial,) = p.tick(100.0)
    assert isinstance(dial, Dial)
    p.up(dial.connection, dialled=True, lower=True, now=101.0)
    assert p.renew(102.0) and p.deadline() == 101.0 + RENEW_LEAST_S
    assert p.tick(101.0 + RENEW_LEAST_S - 0.1) == []
    (again,) = p.tick(101.0 + RENEW_LEAST_S)
    assert isinstance(again, Dial)
    assert p.up(again.connection, dialled=True, lower=True, now=122.0) == [Use(again.connection)]
    assert p.draining == (dial.connection,)
    p.drained(dial.connection, 122.0)
    assert p.tick(122.0) == [Drop(dial.connection)]
    assert p.deadline() == 122.0 + RENEW_S  # asked once, done once


def test_a_dialled_end_with_an_endpoint_may_ask_too_and_one_without_may_not() -> None:
    p = peering(lower=False)
    p.up(p.number(), dialled=False, lower=False, now=100.0)
    assert p.deadline() == float("inf")
    assert p.renew(150.0) and p.tick(150.0) == [Dial(2)]
    waits = peering(dials=False)
    waits.up(waits.number(), dialled=False, lower=True, now=100.0)
    assert not waits.renew(150.0) and waits.deadline() is None


def test_a_fresh_handshake_that_fails_is_tried_again() -> None:
    p = peering()
    p.up(p.number(), dialled=False, lower=True, now=100.0)
    assert p.renew(150.0)
    (dial,) = p.tick(150.0)
    assert isinstance(dial, Dial)
    assert p.down(dial.connection, 151.0) == []
    deadline = p.deadline()
    assert deadline is not None and 151.0 < deadline < 152.0
    assert len(p.tick(deadline)) == 1
