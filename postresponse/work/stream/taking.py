"""The one consumer of a stream: what it takes, how it waits, and how it leaves."""

import inspect
from collections.abc import AsyncGenerator, Callable
from typing import Any, Final, Generic, TypeVar

from postresponse.exceptions import WrongThread
from postresponse.work import homes
from postresponse.work.stream.channel import Channel
from postresponse.work.stream.idling import Idling
from postresponse.work.stream.parking import parked, turn

__all__ = ["Taking"]

T = TypeVar("T")

BREATH: Final = 256
"""Items that callbacks have without a turn of the event loop, which those that never wait would not give."""


class Taking(Generic[T]):
    """What a consumer knows and does, whatever it looks like.

    The stream is its own from its first look on, and while it has something in its hands.

    Attributes:
        is_over: Whether it takes nothing more.
        is_at_end: Whether it came to the end of the stream.
        is_expired: Whether its time is over.
    """

    __slots__ = (
        "_at_rest",
        "_channel",
        "_home",
        "_idling",
        "_is_claimed",
        "_popleft",
        "_renew",
        "_turns",
        "is_at_end",
        "is_expired",
        "is_over",
    )

    def __init__(self, channel: Channel[T], idling: Idling[T] | None) -> None:
        self._channel = channel
        self._idling = idling
        self._popleft: Callable[[], T] = channel._queue.popleft if idling is None else idling.popleft
        self._home: Any = None
        self._turns = False
        self._at_rest = True  # with nothing in its hands
        self._is_claimed = False
        self._renew: Callable[[], Any] = _nobody
        self.is_over: bool = False
        self.is_at_end: bool = False
        self.is_expired: bool = False

    # -- items --------------------------------------------------------------------------------------------------------

    async def items(self) -> AsyncGenerator[T, None]:
        """Hand on each."""
        channel, popleft, queue = self._channel, self._popleft, self._channel._queue
        keep, kept = channel._last.append, channel._last.maxlen or 0
        self.begin()
        while True:
            try:
                for _ in range(len(queue) - kept):  # behind these come as many as are kept
                    item = popleft()
                    channel._taken += 1
                    if channel._waiters:
                        channel._admit()
                    yield item
                for _ in range(len(queue)):
                    item = popleft()
                    channel._taken += 1
                    keep(item)
                    if channel._waiters:
                        channel._admit()
                    yield item
            except IndexError:  # dropped meanwhile
                pass
            if not (queue or await self._turned()) and await self._is_at_end():
                return

    async def call(self, on_item: Callable[[T], Any]) -> None:
        """Call *on_item* with each, until the end, or its time is over."""
        channel, popleft, queue = self._channel, self._popleft, self._channel._queue
        keep, kept = channel._last.append, channel._last.maxlen or 0
        self.begin()
        left = BREATH
        while not self.is_expired:
            waiting = len(queue)
            is_kept = waiting <= kept  # else as many as are kept come behind them
            count = min(waiting if is_kept else waiting - kept, left)
            try:
                for _ in range(count):
                    item = popleft()
                    channel._taken += 1
                    if is_kept:
                        keep(item)
                    if channel._waiters:
                        channel._admit()
                    try:
                        result = on_item(item)
                        if result is not None and inspect.isawaitable(result):
                            await result
                            if self.is_expired:
                                break
                    except BaseException as error:
                        self.break_off(f"its consumer failed with {error!r}")
                        raise
            except IndexError:  # the callback's, or dropped meanwhile
                if self.is_over:
                    raise
            left -= count
            if not left:
                left = BREATH
                await self._breathe()
            if self.is_expired or (not (queue or await self._turned()) and await self._is_at_end()):
                return

    async def call_batches(self, on_batch: Callable[[list[T]], Any], size: int, seconds: float) -> None:
        """As `call`, with lists."""
        left = BREATH
        while True:
            try:
                batch = await self.batch(size, seconds)
            except StopAsyncIteration:
                return
            try:
                result = on_batch(batch)
                if result is not None and inspect.isawaitable(result):
                    await result
            except BaseException as error:
                self.break_off(f"its consumer failed with {error!r}")
                raise
            left -= len(batch)
            if left <= 0:
                left = BREATH
                await self._breathe()

    async def batch(self, size: int, seconds: float) -> list[T]:
        """Return at most *size* of them, which is fewer where they do not come in so many *seconds*.

        Raises:
            StopAsyncIteration: There are no more, or its time is over.
        """
        self.begin()
        full = min(size, self._channel.maxsize)
        while True:
            if self.is_expired:
                raise StopAsyncIteration
            if len(self._channel._queue) < full:
                await self._fill(full, seconds)
            batch = self._channel._take(size)
            if batch:
                return batch

    def full(self, size: int) -> list[T] | None:
        """Return *size* of them, if they are there and it is under way."""
        channel = self._channel
        if self._at_rest or self.is_over or len(channel._queue) < size:
            return None
        return channel._take(size)

    async def _fill(self, full: int, seconds: float) -> None:
        channel, now = self._channel, self._home.time
        while not channel._queue:
            if (not await self._turned() and await self._is_at_end()) or self.is_expired:
                raise StopAsyncIteration
        if not seconds:
            return
        until = now() + seconds
        while len(channel._queue) < full and not channel._closed and (left := until - now()) > 0:
            await self._wait(full, left)
            if self.is_expired:
                raise StopAsyncIteration

    async def ready(self, seconds: float) -> bool:
        """Wait until there is something, or the end; False after so many *seconds*."""
        channel = self._channel
        self.begin()
        while not channel._queue and not channel._closed:
            if not await self._wait(1, seconds):
                return False
        return True

    # -- waiting ------------------------------------------------------------------------------------------------------

    def claim(self) -> None:
        """Have the stream.

        Raises:
            StreamInUse: It has a consumer.
        """
        if not self._is_claimed and not self.is_over:
            self._channel._claim()
            self._is_claimed = True

    def begin(self) -> None:
        """Be about to take."""
        if self._home is None:
            self._home = homes.here()
            if self._home is None:
                raise WrongThread("a stream is consumed on an event loop, and this thread has none")
            self._turns = isinstance(self._home, homes.AsyncioHome)
            if self._idling is not None:
                self._idling.watch(self._home)
        self.claim()
        self._at_rest = False

    async def _is_at_end(self) -> bool:
        """Wait until there may be something; True at the end, or raise what the end is."""
        channel = self._channel
        if self.is_over:
            return True
        if not channel._closed or not channel._is_at_its_end():
            await self._wait()
            return False
        self.leave()
        self.is_at_end = True
        error, channel._error = channel._error, None
        if error is None:
            return True
        try:
            raise error
        finally:
            del error  # whose traceback has this frame

    async def _turned(self) -> bool:
        """Let a producer go on that is about to, and whoever else can; False if there is none.

        To wait for the next turn of the loop costs less than to be woken. Cancelled here, it has nothing in its hands.
        """
        channel = self._channel
        if not self._turns or (channel._spinner is None and not channel._stirred):
            return False
        channel._stirred = False
        try:
            await turn()
        except BaseException:
            self._rest()
            raise
        return True

    async def _wait(self, need: int = 1, seconds: float | None = None) -> bool:
        """Wait until *need* items may be there, or the end; False after so many *seconds*.

        Cancelled here, it has nothing in its hands.
        """
        channel = self._channel
        try:
            waiting = parked(self._home)
            if not channel._sleep(waiting, need):
                return True
            try:
                await waiting.wait(seconds)
            finally:
                channel._awake(waiting)
            return not waiting.is_late
        except BaseException:
            self._rest()
            raise

    async def _breathe(self) -> None:
        """Let everybody else go on, and time pass."""
        from anyio.lowlevel import checkpoint

        try:
            await checkpoint()
        except BaseException:
            self._rest()
            raise

    def _rest(self) -> None:
        self._at_rest, self._is_claimed = True, False
        self._channel._release()
        self._renew()

    @property
    def number(self) -> int:
        """How many items were taken from the stream."""
        return self._channel._taken

    # -- leaving ------------------------------------------------------------------------------------------------------

    def expire(self) -> None:
        """End at the next look, and leave what waits to another; on the event loop of the consumer."""
        self.is_expired = True
        self._channel._rouse()

    def leave(self) -> None:
        """Be no consumer any more, and leave what waits to another."""
        self.is_over = True
        if self._is_claimed:
            self._is_claimed = False
            self._channel._release()

    def break_off(self, reason: str) -> None:
        """Take nothing more, and tell the producers why; no effect behind the end."""
        if not self.is_over:
            self.leave()
            self._channel._break_off(reason)

    def dropped(self) -> None:
        """Nobody will ask again."""
        if self._at_rest and not self.is_over:
            self.leave()
        self.break_off("its consumer broke off")


def _nobody() -> None:
    pass
