"""Reconciliation kernel: syndromes and decoding against the same integers in numpy, under every instruction set."""

import math
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from qhybridd import _native

UNITS = 10
CERTAIN = 16384
MESSAGE = 127
CORRECTION = np.array([round(UNITS * math.log1p(math.exp(-x / UNITS))) for x in range(512)])

Row = tuple[tuple[int, int], ...]
Numbers = NDArray[np.int64]


@pytest.fixture(params=_native.instruction_sets(), autouse=True)
def instruction_set(request: pytest.FixtureRequest) -> Iterator[None]:
    before = _native.instruction_set()
    _native.use_instruction_set(request.param)
    yield
    _native.use_instruction_set(before)


@dataclass(frozen=True)
class Code:
    lifting: int
    columns: int
    rows: tuple[Row, ...]

    @property
    def bits(self) -> int:
        return self.columns * self.lifting

    @property
    def checks(self) -> int:
        return len(self.rows) * self.lifting

    def table(self) -> bytes:
        table = struct.pack("<HHI", len(self.rows), self.columns, self.lifting)
        for row in self.rows:
            table += struct.pack("<H", len(row)) + b"".join(struct.pack("<HH", *edge) for edge in row)
        return table

    def places(self, row: Row) -> list[Numbers]:
        """For each edge the bit that each check covers."""
        return [column * self.lifting + (np.arange(self.lifting) + shift) % self.lifting for column, shift in row]

    def syndrome(self, word: Numbers) -> Numbers:
        return np.concatenate([np.bitwise_xor.reduce([word[place] for place in self.places(row)]) for row in self.rows])


