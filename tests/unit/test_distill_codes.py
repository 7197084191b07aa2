"""The stored codes are what docs/codes.md says: well formed, no short cycles, made for puncturing; and they decode."""

import math
import random
from collections import Counter
from itertools import combinations

import pytest

from qhybridd import _native
from qhybridd.distill import codes
from qhybridd.distill.codes import FrameSize
from qhybridd.distill.rates import PUNCTURED_MOST, choose_framing, leak
from qhybridd.errors import ProgramError
from tools.codes import graph
from tools.codes.evolution import Profile, threshold
from tools.codes.graph import Code, build, cycles

CATALOGUE = codes.catalogue()
MEDIUM = [code.number for code in CATALOGUE if code.size is FrameSize.MEDIUM]


def parsed(number: int) -> Code:
    return Code.decode(codes.table(number))


def punctured_columns(code: Code) -> int:
    """How many columns puncturing reaches at most."""
    return math.ceil(math.floor(PUNCTURED_MOST * len(code.rows) * code.lifting) / code.lifting)


def test_the_sizes_and_the_order_of_the_catalogue():
    for size, bits in ((FrameSize.SMALL, 12_800), (FrameSize.MEDIUM, 102_400), (FrameSize.LARGE, 1_024_000)):
        mine = [code for code in CATALOGUE if code.size is size]
        assert all(code.bits == bits and code.lifting % 64 == 0 for code in mine)
        assert [code.rows for code in mine] == sorted({code.rows for code in mine})
    assert [code.number for code in CATALOGUE] == list(range(len(CATALOGUE)))
    assert sum(code.length for code in CATALOGUE) <= 1 << 20


@pytest.mark.parametrize("number", range(len(CATALOGUE)))
def test_a_code_is_well_formed(number: int):
    record, code = CATALOGUE[number], parsed(number)
    assert (len(code.rows), code.columns, code.lifting) == (record.rows, record.columns, record.lifting)
    for row in code.rows:
        columns = [column for column, _ in row]
        assert columns == sorted(set(columns))  # no two edges of a row on one column
        assert all(0 <= column < code.columns and 0 <= shift < code.lifting for column, shift in row)
    edges = code.column_edges()
    assert min(map(len, edges)) >= 2
    narrow = {row for column in edges[-punctured_columns(code) :] if len(column) == 2 for row, _ in column}
    for group in (narrow, set(range(len(code.rows))) - narrow):
        lengths = [len(code.rows[row]) for row in group]
        assert not lengths or max(lengths) - min(lengths) <= 2


