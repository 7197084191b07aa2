"""A stateful property: whatever the channel does and whoever restarts, the two ends stay safe, and meet again."""

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from qhybridd.errors import HostError
from qhybridd.protocol import actions as act
from tests.pairs.rotation_world import World, policy
from tests.pairs.seamless_world import EspWorld


class Faults(RuleBasedStateMachine):
    """Drops, repeats, delays, cuts, restarts and failing steps, in any order at any moment."""

    world: World
    patience_s = 0.0
    """Two periods may be less than a cut takes to be noticed."""

    @initialize(
        seed=st.integers(0, 2**32),
        kind=st.sampled_from([(False, 120), (False, 30), (True, 10), (True, 30)]),
        hybrid=st.booleans(),
    )
    def begin(self, seed: int, kind: tuple[bool, int], hybrid: bool) -> None:
        rules = policy(reset=kind[0], period_s=kind[1], hybrid=hybrid)
        self.start(World(seed, (rules, rules)), kind[1], hybrid)

    def start(self, world: World, period_s: int, hybrid: bool) -> None:
        self.world, self.period_s, self.hybrid = world, period_s, hybrid
        for end in self.world.ends:
            end.start()
            end.feed(act.QkdSupply(ready=hybrid))
        self.world.link_up = True

    @rule(milliseconds=st.integers(1, 60))
    def a_moment(self, milliseconds: int) -> None:
        self.world.run(milliseconds / 1000)

    @rule(seconds=st.floats(0.1, 200))
    def a_while(self, seconds: float) -> None:
        self.world.run(seconds)

    @rule(drop=st.floats(0, 0.6), repeat=st.floats(0, 0.5), delay=st.floats(0, 0.5))
    def bad_channel(self, drop: float, repeat: float, delay: float) -> None:
        self.world.drop, self.world.repeat, self.world.delay = drop, repeat, delay

    @rule(slowness=st.sampled_from([1.0, 30.0, 3000.0]))
    def slow_hosts(self, slowness: float) -> None:
        self.world.slowness = slowness

    @rule(stays_away=st.booleans())
    def cut(self, stays_away: bool) -> None:
        self.world.cut()
        self.world.link_up = not stays_away

    @rule()
    def replace_session(self) -> None:
        if self.world.link_up and all(end.rotation is not None for end in self.world.ends):
            self.world.connect()

    @rule(side=st.integers(0, 1), pause_s=st.floats(0, 30))
    def restart(self, side: int, pause_s: float) -> None:
        self.world.restart(self.world.ends[side], pause_s)

    @rule(side=st.integers(0, 1), kind=st.sampled_from(["exchange", "reserve", "stage", "activate", "open", "qkd"]))
    def failing_step(self, side: int, kind: str) -> None:
        self.world.ends[side].fail_next[kind] = 1

    @rule(side=st.integers(0, 1), reset=st.booleans())
    def rotate_now(self, side: int, reset: bool) -> None:
        self.world.ends[side].feed(act.RotateNow(reset))

    @precondition(lambda self: self.hybrid)
    @rule(side=st.integers(0, 1), ready=st.booleans())
    def qkd(self, side: int, ready: bool) -> None:
        self.world.ends[side].feed(act.QkdSupply(ready))

    @rule(side=st.integers(0, 1))
    def foreign_change(self, side: int) -> None:
        end = self.world.ends[side]
        end.foreign_write()
        end.feed(act.CloseNow(HostError("host.readback", "another program wrote a PSK")))

    @rule(idle=st.booleans())
    def traffic(self, idle: bool) -> None:
        for end in self.world.ends:
            end.idle = idle

    @invariant()
    def safe(self) -> None:
        if hasattr(self, "world"):
            self.world.check_safety()

    def teardown(self) -> None:
        """The faults end: both ends are live on one epoch within two rotation periods."""
        if not hasattr(self, "world"):
            return
        world = self.world
        world.drop = world.repeat = world.delay = 0.0
        world.slowness = 1.0
        world.link_up = True
        for end in world.ends:
            end.fail_next.clear()
            if end.rotation is None:
                end.start()
            end.feed(act.QkdSupply(ready=self.hybrid))
        end_at = world.now + max(2 * self.period_s, self.patience_s)
        while not (world.agreed() and world.passes()):
            assert world.now < end_at, [(e.name, e.rotation.phase, e.rotation.live) for e in world.ends if e.rotation]
            world.run(0.1)


Faults.TestCase.settings = settings(
    max_examples=150, stateful_step_count=30, deadline=None, suppress_health_check=list(HealthCheck)
)
TestFaults = Faults.TestCase


class SeamlessFaults(Faults):
    """The same where keys stand side by side."""

    patience_s = 20.0

    @initialize(seed=st.integers(0, 2**32), period_s=st.sampled_from([1, 2, 10, 120]), hybrid=st.booleans())
    def begin(self, seed: int, period_s: int, hybrid: bool) -> None:
        rules = policy(seamless=True, period_s=period_s, hybrid=hybrid)
        world = EspWorld(seed, (rules, rules))
        world.packet_s = 0.5  # nobody counts them here
        self.start(world, period_s, hybrid)


SeamlessFaults.TestCase.settings = settings(Faults.TestCase.settings, max_examples=100)
TestSeamlessFaults = SeamlessFaults.TestCase
