"""Work held back until a test runs it, and work that runs at once.

Both hold for the whole process, whatever thread or supervisor, since an application under test runs on threads of its
server's or its client's. They nest: the innermost one takes the work, and all are told of the exchanges.
"""

import sys
from collections import deque
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

from postresponse.core.exchange import Exchange
from postresponse.exceptions import ConfigurationError, WrongThread
from postresponse.onlookers import observing_all
from postresponse.testing.draining import Outboxes
from postresponse.testing.recorder import Recorder
from postresponse.testing.released import HeldJob
from postresponse.work import homes
from postresponse.work.captors import captors
from postresponse.work.job import Job, JobState
from postresponse.work.process import open_again

__all__ = ["Captured", "Immediate", "PendingJob", "captured", "immediate"]


@dataclass(frozen=True, slots=True)
class PendingJob:
    """A piece of work that is held back.

    Attributes:
        name: As given, or the function's.
        route: The method and route of the request that it came from, or an empty string.
        function: What is to be called.
        args: What with.
        job: What `launch` returned.
    """

    name: str
    route: str
    function: Callable[..., Any]
    args: tuple[Any, ...]
    job: Job[Any]


class Captured(Recorder):
    """What `captured()` gives: the work that is held back, and what was seen.

    Attributes:
        outbox: Sends what an outbox holds; relays do not run by themselves meanwhile.
    """

    def __init__(self) -> None:
        super().__init__()
        self._held: deque[HeldJob] = deque()
        self._services: list[HeldJob] = []
        self.outbox: Outboxes = Outboxes(self._relays)

    def takes(self, job: Job[Any], exchange: Exchange | None, timeout: float | None) -> bool:
        """Hold *job* back; a receiver of messages is none of an application's work, and runs."""
        owner = getattr(job._fn, "__self__", None)
        if _is(owner, "postresponse.messaging.receiver", "Receiver"):
            return False
        held = HeldJob(job, exchange, timeout)
        if _is(owner, "postresponse.messaging.relay", "Relay"):
            self._services.append(held)
            return True
        self._jobs.append(job)
        self._held.append(held)
        return True

    @property
    def pending(self) -> Sequence[PendingJob]:
        """The work that is held back, in the order in which it would have started.

        Work of `after_response` is among it once its response is over, if its condition held then.
        """
        self._await_ends()
        jobs = [held.job for held in list(self._held) if not held.job.done()]
        return tuple(PendingJob(job.name, job.route, job._fn, job._args, job) for job in jobs)

    def run(self) -> Sequence[Job[Any]]:
        """Run what is held back, one piece after the other, and what comes of it, until nothing is left.

        Sync functions run in this thread; async ones on the application's event loop where it still runs, else on one
        of the supervisor's. All run, whatever fails.

        Returns:
            The jobs, in order.

        Raises:
            BaseExceptionGroup: What they raised; an ExceptionGroup where all are exceptions.
            WrongThread: Called on the thread of an event loop: await `arun()` there.
            ConfigurationError: There was nothing to run, and work waits for a response that was not closed.
        """
        if homes.here() is not None:
            raise WrongThread("run() waits, and this is the thread of an event loop: await arun()")
        self._await_ends()
        ran = []
        while self._held:
            held = self._held.popleft()
            held.run()
            ran.append(held.job)
        return self._ran(ran)

    async def arun(self) -> Sequence[Job[Any]]:
        """As `run`, awaited: async work runs on this event loop, or the application's own, the rest on threads."""
        self._await_ends()
        ran = []
        while self._held:
            held = self._held.popleft()
            await held.arun()
            ran.append(held.job)
        return self._ran(ran)

    def _ran(self, ran: Sequence[Job[Any]]) -> Sequence[Job[Any]]:
        if not ran:
            self._check_closed()
        _raise_failures(ran)
        return tuple(ran)

    def _check_closed(self) -> None:
        """Tell of work that no run can reach, since its response never ends."""
        waiting = [each.route for each in self._unended() if each._work]
        if waiting:
            raise ConfigurationError(
                f"nothing is to be run, and work waits for the end of {', '.join(waiting)}: close the response; "
                "Flask's test client does with buffered=True"
            )

    def wanted(self, job: Job[Any]) -> None:
        """Run *job*, if it is held back."""
        held = next((each for each in list(self._held) if each.job is job), None)
        if held is None:
            return
        self._held.remove(held)
        if homes.here() is None:
            held.run()
        else:
            held.start()

    def _relays(self) -> list[Any]:
        return [held.job._fn.__self__ for held in self._services if not held.job.done()]

    def _forget(self) -> None:
        """The block is over: what is left is cancelled, so that who holds it knows."""
        for held in [*self._held, *self._services]:
            held.job._end(JobState.CANCELLED)
        self._held.clear()
        self._services.clear()


