"""Bob's end of a block: he tells when he clicked, counts errors, corrects his key, and keeps it first."""

import hmac
import math
from typing import Final

from qhybridd.bits import Bits, packed_bytes
from qhybridd.distill import estimate, verify
from qhybridd.distill import messages as msg
from qhybridd.distill.amplify import seed_bytes
from qhybridd.distill.authenticate import LinkKeys, Role
from qhybridd.distill.rates import Framing
from qhybridd.distill.reconcile import Receiver
from qhybridd.distill.session import HASH_ROUNDS, Block, Session
from qhybridd.distill.sift import check_plane, count_errors, encode_gaps, sort_clicks
from qhybridd.errors import PeerError, ProgramError
from qhybridd.optics.records import Clicks

AGREEMENT: Final = 1e-9
"""Relative difference between two ends' estimates that their mathematical libraries may make."""


class Bob(Session):
    """The bits of `clicks` are wiped with the block."""

    role, peer = Role.BOB, Role.ALICE

    def __init__(self, block: Block, clicks: Clicks, keys: LinkKeys) -> None:
        super().__init__(block, keys)
        if clicks.pulses != block.terms.pulses or clicks.count > msg.MAX_CLICKS or clicks.bits.length != clicks.count:
            raise ProgramError("program.argument", f"{clicks.count} clicks, {clicks.pulses} pulses")
        self._clicks = clicks
        self._hold(clicks.bits)
        self._raw: Bits | None = None
        """His sifted key, as measured."""
        self._corrected: Bits | None = None
        self._key_intensities = b"", b""
        self._receiver: Receiver | None = None
        self._framing: Framing | None = None
        self._qber = 0.0
        self._asked: tuple[int, ...] = ()
        """Frames that are not known to be equal."""
        self._reveals = 0
        self._refused: estimate.Refused | None = None
        """What he made of the counts; it is Alice who says it."""

    def _first(self) -> None:
        return None

    def _answer(self, message: msg.Message) -> msg.Message:
        if self._refused is not None:
            raise PeerError("link.terms", f"Alice goes on with a block that is refused here: {self._refused.reason}")
        match message:
            case msg.Open():
                return self._detect(message)
            case msg.Sifted():
                return self._measure(message)
            case msg.Syndromes():
                return self._decode(message)
            case msg.More():
                return self._decode_more(message)
            case msg.Hashes():
                return self._compare(message)
            case msg.FrameHashes():
                return self._locate(message)
            case msg.Whole():
                return self._patch(message)
            case msg.Amplify():
                return self._accept(message)
        raise ProgramError("program.state", f"{type(message).__name__} has no answer")

    # ---- his steps

    def _detect(self, opened: msg.Open) -> msg.Message:
        if opened.block != self.block.number:
            raise PeerError("link.order", f"block {opened.block} was opened, not {self.block.number}")
        mine, theirs = msg.wire_terms(self.terms), opened.terms
        if theirs != mine:
            names = [name for name in mine.__struct_fields__ if getattr(mine, name) != getattr(theirs, name)]
            raise PeerError("link.terms", f"the two ends' terms differ in {', '.join(names)}")
        clicks = self._clicks
        self.accounts.note_clicks(clicks.count)
        return msg.Detected(clicks.count, encode_gaps(clicks.gaps, clicks.count), clicks.bases)

    def _measure(self, message: msg.Sifted) -> msg.Message:
        clicks, accounts = self._clicks, self.accounts
        check_plane(message.matching, clicks.count)
        planes = message.intensity_low, message.intensity_high
        sifted = sort_clicks(message.matching, clicks.bases, clicks.bits, planes, clicks.count)
        self._raw = self._hold(sifted.key)
        self._hold(sifted.test)
        clicks.bits.wipe()
        accounts.count_sifted(sifted)
        check_plane(message.test, sifted.test.length)
        hers = self._hold(Bits.adopt(message.test, sifted.test.length))
        errors = count_errors(sifted.test, hers, sifted.test_intensities, sifted.test.length, accounts.intensities)
        self._key_intensities = sifted.key_intensities
        self._refused = accounts.judge_early(errors)
        if self._refused is not None:
            return msg.Measured(errors, None)
        self._framing, self._qber = accounts.choose_framing()
        return msg.Measured(errors, msg.wire_framing(self._framing))

    def _decode(self, message: msg.Syndromes) -> msg.Message:
        framing, raw = self._framing, self._raw
        assert framing is not None and raw is not None
        if len(message.data) != framing.frames * packed_bytes(framing.syndrome_bits):
            raise PeerError("link.malformed", f"{len(message.data)} bytes of syndromes for {framing}")
        corrected = self._corrected = self._hold(Bits.zeros(raw.length))
        with raw.expose() as source, corrected.expose() as target:
            target[:] = source
        self._receiver = self._hold(Receiver(framing, corrected, self._qber))
        self._asked = tuple(range(framing.frames))
        failed = self._receiver.take(message.data)
        self.accounts.spend(syndromes=self._receiver.disclosed)
        answer = self._tell(failed)
        self.accounts.note_frames(failed=len(failed))
        return answer

    def _decode_more(self, message: msg.More) -> msg.Message:
        receiver, accounts, asked = self._receiver, self.accounts, self._asked
        assert receiver is not None
        self._reveals += 1
        before = receiver.disclosed
        failed = receiver.take_more(asked, message.data)
        accounts.spend_more(self._reveals, len(asked), receiver.disclosed - before)
        return self._tell(failed)

    def _tell(self, failed: tuple[int, ...]) -> msg.Message:
        self.accounts.spend(answers=len(self._asked))
        self._asked = failed
        return msg.Failed(failed) if failed else msg.Decoded()

    def _compare(self, hashes: msg.Hashes) -> msg.Message:
        corrected, raw, accounts = self._corrected, self._raw, self.accounts
        assert corrected is not None and raw is not None
        _check_seed(hashes.seed)
        self._hash_round += 1
        accounts.spend(verification=verify.TAG_BITS)
        if hmac.compare_digest(verify.block_tag(hashes.seed, corrected), hashes.tag):
            accounts.spend_verdict()
            errors = count_errors(raw, corrected, self._key_intensities, raw.length, accounts.intensities)
            self._refused = accounts.judge(errors)
            return msg.Checked(errors)
        if self._hash_round == HASH_ROUNDS:
            raise PeerError("link.verification", f"the keys differ after {HASH_ROUNDS} rounds")
        accounts.spend(answers=1)
        return msg.Differ()

    def _locate(self, hashes: msg.FrameHashes) -> msg.Message:
        framing, corrected = self._framing, self._corrected
        assert framing is not None and corrected is not None
        _check_seed(hashes.seed)
        size = verify.FRAME_TAG_BITS // 8
        if len(hashes.tags) != framing.frames * size:
            raise PeerError("link.malformed", f"{len(hashes.tags)} bytes of tags for {framing.frames} frames")
        self.accounts.spend(verification=verify.FRAME_TAG_BITS * framing.frames)
        mine = verify.frame_tags(hashes.seed, framing, corrected)
        cuts = range(0, len(mine), size)
        self._asked = tuple(
            frame for frame, at in enumerate(cuts) if mine[at : at + size] != hashes.tags[at : at + size]
        )
        if not self._asked:
            raise PeerError("link.verification", "the keys differ, and every frame has its tag")
        self.accounts.spend(answers=framing.frames)
        return msg.Failed(self._asked)

    def _patch(self, message: msg.Whole) -> msg.Message:
        receiver, accounts = self._receiver, self.accounts
        assert receiver is not None
        before = receiver.disclosed
        receiver.take_whole(self._asked, message.data)
        accounts.spend(whole=receiver.disclosed - before)
        accounts.note_frames(differing=len(self._asked))
        return msg.Decoded()

    def _accept(self, message: msg.Amplify) -> msg.Message:
        accounts, corrected, terms = self.accounts, self._corrected, self.terms
        assert corrected is not None and accounts.estimates is not None
        found = accounts.estimates
        pairs = (
            (found.vacuum, message.vacuum),
            (found.single, message.single),
            (found.phase_error, message.phase_error),
        )
        if not all(math.isclose(mine, theirs, rel_tol=AGREEMENT) for mine, theirs in pairs):
            raise PeerError("link.terms", "the two ends estimate differently from the same counts")
        if message.disclosed != accounts.disclosed.total:
            raise PeerError("link.terms", f"{message.disclosed} bits disclosed by Alice's count, {accounts.disclosed}")
        refill = self._plan_refill(alice_tags=0, bob_tags=1)
        if message.refill != refill:
            raise PeerError("link.terms", f"Alice takes {message.refill} bytes for pads, not {refill}")
        if len(message.seed) != seed_bytes(corrected.length, terms.key_bits):
            raise PeerError("link.malformed", f"a seed of {len(message.seed)} bytes for {corrected.length} bits")
        self._make_key(corrected, message.seed, refill)
        return msg.Accept()


def _check_seed(seed: bytes) -> None:
    if len(seed) != verify.SEED_BYTES:
        raise PeerError("link.malformed", f"a seed of {len(seed)} bytes")
