"""Bounded streams: producers that wait for room, and one consumer.

What is put and what is taken meet in a `Channel`; this is what a caller sees of it. Nothing here holds a task, a cancel
scope or a lock while there is room on one side and something on the other.
"""

import inspect
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from types import MappingProxyType, TracebackType
from typing import Any, Generic, Self, TypeVar
from weakref import WeakMethod

from postresponse.core.log import logger
from postresponse.exceptions import ConfigurationError, StreamClosed, StreamIdle, StreamInUse, WrongThread
from postresponse.work import homes
from postresponse.work.checks import check_count, check_function, check_seconds
from postresponse.work.stream.events import EventFormat, Events, check_format
from postresponse.work.stream.idling import Idling
from postresponse.work.stream.iterating import Batches, Items
from postresponse.work.stream.putting import Putting
from postresponse.work.stream.taking import Taking

__all__ = ["Stream"]

T = TypeVar("T")


class Stream(Putting[T], Generic[T]):
    """Items on their way from any number of producers to one consumer, with room for so many.

    Made by `scope().stream(...)`, whose block owns it, or alone, as `async with Stream("import") as stream:`. An owner
    that leaves while producers are not done closes it, with a warning: the consumer has what was put, and then
    `StreamClosed`. Items come in the order in which they were put; what was put before there was a consumer, or before
    `done`, is delivered. Every method may be called from any thread, but a stream is consumed on one event loop.

    Args:
        name: How it is called in the log and in errors.
        maxsize: Items that may wait in it; never more.
        batch_size: The consumer has lists of at most so many items; None for single items.
        batch_wait: Seconds that a list waits to be full, from when the consumer sees its first item; 0.0 has what is
            there. The last one comes at once.
        idle_timeout: Seconds after which it ends if nothing was put or taken, with `StreamIdle` for the consumer, once
            that has had what waits; counted from when it is made on an event loop, or else consumed. None for no limit.
        history: Items that are kept for whoever looks at it.
        context: Whatever else is to be known of it.

    Raises:
        ConfigurationError: An option has a value that it cannot have.
    """

    __slots__ = ("_idling", "batch_size", "batch_wait", "context")

    def __init__(
        self,
        name: str,
        /,
        *,
        maxsize: int = 10_000,
        batch_size: int | None = None,
        batch_wait: float = 0.0,
        idle_timeout: float | None = None,
        history: int = 3,
        **context: Any,
    ) -> None:
        if not isinstance(name, str) or not name.strip():
            raise ConfigurationError(f"stream: expected a name, found {name!r}")
        super().__init__(name, check_count("maxsize", maxsize), check_count("history", history, least=0))
        self.batch_size: int | None = None if batch_size is None else check_count("batch_size", batch_size)
        self.batch_wait: float = check_seconds("batch_wait", batch_wait, least=0.0)
        if self.batch_wait and batch_size is None:
            raise ConfigurationError("batch_wait: has no effect without a batch_size")
        self.context: Mapping[str, Any] = MappingProxyType(context)
        self._idling: Idling[T] | None = None
        if idle_timeout is not None:
            self._watch(check_seconds("idle_timeout", idle_timeout))

    def _watch(self, seconds: float) -> None:
        end = WeakMethod(self._idle)

        def ended() -> None:
            idle = end()
            if idle is not None:
                idle()

        self._idling = Idling(seconds, self._queue, ended)
        self._append = self._idling.append
        home = homes.here()
        if home is not None:
            self._idling.watch(home)

    # -- the consumer -------------------------------------------------------------------------------------------------

    def __aiter__(self) -> AsyncIterator[Any]:
        """Be its one consumer, item by item, or list by list where there is a *batch_size*.

        A loop that is left by `break` or by an exception has broken off: what waits is dropped, and producers get
        `StreamClosed`. One that is cancelled while it waits for the next item leaves the stream as it is, and another
        may go on.

        Raises:
            StreamInUse: It has a consumer.
        """
        if self._in_use:
            raise StreamInUse(self.name)
        return self._iterator(Taking(self, self._idling))

    def _iterator(self, taking: Taking[T]) -> AsyncIterator[Any]:
        if self.batch_size is None:
            return Items(taking)
        return Batches(taking, self.batch_size, self.batch_wait)

    async def consume(
        self,
        on_item: Callable[[Any], Any],
        on_done: Callable[[], Any] | None = None,
        on_error: Callable[[BaseException], Any] | None = None,
        *,
        timeout: float | None = None,
    ) -> bool:
        """Be its one consumer: call *on_item* with each item, or list, then *on_done*, or *on_error* with the error.

        The callbacks may be async. Sync ones are called in place, on the event loop: one that blocks belongs on a
        thread. What a callback raises passes, and is a consumer breaking off, as is a cancellation inside of one.

        Args:
            on_error: Receives what `error` was given, or why the stream ended before its producers were done; without
                it that is raised.
            timeout: Seconds until it returns, behind the item that is under way; the stream stays as it is, and another
                consumer may go on. None for no limit.

        Returns:
            True at the end of the stream, False if the time was over before.

        Raises:
            StreamInUse: It has a consumer.
            NotAFunction: A callback cannot be called.
            ConfigurationError: *timeout* is no number of seconds from 0 on.
        """
        for name, callback in (("on_item", on_item), ("on_done", on_done), ("on_error", on_error)):
            if callback is not None or name == "on_item":
                check_function(name, callback)
        seconds = None if timeout is None else check_seconds("timeout", timeout, least=0.0)
        home = homes.here()
        if home is None:
            raise WrongThread("consume() waits on an event loop, and this thread has none")
        taking = Taking(self, self._idling)
        taking.claim()
        call_off = None if seconds is None else home.call_later(seconds, taking.expire)
        ending: Exception | None = None
        try:
            if self.batch_size is None:
                await taking.call(on_item)
            else:
                await taking.call_batches(on_item, self.batch_size, self.batch_wait)
            taking.leave()
        except Exception as error:
            if on_error is None or not taking.is_at_end:
                raise
            ending = error
        finally:
            taking.dropped()
            if call_off is not None:
                call_off()
        if ending is not None and on_error is not None:
            await _called(on_error, ending)
        elif taking.is_at_end and on_done is not None:
            await _called(on_done)
        return taking.is_at_end

    def events(
        self,
        *,
        format: EventFormat | None = None,
        heartbeat: float = 15.0,
        retry: float | None = None,
        end: str = "end",
    ) -> AsyncIterator[bytes]:
        """Be its one consumer, as server-sent events: the body of a response of the type `text/event-stream`.

        Behind the last item comes a terminal event, so that the page closes its `EventSource`; behind an error one that
        is called "failed", without a word of what failed, and then the error is raised. A response that is cancelled,
        or dropped, has broken off. Whoever asks again should have a 204, which ends an `EventSource` for good: see
        `closed`, and `StreamInUse`.

        Args:
            format: Makes a `ServerSentEvent`, or its data, of an item; None sends text as it is and all else as JSON.
            heartbeat: Seconds without an item after which a comment is sent: only a write tells that a client is gone.
            retry: Seconds that a client is told to wait before it asks again.
            end: The name of the terminal event.

        Raises:
            StreamInUse: It has a consumer.
            ConfigurationError: An option has a value that it cannot have.
        """
        made = check_format(format)
        seconds = check_seconds("heartbeat", heartbeat)
        pause = None if retry is None else check_seconds("retry", retry, least=0.0)
        taking = Taking(self, self._idling)
        taking.claim()
        return Events(taking, self._iterator(taking), made, seconds, pause, end)

    def _fill(self, items: Sequence[T]) -> None:
        super()._fill(items)
        if self._idling is not None:
            self._idling.beat()

    def _take(self, most: int) -> list[T]:
        taken = super()._take(most)
        if taken and self._idling is not None:
            self._idling.beat()
        return taken

    # -- its end ------------------------------------------------------------------------------------------------------

    def _close(
        self, reason: str, error: BaseException | None = None, *, drops: bool = False, refuses: bool = False
    ) -> bool:
        changed = super()._close(reason, error, drops=drops, refuses=refuses)
        if changed and self._idling is not None:
            self._idling.stop()
        return changed

    def _idle(self) -> None:
        assert self._idling is not None
        reason = f"nothing moved in it for {self._idling.seconds:g} s"
        self._close(reason, StreamIdle(self.name, reason), refuses=True)

    def _left(self, owner: str) -> None:
        """Be closed by an owner that leaves."""
        reason = f"{owner} left it, and its producers were not done"
        if self._close(reason, StreamClosed(self.name, reason), refuses=True):
            logger.warning(
                "the stream %s is closed: %s; %s were put, %s taken, and %s wait",
                self,
                reason,
                self.put_count,
                self.taken,
                self.waiting,
            )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._left("its owner")

    # -- to look at ---------------------------------------------------------------------------------------------------

    @property
    def closed(self) -> bool:
        """Whether it takes nothing more; items may still wait in it."""
        return self._closed

    @property
    def over(self) -> bool:
        """Whether it is closed, and nothing is left to take."""
        return self._closed and (self._over or not (self._queue or self._waiters))

    @property
    def reason(self) -> str | None:
        """Why it is closed, or None."""
        return self._reason if self._closed else None

    @property
    def waiting(self) -> int:
        """Items that were put and not taken."""
        return len(self._queue)

    @property
    def taken(self) -> int:
        """Items that its consumers had."""
        return self._taken

    @property
    def dropped(self) -> int:
        """Items that were put, and that nobody will have."""
        return self._dropped

    @property
    def put_count(self) -> int:
        """Items that were put."""
        return self._taken + self._dropped + len(self._queue)

    @property
    def producers_waiting(self) -> int:
        """Puts that wait for room."""
        return len(self._waiters) + (self._spinner is not None)

    @property
    def history(self) -> list[T]:
        """The last items that were put, as many as are kept, the newest last."""
        return self._kept()

    def __str__(self) -> str:
        known = ", ".join(f"{name}={value!r}" for name, value in self.context.items())
        return f"{self.name} ({known})" if known else self.name

    def __repr__(self) -> str:
        state = f"closed: {self._reason}" if self._closed else "open"
        return f"<Stream {self}, {state}; {self.waiting} of {self.maxsize} wait, {self.taken} were taken>"


async def _called(callback: Callable[..., Any], *args: Any) -> None:
    result = callback(*args)
    if inspect.isawaitable(result):
        await result
