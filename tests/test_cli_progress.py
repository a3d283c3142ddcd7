"""How far a command is: drawn by rich on a terminal, one line there without it, and lines or nothing elsewhere."""

import pytest

from postresponse.cli.progress import progress
from tests.terminal import on_a_terminal

PROGRAM = """
from postresponse.cli.progress import progress

with progress() as tell:
    tell("uvicorn [h11]")
    tell("messages", 3)
    tell("orders", 2, 4)
print("the end")
"""


def test_a_terminal_is_shown_how_far_it_is_and_nothing_is_left_of_that() -> None:
    shown = on_a_terminal(PROGRAM)
    assert "orders: 2 of 4" in shown
    assert "\u2501" in shown  # a bar
    assert shown.split("\x1b[2K")[-1].strip() == "the end"


def test_without_the_extra_it_is_one_line_that_changes() -> None:
    shown = on_a_terminal(f"import sys; sys.modules['rich'] = None; {PROGRAM}")
    assert shown.split("\r\x1b[K") == ["", "uvicorn [h11]", "messages: 3", "orders: 2 of 4", "the end\r\n"]


def test_elsewhere_there_is_a_line_for_each_thing_that_is_begun_if_any(capsys: pytest.CaptureFixture[str]) -> None:
    with progress(lines=True) as tell:
        for text, done in (("uvicorn", 0), ("uvicorn", 1), ("waitress", 2)):
            tell(text, done, 3)
    assert capsys.readouterr().err == "... uvicorn\n... waitress\n"
    with progress() as tell:
        tell("messages", 3)
    assert capsys.readouterr().err == ""
