"""The command `postresponse recover`: end the transactions that a process left prepared when it died."""

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any, Final

from postresponse.cli.arguments import seconds
from postresponse.cli.ending import exit_codes

__all__ = ["add_to", "run"]

RECOVER: Final = """
Ask the member that decides of each transaction that a process left prepared when it died, and commit it or roll it
back as that one did. It does no harm while the application serves, or twice at once. One line says what was found, and
what was done with it. Give every member of the TwoPhase, by the same names.

Behind a failover or a restore of the member that decides nobody can be asked about what was prepared before, unless it
is still there as well. That is left, and has to be ended by hand.

  postresponse recover orders=postgresql+psycopg://app@db1/orders audit=postgresql+psycopg://app@db2/audit

The user has to be the one of the application, or a superuser. Passwords are better kept out of the URLs, which other
users of the machine can see: the drivers of PostgreSQL read ~/.pgpass."""
EXIT_CODES: Final = exit_codes(
    "no transaction is left prepared, or there was none",
    "one was left, or a database could not be looked into; the line says why",
    "called wrongly",
)


def add_to(commands: Any) -> None:
    """Add the command."""
    recover = commands.add_parser(
        "recover",
        help="end the transactions that a process left prepared when it died",
        description=RECOVER,
        epilog=EXIT_CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    recover.add_argument("members", nargs="+", type=_member, metavar="NAME=URL", help="a member of the TwoPhase")
    recover.add_argument(
        "--older-than",
        type=seconds,
        default=60.0,
        metavar="SECONDS",
        help="leave what was prepared within so many seconds to the process that did it (default: 60)",
    )
    recover.add_argument("--dry-run", action="store_true", help="only say what would be done")
    recover.add_argument("--json", action="store_true", help="print JSON")


def run(options: argparse.Namespace) -> int:
    """Recover, say what was done, and return the exit code."""
    from sqlalchemy.exc import ArgumentError, NoSuchModuleError

    from postresponse.exceptions import ConfigurationError

    try:
        told = _recovered(options.members, older_than=options.older_than, dry_run=options.dry_run)
    except (ArgumentError, ConfigurationError, NoSuchModuleError, ModuleNotFoundError) as error:
        print(f"postresponse recover: {error}", file=sys.stderr)
        return 2
    if options.json:
        print(json.dumps([asdict(each) for each in told], default=str, indent=2))
    else:
        for each in told:
            print(f"dry run: {each}" if options.dry_run else each)
        if not told:
            print("nothing is prepared")
    return 1 if any(each.action == "left" for each in told) else 0


def _recovered(members: Sequence[tuple[str, str]], *, older_than: float, dry_run: bool) -> list[Any]:
    import asyncio

    from sqlalchemy import Engine, create_engine
    from sqlalchemy.util import greenlet_spawn

    from postresponse.exceptions import ConfigurationError
    from postresponse.unit_of_work.recovery import Recovered, recover

    def look(engines: dict[str, Engine]) -> list[Recovered]:
        return recover(engines, older_than=older_than, dry_run=dry_run)

    engines = {name: create_engine(url) for name, url in members}
    if len(engines) < len(members):
        raise ConfigurationError("each name can be given once")
    is_async = any(engine.dialect.is_async for engine in engines.values())
    return asyncio.run(greenlet_spawn(look, engines)) if is_async else look(engines)


def _member(text: str) -> tuple[str, str]:
    name, _, url = text.partition("=")
    if not name or not url:
        raise argparse.ArgumentTypeError(f"expected NAME=URL, found {text!r}")
    return name, url
