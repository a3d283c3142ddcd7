"""Receivers: they take messages, can be paused and stopped, and hand back what they did not handle."""

import threading
from collections.abc import Awaitable, Callable, Sequence
from contextvars import ContextVar
from functools import partial
from typing import Any, Final, NamedTuple, Protocol

from anyio import CancelScope, current_time, fail_after

from postresponse.core.log import first_time, logger
from postresponse.exceptions import AlreadyRunning, ConfigurationError, SupervisorClosed, WrongThread
from postresponse.messaging.delivery import Delivery, Result, Settled
from postresponse.messaging.judging import Judge
from postresponse.messaging.pump import Pump, State, Transport
from postresponse.messaging.retrying import Backoff, Breaker, chance
from postresponse.work import homes
from postresponse.work.checks import check_count, check_function, check_seconds, is_async, name_of
from postresponse.work.current import supervisor_given
from postresponse.work.job import Job
from postresponse.work.supervisor import TaskSupervisor
from postresponse.work.threads import on_thread

__all__ = ["Filter", "Next", "Receiver", "current_receiver"]

Next = Callable[[Delivery], Awaitable[None]]
RECONNECT: Final = Backoff(0.1, 5.0)


class _Handling(NamedTuple):
    """What is under way: whose it is, and the time that it has."""

    receiver: "Receiver"
    scope: CancelScope


_current: Final[ContextVar[_Handling | None]] = ContextVar("postresponse_receiver", default=None)


def current_receiver() -> "Receiver":
    """Return the receiver whose handler or filter this is.

    Raises:
        ConfigurationError: There is none.
    """
    handling = _current.get()
    if handling is None:
        raise ConfigurationError("there is no current receiver: call it in a handler, or in a filter")
    return handling.receiver


class Filter(Protocol):
    """What stands around the handler: it calls the next one, or says what becomes of the delivery."""

    async def __call__(self, delivery: Delivery, next: Next, /) -> None:
        """Handle *delivery*, mostly by `await next(delivery)`."""


