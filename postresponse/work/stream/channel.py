"""A bounded queue between producers on any thread and one consumer: room, order, and the end. No event loop's own.

Room is a store of tokens: who takes one may append one item. Taking a token, appending and taking an item out are each
one step of the interpreter's, so that who finds a token, and who finds an item, takes no lock. The lock is for those
who find none: tokens are made anew from what the consumer has counted, and where that is nothing they say first that
they wait, and look once more, while the consumer first counts and then looks who waits. One of them sees the other.
"""

import threading
from collections import OrderedDict, deque
from collections.abc import Callable, Coroutine, Generator, Sequence
from contextlib import suppress
from itertools import islice, repeat, starmap
from typing import Any, Final, Generic, NoReturn, TypeVar

from postresponse.exceptions import StreamClosed, StreamInUse
from postresponse.work.stream.parking import Parking

__all__ = ["NOTHING", "PUT", "Channel", "Waiting"]

T = TypeVar("T")

ISSUED: Final = 256
"""Tokens that are made at a time: a stream that is never full has few."""

NOTHING: Final[Callable[[], Any]] = deque[Any]().pop
"""What gives no token, and no item, ever."""


def _nothing() -> Generator[Any, Any, None]:
    yield from ()


_ended: Final = _nothing()
list(_ended)


class _Put(Coroutine[Any, Any, None]):
    """What a put returns that did not have to wait: awaited, it waits for nothing, as often as one likes.

    A coroutine object of its own for each item would cost as much as the item. This one is a coroutine to whoever
    wants one, such as a task.
    """

    __slots__ = ()
    __await__: Any = _ended.__iter__

    def send(self, value: Any) -> NoReturn:
        raise StopIteration

    def throw(self, *error: Any) -> NoReturn:
        raise error[0]

    def close(self) -> None:
        pass


PUT: Final = _Put()


class Waiting:
    """An item that waits for room, and who waits with it."""

    __slots__ = ("is_in", "item", "parking")

    def __init__(self, item: Any, parking: Parking | None) -> None:
        self.item: Any = item
        self.parking: Parking | None = parking
        self.is_in: bool = False


