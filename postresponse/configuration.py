"""The options of a middleware as settings of a framework: in capitals, by objects or by the names of them."""

import inspect
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from postresponse.core.policy import unknown
from postresponse.exceptions import ConfigurationError
from postresponse.importing import imported

__all__ = ["Origin", "effective", "options_from", "origins"]

_NAMED: Final = (
    *("UNIT_OF_WORK", "ERROR_RESPONSE", "ON_COMMIT_FAILED", "ON_FINISHED", "ON_ERROR", "SUPERVISOR", "INSPECTOR"),
)
"""What may be given by its name, `"shop.web:db"`; of the observers, each."""


def options_from(
    settings: Mapping[str, Any], middleware: type, *, source: str, more: Iterable[str] = ()
) -> dict[str, Any]:
    """Return the options of *middleware* that *settings* give, as `{"UNIT_OF_WORK": "shop.web:db", "COMMIT": "head"}`.

    Args:
        settings: By the option's name in capitals. One that is None is left out.
        middleware: `postresponse.asgi.PostResponseMiddleware`, or that of `.wsgi`.
        source: How the settings are called, for an error: `"POSTRESPONSE"`.
        more: Names that are the integration's own, which are left out.

    Raises:
        ConfigurationError: A setting is unknown, with the one that was probably meant; or names what is not there.
            What a known one may be, the middleware checks.
    """
    own = list(more)
    known = [name.upper() for name in _options_of(middleware)]
    unknown(settings, [*known, *own], source)
    given = {name: value for name, value in settings.items() if name not in own and value is not None}
    return {name.lower(): _found(name, value, source) for name, value in given.items()}


@dataclass(frozen=True, slots=True)
class Origin:
    """An option as it is in force, in words.

    Attributes:
        name: As the middleware calls it.
        value: As Python shows it.
        source: Where it was given: `keyword`, the name of the setting, or `default`.
    """

    name: str
    value: str
    source: str


def effective(
    given: Mapping[str, Any],
    settings: Mapping[str, Any],
    middleware: type,
    *,
    owner: str,
    source: str,
    more: Iterable[str] = (),
) -> dict[str, Any]:
    """Return the options of *middleware*: those that were *given* by keyword, and of the *settings* what those leave.

    Args:
        given: By name; one that is None was not given.
        settings: As those of `options_from`.
        owner: Who takes the keywords, for an error: `"PostResponse"`.
        source: As that of `options_from`.
        more: The same.

    Raises:
        ConfigurationError: An option or a setting is unknown, or names what is not there.
    """
    unknown(given, _options_of(middleware), owner)
    found = options_from(settings, middleware, source=source, more=more)
    return {**found, **{name: value for name, value in given.items() if value is not None}}


def origins(
    options: Mapping[str, Any], given: Mapping[str, Any], settings: Mapping[str, Any], middleware: type, prefix: str
) -> tuple[Origin, ...]:
    """Tell every option of *middleware* as it is in force by `effective`; *prefix* is that of a setting's name."""

    def source(name: str) -> str:
        if given.get(name) is not None:
            return "keyword"
        if settings.get(name.upper()) is not None:
            return f"{prefix}{name.upper()}"
        return "by the integration" if name in options else "default"

    defaults = _options_of(middleware)
    return tuple(Origin(name, repr(options.get(name, defaults[name])), source(name)) for name in defaults)


def _options_of(middleware: type) -> dict[str, Any]:
    """Return the options by name, with their defaults."""
    parameters = inspect.signature(middleware).parameters.values()
    return {each.name: each.default for each in parameters if each.kind is each.KEYWORD_ONLY}


def _found(name: str, value: Any, source: str) -> Any:
    try:
        if name in _NAMED and isinstance(value, str):
            return imported(value)
        if name == "OBSERVERS" and isinstance(value, list | tuple):
            return [_made(imported(each)) if isinstance(each, str) else each for each in value]
        if name == "COMMIT" and isinstance(value, str) and ":" in value:
            return imported(value)
    except ConfigurationError as error:
        raise ConfigurationError(f"{source}[{name!r}]: {error}") from error
    return value


def _made(found: Any) -> Any:
    return found() if isinstance(found, type) else found
