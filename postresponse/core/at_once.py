"""The plain way through a settlement: nothing waits, no hook is to be run before the commit, and nothing fails.

Nearly every request goes it, and it costs a small part of performing steps. It decides nothing by itself: the verdict
is the exchange's, and whatever waits, is hooked or fails is handed back as the steps of `settlement` that are left. A
test runs both ways side by side.
"""

from collections.abc import Callable
from typing import Any, Final, TypeAlias

from postresponse.core.driven import DrivenExchange
from postresponse.core.lifecycle import Event, UnitState
from postresponse.core.policy import COMMIT, below_400
from postresponse.core.settlement import (
    begin_unit,
    made_unit,
    not_begun,
    not_closed,
    not_committed,
    settle,
    told,
)
from postresponse.core.steps import FAILURES, Steps

__all__ = ["Run", "open_at_once", "settle_at_once"]

Run: TypeAlias = Callable[[Callable[[], Any], Any, float | None], Any]
"""Calls a method of the unit of work, which does not wait: the method, the unit, and its seconds at most."""

# A member of an enum is dear to look up before Python 3.12, and this is on every request's way.
COMMITTED: Final = UnitState.COMMITTED


def open_at_once(exchange: DrivenExchange, run: Run) -> Steps[Event | None] | None:
    """Make the unit of work and begin it; None if the application may run, else the steps that are left."""
    try:
        unit, kind = made_unit(exchange)
        if not kind.lazy or unit.touched:
            if kind.manner is not exchange._settings.at_once:
                return begin_unit(exchange)
            run(unit.begin, unit, None)
    except FAILURES as error:
        return not_begun(exchange, error)
    return None


def settle_at_once(exchange: DrivenExchange, run: Run) -> Steps[Event] | None:
    """Commit by the rules, and release the connection; None if that is done, else the steps that are left."""
    unit, kind, policy, settings = exchange._unit, exchange._kind, exchange._policy, exchange._settings
    assert kind is not None
    assert policy is not None
    if (
        policy.commit_if is not below_400
        or exchange._unit_ended
        or exchange._on_start is not None
        or exchange._headers is not None
        or exchange._before_commit is not None
        or (kind.manner is not settings.at_once and (not kind.lazy or unit.touched))
    ):
        return settle(exchange)
    settling = settings.clock()
    try:
        if exchange._judge() is not COMMIT:
            return settle(exchange)
    except FAILURES:
        return settle(exchange)  # which fails again, and knows what to do about it
    exchange._settling = settling
    if not kind.lazy or unit.touched:
        try:
            run(unit.commit, unit, None)
        except BaseException as error:  # noqa: BLE001 (handed on by the steps)
            return not_committed(exchange, error)
    elif settings.observers:
        exchange._was_idle = True
    exchange._unit_state, exchange._unit_ended = COMMITTED, True
    if not kind.lazy or unit.touched:
        try:
            run(unit.close, unit, settings.cleanup_timeout)
        except BaseException as error:  # noqa: BLE001 (handed on by the steps)
            return not_closed(exchange, error)
    exchange._settled = settings.clock()
    return None if exchange._after_commit is None else told(exchange)
