"""The command `postresponse`; each of its commands is a module here, and says in its help how it ends.

Exit codes: 0 done, or nothing was found; 1 something was found, or the package did not do what it promises; 2 called
wrongly, or an extra is missing; 3 what the command needs did not run, or could not be reached; 130 interrupted.
"""

import argparse
import signal
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Final, Protocol

from postresponse import __version__
from postresponse.cli import config, conformance, demo, doctor, outbox, recover, trace

__all__ = ["main"]


class _Command(Protocol):
    """A module of this package."""

    def add_to(self, commands: Any) -> None: ...

    def run(self, options: argparse.Namespace) -> int: ...


COMMANDS: Final[Mapping[str, _Command]] = {
    "demo": demo,
    "doctor": doctor,
    "trace": trace,
    "config": config,
    "conformance": conformance,
    "outbox": outbox,
    "recover": recover,
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command with *argv*, or the arguments of the process, and return its exit code."""
    options = _parser().parse_args(argv)
    command = COMMANDS[options.command]
    try:
        if getattr(options, "heeds_signals", False):
            return command.run(options)
        with _terminable():
            return command.run(options)
    except KeyboardInterrupt:
        print("\ninterrupted", file=sys.stderr)
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="postresponse", description="Tie a unit of work to the moment it belongs to.")
    parser.add_argument("--version", action="version", version=f"postresponse {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for command in COMMANDS.values():
        command.add_to(commands)
    return parser


@contextmanager
def _terminable() -> Iterator[None]:
    """Let SIGTERM end the command as Ctrl-C does, so that nothing is left behind."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
