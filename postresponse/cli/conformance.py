"""The command `postresponse conformance`: what servers really do here, held against what is known of them."""

import argparse
import itertools
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Final

from postresponse.cli import application
from postresponse.cli.arguments import port
from postresponse.cli.ending import exit_codes
from postresponse.cli.progress import progress
from postresponse.cli.tables import aligned

if TYPE_CHECKING:
    from postresponse.testing.conformance import Finding
    from postresponse.testing.servers import Kind

__all__ = ["add_to", "run"]

DESCRIPTION: Final = """
Start servers on this machine, ask them over real sockets, and hold what they do against what is known of them.

Without APP they serve an application of the command's own: how the end of a response is taken, how a client that left
is told of, who waits for code behind the last byte, what SIGTERM does; a COMMIT that fails, and a client that leaves,
at each commit point.

With APP they serve yours, and the last two are asked of it, by a request that it answers well: its own commit is made
to fail, or that of a unit of work which stands in where it has none. The request is sent some twenty times.

Each server has one worker process, and a second or two of grace for what it cancels by itself."""
EXIT_CODES: Final = exit_codes(
    "each server does what is known of it, and the package on it what it promises",
    "something differs",
    "called wrongly: no such server or application, nothing installed to look at",
    "the port is in use",
)


def add_to(commands: Any) -> None:
    """Add the command."""
    parser: argparse.ArgumentParser = commands.add_parser(
        "conformance",
        help="hold servers on this machine against what is known of them",
        description=DESCRIPTION,
        epilog=EXIT_CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("app", nargs="?", default="", metavar="APP", help="your application, as module:name")
    application.add_factory_to(parser)
    which = parser.add_mutually_exclusive_group()
    which.add_argument(
        "--server",
        action="append",
        default=[],
        metavar="NAME",
        help="a server, as gunicorn-sync, or a family, as gunicorn; may be said again (default: all)",
    )
    which.add_argument("--all", action="store_true", help="every server that the application may run on")
    parser.add_argument("--path", default="/", help="what is asked for of APP (default: /)")
    parser.add_argument("--method", default="GET", help="by which method (default: GET)")
    parser.add_argument("--port", type=port, default=0, help="where the servers listen (default: one that is free)")
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(options: argparse.Namespace) -> int:
    """Run the command, and return its exit code."""
    from postresponse.exceptions import ConfigurationError
    from postresponse.testing.conformance import conformance
    from postresponse.testing.ports import ServerFailed

    try:
        kinds = _kinds(options)
        method = options.method if options.app else ""
        asked = {"factory": options.factory, "method": method, "path": options.path, "port": options.port}
        numbers = itertools.count()
        with progress(lines=True) as tell:
            found = list(
                conformance(kinds, options.app, progress=lambda name: tell(name, next(numbers), len(kinds)), **asked)
            )
    except (ConfigurationError, ServerFailed) as error:
        print(f"postresponse conformance: {error}", file=sys.stderr)
        return 3 if isinstance(error, ServerFailed) else 2
    print(json.dumps([asdict(each) for each in found], indent=2) if options.json else _told(found))
    if all(each.verdict == "not available here" for each in found):
        return 2
    return 1 if any(each.verdict == "differs" for each in found) else 0


def _kinds(options: argparse.Namespace) -> "Sequence[Kind]":
    """The servers that are meant, of the application's protocol."""
    from postresponse.core.settings import protocol_of
    from postresponse.importing import application_named
    from postresponse.testing.servers import KINDS, kinds_named

    protocol = protocol_of(application_named(options.app, factory=options.factory)) if options.app else None
    if not options.server:
        return [kind for kind in KINDS.values() if protocol in (None, kind.protocol)]
    return [kind for name in options.server for kind in kinds_named(name, protocol)]


def _told(found: "Sequence[Finding]") -> str:
    head = ("server", "check", "verdict", "found")
    rows = [(each.server, each.check, each.verdict, each.found) for each in found]
    lines = aligned([head, *rows])
    differing = [each for each in found if each.verdict == "differs"]
    known = "as it is known, and promised"
    lines += ["", f"{len(differing)} of {len(found)} differ:" if differing else f"{len(found)} checks, all {known}"]
    if not differing and any(each.verdict != "ok" for each in found):
        missing = sum(each.verdict != "ok" for each in found)
        lines[-1] = f"{len(found) - missing} checks, all {known}; not available here: {missing}"
    lines += [f"  {each.server}, {each.check}: {each.found}; known: {each.expected}" for each in differing]
    return "\n".join(lines)
