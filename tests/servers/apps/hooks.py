"""The middleware's hooks: each writes what it was told to the record."""

import dataclasses
from typing import Any

from postresponse import Outcome, current_exchange
from tests.servers.apps.asked import asked_in
from tests.servers.apps.record import record


def _key() -> str:
    return asked_in(current_exchange().scope).key


def on_finished(outcome: Outcome) -> None:
    """Record how an exchange ended."""
    record(
        "finished",
        _key(),
        ending=str(outcome.ending),
        unit_of_work=str(outcome.unit_of_work),
        status=outcome.status,
        bytes_sent=outcome.bytes_sent,
        attempt=outcome.attempt,
        sent=outcome.sent,
        drained=outcome.drained,
        exception=repr(outcome.exception) if outcome.exception else None,
        moments=dataclasses.asdict(outcome.moments),
    )


def on_commit_failed(failure: Any) -> None:
    """Record a failed commit."""
    record("commit_failed", _key(), failure=repr(failure))


def on_error(failure: Any) -> None:
    """Record a failed hook; there should be none."""
    record("hook_failed", "", failure=repr(failure))
