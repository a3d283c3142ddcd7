"""What the log is told with: the loggers, the name of a route, and what is said but once."""

import logging
from typing import Any, Final

__all__ = ["ROUTE", "TENANT", "access", "first_time", "logger", "path_of", "route_of", "template_of"]

logger: Final = logging.getLogger("postresponse")
access: Final = logging.getLogger("postresponse.access")


ROUTE: Final = "postresponse.route"
"""Where an integration tells the template of the route, in a scope or environ."""
TENANT: Final = "postresponse.tenant"
"""Where the limits of tenants tell whose request it is."""


def template_of(scope: Any) -> str | None:
    """Return the template of the route that a scope or environ is of, or None where the framework does not say it."""
    told = scope.get(ROUTE) or getattr(scope.get("route"), "path", None)
    return told if isinstance(told, str) else None


def route_of(scope: Any) -> str:
    """Name the route of a scope or environ for a log line."""
    if not scope:
        return "a finished request"
    method = scope["REQUEST_METHOD"] if "REQUEST_METHOD" in scope else scope.get("method", "")
    return f"{method} {template_of(scope) or path_of(scope)}"


def path_of(scope: Any) -> str:
    """The path of a request, that the application is mounted at included (PEP 3333: bytes as latin-1)."""
    if "REQUEST_METHOD" not in scope:
        path: str = scope.get("path", "")
        return path
    path = f"{scope.get('SCRIPT_NAME', '')}{scope.get('PATH_INFO', '')}"
    return path.encode("latin-1", "replace").decode("utf-8", "replace")


_told: Final[set[str]] = set()


def first_time(route: str) -> bool:
    """Whether *route* was not told of before; after a thousand of them (paths with ids) nothing is new."""
    if route in _told or len(_told) >= 1000:
        return False
    _told.add(route)
    return True
