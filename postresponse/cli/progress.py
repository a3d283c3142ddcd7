"""How far a command is: drawn by rich where it is installed, one line that changes on any other terminal."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Protocol

__all__ = ["Tell", "progress"]


class Tell(Protocol):
    """Takes what is done now, and how much of it, out of how much where that is known."""

    def __call__(self, text: str, done: int | None = None, total: int | None = None, /) -> object: ...


@contextmanager
def progress(*, lines: bool = False) -> Iterator[Tell]:
    """Give what is to be told how far it is; on a terminal nothing of it is left at the end.

    Args:
        lines: Whether a log, or a pipe, gets a line for each thing that is begun; else it gets nothing.
    """
    if not sys.stderr.isatty():
        yield _in_lines(lines)
    elif find_spec("rich") is None:
        try:
            yield _in_one_line
        finally:
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)
    else:
        with _drawn() as tell:
            yield tell


def _in_lines(lines: bool) -> Tell:
    told = ""

    def tell(text: str, done: int | None = None, total: int | None = None, /) -> None:
        nonlocal told
        if lines and text != told:
            print(f"... {text}", file=sys.stderr, flush=True)
        told = text

    return tell


def _in_one_line(text: str, done: int | None = None, total: int | None = None, /) -> None:
    print(f"\r\x1b[K{text}{_far(done, total)}", end="", file=sys.stderr, flush=True)


def _far(done: int | None, total: int | None) -> str:
    return "" if done is None else f": {done}" if total is None else f": {done} of {total}"


@contextmanager
def _drawn() -> Iterator[Tell]:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (BarColumn(), TextColumn("{task.description}", markup=False), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as drawn:
        task = drawn.add_task("", total=None)

        def tell(text: str, done: int | None = None, total: int | None = None, /) -> None:
            drawn.update(task, description=f"{text}{_far(done, total)}", completed=done or 0, total=total)

        yield tell
