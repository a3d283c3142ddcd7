"""How a command ends, whichever command line it is on: its exit code, and what is told where somebody cuts it short."""

import argparse
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

__all__ = ["ended", "exit_codes", "terminable"]

INTERRUPTED: Final = 130
UNREAD: Final = 141
"""What a shell tells of a process that SIGPIPE has ended: as `... | head -1` ends any other command."""


def exit_codes(*meanings: str) -> str:
    """Return what a command's help says of its exit codes: the *meanings* of 0, 1 and so on, and those that all have.

    One with an empty meaning is none of the command's.
    """
    codes = {**dict(enumerate(meanings)), INTERRUPTED: "interrupted", UNREAD: "nobody reads what it prints any more"}
    return "\n".join(["exit codes:", *(f"  {code:<4} {meaning}" for code, meaning in codes.items() if meaning)])


def ended(command: Callable[[], int]) -> int:
    """Run *command*, and return the exit code; also where it is interrupted, or nobody reads what it prints."""
    try:
        try:
            return command()
        finally:
            sys.stdout.flush()  # or it would be the interpreter that finds the pipe closed
    except KeyboardInterrupt:
        print("\ninterrupted", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        for stream in (sys.stdout, sys.stderr):
            os.dup2(nowhere, stream.fileno())  # what is left to be written
        return UNREAD


@contextmanager
def terminable(options: argparse.Namespace) -> Iterator[None]:
    """Let SIGTERM end the command as Ctrl-C does, so that nothing is left behind; unless it heeds signals by itself."""
    if getattr(options, "heeds_signals", False) or threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
