"""The first of several sources that succeeds, while the others run on."""

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import CancelledError
from typing import Any, TypeVar

from postresponse.core.current import current
from postresponse.exceptions import NotAccepted, WrongThread
from postresponse.work import homes
from postresponse.work.checks import check_function, check_seconds
from postresponse.work.current import supervisor_of
from postresponse.work.job import Job, JobState

__all__ = ["first_success", "first_success_sync"]

T = TypeVar("T")


async def first_success(
    *sources: Callable[..., Any],
    args: tuple[Any, ...] = (),
    timeout: float | None = None,
    accept: Callable[[Any], object] | None = None,
) -> Any:
    """Start all *sources*, and return the first value that one of them gives.

    All are started, even if the first answers at once. The others run on to their end under the supervisor; that the
    caller is cancelled, or does not wait any longer, cancels none. Each of their errors is reported once, after the
    response where there is one.

    Args:
        sources: Functions, sync or async, called with *args*.
        timeout: Seconds to wait; None for as long as it takes.
        accept: Decides whether what a source returned counts; by default all does, `None` included.

    Raises:
        ValueError: There are no sources.
        NotAFunction: A source cannot be called, or is a coroutine object; all that are given are closed, and nothing
            is started.
        TimeoutError: None had succeeded in so many seconds.
        ExceptionGroup: All failed; in the order of the sources.
    """
    from anyio import Event, fail_after

    race = _Race(sources, args, timeout, accept)
    home = homes.here()
    assert home is not None
    decided = Event()
    race.start(lambda: homes.wake(home, decided.set))
    try:
        with fail_after(timeout):
            await decided.wait()
    except BaseException as error:
        race.abandon()
        if isinstance(error, TimeoutError):
            raise race.late() from None
        raise
    return race.result()


def first_success_sync(
    *sources: Callable[..., Any],
    args: tuple[Any, ...] = (),
    timeout: float | None = None,
    accept: Callable[[Any], object] | None = None,
) -> Any:
    """As `first_success`, for a thread that waits.

    Raises:
        WrongThread: Called on the thread of an event loop: await `first_success` there.
    """
    race = _Race(sources, args, timeout, accept)
    if homes.here() is not None:
        raise WrongThread("first_success_sync() waits, and this is the thread of an event loop: await first_success()")
    decided = threading.Event()
    race.start(decided.set)
    if not decided.wait(timeout):
        race.abandon()
        raise race.late()
    return race.result()


class _Race:
    """What is known of one race, and who is told of what."""

    def __init__(
        self,
        sources: Sequence[Callable[..., Any]],
        args: tuple[Any, ...],
        timeout: float | None,
        accept: Callable[[Any], object] | None,
    ) -> None:
        if not sources:
            raise ValueError("first_success() has no sources to race: give it at least one function")
        wrong = [source for source in sources if not callable(source)]
        for source in wrong[1:]:
            if hasattr(source, "close"):
                source.close()
        if wrong:
            check_function("first_success()", wrong[0])
        if timeout is not None:
            check_seconds("timeout", timeout)
        self._sources = sources
        self._args = args
        self._timeout = timeout
        self._accept = accept
        self._exchange = current.get()
        self._lock = threading.Lock()
        self._decide: Callable[[], object] | None = None
        self._values: list[Any] = []
        self._errors: dict[Job[Any], BaseException] = {}
        self._jobs: list[Job[Any]] = []
        self._left = len(sources)

    def start(self, decide: Callable[[], object]) -> None:
        """Start all sources; *decide* is called once the race is decided."""
        self._decide = decide
        supervisor = supervisor_of(self._exchange)
        self._jobs = [supervisor._launch(source, self._args, reported=False) for source in self._sources]
        for job in self._jobs:
            job.add_done_callback(self._ended)

    def result(self) -> Any:
        """Return the value that won, or raise what all raised."""
        if self._values:
            return self._values[0]
        raise BaseExceptionGroup("no source succeeded", [self._errors[job] for job in self._jobs])

    def late(self) -> TimeoutError:
        """What is raised when none succeeded in time."""
        names = ", ".join(job.name for job in self._jobs)
        return TimeoutError(f"none of {names} had succeeded in {self._timeout:g} s")

    def abandon(self) -> None:
        """Nobody waits any more: what failed is reported, and what will."""
        with self._lock:
            self._decide = None
        self._report_kept()

    def _ended(self, job: Any) -> None:
        error = self._error_of(job)
        with self._lock:
            self._left -= 1
            decide = self._decide
            if error is not None:
                self._errors[job] = error
            elif decide is not None:
                self._values.append(job._result)
            if error is not None and self._left:
                decide = None  # it is not decided by this one
            else:
                self._decide = None
            is_over = bool(self._values) or (self._decide is None and decide is None)
        if is_over:
            self._report_kept()
        if decide is not None:
            decide()

    def _error_of(self, job: Job[Any]) -> BaseException | None:
        """Return why what *job* gave does not count, or None."""
        if job.state is not JobState.DONE:
            return job._exception or CancelledError(f"{job.name} was {job.state}")
        try:
            if self._accept is None or self._accept(job._result):
                return None
        except Exception as error:  # noqa: BLE001 (raised, or reported)
            return error
        return NotAccepted(f"{job.name} returned {job._result!r}, which accept= does not count")

    def _report_kept(self) -> None:
        """Report the errors that nobody raises, after the response where there is one.

        What does not count is no error, and of a job that was cancelled or lost is told elsewhere.
        """
        with self._lock:
            kept, self._errors = self._errors, {}
        errors = [(job, error) for job, error in kept.items() if not isinstance(error, NotAccepted | CancelledError)]

        def report() -> None:
            for job, error in errors:
                job._supervisor._report(job, error)

        if errors and self._exchange is not None:
            self._exchange._tell_behind(report)
        else:
            report()
