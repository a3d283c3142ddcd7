"""The commands about an application that its framework's command line has loaded, as `flask postresponse doctor`.

They do, say and end as those of `postresponse` do, and need no text that names the application.
"""

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

from postresponse.cli import doctor, outbox
from postresponse.cli.ending import exit_codes
from postresponse.cli.tables import print_table
from postresponse.cli.target import Target, Wrong, relay_given
from postresponse.configuration import Origin
from postresponse.exceptions import ConfigurationError

__all__ = ["SUMMARIES", "Loaded", "add_to", "run"]

SUMMARIES: Final = {
    "config": "print the options in force, and where each was given",
    "doctor": "say what is wrong with how the application is put together",
    "relay": "send what the outbox holds, until told to end",
}
"""The commands, and what each does."""

DOCTOR: Final = """
Judge how the application is put together: the layers around the middleware, the server, and the database of an outbox.
No request is made. The outbox is that of --outbox, or of the relay that the application has."""

CONFIG: Final = "Print each option of the middleware, where it was given, and its value, as Python shows it."
CONFIG_CODES: Final = exit_codes("printed", "", "called wrongly, or an option has a value that it cannot have")


@dataclass(frozen=True, slots=True)
class Loaded:
    """An application that is there.

    Attributes:
        apps: Returns what servers are given: one, or one for each protocol.
        options: Returns the options in force.
        relay: Returns the application's `Relay`, or the text that names it; None where it has none.
        lacking: What to do where it has none.
        tables: What makes the tables of its outbox, where that is not `postresponse outbox sql`.
    """

    apps: Callable[[], Sequence[Any]]
    options: Callable[[], Sequence[Origin]]
    relay: Callable[[], Any]
    lacking: str
    tables: str | None = None


def add_to(commands: Any) -> None:
    """Add the commands."""

    def add(name: str, description: str, codes: str) -> argparse.ArgumentParser:
        parser: argparse.ArgumentParser = commands.add_parser(
            name,
            help=SUMMARIES[name],
            description=description.strip(),
            epilog=codes,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        return parser

    add("config", CONFIG, CONFIG_CODES).add_argument("--json", action="store_true", help="print JSON")
    doctor.add_options_to(add("doctor", DOCTOR, doctor.EXIT_CODES))
    outbox.add_relay_options_to(add("relay", outbox.RELAY, outbox.RELAY_CODES))


def run(name: str, options: argparse.Namespace, loaded: Loaded) -> int:
    """Run the command *name* on what is *loaded*, and return its exit code."""
    if name == "relay":
        return outbox.run(argparse.Namespace(**{**vars(options), "action": "relay"}), lambda: _target(loaded))
    try:
        if name == "doctor":
            relay = relay_given(loaded.relay())
            return doctor.judge(options, loaded.apps(), [] if relay is None else [relay])
        return _config(options, loaded.options())
    except (ConfigurationError, Wrong) as error:
        print(f"postresponse {name}: {error}", file=sys.stderr)
        return 2


def _target(loaded: Loaded) -> Target:
    relay = relay_given(loaded.relay())
    if relay is None:
        raise Wrong(f"there is no relay: {loaded.lacking}")
    return Target.of(relay, loaded.tables)


def _config(options: argparse.Namespace, found: Sequence[Origin]) -> int:
    if options.json:
        print(json.dumps([asdict(each) for each in found], indent=2))
    else:
        print_table([{"option": each.name, "from": each.source, "value": each.value} for each in found])
    return 0
