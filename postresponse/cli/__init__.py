"""The command `postresponse`; each of its commands is a module here, and says in its help how it ends."""

import argparse
from collections.abc import Mapping, Sequence
from typing import Any, Final, Protocol

from postresponse import __version__
from postresponse.cli import config, conformance, demo, doctor, outbox, recover, trace
from postresponse.cli.ending import ended, exit_codes, terminable

__all__ = ["main"]


EXIT_CODES: Final = exit_codes(
    "done, or nothing was found",
    "something was found, or the package did not do what it promises",
    "called wrongly, or an extra is missing",
    "what the command needs did not run, or could not be reached",
)


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
    return ended(lambda: _run(argv))


def _run(argv: Sequence[str] | None) -> int:
    options = _parser().parse_args(argv)
    with terminable(options):
        return COMMANDS[options.command].run(options)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="postresponse",
        description="Tie a unit of work to the moment it belongs to.",
        epilog=f"{EXIT_CODES}\n\nCOMMAND --help says what each of them means there.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"postresponse {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for command in COMMANDS.values():
        command.add_to(commands)
    return parser
