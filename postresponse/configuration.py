"""The options of a middleware as settings of a framework: in capitals, by objects or by the names of them."""

import inspect
from collections.abc import Iterable, Mapping
from typing import Any, Final

from postresponse.core.policy import unknown
from postresponse.exceptions import ConfigurationError
from postresponse.importing import imported

__all__ = ["options_from"]

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
    parameters = inspect.signature(middleware).parameters.values()
    known = [each.name.upper() for each in parameters if each.kind is each.KEYWORD_ONLY]
    unknown(settings, [*known, *own], source)
    given = {name: value for name, value in settings.items() if name not in own and value is not None}
    return {name.lower(): _found(name, value, source) for name, value in given.items()}


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
