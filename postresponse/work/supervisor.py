"""The supervisor: it starts work, bounds it, reports what fails, and loses nothing without saying so."""

import atexit
import functools
import inspect
import math
import os
import threading
import weakref
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextvars import Context, copy_context
from time import monotonic
from typing import Any, Final

from postresponse.core.current import current
from postresponse.core.exchange import Exchange
from postresponse.core.log import logger
from postresponse.exceptions import ConfigurationError, SupervisorClosed, TooManyTasks, WrongThread
from postresponse.work import homes
from postresponse.work.checks import check_function, check_seconds, is_async, name_of
from postresponse.work.gate import Gate
from postresponse.work.job import PENDING, RUNNING, Job, JobState
from postresponse.work.threads import Strand, Threads

__all__ = ["TaskSupervisor"]

FAILURES: Final = (Exception, SystemExit)
CLEAN_UP: Final = 1.0
"""Seconds that cancelled work has for its `finally` when the supervisor closes."""


class TaskSupervisor:
    """Carries work that accompanies or outlives a response: each piece alone, in this process, best effort.

    Async functions run on the application's own event loop under ASGI, and on one loop of the supervisor's under WSGI
    and where there is none; sync functions run on threads, never on a loop. Nothing starts before the first piece of
    work, so a process may fork before that; a child begins with nothing.

    Args:
        name: What its threads are called.
        max_threads: Threads for sync functions, at most.
        grace: Seconds that running work has when the supervisor closes.
        on_error: Receives the job and what it raised, once for each that fails or is not done in time, on the thread
            that it ran on.
        on_dropped: Receives each job that the end of the process or of its event loop took.

    Raises:
        ConfigurationError: A value that an option cannot have.
    """

    def __init__(
        self,
        *,
        name: str = "postresponse",
        max_threads: int = 40,
        grace: float = 10.0,
        on_error: Callable[[Job[Any], BaseException], object] | None = None,
        on_dropped: Callable[[Job[Any]], object] | None = None,
    ) -> None:
        if isinstance(max_threads, bool) or not isinstance(max_threads, int) or max_threads < 1:
            raise ConfigurationError(f"max_threads: expected a number from 1 on, found {max_threads!r}")
        for option, callback in (("on_error", on_error), ("on_dropped", on_dropped)):
            if callback is not None:
                check_function(option, callback)
                if inspect.iscoroutinefunction(callback):
                    raise ConfigurationError(f"{option}: expected a plain function, found an async one: {callback!r}")
        self.name: str = name
        self._max_threads = max_threads
        self._grace = check_seconds("grace", grace, least=0.0)
        self._on_error = on_error
        self._on_dropped = on_dropped
        self._gates: dict[str, Gate[Job[Any]]] = {}
        self._timeouts: dict[str, float | None] = {}
        self._users = 0
        self._begin_anew()
        _supervisors.add(self)

    def _begin_anew(self) -> None:
        """Be as new, in a process that has just begun."""
        self._lock = threading.Lock()
        self._threads = Threads(self._max_threads, self.name)
        self._own_loop = homes.OwnLoop(self.name)
        self._live: set[Job[Any]] = set()
        self._closed = False
        self._looked_at = -math.inf
        self._when_empty: list[Callable[[], object]] = []
        for name, gate in self._gates.items():
            self._gates[name] = Gate(name, gate.max_concurrency, gate.max_queue)

    # -- starting -----------------------------------------------------------------------------------------------------

    def launch(
        self,
        fn: Callable[..., Any],
        /,
        *args: Any,
        bulkhead: Any = None,
        timeout: float | None = None,
        name: str | None = None,
    ) -> Job[Any]:
        """Start `fn(*args)` now, beside the caller; it never runs inline, and nothing waits for it.

        Args:
            bulkhead: The `Bulkhead` whose bound it keeps, or its name.
            timeout: Seconds from now until it has to be done, waiting for a slot or a thread included; None for as
                long as it takes.
            name: How it is called in the log; None for the function's name.

        Raises:
            NotAFunction: *fn* cannot be called, or is a coroutine object, which is closed.
            ConfigurationError: There is no such bulkhead, or *timeout* is no number of seconds above zero.
            TooManyTasks: The bulkhead is full.
            SupervisorClosed: The supervisor was closed.
        """
        check_function("launch()", fn)
        gate, timeout = self._bounds(bulkhead, timeout)
        return self._launch(fn, args, gate, timeout, name)

    def _launch(
        self,
        fn: Callable[..., Any],
        args: tuple[Any, ...],
        gate: Gate[Job[Any]] | None = None,
        timeout: float | None = None,
        name: str | None = None,
        *,
        reported: bool = True,
    ) -> Job[Any]:
        exchange = current.get()
        route = ""
        if exchange is not None:
            exchange._expect_work()  # of what is started now, which may register more
            route = exchange.route
        return self._submit(exchange, fn, args, copy_context(), gate, timeout, name, route, reported=reported)

    def _add_gate(self, name: str, limits: Any) -> None:
        """Make a bound, or find the one of that name.

        Raises:
            ConfigurationError: There is one with other limits.
        """
        with self._lock:
            gate = self._gates.get(name)
            if gate is None:
                self._gates[name] = Gate(name, limits.max_concurrency, limits.max_queue)
                self._timeouts[name] = limits.timeout
            elif (gate.max_concurrency, gate.max_queue, self._timeouts[name]) != (
                limits.max_concurrency,
                limits.max_queue,
                limits.timeout,
            ):
                raise ConfigurationError(
                    f"name: there is a bulkhead {name!r} with max_concurrency={gate.max_concurrency}, "
                    f"max_queue={gate.max_queue}, timeout={self._timeouts[name]}; give the same limits, or another name"
                )

    def _jobs_of(self, bulkhead: str) -> list[Job[Any]]:
        gate = self._gates[bulkhead]
        return [job for job in self.jobs() if job._gate is gate]

    def _bounds(self, bulkhead: Any, timeout: float | None) -> tuple[Gate[Job[Any]] | None, float | None]:
        """Check them, and return the gate and the seconds."""
        if timeout is not None:
            timeout = check_seconds("timeout", timeout)
        if bulkhead is None:
            return None, timeout
        name = bulkhead if isinstance(bulkhead, str) else bulkhead.name
        gate = self._gates.get(name)
        if gate is None:
            known = ", ".join(map(repr, self._gates)) or "none"
            raise ConfigurationError(
                f"bulkhead: there is no {name!r}; make it with Bulkhead({name!r}, ...); there is {known}"
            )
        return gate, self._timeouts[name] if timeout is None else timeout

    def _submit(
        self,
        exchange: Exchange | None,
        fn: Callable[..., Any],
        args: tuple[Any, ...],
        context: Context,
        gate: Gate[Job[Any]] | None,
        timeout: float | None,
        name: str | None,
        route: str,
        *,
        in_order: bool = False,
        reported: bool = True,
    ) -> Job[Any]:
        job: Job[Any] = Job(self, fn, args, context, name or name_of(fn))
        job.route = route
        if not reported:
            job._reported = False
        if is_async(fn):
            job._home = self._home_of(exchange)
        elif exchange is None:
            job._origin = homes.here()
        self._live.add(job)
        starts = True
        if self._closed:  # looked at behind that: whoever closes sees it, or it sees that it comes too late
            self._live.discard(job)
            raise SupervisorClosed(f"{job.name} comes too late: the supervisor {self.name!r} is closed")
        if gate is not None:
            starts = self._enter(gate, job)
        if timeout is not None:
            home = job._home or homes.here() or self._own_loop.get()
            job._timer = home.call_later(timeout, functools.partial(self._expire, job, timeout))
        if starts:
            strand = None
            if in_order and job._home is None and gate is None and exchange is not None:
                strand = exchange.__dict__.get("_strand") or exchange.__dict__.setdefault(
                    "_strand", Strand(self._threads, self._run_sync)
                )
            self._start(job, strand)
        return job

    def _enter(self, gate: Gate[Job[Any]], job: Job[Any]) -> bool:
        """Let *job* take a slot, or wait for one; False if it waits, or was started meanwhile."""
        job._gate = gate
        try:
            try:
                with self._lock:
                    starts = gate.enter(job)
            except TooManyTasks:
                if not self._forget_ended_loops():
                    raise
                with self._lock:
                    return gate.enter(job)
        except TooManyTasks:
            self._live.discard(job)
            raise
        if not starts:
            self._forget_ended_loops()
        return starts

    def _forget_ended_loops(self) -> bool:
        """Drop the jobs whose event loop is over, looked for once a second at most; True if there was one."""
        if monotonic() < self._looked_at + 1:
            return False
        self._looked_at = monotonic()
        lost = [job for job in self.jobs() if job._home is not None and job._home.is_over()]
        for job in lost:
            self._lose(job)
        return bool(lost)

    def _lose(self, job: Job[Any]) -> None:
        """It will never go on."""
        self._drop(job)
        self._withdraw(job)
        self._gone(job)

    def _start_due(self, exchange: Exchange, work: tuple[Any, ...]) -> None:
        """Start what was registered for the end of its response."""
        fn, args, context, gate, timeout, name = work
        try:
            self._submit(exchange, fn, args, context, gate, timeout, name, exchange.route, in_order=True)
        except (TooManyTasks, SupervisorClosed) as error:
            job: Job[Any] = Job(self, fn, args, context, name or name_of(fn))
            job.route = exchange.route
            self._drop(job, str(error))

    def _home_of(self, exchange: Exchange | None) -> Any:
        """The event loop for async work: the application's, else the one that runs here, else our own."""
        if exchange is None:
            return homes.here() or self._own_loop.get()
        return homes.of(exchange._loop) or self._own_loop.get()

    def _start(self, job: Job[Any], strand: Strand | None = None) -> None:
        home = job._home
        try:
            if home is None:
                if strand is None:
                    self._threads.put(functools.partial(self._run_sync, job))
                else:
                    job._strand = strand
                    strand.put(job)
            elif home.is_here():
                self._spawn(job)
            else:
                home.call_soon(self._spawn, job)
        except (SupervisorClosed, RuntimeError) as error:  # the loop is closed; or no thread can be started any more
            logger.debug("the job %s cannot start", job, exc_info=error)
            self._lose(job)

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
        logger.error("the job %s failed", job, exc_info=error)
        if self._on_error is not None:
            try:
                self._on_error(job, error)
            except FAILURES as failed:
                if failed.__context__ is None:
                    failed.__context__ = error
                logger.error("on_error failed for the job %s", job, exc_info=failed)

    def _gone(self, job: Job[Any]) -> None:
        """It has really ended: its slot is another's."""
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
        try:
            if job._home.is_here():
                self._cancel_here(job, state)
            else:
                job._home.call_soon(self._cancel_here, job, state)
        except SupervisorClosed:
            return False
        return True

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
        if not job._end(JobState.DROPPED):
            return
        logger.error("the job %s is lost: %s", job, why)
        if self._on_dropped is not None:
            try:
                self._on_dropped(job)
            except FAILURES as failed:
                logger.error("on_dropped failed for the job %s", job, exc_info=failed)

    # -- closing ------------------------------------------------------------------------------------------------------

    def jobs(self) -> list[Job[Any]]:
        """Return all jobs that wait or run, the oldest first; those that are late too, as long as their thread runs."""
        with self._lock:
            return sorted(self._live.copy(), key=lambda job: job.submitted)

    def open(self) -> None:
        """Take work, again after a close; each `open` wants a `close` of its own, and only the last one closes."""
        with self._lock:
            self._users += 1
            self._closed = False

    def close(self, grace: float | None = None) -> Sequence[Job[Any]]:
        """Refuse new work, wait for what runs, cancel what is left then, and tell what is lost.

        Args:
            grace: Seconds to wait; None for the supervisor's own.

        Returns:
            The jobs that are lost; each is logged, and was handed to `on_dropped`.

        Raises:
            WrongThread: Called on the thread of an event loop: await `aclose()` there.
        """
        if homes.here() is not None:
            raise WrongThread(
                "close() waits, and this is the thread of an event loop, which waits with it: await aclose()"
            )
        live = self._closing()
        if live is None:
            return ()
        for seconds in self._phases(live, self._grace if grace is None else check_seconds("grace", grace, least=0.0)):
            empty = threading.Event()
            if self._tell_when_empty(empty.set):
                empty.wait(seconds)
        return self._ended(live)

    async def aclose(self, grace: float | None = None) -> Sequence[Job[Any]]:
        """As `close`, awaited: what runs on this loop goes on meanwhile."""
        from anyio import Event, move_on_after

        live = self._closing()
        if live is None:
            return ()
        home = homes.here()
        assert home is not None
        for seconds in self._phases(live, self._grace if grace is None else check_seconds("grace", grace, least=0.0)):
            empty = Event()
            if self._tell_when_empty(functools.partial(home.call_soon, empty.set)):
                with move_on_after(seconds):
                    await empty.wait()
        return self._ended(live)

    def _closing(self) -> list[Job[Any]] | None:
        """Refuse new work and return what there is; None while others use the supervisor."""
        with self._lock:
            self._users -= 1
            if self._users > 0:
                return None
            self._users = 0
            self._closed = True
            return sorted(self._live.copy(), key=lambda job: job.submitted)

    def _phases(self, live: list[Job[Any]], grace: float) -> Iterator[float]:
        """Give the seconds to wait: for all to end, then for what was cancelled to clean up."""
        if not live:
            return
        logger.info("closing, with %s s for %s", grace, ", ".join(map(str, live)))
        yield grace
        if self._cut_off():
            yield CLEAN_UP

    def _cut_off(self) -> bool:
        """Cancel what can be, and drop what cannot; True if something was cancelled."""
        waits = False
        for job in self.jobs():
            if job._home is None:
                self._drop(job)
                self._withdraw(job)
            elif self._ask(job, JobState.DROPPED):
                waits = True
            else:
                self._lose(job)
        return waits

    def _ended(self, live: list[Job[Any]]) -> Sequence[Job[Any]]:
        for job in live:
            if job._ending is None:
                self._drop(job)
        self._threads.end()
        self._own_loop.end()
        return [job for job in live if job._ending is JobState.DROPPED]

    def _tell_when_empty(self, tell: Callable[[], object]) -> bool:
        """Call *tell* once nothing waits or runs; False if that is so already."""
        with self._lock:
            self._when_empty.append(tell)
            if self._live:  # looked at behind that: whoever ends last sees who is to be told
                return True
            self._when_empty.remove(tell)
            return False


# -- the end of a process, and the beginning of one -------------------------------------------------------------------

_supervisors: "Final[weakref.WeakSet[TaskSupervisor]]" = weakref.WeakSet()


def _at_exit() -> None:
    for supervisor in list(_supervisors):
        supervisor._users = 0
        supervisor.close()


def _after_fork() -> None:
    for supervisor in list(_supervisors):
        supervisor._begin_anew()


atexit.register(_at_exit)
os.register_at_fork(after_in_child=_after_fork)
