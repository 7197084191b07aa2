"""The messages of a block between Alice and Bob: typed, bounded, MessagePack arrays with a tag.

The bounds here are absolute; what follows from a block's terms (no more clicks than pulses, so many bits in a plane) is
checked by the end that receives it, before it makes room for anything. Fields are only ever appended, as in
`protocol.messages`.
"""

from typing import Annotated, Final

import msgspec
from msgspec import Meta, Struct

from qhybridd.distill.rates import Framing
from qhybridd.distill.terms import Bound, Protocol, Terms
from qhybridd.errors import PeerError

MAX_BLOCK: Final = (1 << 63) - 1
MAX_CLICKS: Final = 1 << 28
"""Clicks of one block: 10^8 sifted bits and more, where larger blocks no longer give a longer key."""
MAX_PLANE_BYTES: Final = MAX_CLICKS // 8
MAX_GAP_BYTES: Final = 2 * MAX_CLICKS
"""The Rice code takes 1.5 bits a click more than log2 of the mean gap: for the most clicks one in 2^14 pulses."""
MAX_FRAMES: Final = 4096
"""The most clicks make 2,700 frames of 10^5 bits; frames of 10^4 are for small blocks."""
MAX_INTENSITIES: Final = 3
MAX_SEED_BYTES: Final = 64
MAX_MESSAGE_BYTES: Final = MAX_GAP_BYTES + MAX_PLANE_BYTES + 1024
"""The longest message, its tag included, is `Detected`."""

Rate = Annotated[float, Meta(ge=0, le=1)]
Count = Annotated[int, Meta(ge=0, le=MAX_CLICKS)]
Counts = Annotated[tuple[Count, ...], Meta(min_length=1, max_length=MAX_INTENSITIES)]
"""One for each intensity."""
Real = Annotated[float, Meta(ge=0, le=MAX_CLICKS)]
Plane = Annotated[bytes, Meta(max_length=MAX_PLANE_BYTES)]
Disclosure = Annotated[bytes, Meta(max_length=4 * MAX_PLANE_BYTES)]
Seed = Annotated[bytes, Meta(min_length=1, max_length=MAX_SEED_BYTES)]
Tag = Annotated[bytes, Meta(min_length=16, max_length=16)]
FrameTags = Annotated[bytes, Meta(min_length=8, max_length=8 * MAX_FRAMES)]
Frames = Annotated[
    tuple[Annotated[int, Meta(ge=0, lt=MAX_FRAMES)], ...],
    Meta(min_length=1, max_length=MAX_FRAMES),
]


class WireTerms(Struct, frozen=True, array_like=True):
    """`Terms` with its `Protocol`, flat; equal exactly when the terms are."""

    intensities: Annotated[
        tuple[Annotated[float, Meta(ge=0, le=100)], ...], Meta(min_length=2, max_length=MAX_INTENSITIES)
    ]
    intensity_probabilities: Annotated[tuple[Rate, ...], Meta(min_length=2, max_length=MAX_INTENSITIES)]
    key_basis_probability: Rate
    bound: Bound
    epsilon_sec: Rate
    epsilon_cor: Rate
    qber_most: Rate
    pulses: Annotated[int, Meta(ge=1, lt=1 << 53)]
    key_clicks_least: Count
    test_clicks_least: Count
    vacuum_least: Real
    single_least: Real
    phase_error_most: Rate
    leakage_most: Annotated[int, Meta(ge=0, le=4 * MAX_CLICKS)]
    key_bits: Annotated[int, Meta(ge=1, le=MAX_CLICKS)]


class WireFraming(Struct, frozen=True, array_like=True):
    """How the key is cut into frames and coded: the fields of `rates.Framing`."""

    code: Annotated[int, Meta(ge=0, lt=1 << 16)]
    punctured: Annotated[int, Meta(ge=0, le=MAX_CLICKS)]
    frames: Annotated[int, Meta(ge=1, le=MAX_FRAMES)]
    key_bits: Annotated[int, Meta(ge=1, le=MAX_CLICKS)]


class Open(Struct, frozen=True, array_like=True, tag=1):
    """A→B: the block begins, on these terms."""

    block: Annotated[int, Meta(ge=0, le=MAX_BLOCK)]
    terms: WireTerms


