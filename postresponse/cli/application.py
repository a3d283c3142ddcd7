"""The arguments by which a command names an application; `postresponse.importing.application_named` takes them."""

import argparse

__all__ = ["add_factory_to", "add_to"]


def add_to(parser: argparse.ArgumentParser) -> None:
    """Add the arguments that name it."""
    parser.add_argument("app", metavar="APP", help="the application, as module:name")
    add_factory_to(parser)


def add_factory_to(parser: argparse.ArgumentParser) -> None:
    """Add the option that has it made."""
    parser.add_argument("--factory", action="store_true", help="APP is a function that makes the application")
