"""A piece of work, as its caller holds it."""

import enum
import threading
from collections.abc import Callable, Generator
from concurrent.futures import Future
from contextvars import Context
from time import monotonic
from typing import Any, Final, Generic, Protocol, TypeVar

from postresponse.core.log import logger
from postresponse.core.observer import Observer
from postresponse.exceptions import WrongThread
from postresponse.work import homes
from postresponse.work.captors import wanted
from postresponse.work.gate import Gate

__all__ = ["Job", "JobState"]

T = TypeVar("T")


class JobState(enum.StrEnum):
    """Where a job stands."""

    WAITING = "waiting"
    """It has not started: it waits for its thread, its loop, or for a slot of its bulkhead."""
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    """It raised."""
    TIMED_OUT = "timed_out"
    """It was not done in time. A function on a thread cannot be stopped: it may still run, and keeps its slot."""
    CANCELLED = "cancelled"
    """Its caller cancelled it."""
    DROPPED = "dropped"
    """The supervisor closed, or its event loop did, before it was done."""


# How the states are called by `concurrent.futures`, whose functions look at `_state`.
PENDING: Final = "PENDING"
RUNNING: Final = "RUNNING"
CANCELLED: Final = "CANCELLED_AND_NOTIFIED"
FINISHED: Final = "FINISHED"


class _Lazy:
    """An attribute of `Future` that few jobs need, and that is dear to make: made by the first to look at it."""

    def __init__(self, make: Callable[[], Any]) -> None:
        self._make = make

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    def __get__(self, job: Any, owner: type) -> Any:
        return self if job is None else job.__dict__.setdefault(self._name, self._make())


class Carrier(Protocol):
    """Whose job it is."""

    _lock: Any

    def _cancel(self, job: Any) -> bool: ...
    def _report(self, job: Any, error: BaseException) -> None: ...
    def _task_cancelled(self, job: Any) -> None: ...


class Job(Future[T], Generic[T]):
    """One piece of work under a `TaskSupervisor`: a `concurrent.futures.Future` that can be awaited as well.

    Awaiting it, and being cancelled meanwhile, cancels the wait and not the job. A job that fails is reported once by
    its supervisor, whether anybody asks for its result or not.

    Attributes:
        name: As given, or the function's.
        route: The method and route of the request that it came from, or an empty string.
        submitted: When it was submitted, in monotonic seconds.
    """

    _condition = _Lazy(threading.Condition)
    _waiters = _Lazy(list)
    _done_callbacks = _Lazy(list)
    # What few jobs have.
    _gate: Gate[Any] | None = None
    _home: Any = None
    _origin: Any = None  # the event loop that a plain function was submitted on
    _task: Any = None
    _timer: Any = None
    _result: Any = None
    _exception: BaseException | None = None
    _ending: JobState | None = None
    _asked: JobState | None = None  # what it was cancelled for
    _late: BaseException | None = None
    _strand: Any = None
    _reported = True
    _observers: tuple[Observer, ...] = ()
    _exchange: int | None = None
    _started: int | None = None
    _number = 0

    def __init__(
        self, supervisor: Carrier, fn: Callable[..., Any], args: tuple[Any, ...], context: Context, name: str
    ) -> None:
        # Not the one of `Future`, which makes a condition that few jobs need, and costs as much as all the rest.
        self._supervisor = supervisor
        self._fn: Any = fn
        self._args: tuple[Any, ...] = args
        self._context: Any = context
        self._state = PENDING
        self.name: str = name
        self.route: str = ""
        self.submitted: float = monotonic()

    @property
    def state(self) -> JobState:
        """Where it stands."""
        if self._ending is not None:
            return self._ending
        return JobState.WAITING if self._state == PENDING else JobState.RUNNING

    @property
    def exchange(self) -> int | None:
        """The `Exchange.number` of the request that it came from, where somebody observes it; else None."""
        return self._exchange

    def cancel(self) -> bool:
        """Cancel it: one that waits never starts, and an async one is cancelled where it awaits.

        Returns:
            Whether it is cancelled, or was asked to end: an async function may refuse. False for a function that runs
            on a thread, which cannot be stopped, and for a job that is done.
        """
        return self._supervisor._cancel(self)

    def result(self, timeout: float | None = None) -> T:
        """Wait for it, and return what it returned, or raise what it raised.

        Args:
            timeout: Seconds to wait; None waits for as long as it takes.

        Raises:
            WrongThread: Called on the thread of an event loop, which would stand still meanwhile.
            TimeoutError: It was not done in so many seconds, or in its own time.
            concurrent.futures.CancelledError: It was cancelled, or dropped.
        """
        if self._ending is None and timeout != 0:
            self._check_thread("result()")
        return super().result(timeout)

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """Wait for it, and return what it raised, or None; else as `result`."""
        if self._ending is None and timeout != 0:
            self._check_thread("exception()")
        return super().exception(timeout)

    def _check_thread(self, call: str) -> None:
        if homes.here() is not None:
            raise WrongThread(
                f"job.{call} waits, and this is the thread of an event loop, which waits with it: await job"
            )
        wanted(self)

    def __await__(self) -> Generator[Any, Any, T]:
        if self._ending is None:
            wanted(self)
            yield from homes.wait_for(self).__await__()
        return super().result(0)

    def __str__(self) -> str:
        return f"{self.name} of {self.route}" if self.route else self.name

    def __repr__(self) -> str:
        return f"<Job {self} {self.state}>"

    def _end(
        self,
        state: JobState,
        result: Any = None,
        error: BaseException | None = None,
        *,
        unless_running: bool = False,
    ) -> bool:
        """Take down how it ended, and tell those who wait; False if it had ended before, or runs and may not end so."""
        if self._home is None:
            with self._supervisor._lock:
                if (unless_running and self._state == RUNNING) or not self._take_down(state, result, error):
                    return False
        elif not self._take_down(state, result, error):
            return False
        kept = self.__dict__
        # Whoever looks at the condition later sees the state that was just set.
        if "_condition" in kept:
            with self._condition:
                for waiter in kept.get("_waiters", ()):
                    _tell(waiter, self)
                self._condition.notify_all()
        for callback in kept.get("_done_callbacks", ()):
            try:
                callback(self)
            except (Exception, SystemExit) as failed:
                logger.error("a done callback of the job %s failed", self, exc_info=failed)
        return True

    def _take_down(self, state: JobState, result: Any, error: BaseException | None) -> bool:
        if self._ending is not None:
            return False
        self._result, self._exception, self._ending = result, error, state
        self._state = FINISHED if state is JobState.DONE or error is not None else CANCELLED
        return True

    def set_running_or_notify_cancel(self) -> bool:
        """Not for a job: its supervisor does it."""
        raise RuntimeError("a job is run by its supervisor")

    def set_result(self, result: T) -> None:
        """Not for a job: its result is its function's."""
        raise RuntimeError("the result of a job is its function's")

    def set_exception(self, exception: BaseException | None) -> None:
        """Not for a job: what it raises is its function's."""
        raise RuntimeError("what a job raises is its function's")


def _tell(waiter: Any, job: Job[Any]) -> None:
    """Tell a waiter of `concurrent.futures.wait` or `as_completed`."""
    if job._state == CANCELLED:
        waiter.add_cancelled(job)
    elif job._exception is not None:
        waiter.add_exception(job)
    else:
        waiter.add_result(job)