class Channel(Generic[T]):
    """The queue of one stream.

    Args:
        name: What it is called in errors.
        maxsize: Items that may wait in it.
        history: Items that are kept to be looked at.
    """

    __slots__ = (
        "__weakref__",
        "_append",
        "_closed",
        "_credited",
        "_dropped",
        "_error",
        "_free",
        "_heed",
        "_in_use",
        "_last",
        "_lock",
        "_need",
        "_over",
        "_queue",
        "_reason",
        "_sleeper",
        "_spinner",
        "_stirred",
        "_taken",
        "_token",
        "_waiters",
        "maxsize",
        "name",
    )

    def __init__(self, name: str, maxsize: int, history: int) -> None:
        self.name: str = name
        self.maxsize: int = maxsize
        self._queue: deque[T] = deque()
        self._append: Callable[[T], object] = self._queue.append
        self._free: deque[None] = deque()
        self._token: Callable[[], Any] = self._free.pop
        self._credited = -maxsize  # so many items have a token again: the room is what was taken beyond them
        self._last: deque[T] = deque(maxlen=history)
        self._taken = 0
        self._dropped = 0
        self._lock = threading.RLock()  # a consumer may be collected while it is held
        self._waiters: OrderedDict[Waiting, None] = OrderedDict()
        self._spinner: Waiting | None = None  # looks again in the next turn of its loop, and waits if there is no room
        self._sleeper: Parking | None = None
        self._need = 1
        self._heed = False  # whether whoever has appended has to look at what follows: a sleeper, or the end
        self._stirred = False  # whether a producer was let in, and is about to go on
        self._in_use = False
        self._closed = False
        self._over = False  # nothing is taken out any more
        self._reason = ""
        self._error: BaseException | None = None

    # -- putting ------------------------------------------------------------------------------------------------------

    def _enter(self, waiting: Waiting) -> bool:
        """Put its item, if there is room; else have it wait, behind those that do, and return False."""
        with self._lock:
            if waiting is self._spinner:
                self._spinner = None
            elif waiting in self._waiters or waiting.is_in:
                return waiting.is_in
            if self._closed:
                raise self._refusal()
            if self._spinner is not None:
                self._line_up()
            if not self._waiters and self._reserve_one():
                self._append(waiting.item)
                waiting.is_in = True
                if self._heed:
                    self._attend()
                return True
            self._waiters[waiting] = None
            self._admit()  # from a consumer that had not seen that somebody waits
            return waiting.is_in

    def _line_up(self) -> None:
        """Have the one wait that was about to look again, before anybody else does."""
        if self._spinner is not None:
            self._waiters[self._spinner] = None
            self._spinner = None

    def _enter_all(self, items: Sequence[T]) -> bool:
        """Put all *items*, if there is room for all."""
        with self._lock:
            self._check_open()
            if self._waiters or self._spinner is not None or not self._reserve(len(items)):
                return False
            self._fill(items)
            return True

    def _fill(self, items: Sequence[T]) -> None:
        """Append *items*, for which there is room."""
        self._queue.extend(items)
        if self._heed:
            self._attend()

    def _claim_room(self) -> int:
        """Take all the room that there is, and return how much; none where somebody waits for it."""
        with self._lock:
            if self._closed:
                raise self._refusal()
            if self._waiters or self._spinner is not None:
                return 0
            room = min(self._taken - self._credited, ISSUED)
            if room:
                self._credited += room
                return room
            room = len(self._free)
            return room if self._reserve(room) else 0

    def _give_back(self, room: int) -> None:
        """Have room that was taken for others."""
        with self._lock:
            self._credited -= room
            if self._waiters:
                self._admit()

    def _reserve(self, count: int) -> bool:
        """Take *count* tokens, or none."""
        free = self._free
        if len(free) < count:
            self._renew_tokens(count)
        taken = 0
        try:
            for taken in range(count):  # noqa: B007 (how many were taken before there was none)
                free.pop()
        except IndexError:
            free.extend(repeat(None, taken))
            return False
        return True

    def _renew_tokens(self, least: int = 1) -> None:
        """Make tokens of what was taken."""
        with self._lock:
            made = self._taken - self._credited
            if made > ISSUED:
                made = min(made, max(least, ISSUED))
            self._credited += made
            self._free.extend(repeat(None, made))

    def _reserve_one(self) -> bool:
        if self._taken > self._credited:
            self._credited += 1  # made and taken
            return True
        return bool(self._free) and self._reserve(1)

    def _admit(self) -> None:
        """Let in those that wait for room, in their order, as far as there is any."""
        with self._lock:
            while self._waiters and self._reserve_one():
                waiting, _ = self._waiters.popitem(last=False)
                self._append(waiting.item)
                waiting.is_in = self._stirred = True
                if waiting.parking is not None:
                    waiting.parking.wake()
            if self._heed:
                self._attend()

    def _park(self, waiting: Waiting, parking: Parking) -> bool:
        """Have *parking* woken when it is let in, or refused; False if that is so already."""
        with self._lock:
            waiting.parking = parking
            return waiting in self._waiters

    def _withdraw(self, waiting: Waiting) -> bool:
        """Have it wait no longer; False if it was let in meanwhile."""
        with self._lock:
            self._waiters.pop(waiting, None)
            if self._spinner is waiting:
                self._spinner = None
            return not waiting.is_in

    def _attend(self) -> None:
        """Look, behind an item that was appended, at who waits for it.

        Raises:
            StreamClosed: Nobody will: the end was seen between the room and the item.
        """
        with self._lock:
            if self._over:
                self._queue.clear()
                raise self._refusal()
            if self._sleeper is not None and len(self._queue) >= self._need:
                self._rouse()

    def _check_open(self) -> None:
        if self._closed:
            raise self._refusal()

    def _refusal(self) -> StreamClosed:
        return StreamClosed(self.name, self._reason)

    # -- taking -------------------------------------------------------------------------------------------------------

    def _claim(self) -> None:
        """Be its one consumer.

        Raises:
            StreamInUse: There is one.
        """
        with self._lock:
            if self._in_use:
                raise StreamInUse(self.name)
            self._in_use = True

    def _release(self) -> None:
        """Be its consumer no longer; what waits is another's."""
        self._in_use = False

    def _take(self, most: int) -> list[T]:
        """Take at most so many of the items that are there."""
        taken: list[T] = []
        with suppress(IndexError):  # dropped meanwhile: those before are taken
            taken.extend(starmap(self._queue.popleft, repeat((), min(most, len(self._queue)))))
        self._taken += len(taken)
        self._last.extend(taken)
        if self._waiters:
            self._admit()
        return taken

    def _sleep(self, sleeper: Parking, need: int = 1) -> bool:
        """Have *sleeper* woken once when *need* items are there, or the end is; False if that is so already."""
        with self._lock:
            self._sleeper, self._need, self._heed = sleeper, need, True
            if self._closed or len(self._queue) >= need:
                self._sleeper, self._heed = None, self._closed
                return False
            return True

    def _awake(self, sleeper: Parking) -> None:
        """Have it not woken any more."""
        with self._lock:
            if self._sleeper is sleeper:
                self._sleeper, self._heed = None, self._closed

    def _rouse(self) -> None:
        sleeper, self._sleeper, self._heed = self._sleeper, None, self._closed
        if sleeper is not None:
            sleeper.wake()

    def _is_at_its_end(self) -> bool:
        """Whether it is closed and everything was taken out; then it is over."""
        with self._lock:
            if self._waiters:
                self._admit()
            if self._closed and not self._queue and not self._waiters:
                self._over = True
            return self._over

    # -- ending -------------------------------------------------------------------------------------------------------

    def _close(
        self, reason: str, error: BaseException | None = None, *, drops: bool = False, refuses: bool = False
    ) -> bool:
        """Take nothing more.

        Args:
            reason: What producers are told.
            error: What the consumer is told at the end.
            drops: Whether what waits is dropped.
            refuses: Whether those that wait for room are refused.

        Returns:
            False if that changes nothing.
        """
        with self._lock:
            if self._over or (self._closed and not drops):
                return False
            self._line_up()
            self._closed, self._reason, self._error = True, reason, error
            self._token = NOTHING
            self._heed = True
            if drops:
                self._over = True
                self._dropped += len(self._queue)
                self._last.extend(self._queue)
                self._queue.clear()
            if drops or refuses:
                refused, self._waiters = self._waiters, OrderedDict()
                for waiting in refused:
                    if waiting.parking is not None:
                        waiting.parking.wake()
            self._rouse()
            return True

    def _break_off(self, reason: str) -> bool:
        """Drop what waits, and end both sides."""
        return self._close(reason, StreamClosed(self.name, reason), drops=True)

    # -- looking ------------------------------------------------------------------------------------------------------

    def _kept(self) -> list[T]:
        """The last items that were put."""
        most = self._last.maxlen or 0
        with self._lock:
            tail = list(islice(reversed(self._queue), most))[::-1]
            return [*self._last, *tail][-most:] if most else []
