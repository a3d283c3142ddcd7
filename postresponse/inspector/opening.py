"""What a middleware makes of its option `inspector`."""

from typing import Any

from postresponse.core.settings import Settings
from postresponse.exceptions import ConfigurationError
from postresponse.inspector.inspector import Inspector

__all__ = ["opened"]


def opened(given: Any, settings: Settings) -> tuple[Inspector, Settings]:
    """Return the inspector, and *settings* with which it looks on: as they were in production.

    Args:
        given: True, or an `Inspector`.
        settings: Those of the middleware, which are shown too.

    Raises:
        ConfigurationError: It is neither.
    """
    if given is not True and not isinstance(given, Inspector):
        raise ConfigurationError(f"inspector: expected True, False or an Inspector, found {given!r}")
    inspector = Inspector() if given is True else given
    inspector.installed(settings)
    if not inspector.is_on or inspector in settings.observers:
        return inspector, settings
    return inspector, settings.observed_by((*settings.observers, inspector))
