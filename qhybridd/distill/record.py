"""What a block leaves behind: its record, without a secret in it. `docs/distillation.md` explains each field."""

from dataclasses import asdict, dataclass

from qhybridd.distill.budget import EpsilonBudget
from qhybridd.distill.terms import Terms


@dataclass(frozen=True, slots=True)
class Sizes:
    """How many were left after each step."""

    pulses: int
    clicks: int | None = None
    key_bits: int | None = None
    """Sifted clicks in the key basis."""
    test_bits: int | None = None
    """Sifted clicks in the test basis."""


@dataclass(frozen=True, slots=True)
class Counted:
    """Sifted clicks and errors for each intensity, the brightest first; None for what was not counted."""

    key_clicks: tuple[int, ...] | None = None
    key_errors: tuple[int, ...] | None = None
    test_clicks: tuple[int, ...] | None = None
    test_errors: tuple[int, ...] | None = None


@dataclass(frozen=True, slots=True)
class Reconciliation:
    """How the keys were made equal."""

    code: int
    """Number of the code in the catalogue."""
    code_bits: int
    """n: its length."""
    frame_bits: int
    """k: key bits of a full frame."""
    frames: int
    rate: float
    """1 − disclosed/key bits, of the syndromes alone."""
    qber_assumed: float
    """The error rate that the code was chosen for."""
    failed: int = 0
    """Frames that did not decode at first."""
    undecoded: int = 0
    """Of these, disclosed whole at last; the others were rescued by further bits."""
    differing: int = 0
    """Frames that decoded to something else, found by their tags and disclosed whole."""
    efficiency: float | None = None
    """f: bits disclosed for the syndromes, reveals and whole frames, over those that Shannon's limit asks for at the
    errors corrected; None before they are known, or when there was none."""


@dataclass(frozen=True, slots=True)
class Disclosed:
    """Bits of information about the key that went over the channel."""

    syndromes: int = 0
    reveals: int = 0
    """Bits of frames that failed."""
    whole: int = 0
    """Bits of frames disclosed whole, beyond what had been disclosed of them."""
    verification: int = 0
    """Tags of the key and of its frames."""
    answers: int = 0
    """What Bob said of his corrections: a bit for each frame that he was asked about and each tag that he compared, and
    the numbers of errors that he corrected. They depend on Alice's key too, so they count."""

    @property
    def total(self) -> int:
        """All of them: what is held against the terms."""
        return self.syndromes + self.reveals + self.whole + self.verification + self.answers


@dataclass(frozen=True, slots=True)
class Estimates:
    """What the finite-key bound says of the block; its terms stand beside it."""

    vacuum: float
    single: float
    phase_error: float


@dataclass(frozen=True, slots=True)
class Authentication:
    """How the messages were authenticated."""

    kind: str
    """`distilled` when every pad came out of earlier blocks, else `computational`."""
    tags_alice: int
    tags_bob: int
    """Tags that each made, as far as this end knows."""
    pad_bytes: int
    """One-time pad that went into them."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """How it ended."""

    kept: bool
    code: str
    """Empty when it was kept; else the error code."""
    reason: str
    ended_by: str
    """`alice`, `bob`: who sent the last message or gave up first, as far as this end knows."""
    phase: str
    """Where it stood then."""


@dataclass(frozen=True, slots=True)
class BlockRecord:
    """One block at one end, kept or dropped."""

    link: str
    block: int
    role: str
    key_id: str
    """Of what was distilled, as 32 hexadecimal digits; a dropped block never gave out its ID."""
    bound: str
    terms: Terms
    sizes: Sizes
    counted: Counted
    qber_key: float | None
    qber_test: float | None
    reconciliation: Reconciliation | None
    disclosed: Disclosed
    estimates: Estimates | None
    key_bits: int
    """ℓ of the key that privacy amplification gave; 0 for a dropped block."""
    refill_bits: int
    """Of these, kept back as pads for the tags of later blocks."""
    net_bits: int
    """The rest: what the key store gets."""
    epsilons: EpsilonBudget
    """What may go wrong, with which probability: the table of docs/security.md."""
    authentication: Authentication
    outcome: Outcome

    def to_dict(self) -> dict[str, object]:
        """The record for JSON: objects, lists, strings, numbers, null."""
        tree = asdict(self)
        tree["terms"]["protocol"]["bound"] = self.terms.protocol.bound.value
        tree["disclosed"]["total"] = self.disclosed.total
        tree["epsilons"] |= {"secrecy": self.epsilons.secrecy, "total": self.epsilons.total}
        return tree
