"""Messages in memory: for tests, and for work that may be lost."""

import itertools
import threading
from collections.abc import Callable, Iterator, Sequence
from heapq import heappop, heappush
from typing import Any

from anyio import current_time

from postresponse.exceptions import ConfigurationError
from postresponse.messaging.delivery import Delivery, Result, Settled
from postresponse.messaging.message import Message
from postresponse.messaging.pump import Polls
from postresponse.messaging.transports.checks import check_message
from postresponse.work import homes

__all__ = ["MemoryTransport"]


class MemoryTransport:
    """A queue in this process, for one receiver at a time; what is in it dies with the process.

    Args:
        name: What it is called in the log.

    Attributes:
        dead: What was given up, with the reason.

    Raises:
        ConfigurationError: *name* is no text.
    """

    def __init__(self, name: str = "memory") -> None:
        if not isinstance(name, str) or not name:
            raise ConfigurationError(f"name: expected a text, found {name!r}")
        self.name: str = name
        self.polls: Polls | None = None
        self.dead: list[tuple[Delivery, str]] = []
        self._lock = threading.Lock()
        self._numbers: Iterator[Any] = itertools.count()
        self._queue: list[tuple[Any, Delivery]] = []  # by number: what comes back has its old place
        self._later: list[tuple[float, Any, Delivery]] = []
        self._wake: Callable[[], Any] | None = None
        self._home: Any = None
        self._timer: Callable[[], None] | None = None

    def send(self, message: Message) -> None:
        """Put *message* at the end of the queue; from any thread.

        Raises:
            MessageRefused: It is no `Message`, or one that is due later.
        """
        check_message(message)
        with self._lock:
            self._put(Delivery(message.id, message.destination, message.name, message.document, dict(message.headers)))
        if (wake := self._wake) is not None:
            wake()

    def _put(self, delivery: Delivery, number: Any = None) -> None:
        delivery.handle = next(self._numbers) if number is None else number
        heappush(self._queue, (delivery.handle, delivery))

    def __len__(self) -> int:
        """How many wait."""
        return len(self._queue) + len(self._later)

    async def open(self, wake: Callable[[], None]) -> None:
        """Begin."""
        self._wake, self._home = wake, homes.here()
        self._set_timer()

    async def take(self, limit: int) -> Sequence[Delivery]:
        """Return at most *limit* of what waits."""
        with self._lock:
            self._put_due()
            taken = [heappop(self._queue)[1] for _ in range(min(limit, len(self._queue)))]
        if self._timer is None:
            self._set_timer()
        return taken

    def _put_due(self) -> None:
        while self._later and self._later[0][0] <= current_time():
            _, number, delivery = heappop(self._later)
            self._put(delivery, number)

    async def settle(self, settled: Sequence[Settled]) -> int:
        """Do what is said with each."""
        with self._lock:
            for each in settled:
                self._settle(each)
        self._set_timer()
        if self._wake is not None:
            self._wake()
        return 0

    def _settle(self, settled: Settled) -> None:
        old, result = settled.delivery, settled.result
        if result is Result.DONE:
            return
        if result is Result.DEAD:
            self.dead.append((old, settled.error))
            return
        headers = old.deferred_headers if result is Result.DEFERRED else old.headers
        attempts = old.attempts + (result is Result.FAILED)
        again = Delivery(old.id, old.destination, old.name, old.document, headers, attempts=attempts)
        number = old.handle if result in (Result.BACK, Result.OUTAGE) else next(self._numbers)
        if settled.delay:
            heappush(self._later, (current_time() + settled.delay, number, again))
        else:
            self._put(again, number)

    def _set_timer(self) -> None:
        """Have it wake when the first of those is due that wait."""
        self._drop_timer()
        if self._later and self._home is not None:
            self._timer = self._home.call_later(max(self._later[0][0] - current_time(), 0.0), self._due)

    def _drop_timer(self) -> None:
        timer, self._timer = self._timer, None
        if timer is not None:
            timer()

    def _due(self) -> None:
        self._timer = None
        if self._wake is not None:
            self._wake()

    async def pause(self) -> None:
        """Nothing: what is not taken waits."""

    async def resume(self) -> None:
        """Nothing."""

    async def aclose(self) -> None:
        """Keep what waits."""
        self._drop_timer()
        self._wake = self._home = None
