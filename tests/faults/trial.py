"""One request under a plan, on one of three sides, and all that was seen of it."""

import asyncio
import contextlib
import io
import logging
import threading
from collections.abc import Awaitable, Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, Final

import anyio
import trio
from anyio.lowlevel import checkpoint

from postresponse import CommitPolicy, Outcome, Retry
from postresponse.asgi import PostResponseMiddleware as ASGIMiddleware
from postresponse.error_response import ErrorResponse
from postresponse.wsgi import PostResponseMiddleware as WSGIMiddleware
from tests.fakes import StrictASGIServer, StrictWSGIServer
from tests.faults.plan import Plan
from tests.faults.shapes import REQUEST, Shape, asgi_application, wsgi_application
from tests.faults.worlds import World

__all__ = ["SIDES", "Case", "Trial", "run_all"]

SIDES: Final = ("wsgi", "asyncio", "trio")
LOGGERS: Final = ("postresponse", "sqlalchemy.pool")


@dataclass(frozen=True, slots=True)
class Case:
    """What a request runs in.

    Attributes:
        at: When the commit runs, or `observe`.
        side: The protocol, and under ASGI the event loop.
        world: The name of the world's class.
        shape: The request.
        retry: Whether the policy runs it again.
    """

    at: str
    side: str
    world: str
    shape: Shape
    retry: bool = False

    @property
    def mode(self) -> str:
        """The policy, in a word."""
        return f"{self.at}+retry" if self.retry else self.at

    def __str__(self) -> str:
        return f"{self.mode}-{self.side}-{self.world}-{self.shape.name}"


@dataclass
class Trial:
    """One request, and what was seen of it from all sides.

    Attributes:
        order: The number of the order that it stores.
        server: The strict server, once it runs.
        raised: What reached the server.
        hooks: Each hook that ran: attempt, name and place in the order of registration.
        told: Each option that was called.
        logged: The level of each record, and whether it came with a traceback.
        tasks: What of the loop still runs at the end.
        registered: The last attempt that registered its hooks.
        bodies: How many bodies the application made that have to be closed.
        closes: How often one was closed.
    """

    case: Case
    world: World
    plan: Plan
    order: int
    server: Any = None
    raised: BaseException | None = None
    outcomes: list[Outcome] = field(default_factory=list)
    exchanges: list[Any] = field(default_factory=list)
    hooks: list[tuple[int, str, int]] = field(default_factory=list)
    told: list[str] = field(default_factory=list)
    logged: list[tuple[int, bool]] = field(default_factory=list)
    tasks: list[str] = field(default_factory=list)
    registered: int = 0
    bodies: int = 0
    closes: int = 0

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """Run the request inside; what is raised is kept, and goes no further."""
        self.world.plan = self.plan
        with _listening(self.logged):
            try:
                yield
            except BaseException as error:
                self.raised = error
                # trio's cancellation is for its scope, and asyncio's says that the loop is about to end.
                if isinstance(error, trio.Cancelled | asyncio.CancelledError) or self._is_of_the_user(error):
                    raise
            finally:
                self.plan.over = True
                for raised in (self.raised, *(fired.error for fired in self.plan.fired)):
                    _let_go(raised)

    def _is_of_the_user(self, error: BaseException) -> bool:
        return isinstance(error, KeyboardInterrupt) and all(fired.error is not error for fired in self.plan.fired)

    def enter(self, exchange: Any) -> None:
        """Remember the exchange of an attempt."""
        if exchange not in self.exchanges:
            self.exchanges.append(exchange)

    def step(self, name: str) -> None:
        """Do nothing, as the application: this is where it can fail."""
        with self.plan.handling():
            self.plan.around(f"app.{name}", lambda: None)

    # -- what the client has

    @property
    def status(self) -> int | None:
        """The status that the client got; None if no head reached it."""
        if self.case.side == "wsgi":
            return self.server.code if self.server.head_left else None
        return self.server.status  # type: ignore[no-any-return]

    @property
    def whole(self) -> bool:
        """Whether the server took the response to its end."""
        return bool(self.server.ended if self.case.side == "wsgi" else self.server.complete)

    @property
    def replaced(self) -> bool:
        """Whether the client got an error response in the place of the application's."""
        names = [name for name, _ in self.server.headers]
        return self.status is not None and "set-cookie" not in names and b"set-cookie" not in names

    @property
    def told_unknown(self) -> bool:
        """Whether it was told that nobody knows, in the words of the default or in those of the trial's own."""
        return self.replaced and (b"unknown" in self.server.body or b"nobody knows" in self.server.body)

    @property
    def client(self) -> str:
        """What the client has, in a few words for the table."""
        if self.status is None:
            return "nothing"
        if self.told_unknown:
            return "unknown"
        kind = f"{self.status // 100}xx" if self.status < 500 else str(self.status)
        return kind if self.whole else f"{kind} cut"

    # -- the middleware

    @property
    def options(self) -> dict[str, Any]:
        """The options of the middleware, each of which can fail."""
        options: dict[str, Any] = {
            "on_finished": self._option("on_finished", self.outcomes.append),
            "on_error": self._option("on_error", lambda failure: None),
            "error_response": self._option("error_response", _error_response),
            "on_commit_failed": self._option("on_commit_failed", lambda failure: None),
        }
        if self.case.at != "observe":
            at: Any = self.case.at
            options["unit_of_work"] = self._made
            retry = Retry(attempts=3, backoff=0) if self.case.retry else None
            options["commit"] = CommitPolicy(at=at, commit_if=self._option("commit_if", _below_400), retry=retry)
        return options

    def _made(self, exchange: Any) -> Any:
        self.enter(exchange)
        self.plan.begin_attempt()
        return self.world.unit_of_work(exchange)

    def _option(self, name: str, do: Callable[[Any], Any]) -> Callable[[Any], Any]:
        def option(given: Any) -> Any:
            self.told.append(name)
            return self.plan.around(f"option.{name}", lambda: do(given))

        return option


