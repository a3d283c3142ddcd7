"""Tables of the command: aligned text, and drawn by rich on a terminal."""

import pytest

from postresponse.cli.tables import print_table
from tests.terminal import on_a_terminal

ROWS = [{"name": "tea [bold]", "count": "1"}, {"name": "a much longer name", "count": "20"}]
PROGRAM = f"from postresponse.cli.tables import print_table; print_table({ROWS!r})"


def test_rows_are_aligned_and_nothing_is_printed_of_none(capsys: pytest.CaptureFixture[str]) -> None:
    print_table([])
    print_table(ROWS)
    assert capsys.readouterr().out.splitlines() == [
        "name                count",
        "tea [bold]          1",
        "a much longer name  20",
    ]


def test_a_terminal_gets_a_table_that_is_drawn_and_takes_no_markup_from_a_cell() -> None:
    shown = on_a_terminal(PROGRAM)
    assert "─" in shown
    assert "tea [bold]" in shown


def test_without_the_extra_a_terminal_gets_the_plain_one() -> None:
    shown = on_a_terminal(f"import sys; sys.modules['rich'] = None; {PROGRAM}")
    assert shown.split("\r\n")[:2] == ["name                count", "tea [bold]          1"]
