"""What the log is told with: the loggers, the name of a route, and what is said but once."""

import logging
from typing import Any, Final

__all__ = ["access", "first_time", "logger", "route_of"]

logger: Final = logging.getLogger("postresponse")
access: Final = logging.getLogger("postresponse.access")


def route_of(scope: Any) -> str:
    """Name the route of a scope or environ for a log line."""
    if not scope:
        return "a finished request"
    if "REQUEST_METHOD" in scope:
        return f"{scope['REQUEST_METHOD']} {scope.get('SCRIPT_NAME', '')}{scope.get('PATH_INFO', '')}"
    path = getattr(scope.get("route"), "path", None) or scope.get("path", "")
    return f"{scope.get('method', '')} {path}"


_told: Final[set[str]] = set()


def first_time(route: str) -> bool:
    """Whether *route* was not told of before; after a thousand of them (paths with ids) nothing is new."""
    if route in _told or len(_told) >= 1000:
        return False
    _told.add(route)
    return True
