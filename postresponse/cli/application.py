"""The application that a command names."""

import argparse
import contextlib
import inspect
import sys
from typing import Any

from postresponse.exceptions import ConfigurationError
from postresponse.importing import imported

__all__ = ["add_factory_to", "add_to", "application_named"]


def add_to(parser: argparse.ArgumentParser) -> None:
    """Add the arguments that name it."""
    parser.add_argument("app", metavar="APP", help="the application, as module:name")
    add_factory_to(parser)


def add_factory_to(parser: argparse.ArgumentParser) -> None:
    """Add the option that has it made."""
    parser.add_argument("--factory", action="store_true", help="APP is a function that makes the application")


def application_named(name: str, *, factory: bool = False) -> Any:
    """Import the application, make it where *factory* says so, and return it.

    What the application prints meanwhile goes to stderr, so that it does not end up in the output of the command.

    Raises:
        ConfigurationError: It cannot be imported or made, or is none; the message says what was tried.
    """
    with contextlib.redirect_stdout(sys.stderr):
        found = imported(name, here=True)
        if factory:
            found = _made(name, found)
    if not callable(found):
        raise ConfigurationError(f"{name!r} is {found!r}; an ASGI or WSGI application is wanted")
    if inspect.isclass(found) or (inspect.isfunction(found) and not _required(found)):
        raise ConfigurationError(f"{name!r} is {found!r}, which makes one; give --factory, or name the application")
    return found


def _made(name: str, factory: Any) -> Any:
    if not callable(factory):
        raise ConfigurationError(f"{name!r} is {factory!r}; with --factory a function that makes one is wanted")
    if _required(factory):
        raise ConfigurationError(f"{name!r} wants arguments: with --factory it is called without any")
    try:
        return factory()
    except Exception as error:
        raise ConfigurationError(f"{name!r} was called, and raised {type(error).__name__}: {error}") from error


def _required(function: Any) -> list[str]:
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        return []
    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return [each.name for each in parameters if each.kind in positional and each.default is each.empty]
