"""Alice's end of a block: she opens it, discloses, and decides."""

from collections.abc import Callable

from qhybridd.bits import Bits, packed_bytes
from qhybridd.distill import messages as msg
from qhybridd.distill import verify
from qhybridd.distill.accounts import check_errors, check_frames
from qhybridd.distill.amplify import seed_bytes
from qhybridd.distill.authenticate import LinkKeys, Role
from qhybridd.distill.rates import Framing
from qhybridd.distill.reconcile import Sender
from qhybridd.distill.session import HASH_ROUNDS, Block, Session
from qhybridd.distill.session_table import Phase
from qhybridd.distill.sift import Emissions, check_plane, decode_gaps, match, select, sort_clicks
from qhybridd.errors import HostError, PeerError, ProgramError

Random = Callable[[int], bytes]
"""So many fresh random bytes, of the operating system."""


class Alice(Session):
    """What she prepared comes from `emissions`, which stay the caller's; `random` gives seeds and punctured bits."""

    role, peer = Role.ALICE, Role.BOB

    def __init__(self, block: Block, emissions: Emissions, keys: LinkKeys, random: Random) -> None:
        super().__init__(block, keys)
        self._emissions, self._random = emissions, random
        self._raw: Bits | None = None
        """Her sifted key."""
        self._sender: Sender | None = None
        self._framing: Framing | None = None
        self._asked: tuple[int, ...] = ()
        """Frames that are not known to be equal."""
        self._reveals = 0

    def _first(self) -> msg.Message:
        return msg.Open(self.block.number, msg.wire_terms(self.terms))

    def _answer(self, message: msg.Message) -> msg.Message | None:
        match message:
            case msg.Detected():
                return self._sift(message)
            case msg.Measured():
                return self._encode(message)
            case msg.Failed() if self.phase is Phase.FAILED:
                return self._reveal(message)
            case msg.Failed():
                return self._disclose(message)
            case msg.Decoded():
                return self._hash()
            case msg.Differ():
                return self._hash_frames()
            case msg.Checked():
                return self._decide(message)
            case msg.Accept():
                return None
        raise ProgramError("program.state", f"{type(message).__name__} has no answer")

    # ---- her steps

    def _sift(self, detected: msg.Detected) -> msg.Message:
        count = detected.count
        check_plane(detected.bases, count)  # so many bits are there: room is made for no more clicks than that
        self.accounts.note_clicks(count)
        gaps = decode_gaps(detected.gaps, count, self.terms.pulses)
        prepared = self._emissions.recall(gaps)
        self._hold(prepared.bits)
        matching = match(prepared.bases, detected.bases, count)
        low, high = (select(matching, plane, count) for plane in prepared.intensities)
        sifted = sort_clicks(matching, detected.bases, prepared.bits, (low, high), count)
        self._raw = self._hold(sifted.key)
        self._hold(sifted.test)
        prepared.bits.wipe()
        self.accounts.count_sifted(sifted)
        with sifted.test.expose() as words:
            return msg.Sifted(matching, low, high, bytes(words[: packed_bytes(sifted.test.length)]))

    def _encode(self, measured: msg.Measured) -> msg.Message:
        accounts = self.accounts
        check_errors(measured.test_errors, accounts.test_clicks)
        refused = accounts.judge_early(measured.test_errors)
        if refused is not None:
            raise HostError(refused.code, refused.reason)
        if measured.framing is None:
            raise PeerError("link.terms", "Bob refuses what the terms allow here")
        framing, _ = accounts.choose_framing()
        if measured.framing != msg.wire_framing(framing):
            raise PeerError("link.malformed", f"the framing is not what the rule gives, {framing}")
        assert self._raw is not None
        self._framing, self._asked = framing, tuple(range(framing.frames))
        self._sender = self._hold(Sender(framing, self._raw, self._random))
        data = self._sender.syndromes()
        accounts.spend(syndromes=self._sender.disclosed)
        return msg.Syndromes(data)

    def _reveal(self, failed: msg.Failed) -> msg.Message:
        check_frames(failed.frames, self._asked)
        sender, accounts = self._sender, self.accounts
        assert sender is not None
        accounts.spend(answers=len(self._asked))
        self._asked = failed.frames
        if self._reveals == 0:
            accounts.note_frames(failed=len(failed.frames))
        self._reveals += 1
        before = sender.disclosed
        data = sender.more(failed.frames)
        accounts.spend_more(self._reveals, len(failed.frames), sender.disclosed - before)
        return msg.More(data)

    def _hash(self) -> msg.Message:
        if self._hash_round == 0:
            self.accounts.spend(answers=len(self._asked))
        self.accounts.spend(verification=verify.TAG_BITS)
        self._hash_round += 1
        seed = self._random(verify.SEED_BYTES)
        assert self._raw is not None
        return msg.Hashes(seed, verify.block_tag(seed, self._raw))

    def _hash_frames(self) -> msg.Message:
        if self._hash_round == HASH_ROUNDS:
            raise PeerError("link.verification", f"the keys differ after {HASH_ROUNDS} rounds")
        assert self._raw is not None and self._framing is not None
        self.accounts.spend(answers=1)
        seed = self._random(verify.SEED_BYTES)
        self.accounts.spend(verification=verify.FRAME_TAG_BITS * self._framing.frames)
        return msg.FrameHashes(seed, verify.frame_tags(seed, self._framing, self._raw))

    def _disclose(self, differing: msg.Failed) -> msg.Message:
        sender, framing, accounts = self._sender, self._framing, self.accounts
        assert sender is not None and framing is not None
        check_frames(differing.frames, range(framing.frames))
        accounts.spend(answers=framing.frames)
        before = sender.disclosed
        data = sender.whole(differing.frames)
        accounts.spend(whole=sender.disclosed - before)
        accounts.note_frames(differing=len(differing.frames))
        return msg.Whole(data)

    def _decide(self, checked: msg.Checked) -> msg.Message:
        accounts, terms, raw = self.accounts, self.terms, self._raw
        check_errors(checked.key_errors, accounts.key_clicks)
        accounts.spend_verdict()
        refused = accounts.judge(checked.key_errors)
        if refused is not None:
            raise HostError(refused.code, refused.reason)
        assert raw is not None and accounts.estimates is not None
        seed = self._random(seed_bytes(raw.length, terms.key_bits))
        refill = self._plan_refill(alice_tags=1, bob_tags=1)
        self._make_key(raw, seed, refill)
        found = accounts.estimates
        return msg.Amplify(seed, found.vacuum, found.single, found.phase_error, accounts.disclosed.total, refill)
