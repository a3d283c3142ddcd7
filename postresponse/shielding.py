"""Running something to its end whatever is cancelled meanwhile, on asyncio and on trio.

A cancel scope of anyio can be shielded; a native `Task.cancel()` goes past every scope and straight into whatever the
task awaits. So on asyncio the work runs in a task of its own and the caller only waits for it: what is cancelled is the
wait, which is taken up again, and the cancellation is raised once the work has ended.
"""

import asyncio
import sys
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any, TypeVar

from anyio import CancelScope, fail_after
from anyio.lowlevel import checkpoint_if_cancelled

__all__ = ["on_asyncio", "shielded", "time_limit"]

T = TypeVar("T")


def on_asyncio() -> bool:
    """Tell whether the caller runs in an asyncio task; otherwise it runs on trio."""
    try:
        return asyncio.current_task() is not None
    except RuntimeError:
        return False


async def shielded(work: Callable[..., Coroutine[Any, Any, T]], *args: Any) -> T:
    """Await `work(*args)` to its end and return its result; a cancellation that came meanwhile is raised afterwards."""
    if on_asyncio():
        return await _in_its_own_task(work(*args))
    with CancelScope(shield=True):
        result = await work(*args)
    await checkpoint_if_cancelled()
    return result


@asynccontextmanager
async def time_limit(seconds: float) -> AsyncIterator[None]:
    """Cancel what runs inside once, after so many *seconds*, and raise TimeoutError.

    Once, and not on every turn of the loop as a cancel scope does: a driver that is cancelled awaits its own clean-up.
    """
    if on_asyncio():
        async with asyncio.timeout(seconds):
            yield
    else:
        with fail_after(seconds):
            yield


async def _in_its_own_task(work: Coroutine[Any, Any, T]) -> T:
    loop = asyncio.get_running_loop()
    if sys.version_info >= (3, 12):
        # It starts at once, and costs no turn of the loop if it does not wait.
        task = asyncio.Task(work, loop=loop, eager_start=True)
    else:
        task = loop.create_task(work)
    cancelled: asyncio.CancelledError | None = None
    while not task.done():
        try:
            if cancelled is None:
                await _end_of(task)
            else:
                # Without the scope anyio would cancel the wait again on every turn of the loop.
                with CancelScope(shield=True):
                    await _end_of(task)
        except asyncio.CancelledError as error:
            cancelled = error
    if cancelled is not None:
        try:
            task.result()
        except Exception as error:
            raise cancelled from error
        raise cancelled
    await checkpoint_if_cancelled()
    return task.result()


async def _end_of(task: asyncio.Task[Any]) -> None:
    """Wait until *task* has ended; a cancelled wait does not cancel it."""
    ended = task.get_loop().create_future()

    def tell(_: object) -> None:
        if not ended.done():
            ended.set_result(None)

    task.add_done_callback(tell)
    try:
        await ended
    finally:
        task.remove_done_callback(tell)
