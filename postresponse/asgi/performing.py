"""Performing the steps of a settlement on an event loop: awaited, called, or sent to a thread."""

import inspect
import math
from collections.abc import Callable
from typing import Any, TypeVar

from anyio import CapacityLimiter, to_thread

from postresponse.core.exchange import Exchange
from postresponse.core.settlement import Step, Steps
from postresponse.shielding import shielded, time_limit
from postresponse.watchdog import within

__all__ = ["drive", "on_thread", "perform"]

T = TypeVar("T")


async def perform(exchange: Exchange, steps: Steps[T]) -> T:
    """Perform all *steps*, whatever is cancelled meanwhile, and return their result; nothing is awaited for none."""
    try:
        step = next(steps)
    except StopIteration as stop:
        return stop.value  # type: ignore[no-any-return]
    return await shielded(drive, exchange, steps, step)


async def drive(exchange: Exchange, steps: Steps[T], step: Step) -> T:
    """Perform *step* and the rest of *steps*, and return their result."""
    try:
        while True:
            try:
                result = await _do(exchange, step)
            except BaseException as error:  # noqa: BLE001 (handed to the rules)
                step = steps.throw(error)
            else:
                step = steps.send(result)
    except StopIteration as stop:
        return stop.value  # type: ignore[no-any-return]


async def _do(exchange: Exchange, step: Step) -> Any:
    if step.of_unit and not inspect.iscoroutinefunction(step.call):
        result = await on_thread(within, step.limit, step.call, step.args, exchange._unit)
    else:
        result = step.call(*step.args)
    if not inspect.isawaitable(result):
        return result
    if step.limit is None:
        return await result
    async with time_limit(step.limit):
        return await result


async def on_thread(call: Callable[..., T], *args: Any) -> T:
    """Call a blocking function on a thread.

    With a limiter of its own: behind the shared one a commit would wait for handlers that wait for its connection.
    """
    return await to_thread.run_sync(call, *args, limiter=CapacityLimiter(math.inf))
