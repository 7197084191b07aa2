"""Two stores and what lies between them: messages late, lost, in any order; crashes; the two stay agreed."""

from dataclasses import dataclass, field

import msgspec
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from qhybridd.distill.authenticate import Role
from qhybridd.errors import HostError
from qhybridd.keystore import KeyStore, StoreListing
from qhybridd.keystore.store import CONFIRM_S, ON_ITS_WAY_S
from tests.unit.stores import block_key, exchange, key_id, store, text_of

A, B = Role.ALICE, Role.BOB
OTHER = {A: B, B: A}
ROLES = st.sampled_from([A, B])


@dataclass(frozen=True)
class Prepare:
    """A rotation message that names keys."""

    key_ids: tuple[bytes, ...]
    at: float


@dataclass(frozen=True)
class Final:
    """Bob's last message of a block: he has kept it."""

    number: int
    bits: int
    at: float


@dataclass(frozen=True)
class Stored:
    """Alice's word that she kept it too."""

    number: int
    at: float


@dataclass(frozen=True)
class Listing:
    """What one end holds."""

    listing: StoreListing
    at: float


@dataclass
class Ways:
    """What is on its way to one end."""

    link: list[Final | Stored | Listing] = field(default_factory=list)
    rotation: list[Prepare] = field(default_factory=list)


class World(RuleBasedStateMachine):
    """What both kinds of world have. `seen` holds the secret of every ID that was ever given out."""

    capacity_bits = 256 * 24
    max_age_s = 200.0
    in_order = False

    @initialize()
    def begin(self) -> None:
        self.now = 0.0
        self.number = 0
        self.remainders = self.unfinished = 0
        self.stores = {role: self.new_store(role) for role in (A, B)}
        self.ways = {role: Ways() for role in (A, B)}
        self.seen: dict[bytes, bytes] = {}
        self.fetched: set[bytes] = set()
        self.both_keep(6)

    def new_store(self, role: Role) -> KeyStore:
        return store(role, self.capacity_bits, self.max_age_s)

    # ---- what happens

    @rule(keys=st.integers(0, 12), odd=st.integers(0, 255))
    def distil(self, keys: int, odd: int) -> None:
        """Bob keeps a block, and says so."""
        self.number += 1
        bits = 256 * keys + odd
        self.remainders += odd
        self.stores[B].add(key_id(self.number), block_key(self.number, bits), 128, self.now)
        self.ways[A].link.append(Final(self.number, bits, self.now))

    @rule(keys=st.integers(3, 12))
    def both_keep(self, keys: int) -> None:
        """A block that nothing disturbs; in order it comes after all that was said before it."""
        if self.in_order:
            self.deliver()
        self.number += 1
        for role in (A, B):
            self.stores[role].add(key_id(self.number), block_key(self.number, 256 * keys), 0, self.now)
            self.stores[role].confirm(key_id(self.number), self.now)

    @rule(role=ROLES, keys=st.integers(1, 3))
    def reserve(self, role: Role, keys: int) -> None:
        end = self.stores[role]
        enough = end.available_bits() >= 256 * keys
        try:
            key_ids, secret = end.reserve(256 * keys, self.now)
        except HostError as error:
            assert error.code == "source.empty"
            return
        assert enough
        text = text_of(secret)
        for place, name in enumerate(key_ids):
            assert name not in self.seen, "no key is reserved twice, whoever reserves it"
            self.seen[name] = text[32 * place : 32 * place + 32]
        self.ways[OTHER[role]].rotation.append(Prepare(key_ids, self.now))

    @rule(role=ROLES)
    def tell(self, role: Role) -> None:
        listing = msgspec.msgpack.decode(msgspec.msgpack.encode(self.stores[role].listing()), type=StoreListing)
        self.ways[OTHER[role]].link.append(Listing(listing, self.now))

    def take_link(self, role: Role, at: int) -> None:
        message, end = self.ways[role].link.pop(at), self.stores[role]
        match message:
            case Final(number, bits):
                end.add(key_id(number), block_key(number, bits), 128, self.now)
                end.confirm(key_id(number), self.now)
                self.ways[OTHER[role]].link.append(Stored(number, self.now))
            case Stored(number):
                end.confirm(key_id(number), self.now)
            case Listing(listing):
                end.meet(listing, self.now)

    def deliver(self) -> None:
        """Everything that is on its way between the two ends of the link, in order."""
        while any(self.ways[role].link for role in (A, B)):
            for role in (A, B):
                while self.ways[role].link:
                    self.take_link(role, 0)

    def take_rotation(self, role: Role, at: int) -> bool:
        """Whether the keys were there."""
        prepare = self.ways[role].rotation.pop(at)
        try:
            secret = self.stores[role].fetch(prepare.key_ids, 256 * len(prepare.key_ids), self.now)
        except HostError as error:
            assert error.code == "source.lost"
            return False
        assert text_of(secret) == b"".join(self.seen[name] for name in prepare.key_ids), "one ID, one secret"
        assert not self.fetched & set(prepare.key_ids), "no key is fetched twice"
        self.fetched.update(prepare.key_ids)
        return True

    def cut(self) -> None:
        """The session between the two ends is gone, and a new one begins with what each holds."""
        self.unfinished += sum(message.bits for message in self.ways[A].link if isinstance(message, Final))
        self.ways = {role: Ways() for role in (A, B)}
        for role in (A, B):
            self.tell(role)

    # ---- what always holds

    @invariant()
    def books_are_balanced(self) -> None:
        for role in (A, B):
            account = self.stores[role].account
            assert account.balanced, account
            assert account.own_bits == self.stores[role].available_bits()
            assert account.own_bits <= self.capacity_bits and account.peer_bits <= 2 * self.capacity_bits

    def check_agreement(self) -> None:
        """In quiet, one exchange later: each holds what the other may reserve, no more and no less."""
        self.ways = {role: Ways() for role in (A, B)}
        self.now += ON_ITS_WAY_S
        for role in (A, B):
            self.stores[role].tick(self.now)
        exchange(self.stores[A], self.stores[B], self.now)
        for role in (A, B):
            assert self.stores[role].account.own_bits == self.stores[OTHER[role]].account.peer_bits

    def teardown(self) -> None:
        if not hasattr(self, "stores"):
            return
        self.check_agreement()
        for role in (A, B):
            while self.stores[role].available_bits():
                self.reserve(role, 1)
                assert self.take_rotation(OTHER[role], 0), "what one end holds, the other one has"
        self.books_are_balanced()