class Detected(Struct, frozen=True, array_like=True, tag=2):
    """B→A: when Bob's detectors clicked, and in which basis."""

    count: Count
    gaps: Annotated[bytes, Meta(max_length=MAX_GAP_BYTES)]
    bases: Plane


class Sifted(Struct, frozen=True, array_like=True, tag=3):
    """A→B: what the two share."""

    matching: Plane
    """One bit for each click: 1 where the bases match."""
    intensity_low: Plane
    intensity_high: Plane
    """One bit for each matching click."""
    test: Plane
    """Alice's bits of the matching clicks in the test basis."""


class Measured(Struct, frozen=True, array_like=True, tag=4):
    """B→A: how many of the test bits differ; and how to reconcile, or nothing where the terms refuse already."""

    test_errors: Counts
    framing: WireFraming | None


class Syndromes(Struct, frozen=True, array_like=True, tag=5):
    """A→B: one syndrome for each frame, each on a word boundary."""

    data: Disclosure


class Failed(Struct, frozen=True, array_like=True, tag=6):
    """B→A: these frames, in ascending order, are not corrected yet."""

    frames: Frames


class More(Struct, frozen=True, array_like=True, tag=7):
    """A→B: more bits of the frames that failed."""

    data: Disclosure


class Decoded(Struct, frozen=True, array_like=True, tag=8):
    """B→A: every frame has its syndrome."""


class Hashes(Struct, frozen=True, array_like=True, tag=9):
    """A→B: a fresh seed and the tag of the whole key under it."""

    seed: Seed
    tag: Tag


class Differ(Struct, frozen=True, array_like=True, tag=10):
    """B→A: the tags differ; which frames is it?"""


class FrameHashes(Struct, frozen=True, array_like=True, tag=11):
    """A→B: a fresh seed and the tag of each frame under it."""

    seed: Seed
    tags: FrameTags


class Whole(Struct, frozen=True, array_like=True, tag=12):
    """A→B: the frames that differ, in clear."""

    data: Disclosure


class Checked(Struct, frozen=True, array_like=True, tag=13):
    """B→A: the keys are equal; so many errors were corrected."""

    key_errors: Counts


class Amplify(Struct, frozen=True, array_like=True, tag=14):
    """A→B: the block meets its terms; the seed of the hash that makes the key, and what Alice made of the block."""

    seed: Plane
    vacuum: Real
    single: Real
    phase_error: Rate
    disclosed: Annotated[int, Meta(ge=0, le=4 * MAX_CLICKS)]
    refill: Annotated[tuple[Count, ...], Meta(min_length=2, max_length=2)]
    """Bytes of the key that become pads of the tags from Alice to Bob, and from Bob to Alice."""


class Accept(Struct, frozen=True, array_like=True, tag=15):
    """B→A: Bob holds the key."""


class Abort(Struct, frozen=True, array_like=True, tag=16):
    """Either way: the block is given up; `code` is an error code of `errors.CODES`."""

    code: Annotated[str, Meta(max_length=32, pattern=r"\A[a-z]+\.[a-z-]+\Z")]


Message = (
    Open
    | Detected
    | Sifted
    | Measured
    | Syndromes
    | Failed
    | More
    | Decoded
    | Hashes
    | Differ
    | FrameHashes
    | Whole
    | Checked
    | Amplify
    | Accept
    | Abort
)

_encoder: Final = msgspec.msgpack.Encoder()
_decoder: Final[msgspec.msgpack.Decoder[Message]] = msgspec.msgpack.Decoder(Message)


def encode(message: Message) -> bytes:
    """The message as bytes, without its tag."""
    return _encoder.encode(message)


def decode(data: bytes | memoryview) -> Message:
    """A message from bytes. Raises `PeerError` (link.malformed) on anything else."""
    try:
        return _decoder.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise PeerError("link.malformed", f"a message of the block does not parse: {error}") from None


def wire_terms(terms: Terms) -> WireTerms:
    """The terms as `Open` carries them."""
    protocol = terms.protocol
    return WireTerms(
        **{name: getattr(protocol, name) for name in Protocol.__slots__},
        **{name: getattr(terms, name) for name in Terms.__slots__ if name != "protocol"},
    )


def wire_framing(framing: Framing) -> WireFraming:
    """The framing as `Measured` carries it."""
    return WireFraming(framing.code, framing.punctured, framing.frames, framing.key_bits)