def random_code(lifting: int, columns: int, rows: int, seed: int) -> Code:
    """Columns of degree 2 to 5 (one of them in every row), rows of about equal degree but one that has two edges."""
    random = np.random.default_rng(seed)
    edges: list[list[tuple[int, int]]] = [[] for _ in range(rows)]
    for column in range(columns):
        degree = rows if column == columns // 2 else min(rows - 1, 2 + column % 4)
        emptiest = sorted(range(rows - 1), key=lambda row: (len(edges[row]), random.random()))
        for row in emptiest[:degree] + [rows - 1] * (column == columns // 2 or column == 0):
            edges[row].append((column, int(random.integers(lifting))))
    return Code(lifting, columns, tuple(tuple(row) for row in edges))


def box_plus(a: Numbers, b: Numbers) -> Numbers:
    low, high = np.minimum(a, b), np.maximum(a, b)
    result: Numbers = np.maximum(low + CORRECTION[a + b] - CORRECTION[high - low], 0)
    return result


def decode(
    code: Code, word: Numbers, syndrome: Numbers, noisy: int, known: int, qber: float, iterations: int
) -> tuple[Numbers, int]:
    """One frame: what csrc/ldpc_decoder.h says, check by check."""
    magnitude = np.zeros(code.bits, int)
    magnitude[:noisy] = min(MESSAGE, math.ceil(UNITS * math.log((1 - qber) / qber)))
    magnitude[noisy:known] = CERTAIN
    posterior = np.where(word == 1, -magnitude, magnitude)
    messages = [[np.zeros(code.lifting, int) for _ in row] for row in code.rows]
    for iteration in range(1, iterations + 1):
        unsatisfied = 0
        for index, row in enumerate(code.rows):
            places = code.places(row)
            exact = [posterior[place] - message for place, message in zip(places, messages[index], strict=True)]
            clipped = [np.clip(v, -128, 127) for v in exact]
            size = [np.abs(v) for v in clipped]
            negative = syndrome[index * code.lifting : (index + 1) * code.lifting] == 1
            for v in clipped:
                negative = negative ^ (v < 0)
            unsatisfied += int(negative.sum())
            least, rest = np.minimum(size[0], size[1]), np.maximum(size[0], size[1])
            for other in size[2:]:
                rest = box_plus(rest, np.maximum(least, other))
                least = np.minimum(least, other)
            total, rest = np.minimum(box_plus(rest, least), MESSAGE), np.minimum(rest, MESSAGE)
            for edge, place in enumerate(places):
                message = np.where(size[edge] == least, rest, total)
                messages[index][edge] = np.where(negative ^ (clipped[edge] < 0), -message, message)
                posterior[place] = exact[edge] + messages[index][edge]
        if unsatisfied > code.checks // 8 and iteration < iterations:
            continue
        decided = (posterior < 0).astype(int)
        if np.array_equal(code.syndrome(decided), syndrome):
            return decided, iteration
    return word, 0


def pack(bits: Numbers) -> bytearray:
    """Rows of bits, each on a word boundary."""
    return bytearray(np.packbits(bits.astype(np.uint8), axis=-1, bitorder="little").tobytes())


def known_bytes(*known: int) -> bytes:
    return struct.pack(f"<{len(known)}I", *known)


@dataclass(frozen=True)
class Frames:
    """Random words of Alice, and what Bob has of them."""

    sent: Numbers
    received: Numbers
    syndromes: Numbers

    @classmethod
    def make(cls, code: Code, noisy: int, known: list[int], qber: float, seed: int) -> "Frames":
        random = np.random.default_rng(seed)
        sent = random.integers(0, 2, (len(known), code.bits))
        received = sent.copy()
        received[:, :noisy] ^= random.random((len(known), noisy)) < qber
        for frame, end in enumerate(known):
            received[frame, end:] = random.integers(0, 2, code.bits - end)
        return cls(sent, received, np.array([code.syndrome(word) for word in sent]))


TINY = Code(64, 3, (((0, 5), (2, 63)), ((2, 0), (1, 1), (0, 0))))


@pytest.mark.parametrize("lifting", [64, 192, 320])
@pytest.mark.parametrize("offset", [0, 3])
def test_a_syndrome_is_the_sum_of_the_bits_of_its_checks(lifting: int, offset: int) -> None:
    code = random_code(lifting, 9, 4, lifting)
    words = np.random.default_rng(1).integers(0, 2, (3, code.bits))
    native = _native.LdpcCode(code.table())
    assert (native.bits, native.checks) == (code.bits, code.checks)
    given_words = memoryview(bytes(offset) + pack(words))[offset:]
    out = bytearray(b"\xff" * (offset + 3 * code.checks // 8 + 8))
    native.syndromes(given_words, memoryview(out)[offset:], 3)
    expected = pack(np.array([code.syndrome(word) for word in words]))
    assert out[offset:-8] == expected and out[:offset] + out[-8:] == b"\xff" * (offset + 8)


@cache
def expected_of(
    lifting: int, columns: int, rows: int, qber: float
) -> tuple[Code, list[int], Frames, list[Numbers], list[int]]:
    """A code, frames near the limit of what it corrects, and what the oracle makes of them."""
    code = random_code(lifting, columns, rows, columns)
    noisy = code.bits * 9 // 10 + 5
    known = [noisy + (code.bits - noisy) * i // 9 for i in range(10)]
    frames = Frames.make(code, noisy, known, qber, seed=lifting)
    decoded = [decode(code, frames.received[i], frames.syndromes[i], noisy, known[i], qber, 25) for i in range(10)]
    return code, known, frames, [word for word, _ in decoded], [iteration for _, iteration in decoded]


@pytest.mark.parametrize(
    ("lifting", "columns", "rows", "qber"),
    [
        (64, 24, 8, 0.005),
        (64, 24, 10, 0.04),
        (128, 22, 10, 0.05),
        (192, 20, 8, 0.03),
        (256, 20, 9, 0.05),
        (320, 30, 9, 0.02),
    ],
)
def test_decoding_is_what_the_same_integers_give_elsewhere(lifting: int, columns: int, rows: int, qber: float) -> None:
    code, known, frames, decoded, iterations = expected_of(lifting, columns, rows, qber)
    words = bytearray(3) + pack(frames.received) + bytearray(b"\xff" * 5)
    used = _native.LdpcCode(code.table()).decode(
        memoryview(words)[3:], pack(frames.syndromes), 10, known[0], known_bytes(*known), qber, 25
    )
    assert used == iterations
    assert words[3:-5] == pack(np.array(decoded)) and words[-5:] == b"\xff" * 5


@pytest.mark.parametrize("check", [0, 63, 64, 127])
def test_one_check_that_is_not_satisfied_is_enough_to_fail(check: int) -> None:
    syndrome = TINY.syndrome(np.zeros(TINY.bits, int))
    syndrome[check] ^= 1
    words = bytearray(24)
    assert _native.LdpcCode(TINY.table()).decode(words, pack(syndrome), 1, 0, known_bytes(192), 0.02, 4) == [0]


def test_the_column_with_most_edges_stays_within_its_numbers() -> None:
    row = ((0, 0), (1, 63))
    code = Code(64, 2, (row,) * 126)
    frames = Frames.make(code, 64, [128, 128], 0.3, seed=1)
    words = pack(frames.received)
    used = _native.LdpcCode(code.table()).decode(words, pack(frames.syndromes), 2, 64, known_bytes(128, 128), 0.3, 3)
    assert used == [1, 1] and words == pack(frames.sent)
    # Half of the bits are known wrongly: messages at their largest, against the largest posteriors.
    received = frames.received.copy()
    received[:, 64:96] ^= 1
    received[:, :64] = frames.sent[:, :64]
    words = pack(received)
    used = _native.LdpcCode(code.table()).decode(words, pack(frames.syndromes), 2, 0, known_bytes(128, 128), 0.3, 9)
    assert used == [0, 0] and words == pack(received)


def test_random_words_come_back() -> None:
    code = random_code(256, 24, 8, 3)
    noisy, known = code.bits - 300, [code.bits, code.bits - 20, code.bits]
    frames = Frames.make(code, noisy, known, 0.01, seed=8)
    words = pack(frames.received)
    used = _native.LdpcCode(code.table()).decode(words, pack(frames.syndromes), 3, noisy, known_bytes(*known), 0.01, 40)
    assert all(used) and words == pack(frames.sent)


def test_what_is_known_is_held_to_and_what_is_erased_is_not_looked_at() -> None:
    # Each check of the first row joins two bits, so either erased half of column 2 follows from column 0.
    native = _native.LdpcCode(TINY.table())
    sent = np.random.default_rng(2).integers(0, 2, TINY.bits)
    syndrome = pack(TINY.syndrome(sent))
    received = sent.copy()
    received[128:] ^= 1
    words = pack(received)
    assert native.decode(words, syndrome, 1, 0, known_bytes(128), 0.1, 9) != [0] and words == pack(sent)
    # All known, one of them wrongly: nothing may move it, so no word has the syndrome.
    wrong = sent.copy()
    wrong[7] ^= 1
    words = pack(wrong)
    assert native.decode(words, syndrome, 1, 0, known_bytes(192), 0.1, 9) == [0] and words == pack(wrong)


def test_the_last_bit_that_is_known_may_be_any_bit_of_a_word() -> None:
    pairs = Code(64, 2, (((0, 0), (1, 0)),))
    native = _native.LdpcCode(pairs.table())
    for more in range(64):
        # The check behind the last pair of known bits moves its erased bit; the one before can move nothing.
        for check, used in [(more, 1), (more - 1, 0)][: more + 1]:
            words, syndrome = bytearray(16), pack(np.arange(64) == check)
            assert native.decode(words, syndrome, 1, 0, known_bytes(64 + more), 0.1, 3) == [used]
            assert words == bytes(8) + (syndrome if used else bytes(8))


def test_a_frame_that_does_not_converge_is_left_alone_and_harms_no_other() -> None:
    code = random_code(64, 24, 6, 4)
    known = [code.bits] * 3
    frames = Frames.make(code, code.bits, known, 0.003, seed=5)
    received = frames.received.copy()
    received[1] = np.random.default_rng(9).integers(0, 2, code.bits)
    words = pack(received)
    used = _native.LdpcCode(code.table()).decode(
        words, pack(frames.syndromes), 3, code.bits, known_bytes(*known), 0.003, 15
    )
    assert used[1] == 0 and used[0] and used[2]
    assert words == pack(np.array([frames.sent[0], received[1], frames.sent[2]]))


def test_no_frames_are_no_work() -> None:
    native = _native.LdpcCode(TINY.table())
    native.syndromes(b"", bytearray(), 0)
    assert native.decode(bytearray(), b"", 0, 0, b"", 0.02, 1) == []


@pytest.mark.parametrize(
    "change",
    [
        {"words": bytearray(47)},
        {"syndromes": bytes(31)},
        {"known": known_bytes(100, 100)[:-1]},
        {"known": known_bytes(100, 193)},
        {"known": known_bytes(99, 100)},
        {"known": known_bytes(100, 2**32 - 1)},
        {"noisy": 193},
        {"noisy": -1},
        {"frames": -1},
        {"frames": 2**62},
        {"qber": 0.0},
        {"qber": 0.5},
        {"qber": float("nan")},
        {"iterations": 0},
        {"iterations": 2**40},
    ],
)
def test_arguments_that_do_not_fit_are_refused(change: dict[str, object]) -> None:
    fitting: dict[str, object] = {
        "words": bytearray(48),
        "syndromes": bytes(32),
        "frames": 2,
        "noisy": 100,
        "known": known_bytes(100, 192),
        "qber": 0.02,
        "iterations": 3,
    }
    native = _native.LdpcCode(TINY.table())
    assert native.decode(**fitting) == [1, 1]  # type: ignore[arg-type]
    with pytest.raises(ValueError):
        native.decode(**{**fitting, **change})  # type: ignore[arg-type]


def test_syndromes_refuse_short_buffers() -> None:
    native = _native.LdpcCode(TINY.table())
    for words, out, frames in ((bytes(23), bytearray(16), 1), (bytes(24), bytearray(15), 1), (b"", bytearray(), -1)):
        with pytest.raises(ValueError):
            native.syndromes(words, out, frames)
    with pytest.raises((BufferError, TypeError)):
        native.syndromes(bytes(24), bytes(16), 1)


def test_what_is_written_overlaps_no_syndrome() -> None:
    native, room = _native.LdpcCode(TINY.table()), memoryview(bytearray(64))
    with pytest.raises(ValueError, match="overlaps"):
        native.syndromes(room[:24], room[23:39], 1)
    with pytest.raises(ValueError, match="overlaps"):
        native.decode(room[8:32], room[:16], 1, 192, known_bytes(192), 0.1, 2)
    assert native.decode(room[16:40], room[:16], 1, 192, known_bytes(192), 0.1, 2) == [1]


def test_what_is_known_is_read_once() -> None:
    """Here the words that come back overwrite it with more than a frame has: they are written as they were checked."""
    native, frames = _native.LdpcCode(TINY.table()), 2
    sent = np.ones((frames, TINY.bits), int)
    received = sent.copy()
    received[:, 128:] = 0
    room = pack(received)
    room[16:24] = known_bytes(128, 128)  # within the erased bits of the first frame
    syndromes = pack(np.array([TINY.syndrome(word) for word in sent]))
    assert all(native.decode(room, syndromes, frames, 0, memoryview(room)[16:24], 0.1, 9))
    assert room == pack(sent)


def test_the_smallest_and_the_largest_error_rate_are_taken() -> None:
    native = _native.LdpcCode(TINY.table())
    for qber in (5e-324, 0.4999999):
        assert native.decode(bytearray(24), bytes(16), 1, 192, known_bytes(192), qber, 2)[0] in range(3)


def table(rows: int, columns: int, lifting: int, *edges: list[tuple[int, int]]) -> bytes:
    packed = struct.pack("<HHI", rows, columns, lifting)
    return packed + b"".join(
        struct.pack("<H", len(row)) + b"".join(struct.pack("<HH", *edge) for edge in row) for row in edges
    )


GOOD = [(0, 0), (1, 63)]


@pytest.mark.parametrize(
    "bad",
    [
        b"",
        table(1, 2, 64, GOOD)[:7],
        table(1, 2, 64, GOOD)[:-1],
        table(1, 2, 64, GOOD) + b"\0",
        table(2, 2, 64, GOOD),
        table(2, 2, 64, GOOD) + b"\2",
        table(0, 2, 64),
        table(1, 0, 64, GOOD),
        table(1, 2, 0, GOOD),
        table(1, 2, 63, GOOD),
        table(1, 2, 32, GOOD),
        table(1, 2, 64, [(0, 0)]),
        table(1, 2, 64, [(0, 0), (2, 0)]),
        table(1, 2, 64, [(0, 64), (1, 0)]),
        table(1, 2, 64, [(0, 0), (0, 1)]),
        table(1, 300, 64, [(i, 0) for i in range(256)]),
        table(127, 2, 64, *[GOOD] * 127),
        table(1, 2, 2**31, GOOD),
        table(1, 2, 2**32 - 64, GOOD),
        table(1, 3, 2**21, GOOD),
        table(3, 2, 2**21, GOOD, GOOD, GOOD),
    ],
)
def test_a_bad_table_is_refused(bad: bytes) -> None:
    with pytest.raises(ValueError):
        _native.LdpcCode(bad)


def test_the_bounds_of_a_table_are_inside() -> None:
    assert _native.LdpcCode(table(2, 2, 2**21, GOOD, GOOD)).bits == 2**22
    assert _native.LdpcCode(table(1, 255, 64, [(i, 63) for i in range(255)])).checks == 64
    assert _native.LdpcCode(table(126, 2, 64, *[GOOD] * 126)).checks == 126 * 64
    assert _native.LdpcCode(table(1, 65535, 64, [(65534, 0), (0, 0)])).bits == 65535 * 64


def small_tables() -> st.SearchStrategy[bytes]:
    """Nearly good ones, so that the parser is passed now and then."""
    number = st.integers(0, 6)
    row = st.lists(st.tuples(number, st.integers(0, 70)), max_size=5)
    return st.builds(
        lambda rows, columns, lifting, edges, tail: table(rows, columns, lifting, *edges) + tail,
        number,
        number,
        st.sampled_from([64, 128, 0, 65, 2**32 - 64]),
        st.lists(row, max_size=4),
        st.binary(max_size=2),
    )


def is_good(data: bytes) -> bool:
    if len(data) < 8:
        return False
    rows, columns, lifting = struct.unpack_from("<HHI", data)
    if not rows or not columns or not lifting or lifting % 64 or max(rows, columns) * lifting > 2**22:
        return False
    words, at = data[8:], 0
    for _ in range(rows):
        if len(words) - at < 2:
            return False
        (degree,) = struct.unpack_from("<H", words, at)
        if not 2 <= degree <= 255 or len(words) - at < 2 + 4 * degree:
            return False
        numbers = struct.unpack_from(f"<{2 * degree}H", words, at + 2)
        if max(numbers[::2]) >= columns or max(numbers[1::2]) >= lifting or len(set(numbers[::2])) < degree:
            return False
        at += 2 + 4 * degree
    return at == len(words)


@given(st.binary(max_size=60) | small_tables())
def test_any_bytes_are_a_code_or_a_value_error(data: bytes) -> None:
    if not is_good(data):
        with pytest.raises(ValueError):
            _native.LdpcCode(data)
        return
    native = _native.LdpcCode(data)
    words = bytearray(native.bits // 8)
    assert native.decode(words, bytes(native.checks // 8), 1, native.bits, known_bytes(native.bits), 0.1, 2) == [1]
    assert not any(words)


def test_a_code_is_initialised_once() -> None:
    native = _native.LdpcCode(TINY.table())
    with pytest.raises(RuntimeError):
        native.__init__(TINY.table())  # type: ignore[misc]
    empty = _native.LdpcCode.__new__(_native.LdpcCode)
    with pytest.raises(RuntimeError):
        empty.syndromes(b"", bytearray(), 0)
