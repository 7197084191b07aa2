"""Builds a quasi-cyclic code from the degrees of its columns.

The base graph grows edge by edge, low degrees first, each edge to the least filled row that shares the fewest columns
with those chosen before (progressive edge growth: Hu, Eleftheriou, Arnold, IEEE Trans. Inf. Theory 51, 386 (2005)). A
shift is taken that closes no cycle of length 4 and the fewest, least harmful of length 6 (conditions on the shifts:
Fossorier, IEEE Trans. Inf. Theory 50, 1788 (2004); harm: the approximate cycle EMD of Tian, Jones, Villasenor, Wesel,
IEEE Trans. Commun. 52, 1242 (2004)).
"""

import math
import struct
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import combinations

import numpy as np

PUNCTURED_SHARE = 0.10
"""Of the rows: so many columns at the end are made for puncturing. A punctured column of degree 2 makes one check of
two, and no two of them meet: that costs less than half of what columns of degree 3 do, which are the second choice."""
HARMLESS = 10
"""Columns of this degree and above are so well connected that their cycles of length 6 are let be."""
PUNCTURED_WIDTH = 0.75
"""Edges of a row that is to meet another through a punctured column, relative to other rows."""


@dataclass(frozen=True, slots=True)
class Code:
    """A base matrix: `rows[i]` lists (column, shift) of base row i, by column."""

    lifting: int
    columns: int
    rows: tuple[tuple[tuple[int, int], ...], ...]

    def encode(self) -> bytes:
        """The compact table that `LdpcCode` reads."""
        table = struct.pack("<HHI", len(self.rows), self.columns, self.lifting)
        for row in self.rows:
            table += struct.pack("<H", len(row)) + b"".join(struct.pack("<HH", *edge) for edge in row)
        return table

    @classmethod
    def decode(cls, table: bytes) -> "Code":
        """The inverse of `encode`, for a table that is known to be good."""
        count, columns, lifting = struct.unpack_from("<HHI", table)
        offset, rows = 8, []
        for _ in range(count):
            (degree,) = struct.unpack_from("<H", table, offset)
            numbers = struct.unpack_from(f"<{2 * degree}H", table, offset + 2)
            rows.append(tuple(zip(numbers[::2], numbers[1::2], strict=True)))
            offset += 2 + 4 * degree
        if offset != len(table):
            raise ValueError(f"{len(table)} bytes, {offset} of them used")
        return cls(lifting, columns, tuple(rows))

    def column_edges(self) -> list[list[tuple[int, int]]]:
        """For each column its (row, shift)."""
        edges: list[list[tuple[int, int]]] = [[] for _ in range(self.columns)]
        for index, row in enumerate(self.rows):
            for column, shift in row:
                edges[column].append((index, shift))
        return edges


