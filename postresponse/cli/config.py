"""The command `postresponse config`: what the middlewares of an application were told, defaults included."""

import argparse
import json
import sys
from typing import Any, Final

from postresponse.cli import application
from postresponse.cli.ending import exit_codes
from postresponse.cli.tables import print_table

__all__ = ["add_to", "run"]

CONFIG: Final = """
Import an application, and print the options of each PostResponseMiddleware in it, the outermost first: those that were
given, and the defaults of the others. Of two around each other the inner one steps aside. Passwords are not shown."""
EXIT_CODES: Final = exit_codes(
    "printed",
    "there is no PostResponseMiddleware in the application",
    "called wrongly, or the application cannot be imported",
)


def add_to(commands: Any) -> None:
    """Add the command."""
    config = commands.add_parser(
        "config",
        help="print the options that the middlewares of an application have",
        description=CONFIG.strip(),
        epilog=EXIT_CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    application.add_to(config)
    config.add_argument("--json", action="store_true", help="print JSON")


def run(options: argparse.Namespace) -> int:
    """Print the options, and return the exit code."""
    from postresponse.cli.described import options_of
    from postresponse.doctor.reached import middlewares_of
    from postresponse.exceptions import ConfigurationError
    from postresponse.importing import application_named

    try:
        app = application_named(options.app, factory=options.factory)
        middlewares = middlewares_of(app, make=True)
    except ConfigurationError as error:
        print(f"postresponse config: {error}", file=sys.stderr)
        return 2
    told = [(type(each).__module__.split(".")[1], list(options_of(each))) for each in middlewares]
    if options.json:
        found = [{"protocol": name, "options": [each._asdict() for each in described]} for name, described in told]
        print(json.dumps(found, indent=2))
    else:
        for number, (protocol, described) in enumerate(told, 1):
            print(f"{protocol.upper()} middleware of {options.app}, {number} of {len(told)}\n")
            print_table([_row(each) for each in described])
            print()
    if not told:
        print(f"postresponse config: there is no PostResponseMiddleware in {options.app}", file=sys.stderr)
    return 0 if told else 1


def _row(option: Any) -> dict[str, str]:
    return {"option": option.name, "value": option.value, "from": "default" if option.is_default else "given"}
