"""The template of a request's route, told to whoever names it in a log line or a trace."""

from typing import Any

from postresponse.core.log import ROUTE

__all__ = ["tell_route"]


def tell_route(request: Any, into: Any) -> None:
    """Note on *into*, the scope or environ of *request*, which route of the URLconf it matched."""
    match = request.resolver_match
    if match is not None and match.route:
        into[ROUTE] = f"/{match.route}"
