"""What a command or a setting names by a text, as `"shop.web:app"`, found; or it says what was tried."""

import contextlib
import importlib
import inspect
import os
import sys
from typing import Any

from postresponse.core.policy import did_you_mean
from postresponse.core.settings import protocol_of
from postresponse.exceptions import ConfigurationError, WrongApplication

__all__ = ["application_named", "imported"]


def imported(name: str, *, here: bool = False) -> Any:
    """Import `module:attribute`, `module:attribute.attribute` or `module.attribute`, and return what it names.

    Args:
        here: Whether a command wants it: a module of the working directory is found too, and what modules print goes
            to stderr, so that it does not end up in the output of the command.

    Raises:
        ConfigurationError: It is not there; the message says what was tried, and what is there instead. What the
            module itself raises while it is imported is the cause.
    """
    module, colon, attributes = name.partition(":")
    if not colon:
        module, _, attributes = name.rpartition(".")
    if not module or not attributes or not all(part.isidentifier() for part in (module + "." + attributes).split(".")):
        raise ConfigurationError(f"{name!r} names nothing: expected 'module:attribute', as in 'shop.web:app'")
    if here and os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    with contextlib.redirect_stdout(sys.stderr) if here else contextlib.nullcontext():
        found: Any = _module(name, module)
    path = module
    for attribute in attributes.split("."):
        try:
            found = getattr(found, attribute)
        except AttributeError:
            near = did_you_mean(attribute, [each for each in dir(found) if not each.startswith("_")])
            raise ConfigurationError(f"{name!r}: tried to import {path}, which has no {attribute!r}{near}") from None
        path += f".{attribute}"
    return found


def _module(name: str, module: str) -> Any:
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is not None and (module == error.name or module.startswith(f"{error.name}.")):
            raise ConfigurationError(
                f"{name!r}: tried to import {module}, and there is no module {error.name!r} in "
                f"{os.getcwd()} or on the Python path"
            ) from error
        raise ConfigurationError(
            f"{name!r}: {module} was found, and imports {error.name!r}, which is missing"
        ) from error
    except Exception as error:
        raise ConfigurationError(
            f"{name!r}: {module} was found, and raised {type(error).__name__} while it was imported: {error}"
        ) from error


# -- an application -------------------------------------------------------------------------------------------------


def application_named(name: str, *, factory: bool = False) -> Any:
    """Import the application of a command, make it where *factory* says so, and return it.

    What it prints meanwhile goes to stderr.

    Raises:
        ConfigurationError: It cannot be imported or made, or is none; the message says what was tried.
    """
    found = imported(name, here=True)
    if factory:
        found = _made(name, found)
    if inspect.isclass(found) or (inspect.isfunction(found) and not _required(found)):
        raise ConfigurationError(f"{name!r} is {found!r}, which makes one; give --factory, or name the application")
    try:
        protocol_of(found)
    except WrongApplication as error:
        raise ConfigurationError(f"{name!r} is {found!r}; an ASGI or WSGI application is wanted") from error
    return found


def _made(name: str, factory: Any) -> Any:
    if not callable(factory):
        raise ConfigurationError(f"{name!r} is {factory!r}; with --factory a function that makes one is wanted")
    if _required(factory):
        raise ConfigurationError(f"{name!r} wants arguments: with --factory it is called without any")
    try:
        with contextlib.redirect_stdout(sys.stderr):
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
