"""What several blocks came to, beside what the closed forms of the link expect."""

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from operator import add

from qhybridd.apps.sim.link import BlockReport
from qhybridd.distill.sift import Counts
from qhybridd.optics.parameters import Optics, Source
from qhybridd.optics.theory import expected_counts


@dataclass(frozen=True, slots=True)
class Measured:
    """A figure with its statistical error."""

    value: float
    deviation: float
    """Standard deviation: of a count its square root, of a share the binomial one."""


@dataclass(frozen=True, slots=True)
class Totals:
    """Sums over blocks. Rates of an empty sum are 0."""

    optics: Optics
    seconds: float
    pulses: int
    clicks: int
    counts: Counts
    net_bits: int
    refill_bits: int
    kept: int
    dropped: dict[str, int]
    """Blocks by the code that says why."""

    @property
    def blocks(self) -> int:
        """All of them."""
        return self.kept + sum(self.dropped.values())

    @property
    def key_bits_per_s(self) -> float:
        """What the key stores got, in time of the link."""
        return self.net_bits / self.seconds if self.seconds else 0.0

    @property
    def key_bits_per_pulse(self) -> float:
        """The same for each pulse."""
        return self.net_bits / self.pulses if self.pulses else 0.0

    @property
    def clicks_per_s(self) -> Measured:
        """Before sifting."""
        seconds = self.seconds or math.inf
        return Measured(self.clicks / seconds, math.sqrt(self.clicks) / seconds)

    def gain(self, index: int) -> Measured:
        """Q: sifted clicks of both bases over the pulses of this intensity that were sent in matching bases."""
        clicks = self.counts.key_clicks[index] + self.counts.test_clicks[index]
        sent = self.pulses * matching(self.optics.source) * self.optics.source.intensity_probabilities[index]
        return Measured(clicks / sent, math.sqrt(clicks) / sent) if sent else Measured(0.0, 0.0)

    def error_rate(self, index: int) -> Measured:
        """E: the share of those clicks that are wrong."""
        errors = self.counts.key_errors[index] + self.counts.test_errors[index]
        return share(errors, self.counts.key_clicks[index] + self.counts.test_clicks[index])

    @property
    def qber_key(self) -> Measured:
        """Of the key basis, all intensities."""
        return share(sum(self.counts.key_errors), sum(self.counts.key_clicks))

    @property
    def qber_test(self) -> Measured:
        """Of the test basis."""
        return share(sum(self.counts.test_errors), sum(self.counts.test_clicks))


@dataclass(frozen=True, slots=True)
class Predicted:
    """The same figures in closed form."""

    gains: tuple[float, ...]
    error_rates: tuple[float, ...]
    qber_key: float
    qber_test: float


def total(optics: Optics, blocks: Sequence[BlockReport]) -> Totals:
    """The sums over these blocks of one link."""
    zero = (0,) * len(optics.source.intensities)

    def column(pick: Callable[[Counts], tuple[int, ...]]) -> tuple[int, ...]:
        sums = zero
        for block in blocks:
            sums = tuple(map(add, sums, pick(block.counts)))
        return sums

    counts = Counts(
        column(lambda one: one.key_clicks),
        column(lambda one: one.key_errors),
        column(lambda one: one.test_clicks),
        column(lambda one: one.test_errors),
    )
    return Totals(
        optics,
        math.fsum(block.seconds for block in blocks),
        sum(block.pulses for block in blocks),
        sum(block.clicks for block in blocks),
        counts,
        sum(block.net_bits for block in blocks),
        sum(block.refill_bits for block in blocks),
        sum(not block.code for block in blocks),
        dict(Counter(block.code for block in blocks if block.code)),
    )


def predict(optics: Optics, pulses: int = 1 << 40) -> Predicted:
    """What `optics.theory` expects of a link in good order."""
    expected, source = expected_counts(optics, pulses), optics.source
    clicks = tuple(map(add, expected.key_clicks, expected.test_clicks))
    errors = tuple(map(add, expected.key_errors, expected.test_errors))
    sent = [pulses * matching(source) * probability for probability in source.intensity_probabilities]
    return Predicted(
        tuple(n / of for n, of in zip(clicks, sent, strict=True)),
        tuple(wrong / n if n else 0.0 for wrong, n in zip(errors, clicks, strict=True)),
        _over(expected.key_errors, expected.key_clicks),
        _over(expected.test_errors, expected.test_clicks),
    )


def matching(source: Source) -> float:
    """Probability that both ends choose the same basis."""
    return source.key_basis_probability**2 + (1 - source.key_basis_probability) ** 2


def share(part: int, of: int) -> Measured:
    """A share with its binomial error."""
    if not of:
        return Measured(0.0, 0.0)
    rate = part / of
    return Measured(rate, math.sqrt(rate * (1 - rate) / of))


def _over(part: Sequence[float], of: Sequence[float]) -> float:
    return math.fsum(part) / math.fsum(of) if math.fsum(of) else 0.0
