"""What moves deliveries: takes them while there is room, has them handled, and tells their transport how each ended.

It never ends by itself and never spins: a transport that cannot be reached is logged once, when it is lost and when it
is back, and is tried again with growing pauses meanwhile. What was taken is settled whatever happens, as far as the
transport can be reached; else its lease, or its broker, gives it to somebody else.
"""

import enum
import threading
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final, Protocol, runtime_checkable

from anyio import CancelScope, Event, create_task_group, current_time, move_on_after, sleep
from anyio.abc import TaskGroup

from postresponse.core.log import logger
from postresponse.messaging.delivery import Delivery, Result, Settled
from postresponse.messaging.retrying import Backoff, Breaker, chance
from postresponse.work import homes

__all__ = ["Deliver", "Polls", "Pump", "Transport"]

CLEAN_UP: Final = 5.0
"""Seconds to settle what is left, once all deliveries have ended."""


@runtime_checkable
class Transport(Protocol):
    """Where messages come from. Its methods are called on one event loop; `take` is never cut off.

    What cannot be reached raises; the call is repeated.
    """

    @property
    def name(self) -> str:
        """What it is called in the log."""

    @property
    def polls(self) -> "Polls | None":
        """How often it is asked when nothing came; None where it calls `wake`."""

    async def open(self, wake: Callable[[], None]) -> None:
        """Begin; *wake* is called, from any thread, when something may be there, or can be reached again.

        Nothing is consumed before the first `take`.
        """

    async def take(self, limit: int) -> Sequence[Delivery]:
        """Return what is there now, at most *limit*."""

    async def settle(self, settled: Sequence[Settled]) -> int:
        """Do what is said with each; return how many were no longer its own."""

    async def pause(self) -> None:
        """Stop consuming: messages wait where they are."""

    async def resume(self) -> None:
        """Consume again."""

    async def aclose(self) -> None:
        """End."""


class Polls:
    """How often a transport is asked when nothing came: seldom after a while, often behind something.

    Args:
        least: Seconds.
        most: Seconds.
    """

    __slots__ = ("_now", "least", "most")

    def __init__(self, least: float, most: float) -> None:
        self.least: float = least
        self.most: float = most
        self._now = least

    def after(self, *, found: bool) -> float:
        """Return the seconds until it is asked again."""
        self._now = self.least if found else min(self.most, self._now * 2)
        return self._now * (0.8 + chance() / 5)  # so that not all ask at once


Deliver = Callable[[Sequence[Delivery], Callable[[Settled], None]], Awaitable[None]]
"""Handles deliveries, and calls the function with what became of each."""


class State(enum.Enum):
    NEW = "not started"
    RUNNING = "running"
    PAUSED = "paused"
    STOPPING = "stopping"
    STOPPED = "stopped"


