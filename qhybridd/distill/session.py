"""A block between Alice and Bob, without I/O: messages in, messages out, at the end a key or a reason.

`Session` is what both ends do alike: turns, tags, bounds, the end of a block with everything wiped. The two ends are
`alice.Alice` and `bob.Bob`. Any fault ends the block, and nothing of it is kept then.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Final, Protocol, TypeVar

from qhybridd.bits import Bits
from qhybridd.crypto.kdf import Label, lp, sha384, u64
from qhybridd.distill import messages as msg
from qhybridd.distill import verify
from qhybridd.distill.accounts import Accounts
from qhybridd.distill.amplify import amplify
from qhybridd.distill.authenticate import TAG_BYTES, Authenticator, LinkKeys, Role
from qhybridd.distill.budget import EpsilonBudget, budget_of
from qhybridd.distill.estimate import check_length
from qhybridd.distill.pads import PAD_BYTES
from qhybridd.distill.record import Authentication, BlockRecord, Outcome
from qhybridd.distill.session_table import TABLE, TURN, Phase
from qhybridd.distill.terms import Terms
from qhybridd.errors import CODES, HostError, PeerError, ProgramError
from qhybridd.secret import Secret

HASH_ROUNDS: Final = 2
"""How often the tag of the whole key is compared: once, and once more after differing frames were disclosed."""


@dataclass(frozen=True, slots=True)
class Block:
    """Which block it is, and what it is held to."""

    number: int
    """No two blocks of a session have the same, and both ends begin them in the same order."""
    terms: Terms


@dataclass(frozen=True, slots=True, eq=False)
class Kept:
    """The block counts."""

    key: Bits
    """What the key store gets; the pads of later tags were taken off before it."""
    key_id: bytes
    record: BlockRecord


@dataclass(frozen=True, slots=True)
class Dropped:
    """The block came to nothing, and nothing of it is left."""

    code: str
    """A key of `errors.CODES`."""
    reason: str
    record: BlockRecord


@dataclass(frozen=True, slots=True, eq=False)
class Split:
    """The secret key of both ends, cut up: first the pads of both directions, the rest is the net key."""

    pads: tuple[Secret | None, Secret | None]
    """For Alice's tags, for Bob's."""
    net: Bits

    def wipe(self) -> None:
        """Overwrite it with zeros."""
        for part in (*self.pads, self.net):
            if part is not None:
                part.wipe()


class Wipeable(Protocol):
    """What holds secrets and can forget them."""

    def wipe(self) -> None:
        """Overwrite them with zeros."""
        ...


Held = TypeVar("Held", bound=Wipeable)


class Session(ABC):
    """One end of one block, for one thread at a time. When `result` is set it is over, and every call raises."""

    role: ClassVar[Role]
    peer: ClassVar[Role]

    def __init__(self, block: Block, keys: LinkKeys) -> None:
        terms = block.terms
        check_length(terms)
        try:
            msg.decode(msg.encode(msg.Open(block.number, msg.wire_terms(terms))))
        except PeerError as error:
            raise ProgramError("program.argument", f"no message holds block {block.number}: {error.message}") from None
        if not 0 < terms.key_bits <= terms.key_clicks_least <= terms.pulses:
            raise ProgramError("program.argument", f"a key of {terms.key_bits} bits from {terms.key_clicks_least}")
        if HASH_ROUNDS * verify.epsilon(msg.MAX_CLICKS, verify.TAG_BITS) > terms.protocol.epsilon_cor:
            raise ProgramError("program.argument", f"tags of {verify.TAG_BITS} bits are too short for ε_cor")
        self.block, self.terms = block, terms
        self.phase = Phase.READY
        self.result: Kept | Dropped | None = None
        self.accounts = Accounts(terms)
        self.key_id = sha384(Label.BLOCK_KEY_ID.encoded, lp(keys.session_hash, keys.link), u64(block.number))[:16]
        """The public name of the key that this block may give, the same at both ends, 16 bytes."""
        self._keys = keys
        self._authenticator: Authenticator | None = None
        self._tags = {Role.ALICE: 0, Role.BOB: 0}
        """Tags that each end made, as far as this one knows."""
        self._secrets: list[Wipeable] = []
        self._may_speak = False
        """Whether the transcript waits for this end: it is its turn, and the authenticator lives."""
        self._inherited = 0.0
        """What the blocks that its pads came from left to chance."""
        self._hash_round = 0
        self._split: Split | None = None
        """The secret key of both, once it is made."""
        self._wanted = (0, 0)
        """Bytes of pads that lacked when the block began: for Alice's tags, for Bob's."""

    # ---- from outside

    def start(self) -> bytes | None:
        """Begin; gives the first message when it is this end's to send. Once, before anything else."""
        self._check_running()
        if self._authenticator is not None:
            raise ProgramError("program.state", f"block {self.block.number} was started before")
        return self._step(self._begin)

    def receive(self, data: bytes) -> bytes | None:
        """Take the peer's message with its tag; gives this end's next one, or None when none is to be sent.

        Whatever is wrong with it ends the block: see `result`. Raises `ProgramError` for a misuse of this end.
        """
        self._check_running()
        if self._authenticator is None:
            raise ProgramError("program.state", f"block {self.block.number} was not started")
        return self._step(lambda: self._take(data))

    def give_up(self, code: str, reason: str) -> None:
        """End the block from this end. Between calls it is the peer's turn, so the peer is not told: it waits."""
        self._check_running()
        if code not in CODES:
            raise ProgramError("program.argument", f"no such code: {code}")
        self._fail(code, reason)

    def _check_running(self) -> None:
        if self.result is not None:
            raise ProgramError("program.state", f"block {self.block.number} is over")

    # ---- what the two ends do differently

    @abstractmethod
    def _first(self) -> msg.Message | None:
        """The message that opens the block, from the end that does."""

    @abstractmethod
    def _answer(self, message: msg.Message) -> msg.Message | None:
        """What to say to a message that came in its turn.

        Raises `PeerError` or `HostError` when the block cannot go on.
        """

    # ---- a step

    def _step(self, work: Callable[[], msg.Message | None]) -> bytes | None:
        try:
            answer = work()
            data = None if answer is None else self._send(answer)
            if self.phase is Phase.KEPT:
                self._keep()
        except (PeerError, HostError) as error:
            return self._fail(error.code, error.message)
        except BaseException as error:
            # A defect. The block ends in good order all the same, and the error goes on its way.
            self._may_speak = False
            self._fail("program.state", f"a defect: {type(error).__name__}")
            raise
        return data

    def _begin(self) -> msg.Message | None:
        self._authenticator = self._keys.authenticator(self.role, self.block.number)
        self._may_speak = TURN[self.phase] is self.role
        self._inherited = self._keys.epsilon
        self._wanted = (self._keys.alice_to_bob.wanted_bytes, self._keys.bob_to_alice.wanted_bytes)
        return self._first()

    def _take(self, data: bytes) -> msg.Message | None:
        assert self._authenticator is not None
        if len(data) > msg.MAX_MESSAGE_BYTES:
            data = b""  # nobody made it; its pad is burnt all the same, so that both ends' pads stay in step
        view = memoryview(data)  # the longest message is not copied for its tag
        body, tag = view[:-TAG_BYTES], bytes(view[-TAG_BYTES:])
        self._authenticator.open(body, tag)
        self._may_speak = True
        self._tags[self.peer] += 1
        message = msg.decode(body)
        following = self._following(message)
        if following is None:
            raise PeerError("link.order", f"{type(message).__name__} in phase «{self.phase.value}»")
        if isinstance(message, msg.Abort):
            self._aborted(message.code)
            return None
        self.phase = following
        return self._answer(message)

    def _send(self, message: msg.Message) -> bytes:
        following = self._following(message)
        if following is None or TURN[self.phase] is not self.role:
            raise ProgramError("program.state", f"{type(message).__name__} in phase «{self.phase.value}»")
        data = self._seal(message)
        self.phase = following
        return data

    def _seal(self, message: msg.Message) -> bytes:
        assert self._authenticator is not None
        self._may_speak = False
        body = msg.encode(message)
        data = body + self._authenticator.seal(body)
        self._tags[self.role] += 1
        return data

    def _following(self, message: msg.Message) -> Phase | None:
        return TABLE.get((self.phase, type(message)))

    # ---- what both ends do with the key

    def _hold(self, secret: Held) -> Held:
        """Wipe it when the block ends, however it does."""
        self._secrets.append(secret)
        return secret

    def _plan_refill(self, alice_tags: int, bob_tags: int) -> tuple[int, int]:
        """Bytes of the key that become pads for Alice's tags and for Bob's. So many tags are still to come.

        What each direction lacked to its floor when the block began, and what the block takes; the whole key at most.
        """
        most = self.terms.key_bits // 8 // PAD_BYTES
        forward = self._wanted[0] // PAD_BYTES + self._tags[Role.ALICE] + alice_tags
        backward = self._wanted[1] // PAD_BYTES + self._tags[Role.BOB] + bob_tags
        if forward + backward > most:
            forward = min(forward, max(most // 2, most - backward))
            backward = min(backward, most - forward)
        return forward * PAD_BYTES, backward * PAD_BYTES

    def _make_key(self, corrected: Bits, seed: bytes, refill: tuple[int, int]) -> None:
        """Amplify, and cut so many bytes of the key off for pads: all memory that keeping it takes is taken here."""
        key, (forward, backward) = self._hold(amplify(corrected, seed, self.terms.key_bits)), refill
        start, bits = forward + backward, key.length - 8 * (forward + backward)
        split = Split((_cut(key, 0, forward), _cut(key, forward, backward)), Bits.zeros(bits))
        if bits:
            with key.expose() as source, split.net.expose() as target:
                size = (bits + 7) // 8
                target[:size] = source[start : start + size]
        self._split = self._hold(split)

    def _keep(self) -> None:
        """Move the key to where it belongs; nothing here can fail, so that both ends keep it or neither."""
        split = self._split
        assert split is not None
        self._secrets.remove(split)
        for pool, pads in zip((self._keys.alice_to_bob, self._keys.bob_to_alice), split.pads, strict=True):
            if pads is not None:
                pool.refill(pads)
        self._wipe()
        outcome = Outcome(True, "", "", "bob", self.phase.value)
        self.result = Kept(split.net, self.key_id, self._record(outcome, split.net))
        if any(split.pads):
            self._keys.epsilon += self.result.record.epsilons.own

    # ---- how it ends

    def _fail(self, code: str, reason: str) -> bytes | None:
        """Drop the block, and tell the peer if this end may still speak."""
        data = None
        if self._may_speak:
            try:
                data = self._seal(msg.Abort(code))
            except HostError:
                data = None  # no pad is left for it: the peer waits
        if data is None and self._authenticator is not None:
            self._keys.retire()  # whether the peer took the pads that were taken here is not known
        self._drop(code, reason, self.role)
        return data

    def _aborted(self, code: str) -> None:
        known = code in CODES and code.startswith("link.")
        reason = f"{self.peer.value} gave the block up" + ("" if known else f": {code}")
        self._drop(code if known else "link.aborted", reason, self.peer)

    def _drop(self, code: str, reason: str, ended_by: Role) -> None:
        self._wipe()
        outcome = Outcome(False, code, reason, ended_by.value, self.phase.value)
        self.phase = Phase.DROPPED
        self.result = Dropped(code, reason, self._record(outcome, None))

    def _wipe(self) -> None:
        for secret in self._secrets:
            secret.wipe()
        self._secrets.clear()
        if self._authenticator is not None:
            self._authenticator.wipe()

    def _budget(self) -> EpsilonBudget:
        return budget_of(
            self.terms.protocol,
            verification=float(self._hash_round * verify.epsilon(self.accounts.sizes.key_bits or 0, verify.TAG_BITS)),
            authentication=0.0 if self._authenticator is None else float(self._authenticator.epsilon),
            inherited=self._inherited,
        )

    def _record(self, outcome: Outcome, net: Bits | None) -> BlockRecord:
        terms, accounts = self.terms, self.accounts
        return BlockRecord(
            link=self._keys.link.decode(errors="backslashreplace"),
            block=self.block.number,
            role=self.role.value,
            key_id=self.key_id.hex(),
            bound=terms.protocol.bound.value,
            terms=terms,
            sizes=accounts.sizes,
            counted=accounts.counted,
            qber_key=rate_of(accounts.counted.key_errors, accounts.counted.key_clicks),
            qber_test=rate_of(accounts.counted.test_errors, accounts.counted.test_clicks),
            reconciliation=accounts.reconciliation,
            disclosed=accounts.disclosed,
            estimates=accounts.estimates,
            key_bits=0 if net is None else terms.key_bits,
            refill_bits=0 if net is None else terms.key_bits - net.length,
            net_bits=0 if net is None else net.length,
            epsilons=self._budget(),
            authentication=Authentication(
                kind="none" if self._authenticator is None else self._authenticator.kind.value,
                tags_alice=self._tags[Role.ALICE],
                tags_bob=self._tags[Role.BOB],
                pad_bytes=TAG_BYTES * sum(self._tags.values()),
            ),
            outcome=outcome,
        )


def _cut(key: Bits, start: int, size: int) -> Secret | None:
    """`size` bytes of a key from byte `start`; None for no byte."""
    if not size:
        return None
    secret = Secret(size)
    with key.expose() as source, secret.expose() as target:
        target[:] = source[start : start + size]
    return secret


def rate_of(errors: tuple[int, ...] | None, clicks: tuple[int, ...] | None) -> float | None:
    """Errors over clicks, of all intensities; None for what was not counted."""
    if errors is None or clicks is None or not sum(clicks):
        return None
    return sum(errors) / sum(clicks)