class Receiver:
    """Takes the messages of one transport, and has each handled once at a time.

    A message is gone when its handler has returned. One that raises comes again, later each time, and behind its last
    attempt it is given up; one that raises `MessageRefused` at once. What was taken when the receiver is stopped and is
    not handled in time goes back to where it came from.

    It runs under its supervisor, from `start()` on, or with *autostart* from when that opens, as it does with the
    lifespan of an ASGI application; when it closes the receiver stops.

    Args:
        transport: Where the messages come from.
        handler: Receives a `Delivery`; sync functions run on threads. One that is late there cannot be stopped: its
            message comes again meanwhile.
        filters: What stands around it, the outermost first: `async def filter(delivery, next)`. A delivery that is
            neither handled nor dealt with (`mark_consumed()`) is given up, and the filter named that swallowed it.
        concurrency: How many are handled at once.
        timeout: Seconds that handling one may take, filters included, but for what they wait by `pausing()`.
        attempts: How often a message is tried.
        backoff: How long it waits in between, by default from 1 second to 5 minutes.
        unreachable: The errors that say that what the handler needs cannot be reached: they cost no attempt, and all
            messages wait.
        on_dead_letter: Receives each delivery that is given up, and why; sync or async.
        drain: Seconds that what is handled has when the receiver is stopped; less than the `grace` of its supervisor.
        autostart: Whether it starts when its supervisor opens.
        supervisor: Whose work it is; None for the process's.

    Raises:
        NotAFunction: The handler, a filter or *on_dead_letter* is none.
        ConfigurationError: A value that an option cannot have.
    """

    def __init__(
        self,
        transport: Transport,
        handler: Callable[[Delivery], Any],
        *,
        filters: Sequence[Filter] = (),
        concurrency: int = 8,
        timeout: float = 30.0,
        attempts: int = 10,
        backoff: Backoff | None = None,
        unreachable: tuple[type[BaseException], ...] = (),
        on_dead_letter: Callable[[Delivery, str], object] | None = None,
        drain: float = 5.0,
        autostart: bool = False,
        supervisor: TaskSupervisor | None = None,
    ) -> None:
        if not isinstance(transport, Transport):
            raise ConfigurationError(f"transport: expected one, such as a MemoryTransport(), found {transport!r}")
        check_function("Receiver()", handler)
        if on_dead_letter is not None:
            check_function("on_dead_letter", on_dead_letter)
        for option, number in (("concurrency", concurrency), ("attempts", attempts)):
            check_count(option, number)
        if backoff is not None and not isinstance(backoff, Backoff):
            raise ConfigurationError(f"backoff: expected a Backoff, found {backoff!r}")
        if not isinstance(unreachable, tuple) or not all(_is_error(each) for each in unreachable):
            raise ConfigurationError(f"unreachable: expected a tuple of classes of errors, found {unreachable!r}")
        if not isinstance(autostart, bool):
            raise ConfigurationError(f"autostart: expected True or False, found {autostart!r}")
        self.transport: Transport = transport
        self._handler = handler
        self._is_async = is_async(handler)
        self._filters = _checked_filters(filters)
        self._timeout = check_seconds("timeout", timeout)
        self._on_dead_letter = on_dead_letter
        self._drain = check_seconds("drain", drain, least=0.0)
        self._supervisor = supervisor_given(supervisor)
        self._judge = Judge(attempts, backoff or Backoff(), unreachable, chance)
        self._lock = threading.Lock()
        self._job: Job[Any] | None = None
        self._is_attached = self._is_wanted = autostart
        self._pump = Pump(
            transport,
            self._deliver,
            capacity=concurrency,
            batch=1,
            breaker=Breaker(Backoff(1.0, 30.0), current_time, chance),
            backoff=RECONNECT,
        )
        if autostart:
            self._supervisor.attach(self)

    # -- from any thread ----------------------------------------------------------------------------------------------

    @property
    def state(self) -> str:
        """Where it stands: not started, running, paused, stopping or stopped."""
        return self._pump.state.value

    @property
    def in_flight(self) -> int:
        """How many deliveries it has taken that are not dealt with."""
        return self._pump.in_flight

    def start(self) -> Job[None]:
        """Take messages from now on, under the supervisor; one that is paused does when it is resumed.

        On the event loop of the caller, or on the supervisor's own.

        Raises:
            AlreadyRunning: It runs.
            SupervisorClosed: The supervisor was closed.
        """
        with self._lock:
            if self._is_running:
                raise AlreadyRunning(
                    f"the receiver of {self.transport.name} runs already; one that handles more at once has more "
                    "concurrency="
                )
            self._pump.renew()
            self._job = self._supervisor.launch(self.run, name=f"the receiver of {self.transport.name}")
            self._is_wanted = True
            if not self._is_attached:
                self._is_attached = True
                self._supervisor.attach(self)
            return self._job

    @property
    def _is_running(self) -> bool:
        return self._job is not None and not self._job.done()

    def pause(self) -> None:
        """Take nothing more until `resume`: messages wait where they are, and publishing goes on.

        What is being handled is handled to its end. Logs a warning where it changes nothing.
        """
        self._told("pause()", changed=self._pump.pause())

    def resume(self) -> None:
        """Take messages again; logs a warning where it changes nothing."""
        self._told("resume()", changed=self._pump.resume())

    def _told(self, call: str, *, changed: bool) -> None:
        if not changed:
            logger.warning("the receiver of %s is %s: %s changes nothing", self.transport.name, self.state, call)

    def stop(self, timeout: float | None = None) -> None:
        """Take no new delivery, wait for those that are handled, and hand back what is left in *timeout* seconds.

        Called by its own handler it does not wait, as that would be for itself.

        Args:
            timeout: Seconds; None for the receiver's own, `drain`.

        Raises:
            WrongThread: Called on the thread of an event loop: await `astop()` there.
        """
        job = self._told_to_stop(timeout)
        if job is not None:
            if homes.here() is not None:
                raise WrongThread("stop() waits, and this is the thread of an event loop: await astop()")
            job.result()

    async def astop(self, timeout: float | None = None) -> None:
        """As `stop`, awaited."""
        job = self._told_to_stop(timeout)
        if job is not None:
            await job

    def _told_to_stop(self, timeout: float | None) -> Job[Any] | None:
        """Tell it to stop, and return what to wait for."""
        limit = self._drain if timeout is None else check_seconds("timeout", timeout, least=0.0)
        self._is_wanted = False
        job = self._job
        if job is None or job.done():
            self._told("stop()", changed=False)
            return None
        self._told("stop()", changed=self._pump.stop(limit))
        handling = _current.get()
        return None if handling is not None and handling.receiver is self else job

    # -- what its supervisor says -------------------------------------------------------------------------------------

    def opened(self) -> None:
        """Start, unless it runs, or was stopped by somebody else."""
        if self._is_wanted and not self._is_running:
            try:
                self.start()
            except (AlreadyRunning, SupervisorClosed) as error:
                logger.warning("the receiver of %s does not start: %s", self.transport.name, error)

    def closing(self) -> None:
        """End soon."""
        if self._is_running:
            self._pump.stop(self._drain)

    # -- running ------------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Take and handle messages until it is stopped."""
        _current.set(None)
        await self._pump.run()

    async def pausing(self, seconds: float) -> bool:
        """Wait, in a filter; True if that was cut short since the receiver is to pause or to stop.

        It is not counted as time that handling takes.

        Raises:
            ConfigurationError: Called elsewhere.
        """
        handling = _current.get()
        if handling is None or handling.receiver is not self:
            raise ConfigurationError("pausing() is for what this receiver runs: call it in a filter, or in a handler")
        began, scope = current_time(), handling.scope
        deadline = scope.deadline
        scope.deadline = deadline + seconds
        try:
            return await self._pump.sleep(seconds)
        finally:
            scope.deadline = deadline + current_time() - began

    @property
    def is_stopping(self) -> bool:
        """Whether it is to stop."""
        return self._pump.state is State.STOPPING

    async def _deliver(self, deliveries: Sequence[Delivery], settle: Callable[[Settled], None]) -> None:
        for delivery in deliveries:
            # What has an ending before anybody saw it is none of ours: its transport found that.
            error = None if delivery.ending is not None else await self._tried(delivery)
            if error is None and delivery.ending is not None:
                settled = Settled(delivery, delivery.ending, delivery.reason)
            else:
                settled = self._judge.settled(delivery, error)
            await self._tell(settled, error)
            settle(settled)

    async def _tried(self, delivery: Delivery) -> Exception | None:
        """Have *delivery* handled in its time; return what it failed with."""
        with CancelScope(deadline=current_time() + self._timeout) as scope:
            token = _current.set(_Handling(self, scope))
            try:
                await self._filtered(delivery)
            except Exception as failed:  # noqa: BLE001 (told of by the caller)
                return failed
            finally:
                _current.reset(token)
            return None
        return TimeoutError(f"it was not handled in {self._timeout:g} s")

    async def _filtered(self, delivery: Delivery) -> None:
        """Have *delivery* handled, or else its ending set."""
        filters, is_handled, swallower = self._filters, False, ""

        async def step(number: int, delivery: Delivery) -> None:
            nonlocal is_handled, swallower
            if number == len(filters):
                await self._handle(delivery)
                is_handled = True
                return
            await filters[number](delivery, partial(step, number + 1))
            if not is_handled and not swallower:
                swallower = name_of(filters[number])

        await step(0, delivery)
        if is_handled:
            delivery.ending = None
        elif delivery.ending is None:
            delivery.bury(f"the filter {swallower} neither handled it nor said what becomes of it")
        elif delivery.ending is Result.DEAD:
            delivery.bury(": ".join(filter(None, (f"the filter {swallower} gave it up", delivery.reason))))

    async def _handle(self, delivery: Delivery) -> None:
        if self._is_async:
            await self._handler(delivery)
        else:
            await on_thread(self._handler, delivery)

    async def _tell(self, settled: Settled, error: BaseException | None) -> None:
        name, delivery = self.transport.name, settled.delivery
        if settled.result is Result.FAILED:
            logger.warning("%s: %r failed, and comes again in %.1f s: %s", name, delivery, settled.delay, settled.error)
        elif settled.result is Result.BACK and error is not None and first_time(f"{name} {settled.error}"):
            logger.warning("%s: %r is left alone: %s", name, delivery, settled.error)
        elif settled.result is Result.DEAD:
            logger.error("%s: %r is given up: %s", name, delivery, settled.error, exc_info=error)
            if self._on_dead_letter is not None:
                await self._told_dead(self._on_dead_letter, delivery, settled.error)

    async def _told_dead(self, told: Callable[[Delivery, str], Any], delivery: Delivery, reason: str) -> None:
        try:
            with fail_after(self._timeout):
                if is_async(told):
                    await told(delivery, reason)
                else:
                    await on_thread(told, delivery, reason)
        except Exception as error:
            logger.error("on_dead_letter failed for %r", delivery, exc_info=error)


def _is_error(given: Any) -> bool:
    return isinstance(given, type) and issubclass(given, BaseException)


def _checked_filters(given: Any) -> tuple[Filter, ...]:
    if isinstance(given, str) or not isinstance(given, Sequence):
        raise ConfigurationError(f"filters: expected a list of async functions, found {given!r}")
    for each in given:
        check_function("filters", each)
        if not is_async(each):
            raise ConfigurationError(f"filters: expected async functions, found {each!r}")
    return tuple(given)
