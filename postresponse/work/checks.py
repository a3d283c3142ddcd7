"""What may be given as work, and for how long."""

import functools
import inspect
import math
from typing import Any

from postresponse.exceptions import ConfigurationError, NotAFunction

__all__ = ["check_count", "check_function", "check_seconds", "is_async", "name_of"]


def check_function(call: str, fn: Any) -> None:
    """Refuse what cannot be called.

    Raises:
        NotAFunction: *fn* is no function, or is a coroutine object, which is closed.
    """
    if callable(fn):
        return
    if inspect.iscoroutine(fn):
        fn.close()
        raise NotAFunction(
            f"{call}: expected a function, found the coroutine {fn.__qualname__}(): give the function itself, and its "
            "arguments behind it"
        )
    raise NotAFunction(f"{call}: expected a function, found {fn!r}")


def check_count(option: str, number: Any, *, least: int = 1) -> int:
    """Return *number*.

    Raises:
        ConfigurationError: It is no whole number, or below *least*.
    """
    if isinstance(number, bool) or not isinstance(number, int) or number < least:
        raise ConfigurationError(f"{option}: expected a whole number from {least} on, found {number!r}")
    return number


def check_seconds(option: str, seconds: Any, *, least: float | None = None) -> float:
    """Return *seconds* as a float.

    Raises:
        ConfigurationError: They are no number, or not above zero; not below *least*, where that is given.
    """
    if isinstance(seconds, bool) or not isinstance(seconds, int | float) or math.isnan(seconds):
        raise ConfigurationError(f"{option}: expected seconds as a number, found {seconds!r}")
    if seconds < least if least is not None else seconds <= 0:
        raise ConfigurationError(
            f"{option}: expected seconds {'from' if least is not None else 'above'} {least or 0:g}, found {seconds!r}"
        )
    return float(seconds)


def is_async(fn: Any) -> bool:
    """Tell whether *fn* is an async function, a partial of one, or an object that is called as one."""
    try:
        return bool(fn.__code__.co_flags & inspect.CO_COROUTINE)
    except AttributeError:
        call = getattr(type(fn), "__call__", None)  # noqa: B004 (its code is looked at)
        return inspect.iscoroutinefunction(fn) or inspect.iscoroutinefunction(call)


def name_of(fn: Any) -> str:
    """Name *fn* for a log line."""
    while isinstance(fn, functools.partial):
        fn = fn.func
    return getattr(fn, "__qualname__", None) or type(fn).__qualname__
