"""The command `postresponse doctor`: what is wrong with the way in which an application is put together."""

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any, Final

from postresponse.cli import application
from postresponse.cli.ending import exit_codes

__all__ = ["EXIT_CODES", "add_options_to", "add_to", "judge", "run"]

DOCTOR: Final = """
Import an application, and judge how it is put together: the layers around the middleware, FastAPI's dependencies that
commit behind their yield, the server, and the database of an outbox. No request is made. The outbox is that of
--outbox, or of each Relay that stands in the application's module.

  postresponse doctor shop.web:app --server granian --outbox postgresql+psycopg://app@db1/orders

Passwords are better kept out of URLs, which other users of the machine can see."""
EXIT_CODES: Final = exit_codes(
    "nothing was found but what is only to be known",
    "an error or a warning was found",
    "called wrongly, or the application cannot be imported",
)


def add_to(commands: Any) -> None:
    """Add the command."""
    doctor = commands.add_parser(
        "doctor",
        help="say what is wrong with how an application is put together",
        description=DOCTOR.strip(),
        epilog=EXIT_CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    application.add_to(doctor)
    add_options_to(doctor)


def add_options_to(doctor: argparse.ArgumentParser) -> None:
    """Add what may be said beside the application."""
    doctor.add_argument("--server", metavar="NAME", help="the server that serves it (default: those installed)")
    doctor.add_argument("--outbox", metavar="URL", help="the database of its outbox")
    doctor.add_argument("--json", action="store_true", help="print JSON")


def run(options: argparse.Namespace) -> int:
    """Import the application, judge it, print what was found, and return the exit code."""
    from postresponse.exceptions import ConfigurationError
    from postresponse.importing import application_named

    try:
        app = application_named(options.app, factory=options.factory)
        return judge(options, [app], _relays(options.app))
    except ConfigurationError as error:
        print(f"postresponse doctor: {error}", file=sys.stderr)
        return 2


def judge(options: argparse.Namespace, apps: Sequence[Any], relays: Sequence[Any]) -> int:
    """Judge *apps*, and the outbox that *options* name or those of *relays*; print what was found, as `run` does.

    Raises:
        ConfigurationError: There is no such server, or no such database.
    """
    from postresponse.doctor import findings_of

    found = findings_of(
        *apps, server=options.server, outbox=options.outbox, relays=relays if options.outbox is None else []
    )
    if options.json:
        print(json.dumps([asdict(each) for each in found], indent=2))
    else:
        print("\n".join(line for each in found for line in _lines(each)) or "nothing was found")
    return int(any(each.severity in ("error", "warning") for each in found))


def _relays(name: str) -> list[Any]:
    """Return each Relay that stands in the module of the application."""
    messaging = sys.modules.get("postresponse.messaging.relay")
    module = sys.modules[name.partition(":")[0] if ":" in name else name.rpartition(".")[0]]
    if messaging is None:
        return []
    return [each for each in vars(module).values() if isinstance(each, messaging.Relay)]


def _lines(finding: Any) -> Iterator[str]:
    yield f"{finding.severity}: {finding.found}"
    yield f"  where:   {finding.where}"
    if finding.way_out:
        yield f"  way out: {finding.way_out}"
