"""The setting POSTRESPONSE: the options of the middleware in capitals, and what is Django's own."""

import inspect
from collections.abc import Mapping
from typing import Any, Final

from django.conf import settings

from postresponse.configuration import options_from
from postresponse.exceptions import ConfigurationError
from postresponse.unit_of_work.django import DjangoUnitOfWork

__all__ = ["OWN", "SETTING", "given", "options_for"]

SETTING: Final = "POSTRESPONSE"
OWN: Final = ("RELAY",)
"""What is no option of the middleware: the Relay that `manage.py postresponse outbox` is about."""


def given() -> Mapping[str, Any]:
    """Return the setting; nothing where there is none.

    Raises:
        ConfigurationError: It is no dictionary.
    """
    found = getattr(settings, SETTING, None)
    if found is None:
        return {}
    if not isinstance(found, Mapping):
        raise ConfigurationError(f"{SETTING}: expected a dictionary of options in capitals, found {found!r}")
    return found


def options_for(middleware: type, error_response: Any) -> dict[str, Any]:
    """Return the options of *middleware* that the settings give.

    Args:
        error_response: What answers in place of a response that could not be committed, where the settings do not say.

    Raises:
        ConfigurationError: A setting is unknown, or names what is not there.
    """
    found = {**given()}
    unit = found.get("UNIT_OF_WORK")
    if isinstance(unit, str) and not {":", "."} & {*unit}:
        found["UNIT_OF_WORK"] = DjangoUnitOfWork(unit)
    options = options_from(found, middleware, source=SETTING, more=OWN)
    return _defaults(middleware, error_response) | options


def _defaults(middleware: type, error_response: Any) -> dict[str, Any]:
    """What a Django project means where it says nothing."""
    defaults: dict[str, Any] = {"error_response": error_response, "inspector": settings.DEBUG}
    known = inspect.signature(middleware).parameters
    return {name: value for name, value in defaults.items() if name in known}
