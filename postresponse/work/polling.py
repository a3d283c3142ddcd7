"""Values that are asked for again and again, and only those that are new."""

from collections.abc import AsyncGenerator, AsyncIterator, Callable
from typing import Any, Final, TypeVar

from postresponse.work.checks import check_function, check_seconds, is_async

__all__ = ["distinct_until_changed", "poll"]

T = TypeVar("T")

NOTHING: Final = object()


def poll(fn: Callable[..., Any], /, *args: Any, interval: float) -> AsyncGenerator[Any, None]:
    """Call `fn(*args)` every *interval* seconds, and give what it returns, without an end; guard it by a `Valve`.

    The first call is at once. A sync function is called on a thread. The time that a call takes counts; calls that
    would have been due meanwhile are left out, and never made up for. What it raises ends the poll.

    Args:
        interval: Seconds from the beginning of one call to that of the next.

    Raises:
        NotAFunction: *fn* cannot be called.
        ConfigurationError: *interval* is no number of seconds above zero.
    """
    check_function("poll()", fn)
    return _polled(fn, args, check_seconds("interval", interval))


async def _polled(fn: Callable[..., Any], args: tuple[Any, ...], seconds: float) -> AsyncGenerator[Any, None]:
    from anyio import current_time, sleep_until, to_thread

    due = current_time()
    while True:
        if is_async(fn):
            yield await fn(*args)
        else:
            yield await to_thread.run_sync(fn, *args)
        due += seconds
        now = current_time()
        if due <= now:
            due += ((now - due) // seconds + 1) * seconds
        await sleep_until(due)


def distinct_until_changed(
    source: AsyncIterator[T], *, key: Callable[[T], Any] | None = None
) -> AsyncGenerator[T, None]:
    """Hand on the first item, and each later one that differs from the one before.

    Args:
        key: What is compared of an item; None for the item itself.

    Raises:
        NotAFunction: *key* cannot be called.
    """
    if key is not None:
        check_function("key", key)
    return _distinct(source, key)


async def _distinct(source: AsyncIterator[T], key: Callable[[T], Any] | None) -> AsyncGenerator[T, None]:
    before: Any = NOTHING
    try:
        async for item in source:
            compared = item if key is None else key(item)
            if before is NOTHING or compared != before:
                before = compared
                yield item
    finally:
        close = getattr(source, "aclose", None)
        if close is not None:
            await close()
