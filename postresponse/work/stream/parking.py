"""One wait, ended from any thread: of a task on whatever event loop, or of a thread.

A wait has no cancel scope: its limit is a timer that ends it as anybody else would, so that it may be made inside of an
iterator that somebody else drives.
"""

import sys
import threading
import types
from collections.abc import Awaitable, Callable, Generator
from typing import Any, Protocol

from postresponse.work import homes

__all__ = ["Parked", "ParkedThread", "Parking", "on_asyncio", "parked", "turn"]


class Parking(Protocol):
    """Whoever waits, to those who end the wait."""

    def wake(self) -> None:
        """End the wait, from any thread; once is as good as twice."""


class Parked:
    """A task that is about to wait.

    Attributes:
        is_late: Whether its time was over, and nothing else had ended the wait.
    """

    __slots__ = ("_home", "_mark", "is_late")

    def __init__(self, home: Any, mark: Any) -> None:
        self._home = home
        self._mark = mark
        self.is_late: bool = False

    def wake(self) -> None:
        homes.wake(self._home, self._set)

    def _set(self) -> None:
        raise NotImplementedError

    def ended(self) -> Awaitable[object]:
        """Return what is awaited until it is woken."""
        raise NotImplementedError

    def _expire(self) -> None:
        self.is_late = True
        self._set()

    async def wait(self, seconds: float | None = None) -> None:
        """Wait until it is woken, or for so many *seconds*."""
        if seconds is None:
            await self.ended()
            return
        call_off: Callable[[], None] = self._home.call_later(max(seconds, 0.0), self._expire)
        try:
            await self.ended()
        finally:
            call_off()


class _OnAsyncio(Parked):
    __slots__ = ()

    def _set(self) -> None:
        if not self._mark.done():
            self._mark.set_result(None)

    def ended(self) -> Awaitable[object]:
        return self._mark  # type: ignore[no-any-return]


class _OnTrio(Parked):
    __slots__ = ()

    def _set(self) -> None:
        self._mark.set()

    def ended(self) -> Awaitable[object]:
        return self._mark.wait()  # type: ignore[no-any-return]


def parked(home: homes.AsyncioHome | homes.TrioHome) -> Parked:
    """Return a wait for the task that calls, which runs on *home*."""
    if isinstance(home, homes.AsyncioHome):
        return _OnAsyncio(home, home.loop.create_future())
    return _OnTrio(home, sys.modules["trio"].Event())


def on_asyncio() -> bool:
    """Tell whether the caller runs on an event loop of asyncio's."""
    asyncio = sys.modules.get("asyncio")
    return asyncio is not None and asyncio._get_running_loop() is not None


@types.coroutine
def turn() -> Generator[None, None, None]:
    """Let everybody else go on who can, once; on an event loop of asyncio's only."""
    yield


class ParkedThread:
    """A thread that is about to wait."""

    __slots__ = ("_event",)

    def __init__(self) -> None:
        self._event = threading.Event()

    def wake(self) -> None:
        self._event.set()

    def wait(self, seconds: float | None = None) -> bool:
        """Wait until it is woken, or for so many *seconds*; False if those are over."""
        return self._event.wait(seconds)
