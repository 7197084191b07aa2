"""docs/faults.md has a row for every fault that is tested, and no other."""

from tests.kernel.fault_table import BEGIN, END, PAGE, Row, put, read_rows, render, rows_of
from tests.kernel.faults import expected_rows


def _row(fault: str, place: int, *, recover_s: float | None = 1.25) -> Row:
    return Row(fault, "ESP", "closes", 7.96, recover_s, 0, after_expiry_s=-0.042, kernel="6.1", place=place)


def test_the_last_record_of_a_row_counts_and_the_order_is_the_table_s() -> None:
    import msgspec

    records = [_row("b", 1), _row("a", 0), _row("b", 1, recover_s=None)]
    text = b"".join(msgspec.json.encode(record) + b"\n" for record in records)
    assert read_rows(text) == [_row("a", 0), _row("b", 1, recover_s=None)]
    assert render(read_rows(text), [("a", "ESP"), ("b", "ESP"), ("c", "ESP")])[2:] == [
        "| a | ESP | closes | 8.0 s | -0.04 s | 1.2 s | 0 |",
        "| b | ESP | closes | 8.0 s | -0.04 s | – | 0 |",
        "| c | ESP | not measured | – | – | – | – |",
        "",
        "Measured on Linux 6.1.",
    ]


def test_only_the_table_of_the_page_is_replaced() -> None:
    page = f"before\n{BEGIN}\n\nold\n\n{END}\nafter\n"
    fresh = put(page, render([_row("a", 0), _row("c", 2)]))
    assert fresh.startswith("before\n") and fresh.endswith("after\n")
    assert "old" not in fresh
    assert rows_of(fresh) == [("a", "ESP"), ("c", "ESP")]
    assert put(fresh, render([_row("a", 0)])) == put(page, render([_row("a", 0)]))


def test_the_page_has_a_row_for_every_fault_and_no_other() -> None:
    assert rows_of(PAGE.read_text()) == expected_rows()
