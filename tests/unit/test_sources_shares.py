"""Who gets keys when there are not enough."""

import random

from hypothesis import given
from hypothesis import strategies as st

from qhybridd.sources.shares import Claim, Shares


class Stock:
    """So many keys."""

    def __init__(self, keys: int) -> None:
        self.keys = keys

    def available_bits(self) -> int:
        return 256 * self.keys


def shares(keys: int, **tunnels: Claim) -> tuple[Stock, Shares]:
    """A link with so many keys and these tunnels, which joined a second apart."""
    stock = Stock(keys)
    made = Shares(stock.available_bits)
    for now, (name, claim) in enumerate(tunnels.items()):
        made.join(name, claim, float(now))
    return stock, made


STRICT, LAX = Claim(120.0, strict=True), Claim(120.0, strict=False)


def test_without_keys_nobody_is_ready() -> None:
    _, made = shares(0, a=STRICT, b=LAX)
    assert made.all_ready(10.0) == frozenset()


def test_with_keys_for_all_everybody_is_ready() -> None:
    _, made = shares(3, a=STRICT, b=LAX, c=LAX)
    assert made.all_ready(10.0) == {"a", "b", "c"}


def test_strict_tunnels_come_first_then_who_waited_longest() -> None:
    stock, made = shares(1, x=LAX, b=STRICT, a=STRICT, y=LAX)
    order = []
    for keys in range(1, 5):
        stock.keys = keys
        order.append(made.all_ready(10.0))
    assert order == [{"b"}, {"b", "a"}, {"b", "a", "x"}, {"b", "a", "x", "y"}]
    assert made.ready("x", 10.0) and not made.ready("nobody", 10.0)


def test_a_strict_tunnel_s_next_key_is_laid_by() -> None:
    """A lax tunnel that waits does not get the last key although no strict one waits yet."""
    stock, made = shares(1, a=STRICT, x=LAX)
    made.served("a", 10.0)
    assert made.all_ready(20.0) == frozenset({"a"}), "there is a key for every strict one"
    stock.keys = 2
    assert made.all_ready(20.0) == {"a", "x"}


def test_before_its_turn_a_tunnel_leaves_a_key_for_every_other() -> None:
    stock, made = shares(1, a=STRICT, b=STRICT)
    made.served("a", 10.0)
    made.served("b", 11.0)
    assert made.all_ready(20.0) == frozenset(), "either might want it first"
    assert made.next_turn(20.0) == 70.0
    assert made.all_ready(70.0) == {"a"}
    made.served("a", 70.0)
    assert made.all_ready(71.0) == {"b"} and made.next_turn(71.0) == 130.0
    stock.keys = 2
    assert made.all_ready(71.0) == {"a", "b"}
    assert Shares(stock.available_bits).next_turn(0.0) is None


def test_a_tunnel_that_joins_again_keeps_its_turn_and_has_its_new_claim() -> None:
    _, made = shares(1, a=LAX, b=STRICT)
    made.join("a", STRICT, 50.0)
    assert made.all_ready(50.0) == {"a"}
    made.leave("a")
    made.leave("a")
    made.served("a", 50.0)
    assert made.all_ready(50.0) == {"b"}


def test_the_period_counts() -> None:
    _, made = shares(1, a=Claim(10.0, strict=True), b=Claim(1000.0, strict=True))
    made.served("a", 5.0)
    made.served("b", 5.0)
    assert made.all_ready(10.0) == {"a"} and made.next_turn(10.0) == 505.0


claims = st.builds(Claim, st.floats(2.0, 1000.0), st.booleans())


@given(st.lists(claims, min_size=1, max_size=12), st.integers(0, 14), st.lists(st.integers(0, 11), max_size=10))
def test_no_more_tunnels_that_wait_are_ready_than_there_are_keys(
    tunnels: list[Claim], keys: int, served: list[int]
) -> None:
    _, made = shares(keys, **{f"t{number}": claim for number, claim in enumerate(tunnels)})
    for at, number in enumerate(served):
        made.served(f"t{number}", 20.0 + at)
    ready = made.all_ready(40.0)
    strict = {f"t{number}" for number, claim in enumerate(tunnels) if claim.strict}
    waiting = {name for name, place in made._places.items() if place.turn <= 40.0}
    assert len(ready & waiting) <= keys
    assert ready >= strict or not ready - strict, "a lax one is ready when all strict ones are"
    assert keys == 0 or ready or not waiting & (strict or waiting), "while a strict one waits a key is somebody's"
    assert ready == {name for name in made._places if made.ready(name, 40.0)}


def simulate(tunnels: dict[str, Claim], key_every_s: float, seconds: int) -> dict[str, int]:
    """Keys that each tunnel got of a link that gives one so often; each asks at its period, and soon again if late."""
    stock, made = shares(0, **tunnels)
    due = dict.fromkeys(tunnels, 0.0)
    got = dict.fromkeys(tunnels, 0)
    generator = random.Random(7)
    made_keys = 0
    for now in range(seconds):
        if now // key_every_s > made_keys:
            made_keys += 1
            stock.keys += 1
        for name in generator.sample(list(tunnels), len(tunnels)):
            if due[name] > now:
                continue
            if made.ready(name, now):
                stock.keys -= 1
                got[name] += 1
                made.served(name, now)
                due[name] = now + tunnels[name].period_s
            elif not tunnels[name].strict:
                due[name] = now + tunnels[name].period_s  # it rotates without
    return got


def test_half_of_what_is_wanted_is_shared_evenly() -> None:
    got = simulate({f"t{number}": STRICT for number in range(4)}, key_every_s=60.0, seconds=60 * 400)
    assert sum(got.values()) >= 396 and all(97 <= keys <= 101 for keys in got.values()), got


def test_in_shortage_strict_tunnels_get_what_they_claim_and_the_others_the_rest() -> None:
    tunnels = {"a": STRICT, "b": STRICT, "x": LAX, "y": LAX}
    got = simulate(tunnels, key_every_s=40.0, seconds=120 * 200)  # three keys a period, four wanted
    assert got["a"] >= 198 and got["b"] >= 198, got
    assert got["x"] + got["y"] >= 190 and abs(got["x"] - got["y"]) <= 40, got
    got = simulate(tunnels, key_every_s=70.0, seconds=120 * 200)  # not enough for the strict ones
    assert got["x"] + got["y"] == 0 and abs(got["a"] - got["b"]) <= 2, got


def test_with_plenty_everybody_rotates_at_its_period() -> None:
    got = simulate({"a": STRICT, "x": LAX, "fast": Claim(10.0, strict=True)}, key_every_s=3.0, seconds=12000)
    assert got["a"] >= 99 and got["x"] >= 95 and got["fast"] >= 1190, got
