"""The command `postresponse`.

Exit codes: 0 done; 1 the package did not do what it promises; 2 called wrongly, or an extra is missing; 3 the server
of the demo did not run; 130 interrupted.
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

__all__ = ["main"]

NEEDED: Final = ("fastapi", "uvicorn", "aiosqlite", "greenlet")
EXIT_CODES: Final = """exit codes:
  0    measured, and this package did what it promises
  1    measured, and it did not
  2    called wrongly, or the extra 'demo' is not installed
  3    the server did not run
  130  interrupted"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command with *argv*, or the arguments of the process, and return its exit code."""
    options = _parser().parse_args(argv)
    try:
        with _terminable():
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
    return parser


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
