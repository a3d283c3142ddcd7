"""Performing the steps of a settlement in the caller's thread: called, and cut off at their limit."""

import inspect
from collections.abc import Callable
from typing import Any, TypeVar

from postresponse.core.driven import DrivenExchange
from postresponse.core.steps import Step, Steps
from postresponse.exceptions import WrongApplication
from postresponse.watchdog import within

__all__ = ["perform", "run_at_once"]

T = TypeVar("T")


def perform(exchange: DrivenExchange, steps: Steps[T]) -> T:
    """Perform all *steps* and return their result."""
    try:
        step = next(steps)
        while True:
            try:
                _do(exchange, step)
            except BaseException as error:  # noqa: BLE001 (handed to the rules)
                step = steps.throw(error)
            else:
                step = next(steps)
    except StopIteration as stop:
        return stop.value  # type: ignore[no-any-return]


def _do(exchange: DrivenExchange, step: Step) -> None:
    call, args, manner, limit = step
    if manner is not None:
        within(limit, call, args, exchange._unit)
        return
    result = call(*args)
    if inspect.iscoroutine(result):
        result.close()
        raise WrongApplication(f"{call!r} returned a coroutine, and there is no event loop under WSGI")


def run_at_once(call: Callable[[], Any], unit: object, limit: float | None) -> None:
    """Call a method of *unit*, with a limit of so many seconds where there is one."""
    within(limit, call, (), unit)
