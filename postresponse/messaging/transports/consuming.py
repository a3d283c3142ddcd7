"""What a thread does with one queue: it keeps a connection, fetches what comes, and settles it."""

import itertools
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from heapq import heappop, heappush
from time import monotonic
from typing import Any, Final

from postresponse.core.log import logger
from postresponse.exceptions import Unreachable
from postresponse.messaging.delivery import Delivery, Result, Settled
from postresponse.messaging.message import Message
from postresponse.messaging.retrying import Backoff, chance
from postresponse.messaging.transports.forms import copy_of, delivery_of, written
from postresponse.messaging.transports.sessions import Options, Refused, Session, connect

__all__ = ["Consumer", "unreachable"]

RECONNECT: Final = Backoff(0.1, 5.0)
STABLE: Final = 5.0
"""Seconds behind which a connection that breaks is no failure to connect."""
MOST_HELD: Final = 1000
"""Messages that wait for their next attempt beyond the prefetched ones."""
REFUSED: Final = 1.0
"""Seconds until a message goes back whose copy the broker did not take, so that it does not come again at once."""
LEAST_POLL: Final = 0.01
MOST_POLL: Final = 0.25
BEAT: Final = 1.0


@dataclass(slots=True, eq=False)
class _Handle:
    """What a delivery is known by.

    Attributes:
        message: kombu's.
        session: The one that it came by.
        number: Its place among those that came.
        is_settled: Whether what was said with it is done, or under way.
    """

    message: Any
    session: Session
    number: int
    is_settled: bool = False


