"""The consumer of a stream, as an iterator: item by item, or in lists.

An async generator that is left half-way is closed by its event loop, later, and on trio with a warning; and it has
ended for good when it is cancelled while it waits. So the items are handed on by a generator, which costs least, and
what a caller holds is an object around it: it sees at once that it is dropped, and has a new generator where one was
cancelled.
"""

from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import suppress
from typing import Generic, TypeVar
from weakref import ref

from postresponse.work.stream.taking import Taking

__all__ = ["Batches", "Items"]

T = TypeVar("T")


class Items(Generic[T]):
    """The items of a stream, one by one.

    Dropped, or closed, before the end, it has broken off; but one that was cancelled while it waited has nothing in its
    hands, and another may go on.
    """

    __slots__ = ("__anext__", "__weakref__", "_items", "_taking")

    def __init__(self, taking: Taking[T]) -> None:
        self._taking = taking
        self._items: AsyncGenerator[T, None] | None = None
        taking._renew = self._renew_later()
        taking._renew()

    def __aiter__(self) -> AsyncIterator[T]:
        return self

    def _renew_later(self) -> Callable[[], None]:
        items = ref(self)

        def begin() -> Awaitable[T]:
            found = items()
            assert found is not None  # it is asked
            return found._first()

        def renew() -> None:
            found = items()
            if found is not None:
                found.__anext__ = begin

        return renew

    async def _first(self) -> T:
        """Return the first item; meanwhile who asks is there, even if it keeps nothing."""
        self._items = self._taking.items()
        # The generator's own: nothing of ours is called for an item that is there.
        self.__anext__: Callable[[], Awaitable[T]] = self._items.__anext__
        return await self._items.__anext__()

    async def aclose(self) -> None:
        """Break off."""
        self._taking.break_off("its consumer closed it")
        if self._items is not None:
            await self._items.aclose()

    def __del__(self) -> None:
        self._taking.dropped()
        if self._items is not None:
            with suppress(StopIteration, RuntimeError):  # it stands at a yield, and waits for nothing
                self._items.aclose().send(None)


class Batches(Generic[T]):
    """The items of a stream in lists of at most *size*, each of which waits *seconds* to be full; else as `Items`."""

    __slots__ = ("_seconds", "_size", "_taking")

    def __init__(self, taking: Taking[T], size: int, seconds: float) -> None:
        self._taking = taking
        self._size = size
        self._seconds = seconds

    def __aiter__(self) -> AsyncIterator[list[T]]:
        return self

    async def __anext__(self) -> list[T]:
        found = self._taking.full(self._size)
        return found or await self._taking.batch(self._size, self._seconds)

    async def aclose(self) -> None:
        """Break off."""
        self._taking.break_off("its consumer closed it")

    def __del__(self) -> None:
        self._taking.dropped()