@pytest.mark.parametrize("number", range(len(CATALOGUE)))
def test_every_part_that_may_be_shortened_has_columns_of_each_degree(number: int):
    code = parsed(number)
    edges = code.column_edges()[: -punctured_columns(code)]
    mean = sum(map(len, edges)) / len(edges)
    for cut in range(len(edges) // 10, len(edges), len(edges) // 10):
        assert sum(map(len, edges[:cut])) / cut == pytest.approx(mean, rel=0.12)


@pytest.mark.parametrize("number", range(len(CATALOGUE)))
def test_no_cycle_of_length_four(number: int):
    met: set[tuple[int, int, int]] = set()
    code = parsed(number)
    for edges in code.column_edges():
        for (row, shift), (other, another) in combinations(sorted(edges), 2):
            link = (row, other, (shift - another) % code.lifting)
            assert link not in met
            met.add(link)


def test_cycles_are_counted():
    assert cycles(Code(64, 2, (((0, 0), (1, 5)), ((0, 3), (1, 8))))) == (1, 0)
    assert cycles(Code(64, 2, (((0, 0), (1, 5)), ((0, 3), (1, 9))))) == (0, 0)
    triangle = (((0, 0), (2, 7)), ((0, 1), (1, 2)), ((1, 0), (2, 4)))
    assert cycles(Code(64, 3, triangle))[1] == 0
    closing = (triangle[0], triangle[1], ((1, 0), (2, (7 - 0 + 1 - 2) % 64)))
    assert cycles(Code(64, 3, closing))[1] == 1
    assert cycles(Code(64, 1, (((0, 0),), ((0, 3),), ((0, 8),)))) == (0, 0)  # from a column to itself is no cycle


@pytest.mark.parametrize("number", range(len(CATALOGUE)))
def test_columns_of_degree_two_close_no_cycle(number: int):
    code = parsed(number)
    leader = list(range(len(code.rows)))

    def find(row: int) -> int:
        while leader[row] != row:
            row = leader[row]
        return row

    for edges in code.column_edges():
        if len(edges) == 2:
            (a, _), (b, _) = edges
            assert find(a) != find(b)
            leader[find(a)] = find(b)


@pytest.mark.parametrize("number", range(len(CATALOGUE)))
def test_no_check_has_two_punctured_bits(number: int):
    code = parsed(number)
    edges = code.column_edges()[-punctured_columns(code) :]
    rows = [row for column in edges for row, _ in column]
    assert len(rows) == len(set(rows))
    assert all(len(column) <= 3 for column in edges)


@pytest.mark.parametrize("number", MEDIUM)
def test_each_medium_code_decodes(number: int):
    code = CATALOGUE[number]
    source = random.Random(number)
    punctured = code.checks * 6 // 100
    key_bits = code.bits - punctured
    wanted = (code.checks - punctured) / key_bits / 1.03
    qber = max((q / 10_000 for q in range(30, 1001) if leak(q / 10_000, FrameSize.MEDIUM) <= wanted), default=0.003)
    word = source.randbytes(code.bits // 8)
    decoder = codes.load(number)
    assert (decoder.bits, decoder.checks) == (code.bits, code.checks)
    syndrome = bytearray(code.checks // 8)
    decoder.syndromes(word, syndrome, 1)
    errors = sum(1 << i for i in range(key_bits) if source.random() < qber)
    hidden = ((1 << punctured) - 1) << key_bits
    received = bytearray(((int.from_bytes(word, "little") ^ errors) & ~hidden).to_bytes(code.bits // 8, "little"))
    known = key_bits.to_bytes(4, "little")
    (used,) = decoder.decode(received, syndrome, 1, key_bits, known, qber, 100)
    assert used > 0
    assert received == word


def test_density_evolution_finds_a_published_threshold():
    # The regular (3, 6) ensemble: 0.084 (Richardson and Urbanke, IEEE Trans. Inf. Theory 47, 599 (2001)).
    assert threshold(Profile({3: 1.0}, 0.5)) == pytest.approx(0.084, abs=2e-4)


def test_a_code_is_built_the_same_again_and_without_short_cycles():
    shares = {2: 0.2, 3: 0.6, 6: 0.2}
    code = build(shares, 60, 20, 128, 3)
    assert code == build(shares, 60, 20, 128, 3) != build(shares, 60, 20, 128, 4)
    assert code == Code.decode(code.encode())
    assert Counter(map(len, code.column_edges())) == {2: 12, 3: 36, 6: 12}
    assert cycles(code)[0] == 0


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("shares", [{2: 0.38, 3: 0.62}, {2: 0.02, 3: 0.98}, {3: 1.0}])
def test_columns_for_puncturing_share_no_row(monkeypatch: pytest.MonkeyPatch, shares: dict[int, float], seed: int):
    monkeypatch.setattr(graph, "PUNCTURED_SHARE", 0.24)
    columns = build(shares, 250, 100, 64, seed).column_edges()[-24:]
    rows = [row for column in columns for row, _ in column]
    assert len(rows) == len(set(rows))


def test_no_code_is_built_where_short_cycles_must_be():
    with pytest.raises(ValueError, match="no shift is left"):
        build({6: 1.0}, 120, 8, 64, 1)


def test_loading_is_cached_and_refuses_other_numbers():
    number = choose_framing(20_000, 0.03).code
    assert codes.load(number) is codes.load(number)
    assert isinstance(codes.load(number), _native.LdpcCode)
    for wrong in (-1, len(CATALOGUE)):
        with pytest.raises(ProgramError):
            codes.load(wrong)


def test_the_digest_names_codes_and_measurements(monkeypatch: pytest.MonkeyPatch):
    before = codes.digest()
    assert len(before) == 32
    codes.digest.cache_clear()
    monkeypatch.setattr(codes, "leaks", lambda _: ((0.1, 0.01),))
    assert codes.digest() != before
    codes.digest.cache_clear()
