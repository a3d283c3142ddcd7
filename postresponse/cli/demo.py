"""The command `postresponse demo`: measure on this machine what clients are told about a commit."""

import argparse
import sys
import time
from importlib.util import find_spec
from typing import Any, Final

from postresponse.cli.ending import exit_codes
from postresponse.cli.progress import progress

__all__ = ["add_to", "run"]

NEEDED: Final = ("fastapi", "uvicorn", "aiosqlite")
EXIT_CODES: Final = exit_codes(
    "measured, and this package did what it promises",
    "measured, and it did not",
    "called wrongly, or the extra 'demo' is not installed",
    "the server did not run",
)


def add_to(commands: Any) -> None:
    """Add the command."""
    demo = commands.add_parser(
        "demo",
        help="measure on this machine what clients are told about a commit",
        description="Start a server with one endpoint in three ways, order from it, and print what was measured.",
        epilog=EXIT_CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    demo.add_argument("--json", action="store_true", help="print the figures as JSON")


def run(options: argparse.Namespace) -> int:
    """Measure, print it, and return the exit code."""
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
        with progress(lines=True) as tell:
            tallies = measurement.measure(
                orders=100, failures=10, progress=lambda way, done, total: tell(way.title, done, total)
            )
    except server.ServerFailed as error:
        print(f"\nthe server of the demo did not run: {error}", file=sys.stderr)
        return 3
    print(report.as_json(tallies, time.monotonic() - began) if options.json else report.as_table(tallies))
    return 0 if all(tally.kept for tally in tallies) else 1
