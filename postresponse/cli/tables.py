"""Rows in columns: drawn by rich where it is installed and somebody looks, plain text everywhere else."""

import sys
from collections.abc import Mapping, Sequence
from importlib.util import find_spec

__all__ = ["aligned", "print_table"]


def print_table(rows: Sequence[Mapping[str, str]]) -> None:
    """Print *rows*, which have the same names, in columns under their names; nothing where there are none.

    With the extra `cli` a terminal gets a table that fits its width. Anything else, a pipe or a file, gets aligned
    text whose lines are as long as they are, so that what reads them finds the same on every machine.
    """
    if not rows:
        return
    if sys.stdout.isatty() and find_spec("rich") is not None:
        _print_drawn(rows)
        return
    print("\n".join(aligned([list(rows[0]), *([row[name] for name in rows[0]] for row in rows)])))


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Return *rows* as lines, their cells below each other."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return ["  ".join(f"{cell:{width}}" for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def _print_drawn(rows: Sequence[Mapping[str, str]]) -> None:
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=SIMPLE_HEAD)
    for name in rows[0]:
        table.add_column(name, overflow="fold")
    for row in rows:
        table.add_row(*(Text(cell) for cell in row.values()))  # no markup: a cell may hold a bracket
    Console().print(table)
