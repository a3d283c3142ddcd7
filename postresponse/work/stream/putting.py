"""What producers do with a stream: put, wait for room, and say how it ends."""

import inspect
from collections.abc import AsyncIterable, Coroutine, Iterable, Iterator
from itertools import islice
from typing import Any, Final, Generic, TypeVar

from postresponse.exceptions import ConfigurationError, StreamClosed, StreamFull, WrongThread
from postresponse.work import homes
from postresponse.work.checks import check_seconds
from postresponse.work.stream.channel import PUT, Channel, Waiting
from postresponse.work.stream.parking import ParkedThread, on_asyncio, parked, turn

__all__ = ["Putting"]

T = TypeVar("T")

DONE: Final = "its producers are done"


class Putting(Channel[T], Generic[T]):
    """A stream, to its producers."""

    __slots__ = ()

    def put(self, item: T) -> Coroutine[Any, Any, None]:
        """Put *item*, and wait for room where there is none; those that wait have room in their order.

        Await it. Where there is room the item is in when the call returns, and nothing is waited for, not even a turn
        of the event loop. Cancelled while it waits, it has put nothing, unless room came at the same moment.

        Raises:
            StreamClosed: Nothing is taken any more.
        """
        try:
            self._token()
        except IndexError:
            return self._put_later(item)
        self._append(item)
        if self._heed:
            self._attend()
        return PUT

    async def _put_later(self, item: T, *, renews: bool = True) -> None:
        waiting = Waiting(item, None)
        try:
            if self._may_spin():
                # Mostly the consumer goes on in this turn of the loop: to wait for the next costs less than a wake-up.
                self._spinner = waiting
                await turn()
            if not self._enter(waiting):
                await self._wait_for_room(waiting)
        except BaseException:
            self._withdraw(waiting)
            raise
        if not waiting.is_in:
            raise self._refusal()
        if renews and self._spinner is None and self._taken > self._credited:
            self._renew_tokens()

    def _may_spin(self) -> bool:
        """Whether there is no room, the consumer is about, and nobody waits."""
        return (
            self._taken == self._credited
            and self._sleeper is None
            and self._spinner is None
            and not (self._waiters or self._closed)
            and on_asyncio()
        )

    async def _wait_for_room(self, waiting: Waiting) -> None:
        home = homes.here()
        if home is None:
            raise WrongThread("put() waits on an event loop, and this thread has none; use put_sync()")
        parking = parked(home)
        if self._park(waiting, parking):
            await parking.ended()

    def put_nowait(self, *items: T) -> None:
        """Put all *items*, or none of them; from any thread.

        Raises:
            StreamFull: There is no room for all.
            StreamClosed: Nothing is taken any more.
        """
        if not self._enter_all(items):
            raise StreamFull(self.name, maxsize=self.maxsize, waiting=len(self._queue), items=len(items))

    def put_sync(self, item: T, *, timeout: float | None = None) -> None:
        """Put *item*, and have this thread wait where there is no room.

        Args:
            timeout: Seconds to wait; None for as long as it takes.

        Raises:
            StreamFull: There was no room in so many seconds.
            StreamClosed: Nothing is taken any more.
            WrongThread: Called on the thread of an event loop, which would stand still.
        """
        seconds = None if timeout is None else check_seconds("timeout", timeout, least=0.0)
        if homes.here() is not None:
            raise WrongThread("put_sync() waits, and this is the thread of an event loop: await put()")
        parking = ParkedThread()
        waiting = Waiting(item, parking)
        if self._enter(waiting):
            return
        try:
            parking.wait(seconds)
        finally:
            is_out = self._withdraw(waiting)
        if is_out:
            self._check_open()
            raise StreamFull(self.name, maxsize=self.maxsize, waiting=len(self._queue), items=1)

    async def put_all(self, items: Iterable[T] | AsyncIterable[T]) -> int:
        """Put each of *items*, and wait for room where there is none; return how many there were.

        Those of a plain iterable are made as many at once as there is room for: this costs a fraction of a `put` each.

        Raises:
            StreamClosed: Nothing is taken any more; those before are in.
            ConfigurationError: *items* cannot be iterated.
        """
        if isinstance(items, AsyncIterable):
            return await self._put_all_async(items)
        if not isinstance(items, Iterable):
            if inspect.iscoroutine(items):
                items.close()
            raise ConfigurationError(f"put_all(): expected an iterable, or an async one, found {items!r}")
        self._check_open()
        count = 0
        iterator = iter(items)
        for item in iterator:
            room = self._claim_room()
            if room:
                count += self._put_some(item, iterator, room)
            else:
                await self._put_later(item, renews=False)
                count += 1
        return count

    def _put_some(self, first: T, rest: Iterator[T], room: int) -> int:
        """Put *first*, and as much of the *rest* as there is room for; nobody could take any of it meanwhile."""
        items = [first]
        try:
            items.extend(islice(rest, room - 1))
        finally:  # what came before an error is put
            if len(items) < room:
                self._give_back(room - len(items))
            self._fill(items)
        return len(items)

    async def _put_all_async(self, items: AsyncIterable[T]) -> int:
        count = 0
        try:
            self._check_open()
            async for item in items:
                await self.put(item)
                count += 1
        finally:
            close = getattr(items, "aclose", None)
            if close is not None:
                await close()
        return count

    def done(self) -> bool:
        """Say that nothing more will be put: the consumer has what was put, and then the end.

        What waits for room in a `put` was called before, and is still let in.

        Returns:
            False if it was closed already; then nothing changes.
        """
        return self._close(DONE)

    def error(self, exc: BaseException) -> bool:
        """Say that producing failed: the consumer has what was put, and then *exc*.

        Returns:
            False if it was closed already; then nothing changes.

        What ends a task or a process, as a cancellation does, is not the consumer's: that has `StreamClosed` from it.

        Raises:
            ConfigurationError: *exc* is no exception.
        """
        if not isinstance(exc, BaseException):
            raise ConfigurationError(f"error(): expected an exception, found {exc!r}")
        reason, told = f"its producers failed with {exc!r}", exc
        if not isinstance(exc, Exception):
            told = StreamClosed(self.name, reason)
            told.__cause__ = exc
        return self._close(reason, told)

    def abort(self, reason: object = "aborted") -> bool:
        """Drop what waits, and end both sides at once with `StreamClosed`, those that wait included.

        Returns:
            False if it was over already; then nothing changes.
        """
        return self._break_off(str(reason))
