"""What ends a stream in which nothing moves."""

from collections import deque
from collections.abc import Callable
from typing import Any, Generic, TypeVar

from postresponse.work import homes

__all__ = ["Idling"]

T = TypeVar("T")


class Idling(Generic[T]):
    """The time since the last item was put or taken, on the clock of the event loop that watches.

    Args:
        seconds: How long nothing may move.
        queue: What the items are put into and taken from.
        end: Called on that loop when it is over; holds the stream weakly, or its timer would keep it alive.
    """

    __slots__ = ("_active", "_call_off", "_end", "_home", "_queue", "seconds")

    def __init__(self, seconds: float, queue: deque[T], end: Callable[[], object]) -> None:
        self.seconds: float = seconds
        self._queue = queue
        self._end = end
        self._home: Any = None
        self._active = 0.0
        self._call_off: Callable[[], None] | None = None

    def append(self, item: T) -> None:
        """Put *item*."""
        self._queue.append(item)
        self.beat()

    def popleft(self) -> T:
        """Take the first."""
        item = self._queue.popleft()
        self.beat()
        return item

    def watch(self, home: Any) -> None:
        """Count from now on, on *home*, where the caller runs; what watches already goes on."""
        if self._home is None:
            self._home = home
            self._stamp()
            self._call_off = home.call_later(self.seconds, self._due)

    def beat(self) -> None:
        """Something moved."""
        home = self._home
        if home is not None:
            homes.wake(home, self._stamp)

    def stop(self) -> None:
        """Count no longer; from any thread."""
        call_off, self._call_off = self._call_off, None
        if call_off is not None:
            homes.wake(self._home, call_off)

    def _stamp(self) -> None:
        self._active = self._home.time()

    def _due(self) -> None:
        if self._call_off is None:
            return
        left = self._active + self.seconds - self._home.time()
        if left > 0:
            self._call_off = self._home.call_later(left, self._due)
        else:
            self._call_off = None
            self._end()
