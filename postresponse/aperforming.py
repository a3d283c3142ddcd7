"""Performing the steps of a settlement on an event loop: called, awaited, or sent to a thread.

What cannot be interrupted is done in place; from the first step on that can, all runs shielded.
"""

import inspect
import math
from collections.abc import Awaitable, Callable
from typing import Any, Final, TypeVar

from anyio import CapacityLimiter, to_thread

from postresponse.core.driven import DrivenExchange
from postresponse.core.steps import Step, Steps
from postresponse.core.units import Manner
from postresponse.shielding import shielded, time_limit
from postresponse.watchdog import within

__all__ = ["at_once", "drive", "on_thread", "perform", "run_at_once"]

T = TypeVar("T")

AT_ONCE: Final = Manner.AT_ONCE


async def perform(exchange: DrivenExchange, steps: Steps[T]) -> T:
    """Perform all *steps*, whatever is cancelled meanwhile, and return their result."""
    done, rest = at_once(steps)
    return rest if done else await shielded(drive, exchange, steps, rest)


def at_once(steps: Steps[Any]) -> tuple[bool, Any]:
    """Perform *steps* as far as nothing waits: True and their result, or False and the first one that does."""
    try:
        step = next(steps)
        while True:
            call, args, manner, limit = step
            if manner is not None and manner is not AT_ONCE:
                return False, step
            try:
                if manner is AT_ONCE:
                    result = None
                    run_at_once(call, None, limit)
                else:
                    result = call(*args)
            except BaseException as error:  # noqa: BLE001 (handed to the rules)
                step = steps.throw(error)
                continue
            if manner is None and result is not None and inspect.isawaitable(result):
                return False, (_given, (result,), None, limit)
            step = next(steps)
    except StopIteration as stop:
        return True, stop.value


async def drive(exchange: DrivenExchange, steps: Steps[T], step: Step) -> T:
    """Perform *step* and the rest of *steps*, and return their result."""
    try:
        while True:
            try:
                await _do(exchange, step)
            except BaseException as error:  # noqa: BLE001 (handed to the rules)
                step = steps.throw(error)
            else:
                step = next(steps)
    except StopIteration as stop:
        return stop.value  # type: ignore[no-any-return]


async def _do(exchange: DrivenExchange, step: Step) -> None:
    call, args, manner, limit = step
    if manner is Manner.BLOCKS:
        result = await on_thread(within, limit, call, args, exchange._unit)
    else:
        result = call(*args)
    if not inspect.isawaitable(result):
        return
    if limit is None:
        await result
        return
    async with time_limit(limit):
        await result


def run_at_once(call: Callable[[], Any], unit: object, limit: float | None) -> None:
    """Call a method of *unit* that never waits."""
    try:
        call().send(None)
    except StopIteration:
        return
    raise AssertionError(f"{call!r} waits, and its code has no await")


def _given(awaitable: Awaitable[T]) -> Awaitable[T]:
    return awaitable


async def on_thread(call: Callable[..., T], *args: Any) -> T:
    """Call a blocking function on a thread.

    With a limiter of its own: behind the shared one a commit would wait for handlers that wait for its connection.
    """
    return await to_thread.run_sync(call, *args, limiter=CapacityLimiter(math.inf))
