"""The supervisor: it starts work, bounds it, reports what fails, and loses nothing without saying so."""

import functools
import inspect
import math
import threading
from collections.abc import Callable, Iterator, Sequence
from contextvars import Context, copy_context
from time import monotonic
from typing import Any, Final, Protocol

from postresponse.core.current import current, in_job
from postresponse.core.exchange import Exchange
from postresponse.core.log import logger
from postresponse.core.observer import Observer, observers_given
from postresponse.exceptions import ConfigurationError, SupervisorClosed, TooManyTasks, WrongThread
from postresponse.work import homes
from postresponse.work.captors import captors
from postresponse.work.checks import check_count, check_function, check_seconds, is_async, name_of
from postresponse.work.gate import Gate
from postresponse.work.job import Job, JobState
from postresponse.work.process import as_child_ends, begin_with, close_all
from postresponse.work.running import Running
from postresponse.work.threads import Strand, Threads

__all__ = ["Service", "TaskSupervisor"]

CLEAN_UP: Final = 1.0
"""Seconds that cancelled work has for its `finally` when the supervisor closes."""


class Service(Protocol):
    """What runs as long as a supervisor is open: a job that would never end by itself."""

    def opened(self) -> None:
        """Begin, unless it runs."""

    def closing(self) -> None:
        """End soon."""


class TaskSupervisor(Running):
    """Carries work that accompanies or outlives a response: each piece alone, in this process, best effort.

    Async functions run on the application's own event loop under ASGI, and on one loop of the supervisor's under WSGI
    and where there is none; sync functions run on threads, never on a loop. Nothing starts before the first piece of
    work, so a process may fork before that; a child begins with nothing.

    Args:
        name: What its threads are called.
        max_threads: Threads for sync functions, at most.
        grace: Seconds that running work has when the supervisor closes.
        on_error: Receives the job and what it raised, once for each that fails or is not done in time, on the thread
            that it ran on. Context variables are as in the job, here and for `on_dropped`.
        on_dropped: Receives each job that the end of the process or of its event loop took.
        observers: Are told of each job, besides those of the middleware whose request started it.

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
        observers: Sequence[Observer] = (),
    ) -> None:
        for option, callback in (("on_error", on_error), ("on_dropped", on_dropped)):
            if callback is not None:
                check_function(option, callback)
                if inspect.iscoroutinefunction(callback):
                    raise ConfigurationError(f"{option}: expected a plain function, found an async one: {callback!r}")
        self.name: str = name
        self._max_threads = check_count("max_threads", max_threads)
        self._grace = check_seconds("grace", grace, least=0.0)
        self._on_error = on_error
        self._on_dropped = on_dropped
        self._observers = observers_given(observers)
        self._gates: dict[str, Gate[Job[Any]]] = {}
        self._timeouts: dict[str, float | None] = {}
        self._users = 0
        self._services: list[Service] = []
        self._begin_anew()
        begin_with(self)

    def _begin_anew(self) -> None:
        """Be as new, in a process that has just begun."""
        self._lock = threading.Lock()
        self._threads = Threads(self._max_threads, self.name)
        self._own_loop = homes.OwnLoop(self.name)
        self._live: set[Job[Any]] = set()
        self._closed = self._used = False
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
        within: bool = False,
    ) -> Job[Any]:
        """Start it; *within* a piece of work that runs it may begin while that is waited for, behind the close too."""
        exchange = current.get()
        route = ""
        if exchange is not None:
            exchange._expect_work()  # of what is started now, which may register more
            route = exchange.route
        context = copy_context()
        return self._submit(exchange, fn, args, context, gate, timeout, name, route, reported=reported, within=within)

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
        within: bool = False,
    ) -> Job[Any]:
        if self._closed and not within:
            raise self._too_late(name or name_of(fn))
        job: Job[Any] = Job(self, fn, args, context, name or name_of(fn))
        job.route = route
        self._observe(job, exchange)
        if exchange is not None:
            context.run(in_job.set, True)
        if not reported:  # whoever started it waits for it, and takes what it raises
            job._reported = False
        elif captors and captors[-1].takes(job, exchange, timeout):
            return job
        if is_async(fn):
            job._home = self._home_of(exchange)
        elif exchange is None:
            job._origin = homes.here()
        self._live.add(job)
        if not self._used:
            self._used = True
            as_child_ends(close_all)
        starts = True
        if (
            self._closed and not within
        ):  # looked at behind that: whoever closes sees it, or it sees that it comes too late
            self._live.discard(job)
            raise self._too_late(job.name)
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

    def _too_late(self, name: str) -> SupervisorClosed:
        return SupervisorClosed(f"{name} comes too late: the supervisor {self.name!r} is closed")

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

    def _start_due(self, exchange: Exchange, work: tuple[Any, ...]) -> None:
        """Start what was registered for the end of its response."""
        fn, args, context, gate, timeout, name = work
        try:
            self._submit(exchange, fn, args, context, gate, timeout, name, exchange.route, in_order=True)
        except (TooManyTasks, SupervisorClosed) as error:
            job: Job[Any] = Job(self, fn, args, context, name or name_of(fn))
            job.route = exchange.route
            self._observe(job, exchange)
            self._drop(job, str(error))
            self._tell_observers(job)

    # -- closing ------------------------------------------------------------------------------------------------------

    def open(self) -> None:
        """Take work, again after a close; each `open` wants a `close` of its own, and only the last one closes."""
        with self._lock:
            self._users += 1
            self._closed = False
        for service in self._services:
            service.opened()

    def attach(self, service: Service) -> None:
        """Have *service* begin whenever this opens, and end before what runs is waited for."""
        self._services.append(service)

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
        for service in self._services:
            service.closing()
        with self._lock:
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
