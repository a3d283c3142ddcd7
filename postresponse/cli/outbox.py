"""The command `postresponse outbox`: run a relay, and look after what it cannot deliver."""

import argparse
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, redirect_stdout, suppress
from dataclasses import asdict
from datetime import datetime
from typing import Any, Final
from uuid import UUID

from postresponse.cli.arguments import count, seconds
from postresponse.cli.ending import exit_codes
from postresponse.cli.progress import progress
from postresponse.cli.tables import print_table
from postresponse.cli.target import Target, Wrong, named

__all__ = ["RELAY", "RELAY_CODES", "add_commands", "add_relay_options_to", "add_to", "run"]

CHUNK: Final = 500
"""Messages that are moved, or forgotten, in one transaction."""

TARGET: Final = """
TARGET is a Relay in your code, as module:name, or the URL of the database.
Passwords are better kept out of URLs, which other users of the machine can see."""
EXIT_CODES: Final = exit_codes(
    "done",
    "there is no such message, or no such thing was left to do",
    "called wrongly, or the target cannot be loaded",
    "the database cannot be reached, or will not do; the line says why",
)
RELAY_CODES: Final = exit_codes(
    "ended as it was told to, or nothing is due any more",
    "",
    "called wrongly, or there is no relay, or it cannot be loaded",
    "the database cannot be reached, or will not do; the line says why",
)
RELAY: Final = """
Send what the outbox holds until the command is told to end: SIGTERM, or Ctrl-C, lets it finish what is under way and
hand back the rest; said twice, it ends at once. Any number may run beside each other."""