def _below_400(head: Any) -> bool:
    return bool(head.status < 400)


def _error_response(failure: Any) -> ErrorResponse:
    body = b"nobody knows" if failure.unknown else b"refused"
    return ErrorResponse(failure.status, (("content-type", "text/plain"),), body)


def _let_go(error: BaseException | None) -> None:
    """Drop the tracebacks of *error* and of those behind it, as a server does that has logged it.

    They hold the frames, and those hold cursors: SQLite keeps its lock for one with rows left to read.
    """
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        error.__traceback__ = None
        error = error.__cause__ or error.__context__


@contextlib.contextmanager
def _listening(logged: list[tuple[int, bool]]) -> Iterator[None]:
    """Keep what is logged, and let nobody else see it: failures are made by the thousand."""
    handler = logging.Handler()
    handler.emit = lambda record: logged.append((record.levelno, bool(record.exc_info)))  # type: ignore[method-assign]
    loggers = [logging.getLogger(name) for name in LOGGERS]
    for logger in loggers:
        logger.addHandler(handler)
        logger.propagate = False
    try:
        yield
    finally:
        for logger in loggers:
            logger.removeHandler(handler)
            logger.propagate = True


# -- the servers ------------------------------------------------------------------------------------------------------


class FaultyWSGIServer(StrictWSGIServer):
    """A strict server whose own calls can fail; it closes the body all the same, as PEP 3333 says."""

    plan: Plan

    @property
    def environ(self) -> dict[str, Any]:
        body = b"".join(REQUEST)
        return {**super().environ, "wsgi.input": io.BytesIO(body), "CONTENT_LENGTH": str(len(body))}

    def start_response(self, *args: Any) -> Any:
        return self.plan.around("server.start_response", lambda: StrictWSGIServer.start_response(self, *args))

    def _write(self, data: bytes) -> None:
        self.plan.around("server.write", lambda: StrictWSGIServer._write(self, data))

    def _chunks(self, result: Any) -> Iterator[bytes]:
        return _Asked(self.plan, super()._chunks(result))

    def _normal(self, result: Any, close: Callable[[], object]) -> None:
        super()._normal(result, lambda: self.plan.around("server.close", close))

    _early = _normal


class _Asked:
    """The chunks that a server asks for, by a call each."""

    def __init__(self, plan: Plan, chunks: Iterator[bytes]) -> None:
        self._plan = plan
        self._chunks = chunks

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        return self._plan.around("server.next", self._chunks.__next__)


class FaultyASGIServer(StrictASGIServer):
    """A strict server whose own calls can fail."""

    plan: Plan

    async def receive(self) -> dict[str, Any]:
        return await self.plan.around_async("server.receive", super().receive)  # type: ignore[no-any-return]

    async def send(self, message: Any) -> None:
        await self.plan.around_async("server.send", lambda: StrictASGIServer.send(self, message))


