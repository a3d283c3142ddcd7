"""Messages of a bounded stream: whoever sends waits for room while the receiver is behind, paused or stopped."""

import itertools
import sys
from collections.abc import Callable, Iterator, Sequence
from heapq import heappop
from typing import Final

from postresponse.core.log import logger
from postresponse.exceptions import ConfigurationError
from postresponse.messaging.delivery import Delivery
from postresponse.messaging.message import Message
from postresponse.messaging.transports.checks import check_message
from postresponse.messaging.transports.memory import MemoryTransport
from postresponse.work.stream import Stream

__all__ = ["StreamTransport"]

LAST: Final = sys.maxsize
"""Behind what came back when a message was put, which has the same number of messages before it."""


class StreamTransport(MemoryTransport):
    """The messages that are put into a `Stream`, for one receiver at a time; what is in it dies with the process.

    A receiver takes no more than it handles at once, so that what it has no time for waits in the stream, and whoever
    puts waits for room. What comes back to be tried again is kept here, beyond the stream's bound.

    Args:
        stream: Whose items are `Message`s; the receiver is its one consumer while it runs. One that has batches has
            them for other consumers.

    Attributes:
        stream: As given.
        dead: What was given up, with the reason.

    Raises:
        ConfigurationError: *stream* is none.
    """

    def __init__(self, stream: Stream[Message]) -> None:
        if not isinstance(stream, Stream):
            raise ConfigurationError(f"stream: expected a Stream, found {stream!r}")
        super().__init__(stream.name)
        self.stream: Stream[Message] = stream
        self._numbers = self._places()
        self._sleeper = _Sleeper(self)

    def send(self, message: Message) -> None:
        """Put *message* into the stream, from any thread, and wait for nothing.

        Raises:
            MessageRefused: It is no `Message`, or one that is due later.
            StreamFull: There is no room.
            StreamClosed: The stream takes nothing more.
        """
        check_message(message)
        self.stream.put_nowait(message)

    async def asend(self, message: Message) -> None:
        """As `send`, and wait for room."""
        check_message(message)
        await self.stream.put(message)

    def __len__(self) -> int:
        """How many wait, in the stream and to be tried again."""
        return super().__len__() + self.stream.waiting

    async def open(self, wake: Callable[[], None]) -> None:
        """Begin, and be the stream's consumer.

        Raises:
            StreamInUse: It has one.
        """
        self.stream._claim()
        await super().open(wake)

    async def take(self, limit: int) -> Sequence[Delivery]:
        """Return at most *limit* of what waits."""
        taken: list[Delivery] = []
        with self._lock:
            self._put_due()
            while len(taken) < limit:
                delivery = self._next()
                if delivery is None:
                    break
                taken.append(delivery)
        if self._timer is None:
            self._set_timer()
        return taken

    def _next(self) -> Delivery | None:
        """Return what has the first place, of what came back and of what the stream has."""
        stream = self.stream
        while True:
            if self._queue and (not stream.waiting or self._queue[0][0] < (stream.taken, LAST)):
                return heappop(self._queue)[1]
            for message in stream._take(1):
                if isinstance(message, Message):
                    return self._delivery(message)
                logger.error("%s: what was put into its stream is no message, and is dropped: %r", self.name, message)
            if not stream.waiting and (stream._is_at_its_end() or stream._sleep(self._sleeper)):
                return None

    def _delivery(self, message: Message) -> Delivery:
        place = (self.stream.taken - 1, LAST)
        headers = dict(message.headers)
        return Delivery(message.id, message.destination, message.name, message.document, headers, handle=place)

    def _places(self) -> Iterator[tuple[int, int]]:
        """The place behind all that is in the stream now, again and again."""
        for number in itertools.count():
            yield self.stream.put_count, number

    async def aclose(self) -> None:
        """Keep what waits, for another consumer."""
        if self._wake is not None:
            self.stream._awake(self._sleeper)
            self.stream._release()
        await super().aclose()


class _Sleeper:
    """Wakes the receiver."""

    __slots__ = ("_transport",)

    def __init__(self, transport: StreamTransport) -> None:
        self._transport = transport

    def wake(self) -> None:
        wake = self._transport._wake
        if wake is not None:
            wake()
