"""The command `postresponse`.

Exit codes: 0 done; 1 the package did not do what it promises, or a transaction was left prepared; 2 called wrongly, or
an extra is missing; 3 the server of the demo did not run; 130 interrupted.
"""

import argparse
import signal
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Final

from postresponse import __version__
from postresponse.cli import conformance, outbox
from postresponse.cli.arguments import seconds

__all__ = ["main"]

NEEDED: Final = ("fastapi", "uvicorn", "aiosqlite")
EXIT_CODES: Final = """exit codes:
  0    measured, and this package did what it promises
  1    measured, and it did not
  2    called wrongly, or the extra 'demo' is not installed
  3    the server did not run
  130  interrupted"""

RECOVER: Final = """
Ask the member that decides of each transaction that a process left prepared when it died, and commit it or roll it
back as that one did. It does no harm while the application serves, or twice at once. One line says what was found, and
what was done with it. Give every member of the TwoPhase, by the same names.

Behind a failover or a restore of the member that decides nobody can be asked about what was prepared before, unless it
is still there as well. That is left, and has to be ended by hand.

  postresponse recover orders=postgresql+psycopg://app@db1/orders audit=postgresql+psycopg://app@db2/audit

The user has to be the one of the application, or a superuser. Passwords are better kept out of the URLs, which other
users of the machine can see: the drivers of PostgreSQL read ~/.pgpass."""
RECOVER_EXIT_CODES: Final = """exit codes:
  0    no transaction is left prepared, or there was none
  1    one was left, or a database could not be looked into; the line says why
  2    called wrongly
  130  interrupted"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command with *argv*, or the arguments of the process, and return its exit code."""
    options = _parser().parse_args(argv)
    try:
        if options.command == "outbox" and options.action == "relay":
            return outbox.run(options)  # SIGTERM lets it finish what is under way
        with _terminable():
            if options.command == "outbox":
                return outbox.run(options)
            if options.command == "conformance":
                return conformance.run(options)
            if options.command == "recover":
                return _recover(options.members, older_than=options.older_than, dry_run=options.dry_run)
            return _demo(as_json=options.json)
    except KeyboardInterrupt:
        print("\ninterrupted", file=sys.stderr)
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="postresponse", description="Tie a unit of work to the moment it belongs to.")
    parser.add_argument("--version", action="version", version=f"postresponse {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    demo = commands.add_parser(
        "demo",
        help="measure on this machine what clients are told about a commit",
        description="Start a server with one endpoint in three ways, order from it, and print what was measured.",
        epilog=EXIT_CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    demo.add_argument("--json", action="store_true", help="print the figures as JSON")
    recover = commands.add_parser(
        "recover",
        help="end the transactions that a process left prepared when it died",
        description=RECOVER,
        epilog=RECOVER_EXIT_CODES,
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
    outbox.add_to(commands)
    conformance.add_to(commands)
    return parser


def _member(text: str) -> tuple[str, str]:
    name, _, url = text.partition("=")
    if not name or not url:
        raise argparse.ArgumentTypeError(f"expected NAME=URL, found {text!r}")
    return name, url


def _recover(members: Sequence[tuple[str, str]], *, older_than: float, dry_run: bool) -> int:
    import asyncio

    from sqlalchemy import Engine, create_engine
    from sqlalchemy.exc import ArgumentError, NoSuchModuleError
    from sqlalchemy.util import greenlet_spawn

    from postresponse.exceptions import ConfigurationError
    from postresponse.unit_of_work.recovery import Recovered, recover

    def run(engines: dict[str, Engine]) -> list[Recovered]:
        return recover(engines, older_than=older_than, dry_run=dry_run)

    try:
        engines = {name: create_engine(url) for name, url in members}
        if len(engines) < len(members):
            raise ConfigurationError("each name can be given once")
        is_async = any(engine.dialect.is_async for engine in engines.values())
        told = asyncio.run(greenlet_spawn(run, engines)) if is_async else run(engines)
    except (ArgumentError, ConfigurationError, NoSuchModuleError, ModuleNotFoundError) as error:
        print(f"postresponse recover: {error}", file=sys.stderr)
        return 2
    for each in told:
        print(f"dry run: {each}" if dry_run else each)
    if not told:
        print("nothing is prepared")
    return 1 if any(each.action == "left" for each in told) else 0


def _demo(*, as_json: bool) -> int:
    missing = [name for name in NEEDED if find_spec(name) is None]
    if missing:
        print(
            f"postresponse demo needs {', '.join(missing)}, which the extra brings: pip install 'postresponse[demo]'",
            file=sys.stderr,
        )
        return 2
    from postresponse.demo import measurement, report, server

    began = time.monotonic()
    try:
        tallies = measurement.measure(orders=100, failures=10, progress=report.meter(sys.stderr))
    except server.ServerFailed as error:
        print(f"\nthe server of the demo did not run: {error}", file=sys.stderr)
        return 3
    print(report.as_json(tallies, time.monotonic() - began) if as_json else report.as_table(tallies))
    return 0 if all(tally.kept for tally in tallies) else 1


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