# -- running ----------------------------------------------------------------------------------------------------------


def run_all(side: str, trials: Iterable[Trial]) -> None:
    """Run each of *trials* on *side* before the next is asked for, so that a generator can look at it in between."""
    waiting = iter(trials)
    if side == "wsgi":
        for trial in waiting:
            _run_wsgi(trial)
        return
    current: Trial | None = None

    async def run_the_rest() -> None:
        nonlocal current
        for current in waiting:
            await _RUN[side](current)
        current = None

    while True:
        try:
            anyio.run(run_the_rest, backend=side)
        except SystemExit as error:
            assert current is not None
            current.raised = error  # it went past everybody and ended asyncio's loop; the rest runs on a new one
        if current is None:
            break


def _run_wsgi(trial: Trial) -> None:
    if trial.case.shape.cold:
        with contextlib.suppress(StopIteration):
            trial.world.chill().send(None)
    trial.server = server = FaultyWSGIServer(method="POST", closing="early" if trial.case.shape.leaves else "normal")
    server.plan = trial.plan
    with trial.running():
        server.run(WSGIMiddleware(wsgi_application(trial), **trial.options))
        trial.raised = server.raised


async def _run_on_asyncio(trial: Trial) -> None:
    server, request = await _asgi(trial)
    loop, before = asyncio.get_running_loop(), asyncio.all_tasks()

    async def served() -> None:
        try:
            await request()
        except SystemExit as error:
            trial.raised = error  # out of a task it would end the loop

    with trial.running():
        task = loop.create_task(served())
        trial.plan.cancel = _threadsafe(task.cancel, _on_asyncio(loop))
        trial.plan.leave = _threadsafe(server.leave, _on_asyncio(loop))
        await asyncio.wait((task,))
        trial.raised = trial.raised or (asyncio.CancelledError() if task.cancelled() else task.exception())
    if left := asyncio.all_tasks() - before:  # what was cancelled, or waits for a connection's thread, is about to end
        _, pending = await asyncio.wait(left, timeout=1)
        # SQLAlchemy leaves its own behind where the close of an aiosqlite connection is cancelled.
        trial.tasks = [repr(task) for task in pending if "_terminate_graceful_close" not in repr(task)]


async def _run_on_trio(trial: Trial) -> None:
    server, request = await _asgi(trial)
    token, before = trio.lowlevel.current_trio_token(), trio.lowlevel.current_statistics().tasks_living

    def submit(call: Callable[[], object]) -> None:
        trio.from_thread.run_sync(call, trio_token=token)

    with anyio.CancelScope() as scope, trial.running():
        trial.plan.cancel = _threadsafe(scope.cancel, submit)
        trial.plan.leave = _threadsafe(server.leave, submit)
        await request()

    for _ in range(20):  # what was cancelled needs some turns to end
        if trio.lowlevel.current_statistics().tasks_living > before:
            await checkpoint()
    if (left := trio.lowlevel.current_statistics().tasks_living - before) > 0:
        trial.tasks = [f"{left} tasks"]


async def _asgi(trial: Trial) -> tuple[FaultyASGIServer, Callable[[], Any]]:
    leaves = trial.case.shape.leaves
    if trial.case.shape.cold:
        await trial.world.chill()
    trial.server = server = FaultyASGIServer("POST", body=REQUEST, leaves_at=2 if leaves else None, tells=leaves)
    server.plan = trial.plan
    wrapped = ASGIMiddleware(asgi_application(trial), **trial.options)
    return server, lambda: server.run(wrapped)


def _on_asyncio(loop: asyncio.AbstractEventLoop) -> Callable[[Callable[[], object]], None]:
    def submit(call: Callable[[], object]) -> None:
        done = threading.Event()
        loop.call_soon_threadsafe(call)
        loop.call_soon_threadsafe(done.set)
        done.wait()

    return submit


def _threadsafe(call: Callable[[], object], submit: Callable[[Callable[[], object]], None]) -> Callable[[], object]:
    """Make *call* on the loop from any thread, and return when it was made."""
    thread = threading.get_ident()
    return lambda: call() if threading.get_ident() == thread else submit(call)


_RUN: Final[dict[str, Callable[[Trial], Awaitable[None]]]] = {"asyncio": _run_on_asyncio, "trio": _run_on_trio}
