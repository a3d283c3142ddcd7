"""The commands of an application whose framework has a command line of click's, as `flask postresponse config`."""

import argparse
from collections.abc import Callable
from typing import Any, Final

import click

from postresponse.cli import loaded
from postresponse.cli.ending import ended, terminable
from postresponse.cli.loaded import Loaded

__all__ = ["HELP", "LACKING", "add_to"]

HELP: Final = "What the middleware does here, what is wrong with that, and the relay of the outbox."
LACKING: Final = "set POSTRESPONSE_RELAY to a Relay, or to its name, as in 'shop.web:relay'"


def add_to(group: click.Group, application: Loaded) -> click.Group:
    """Add the commands to *group*, the framework's own kind of one, and return it.

    click passes all that is behind the name of a command on to the parser that `postresponse` has for it, so that the
    options, the help and the exit codes are the same.

    Args:
        group: Runs its commands where *application* can be asked.
    """
    for name, summary in loaded.SUMMARIES.items():
        passed_on = click.argument("arguments", nargs=-1, type=click.UNPROCESSED)(_command(name, application))
        group.command(
            name,
            help=f"{summary[0].upper()}{summary[1:]}.",
            add_help_option=False,
            context_settings={"ignore_unknown_options": True},
        )(passed_on)
    return group


def _command(name: str, application: Loaded) -> Callable[[tuple[str, ...]], None]:
    def run(arguments: tuple[str, ...]) -> None:
        context = click.get_current_context()
        prog = context.command_path.rpartition(" ")[0]
        context.exit(ended(lambda: _run(prog, [name, *arguments], application)))

    return run


def _run(prog: str, arguments: list[str], application: Loaded) -> int:
    parser = argparse.ArgumentParser(prog=prog, description=HELP)
    loaded.add_to(parser.add_subparsers(dest="command", metavar="COMMAND", required=True))
    options: Any = parser.parse_args(arguments)
    with terminable(options):
        return loaded.run(options.command, options, application)
