"""The life cycle of a request where there is none: in a script, a management command, a worker of a task queue."""

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, AbstractContextManager, asynccontextmanager, contextmanager
from time import monotonic_ns, time
from types import TracebackType
from typing import Any

from postresponse.core.current import current
from postresponse.core.driven import DrivenExchange
from postresponse.core.ending import finish
from postresponse.core.exchange import Exchange
from postresponse.core.lifecycle import Event, Outcome, State
from postresponse.core.settings import Settings
from postresponse.core.settlement import begin_unit, made_unit, settle
from postresponse.exceptions import ConfigurationError, NoExchange
from postresponse.performing import perform
from postresponse.typing import AsyncUnitOfWork, UnitOfWork
from postresponse.work import homes
from postresponse.work.current import supervisor_given
from postresponse.work.stream import Stream
from postresponse.work.supervisor import TaskSupervisor

__all__ = ["Block", "Scope", "scope"]


class Scope(DrivenExchange):
    """The exchange of a block of code, and the owner of its streams.

    Attributes:
        name: How it is called in the log.
        streams: The streams that were made by it, by name.
    """

    def __init__(self, settings: Settings, name: str) -> None:
        super().__init__(settings, {"method": "with", "path": name}, monotonic_ns())
        home = homes.here()
        self._loop = None if home is None else home.loop
        self.name: str = name
        self.streams: dict[str, Stream[Any]] = {}

    def stream(
        self,
        name: str,
        /,
        *,
        maxsize: int = 10_000,
        batch_size: int | None = None,
        batch_wait: float = 0.0,
        idle_timeout: float | None = None,
        history: int = 3,
        **context: Any,
    ) -> Stream[Any]:
        """Make a `Stream` that belongs to this block: left while its producers are not done, it is closed.

        Its options are those of `Stream`.

        Raises:
            ConfigurationError: The block has a stream of this name, or an option has a value that it cannot have.
            NoExchange: The block is over.
        """
        if self._state is State.OVER:
            raise NoExchange(
                f"the scope {self.name!r} is over, and owns no stream any more: make it inside of its block"
            )
        made: Stream[Any] = Stream(
            name,
            maxsize=maxsize,
            batch_size=batch_size,
            batch_wait=batch_wait,
            idle_timeout=idle_timeout,
            history=history,
            **context,
        )
        if name in self.streams:
            raise ConfigurationError(f"stream: the scope {self.name!r} has a stream {name!r} already")
        self.streams[name] = made
        return made

    def _leave(self) -> None:
        for stream in self.streams.values():
            stream._left(f"the scope {self.name!r}")

    def _ended_well(self, event: Event) -> None:
        self._status = None
        if event is Event.REFUSED:
            raise self._refusal()
        self._body_sent = monotonic_ns()

    def _refusal(self) -> BaseException:
        assert self._failure is not None
        return self._failure.exception

    def _broken(self, error: BaseException) -> None:
        self._raised, self._exception = True, error

    def _clear(self) -> None:
        self._exception = self._failure = self._scope = None


class Block:
    """What `scope` returns: to be entered once, by `with` or by `async with`."""

    def __init__(self, name: str, options: dict[str, Any]) -> None:
        self._name = name
        self._options = options
        self._entered: AbstractContextManager[Scope] | AbstractAsyncContextManager[Scope] | None = None

    def _made(self, *, is_async: bool) -> Scope:
        settings = Settings.of(
            is_async=is_async,
            clock=monotonic_ns,
            wall_clock=time,
            commit=None,
            error_response=None,
            on_commit_failed=None,
            on_error=None,
            cleanup_timeout=5.0,
            **self._options,
        )
        return Scope(settings, self._name)

    def __enter__(self) -> Scope:
        self._entered = _entered(self._made(is_async=False))
        return self._entered.__enter__()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> bool | None:
        assert isinstance(self._entered, AbstractContextManager)
        return self._entered.__exit__(kind, error, traceback)

    async def __aenter__(self) -> Scope:
        self._entered = _aentered(self._made(is_async=True))
        return await self._entered.__aenter__()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> bool | None:
        assert isinstance(self._entered, AbstractAsyncContextManager)
        return await self._entered.__aexit__(kind, error, traceback)


def scope(
    name: str = "scope",
    *,
    unit_of_work: Callable[[Exchange], UnitOfWork | AsyncUnitOfWork] | None = None,
    on_finished: Callable[[Outcome], Any] | None = None,
    supervisor: TaskSupervisor | None = None,
) -> Block:
    """Give a block of code what a request has: an exchange, a unit of work, and work that starts when it is over.

    A block that ends well commits, and its `after_response` work starts; one that raises rolls back, and the error
    passes. With `async with` its unit of work may be async, and a sync one runs on threads, not on the event loop; with
    `with` it has to be sync, inside async code too. The streams that the block made are closed when it is left.

    Args:
        name: How it is called in the log.
        unit_of_work: As the middleware's; None has nothing to commit.
        on_finished: Receives the `Outcome`; with `async with` it may be async.
        supervisor: Carries the work; None for the one of this process.

    Raises:
        ConfigurationError: An option has a value that it cannot have.
        CommitRefused: What the commit raised passes, whatever it is.
    """
    given = supervisor_given(supervisor)
    return Block(name, {"unit_of_work": unit_of_work, "on_finished": on_finished, "supervisor": given})


@contextmanager
def _entered(exchange: Scope) -> Iterator[Scope]:
    token = current.set(exchange)
    try:
        if exchange._settings.unit_of_work is not None:
            made_unit(exchange)
            if perform(exchange, begin_unit(exchange)) is not None:
                raise exchange._refusal()
        try:
            yield exchange
        finally:
            exchange._leave()
        exchange._status = 200  # for the rules: a block that ended well
        exchange._ended_well(perform(exchange, settle(exchange)))
    except BaseException as error:
        exchange._broken(error)
        raise
    finally:
        exchange._state = State.OVER
        try:
            perform(exchange, finish(exchange))
        finally:
            current.reset(token)
            exchange._clear()


@asynccontextmanager
async def _aentered(exchange: Scope) -> AsyncIterator[Scope]:
    """As `_entered`, where what waits is awaited."""
    from postresponse.aperforming import perform

    token = current.set(exchange)
    try:
        if exchange._settings.unit_of_work is not None:
            made_unit(exchange)
            if await perform(exchange, begin_unit(exchange)) is not None:
                raise exchange._refusal()
        try:
            yield exchange
        finally:
            exchange._leave()
        exchange._status = 200
        exchange._ended_well(await perform(exchange, settle(exchange)))
    except BaseException as error:
        exchange._broken(error)
        raise
    finally:
        exchange._state = State.OVER
        try:
            await perform(exchange, finish(exchange))
        finally:
            current.reset(token)
            exchange._clear()