class Pump:
    """Moves the deliveries of one transport.

    Args:
        transport: Where they come from.
        deliver: Handles those of one task: what is left over when it returns was not tried.
        capacity: How many it has at once.
        batch: How many one task has.
        breaker: Whether they are tried at all.
        backoff: How long to wait for a transport that cannot be reached.
    """

    def __init__(
        self,
        transport: Transport,
        deliver: Deliver,
        *,
        capacity: int,
        batch: int,
        breaker: Breaker,
        backoff: Backoff,
    ) -> None:
        self.transport: Transport = transport
        self.state: State = State.NEW
        self.counts: Counter[Result] = Counter()
        self._deliver = deliver
        self._capacity = capacity
        self._batch = batch
        self._breaker = breaker
        self._backoff = backoff
        self._reach: _Reach
        self._lock = threading.Lock()  # the state's
        self._home: Any = None
        self._in_flight = 0
        self._settled: list[Settled] = []
        self._limit: float | None = None
        self._change: Event
        self._to_settle: Event
        self._halt: Event
        self._no_more = False
        self._tasks = 0

    @property
    def in_flight(self) -> int:
        """How many were taken, and are not settled."""
        return self._in_flight

    # -- from any thread ----------------------------------------------------------------------------------------------

    def wake(self) -> None:
        """Something may have changed, or be there."""
        home = self._home
        if home is not None:
            homes.wake(home, self._tell)

    def renew(self) -> None:
        """Be as new, to run once more."""
        with self._lock:
            if self.state is State.STOPPED:
                self.state, self._limit = State.NEW, None

    def pause(self) -> bool:
        """Take nothing more until `resume`; False if that changes nothing."""
        return self._become(State.PAUSED, State.NEW, State.RUNNING)

    def resume(self) -> bool:
        """Take again; False if that changes nothing."""
        return self._become(State.NEW if self._home is None else State.RUNNING, State.PAUSED)

    def stop(self, limit: float | None = None) -> bool:
        """Take nothing more, and end when what was taken has ended; in *limit* seconds what has not is handed back.

        Said once more it shortens the limit; False then.
        """
        self._limit = limit
        if self._become(State.STOPPING, State.NEW, State.RUNNING, State.PAUSED):
            return True
        self.wake()
        return False

    def _become(self, state: State, *before: State) -> bool:
        with self._lock:
            if self.state not in before:
                return False
            self.state = state
        self.wake()
        return True

    def _tell(self) -> None:
        self._change.set()
        if self.state in (State.PAUSED, State.STOPPING):
            self._halt.set()
        elif self._halt.is_set():
            self._halt = Event()

    async def sleep(self, seconds: float) -> bool:
        """Wait inside of a delivery; True if that was cut short since it is to pause or to stop."""
        with move_on_after(seconds):
            await self._halt.wait()
            return True
        return False

    # -- running ------------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Move deliveries until `stop`."""
        home = homes.here()
        assert home is not None
        self._change, self._to_settle, self._halt = Event(), Event(), Event()
        self._no_more = False
        self._reach = _Reach(self.transport, self._backoff)
        self._breaker.reached()  # it may have failed on another loop, whose clock is another
        with self._lock:
            self._home = home
            if self.state in (State.NEW, State.STOPPED):
                self.state = State.RUNNING
        if self.state is not State.RUNNING:
            self._halt.set()
        try:
            await self._open()
            async with create_task_group() as settling:
                scope = CancelScope(shield=True)
                settling.start_soon(self._settle_all, scope)
                try:
                    async with create_task_group() as deliveries:
                        await self._take_all(deliveries)
                        await self._drain(deliveries.cancel_scope)
                finally:
                    self._no_more = True
                    scope.deadline = current_time() + CLEAN_UP
                    self._to_settle.set()
        finally:
            with move_on_after(CLEAN_UP, shield=True):
                await self._reach.tried(self.transport.aclose)
            self._settled.clear()
            self._in_flight = 0
            with self._lock:
                self.state = State.STOPPED
                self._home = None

    async def _open(self) -> None:
        while self.state is not State.STOPPING:
            if await self._reach.tried(self.transport.open, self.wake) is not _FAILED:
                return
            await self._wait(self._reach.seconds)

    async def _take_all(self, deliveries: TaskGroup) -> None:
        is_paused, polls = False, self.transport.polls
        while self.state is not State.STOPPING:
            if (self.state is State.PAUSED) is not is_paused:
                change = self.transport.resume if is_paused else self.transport.pause
                if await self._reach.tried(change) is not _FAILED:
                    is_paused = not is_paused
                    continue
                await self._wait(self._reach.seconds)
                continue
            room = 0 if is_paused else self._room()
            if not room:
                await self._wait(None if is_paused else self._breaker.waits or None)
                continue
            with CancelScope(shield=True):
                taken = await self._reach.tried(self.transport.take, room)
            if taken is _FAILED:
                await self._wait(self._reach.seconds)
                continue
            self._in_flight += len(taken)
            if self.state is not State.RUNNING:  # meanwhile
                for each in taken:
                    self._note(Settled(each, Result.BACK))
                continue
            for first in range(0, len(taken), self._batch):
                self._tasks += 1
                deliveries.start_soon(self._deliver_some, taken[first : first + self._batch])
            if len(taken) < room:
                await self._wait(None if polls is None else polls.after(found=bool(taken)))
        if not is_paused:
            await self._reach.tried(self.transport.pause)  # what it holds is others' at once, and not after the drain

    async def _drain(self, deliveries: CancelScope) -> None:
        """Wait for what was taken, as long as `stop` says, and says anew."""
        while self._tasks:
            if self._limit is not None:
                deliveries.deadline = min(deliveries.deadline, current_time() + self._limit)
                self._limit = None
            await self._wait(None)

    def _room(self) -> int:
        """How many may be taken now."""
        if self._breaker.waits:
            return 0
        if not self._breaker.is_closed:
            return 0 if self._in_flight else 1
        room = self._capacity - self._in_flight
        if self._batch == 1:
            return room
        return self._batch if room >= self._batch else 0

    async def _wait(self, seconds: float | None) -> None:
        with CancelScope() if seconds is None else move_on_after(seconds):
            await self._change.wait()
        if self._change.is_set():
            self._change = Event()

    async def _deliver_some(self, taken: Sequence[Delivery]) -> None:
        left = {id(each): each for each in taken}

        def settle(settled: Settled) -> None:
            if left.pop(id(settled.delivery), None) is not None:
                self._note(settled)

        try:
            await self._deliver(taken, settle)
        finally:
            for each in list(left.values()):
                settle(Settled(each, Result.BACK))
            self._tasks -= 1
            self._tell()

    def _note(self, settled: Settled) -> None:
        if settled.result is Result.OUTAGE:
            if self._breaker.failed():
                logger.warning("%s cannot be reached, and its messages wait: %s", self.transport.name, settled.error)
        elif settled.result in _TRIED and self._breaker.reached():
            logger.info("%s is reached again", self.transport.name)
        self.counts[settled.result] += 1
        self._settled.append(settled)
        self._to_settle.set()

    # -- settling -----------------------------------------------------------------------------------------------------

    async def _settle_all(self, scope: CancelScope) -> None:
        """Tell the transport what became of what, as much as there is at once, until all deliveries have ended."""
        with scope:
            while self._settled or not self._no_more:
                if not self._settled:
                    await self._to_settle.wait()
                    self._to_settle = Event()
                    continue
                settled = self._settled[:]
                lost = await self._reach.tried(self.transport.settle, settled)
                if lost is _FAILED:
                    await sleep(self._reach.seconds)
                    continue
                del self._settled[: len(settled)]
                self._in_flight -= len(settled)
                if lost:
                    logger.warning(
                        "%s: %s of %s came back after their lease had expired, and somebody else has them",
                        self.transport.name,
                        lost,
                        len(settled),
                    )
                self._tell()


_TRIED: Final = (Result.DONE, Result.FAILED, Result.DEAD)
"""What says that a delivery was tried, so that what it goes to was reached."""
_FAILED: Final[Any] = object()


class _Reach:
    """Whether a transport can be reached: told when that changes, and not each time."""

    def __init__(self, transport: Transport, backoff: Backoff) -> None:
        self._transport = transport
        self._breaker = Breaker(backoff, current_time, chance)

    @property
    def seconds(self) -> float:
        """How long to wait before it is tried again."""
        return max(self._breaker.waits, 0.01)

    async def tried(self, call: Callable[..., Awaitable[Any]], *args: Any) -> Any:
        """Call, and return what it gives, or `_FAILED`."""
        try:
            result = await call(*args)
        except Exception as error:
            if self._breaker.failed():
                logger.error("%s is lost, and is tried until it is back", self._transport.name, exc_info=error)
            else:
                logger.debug("%s is still lost: %r", self._transport.name, error)
            return _FAILED
        # Whether something came of it is seen at what asks for messages: what is said may be of no use any more.
        if call in (self._transport.open, self._transport.take) and self._breaker.reached():
            logger.info("%s is back", self._transport.name)
        return result