def add_to(commands: Any) -> None:
    """Add the command and its own commands."""
    outbox = commands.add_parser(
        "outbox",
        help="send the messages of an outbox, and look after them",
        description="Run the relay of an outbox, and look after what waits, is paused, or is dead.",
        epilog=EXIT_CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_commands(outbox)


def add_commands(outbox: Any, *, with_target: bool = True) -> None:
    """Add the commands of *outbox*, a parser.

    Args:
        with_target: Whether a TARGET says what they are about; else `run` is given it.
    """
    parsers = outbox.add_subparsers(dest="action", metavar="COMMAND", required=True)

    def add(name: str, text: str, more: str = "", codes: str = EXIT_CODES) -> argparse.ArgumentParser:
        parser: argparse.ArgumentParser = parsers.add_parser(
            name,
            help=text,
            description=f"{text[0].upper()}{text[1:]}.{more}",
            epilog=f"{TARGET.strip()}\n\n{codes}" if with_target else codes,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        if with_target:
            parser.add_argument("target", metavar="TARGET", help="module:name of a Relay, or the URL of the database")
            parser.add_argument("--table", default="postresponse_outbox", help="the table, where TARGET is a URL")
            parser.add_argument("--schema", help="where it stands, where TARGET is a URL")
        if name != "relay":
            _add_json_to(parser)
        return parser

    add_relay_options_to(add("relay", "send what the outbox holds, until told to end", RELAY, RELAY_CODES))
    listed = add("list", "print what waits, the oldest first")
    listed.add_argument("--dead", action="store_true", help="print what was given up instead")
    listed.add_argument("--destination", help="of this destination only")
    listed.add_argument("--limit", type=count, default=50, help="lines at most (default: 50)")
    add("show", "print all there is of one message").add_argument("message", type=UUID, metavar="ID")
    retry = add("retry", "let the dead wait again, with all their attempts; or a message that waits be due now")
    _which(retry)
    purge = add("purge", "forget the dead")
    _which(purge)
    purge.add_argument("--older-than", type=seconds, default=0.0, metavar="SECONDS", help="that died longer ago")
    for name, text in (
        ("pause", "have no relay, in no process, send to a destination; its messages wait"),
        ("resume", "have relays send to it again"),
    ):
        add(name, text).add_argument("destination", metavar="DESTINATION")
    add("stats", "count what waits and what is dead, by destination")
    sql = add("sql", "print the statements that make the tables")
    sql.add_argument("--alembic", action="store_true", help="print an Alembic migration instead")


def add_relay_options_to(relay: argparse.ArgumentParser) -> None:
    """Add what may be said of how it runs."""
    relay.add_argument("--until-empty", action="store_true", help="end when nothing is due any more")
    _add_json_to(relay)
    relay.set_defaults(heeds_signals=True)  # SIGTERM lets it finish what is under way


def _add_json_to(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print JSON")


def _which(parser: argparse.ArgumentParser) -> None:
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("message", type=UUID, nargs="?", metavar="ID", help="the id of one message")
    which.add_argument("--all", action="store_true", help="all of the dead")
    which.add_argument("--destination", help="all of the dead of this destination")


def run(options: argparse.Namespace, target: "Callable[[], Target] | None" = None) -> int:
    """Run the command that *options* name, and return its exit code.

    Args:
        target: Makes what it is about; None for what they name.
    """
    from sqlalchemy.exc import ArgumentError, NoSuchModuleError, SQLAlchemyError

    from postresponse.exceptions import ConfigurationError, MessagingError

    try:
        return _ACTIONS[options.action](named(options) if target is None else target(), options)
    except (Wrong, ArgumentError, NoSuchModuleError, ModuleNotFoundError, ConfigurationError) as error:
        print(f"postresponse outbox {options.action}: {error}", file=sys.stderr)
        return 2
    except (SQLAlchemyError, MessagingError) as error:
        text = str(getattr(error, "orig", None) or error).partition("\n")[0]
        print(f"postresponse outbox {options.action}: {text}", file=sys.stderr)
        return 3


# -- looking ----------------------------------------------------------------------------------------------------------


def _list(target: Target, options: argparse.Namespace) -> int:
    rows = target.in_transaction(
        target.store.listed, dead=options.dead, destination=options.destination, limit=options.limit
    )
    if options.json:
        print(_as_json(rows))
    elif not rows:
        print("none is dead" if options.dead else "nothing waits")
    else:
        _table([{**row, "last_error": _cut(row["last_error"])} for row in rows])
    return 0


def _show(target: Target, options: argparse.Namespace) -> int:
    row = target.in_transaction(target.store.shown, options.message)
    if row is None:
        return _no_such(options.message)
    if options.json:
        print(_as_json(row))
    else:
        for name, value in row.items():
            print(f"{name:15} {_said(value)}")
    return 0


def _stats(target: Target, options: argparse.Namespace) -> int:
    rows = [asdict(each) for each in target.in_transaction(target.store.stats)]
    if options.json:
        print(_as_json(rows))
    elif rows:
        _table([{**row, "oldest": f"{row['oldest']:.1f} s"} for row in rows])
    else:
        print("nothing waits, and nothing is dead")
    return 0


def _sql(target: Target, options: argparse.Namespace) -> int:
    dialect = target.database.engine.dialect
    statements = target.tables.alembic(dialect) if options.alembic else target.tables.ddl(dialect)
    print(_as_json({"sql": statements}) if options.json else statements, end="\n" if options.json else "")
    return 0


def _no_such(message: UUID) -> int:
    print(f"there is no message {message}, waiting or dead", file=sys.stderr)
    return 1


def _said(value: Any) -> str:
    if isinstance(value, datetime):
        return value.isoformat(sep=" ", timespec="milliseconds")
    return "-" if value is None else str(value)


def _cut(text: str | None) -> str | None:
    return text if text is None or len(text) <= 40 else f"{text[:39]}…"


def _as_json(value: Any) -> str:
    return json.dumps(
        value, default=lambda each: each.isoformat() if isinstance(each, datetime) else str(each), indent=2
    )


def _table(rows: Sequence[Mapping[str, Any]]) -> None:
    print_table([{name: _said(value) for name, value in row.items()} for row in rows])


# -- changing ---------------------------------------------------------------------------------------------------------


def _retry(target: Target, options: argparse.Namespace) -> int:
    count = _in_chunks(target, target.store.replay, options)
    hurried = 0
    if options.message is not None and not count:
        hurried = target.in_transaction(target.store.hurry, options.message)
        if not hurried:
            return _no_such(options.message)
    return _did(options, {"replayed": count, "due now": hurried})


def _purge(target: Target, options: argparse.Namespace) -> int:
    count = _in_chunks(target, target.store.purge, options)
    if options.message is not None and not count:
        print(f"there is no dead message {options.message}", file=sys.stderr)
        return 1
    return _did(options, {"purged": count})


def _in_chunks(target: Target, work: Callable[..., int], options: argparse.Namespace) -> int:
    """Do it to so many at once, and say how far it is."""
    from postresponse.messaging.store import Which

    which, total = Which(options.message, options.destination, getattr(options, "older_than", 0.0)), 0
    with progress() as tell:
        while True:
            moved: int = target.in_transaction(work, CHUNK, which)
            total += moved
            tell("messages", total)
            if moved < CHUNK:
                return total


def _pause(target: Target, options: argparse.Namespace) -> int:
    return _set_paused(target, options, "paused", target.store.pause)


def _resume(target: Target, options: argparse.Namespace) -> int:
    return _set_paused(target, options, "resumed", target.store.resume)


def _set_paused(target: Target, options: argparse.Namespace, done: str, change: Callable[..., bool]) -> int:
    if target.relay is not None and options.destination not in target.relay.outbox.allow:
        known = ", ".join(target.relay.outbox.allow)
        raise Wrong(f"the outbox has no destination {options.destination!r}; it has {known}")
    if not target.in_transaction(change, options.destination):
        print(f"{options.destination} is {done} already", file=sys.stderr)
        return 1
    return _did(options, {done: options.destination})


def _did(options: argparse.Namespace, what: Mapping[str, Any]) -> int:
    if options.json:
        print(_as_json(what))
    else:
        print(", ".join(f"{name}: {value}" for name, value in what.items() if value) or "nothing was left to do")
    return 0 if any(what.values()) else 1


# -- relaying ---------------------------------------------------------------------------------------------------------


def _relay(target: Target, options: argparse.Namespace) -> int:
    import anyio

    relay = target.relay
    if relay is None:
        raise Wrong("a relay needs its destinations: give module:name of a Relay")
    # What will not do is said at once, and not tried until it does.
    target.in_transaction(_check)
    target.in_transaction(target.store.paused)
    if not options.json:
        print(f"sending to {', '.join(relay.destinations)}; Ctrl-C or SIGTERM ends it", file=sys.stderr, flush=True)
    # What functions print is no part of what a program reads. Around what draws, which puts stdout elsewhere too.
    printing = redirect_stdout(sys.stderr) if options.json else nullcontext()
    with _ended_by_signals(relay) as cut, printing, _watched(target, options):
        anyio.run(relay.run)
    counts = relay.counts
    print(_as_json(counts) if options.json else ", ".join(f"{name}: {count}" for name, count in counts.items()))
    if cut.is_set():  # a function may hang on a thread, and the interpreter would wait for it
        sys.stdout.flush()
        os._exit(0)
    return 0


def _check(connection: Any) -> None:
    from postresponse.messaging.tables import check_database

    check_database(connection)


@contextmanager
def _ended_by_signals(relay: Any) -> Iterator[threading.Event]:
    """Let the first signal drain the relay, and the second one end it at once, which is set then."""
    told, cut = threading.Event(), threading.Event()

    def end(*_: object) -> None:
        if told.is_set():
            cut.set()
        relay.stop(0.0 if told.is_set() else None)
        told.set()

    before = {each: signal.signal(each, end) for each in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield cut
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)


@contextmanager
def _watched(target: Target, options: argparse.Namespace) -> Iterator[None]:
    """Say meanwhile how far it is, and end it when nothing is due where that is asked for."""
    relay = target.relay
    assert relay is not None
    ended = threading.Event()

    def watch() -> None:
        began = time.monotonic()
        with progress() as tell:
            while not ended.wait(0.25):
                tell("delivered", relay.counts["delivered"])
                if options.until_empty and time.monotonic() > began + 0.5:
                    with suppress(Exception):  # what cannot be reached is told of by the relay
                        due = [each.due + each.leased for each in target.in_transaction(target.store.stats)]
                        if not any(due):
                            relay.stop()
                            return

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield
    finally:
        ended.set()
        watcher.join()


_ACTIONS: Final[Mapping[str, Callable[[Target, argparse.Namespace], int]]] = {
    "list": _list,
    "pause": _pause,
    "purge": _purge,
    "relay": _relay,
    "resume": _resume,
    "retry": _retry,
    "show": _show,
    "sql": _sql,
    "stats": _stats,
}