def integer_degrees(shares: Mapping[int, float], columns: int, rows: int) -> list[int]:
    """A degree for each column, ascending, the shares rounded by largest remainder; fewer of degree 2 than rows.

    Where rows are few, the highest degrees are brought down to four fifths of them.
    """
    exact = {degree: share * columns for degree, share in shares.items()}
    counts = {degree: math.floor(count) for degree, count in exact.items()}
    for degree in sorted(exact, key=lambda d: counts[d] - exact[d])[: columns - sum(counts.values())]:
        counts[degree] += 1
    if (extra := counts.get(2, 0) - (rows - 1)) > 0:
        counts[2] -= extra
        counts[3] = counts.get(3, 0) + extra
    return sorted(min(degree, rows * 4 // 5) for degree, count in counts.items() for _ in range(count))


def _base(degrees: list[int], rows: int, random: np.random.Generator) -> tuple[list[list[int]], list[int]]:
    """The rows of each column, and the order of the columns: those for puncturing at the end.

    Columns of degree 2 form paths over the rows, so they close no cycle; those for puncturing share no row.
    """
    chosen: list[list[int]] = []
    filled = np.zeros(rows)
    shared = np.zeros((rows, rows))

    def place(among: list[int]) -> None:
        chosen.append(among)
        filled[among] += 1
        shared[np.ix_(among, among)] += 1

    twos = degrees.count(2)
    path = random.permutation(rows).tolist()
    for step in np.linspace(0, rows - 1, twos, endpoint=False).astype(int).tolist():
        place([path[step], path[step + 1]])
    wanted = math.ceil(PUNCTURED_SHARE * rows)
    free, width = np.ones(rows, bool), np.ones(rows)
    punctured: list[int] = []
    # Of degree 2 as long as each leaves its neighbours in the path alone, in an order that spreads them.
    for column in np.argsort(random.random(twos)).tolist():
        if len(punctured) < wanted and free[chosen[column]].all():
            punctured.append(column)
            free[chosen[column]] = False
            width[chosen[column]] = PUNCTURED_WIDTH
    for degree in degrees[twos:]:
        among: list[int] = []
        punctures = len(punctured) < wanted and degree == 3 and free.sum() >= degree
        for _ in range(degree):
            cost = filled / width * 1000 + random.random(rows)
            if among:
                cost += 50 * shared[among].sum(axis=0)
            if punctures:
                cost[~free] = np.inf
            cost[among] = np.inf
            among.append(int(np.argmin(cost)))
        if punctures:
            punctured.append(len(chosen))
            free[among] = False
        place(among)
    others = [column for column in range(len(degrees)) if column not in set(punctured)]
    return chosen, _mixed(others, degrees) + punctured[::-1]


def _mixed(columns: list[int], degrees: list[int]) -> list[int]:
    """In an order in which whatever part is cut off for shortening has its share of each degree."""
    place: dict[int, float] = {}
    for degree in set(degrees):
        mine = [column for column in columns if degrees[column] == degree]
        place.update({column: (index + 0.5) / len(mine) for index, column in enumerate(mine)})
    return sorted(columns, key=lambda column: (place[column], column))


def build(shares: Mapping[int, float], columns: int, rows: int, lifting: int, seed: int) -> Code:
    """A code without cycles of length 4. Raises ValueError when none is found for this seed."""
    random = np.random.default_rng(seed)
    degrees = integer_degrees(shares, columns, rows)
    base, order = _base(degrees, rows, random)
    shifts: list[list[int]] = []
    links = [[(np.zeros(0, int), np.zeros(0)) for _ in range(rows)] for _ in range(rows)]
    for among in base:
        mine: list[int] = []
        for index, row in enumerate(among):
            cost = random.random(lifting) * 1e-6
            for other, shift in zip(among[:index], mine, strict=True):
                # A check t of row `other` meets check t + d of `row` in one column for each d of their link.
                straight, _ = links[other][row]
                cost[(shift - straight) % lifting] = np.inf
                for between in range(rows if len(among) < HARMLESS else 0):
                    first, harm_first = links[other][between]
                    second, harm_second = links[between][row]
                    if first.size and second.size:
                        ends = (shift - np.add.outer(first, second).ravel()) % lifting
                        harm = 1 / (np.add.outer(harm_first, harm_second).ravel() + len(among) - 1.0)
                        cost += np.bincount(ends, harm, lifting)
            best = int(np.argmin(cost))
            if not np.isfinite(cost[best]):
                raise ValueError(f"no shift is left for a column of degree {len(among)}")
            mine.append(best)
        for i, (row, shift) in enumerate(zip(among, mine, strict=True)):
            for j, (other, another) in enumerate(zip(among, mine, strict=True)):
                if i != j:
                    differences, harms = links[row][other]
                    links[row][other] = (
                        np.append(differences, (shift - another) % lifting),
                        np.append(harms, len(among) - 2.0),
                    )
        shifts.append(mine)
    place = {column: position for position, column in enumerate(order)}
    table: list[list[tuple[int, int]]] = [[] for _ in range(rows)]
    for column, (among, mine) in enumerate(zip(base, shifts, strict=True)):
        for row, shift in zip(among, mine, strict=True):
            table[row].append((place[column], shift))
    return Code(lifting, columns, tuple(tuple(sorted(row)) for row in table))


def cycles(code: Code) -> tuple[int, int]:
    """How many base cycles of length 4 and 6 the lifting closes: each is there `lifting` times.

    Those of length 6 are counted rightly only where there is none of length 4.
    """
    rows, lifting = len(code.rows), code.lifting
    links: dict[tuple[int, int], list[tuple[int, int]]] = {}
    for column, mine in enumerate(code.column_edges()):
        for row, shift in mine:
            for other, another in mine:
                if row != other:
                    links.setdefault((row, other), []).append(((shift - another) % lifting, column))
    four = sum(
        count * (count - 1) // 2
        for (row, other), between in links.items()
        if row < other
        for count in Counter(difference for difference, _ in between).values()
    )
    arrays = {pair: np.array(between).T for pair, between in links.items()}
    six = 0
    for a, b, c in combinations(range(rows), 3):
        if not ((a, b) in arrays and (b, c) in arrays and (c, a) in arrays):
            continue
        (ab, first), (bc, second), (ca, third) = arrays[a, b], arrays[b, c], arrays[c, a]
        closing = np.full(lifting, -1)
        closing[-ca % lifting] = third
        last = closing[np.add.outer(ab, bc) % lifting]
        distinct = (last != first[:, None]) & (last != second[None, :]) & (first[:, None] != second[None, :])
        six += int(((last >= 0) & distinct).sum())
    return four, six
