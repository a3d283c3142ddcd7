"""Has a request commit as the kit asks, or fail in it, and tells how it ended: whatever the application around it."""

from typing import Any, Final
from urllib.parse import parse_qsl

from postresponse.core.lifecycle import MOVES
from postresponse.core.observer import Observer
from postresponse.core.trace import Trace
from postresponse.testing.conformance.record import record

__all__ = ["HEADER", "StandIn", "Teller", "asked_of"]

HEADER: Final = "x-postresponse-conformance"
"""The header in which the kit says what it asks for: a query."""


def asked_of(scope: Any) -> dict[str, str]:
    """Return what the kit asks for in a request; empty for one of somebody else's."""
    if "REQUEST_METHOD" in scope:
        text = scope.get(f"HTTP_{HEADER.upper().replace('-', '_')}", "")
    else:
        found = [value for name, value in scope.get("headers", ()) if name == HEADER.encode()]
        text = found[0].decode("latin-1") if found else ""
    return dict(parse_qsl(text))


class Refused(Exception):
    """The commit is refused, as was asked."""


class Teller(Observer):
    """Looks on at every middleware of the process."""

    def began(self, exchange: Any) -> object:
        """Have it commit at the point, and fail, as was asked."""
        asked = asked_of(exchange.scope)
        if not asked:
            return None
        if asked.get("at") and exchange._settings.unit_of_work is not None:
            exchange.policy = exchange.policy.but({"at": asked["at"], "retry": None})
            exchange._moves = MOVES[exchange.policy.point]
        if asked.get("refuse") and exchange._settings.unit_of_work is not None:
            exchange._before_commit = [_refuse]
        record("began", asked["key"])
        return asked["key"]

    def ended(self, trace: Trace, begun: object) -> None:
        """Tell how it ended."""
        if begun is not None:
            outcome = trace.outcome
            record(
                "finished",
                str(begun),
                mode=trace.mode,
                ending=outcome.ending,
                unit_of_work=outcome.unit_of_work,
                status=outcome.status,
                drained=outcome.drained,
                sent=outcome.sent,
            )


def _refuse() -> None:
    raise Refused("the conformance kit asked for a commit that fails")


class StandIn:
    """A unit of work for an application that gave the middleware none: it stores nothing, and can fail."""

    active = True

    def __init__(self, exchange: Any) -> None: ...
    def begin(self) -> None:
        """Nothing."""

    def commit(self) -> None:
        """Nothing: what was asked to fail does before it."""

    def rollback(self) -> None:
        """Nothing."""

    def close(self) -> None:
        """Nothing."""
