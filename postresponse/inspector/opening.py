"""What a middleware makes of its option `inspector`."""

from collections.abc import Sequence
from typing import Any

from postresponse.core.observer import Observer, observers_given
from postresponse.exceptions import ConfigurationError
from postresponse.inspector.inspector import Inspector

__all__ = ["opened"]


def opened(
    given: Any, observers: Sequence[Observer], unit_of_work: Any, commit: Any, supervisor: Any
) -> tuple[Inspector, tuple[Observer, ...]]:
    """Return the inspector, and who looks on with it: nobody more in production.

    Args:
        given: True, or an `Inspector`.
        observers: The others.
        unit_of_work: That of the middleware, to be shown, as the other options are.
        commit: Likewise; where there is a unit of work and nothing is said, the head.
        supervisor: Likewise.

    Raises:
        ConfigurationError: It is neither, or *observers* is no collection of them.
    """
    if given is not True and not isinstance(given, Inspector):
        raise ConfigurationError(f"inspector: expected True, False or an Inspector, found {given!r}")
    inspector = Inspector() if given is True else given
    others = observers_given(observers)
    point = commit or (unit_of_work and "head")
    options = {"unit_of_work": unit_of_work, "commit": point, "supervisor": supervisor, "observers": observers}
    inspector.installed(options, others)
    return inspector, (*others, inspector) if inspector.is_on and inspector not in others else others