class Consumer:
    """The consumer of a queue, on a thread of its own: all of its methods are called there.

    Args:
        options: Of the connection.
        name: What the queue is called in the log.

    Attributes:
        arrived: What came, and was not taken: taken by whoever wants it, on whatever thread.
        is_wanted: Whether it is to consume.
        trouble: Why it has no connection.
        wake: Called when something came, or the connection was lost or made.
    """

    def __init__(self, options: Options, name: str) -> None:
        self.arrived: deque[Delivery] = deque()
        self.is_wanted: bool = False
        self.trouble: Exception | None = None
        self.wake: Callable[[], None] | None = None
        self._options = options
        self._name = name
        self._session: Session | None = None
        self._taken: set[_Handle] = set()
        self._held: list[tuple[float, int, Settled]] = []
        self._held_anew = 0
        self._numbers = itertools.count()
        self._failures = 0
        self._next_try = self._since = 0.0
        self._poll = LEAST_POLL
        self._next_beat = 0.0

    # -- the connection -----------------------------------------------------------------------------------------------

    def turn(self) -> tuple[float, Any]:
        """Do what is due; return when it is to be called again, and what else tells that something is there."""
        try:
            return self._went_on()
        except Exception as error:  # noqa: BLE001 (told of by whoever takes)
            self._broke(error)
            return self._next_try - monotonic(), None

    def _went_on(self) -> tuple[float, Any]:
        if self._session is None:
            if (seconds := self._next_try - monotonic()) > 0:
                return seconds, None
            self._connect()
        session = self._session
        assert session is not None
        if self.is_wanted and not session.is_consuming:
            session.consume()
        found = session.fetch(self._options.prefetch - len(self._taken) + min(len(self._held), MOST_HELD))
        self._put_back_held()
        if monotonic() >= self._next_beat:
            self._next_beat = monotonic() + BEAT
            session.beat()
        seconds = self._next_beat - monotonic()
        if session.socket is None and session.is_consuming:
            self._poll = LEAST_POLL if found else min(self._poll * 2, MOST_POLL)
            seconds = min(seconds, self._poll)
        if self._held:
            seconds = min(seconds, self._held[0][0] - monotonic())
        return seconds, session.socket

    def _connect(self) -> None:
        self._session = connect(self._options, self._came)
        self._since, self._next_beat, self.trouble = monotonic(), 0.0, None
        self._call_wake()

    def _broke(self, error: Exception) -> None:
        """Forget the connection, and what only it could have dealt with."""
        session, self._session = self._session, None
        if session is not None:
            if monotonic() >= self._since + STABLE:
                self._failures = 0
            if not session.outlasts:
                self.forget()
            session.drop()
        self._failures += 1
        self._next_try = monotonic() + RECONNECT.seconds(self._failures, chance())
        self.trouble = error
        self._call_wake()

    def forget(self) -> None:
        self.arrived.clear()
        self._taken.clear()
        self._held.clear()
        self._held_anew = 0

    def reached(self) -> Session:
        """Return the connection, tried now unless that has to wait.

        Raises:
            Unreachable: There is none.
        """
        if self._session is None and monotonic() >= self._next_try:
            try:
                self._connect()
            except Exception as error:  # noqa: BLE001 (raised below)
                self._broke(error)
        if self._session is None:
            raise unreachable(self.trouble)
        return self._session

    def _call_wake(self) -> None:
        wake = self.wake
        if wake is not None:
            wake()

    # -- messages -----------------------------------------------------------------------------------------------------

    def _came(self, message: Any, session: Session) -> None:
        handle = _Handle(message, session, next(self._numbers))
        self._taken.add(handle)
        self.arrived.append(delivery_of(message, self._options.queue, handle))
        self._call_wake()

    def send(self, message: Message) -> None:
        session = self.reached()
        try:
            session.publish(written(message, self._options.queue))
        except Refused as error:
            raise Unreachable(str(error)) from error
        except Exception as error:
            self._broke(error)
            raise unreachable(error) from error

    def settle(self, settled: Sequence[Settled]) -> None:
        lost = 0
        # What goes back goes last one first, so that the first one is in front.
        back = sorted((each for each in settled if _is_back(each)), key=lambda each: -each.delivery.handle.number)
        for each in [*(each for each in settled if not _is_back(each)), *back]:
            handle: _Handle = each.delivery.handle
            if handle.is_settled:
                continue  # in a call before, that did not come to its end
            if handle in self._taken:
                self._try_to_settle(each, handle)
            lost += not handle.is_settled
            handle.is_settled = True
        if lost:
            logger.warning(
                "%s: the connection was lost before %s of %s could be acknowledged, and they come again",
                self._name,
                lost,
                len(settled),
            )

    def _try_to_settle(self, settled: Settled, handle: _Handle) -> None:
        if self._session is None and handle.session.outlasts:
            raise unreachable(self.trouble)
        try:
            self._settle_one(settled, handle)
        except Exception as error:
            self._broke(error)
            if handle.session.outlasts:
                raise unreachable(error) from error
        else:
            handle.is_settled = True

    def _settle_one(self, settled: Settled, handle: _Handle) -> None:
        session, result = self._session, settled.result
        assert session is not None
        if settled.delay and result in (Result.FAILED, Result.BACK, Result.OUTAGE):
            self._hold(settled, session)
            return
        if result is Result.DONE:
            session.ack(handle.message)
        elif result in (Result.BACK, Result.OUTAGE):
            session.requeue([handle.message])
        elif result is Result.DEAD and self._options.dead_letters is None:
            session.reject(handle.message)
        else:
            self._put_back(settled, session)
            return
        self._taken.discard(handle)

    def _put_back(self, settled: Settled, session: Session) -> None:
        """Put a copy on its queue, and only then acknowledge the original; else that goes back, after a while."""
        handle = settled.delivery.handle
        try:
            session.publish(copy_of(settled, self._options.queue, self._options.dead_letters))
        except Refused as error:
            logger.warning("%s: %r could not be put back: %s", self._name, settled.delivery, error)
            self._hold(Settled(settled.delivery, Result.BACK, delay=REFUSED), session)
        else:
            session.ack(handle.message)
            self._taken.discard(handle)

    def _hold(self, settled: Settled, session: Session) -> None:
        heappush(self._held, (monotonic() + settled.delay, next(self._numbers), settled))
        self._held_anew += 1
        if self._held_anew * 2 > self._options.prefetch and len(self._held) < MOST_HELD:
            self._held_anew = 0
            session.make_room()

    def _put_back_held(self, *, all_of_them: bool = False) -> None:
        now, session = monotonic(), self._session
        assert session is not None
        while self._held and (all_of_them or self._held[0][0] <= now):
            held = heappop(self._held)
            settled = held[2]
            try:
                if settled.result is Result.FAILED:
                    self._put_back(settled, session)
                else:
                    session.requeue([settled.delivery.handle.message])
                    self._taken.discard(settled.delivery.handle)
            except Exception:
                heappush(self._held, held)
                raise

    def stop_consuming(self) -> None:
        session = self._session
        if session is None:
            return
        arrived = [self.arrived.popleft() for _ in range(len(self.arrived))]
        try:
            session.cancel()
            # What still came until then is behind it.
            arrived += [self.arrived.popleft() for _ in range(len(self.arrived))]
            self._hand_back([each.handle for each in arrived], session)
        except Exception as error:  # noqa: BLE001 (told of by whoever takes)
            self._broke(error)
            self.arrived.extendleft(reversed([each for each in arrived if each.handle in self._taken]))

    def _hand_back(self, handles: Sequence[_Handle], session: Session) -> None:
        handles = sorted((each for each in handles if each in self._taken), key=lambda each: each.number)
        session.requeue([each.message for each in handles])
        self._taken.difference_update(handles)

    def end(self) -> None:
        self.is_wanted = False
        try:
            if self._session is not None:
                self._session.cancel()
                self._put_back_held(all_of_them=True)  # at once, as nobody is there who would wait: it is counted
                self._hand_back(list(self._taken), self._session)
                self._session.close()
        except Exception as error:  # noqa: BLE001 (the broker has what was not acknowledged)
            self._broke(error)
        self._session = self.trouble = None
        self._failures, self._next_try = 0, 0.0
        self.forget()


def unreachable(trouble: Exception | None) -> Unreachable:
    """What is raised where there is no connection."""
    error = Unreachable(f"the broker cannot be reached: {type(trouble).__name__}: {trouble}")
    error.__cause__ = trouble
    return error


def _is_back(settled: Settled) -> bool:
    return settled.result in (Result.BACK, Result.OUTAGE) and not settled.delay