class Wild(World):
    """Every message may be lost or come in any order, and either end may crash at any moment."""

    @rule(role=ROLES, at=st.integers(0, 99))
    def receive_link(self, role: Role, at: int) -> None:
        if self.ways[role].link:
            self.take_link(role, at % len(self.ways[role].link))

    @rule(role=ROLES, at=st.integers(0, 99))
    def receive_rotation(self, role: Role, at: int) -> None:
        if self.ways[role].rotation:
            self.take_rotation(role, at % len(self.ways[role].rotation))

    @rule(role=ROLES, at=st.integers(0, 99), link=st.booleans())
    def lose(self, role: Role, at: int, link: bool) -> None:
        messages = self.ways[role].link if link else self.ways[role].rotation
        if messages:
            messages.pop(at % len(messages))

    @rule(role=ROLES, at=st.integers(0, 99))
    def burn(self, role: Role, at: int) -> None:
        """The attempt failed at the end that fetches, before it fetched, or at the end that reserved."""
        rotation = self.ways[OTHER[role]].rotation
        if rotation:
            self.stores[role].burn(rotation[at % len(rotation)].key_ids, self.now)

    @rule(role=ROLES, number=st.integers(1, 9))
    def discard(self, role: Role, number: int) -> None:
        self.stores[role].discard(key_id(number))

    @rule(role=ROLES)
    def crash(self, role: Role) -> None:
        self.stores[role].wipe()
        self.books_are_balanced()
        self.stores[role] = self.new_store(role)
        self.cut()

    @rule()
    def reconnect(self) -> None:
        self.cut()

    @rule(seconds=st.sampled_from([0.5, 20.0, 61.0, 150.0, 700.0]))
    def wait(self, seconds: float) -> None:
        self.now += seconds

    @rule(role=ROLES)
    def tick(self, role: Role) -> None:
        self.stores[role].tick(self.now)
        deadline = self.stores[role].next_deadline()
        assert deadline is None or deadline > self.now

    @rule()
    def quiet(self) -> None:
        self.check_agreement()


class Orderly(World):
    """The link's messages come in order, rotation messages within their time; a session may be cut at any moment.

    Then nothing that was kept is lost, whatever overtakes what.
    """

    capacity_bits = 1 << 22
    max_age_s = 1e9
    in_order = True

    @precondition(lambda self: self.ways[A].link)
    @rule()
    def alice_receives(self) -> None:
        self.take_link(A, 0)

    @precondition(lambda self: self.ways[B].link)
    @rule()
    def bob_receives(self) -> None:
        self.take_link(B, 0)

    @rule(role=ROLES, at=st.integers(0, 99))
    def receive_rotation(self, role: Role, at: int) -> None:
        if self.ways[role].rotation:
            assert self.take_rotation(role, at % len(self.ways[role].rotation)), "a key that was promised is there"

    @rule()
    def reconnect(self) -> None:
        self.cut()

    @rule(seconds=st.integers(1, 40))
    def wait(self, seconds: int) -> None:
        for role in (A, B):
            ways = self.ways[role]
            while any(prepare.at + ON_ITS_WAY_S <= self.now + seconds for prepare in ways.rotation):
                assert self.take_rotation(role, 0)
            while any(message.at + CONFIRM_S / 2 <= self.now + seconds for message in ways.link):
                self.take_link(role, 0)
        self.now += seconds

    def check_agreement(self) -> None:
        self.deliver()
        super().check_agreement()
        books = [self.stores[role].account for role in (A, B)]
        if not self.unfinished:
            assert books[0].waiting_bits == books[1].waiting_bits == 0
            assert books[0].distilled_bits == books[1].distilled_bits
            spent = [account.used_bits + account.expired_bits + account.burnt_bits for account in books]
            assert spent[0] == spent[1], "both tell of the same bits, if not where they went"

    @invariant()
    def nothing_is_lost(self) -> None:
        for role in (A, B):
            assert self.stores[role].account.burnt_bits <= self.remainders + self.unfinished


TestWild = Wild.TestCase
TestWild.settings = settings(
    max_examples=200, stateful_step_count=50, deadline=None, suppress_health_check=list(HealthCheck)
)
TestOrderly = Orderly.TestCase
TestOrderly.settings = settings(TestWild.settings, max_examples=100)
