"""Jobs from their start to their end: run, failed, cut off or lost, each told of once."""

import functools
import inspect
import threading
from collections.abc import Callable, Coroutine
from itertools import count
from time import monotonic_ns
from typing import Any, Final

from postresponse.core.current import current
from postresponse.core.exchange import Exchange
from postresponse.core.log import logger
from postresponse.core.observer import Observer, around, tell
from postresponse.core.trace import JobTrace
from postresponse.exceptions import SupervisorClosed
from postresponse.work import homes
from postresponse.work.job import PENDING, RUNNING, Job, JobState
from postresponse.work.threads import Strand, Threads

__all__ = ["Running"]

FAILURES: Final = (Exception, SystemExit)
_numbers: Final = count(1)


class Running:
    """Where jobs run: async ones on event loops, the others on threads; each alone, and harming nobody."""

    _lock: threading.Lock
    _threads: Threads
    _own_loop: homes.OwnLoop
    _live: set[Job[Any]]
    _when_empty: list[Callable[[], object]]
    _on_error: Callable[[Job[Any], BaseException], object] | None
    _on_dropped: Callable[[Job[Any]], object] | None
    _observers: tuple[Observer, ...]

    def jobs(self) -> list[Job[Any]]:
        """Return all jobs that wait or run, the oldest first; those that are late too, as long as their thread runs."""
        with self._lock:
            return sorted(self._live.copy(), key=lambda job: job.submitted)

    def _start(self, job: Job[Any], strand: Strand | None = None) -> None:
        home = job._home
        try:
            if home is None:
                if strand is None:
                    self._threads.put(functools.partial(self._run_sync, job))
                else:
                    job._strand = strand
                    strand.put(job)
            else:
                homes.call_on(home, self._spawn, job)
        except (SupervisorClosed, RuntimeError) as error:  # the loop is closed; or no thread can be started any more
            logger.debug("the job %s cannot start", job, exc_info=error)
            self._lose(job)

    def _home_of(self, exchange: Exchange | None) -> Any:
        """The event loop for async work: the application's, else the one that runs here, else our own."""
        if exchange is None:
            return homes.here() or self._own_loop.get()
        return homes.of(exchange._loop) or self._own_loop.get()

    # -- running ------------------------------------------------------------------------------------------------------

    def _spawn(self, job: Job[Any]) -> None:
        job._task = job._home.spawn(job, self._run_async(job))

    def _began(self, job: Job[Any]) -> bool:
        """Take down that it runs; False if it ended before.

        All that becomes of an async job happens on its own loop, and needs no lock.
        """
        if job._home is not None:
            if job._ending is None:
                job._state = RUNNING
            return job._ending is None
        with self._lock:
            if job._ending is None:
                job._state = RUNNING
            return job._ending is None

    async def _run_async(self, job: Job[Any], given: Coroutine[Any, Any, Any] | None = None) -> None:
        try:
            if self._began(job):
                if job._observers:
                    job._started = job._started or monotonic_ns()
                    with around(job._observers, job):
                        result = await (job._fn(*job._args) if given is None else given)
                else:
                    result = await (job._fn(*job._args) if given is None else given)
                job._end(JobState.DONE, result)
        except BaseException as error:
            self._failed(job, error)
            if not isinstance(error, FAILURES) and job._asked is not None:
                raise  # it was cancelled
            if isinstance(error, KeyboardInterrupt):
                raise
        finally:
            job._task = None
            self._gone(job)

    def _run_sync(self, job: Job[Any]) -> None:
        if self._began(job):
            try:
                if job._observers:
                    result = job._context.run(self._run_observed, job)
                else:
                    result = job._context.run(job._fn, *job._args)
            except BaseException as error:  # noqa: BLE001 (reported)
                self._failed(job, error)
            else:
                if inspect.iscoroutine(result):  # a plain function that returns one, as some decorators make them
                    self._go_on(job, result)
                    return
                job._end(JobState.DONE, result)
        self._gone(job)

    def _go_on(self, job: Job[Any], result: Coroutine[Any, Any, Any]) -> None:
        """Await what a plain function returned where async work runs."""
        job._state = PENDING
        job._home = job._origin or self._home_of(job._context.get(current))

        def spawn() -> None:
            job._task = job._home.spawn(job, self._run_async(job, result))

        try:
            job._home.call_soon(spawn)
        except SupervisorClosed:
            result.close()
            self._lose(job)

    def _failed(self, job: Job[Any], error: BaseException) -> None:
        """Take down what it raised, and report it."""
        if isinstance(error, (*FAILURES, KeyboardInterrupt)):
            self._report_failed(job, JobState.FAILED, error)
        elif job._asked is JobState.TIMED_OUT:
            self._report_failed(job, JobState.TIMED_OUT, job._late)
        elif job._asked is JobState.CANCELLED:
            job._end(JobState.CANCELLED)
        elif job._asked is JobState.DROPPED or isinstance(error, GeneratorExit):
            self._drop(job)
        else:
            cancelled = RuntimeError(f"{job.name} raised {type(error).__name__}, and nobody had cancelled it")
            cancelled.__cause__ = error
            self._report_failed(job, JobState.FAILED, cancelled)

    def _report_failed(self, job: Job[Any], state: JobState, error: BaseException | None) -> None:
        if job._end(state, error=error) and error is not None and job._reported:
            self._report(job, error)

    def _report(self, job: Job[Any], error: BaseException) -> None:
        """Report it, once."""
        self._in_its_context(job, self._report_here, job, error)

    def _in_its_context(self, job: Job[Any], call: Callable[..., None], *args: Any) -> None:
        """Call it where context variables are as in the job, so that a line of the log has the request's id."""
        context = job._context
        if context is None:  # it has ended meanwhile
            call(*args)
        else:
            context.copy().run(call, *args)  # a copy: the job may be running in it

    def _report_here(self, job: Job[Any], error: BaseException) -> None:
        logger.error("the job %s failed", job, exc_info=error, extra=_names_of(job))
        if self._on_error is not None:
            try:
                self._on_error(job, error)
            except FAILURES as failed:
                if failed.__context__ is None:
                    failed.__context__ = error
                logger.error("on_error failed for the job %s", job, exc_info=failed)

    def _gone(self, job: Job[Any]) -> None:
        """It has really ended: its slot is another's.

        Observers hear of it first: whoever finds no job any more, or waited for that, finds each told of.
        """
        if job._observers:
            self._tell_observers(job)
        try:
            self._live.remove(job)
        except KeyError:
            return
        if job._timer is not None:
            timer, job._timer = job._timer, None
            timer()
        job._fn = job._context = None
        job._args = ()
        if job._gate is not None:
            with self._lock:
                following = job._gate.leave()
            for each in following:
                self._start(each)
        if self._when_empty and not self._live:
            with self._lock:
                told, self._when_empty = self._when_empty, []
            for tell in told:
                tell()

    # -- who looks on ------------------------------------------------------------------------------------------------

    def _observe(self, job: Job[Any], exchange: Exchange | None) -> None:
        """Have the observers of the request that it comes from look on, and those of this supervisor."""
        observers = self._observers
        if exchange is not None and exchange._settings.observers:
            theirs = exchange._settings.observers
            observers = theirs + tuple(each for each in observers if each not in theirs)
        if observers:
            job._observers = observers
            job._number = next(_numbers)
            job._exchange = None if exchange is None else exchange.number

    def _run_observed(self, job: Job[Any]) -> Any:
        job._started = monotonic_ns()
        with around(job._observers, job):
            return job._fn(*job._args)

    def _tell_observers(self, job: Job[Any]) -> None:
        """Tell them that it has ended, once."""
        observers = vars(job).pop("_observers", ())
        ending, error = job._ending, job._exception
        trace = JobTrace(
            name=job.name,
            exchange=job._exchange,
            route=job.route,
            submitted=int(job.submitted * 1e9),
            started=job._started,
            ended=monotonic_ns(),
            state="dropped" if ending is None else ending.value,
            exception=error,
            number=job._number,
        )
        tell(observers, "job_ended", trace)

    # -- ending before its time ---------------------------------------------------------------------------------------

    def _expire(self, job: Job[Any], seconds: float) -> None:
        """It was not done in time."""
        job._timer = None
        job._late = TimeoutError(f"{job.name} was not done in {seconds:g} s")
        if job._state == RUNNING and job._home is not None:
            self._ask(job, JobState.TIMED_OUT)
            return
        strand = job._strand if job._state == RUNNING else None
        self._report_failed(job, JobState.TIMED_OUT, job._late)
        if strand is not None:
            strand.overtake()
        self._withdraw(job)

    def _cancel(self, job: Job[Any]) -> bool:
        if job._ending is not None:
            return False
        if job._home is not None:
            return self._ask(job, JobState.CANCELLED)
        if not job._end(JobState.CANCELLED, unless_running=True):
            return False
        self._withdraw(job)
        return True

    def _ask(self, job: Job[Any], state: JobState) -> bool:
        """Cancel an async job, on its own loop, so that it ends as *state*; False if that is closed."""
        return homes.wake(job._home, functools.partial(self._cancel_here, job, state))

    def _cancel_here(self, job: Job[Any], state: JobState) -> None:
        if job._ending is not None:
            return
        job._asked = job._asked or state
        if job._state == RUNNING:
            job._task.cancel()
        else:
            self._end_unstarted(job)

    def _end_unstarted(self, job: Job[Any]) -> None:
        """End an async job, as it was asked, that has not begun."""
        if job._asked is JobState.DROPPED:
            self._drop(job)
        else:
            job._end(JobState.CANCELLED)
        self._withdraw(job)

    def _task_cancelled(self, job: Job[Any]) -> None:
        """Somebody cancels its task: we, or whoever cancels all that there are."""
        job._asked = job._asked or JobState.DROPPED
        if job._state == PENDING:
            self._end_unstarted(job)
            self._gone(job)

    def _withdraw(self, job: Job[Any]) -> None:
        """It ended before it had begun: its place in the queue is free; where it has a slot, that is when it is met."""
        with self._lock:
            waited = job._gate is not None and job._gate.give_up(job)
            if waited:
                job._gate = None
        if waited:
            self._gone(job)

    def _drop(self, job: Job[Any], why: str = "its supervisor, or its event loop, ended before it") -> None:
        """It is lost, and that is told."""
        if job._end(JobState.DROPPED):
            self._in_its_context(job, self._report_lost, job, why)

    def _report_lost(self, job: Job[Any], why: str) -> None:
        logger.error("the job %s is lost: %s", job, why, extra=_names_of(job))
        if self._on_dropped is not None:
            try:
                self._on_dropped(job)
            except FAILURES as failed:
                logger.error("on_dropped failed for the job %s", job, exc_info=failed)

    def _lose(self, job: Job[Any]) -> None:
        """It will never go on."""
        self._drop(job)
        self._withdraw(job)
        self._gone(job)


def _names_of(job: Job[Any]) -> dict[str, Any]:
    """What a line of the log about *job* is known by, for a formatter that wants it."""
    return {"job": job.name, "route": job.route, "exchange": job.exchange}
