"""Exchanges without an adapter: options checked, units of work that record, and settlements performed at once."""

import itertools
from typing import Any

from postresponse.core.driven import DrivenExchange
from postresponse.core.lifecycle import Action, Event
from postresponse.core.settings import Settings
from postresponse.core.settlement import begin_unit, made_unit, not_begun
from postresponse.core.steps import FAILURES, Steps

SCOPE = {"type": "http", "method": "GET", "path": "/orders", "headers": []}


def settings_of(**options: Any) -> Settings:
    """The settings of a middleware with these options; its clock counts."""
    every: dict[str, Any] = {
        "is_async": False,
        "clock": itertools.count(1).__next__,
        "wall_clock": lambda: 0.0,
        "unit_of_work": None,
        "commit": None,
        "error_response": None,
        "on_commit_failed": None,
        "on_finished": None,
        "on_error": None,
        "cleanup_timeout": 5,
    }
    return Settings.of(**(every | options))


def exchange_of(scope: Any = None, **options: Any) -> DrivenExchange:
    """An exchange of such a middleware, its unit of work begun if it has one."""
    exchange = DrivenExchange(settings_of(**options), SCOPE if scope is None else scope, 0)
    if options.get("unit_of_work") is not None:
        assert perform(open_unit(exchange)) is None
    return exchange


def open_unit(exchange: DrivenExchange) -> Steps[Event | None]:
    """Make the unit of work and begin it, step by step; None if the application may run, else what to report."""
    try:
        made_unit(exchange)
    except FAILURES as error:
        return (yield from not_begun(exchange, error))
    return (yield from begin_unit(exchange))


def perform(steps: Steps[Any]) -> Any:
    """Perform *steps* at once and return their answer."""
    try:
        step = next(steps)
        while True:
            try:
                call, args, _, _ = step
                call(*args)
            except BaseException as error:
                step = steps.throw(error)
            else:
                step = next(steps)
    except StopIteration as stop:
        return stop.value


def give_head(exchange: DrivenExchange, status: int = 200) -> Action:
    """Let the application give its head, as an adapter takes it."""
    exchange._status = status
    return exchange._advance(Event.START)
