"""The command `postresponse doctor`: what is wrong with the way in which an application is put together."""

import argparse
import json
import sys
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any, Final

from postresponse.cli import application

__all__ = ["add_to", "run"]

DOCTOR: Final = """
Import an application, and judge how it is put together: the layers around the middleware, FastAPI's dependencies that
commit behind their yield, the server, and the database of an outbox. No request is made. The outbox is that of
--outbox, or of each Relay that stands in the application's module.

  postresponse doctor shop.web:app --server granian --outbox postgresql+psycopg://app@db1/orders

Passwords are better kept out of URLs, which other users of the machine can see."""
EXIT_CODES: Final = """exit codes:
  0    nothing was found but what is only to be known
  1    an error or a warning was found
  2    called wrongly, or the application cannot be imported
  130  interrupted"""


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
    doctor.add_argument("--server", metavar="NAME", help="the server that serves it (default: those installed)")
    doctor.add_argument("--outbox", metavar="URL", help="the database of its outbox")
    doctor.add_argument("--json", action="store_true", help="print JSON")


def run(options: argparse.Namespace) -> int:
    """Judge the application, print what was found, and return the exit code."""
    from postresponse.doctor import findings_of
    from postresponse.exceptions import ConfigurationError

    try:
        app = application.application_named(options.app, factory=options.factory)
        found = findings_of(
            app,
            server=options.server,
            outbox=options.outbox,
            relays=[] if options.outbox is not None else _relays(options.app),
        )
    except ConfigurationError as error:
        print(f"postresponse doctor: {error}", file=sys.stderr)
        return 2
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