class Immediate(Recorder):
    """What `immediate()` gives: what was seen, while work runs at once."""

    def __init__(self) -> None:
        super().__init__()
        self._started: WeakKeyDictionary[Exchange, deque[HeldJob]] = WeakKeyDictionary()
        self._told = 0

    def takes(self, job: Job[Any], exchange: Exchange | None, timeout: float | None) -> bool:
        """Run *job* here; on an event loop, start it as its supervisor would, and have the request wait for it."""
        owner = getattr(job._fn, "__self__", None)
        if any(_is(owner, f"postresponse.messaging.{each.lower()}", each) for each in ("Receiver", "Relay")):
            return False
        held = HeldJob(job, exchange, timeout)
        self._jobs.append(job)
        if homes.here() is None:
            held.run()
            return True
        held.start()
        if exchange is not None:
            self._started.setdefault(exchange, deque()).append(held)
        return True

    def wanted(self, job: Job[Any]) -> None:
        """Nothing: what was taken has begun."""

    def _last(self, exchange: Exchange, begun: object) -> Awaitable[None] | None:
        """Wait for the work that runs on the event loop, and for what that starts."""
        started = self._started.get(exchange)
        return self._wait(started, begun) if started else super()._last(exchange, begun)

    async def _wait(self, started: deque[HeldJob], begun: object) -> None:
        while started:
            await started.popleft().wait()
        self._over(begun)

    def raise_failures(self) -> None:
        """Raise what the work raised so far, once.

        Raises:
            BaseExceptionGroup: All of it; an ExceptionGroup where all are exceptions.
        """
        jobs, self._told = self._jobs[self._told :], len(self._jobs)
        _raise_failures(jobs)


@contextmanager
def captured() -> Iterator[Captured]:
    """Hold back the work that the process starts with `after_response` and `launch`, and look on.

    What somebody waits for, as a handler for the job that it launched, runs at once; so do the sources of a race and
    the steps of a flow. A bulkhead is not entered. What was not run when the block ends is cancelled.

    Example:
        >>> from postresponse import launch
        >>> with captured() as work:
        ...     job = launch(print, "a receipt")
        ...     [each.name for each in work.pending], work.run() == (job,)
        a receipt
        (['print'], True)
    """
    recorder = Captured()
    with _taking(recorder):
        try:
            yield recorder
        finally:
            recorder._forget()


@contextmanager
def immediate() -> Iterator[Immediate]:
    """Run the work that the process starts with `after_response` and `launch` at once, where it is started.

    In the thread of a request that has no event loop: before its response is closed. On an event loop it starts there
    as always, and the end of the request waits for it. What it raises is logged as always, and raised when the block
    ends, unless `raise_failures()` has raised it before.

    Raises:
        BaseExceptionGroup: What the work raised.

    Example:
        >>> from postresponse import launch
        >>> with immediate():
        ...     job = launch(print, "a receipt")
        a receipt
    """
    recorder = Immediate()
    with _taking(recorder):
        yield recorder
    recorder.raise_failures()


@contextmanager
def _taking(recorder: Captured | Immediate) -> Iterator[None]:
    open_again()  # the lifespan of an application that another test has served ended its supervisor
    with observing_all(recorder):
        captors.append(recorder)
        try:
            yield
        finally:
            captors.remove(recorder)


def _raise_failures(jobs: Sequence[Job[Any]]) -> None:
    failures = [job._exception for job in jobs if job._exception is not None]
    for failure in failures:
        if isinstance(failure, KeyboardInterrupt):
            raise failure
    if failures:
        names = ", ".join(str(job) for job in jobs if job._exception is not None)
        raise BaseExceptionGroup(f"work failed: {names}", failures)


def _is(owner: Any, module: str, name: str) -> bool:
    """Whether *owner* is one, of a module that need not be loaded."""
    found = sys.modules.get(module)
    return found is not None and isinstance(owner, getattr(found, name))
